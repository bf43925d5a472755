// flags: -O0 -fno-omit-frame-pointer
// exec_self CPU_MS PROGRAM [ARGUMENT...]: works, then becomes PROGRAM in place, with the same pid.
#include "work.h"

NOINLINE void before_exec(long until_ns) {
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until_ns)
        burn_inline(UNIT);
}

int main(int argc, char **argv) {
    end_some_day();
    if (argc < 3)
        return 2;
    before_exec(atol(argv[1]) * 1000000);
    execv(argv[2], argv + 2);
    return 1;
}
