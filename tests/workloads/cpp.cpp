// flags: -O0 -fno-omit-frame-pointer
// Names as C++ makes them: namespaces, templates, methods; CPU time 60 : 40 by construction, in an
// order without a rhythm (see work.h).
#include <unistd.h>

namespace app {
namespace detail {
__attribute__((noinline)) void burn(long iterations) {
    for (long i = 0; i < iterations; i++)
        __asm__ volatile("" : "+r"(i));
}
}

template <typename T> struct Engine {
    T units;
    __attribute__((noinline)) void turn(int times) {
        for (int i = 0; i < times; i++)
            detail::burn(units);
    }
};

class Shop {
public:
    virtual ~Shop() {}
    __attribute__((noinline)) virtual long price(unsigned item) const {
        detail::burn(20000);
        return item;
    }
};
}

int main() {
    alarm(120);
    app::Engine<long> engine{20000};
    app::Shop shop;
    for (unsigned long state = 1;;) {
        state = state * 6364136223846793005UL + 1442695040888963407UL;
        if ((state >> 33) % 5 < 3)
            engine.turn(1);
        else
            shop.price(7);
    }
}
