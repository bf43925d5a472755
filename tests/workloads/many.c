// flags: -O0 -fno-omit-frame-pointer
// 256 functions that burn CPU time by turns: as many distinct stacks, for tests that need a busy host or a long output.
#include "work.h"

#define ONE(n) NOINLINE void function_number_##n(void) { burn_inline(UNIT); }
#define SIXTEEN(n) ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) \
    ONE(n##8) ONE(n##9) ONE(n##a) ONE(n##b) ONE(n##c) ONE(n##d) ONE(n##e) ONE(n##f)
#define ALL SIXTEEN(0) SIXTEEN(1) SIXTEEN(2) SIXTEEN(3) SIXTEEN(4) SIXTEEN(5) SIXTEEN(6) SIXTEEN(7) \
    SIXTEEN(8) SIXTEEN(9) SIXTEEN(a) SIXTEEN(b) SIXTEEN(c) SIXTEEN(d) SIXTEEN(e) SIXTEEN(f)
ALL

#undef ONE
#define ONE(n) function_number_##n,
void (*const functions[])(void) = {ALL};

int main(void) {
    end_some_day();
    for (;;)
        functions[dice(256)]();
}
