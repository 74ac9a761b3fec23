/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one plan of the engine on a stub of KVM (kvm.c), in which threads or timers run out:
 *
 *	plan PROTOCOL VCPUS KICKERS TRANSPORT LOOP KICKING STATE GAP_NS USERSPACE_NS WINDOW_NS
 *	     LAST_THREAD LAST_TIMER
 *
 * LAST_THREAD: no more threads than that can be created (0: any number), LAST_TIMER: timers. Ends
 * with 0 and "kicks N pauses M spurious S", or with 3 and "resource R error E", or with 4 and
 * "failed".
 */
#include "engine.h"
#include "kvm.h"

#include <kickbench/clock.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCKS	  2
#define BLOCK_NS  20000000ull
#define WARMUP_NS 1000000ull
#define CAPACITY  4096

static unsigned int threads_left, timers_left;

static bool runs_out(unsigned int *left)
{
	return *left && !--*left;
}

/* NOLINTNEXTLINE: the linker's names */
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	if (runs_out(&threads_left)) {
		threads_left = 1;
		return EAGAIN;
	}
	return __real_pthread_create(thread, attr, run, arg);
}

int __real_timer_create(clockid_t, struct sigevent *, timer_t *);
int __wrap_timer_create(clockid_t clock, struct sigevent *event, timer_t *timer)
{
	if (runs_out(&timers_left)) {
		timers_left = 1;
		errno = EAGAIN;
		return -1;
	}
	return __real_timer_create(clock, event, timer);
}

static uint64_t number(char **argv, int index)
{
	return strtoull(argv[index], NULL, 10);
}

static int run(struct kb_engine *e, const struct kb_protocol *protocol, const struct kb_plan *plan,
	       uint32_t n_kickers)
{
	static struct kb_block_result results[BLOCKS * STUB_VCPUS];
	const struct kb_block block = {.protocol = protocol}, blocks[BLOCKS] = {block, block};
	uint64_t kicks = 0, pauses, count, spurious = 0;

	if (kb_engine_blocks(e, blocks, BLOCKS, WARMUP_NS, BLOCK_NS, plan, results)) {
		puts("failed");
		return 4;
	}
	for (uint32_t kicker = 0; kicker < n_kickers; kicker++) {
		kb_engine_kicks(e, kicker, &count);
		kicks += count;
	}
	kb_engine_pauses(e, &pauses);
	for (uint32_t i = 0; i < BLOCKS * STUB_VCPUS; i++)
		spurious += (uint64_t)results[i].spurious_exits;
	printf("kicks %lu pauses %lu spurious %lu\n", (unsigned long)kicks, (unsigned long)pauses,
	       (unsigned long)spurious);
	return 0;
}

int main(int argc, char **argv)
{
	const int32_t cpus[] = {0, 1};
	const uint32_t n_cpus = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
	const struct kb_protocol *protocol = argc == 13 ? find_protocol(argv[1]) : NULL;
	struct kb_vcpu_config vcpus[STUB_VCPUS];
	struct kb_failure failure;
	struct kb_config config = {.n_entries = 1,
				   .signal = SIGUSR1,
				   .expected_exit = KVM_EXIT_IO,
				   .clock_is_counter = 1,
				   .samples_capacity = CAPACITY,
				   .clock_hz = kb_clock_calibrate(5000000),
				   .vcpus = vcpus,
				   .n_kicker_cpus = n_cpus,
				   .kicker_cpus = cpus,
				   .kicks_capacity = CAPACITY,
				   .pauses_capacity = CAPACITY};
	struct kb_plan plan = {.seed = 1, .lost_after_ns = 50000000};
	struct kb_engine *e;
	int status;

	if (!protocol)
		return 2;
	config.n_vcpus = (uint32_t)number(argv, 2);
	config.n_kickers = (uint32_t)number(argv, 3);
	config.transport = (uint32_t)number(argv, 4);
	plan.loop = (uint32_t)number(argv, 5);
	plan.kicking = (uint32_t)number(argv, 6);
	plan.state = (uint32_t)number(argv, 7);
	plan.gap_ns = number(argv, 8);
	plan.userspace_ns = number(argv, 9);
	plan.window_ns = number(argv, 10);
	threads_left = (unsigned int)number(argv, 11);
	timers_left = (unsigned int)number(argv, 12);
	for (uint32_t i = 0; i < config.n_vcpus; i++)
		vcpus[i] = stub_vcpu((int)i, n_cpus, cpus);
	e = kb_engine_create(&config, &failure);
	if (!e) {
		printf("resource %d error %d\n", failure.resource, failure.error);
		return 3;
	}
	status = run(e, protocol, &plan, config.n_kickers);
	return kb_engine_destroy(e) ? 5 : status;
}
