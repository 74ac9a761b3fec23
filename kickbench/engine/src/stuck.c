/* SPDX-License-Identifier: Apache-2.0 */
/* Waits for threads that may hang, and finds the one that hangs. */
#include "internal.h"

#define LOOK_NS (NS_PER_S / 2)

static unsigned int kicks_made(const struct kicker_thread *threads, uint32_t n)
{
	unsigned int made = 0;

	for (uint32_t i = 0; i < n; i++)
		made += atomic_load_explicit(&threads[i].kicks_made, memory_order_relaxed);
	return made;
}

static const struct kicker_thread *in_hook(const struct kicker_thread *threads, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (atomic_load_explicit(&threads[i].doing, memory_order_relaxed) == KB_KICKING)
			return &threads[i];
	return NULL;
}

/*
 * Waits for threads that kick. False when `max_ns` passed first, or when one was in the protocol's
 * kick for KICK_MAX_S and none began another.
 */
bool wait_for_kicks(struct kb_engine *e, atomic_uint *pending, const struct kicker_thread *threads,
		    uint32_t n, int64_t max_ns)
{
	const uint64_t until = kb_raw_ns() + (uint64_t)max_ns;
	uint64_t moved = kb_raw_ns();
	unsigned int before = kicks_made(threads, n);

	while (!wait_for_none(pending, LOOK_NS)) {
		const unsigned int made = kicks_made(threads, n);
		const uint64_t now = kb_raw_ns();

		if (made != before || !in_hook(threads, n)) {
			before = made;
			moved = now;
		}
		e->failure.slow = now - moved < KICK_MAX_S * NS_PER_S;
		if (now >= until || !e->failure.slow)
			return false;
	}
	e->failure.slow = 0;
	return true;
}

static bool blame_kicker(struct kb_engine *e, const struct kicker_thread *t, int32_t index)
{
	e->failure.kicker = index;
	e->failure.vcpu = (int32_t)atomic_load_explicit(&t->target, memory_order_relaxed);
	e->failure.tid = t->tid;
	e->failure.doing = atomic_load_explicit(&t->doing, memory_order_relaxed);
	e->failure.protocol = e->block.protocol ? e->block.protocol->name : NULL;
	return false;
}

static bool blame_vcpu(struct kb_engine *e, const struct vcpu_thread *vcpu)
{
	e->failure.vcpu = (int32_t)vcpu->v.index;
	e->failure.tid = vcpu->v.tid;
	e->failure.doing = atomic_load_explicit(&vcpu->v.doing, memory_order_relaxed);
	e->failure.protocol = vcpu->protocol ? vcpu->protocol->name : NULL;
	return false;
}

static bool is_hook(uint8_t doing)
{
	return doing == KB_LEAVING || doing == KB_ENTERING || doing == KB_IN_AFTER_RUN ||
	       doing == KB_IN_FINISH_EXIT || doing == KB_IN_HANDLER;
}

static const struct vcpu_thread *find_vcpu(const struct kb_engine *e, bool only_in_hooks)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		const struct vcpu_thread *vcpu = &e->vcpu_threads[i];
		uint8_t doing = atomic_load_explicit(&vcpu->v.doing, memory_order_relaxed);

		if (only_in_hooks ? is_hook(doing) : doing != KB_WAITING)
			return vcpu;
	}
	return NULL;
}

static const struct kicker_thread *not_waiting(const struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_kickers; i++)
		if (atomic_load_explicit(&e->kicker_threads[i].doing, memory_order_relaxed) !=
		    KB_WAITING)
			return &e->kicker_threads[i];
	return NULL;
}

static bool blame_kick(struct kb_engine *e, const struct kicker_thread *t)
{
	if (!t->error)
		return false;
	e->failure.vcpu = (int32_t)atomic_load_explicit(&t->target, memory_order_relaxed);
	e->failure.kicking = 1;
	e->failure.error = t->error;
	return true;
}

/* Notes a kick that the protocol said it could not make. False if there was none. */
bool note_failed_kick(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_kickers; i++)
		if (blame_kick(e, &e->kicker_threads[i]))
			return true;
	return blame_kick(e, &e->stopper);
}

/*
 * Notes the thread that hangs: one in a hook of the protocol before all others. A vCPU that is
 * still in its loop is to blame only if it was asked to leave it. Always false.
 */
bool give_up(struct kb_engine *e, bool vcpus_were_told)
{
	const struct vcpu_thread *vcpu;
	const struct kicker_thread *t;

	e->failure.stuck = 1;
	if (in_hook(&e->stopper, 1))
		return blame_kicker(e, &e->stopper, KB_CONDUCTOR);
	if ((t = in_hook(e->kicker_threads, e->n_kickers)))
		return blame_kicker(e, t, (int32_t)(t - e->kicker_threads));
	if ((vcpu = find_vcpu(e, true)))
		return blame_vcpu(e, vcpu);
	/* A vCPU is still in its loop because the kick failed: that is what to report. */
	if (vcpus_were_told && note_failed_kick(e))
		return false;
	if (vcpus_were_told && (vcpu = find_vcpu(e, false)))
		return blame_vcpu(e, vcpu);
	if ((t = not_waiting(e)))
		return blame_kicker(e, t, (int32_t)(t - e->kicker_threads));
	return blame_kicker(e, &e->stopper, KB_CONDUCTOR);
}
