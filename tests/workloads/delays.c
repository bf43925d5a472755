// flags: -O1 -static
// delays now|go MODE [NUMBER...]: waits and system calls whose numbers and lengths are known, by calls of its own. With "go" it says
// "ready", waits for SIGUSR1, and says "done" at its end.
//   reads COUNT DELAY_US    each read of a pipe waits DELAY_US for a byte from another thread
//   errors                  17 opens of what is not there, 5 closes of no descriptor
//   sleeps COUNT DELAY_US   nanosleep; with "go" prints how often the thread left the CPU to wait meanwhile, by the kernel's account
//   futexes COUNT DELAY_US  each FUTEX_WAIT waits DELAY_US for another thread
//   epolls COUNT DELAY_US   each epoll_wait waits DELAY_US for a byte from another thread
//   calls COUNT CPU_US      getppid, and then CPU_US of work
//   busy CPU MS             two threads on one CPU; prints the kernel's account: run delay in ns, involuntary switches, wall time in ns
//   exec PROGRAM [ARG...]   another thread than the first runs PROGRAM
#include "work.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>

static long count, delay_us;
static int ends[2];
static unsigned word;
static char **program;
static long busy_until_ns;

NOINLINE void wait_us(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    system_call(SYS_nanosleep, (long)&time, 0, 0);
}

void *write_bytes(void *unused) {
    for (long i = 0; i < count; i++) {
        wait_us(delay_us);
        if (write(ends[1], "x", 1) != 1)
            _exit(3);
    }
    return unused;
}

void *wake(void *unused) {
    for (long i = 0; i < count; i++) {
        wait_us(delay_us);
        __atomic_add_fetch(&word, 1, __ATOMIC_SEQ_CST);
        system_call(SYS_futex, (long)&word, FUTEX_WAKE, 1);
    }
    return unused;
}

static void start(void *(*function)(void *)) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, NULL))
        _exit(4);
}

static void read_byte(void) {
    char byte;
    if (system_call(SYS_read, ends[0], (long)&byte, 1) != 1)
        _exit(5);
}

static void reads(void) {
    start(write_bytes);
    for (long i = 0; i < count; i++)
        read_byte();
}

static void errors(void) {
    for (int i = 0; i < 17; i++)
        system_call(SYS_openat, AT_FDCWD, (long)"/no/such/file", O_RDONLY);
    for (int i = 0; i < 5; i++)
        system_call(SYS_close, 9999, 0, 0);
}

static void futexes(void) {
    start(wake);
    for (unsigned i = 0; i < count; i++)
        while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == i)
            syscall(SYS_futex, &word, FUTEX_WAIT, i, NULL);
}

static void epolls(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
    start(write_bytes);
    for (long i = 0; i < count; i++) {
        syscall(SYS_epoll_wait, epoll, &event, 1, -1);
        read_byte();
    }
}

static void sleeps(int tells) {
    struct rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    for (long i = 0; i < count; i++)
        wait_us(delay_us);
    getrusage(RUSAGE_THREAD, &after);
    if (tells)
        printf("%ld\n", after.ru_nvcsw - before.ru_nvcsw);
}

static void calls(void) {
    for (long i = 0; i < count; i++)
        system_call(SYS_getppid, 0, 0, 0);
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < delay_us * 1000)
        burn_inline(UNIT / 4);
}

// Its own account at its end: run delay, and involuntary switches.
void *burn(void *account) {
    unsigned long *numbers = account;
    while (clock_ns(CLOCK_MONOTONIC) < busy_until_ns)
        burn_inline(UNIT);
    char line[200];
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    if (!file || fscanf(file, "%*u %lu", &numbers[0]) != 1)
        _exit(6);
    fclose(file);
    file = fopen("/proc/thread-self/status", "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "nonvoluntary_ctxt_switches: %lu", &numbers[1]);
    return NULL;
}

static void busy(int cpu, long ms) {
    cpu_set_t cpus;
    unsigned long accounts[2][2] = {{0}};
    pthread_t threads[2];
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    long began_ns = clock_ns(CLOCK_MONOTONIC);
    busy_until_ns = began_ns + ms * 1000000;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, burn, accounts[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("%lu %lu %ld\n", accounts[0][0] + accounts[1][0], accounts[0][1] + accounts[1][1],
           clock_ns(CLOCK_MONOTONIC) - began_ns);
    fflush(stdout);
}

void *run_program(void *unused) {
    execv(program[0], program);
    _exit(7);
    return unused;
}

int main(int argc, char **argv) {
    end_some_day();
    if (argc < 3 || pipe(ends))
        return 2;
    int asks = !strcmp(argv[1], "go");
    const char *mode = argv[2];
    count = argc > 3 ? atol(argv[3]) : 0;
    delay_us = argc > 4 ? atol(argv[4]) : 0;
    if (asks) {
        expect_go();
        say("ready");
        wait_for_go();
    }
    if (!strcmp(mode, "reads"))
        reads();
    else if (!strcmp(mode, "errors"))
        errors();
    else if (!strcmp(mode, "sleeps"))
        sleeps(asks);
    else if (!strcmp(mode, "futexes"))
        futexes();
    else if (!strcmp(mode, "epolls"))
        epolls();
    else if (!strcmp(mode, "calls"))
        calls();
    else if (!strcmp(mode, "busy"))
        busy(count, delay_us);
    else if (!strcmp(mode, "exec")) {
        program = argv + 3;
        start(run_program);
        pause();
    } else
        return 2;
    if (asks)
        say("done");
    // Without the C library's way out: the other thread may be on its own.
    _exit(0);
}
