// flags: -O0 -fno-omit-frame-pointer
// pid_reuse CPU_MS FIRST SECOND: runs FIRST CPU_MS, then SECOND CPU_MS in a process with the same pid, and prints the pid.
#include "work.h"
#include <linux/sched.h>

static pid_t start(pid_t wanted, char *program, char *argument) {
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    arguments.set_tid = wanted ? (unsigned long)&wanted : 0;
    arguments.set_tid_size = wanted != 0;
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) {
        execl(program, program, argument, NULL);
        _exit(127);
    }
    return pid;
}

int main(int argc, char **argv) {
    end_some_day();
    if (argc < 4)
        return 2;
    pid_t first = start(0, argv[2], argv[1]);
    waitpid(first, NULL, 0);
    pid_t second = start(first, argv[3], argv[1]);
    if (second != first) {
        fprintf(stderr, "clone3 with set_tid: %s\n", strerror(errno));
        return 1;
    }
    waitpid(second, NULL, 0);
    printf("pid %d\n", first);
    return 0;
}
