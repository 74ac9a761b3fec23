/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot loops, stamped out once for each protocol that includes this file (see protocol.h).
 *
 * Between two KVM_RUNs a loop makes no system call but those of the protocol, and allocates
 * nothing. Beside its stack and the page that it shares with KVM, it touches three cache lines of
 * its own: the flag, the constants, the sample that it writes.
 */
#include <kickbench/clock.h>

#ifndef KB_PROTOCOL
#error "define KB_PROTOCOL before including <kickbench/loop.h>"
#endif
#define KB_PASTE_(a, b) a##b
#define KB_PASTE(a, b)	KB_PASTE_(a, b)
#define KB_STRING_(a)	#a
#define KB_STRING(a)	KB_STRING_(a)

/* Each file is compiled a second time, -DKB_COPY=placebo: the same loop at another address. */
#ifdef KB_COPY
#define KB_SYMBOL KB_PASTE(KB_PASTE(kb_protocol_, KB_PROTOCOL), KB_PASTE(__, KB_COPY))
#else
#define KB_SYMBOL KB_PASTE(kb_protocol_, KB_PROTOCOL)
#endif

/* Neither the guest's own exit nor one that a late kick explains. */
static inline bool kb_is_unexpected(const struct kb_vcpu *v, int error)
{
	return !error && v->run->exit_reason != KB_EXIT_REQUEST;
}

/*
 * All that is not a plain exit of the guest is handled out of line, and closed to the optimizer. So
 * the hot instructions of the exit loop are the same in all protocols whose kb_before_run only
 * looks at the flag, and the compiler adds nothing to the difference between them.
 */
#if __has_attribute(noipa)
#define KB_OUT_OF_LINE __attribute__((noinline, cold, noipa))
#else
#define KB_OUT_OF_LINE __attribute__((noinline, cold))
#endif
/* Every copy of a loop begins at the same place of a cache line. */
#define KB_LOOP __attribute__((aligned(KB_CACHE_LINE)))

/* The mark distinguishes a hook that hangs from a guest that hangs. */
static KB_OUT_OF_LINE bool kb_call_after_run(struct kb_vcpu *v, int error)
{
	bool taken;

	kb_mark(v, KB_IN_AFTER_RUN);
	taken = kb_after_run(v, error);
	kb_mark(v, KB_IN_LOOP);
	return taken;
}

/* The flag was seen without KVM_RUN. True: the block is over. */
static KB_OUT_OF_LINE bool kb_kick_seen(struct kb_vcpu *v)
{
	v->kicked = kb_take_kick(v, 0);
	return v->kicked;
}

/*
 * KVM_RUN returned at `now`, and not with the guest's own exit. True: the block is over. EAGAIN is
 * no spurious exit: a vCPU that waited for INIT and SIPI got one, and is to be entered again
 * (kvm_arch_vcpu_ioctl_run() in arch/x86/kvm/x86.c).
 */
static KB_OUT_OF_LINE bool kb_other_return(struct kb_vcpu *v, int error, uint64_t now,
					   uint64_t exits)
{
	v->gave_up_after = v->early_exits + exits;
	if (error && error != EINTR && error != EAGAIN) {
		v->run_error = error;
		return true;
	}
	if (kb_call_after_run(v, error)) {
		v->kicked = kb_take_kick(v, now);
		return v->kicked;
	}
	v->unexpected_exit = kb_is_unexpected(v, error);
	if (!v->unexpected_exit && error != EAGAIN && !kb_kick_requested(v))
		kb_note_spurious(v, now, exits);
	return v->unexpected_exit;
}

/* Before the window: KVM_RUN returned at `now`. True: the window opens. */
static KB_OUT_OF_LINE bool kb_early_return(struct kb_vcpu *v, int error, uint64_t now)
{
	v->early_exits += kb_is_own_exit(v, error);
	return kb_window_opens(v, now);
}

/*
 * Measures exits: runs the vCPU until the window closes, or until the conductor kicks. The recorded
 * time goes on to the window's end, also if the guest made no exit by then.
 */
