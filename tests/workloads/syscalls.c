// flags: -O0 -fno-omit-frame-pointer
// CPU time inside two system calls, 60 : 40 by its own clock. The system call instruction stands in the function
// itself: through the C library's wrapper, which has no frame, a walk by frame pointers would miss that function.
#include "work.h"

static char buffer[2 * 1024 * 1024];

NOINLINE void read_zeros(int fd) { system_call(SYS_read, fd, (long)buffer, sizeof buffer); }

NOINLINE void fill_random(void) { system_call(SYS_getrandom, (long)buffer, sizeof buffer / 32, 0); }

NOINLINE void run(int fd) {
    for (long until_ns = 0;;) {
        long share_ns = 500000 + dice(2000000);
        for (until_ns += 6 * share_ns; clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until_ns;)
            read_zeros(fd);
        for (until_ns += 4 * share_ns; clock_ns(CLOCK_PROCESS_CPUTIME_ID) < until_ns;)
            fill_random();
    }
}

int main(void) {
    end_some_day();
    run(open("/dev/zero", O_RDONLY));
    return 1;
}
