/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stopper: the thread that kicks for the conductor, at the end of a block, the vCPUs that do
 * not leave by themselves.
 *
 * The conductor does not kick itself: the kick is the protocol's own code, and the conductor must
 * be left to report a kick that never returns.
 */
#include "internal.h"

#define KICK_PERIOD_NS 5000000ll /* a kick that is not taken is sent again: the rescue */
#define STOP_MAX_S     20	 /* in all; KICK_MAX_S without a vCPU that leaves */

static unsigned int left(struct kb_engine *e)
{
	return atomic_load_explicit(&e->pending, memory_order_acquire);
}

static void kick_one(struct kb_engine *e, struct vcpu_thread *t, bool again)
{
	int error;

	if (!is_busy(t))
		return;
	begin_kick(&e->stopper, t);
	error = e->block.protocol->kick(&t->v, &e->kickers[KB_CONDUCTOR]);
	end_kick(&e->stopper);
	if (error)
		e->stopper.error = -error;
	e->results[t->v.index].rescues += again;
}

/* Kicks every vCPU that is still running; again and again, until all have left, or none does. */
static void stop(struct kb_engine *e)
{
	const uint64_t begun = kb_raw_ns();
	uint64_t moved = begun, now = begun;
	unsigned int before = left(e);

	for (bool again = false; now - begun < STOP_MAX_S * NS_PER_S; again = true) {
		for (uint32_t i = 0; i < e->n_vcpus && left(e); i++)
			kick_one(e, &e->vcpu_threads[i], again);
		if (wait_for_none(&e->pending, KICK_PERIOD_NS))
			return;
		now = kb_raw_ns();
		if (left(e) != before) {
			before = left(e);
			moved = now;
		} else if (now - moved >= KICK_MAX_S * NS_PER_S) {
			return;
		}
	}
}

static void *run_stopper(void *arg)
{
	struct kb_engine *e = arg;
	struct kicker_thread *t = &e->stopper;
	unsigned int seen = 0, stops;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	t->tid = (pid_t)syscall(SYS_gettid);
	for (;;) {
		atomic_store_explicit(&t->doing, KB_WAITING, memory_order_relaxed);
		finish_part(&e->stopper_pending);
		while ((stops = atomic_load_explicit(&e->stops, memory_order_acquire)) == seen)
			futex_wait(&e->stops, seen, -1);
		seen = stops;
		atomic_store_explicit(&t->doing, KB_IN_LOOP, memory_order_relaxed);
		if (e->command == QUIT)
			return NULL;
		stop(e);
	}
}

/* The stopper runs on the CPUs of the conductor, who starts it. */
bool start_stopper(struct kb_engine *e)
{
	int error;

	atomic_store(&e->stopper_pending, 1);
	error = start_thread(&e->stopper.thread, NULL, 0, run_stopper, e);
	if (error)
		return lacks(e, KB_THREADS, error);
	e->has_stopper = true;
	return wait_for_each(&e->stopper_pending, START_MAX_S * NS_PER_S) || give_up(e, false);
}

static void call_stopper(struct kb_engine *e)
{
	atomic_fetch_add_explicit(&e->stops, 1, memory_order_release);
	futex_wake_all(&e->stops);
}

/* False when a vCPU, or the protocol's kick, is stuck. */
bool stop_vcpus(struct kb_engine *e)
{
	atomic_store_explicit(&e->stopper_pending, 1, memory_order_relaxed);
	call_stopper(e);
	return (wait_for_kicks(e, &e->stopper_pending, &e->stopper, 1, 2 * STOP_MAX_S * NS_PER_S) &&
		left(e) == 0) ||
	       give_up(e, true);
}

/* The caller has set the command to QUIT. */
void quit_stopper(struct kb_engine *e)
{
	if (!e->has_stopper)
		return;
	call_stopper(e);
	pthread_join(e->stopper.thread, NULL);
}
