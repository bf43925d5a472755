// flags: -O0 -fno-omit-frame-pointer
// rename CPU_MS: one thread that works as long as asked under its first name, then as long under a second one.
#include "work.h"

NOINLINE void burn(long iterations) { burn_inline(iterations); }

NOINLINE void phase(const char *name, long until_ns) {
    prctl(PR_SET_NAME, name);
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until_ns)
        burn(UNIT);
}

int main(int argc, char **argv) {
    long phase_ns = argc > 1 ? atol(argv[1]) * 1000000 : 0;
    end_some_day();
    phase("phase-one", phase_ns);
    phase("phase-two", 2 * phase_ns);
    return 0;
}
