// The busy half of the benchmark's load: threads that never wait, below a chain of callers of a given depth.
//
//     busy THREADS DEPTH CLOCK_FILE
//
// CLOCK_FILE holds one 64-bit number. While it is 0 the threads run four functions in turn. Else it is a point of
// CLOCK_MONOTONIC in nanoseconds, and during the SLOTS * SLOT_NS after it the name of the function that runs tells how
// long ago it was: at_0, at_1, ... A profile then says by itself when its first and its last sample were taken.

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define SLOT_NS 5000000 // bench/load.rs has the same
#define SLOTS 400

// About a tenth of a millisecond without a call, so that nothing but the caller's own name is sampled.
#define SPIN for (unsigned turn = 0; turn < 200000; turn++) __asm__ volatile("" : "+r"(turn))
#define NAMED(name) __attribute__((noinline)) static void name(void) { SPIN; }
#define TEN(a, of) of(a##0) of(a##1) of(a##2) of(a##3) of(a##4) of(a##5) of(a##6) of(a##7) of(a##8) of(a##9)
#define ALL(of) \
	of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) \
	TEN(1, of) TEN(2, of) TEN(3, of) TEN(4, of) TEN(5, of) TEN(6, of) TEN(7, of) TEN(8, of) TEN(9, of) \
	TEN(10, of) TEN(11, of) TEN(12, of) TEN(13, of) TEN(14, of) TEN(15, of) TEN(16, of) TEN(17, of) TEN(18, of) TEN(19, of) \
	TEN(20, of) TEN(21, of) TEN(22, of) TEN(23, of) TEN(24, of) TEN(25, of) TEN(26, of) TEN(27, of) TEN(28, of) TEN(29, of) \
	TEN(30, of) TEN(31, of) TEN(32, of) TEN(33, of) TEN(34, of) TEN(35, of) TEN(36, of) TEN(37, of) TEN(38, of) TEN(39, of)

#define AT(slot) NAMED(at_##slot)
ALL(AT)
#define ENTRY(slot) at_##slot,
static void (*const at[SLOTS])(void) = { ALL(ENTRY) };

NAMED(parse)
NAMED(sort)
NAMED(hash)
NAMED(compress)
static void (*const work[4])(void) = { parse, sort, hash, compress };

static const volatile uint64_t *clock_page;
static unsigned depth;

static void step(unsigned turn)
{
	uint64_t from = *clock_page;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t since = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec - from;
	if (from != 0 && since / SLOT_NS < SLOTS)
		at[since / SLOT_NS]();
	else
		work[turn % 4]();
}

// One activation a level, kept apart by what follows the call.
__attribute__((noinline, noclone)) static void descend(unsigned left, unsigned turn)
{
	if (left > 0)
		descend(left - 1, turn);
	else
		while (*clock_page != UINT64_MAX)
			step(turn++);
	__asm__ volatile("");
}

static void *thread(void *argument)
{
	descend(depth, (unsigned)(uintptr_t)argument);
	return NULL;
}

int main(int count, char **arguments)
{
	if (count != 4)
		return 2;
	int file = open(arguments[3], O_RDONLY);
	clock_page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	if (file < 0 || clock_page == MAP_FAILED)
		return 1;
	depth = (unsigned)atoi(arguments[2]);
	for (int started = 1; started < atoi(arguments[1]); started++) {
		pthread_t id;
		if (pthread_create(&id, NULL, thread, (void *)(uintptr_t)started) != 0)
			return 1;
	}
	thread(NULL);
	return 0;
}
