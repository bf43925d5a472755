// flags: -O0 -fno-omit-frame-pointer
// dlopener LIBRARY COUNT: at SIGUSR1 opens and closes LIBRARY so often, says "done", then waits for another SIGUSR1,
// opens it for good and works in it. Says "ready" at first.
#include "work.h"
#include <dlfcn.h>

NOINLINE void run_plugin(void (*plugin_hot)(void)) {
    for (;;)
        plugin_hot();
}

int main(int argc, char **argv) {
    end_some_day();
    if (argc < 3)
        return 2;
    expect_go();
    say("ready");
    wait_for_go();
    for (int i = 0; i < atoi(argv[2]); i++)
        dlclose(dlopen(argv[1], RTLD_NOW));
    say("done");
    wait_for_go();
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    run_plugin((void (*)(void))dlsym(library, "plugin_hot"));
    return 0;
}
