/* SPDX-License-Identifier: Apache-2.0 */
/* When the kickers of a block kick: in volleys, aimed at a window, or all vCPUs to pause them. */
#include "internal.h"
#include "random.h"

#include <kickbench/mark.h>

#include <stdlib.h>
#include <string.h>

#define LEAST_GAP_NS   1000   /* one draw takes less time than the gap that it draws */
#define STATE_LOOK_NS  60000  /* how long before the kick to look at the vCPU's state */
#define AIM_MARGIN_NS  1500   /* a window that is nearer cannot be aimed at any more */
#define AIM_STEP_NS    25     /* how far the aim moves after each kick */
#define AIM_SPREAD_NS  200    /* how far around the aim kicks are sent */
#define NUDGE_AGAIN_NS 200000 /* when to nudge a vCPU again that has not come round */
#define MAX_NUDGES     5

/* Uniform in [mean / 2, 3 / 2 mean). */
uint64_t random_gap(uint64_t *state, uint64_t mean)
{
	return mean / 2 + (mean ? random_next(state) % mean : 0);
}

/* The first moment that is still to come. A late kicker skips moments, and is in time again. */
static uint64_t next_volley(struct kick_in_flight *k, uint64_t *random, uint64_t gap, uint64_t next)
{
	const uint64_t now = stamp(k->vcpu);

	do {
		next += random_gap(random, gap);
		k->volley++;
	} while (next < now);
	return next;
}

/* A state that needs no look ahead: see is_in_state(). */
static bool shows_at_any_moment(uint32_t state)
{
	return state == KB_IN_USERSPACE || state == KB_POLLED || state == KB_HALTED_INSIDE;
}

/* All kickers draw the same times from the same seed, so that they kick at once. */
static void kick_in_volleys(struct kb_engine *e, struct kick_in_flight *k)
{
	const uint64_t least = to_cycles(e, LEAST_GAP_NS), wanted = to_cycles(e, e->plan.gap_ns);
	const uint64_t gap = wanted > least ? wanted : least;
	const uint64_t shortest = to_cycles(e, STATE_LOOK_NS);
	const uint64_t longest = gap / 2 > shortest ? gap / 2 : shortest;
	uint64_t random = random_state(e->plan.seed, e->block_index);
	uint64_t next = e->record_from + random_next(&random) % gap, look = shortest;
	uint32_t vcpu = k->kicker->index;

	for (;; next = next_volley(k, &random, gap, next)) {
		uint64_t begun, took;
		bool met;

		if (next >= e->record_until || k->thread->n_kicks == e->kicks_capacity)
			return;
		k->vcpu = &e->vcpu_threads[vcpu++ % e->n_vcpus];
		wait_until(e, k->vcpu, next - look);
		begun = stamp(k->vcpu);
		met = is_in_state(k->vcpu, e->plan.state);
		took = stamp(k->vcpu) - begun;
		if (took > look) /* a slow machine: begin earlier ... */
			look = 2 * took < longest ? 2 * took : longest;
		else if (2 * took < shortest) /* ... unless another thread had its turn */
			look = shortest;
		if (begun + took > next)
			continue; /* the kick before, or the look, took too long */
		wait_until(e, k->vcpu, next);
		if (shows_at_any_moment(e->plan.state))
			met = is_in_state(k->vcpu, e->plan.state);
		if (!kick_once(k, met))
			return;
	}
}

/* Gets a vCPU out of KVM_RUN by a signal that is no kick, so that it comes round. */
static void nudge(const struct kick_in_flight *k)
{
	struct kb_vcpu *v = &k->vcpu->v;

	atomic_store_explicit(&v->nudged, true, memory_order_relaxed);
	syscall(SYS_tgkill, k->kicker->pid, v->tid, v->signal);
}

/*
 * Waits for a window that is later than the vCPU's turn `last`. After a kick that returned late the
 * vCPU is in the guest again, past a window that nobody aimed at: it is nudged. A vCPU that shares
 * its CPU with the kicker never is in time: after MAX_NUDGES any moment will do. False when the
 * block is over.
 */
