// flags: -O2 -fomit-frame-pointer -static
// The same at an address fixed by the linker, with the C library inside.
#include "frames.c"
