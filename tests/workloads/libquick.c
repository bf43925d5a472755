// flags: -O2 -fomit-frame-pointer -shared -fPIC -nostdlib
// A shared library for `dlopener`, optimised and without frame pointers.

__attribute__((noinline, noclone, noipa)) static long plugin_inner(long iterations) {
    for (long i = 0; i < iterations; i++)
        __asm__ volatile("" : "+r"(i));
    return iterations;
}

long plugin_hot(void) {
    // What is added after the call keeps it from becoming a jump.
    long sum = 1;
    __asm__ volatile("" : "+r"(sum));
    return plugin_inner(20000) + sum;
}
