// flags: -O0 -fno-omit-frame-pointer -shared -fPIC -nostdlib
// A shared library for `dlopener`.

__attribute__((noinline)) static void plugin_inner(long iterations) {
    for (long i = 0; i < iterations; i++)
        __asm__ volatile("" : "+r"(i));
}

void plugin_hot(void) { plugin_inner(20000); }
