// flags: -O2 -fomit-frame-pointer -fno-builtin -fcf-protection -Wl,-z,lazy,-z,ibtplt
// The stubs in two halves that Intel's indirect branch tracking asks for.
#include "plt.c"
