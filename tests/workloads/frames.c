// flags: -O2 -fomit-frame-pointer
// frames CASE: frames as an optimising compiler lays them out, without frame pointers.
//   deep     40 frames of different sizes, some of them of a size known only at run time, and rbp in use for other things
//   large    a frame of 40 KB, over what a 16-bit offset holds
//   tail     calls at a function's end that became jumps: who jumped is not on the stack
//   thread   a named thread of the same
//   deeper   200 frames in a thread, more than a profile keeps
#include "work.h"
#include <pthread.h>

NOINLINE long burn(void) {
    burn_inline(UNIT);
    return 1;
}

#define DESCEND(next) (depth <= 1 ? kept(burn()) : kept(next(depth - 1)))

NOINLINE long plain(long depth);

NOINLINE long sized(long depth) {
    char buffer[depth * 24 + 8];
    USE(buffer);
    return DESCEND(plain) + buffer[0];
}

// All six callee-saved registers, rbp among them, hold numbers.
NOINLINE long crowded(long depth) {
    long a = kept(1), b = kept(2), c = kept(3), d = kept(4), e = kept(5);
    long sum = DESCEND(sized);
    return sum + a * b * c * d * e * depth;
}

NOINLINE long buffered(long depth) {
    char buffer[600];
    USE(buffer);
    return DESCEND(crowded) + buffer[0];
}

NOINLINE long plain(long depth) { return DESCEND(buffered); }

NOINLINE long large(void) {
    char buffer[40000];
    USE(buffer);
    return kept(burn()) + buffer[0];
}

// Burns itself half of the time, and then jumps to where the other half is burnt.
NOINLINE long second(long units) {
    burn_inline(units);
    return kept(burn());
}

NOINLINE long first(long units) {
    burn_inline(units);
    return second(units);
}

NOINLINE long last(long units) {
    burn_inline(units);
    return burn();
}

NOINLINE void run_deep(long depth) { FOR_EVER(kept(plain(depth))) }

NOINLINE void run_large(void) { FOR_EVER(kept(large())) }

NOINLINE void run_tail(void) { FOR_EVER(dice(2) ? kept(first(UNIT)) : kept(last(UNIT))) }

void *thread(void *depth) {
    pthread_setname_np(pthread_self(), "descender");
    run_deep((long)depth);
    return depth;
}

NOINLINE void run_thread(long depth) {
    pthread_t id;
    pthread_create(&id, NULL, thread, (void *)depth);
    pthread_join(id, NULL);
}

int main(int argc, char **argv) {
    end_some_day();
    const char *name = argc > 1 ? argv[1] : "deep";
    if (strcmp(name, "deep") == 0)
        run_deep(40);
    else if (strcmp(name, "large") == 0)
        run_large();
    else if (strcmp(name, "tail") == 0)
        run_tail();
    else if (strcmp(name, "thread") == 0)
        run_thread(40);
    else if (strcmp(name, "deeper") == 0)
        run_thread(200);
    return 2;
}