static bool wait_for_window(struct kb_engine *e, struct kick_in_flight *k, unsigned int *last,
			    uint64_t *window_at)
{
	const uint64_t width = to_cycles(e, e->plan.window_ns ? e->plan.window_ns : 0);
	const uint64_t margin = to_cycles(e, e->plan.window_ns ? 0 : AIM_MARGIN_NS);
	uint64_t next_nudge = 0;
	unsigned int spins = 0, nudges = 0;

	for (;;) {
		const struct kb_vcpu *v = &k->vcpu->v;
		const unsigned int turn = atomic_load_explicit(&v->turn, memory_order_acquire);
		const uint64_t now = stamp(k->vcpu);

		*window_at = atomic_load_explicit(&v->window_at, memory_order_relaxed);
		if (now >= e->record_until || !is_busy(k->vcpu))
			return false;
		if (turn != *last && (now + margin < *window_at + width || nudges == MAX_NUDGES)) {
			*last = turn;
			return true;
		}
		if (turn != 0 && now >= *window_at + width && now >= next_nudge &&
		    in_kvm_run(k->vcpu) && nudges < MAX_NUDGES) {
			nudge(k);
			nudges++;
			next_nudge = stamp(k->vcpu) + to_cycles(e, NUDGE_AGAIN_NS);
		}
		relax(e, &spins);
	}
}

/*
 * Kicks into each window. One that is held open is kicked into at once. The natural one is aimed
 * at: the dangerous kicks set their flag just after the thread's last look at it. So the aim moves
 * to later when that look saw the kick, and to earlier when it did not.
 */
static void kick_at_window(struct kb_engine *e, struct kick_in_flight *k)
{
	const bool natural = !e->plan.window_ns;
	const int64_t step = (int64_t)to_cycles(e, AIM_STEP_NS);
	const int64_t spread = (int64_t)to_cycles(e, AIM_SPREAD_NS);
	const int64_t most = (int64_t)to_cycles(e, e->plan.userspace_ns / 2);
	uint64_t random = random_state(e->plan.seed, k->kicker->index);
	unsigned int turn = 0;
	uint64_t window_at;
	int64_t *aim = &k->thread->aim;

	k->vcpu = &e->vcpu_threads[k->kicker->index % e->n_vcpus];
	while (k->thread->n_kicks < e->kicks_capacity && wait_for_window(e, k, &turn, &window_at)) {
		k->volley = turn;
		if (natural)
			wait_until(e, k->vcpu,
				   window_at + (uint64_t)(*aim - spread / 2 +
							  (int64_t)(random_next(&random) %
								    (uint64_t)(spread + 1))));
		if (!kick_once(k, true))
			return;
		*aim += k->seen && !k->landed ? step : -step;
		*aim = *aim > most ? most : *aim < -most ? -most : *aim;
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void note_pause(struct kb_engine *e, uint64_t begun, uint64_t sending, uint32_t rescues)
{
	struct kb_pause *pause = &e->pauses[e->n_pauses++];
	uint64_t clock = 0, state = 0;
	int32_t not_run = 0;

	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		const struct vcpu_thread *t = &e->vcpu_threads[i];
		const uint64_t taken_at = t->v.acks[0].taken_at;

		e->scratch[i] = taken_at > begun ? taken_at - begun : 0;
		not_run += !t->ran_before;
		if (e->plan.after & KB_TELL_CLOCK && t->clock_at - begun > clock)
			clock = t->clock_at - begun;
		if (e->plan.after & KB_READ_STATE && t->state_at - begun > state)
			state = t->state_at - begun;
	}
	qsort(e->scratch, e->n_vcpus, sizeof(*e->scratch), compare);
	*pause = (struct kb_pause){
	    .at = begun - e->record_from,
	    .send = (int64_t)sending,
	    .first = e->scratch[0],
	    .median = e->scratch[(e->n_vcpus - 1) / 2],
	    .last = e->scratch[e->n_vcpus - 1],
	    .clock = (int64_t)clock,
	    .state = (int64_t)state,
	    .block = e->block_index,
	    .rescues = rescues,
	    /* A guest that halts leaves no sign that it ran, and a kick may be its own sign. */
	    .not_run = e->vcpu_threads[0].v.expected_exit == KVM_EXIT_HLT ? UNKNOWN : not_run,
	};
}

/* Every vCPU has come round since it was resumed: it is in KVM_RUN again, or about to be. */
static bool all_came_round(struct kb_engine *e, const uint64_t *turns)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		while (atomic_load_explicit(&e->vcpu_threads[i].v.turn, memory_order_acquire) ==
		       turns[i]) {
			if (stamp(&e->vcpu_threads[0]) >= e->record_until)
				return false;
			doze();
		}
	return true;
}

static bool wait_for_vcpu(struct kick_in_flight *k, uint32_t vcpu, uint32_t *rescues)
{
	bool lost = false;

	k->vcpu = &k->engine->vcpu_threads[vcpu];
	return wait_taken(k, &lost, rescues);
}