static KB_LOOP void kb_exit_loop(struct kb_vcpu *v)
{
	const bool clock_is_counter = v->clock_is_counter;
	uint64_t first = 0, last = 0, until = 0, exits = 0;
	uint32_t cpu = KB_CPU_UNKNOWN, last_cpu = KB_CPU_UNKNOWN, migrations = 0;
	bool recording = false;

	for (;;) {
		uint64_t now;
		int error;

		if (KB_UNLIKELY(kb_before_run(v))) {
			if (kb_kick_seen(v))
				break;
			continue;
		}
		error = ioctl(v->fd, KVM_RUN, 0) == 0 ? 0 : errno;
		now = kb_stamp(clock_is_counter, &cpu);

		if (!kb_is_own_exit(v, error)) {
			if (kb_other_return(v, error, now, exits) || (recording && now >= until))
				break;
			if (recording)
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
		} else if (kb_early_return(v, error, now)) {
			until = v->record_until;
			if (now >= until)
				break;
			recording = true;
			first = last = kb_stamp(clock_is_counter, &cpu);
			last_cpu = cpu;
		}
	}
	v->window_first = first;
	v->window_last = recording && last < until ? until : last;
	v->exits = exits;
	v->migrations = migrations;
}

/* Around KVM_RUN in the kick loop: a thread that sleeps elsewhere is no halted guest. */
static inline void kb_count_run(struct kb_vcpu *v)
{
	atomic_store_explicit(&v->runs, atomic_load_explicit(&v->runs, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/*
 * The guest's last exit is only half done: KVM takes the result of PIO, MMIO or a hypercall, and
 * moves the guest's RIP on, at the next KVM_RUN. The guest's state must not be saved before that
 * (Documentation/virt/kvm/api.rst, KVM_EXIT_IO).
 */
static inline bool kb_leaves_io(const struct kb_vcpu *v)
{
	return v->run->exit_reason == KVM_EXIT_IO || v->run->exit_reason == KVM_EXIT_MMIO ||
	       v->run->exit_reason == KVM_EXIT_HYPERCALL;
}

/* Called before the kick is taken, because the vCPU is paused from then on. False: it failed. */
static KB_OUT_OF_LINE bool kb_call_finish_exit(struct kb_vcpu *v)
{
#ifdef KB_HAS_FINISH_EXIT
	v->gave_up_after = atomic_load_explicit(&v->exit_count, memory_order_relaxed);
	kb_mark(v, KB_IN_FINISH_EXIT);
	v->run_error = -kb_finish_exit(v);
	v->finish_failed = v->run_error != 0;
	kb_mark(v, KB_IN_LOOP);
#endif
	return !v->run_error;
}

/*
 * Is kicked again and again, by kickers that time their kicks, that aim at the window between the
 * flag and KVM_RUN, or that pause all vCPUs. The conductor's kick ends it.
 */
static KB_LOOP void kb_kick_loop(struct kb_vcpu *v)
{
	const bool clock_is_counter = v->clock_is_counter;
	bool io_is_pending = false;
	uint32_t cpu;

	for (;;) {
		uint64_t now;
		int error;

		kb_come_round(v);
		if (kb_before_run(v)) {
			if (io_is_pending && !kb_call_finish_exit(v))
				return;
			io_is_pending = false;
			if (kb_take_kick(v, 0))
				break;
			continue;
		}
#ifndef KB_WINDOW_IN_HOOK
		kb_window(v);
#endif
		if (v->resuming)
			v->entered_at = kb_stamp(clock_is_counter, &cpu);
		kb_count_run(v);
		error = ioctl(v->fd, KVM_RUN, 0) == 0 ? 0 : errno;
		now = kb_stamp(clock_is_counter, &cpu);
		kb_count_run(v);
		kb_came_back(v, error);
		if (kb_is_own_exit(v, error)) {
			atomic_fetch_add_explicit(&v->exit_count, 1, memory_order_relaxed);
			io_is_pending = kb_leaves_io(v);
			continue;
		}
		io_is_pending = false;
		v->gave_up_after = atomic_load_explicit(&v->exit_count, memory_order_relaxed);
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
		} else if (error != EAGAIN) {
			v->spurious_exits += kb_is_spurious(v);
		}
	}
	v->kicked = true;
}

KB_EXPORT const struct kb_protocol KB_SYMBOL;
KB_EXPORT const struct kb_protocol KB_SYMBOL = {
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
