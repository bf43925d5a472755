// flags: -O0 -fno-omit-frame-pointer
// Code made at run time: a loop with a frame of its own in anonymous memory, named by /tmp/perf-PID.map. Its end is a
// SIGTERM, at which it removes that file.
#include "work.h"
#include <sys/mman.h>

// push rbp; mov rbp, rsp; mov eax, edi; 1: dec eax; jnz 1b; pop rbp; ret
static const unsigned char loop_code[] = {0x55, 0x48, 0x89, 0xe5, 0x89, 0xf8, 0xff, 0xc8, 0x75, 0xfc, 0x5d, 0xc3};
static char map_path[64];

static void leave(int signal) {
    unlink(map_path);
    _exit(128 + signal);
}

NOINLINE void run_jit(void (*code)(int)) {
    for (;;)
        code(UNIT);
}

int main(void) {
    end_some_day();
    signal(SIGTERM, leave);
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code + 64, loop_code, sizeof loop_code);
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    snprintf(map_path, sizeof map_path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(map_path, "w");
    fprintf(map, "%lx %zx jit:hot loop\n", (unsigned long)(code + 64), sizeof loop_code);
    fclose(map);
    say("ready");
    run_jit((void (*)(int))(code + 64));
    return 1;
}