/* Kicks the vCPUs one by one, and waits for each before the next. */
static bool pause_one_by_one(struct kick_in_flight *k, uint64_t *sending, uint32_t *rescues)
{
	for (uint32_t i = 0; i < k->engine->n_vcpus; i++) {
		k->vcpu = &k->engine->vcpu_threads[i];
		send_kick(k);
		*sending += k->returned - k->sent;
		if (!wait_for_vcpu(k, i, rescues))
			return false;
	}
	return true;
}

/* Kicks all vCPUs, then waits for each. */
static bool pause_at_once(struct kick_in_flight *k, uint64_t *sending, uint32_t *rescues)
{
	struct kb_engine *e = k->engine;
	const uint64_t begun = stamp(&e->vcpu_threads[0]);

	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		k->vcpu = &e->vcpu_threads[i];
		send_kick(k);
	}
	k->sent = stamp(&e->vcpu_threads[0]);
	*sending = k->sent - begun;
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		if (!wait_for_vcpu(k, i, rescues))
			return false;
	return true;
}

/* Waits until each vCPU's thread has done what follows. False when one has left its loop. */
static bool wait_followed(struct kb_engine *e, const struct kb_kicker *kicker)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct vcpu_thread *t = &e->vcpu_threads[i];

		while (atomic_load_explicit(&t->followed, memory_order_acquire) !=
		       kicker->targets[i].requests) {
			if (!is_busy(t))
				return false;
			doze();
		}
	}
	return true;
}

/* As a pause of a VM does. False when it cannot be done. */
static bool pause_once(struct kb_engine *e, struct kick_in_flight *k)
{
	uint64_t begun, sending = 0;
	uint32_t rescues = 0;
	bool paused;

	KB_PUT_MARK(KB_MARK_PAUSE);
	begun = stamp(&e->vcpu_threads[0]);
	paused = (e->plan.one_by_one ? pause_one_by_one : pause_at_once)(k, &sending, &rescues);
	if (!paused)
		return false;
	KB_PUT_MARK(KB_MARK_PAUSED);
	if (e->plan.after && !wait_followed(e, k->kicker))
		return false;
	note_pause(e, begun, sending, rescues);
	return true;
}

/*
 * The first kicker pauses all vCPUs, again and again, until the block is over. Without a gap it
 * does not wait for the vCPUs to run meanwhile.
 */
static void pause_all(struct kb_engine *e, struct kick_in_flight *k)
{
	const uint64_t gap = to_cycles(e, e->plan.gap_ns);
	uint64_t random = random_state(e->plan.seed, 0);
	bool fine = true;

	if (k->kicker->index != 0)
		return;
	memset(e->scratch, 0, e->n_vcpus * sizeof(*e->scratch));
	while (fine && (!gap || all_came_round(e, e->scratch)) &&
	       e->n_pauses < e->pauses_capacity) {
		if (gap)
			wait_until(e, &e->vcpu_threads[0],
				   stamp(&e->vcpu_threads[0]) + random_gap(&random, gap));
		if (stamp(&e->vcpu_threads[0]) >= e->record_until)
			return;
		fine = pause_once(e, k);
		for (uint32_t i = 0; i < e->n_vcpus; i++)
			e->scratch[i] =
			    atomic_load_explicit(&e->vcpu_threads[i].v.turn, memory_order_acquire);
		atomic_fetch_add_explicit(&e->resumed, 1, memory_order_release);
		futex_wake_all(&e->resumed);
	}
}

/* By enum kb_kicking; NULL: a kicker has nothing to do. */
static void (*const patterns[])(struct kb_engine *, struct kick_in_flight *) = {
    [KB_NO_KICKS] = NULL,
    [KB_VOLLEYS] = kick_in_volleys,
    [KB_AIMED] = kick_at_window,
    [KB_PAUSES] = pause_all,
};

void kick_in_block(struct kb_engine *e, uint32_t index)
{
	struct kick_in_flight k = {
	    .engine = e,
	    .thread = &e->kicker_threads[index],
	    .kicker = &e->kickers[index],
	    .vcpu = &e->vcpu_threads[0],
	};
	void (*pattern)(struct kb_engine *, struct kick_in_flight *) = patterns[e->plan.kicking];

	/* Kicks that a block left behind were forgotten when it was over. */
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		k.kicker->targets[i].requests = atomic_load_explicit(
		    &e->vcpu_threads[i].v.acks[index].taken, memory_order_relaxed);
	wait_for_begin(e, -1);
	wait_until(e, k.vcpu, e->record_from);
	if (pattern)
		pattern(e, &k);
}
