// flags: -O0 -fno-omit-frame-pointer
// CPU time in the ratio 70 : 20 : 10 by construction: one and the same loop, called so often by three functions, in an
// order without a rhythm.
// Every function keeps a frame, the leaf included (-O0).
//
// shares [CPU_MS [exit STATUS | signal NUMBER]]: runs for that much CPU time (0 or nothing: until killed), then prints
// how many nanoseconds of CPU the process has used.
#include "work.h"

#ifdef SEPARATE_LOOPS
// For code without frame pointers, where only the leaf is certain: each function has a loop of its own.
#define WORK burn_inline
#else
#define WORK burn
NOINLINE void burn(long iterations) { burn_inline(iterations); }
#endif

NOINLINE void seventy(void) { WORK(UNIT); }

NOINLINE void twenty(void) { WORK(UNIT); }

NOINLINE void ten(void) { WORK(UNIT); }

NOINLINE void run(long limit_ns) {
    do {
        for (int i = 0; i < 10; i++) {
            unsigned side = dice(10);
            if (side < 7)
                seventy();
            else if (side < 9)
                twenty();
            else
                ten();
        }
    } while (limit_ns == 0 || clock_ns(CLOCK_PROCESS_CPUTIME_ID) < limit_ns);
}

int main(int argc, char **argv) {
    end_some_day();
    run(argc > 1 ? atol(argv[1]) * 1000000 : 0);
    printf("cpu_ns %ld\n", clock_ns(CLOCK_PROCESS_CPUTIME_ID));
    fflush(stdout);
    if (argc > 3 && strcmp(argv[2], "signal") == 0)
        raise(atoi(argv[3]));
    return argc > 3 ? atoi(argv[3]) : 0;
}
