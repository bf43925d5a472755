// flags: -O2 -fomit-frame-pointer -mforce-drap
// aligned CASE: frames whose stack pointer was aligned to more than the 16 bytes that it comes with. The compiler keeps
// the way back to the caller in a register of its own (gcc's "drap": r10, or r13 where the function ends in a jump).
//   fixed     locals of a size known when compiled
//   sized     of a size known at run time
//   jumper    a jump at the end
//   variadic  arguments on the stack
#include "work.h"
#include <alloca.h>
#include <stdarg.h>

NOINLINE long burn(void) {
    burn_inline(UNIT);
    return 1;
}

NOINLINE long fixed(long a) {
    _Alignas(64) char local[128];
    USE(local);
    burn_inline(UNIT / 4);
    return kept(burn()) + local[a & 127];
}

NOINLINE long sized(long bytes) {
    _Alignas(64) char local[128];
    char *more = alloca(bytes);
    USE(local);
    USE(more);
    burn_inline(UNIT / 4);
    return kept(burn()) + local[0] + more[0];
}

// Needs its arguments on the stack (the seventh and on) to the end, where it jumps.
NOINLINE long jumper(long a, long b, long c, long d, long e, long f, long g) {
    _Alignas(64) volatile long local[16];
    local[a & 15] = g;
    burn_inline(UNIT / 4);
    local[b & 15] += kept(burn()) + c + d + e + f;
    return sized(local[a & 15] + g);
}

NOINLINE long variadic(long count, ...) {
    _Alignas(64) long local[16];
    va_list arguments;
    va_start(arguments, count);
    for (long i = 0; i < count; i++)
        local[i & 15] = va_arg(arguments, long);
    va_end(arguments);
    USE(local);
    burn_inline(UNIT / 4);
    return kept(burn()) + local[0];
}

NOINLINE void run_fixed(void) { FOR_EVER(kept(fixed(dice(100)))) }
NOINLINE void run_sized(void) { FOR_EVER(kept(sized(dice(1000)))) }
NOINLINE void run_jumper(void) { FOR_EVER(kept(jumper(1, 2, 3, 4, 5, 6, dice(1000)))) }
NOINLINE void run_variadic(void) { FOR_EVER(kept(variadic(9, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L))) }

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "fixed";
    if (strcmp(name, "fixed") == 0)
        run_fixed();
    else if (strcmp(name, "sized") == 0)
        run_sized();
    else if (strcmp(name, "jumper") == 0)
        run_jumper();
    else if (strcmp(name, "variadic") == 0)
        run_variadic();
    return 2;
}
