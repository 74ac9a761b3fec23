/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot loops, stamped out once for each protocol that includes this file (see protocol.h).
 *
 * Between two KVM_RUNs it makes no system call but those of the protocol, allocates nothing, and
 * touches three cache lines of its own: the flag, the constants, the sample that it writes.
 */
#include <kickbench/clock.h>

#ifndef KB_PROTOCOL
#error "define KB_PROTOCOL before including <kickbench/loop.h>"
#endif
#define KB_PASTE_(a, b) a##b
#define KB_PASTE(a, b)	KB_PASTE_(a, b)
#define KB_STRING_(a)	#a
#define KB_STRING(a)	KB_STRING_(a)

/* Neither the guest's own exit nor one that a late kick explains. */
static inline bool kb_is_unexpected(const struct kb_vcpu *v, int error)
{
	return !error && v->run->exit_reason != KB_EXIT_REQUEST;
}

static inline uint32_t kb_saturate(uint64_t cycles)
{
	return cycles > UINT32_MAX ? UINT32_MAX : (uint32_t)cycles;
}

/* Out of the hot path, where it can be marked: a hook that hangs is told from a guest that does. */
static __attribute__((noinline, cold)) bool kb_call_after_run(struct kb_vcpu *v, int error)
{
	bool taken;

	kb_mark(v, KB_IN_AFTER_RUN);
	taken = kb_after_run(v, error);
	kb_mark(v, KB_IN_LOOP);
	return taken;
}

/* Measures exits: runs the vCPU until the window closes, or until the conductor kicks. */
static void kb_exit_loop(struct kb_vcpu *v)
{
	const bool clock_is_tsc = v->clock_is_tsc;
	const uint64_t until = v->record_until;
	uint64_t from = v->record_from;
	uint64_t first = 0, last = 0, exits = 0;
	uint32_t cpu = KB_CPU_UNKNOWN, last_cpu = KB_CPU_UNKNOWN, migrations = 0;
	bool recording = false;

	for (;;) {
		uint64_t now;
		int error;

		if (KB_UNLIKELY(kb_before_run(v))) {
			if (kb_take_kick(v, kb_stamp(clock_is_tsc, &cpu))) {
				v->kicked = true;
				break;
			}
			continue;
		}
		error = ioctl(v->fd, KVM_RUN, 0) == 0 ? 0 : errno;
		now = kb_stamp(clock_is_tsc, &cpu);

		if (KB_UNLIKELY(error || v->run->exit_reason != v->expected_exit)) {
			if (error && error != EINTR && error != EAGAIN) {
				v->run_error = error;
				break;
			}
			if (kb_call_after_run(v, error)) {
				if (kb_take_kick(v, now)) {
					v->kicked = true;
					break;
				}
				continue;
			}
			if (kb_is_unexpected(v, error)) {
				v->unexpected_exit = true;
				break;
			}
			v->spurious_exits += !kb_kick_requested(v);
			if (now >= until)
				break;
			continue;
		}
		if (KB_LIKELY(recording)) {
			if (exits < v->samples_capacity)
				v->samples[exits] = kb_saturate(now - last);
			exits++;
			migrations += cpu != last_cpu;
			last = now;
			last_cpu = cpu;
			if (KB_UNLIKELY(now >= until))
				break;
		} else if (now >= from) {
			if (now >= until)
				break;
			recording = true;
			kb_window_opens(v);
			first = last = kb_stamp(clock_is_tsc, &cpu);
			last_cpu = cpu;
		}
	}
	v->window_first = first;
	v->window_last = last;
	v->exits = exits;
	v->migrations = migrations;
}

/*
 * Is kicked, again and again: by kickers that want to know how long it takes, that aim at the
 * window between the flag and KVM_RUN, or that pause all vCPUs. The conductor's kick ends it.
 */
static void kb_kick_loop(struct kb_vcpu *v)
{
	const bool clock_is_tsc = v->clock_is_tsc;
	uint32_t cpu;

	for (;;) {
		uint64_t now;
		int error;

		kb_come_round(v);
		if (kb_before_run(v)) {
			if (kb_take_kick(v, kb_stamp(clock_is_tsc, &cpu)))
				break;
			continue;
		}
#ifndef KB_WINDOW_IN_HOOK
		kb_window(v);
#endif
		error = ioctl(v->fd, KVM_RUN, 0) == 0 ? 0 : errno;
		now = kb_stamp(clock_is_tsc, &cpu);
		if (KB_LIKELY(!error && v->run->exit_reason == v->expected_exit)) {
			atomic_fetch_add_explicit(&v->exit_count, 1, memory_order_relaxed);
			continue;
		}
		if (error && error != EINTR && error != EAGAIN) {
			v->run_error = error;
			return;
		}
		if (kb_call_after_run(v, error)) {
			if (kb_take_kick(v, now))
				break;
		} else if (kb_is_unexpected(v, error)) {
			v->unexpected_exit = true;
			return;
		} else {
			v->spurious_exits += !kb_kick_requested(v);
		}
	}
	v->kicked = true;
}

KB_EXPORT const struct kb_protocol KB_PASTE(kb_protocol_, KB_PROTOCOL);
KB_EXPORT const struct kb_protocol KB_PASTE(kb_protocol_, KB_PROTOCOL) = {
    .abi = KB_PROTOCOL_ABI,
    .vcpu_size = sizeof(struct kb_vcpu),
    .name = KB_STRING(KB_PROTOCOL),
    .enter = kb_enter,
    .leave = kb_leave,
    .handler = kb_handler,
    .kick = kb_kick,
    .exit_loop = kb_exit_loop,
    .kick_loop = kb_kick_loop,
};
