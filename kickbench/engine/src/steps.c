/* SPDX-License-Identifier: Apache-2.0 */
/* The steps that all threads take together, and how they wait for each other (futex(2)). */
#include "internal.h"

#include <limits.h>
#include <linux/futex.h>

#define STEP_MAX_S 10 /* a thread that does not arrive for longer is stuck */

void futex_wait(atomic_uint *word, unsigned int value, int64_t timeout_ns)
{
	struct timespec t = {timeout_ns / NS_PER_S, timeout_ns % NS_PER_S};

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &t, NULL, 0);
}

void futex_wake_all(atomic_uint *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void begin_step(struct kb_engine *e, enum command command)
{
	e->command = command;
	atomic_store_explicit(&e->pending, e->n_vcpus, memory_order_relaxed);
	atomic_store_explicit(&e->kickers_pending, e->n_kickers, memory_order_relaxed);
	atomic_store_explicit(&e->noise_pending, e->n_noise, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->step, 1, memory_order_release);
	futex_wake_all(&e->step);
}

/* In the threads: waits for a step after the one that was seen. */
unsigned int wait_for_step(struct kb_engine *e, unsigned int seen)
{
	unsigned int step;

	while ((step = atomic_load_explicit(&e->step, memory_order_acquire)) == seen)
		futex_wait(&e->step, seen, -1);
	return step;
}

void finish_part(atomic_uint *pending)
{
	if (atomic_fetch_sub_explicit(pending, 1, memory_order_acq_rel) == 1)
		futex_wake_all(pending);
}

/* Waits for the count to fall to 0; false when `timeout_ns` passed first. */
bool wait_for_none(atomic_uint *pending, int64_t timeout_ns)
{
	const uint64_t until = kb_raw_ns() + (uint64_t)timeout_ns;
	unsigned int left;

	while ((left = atomic_load_explicit(pending, memory_order_acquire))) {
		uint64_t now = kb_raw_ns();

		if (now >= until)
			return false;
		futex_wait(pending, left, (int64_t)(until - now));
	}
	return true;
}

/* The same, however long it takes in all; false when no thread arrived for `patience_ns`. */
bool wait_for_each(atomic_uint *pending, int64_t patience_ns)
{
	unsigned int before;

	do
		before = atomic_load_explicit(pending, memory_order_acquire);
	while (!wait_for_none(pending, patience_ns) &&
	       atomic_load_explicit(pending, memory_order_acquire) != before);
	return atomic_load_explicit(pending, memory_order_acquire) == 0;
}

/* False when a thread is stuck. */
bool do_step(struct kb_engine *e, enum command command)
{
	begin_step(e, command);
	return wait_for_each(&e->pending, STEP_MAX_S * NS_PER_S) &&
	       wait_for_each(&e->kickers_pending, STEP_MAX_S * NS_PER_S) &&
	       wait_for_each(&e->noise_pending, STEP_MAX_S * NS_PER_S);
}

/* -- The begin of a block: the first thread that asks for it sets its window for all ------------
 */

void begin_block(struct kb_engine *e)
{
	unsigned int begun = NOT_BEGUN;

	if (!atomic_compare_exchange_strong(&e->begun, &begun, BEGINS))
		return;
	e->record_from = now_cycles(e) + e->warmup_cycles;
	e->record_until = e->record_from + e->block_cycles;
	atomic_store_explicit(&e->begun, BEGUN, memory_order_release);
	futex_wake_all(&e->begun);
}

bool has_begun(struct kb_engine *e)
{
	return atomic_load_explicit(&e->begun, memory_order_acquire) == BEGUN;
}

/* Waits for the block to begin; false when `timeout_ns` (< 0: none) passed first. */
bool wait_for_begin(struct kb_engine *e, int64_t timeout_ns)
{
	const uint64_t until = timeout_ns < 0 ? UINT64_MAX : kb_raw_ns() + (uint64_t)timeout_ns;
	unsigned int begun;

	while ((begun = atomic_load_explicit(&e->begun, memory_order_acquire)) != BEGUN) {
		uint64_t now = kb_raw_ns();

		if (now >= until)
			return false;
		futex_wait(&e->begun, begun, timeout_ns < 0 ? -1 : (int64_t)(until - now));
	}
	return true;
}
