// What optimized C does all day: deep recursion, callbacks from libc, formatting, allocation. Never ends.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 60
#define ITEMS 2000

// Not inlined, and with work after the call: every level is a frame.
__attribute__((noinline)) static unsigned recurse(unsigned left, unsigned seed)
{
	unsigned local[8];
	for (unsigned i = 0; i < 8; i++)
		local[i] = seed * (i + left + 1);
	unsigned sum = left == 0 ? seed : recurse(left - 1, local[seed & 7]);
	for (unsigned i = 0; i < 40; i++)
		sum = sum * 31 + local[(sum + i) & 7];
	return sum;
}

static int by_value(const void *left, const void *right)
{
	unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
	return (a > b) - (a < b);
}

__attribute__((noinline)) static unsigned sort(unsigned seed)
{
	static unsigned items[ITEMS];
	for (unsigned i = 0; i < ITEMS; i++)
		items[i] = seed = seed * 1664525 + 1013904223;
	qsort(items, ITEMS, sizeof *items, by_value);
	return items[ITEMS / 2];
}

__attribute__((noinline)) static void format(FILE *to, unsigned seed)
{
	for (unsigned i = 0; i < 300; i++)
		fprintf(to, "%u %-12s %8.3f %#x\n", i, "text", seed / 7.0, seed + i);
}

__attribute__((noinline)) static unsigned allocate(unsigned seed)
{
	char *held[64] = { 0 };
	for (unsigned i = 0; i < 1500; i++) {
		seed = seed * 1664525 + 1013904223;
		char **slot = &held[seed >> 26];
		free(*slot);
		*slot = malloc(16 + (seed >> 8) % 4000);
		if (*slot == NULL)
			abort();
		memset(*slot, (int)i, 16);
	}
	for (unsigned i = 0; i < 64; i++)
		free(held[i]);
	return seed;
}

int main(void)
{
	FILE *nowhere = fopen("/dev/null", "w");
	if (nowhere == NULL)
		return 1;
	for (unsigned seed = 1;; seed++) {
		for (unsigned i = 0; i < 100; i++)
			seed += recurse(DEPTH, seed);
		seed += sort(seed);
		format(nowhere, seed);
		seed += allocate(seed);
	}
}
