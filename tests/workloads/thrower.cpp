// flags: -O2 -fomit-frame-pointer
// thrower CASE: optimised C++ without frame pointers.
//   throw    exceptions from 40 frames down, through destructors that work too
//   virtual  virtual methods, and functions inlined into them
#include <cstring>
#include <memory>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

static unsigned dice(unsigned sides) {
    static unsigned long state = 1;
    state = state * 6364136223846793005UL + 1442695040888963407UL;
    return (state >> 33) % sides;
}

// By an instruction of its own: it keeps a call before it from becoming a jump.
static inline long kept(long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

extern "C" NOINLINE long burn(long iterations) {
    for (long i = 0; i < iterations; i++)
        __asm__ volatile("" : "+r"(i));
    return 1;
}

struct Guard {
    long units;
    NOINLINE ~Guard() { kept(burn(units)); }
};

NOINLINE long descend(long depth) {
    Guard guard{200};
    if (depth == 0)
        throw depth + 1;
    return kept(descend(depth - 1)) + guard.units;
}

NOINLINE long attempt() {
    try {
        return kept(descend(dice(4) + 36));
    } catch (long caught) {
        return kept(burn(2000)) + caught;
    }
}

NOINLINE void run_throw() {
    for (long sum = 0;;)
        sum = kept(sum + attempt());
}

struct Shape {
    virtual ~Shape() = default;
    virtual long area(long side) const = 0;
    // Inlined into whoever calls it.
    long twice(long side) const { return area(side) + kept(area(side)); }
};

struct Square : Shape {
    NOINLINE long area(long side) const override { return kept(burn(side)) * side; }
};

struct Circle : Shape {
    NOINLINE long area(long side) const override { return kept(burn(2 * side)) * 3; }
};

NOINLINE long measure(const Shape &shape) { return kept(shape.twice(5000)); }

NOINLINE void run_virtual() {
    std::unique_ptr<Shape> shapes[] = {std::make_unique<Square>(), std::make_unique<Circle>()};
    for (long sum = 0;;)
        sum = kept(sum + measure(*shapes[dice(2)]));
}

int main(int argc, char **argv) {
    alarm(120);
    if (argc > 1 && strcmp(argv[1], "virtual") == 0)
        run_virtual();
    run_throw();
}
