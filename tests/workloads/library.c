// flags: -O2 -fomit-frame-pointer
// library CASE: work inside the C library, which comes optimised, partly in assembly, and calls back.
//   sort      qsort, whose comparison burns
//   print     printf into a buffer
//   allocate  malloc and free
//   copy      memcpy, strlen, memchr: leaves in assembly, chosen for the CPU when the program starts
//   clock     clock_gettime, by the code that the kernel maps into every process
#include "work.h"

NOINLINE long burn(void) {
    burn_inline(UNIT / 16);
    return 1;
}

NOINLINE int compare(const void *left, const void *right) {
    long burnt = kept(burn());
    return (*(const int *)left > *(const int *)right) - (*(const int *)left < *(const int *)right) + (burnt == 0);
}

NOINLINE long sort(void) {
    int numbers[100];
    for (int i = 0; i < 100; i++)
        numbers[i] = dice(1000);
    qsort(numbers, 100, sizeof numbers[0], compare);
    return kept(numbers[0]);
}

NOINLINE long print(void) {
    char text[400];
    return kept(snprintf(text, sizeof text, "%d %s %#lx %-20s %5c", dice(1000), "word", kept(7), "left", 65));
}

NOINLINE long allocate(void) {
    static void *blocks[64];
    unsigned which = dice(64);
    free(blocks[which]);
    blocks[which] = malloc(8 + dice(dice(8) ? 200 : 200000));
    return kept(1);
}

NOINLINE long copy(void) {
    static char from[1 << 14], to[1 << 14];
    size_t length = 4096 + dice(12000);
    memset(from, 'x', length);
    from[length] = 0;
    memcpy(to, from, length + 1);
    return kept(strlen(to)) + (memchr(to, 'y', length) != NULL) + kept(strcmp(to, from));
}

NOINLINE long ask_time(void) { return kept(clock_ns(dice(2) ? CLOCK_MONOTONIC : CLOCK_REALTIME)); }

NOINLINE void run_sort(void) { FOR_EVER(kept(sort())) }
NOINLINE void run_print(void) { FOR_EVER(kept(print())) }
NOINLINE void run_allocate(void) { FOR_EVER(kept(allocate())) }
NOINLINE void run_copy(void) { FOR_EVER(kept(copy())) }
NOINLINE void run_ask_time(void) { FOR_EVER(kept(ask_time())) }

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "sort";
    if (strcmp(name, "sort") == 0)
        run_sort();
    else if (strcmp(name, "print") == 0)
        run_print();
    else if (strcmp(name, "allocate") == 0)
        run_allocate();
    else if (strcmp(name, "copy") == 0)
        run_copy();
    else if (strcmp(name, "clock") == 0)
        run_ask_time();
    return 2;
}
