// What the C workloads share: work of a known length, clocks, and an end in any case.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))
#define INLINE static inline __attribute__((always_inline))

// Iterations of one unit of work: some tens of microseconds, far below the time between two samples.
#ifndef UNIT
#define UNIT 20000
#endif

INLINE void burn_inline(long iterations) {
    for (long i = 0; i < iterations; i++)
        __asm__ volatile("" : "+r"(i));
}

// Passes a number on by an instruction of its own: as the last thing in a function, it keeps a call from becoming a jump.
INLINE long kept(long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

// Uses what lies at an address, so that it is kept there.
#define USE(address) __asm__ volatile("" : : "r"(address) : "memory")

#define FOR_EVER(work) \
    for (long sum = 0;;) { \
        sum += work; \
        USE(&sum); \
    }

// The next of a fixed sequence of numbers that look random (PCG's multiplier and increment). Work whose order is
// regular would run in step with the sampling, which then meets the same part of it again and again.
INLINE unsigned dice(unsigned sides) {
    static unsigned long state = 1;
    state = state * 6364136223846793005UL + 1442695040888963407UL;
    return (state >> 33) % sides;
}

// By an instruction of its own, where the C library's wrapper would be in the way.
INLINE long system_call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

INLINE long clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

// A workload whose test has died must not burn for ever. Forked children have to ask anew.
INLINE void end_some_day(void) { alarm(120); }

INLINE void say(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
}

// Blocks SIGUSR1, so that one sent before it is waited for is not lost.
INLINE void expect_go(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

INLINE void wait_for_go(void) {
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &signal);
}
