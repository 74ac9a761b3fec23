/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout of the interface's structures, as the compiler has it. The binding makes its records
 * from it, so that a field's place and type are stated in engine.h alone. A field that is not
 * listed here leaves a gap, and a test looks for gaps. It would leave none in padding, so the
 * structures have no padding.
 */
#include "engine.h"

#include <string.h>

#define A_FIELD(structure, field) (((struct kb_##structure *)0)->field)

/* An array decays to a pointer to its first number; there are arrays of floats alone. */
#define KIND(field)                                                                                \
	_Generic((field),                                                                          \
	    int16_t: 'i',                                                                          \
	    int32_t: 'i',                                                                          \
	    int64_t: 'i',                                                                          \
	    uint8_t: 'u',                                                                          \
	    uint32_t: 'u',                                                                         \
	    uint64_t: 'u',                                                                         \
	    double: 'f',                                                                           \
	    float *: 'f',                                                                          \
	    default: 'p')
#define UNIT(field) _Generic((field), float *: sizeof(float), default: sizeof(field))

#define FIELD(structure, name)                                                                     \
	{#structure,                                                                               \
	 #name,                                                                                    \
	 offsetof(struct kb_##structure, name),                                                    \
	 sizeof(A_FIELD(structure, name)),                                                         \
	 UNIT(A_FIELD(structure, name)),                                                           \
	 KIND(A_FIELD(structure, name))}

static const struct kb_field fields[] = {
    FIELD(vcpu_config, fd),
    FIELD(vcpu_config, n_cpus),
    FIELD(vcpu_config, cpus),
    FIELD(vcpu_config, run),
    FIELD(vcpu_config, params),
    FIELD(vcpu_config, ring),
    FIELD(config, n_vcpus),
    FIELD(config, n_entries),
    FIELD(config, signal),
    FIELD(config, expected_exit),
    FIELD(config, other_exit),
    FIELD(config, clock_is_counter),
    FIELD(config, guest_counts),
    FIELD(config, transport),
    FIELD(config, foreign_signal),
    FIELD(config, n_siglock_threads),
    FIELD(config, samples_capacity),
    FIELD(config, clock_hz),
    FIELD(config, vcpus),
    FIELD(config, n_kickers),
    FIELD(config, n_kicker_cpus),
    FIELD(config, kicker_cpus),
    FIELD(config, kicks_capacity),
    FIELD(config, pauses_capacity),
    FIELD(block, protocol),
    FIELD(block, entry),
    FIELD(block, reserved),
    FIELD(block_result, exits),
    FIELD(block_result, accesses),
    FIELD(block_result, elapsed_cycles),
    FIELD(block_result, skew_cycles),
    FIELD(block_result, stalled_cycles),
    FIELD(block_result, timed_exits),
    FIELD(block_result, timed_cycles),
    FIELD(block_result, max_cycles),
    FIELD(block_result, unsampled),
    FIELD(block_result, samples_offset),
    FIELD(block_result, samples_count),
    FIELD(block_result, spurious_exits),
    FIELD(block_result, cpu_ns),
    FIELD(block_result, run_delay_ns),
    FIELD(block_result, steal_ns),
    FIELD(block_result, foreign_sent),
    FIELD(block_result, foreign_taken),
    FIELD(block_result, siglock_taken),
    FIELD(block_result, voluntary_switches),
    FIELD(block_result, involuntary_switches),
    FIELD(block_result, migrations),
    FIELD(block_result, cpu),
    FIELD(block_result, rescues),
    FIELD(block_result, kicked),
    FIELD(block_result, twice),
    FIELD(block_result, never),
    FIELD(block_result, quantiles),
    FIELD(block_result, reserved),
    FIELD(failure, vcpu),
    FIELD(failure, error),
    FIELD(failure, exit_reason),
    FIELD(failure, suberror),
    FIELD(failure, detail),
    FIELD(failure, stuck),
    FIELD(failure, entering),
    FIELD(failure, kicking),
    FIELD(failure, finishing),
    FIELD(failure, resource),
    FIELD(failure, doing),
    FIELD(failure, tid),
    FIELD(failure, kicker),
    FIELD(failure, slow),
    FIELD(failure, following),
    FIELD(failure, protocol),
    FIELD(guest_params, next_low),
    FIELD(guest_params, next_high),
    FIELD(guest_params, gaps),
    FIELD(guest_params, gap_mask),
    FIELD(guest_params, gap_index),
    FIELD(guest_params, ring),
    FIELD(guest_params, ring_mask),
    FIELD(guest_params, head),
    FIELD(guest_params, late_limit),
    FIELD(guest_params, late),
    FIELD(guest_params, heartbeat),
    FIELD(guest_params, phase),
    FIELD(guest_params, mean_gap),
    FIELD(guest_params, mix),
    FIELD(guest_params, mix_mask),
    FIELD(plan, loop),
    FIELD(plan, kicking),
    FIELD(plan, state),
    FIELD(plan, seed),
    FIELD(plan, one_by_one),
    FIELD(plan, after),
    FIELD(plan, gap_ns),
    FIELD(plan, userspace_ns),
    FIELD(plan, window_ns),
    FIELD(plan, lost_after_ns),
    FIELD(plan, foreign_gap_ns),
    FIELD(plan, siglock_gap_ns),
    FIELD(kick_record, at),
    FIELD(kick_record, block),
    FIELD(kick_record, send),
    FIELD(kick_record, delivery),
    FIELD(kick_record, latency),
    FIELD(kick_record, vcpu),
    FIELD(kick_record, kicker),
    FIELD(kick_record, flags),
    FIELD(kick_record, rescues),
    FIELD(kick_record, volley),
    FIELD(kick_record, cpu),
    FIELD(kick_record, returned),
    FIELD(kick_record, resumed),
    FIELD(kick_record, signals),
    FIELD(kick_record, reserved),
    FIELD(pause, at),
    FIELD(pause, send),
    FIELD(pause, first),
    FIELD(pause, median),
    FIELD(pause, last),
    FIELD(pause, clock),
    FIELD(pause, state),
    FIELD(pause, block),
    FIELD(pause, rescues),
    FIELD(pause, not_run),
    FIELD(pause, reserved),
    FIELD(life_plan, protocol),
    FIELD(life_plan, delay_ns),
    FIELD(life_plan, late_after_ns),
    FIELD(life_plan, lost_after_ns),
    FIELD(life_plan, moment),
    FIELD(life_plan, reserved),
    FIELD(life, latency),
    FIELD(life, waited),
    FIELD(life, fate),
    FIELD(life, met),
    FIELD(life, error),
    FIELD(life, reserved),
};

const struct kb_field *kb_fields(size_t *count)
{
	*count = sizeof(fields) / sizeof(fields[0]);
	return fields;
}

const uint32_t kb_abi = KB_PROTOCOL_ABI;

size_t kb_sizeof(const char *name)
{
	static const struct {
		const char *name;
		size_t size;
	} sizes[] = {
	    {"vcpu_config", sizeof(struct kb_vcpu_config)},
	    {"config", sizeof(struct kb_config)},
	    {"block", sizeof(struct kb_block)},
	    {"block_result", sizeof(struct kb_block_result)},
	    {"failure", sizeof(struct kb_failure)},
	    {"plan", sizeof(struct kb_plan)},
	    {"kick_record", sizeof(struct kb_kick_record)},
	    {"pause", sizeof(struct kb_pause)},
	    {"life_plan", sizeof(struct kb_life_plan)},
	    {"life", sizeof(struct kb_life)},
	    {"guest_params", sizeof(struct kb_guest_params)},
	    {"vcpu", sizeof(struct kb_vcpu)},
	    {"field", sizeof(struct kb_field)},
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!strcmp(name, sizes[i].name))
			return sizes[i].size;
	return 0;
}
