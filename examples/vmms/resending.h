/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What these loops share: that of unheeded.h, and a kicker that sends the signal again until it is
 * answered. No kick is lost for good, but one that lands between the flag and KVM_RUN takes at
 * least one period more.
 */
#include "unheeded.h"

static void sleep_us(long us)
{
	const struct timespec t = {0, us * 1000};

	nanosleep(&t, NULL);
}

/* The vCPU has not taken the kick, and its block has not ended by the clock meanwhile. */
static bool is_unanswered(const struct kb_vcpu *v, const struct kb_kicker *k)
{
	return atomic_load_explicit(&v->kick_requested, memory_order_acquire) & (1u << k->index) &&
	       atomic_load_explicit(&v->doing, memory_order_relaxed) != KB_WAITING;
}
