// flags: -O2 -fomit-frame-pointer -fno-pie -no-pie
// The same at an address fixed by the linker.
#include "frames.c"
