// flags: -O2 -fomit-frame-pointer -fPIE -static-pie
// The same wherever the kernel puts it, with the C library inside.
#include "frames.c"
