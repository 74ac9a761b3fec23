/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exactly once: does the guest agree with the host how many accesses it made?
 *
 * An access is an exit for PIO or MMIO. The host counts those that it gets, the guest those that it
 * has behind it. The two are compared between the blocks, where nothing is timed. The host is ahead
 * by the one access that is pending: the guest counts it when it runs again. After a loop that
 * ended with a kick there may be none. So the guest first runs to its next access then.
 *
 * An access that is done twice, because the vCPU was set back before it, puts the host ahead by one
 * more, and for good. An access that no device model got to see puts the guest ahead.
 */
#include "internal.h"

static bool read_guest_count(const struct vcpu_thread *t, uint32_t *count)
{
	if (!t->ring)
		return kb_guest_count(t->v.fd, count);
	*count = *(const volatile uint32_t *)&t->params->head;
	return true;
}

/* A paced guest whose exits are rarer is not waited for. */
#define MOST_GAP_NS	 1000000ull
#define MOST_INTERRUPTED 10

/*
 * Runs the guest to its next access, which is pending then. False: it did not come to one. The
 * protocol has left, so nothing but what it left behind ends KVM_RUN before that.
 */
static bool run_to_access(struct vcpu_thread *t)
{
	if (t->ring && t->params->mean_gap > to_cycles(t->engine, MOST_GAP_NS))
		return false;
	for (int i = 0; i < MOST_INTERRUPTED; i++) {
		const int error = ioctl(t->v.fd, KVM_RUN, 0) == 0 ? 0 : errno;

		if (kb_is_own_exit(&t->v, error))
			return true;
		if (error != EINTR && error != EAGAIN && t->v.run->exit_reason != KB_EXIT_REQUEST)
			return false;
		kb_set_immediate_exit(&t->v, 0);
	}
	return false;
}

void note_accesses(struct vcpu_thread *t, uint64_t exits, struct kb_block_result *r)
{
	if (!t->engine->guest_counts)
		return;
	t->of_block = r;
	t->exits_of_block = exits;
	t->in_doubt = !exits || t->v.gave_up_after == exits;
}

void compare_accesses(struct vcpu_thread *t)
{
	struct kb_block_result *r = t->of_block;
	uint32_t count;
	int64_t least;

	t->of_block = NULL;
	if (!r)
		return;
	if (t->in_doubt && run_to_access(t)) {
		t->exits_of_block++;
		t->in_doubt = false;
	}
	if (!read_guest_count(t, &count))
		return;
	least = t->in_doubt ? 0 : 1;
	t->ahead += (int64_t)t->exits_of_block - (int64_t)(uint32_t)(count - t->guest_count);
	t->guest_count = count;
	r->accesses = (int64_t)t->exits_of_block;
	if (t->ahead > 1) {
		r->twice = (int32_t)(t->ahead - 1);
		t->ahead = 1;
	} else if (t->ahead < least) {
		r->never = (int32_t)(least - t->ahead);
		t->ahead = least;
	}
}
