// flags: -O2 -fomit-frame-pointer
// made CASE: code in memory that was made executable at run time, called by code without frame pointers.
//   copied      a piece of the program's own file, mapped once more and made executable by mprotect
//   framed      machine code whose functions keep frame pointers
//   bare        machine code that says nothing of its frames, while rbp holds a number
//   misleading  the same while rbp points to data on the stack
//   trampoline  the calls of CPython's -X perf, from one function to the next
#include "work.h"
#include <link.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096UL
#define ARENA_BYTES (16 * PAGE_BYTES)

typedef long (*Function)(long);
typedef long (*Trampoline)(long depth, long unused, long unused_too, Function function);

static unsigned char *arena;

static void fill(const unsigned char *code, size_t length, size_t stride) {
    arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; at + stride <= ARENA_BYTES; at += stride)
        memcpy(arena + at, code, length);
    mprotect(arena, ARENA_BYTES, PROT_READ | PROT_EXEC);
}

NOINLINE long burn(long units) {
    burn_inline(units);
    return 1;
}

// The program's text is one segment: calls within it lead to the same functions of the copy.
NOINLINE long copied(long units) { return kept(burn(units)); }

NOINLINE void run_copied(Function function) { FOR_EVER(kept(function(UNIT))) }

static int find_text(struct dl_phdr_info *info, size_t size, void *text) {
    for (int i = 0; i < info->dlpi_phnum && size; i++)
        if (info->dlpi_phdr[i].p_flags & PF_X)
            *(ElfW(Phdr) *)text = info->dlpi_phdr[i];
    // The first object is the program.
    *(unsigned long *)&((ElfW(Phdr) *)text)->p_vaddr += info->dlpi_addr;
    return 1;
}

static Function map_copy(void) {
    ElfW(Phdr) text;
    dl_iterate_phdr(find_text, &text);
    char *copy = mmap(NULL, text.p_filesz, PROT_READ, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY), text.p_offset);
    mprotect(copy, text.p_filesz, PROT_READ | PROT_EXEC);
    return (Function)(copy + ((unsigned long)copied - text.p_vaddr));
}

// outer: push rbp; mov rbp, rsp; call inner; pop rbp; ret
// inner: push rbp; mov rbp, rsp; sub rsp, 32; 1: dec rdi; jnz 1b; mov rsp, rbp; pop rbp; ret
static const unsigned char framed[] = {
    0x55, 0x48, 0x89, 0xe5, 0xe8, 0x02, 0, 0, 0, 0x5d, 0xc3,
    0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0x48, 0x89, 0xec, 0x5d, 0xc3};

// push rbp; sub rsp, 24; mov rbp, rsi; mov [rsp], rsp; mov [rsp+8], rsi; 1: dec rdi; jnz 1b; add rsp, 24; pop rbp; ret
static const unsigned char bare[] = {
    0x55, 0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0xf5, 0x48, 0x89, 0x24, 0x24, 0x48, 0x89, 0x74, 0x24, 0x08,
    0x48, 0xff, 0xcf, 0x75, 0xfb, 0x48, 0x83, 0xc4, 0x18, 0x5d, 0xc3};

NOINLINE void run_framed(long units) { FOR_EVER(kept(((Function)arena)(units))) }

NOINLINE void run_bare(long fixed_rbp) {
    // Two words that look like a frame whose caller is data, and the next frame a bit up.
    volatile unsigned long words[4] = {(unsigned long)(words + 2), (unsigned long)words, 0, 0};
    FOR_EVER(kept(((long (*)(long, long))arena)(UNIT, fixed_rbp ? fixed_rbp : (long)words)))
}

// sub rsp, 8; call rcx; add rsp, 8; ret
static const unsigned char trampoline[] = {0x48, 0x83, 0xec, 0x08, 0xff, 0xd1, 0x48, 0x83, 0xc4, 0x08, 0xc3};

NOINLINE long evaluate(long depth) {
    if (depth == 0)
        return kept(burn(UNIT));
    Trampoline next = (Trampoline)(arena + 16 * dice(ARENA_BYTES / 16));
    return kept(next(depth - 1, 0, 0, evaluate));
}

NOINLINE void run_trampoline(void) { FOR_EVER(kept(evaluate(5))) }

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "copied";
    if (strcmp(name, "copied") == 0)
        run_copied(map_copy());
    if (strcmp(name, "framed") == 0) {
        fill(framed, sizeof framed, 64);
        run_framed(UNIT);
    } else if (strcmp(name, "bare") == 0) {
        fill(bare, sizeof bare, 64);
        run_bare(0x1234);
    } else if (strcmp(name, "misleading") == 0) {
        fill(bare, sizeof bare, 64);
        run_bare(0);
    } else if (strcmp(name, "trampoline") == 0) {
        fill(trampoline, sizeof trampoline, 16);
        run_trampoline();
    }
    return 2;
}
