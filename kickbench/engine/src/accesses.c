/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exactly once: does the guest agree with the host how many accesses it made?
 *
 * An access is an exit for PIO or MMIO. The host counts those that it gets, the guest those that it
 * has behind it. The two are compared between the blocks, where nothing is timed. The host is ahead
 * by the one access that is pending: the guest counts it when it runs again. So a loop that ends
 * with an access is ahead by exactly one, and a loop that ends with a kick by one or none.
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

/* For the vCPU's thread, after a block with so many exits, warm-up included. */
void compare_accesses(struct vcpu_thread *t, uint64_t exits, struct kb_block_result *r)
{
	const int64_t least = exits && t->v.gave_up_after != exits ? 1 : 0;
	uint32_t count;

	if (!t->engine->guest_counts || !read_guest_count(t, &count))
		return;
	t->ahead += (int64_t)exits - (int64_t)(uint32_t)(count - t->guest_count);
	t->guest_count = count;
	r->accesses = (int64_t)exits;
	if (t->ahead > 1) {
		r->twice = (int32_t)(t->ahead - 1);
		t->ahead = 1;
	} else if (t->ahead < least) {
		r->never = (int32_t)(least - t->ahead);
		t->ahead = least;
	}
}
