// flags: -O2 -fomit-frame-pointer
// The same shares in code as compilers make it by default: optimised, and without frame pointers.
#define SEPARATE_LOOPS
#include "shares.c"
