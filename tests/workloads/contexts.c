// flags: -O2 -fomit-frame-pointer
// contexts CASE: stacks that a program makes for itself.
//   coroutine  makecontext and swapcontext: the stack ends where the coroutine was entered
//   lower      a call on another stack, lower than the one it comes from
//   higher     the same from a thread, whose stack is lower
#include "work.h"
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#define STACK_BYTES (256 * 1024)

static char *stack;
static ucontext_t caller, coroutine;

NOINLINE long burn(void) {
    burn_inline(UNIT);
    return 1;
}

NOINLINE void generate(void) {
    for (;;) {
        kept(burn());
        swapcontext(&coroutine, &caller);
    }
}

NOINLINE void run_coroutine(void) {
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = STACK_BYTES;
    coroutine.uc_link = &caller;
    makecontext(&coroutine, generate, 0);
    for (;;) {
        kept(burn());
        swapcontext(&caller, &coroutine);
    }
}

// Calls `function` with the stack pointer at `top`; rbp leads back.
long call_on(char *top, long (*function)(void));
__asm__(".text\n"
        ".type call_on, @function\n"
        "call_on:\n"
        ".cfi_startproc\n"
        "push %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset rbp, -16\n"
        "mov %rsp, %rbp\n"
        ".cfi_def_cfa_register rbp\n"
        "mov %rdi, %rsp\n"
        "call *%rsi\n"
        "mov %rbp, %rsp\n"
        "pop %rbp\n"
        ".cfi_def_cfa rsp, 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size call_on, . - call_on\n");

NOINLINE long elsewhere(void) { return kept(burn()); }

NOINLINE void run_switch(void) { FOR_EVER(kept(call_on(stack + STACK_BYTES, elsewhere))) }

void *thread(void *unused) {
    // New mappings are placed below those there are.
    if ((char *)&unused > stack)
        exit(3);
    run_switch();
    return unused;
}

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "coroutine";
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (strcmp(name, "coroutine") == 0)
        run_coroutine();
    else if (strcmp(name, "lower") == 0)
        run_switch();
    else if (strcmp(name, "higher") == 0) {
        pthread_t id;
        pthread_create(&id, NULL, thread, NULL);
        pthread_join(id, NULL);
    }
    return 2;
}
