/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calibrates a TSC of 2.5 GHz against a raw clock, both of a machine of its own: each reading takes
 * 50 cycles, and before so many in a hundred readings the thread is preempted for a while. The
 * command line has the random seed, how many, and the longest preemption in cycles. With two more
 * words the TSC counts in steps of so many cycles, and is asked for its step. The thread moves
 * between two CPUs now and then, and the TSC of the second one is so many cycles ahead. Once, both
 * jump as far.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define READ_CYCLES 50
#define MOVES_EVERY 64 /* readings, on average */
#define JUMPS_AFTER 1000

static uint64_t machine_cycles, machine_random, machine_longest, machine_step = 1;
static uint64_t machine_ahead, machine_readings;
static unsigned int machine_percent, machine_cpu;

static uint64_t read_machine(void)
{
	machine_random = machine_random * 6364136223846793005u + 1442695040888963407u;
	if ((machine_random >> 33) % 100 < machine_percent)
		machine_cycles += (machine_random >> 20) % machine_longest;
	machine_cycles += READ_CYCLES;
	return machine_cycles / machine_step * machine_step;
}

static unsigned long long machine_rdtscp(unsigned int *aux)
{
	const uint64_t now = read_machine();

	machine_cpu ^= machine_ahead && (machine_random >> 40) % MOVES_EVERY == 0;
	*aux = machine_cpu;
	return now + (machine_cpu + (++machine_readings > JUMPS_AFTER)) * machine_ahead;
}

static int machine_gettime(clockid_t clock, struct timespec *t)
{
	const uint64_t ns = read_machine() * 2 / 5;

	(void)clock;
	*t = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	return 0;
}

#define __builtin_ia32_rdtscp machine_rdtscp
#define clock_gettime	      machine_gettime

#include "../../kickbench/engine/src/clock.c"

int start_thread(pthread_t *thread, const int32_t *cpus, uint32_t n_cpus, void *(*run)(void *),
		 void *arg)
{
	(void)thread, (void)cpus, (void)n_cpus, (void)run, (void)arg;
	return EAGAIN;
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 6)
		return 1;
	machine_random = strtoull(argv[1], NULL, 10);
	machine_percent = (unsigned int)atoi(argv[2]);
	machine_longest = strtoull(argv[3], NULL, 10) + 1;
	if (argc == 6) {
		machine_step = strtoull(argv[4], NULL, 10);
		machine_ahead = strtoull(argv[5], NULL, 10);
		printf("%llu\n", (unsigned long long)kb_clock_step(true));
		return 0;
	}
	printf("%.1f\n", kb_clock_calibrate(20000000));
	return 0;
}
