// flags: -O2 -fomit-frame-pointer -fno-builtin -Wl,-z,now
// The stubs of a program that is bound when it starts.
#include "plt.c"
