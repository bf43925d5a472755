// Loads that wait for the kernel, by which the cost of timing such waits is measured.
//
//     waits calls            a turn of system calls for each byte on standard input
//     waits switches         the same with two processes on one CPU that hand a byte to and fro
//     waits paced RATE       about RATE switches a second, until it is ended
//     waits service          waits in several ways, 50 times a second, until it is ended
//
// A turn takes a quarter of a second. It writes one line: the median and the least nanoseconds a call or switch of its
// batches. The median passes over what disturbs a batch, the least over what disturbs most of them.

#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TURN_NS 250000000
#define BATCHES 1000
#define CALLS 5000
#define ROUND_TRIPS 250

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void stay_on_last_cpu(void)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &one);
	if (sched_setaffinity(0, sizeof one, &one) != 0)
		exit(1);
}

static int to_partner[2], from_partner[2];

// Another process that sends back each byte; it ends when this one does.
static void start_partner(void)
{
	char byte;
	if (pipe(to_partner) != 0 || pipe(from_partner) != 0)
		exit(1);
	pid_t pid = fork();
	if (pid < 0)
		exit(1);
	if (pid > 0) {
		close(to_partner[0]);
		close(from_partner[1]);
		return;
	}
	close(to_partner[1]);
	close(from_partner[0]);
	while (read(to_partner[0], &byte, 1) == 1)
		if (write(from_partner[1], &byte, 1) != 1)
			break;
	_exit(0);
}

static void round_trips(unsigned count)
{
	char byte = 0;
	while (count-- > 0)
		if (write(to_partner[1], &byte, 1) != 1 || read(from_partner[0], &byte, 1) != 1)
			exit(1);
}

static long own_switches(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nvcsw + usage.ru_nivcsw;
}

static double call_ns(void)
{
	uint64_t began = now_ns();
	for (unsigned call = 0; call < CALLS; call++)
		syscall(SYS_getppid);
	return (double)(now_ns() - began) / CALLS;
}

// As often as one of the two leaves the CPU the other does too.
static double switch_ns(void)
{
	long before = own_switches();
	uint64_t began = now_ns();
	round_trips(ROUND_TRIPS);
	uint64_t elapsed = now_ns() - began;
	return (double)elapsed / (2 * (own_switches() - before));
}

static int by_size(const void *one, const void *other)
{
	double difference = *(const double *)one - *(const double *)other;
	return (difference > 0) - (difference < 0);
}

static int turns(double (*batch)(void))
{
	double ns[BATCHES];
	while (getchar() != EOF) {
		uint64_t end = now_ns() + TURN_NS;
		unsigned count = 0;
		do
			ns[count++] = batch();
		while (count < BATCHES && now_ns() < end);
		qsort(ns, count, sizeof ns[0], by_size);
		printf("%.2f %.2f\n", ns[count / 2], ns[0]);
		fflush(stdout);
	}
	return 0;
}

static void paced(long rate)
{
	uint64_t next = now_ns();
	for (;;) {
		// Two switches each, and two more for the sleep.
		round_trips(rate > 2000 ? (rate / 1000 - 2) / 2 : 0);
		next += 1000000;
		struct timespec until = { next / 1000000000, next % 1000000000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
}

static void service(void)
{
	const struct timespec moment = { 0, 20000000 };
	int word = 0, none[2];
	if (pipe(none) != 0)
		exit(1);
	struct pollfd ears = { none[0], POLLIN, 0 };
	for (;;) {
		nanosleep(&moment, NULL);
		poll(&ears, 1, 20);
		syscall(SYS_futex, &word, FUTEX_WAIT, 0, &moment, NULL, 0);
		sched_yield();
	}
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	if (strcmp(what, "service") == 0)
		service();
	stay_on_last_cpu();
	if (strcmp(what, "calls") == 0)
		return turns(call_ns);
	start_partner();
	if (strcmp(what, "switches") == 0)
		return turns(switch_ns);
	if (strcmp(what, "paced") == 0 && count > 2)
		paced(atol(arguments[2]));
	return 2;
}
