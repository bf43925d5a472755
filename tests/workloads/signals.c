// flags: -O2 -fomit-frame-pointer
// signals CASE: a timer's signal, whose handler burns, over functions so short that it often meets their first and last
// instructions.
//   plain     on the stack that was interrupted
//   apart     on a stack of its own, lower than the interrupted one
//   higher    the same in a thread, whose stack is lower than the handler's
//   nested    a second handler over the first
#include "work.h"
#include <pthread.h>
#include <sys/mman.h>

#define STACK_BYTES (256 * 1024)

NOINLINE long burn(void) {
    burn_inline(UNIT * (40 + dice(40)));
    return 1;
}

NOINLINE long leaf(long iterations) {
    burn_inline(iterations);
    return iterations;
}

// All six callee-saved registers hold numbers: as many instructions at which the frame is half made.
NOINLINE long step(long iterations) {
    long a = kept(1), b = kept(2), c = kept(3), d = kept(4), e = kept(5);
    return kept(leaf(iterations)) + a * b * c * d * e * iterations;
}

NOINLINE void run(void) { FOR_EVER(kept(step(dice(8)))) }

NOINLINE void handle(int signal) { kept(burn() + signal); }

NOINLINE void handle_first(int signal) {
    system_call(SYS_tgkill, getpid(), system_call(SYS_gettid, 0, 0, 0), SIGUSR2);
    kept(burn() + signal);
}

static void install(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void start_timer(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    // Handlers take 0.3 to 0.7 ms.
    struct itimerspec times = {.it_interval.tv_nsec = 1370000, .it_value.tv_nsec = 1370000};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &times, NULL);
}

static void *stack;

static void use_stack(void) {
    stack_t own = {.ss_sp = stack, .ss_size = STACK_BYTES};
    sigaltstack(&own, NULL);
    install(SIGPROF, handle, SA_ONSTACK);
    start_timer();
}

void *thread(void *unused) {
    // New mappings are placed below those there are.
    if ((void *)&unused > stack)
        exit(3);
    use_stack();
    run();
    return unused;
}

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "plain";
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (strcmp(name, "higher") == 0) {
        pthread_t id;
        sigset_t timer;
        sigemptyset(&timer);
        sigaddset(&timer, SIGPROF);
        pthread_create(&id, NULL, thread, NULL);
        pthread_sigmask(SIG_BLOCK, &timer, NULL);
        pthread_join(id, NULL);
    } else if (strcmp(name, "apart") == 0) {
        use_stack();
    } else if (strcmp(name, "nested") == 0) {
        install(SIGUSR2, handle, 0);
        install(SIGPROF, handle_first, 0);
        start_timer();
    } else {
        install(SIGPROF, handle, 0);
        start_timer();
    }
    run();
    return 2;
}
