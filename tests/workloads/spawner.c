// flags: -O0 -fno-omit-frame-pointer
// spawner COUNT fork CPU_MS | spawner COUNT exec PROGRAM [ARGUMENT...] | spawner COUNT mixed CPU_MS PROGRAM [ARGUMENT...]
// At SIGUSR1 starts COUNT processes in a burst. They work and exit, or run PROGRAM, or (mixed) every other one. Says
// "ready" at first, "done" when all of them have ended, then waits to be killed.
#include "work.h"

NOINLINE void forked_child(long limit_ns) {
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < limit_ns)
        burn_inline(UNIT / 4);
    _exit(0);
}

int main(int argc, char **argv) {
    end_some_day();
    if (argc < 4)
        return 2;
    int count = atoi(argv[1]);
    int execs = strcmp(argv[2], "fork") != 0, mixed = strcmp(argv[2], "mixed") == 0;
    char **program = argv + (mixed ? 4 : 3);
    long limit_ns = atol(argv[3]) * 1000000;
    expect_go();
    say("ready");
    wait_for_go();
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid == 0) {
            if (execs && !(mixed && i % 2)) {
                execv(program[0], program);
                _exit(127);
            }
            forked_child(limit_ns);
        }
    }
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    say("done");
    pause();
    return 0;
}
