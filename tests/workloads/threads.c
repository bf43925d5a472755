// flags: -O0 -fno-omit-frame-pointer
// Two named threads whose CPU time is 3 : 1 by their own clocks, whatever the scheduler does; they meet each round.
#include "work.h"
#include <pthread.h>

#define ROUNDS 97
static pthread_barrier_t round_end;
static long round_ns[ROUNDS];

NOINLINE void burn(long iterations) { burn_inline(iterations); }

NOINLINE void work_for(long *until_ns, long ns) {
    *until_ns += ns;
    while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < *until_ns)
        burn(UNIT);
}

void *heavy(void *unused) {
    unsigned round = 0;
    pthread_setname_np(pthread_self(), "heavy");
    for (long until_ns = 0;; pthread_barrier_wait(&round_end))
        work_for(&until_ns, 3 * round_ns[round++ % ROUNDS]);
    return unused;
}

void *light(void *unused) {
    unsigned round = 0;
    pthread_setname_np(pthread_self(), "light");
    for (long until_ns = 0;; pthread_barrier_wait(&round_end))
        work_for(&until_ns, round_ns[round++ % ROUNDS]);
    return unused;
}

int main(void) {
    pthread_t threads[2];
    end_some_day();
    for (int i = 0; i < ROUNDS; i++)
        round_ns[i] = 2000000 + dice(6000000);
    pthread_barrier_init(&round_end, NULL, 2);
    pthread_create(&threads[0], NULL, heavy, NULL);
    pthread_create(&threads[1], NULL, light, NULL);
    pthread_join(threads[0], NULL);
    return 1;
}
