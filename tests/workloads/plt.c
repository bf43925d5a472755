// flags: -O2 -fomit-frame-pointer -fno-builtin -Wl,-z,lazy
// plt CASE: calls of tiny library functions, so that much of the time passes in the stubs that lead there.
//   bound     stubs that jump on at once
//   resolved  stubs whose target is looked up at each call
#include "work.h"
#include <strings.h>

// Functions of the C library that are as short as functions get.
NOINLINE long call_library(int number) {
    long sum = 0;
    for (int i = 0; i < 1000; i++)
        sum += abs(kept(number)) + ffs(kept(number)) + labs(kept(number)) + ffsl(kept(number));
    return sum;
}

NOINLINE void run_bound(void) { FOR_EVER(kept(call_library(dice(1000)))) }

// Where the stubs jump to. Its first three words are the loader's own; the others lead back into the stubs until the
// functions have been looked up.
extern unsigned long _GLOBAL_OFFSET_TABLE_[];
extern char __executable_start, etext;
static unsigned long unbound[64];
static int slots;

INLINE void remember_slots(void) {
    for (; slots < 64; slots++) {
        unbound[slots] = _GLOBAL_OFFSET_TABLE_[3 + slots];
        if (unbound[slots] - (unsigned long)&__executable_start >= (unsigned long)(&etext - &__executable_start))
            break;
    }
}

NOINLINE long look_up(int number) {
    for (int i = 0; i < slots; i++)
        _GLOBAL_OFFSET_TABLE_[3 + i] = unbound[i];
    return abs(kept(number)) + ffs(kept(number)) + labs(kept(number)) + ffsl(kept(number));
}

NOINLINE void run_resolved(void) { FOR_EVER(kept(look_up(dice(1000)))) }

int main(int argc, char **argv) {
    remember_slots();
    end_some_day();
    if (argc > 1 && strcmp(argv[1], "resolved") == 0)
        run_resolved();
    run_bound();
    return 2;
}
