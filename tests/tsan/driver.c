/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the engine on a stub of KVM (stub_kvm/kvm.c), for ThreadSanitizer: driver PROTOCOL TRANSPORT
 * LOST_AFTER_NS.
 *
 * Losing kicks is not what is looked for here: data races are.
 */
#include "engine.h"
#include "kvm.h"

#include <kickbench/clock.h>
#include <stdio.h>
#include <stdlib.h>

#define VCPUS	  2
#define KICKERS	  2
#define BLOCKS	  2
#define BLOCK_NS  30000000ull
#define WARMUP_NS 1000000ull
#define MAX_KICKS 4096
#define MAX_CALLS 100

static struct kb_engine *create(double clock_hz, uint32_t transport)
{
	const int32_t cpus[] = {0, 1};
	const uint32_t n_cpus = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
	struct kb_vcpu_config vcpus[VCPUS];
	struct kb_failure failure;
	struct kb_config config = {
	    .n_vcpus = VCPUS,
	    .n_entries = 1,
	    .signal = SIGUSR1,
	    .expected_exit = KVM_EXIT_IO,
	    .clock_is_counter = 1,
	    .transport = transport,
	    .samples_capacity = 1 << 12,
	    .clock_hz = clock_hz,
	    .vcpus = vcpus,
	    .n_kickers = KICKERS,
	    .n_kicker_cpus = n_cpus,
	    .kicker_cpus = cpus,
	    .kicks_capacity = MAX_KICKS,
	    .pauses_capacity = MAX_KICKS,
	};

	for (int i = 0; i < VCPUS; i++) {
		vcpus[i] = stub_vcpu(i, n_cpus, cpus);
	}
	return kb_engine_create(&config, &failure);
}

/* The number of kicks and pauses that were answered; -1 when a block failed. */
static long run_blocks(struct kb_engine *e, const struct kb_protocol *protocol,
		       const struct kb_plan *plan)
{
	struct kb_block_result results[BLOCKS * VCPUS];
	struct kb_block blocks[BLOCKS];
	uint64_t count;
	long kicks = 0;

	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = (struct kb_block){.protocol = protocol};
	if (kb_engine_blocks(e, blocks, BLOCKS, WARMUP_NS, BLOCK_NS, plan, results))
		return -1;
	for (uint32_t kicker = 0; kicker < KICKERS; kicker++) {
		kb_engine_kicks(e, kicker, &count);
		kicks += (long)count;
	}
	kb_engine_pauses(e, &count);
	return kicks + (long)count;
}

/* The same, until there are some: a busy host may keep them from coming in a few blocks. */
static long run_until_kicked(struct kb_engine *e, const struct kb_protocol *protocol,
			     const struct kb_plan *plan)
{
	long kicks = 0;

	for (int call = 0; call < MAX_CALLS; call++) {
		kicks = run_blocks(e, protocol, plan);
		if (kicks || plan->kicking == KB_NO_KICKS)
			break;
	}
	return kicks;
}

int main(int argc, char **argv)
{
	static const struct kb_plan plans[] = {
	    {.loop = KB_EXIT_LOOP},
	    {.loop = KB_EXIT_LOOP, .kicking = KB_VOLLEYS, .gap_ns = 300000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_VOLLEYS, .gap_ns = 300000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_AIMED, .userspace_ns = 20000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_AIMED, .window_ns = 50000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_PAUSES, .gap_ns = 300000},
	};
	const struct kb_protocol *protocol = argc == 4 ? find_protocol(argv[1]) : NULL;
	struct kb_engine *e;

	if (!protocol)
		return 2;
	e = create(kb_clock_calibrate(10000000), (uint32_t)atoi(argv[2]));
	if (!e) {
		perror("kb_engine_create");
		return 3;
	}
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct kb_plan plan = plans[i];
		long kicks;

		plan.seed = 1;
		plan.lost_after_ns = strtoull(argv[3], NULL, 10);
		kicks = run_until_kicked(e, protocol, &plan);
		printf("plan %zu: %ld\n", i, kicks);
		if (kicks < 0 || (kicks == 0) != (plan.kicking == KB_NO_KICKS))
			return 4;
	}
	kb_engine_destroy(e);
	return 0;
}
