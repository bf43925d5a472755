// flags: -O2 -fomit-frame-pointer
// children CASE: processes that burn some milliseconds each, one after the other.
//   vfork    on their parent's stack, which waits
//   fork     on a copy of it
//   spawn    in programs of their own
#include "work.h"
#include <spawn.h>

extern char **environ;

NOINLINE long burn(void) {
    burn_inline(UNIT);
    return 1;
}

NOINLINE long child(unsigned units) {
    long sum = 0;
    while (units--)
        sum += kept(burn());
    return sum;
}

NOINLINE long start_by_vfork(unsigned units) {
    int status = 0;
    pid_t pid = vfork();
    if (pid == 0) {
        child(units);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return kept(status);
}

NOINLINE long start_by_fork(unsigned units) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        child(units);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return kept(status);
}

static char *program;

NOINLINE long start_by_spawn(unsigned units) {
    char text[16];
    int status = 0;
    snprintf(text, sizeof text, "%u", units);
    char *arguments[] = {program, "child", text, NULL};
    pid_t pid;
    posix_spawn(&pid, program, NULL, NULL, arguments, environ);
    waitpid(pid, &status, 0);
    return kept(status);
}

NOINLINE void run_vfork(void) { FOR_EVER(kept(start_by_vfork(dice(100)))) }

NOINLINE void run_fork(void) { FOR_EVER(kept(start_by_fork(dice(1000)))) }

NOINLINE void run_spawn(void) { FOR_EVER(kept(start_by_spawn(1000 + dice(2000)))) }

int main(int argc, char **argv) {
    end_some_day();
    program = argv[0];
    const char *name = argc > 1 ? argv[1] : "vfork";
    if (strcmp(name, "vfork") == 0)
        run_vfork();
    else if (strcmp(name, "fork") == 0)
        run_fork();
    else if (strcmp(name, "spawn") == 0)
        run_spawn();
    else if (strcmp(name, "child") == 0 && argc > 2)
        return child(atoi(argv[2])) < 0;
    return 2;
}
