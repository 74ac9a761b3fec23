/* SPDX-License-Identifier: Apache-2.0 */
/* The clock of the stamps: its rate, what a stamp costs, and whether the CPUs agree on it. */
#include "internal.h"

#include <stdlib.h>

#define STAMP_COST_TRIES 1000
#define MOMENT_TRIES	 64
#define STEP_TRIES	 4096
#define STEP_PARTS	 15
#define STEP_SPINS	 61 /* no two stamps in a row are equally far apart */

uint64_t now_cycles(const struct kb_engine *e)
{
	uint32_t cpu;

	return kb_stamp(e->vcpu_threads[0].v.clock_is_counter, &cpu);
}

uint64_t to_cycles(const struct kb_engine *e, uint64_t ns)
{
	return (uint64_t)((double)ns * e->clock_hz / 1e9);
}

/* One moment by both clocks: the TSC was read between two readings of the other. */
struct moment {
	uint64_t tsc, raw_ns, within_ns;
};

/* The narrowest of some tries: in it nothing came between the clocks. */
static struct moment read_both(void)
{
	struct moment best = {.within_ns = UINT64_MAX};
	uint32_t cpu;

	for (int i = 0; i < MOMENT_TRIES; i++) {
		const uint64_t before = kb_raw_ns(), tsc = kb_stamp(true, &cpu);
		const uint64_t within = kb_raw_ns() - before;

		if (within < best.within_ns)
			best = (struct moment){tsc, before + within / 2, within};
	}
	return best;
}

double kb_clock_calibrate(uint64_t ns)
{
	const struct moment first = read_both();
	struct moment last;

	while (kb_raw_ns() - first.raw_ns < ns)
		;
	last = read_both();
	return (double)(last.tsc - first.tsc) / (double)(last.raw_ns - first.raw_ns) * 1e9;
}

uint64_t kb_clock_stamp_cost(int clock_is_counter)
{
	uint64_t least = UINT64_MAX;
	uint32_t cpu;

	for (int i = 0; i < STAMP_COST_TRIES; i++) {
		uint64_t first = kb_stamp(clock_is_counter, &cpu);
		uint64_t cost = kb_stamp(clock_is_counter, &cpu) - first;

		if (cost < least)
			least = cost;
	}
	return least;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		const uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/*
 * A clock that was seen to stand still has a step that is longer than a stamp takes: its least move
 * is the step, also if steps are rounded to whole ns, one up and one down. The step of any other
 * clock divides every distance. But a hypervisor sets off a CPU's TSC by any distance, from another
 * CPU's and now and then from what it was: so two stamps are of one CPU, and most parts agree.
 */
uint64_t kb_clock_step(int clock_is_counter)
{
	uint64_t least[STEP_PARTS] = {0}, common[STEP_PARTS] = {0}, last, now;
	unsigned int moved = 0;
	bool stood_still = false;
	uint32_t last_cpu, cpu;

	last = kb_stamp(clock_is_counter, &last_cpu);
	for (int i = 0; i < STEP_TRIES; i++, last = now, last_cpu = cpu) {
		const int part = i % STEP_PARTS;

		for (volatile int spin = i % STEP_SPINS; spin > 0; spin--)
			;
		now = kb_stamp(clock_is_counter, &cpu);
		if (cpu != last_cpu || now < last)
			continue;
		if (now == last) {
			stood_still = true;
			continue;
		}
		moved += !least[part];
		if (!least[part] || now - last < least[part])
			least[part] = now - last;
		common[part] = common_divisor(now - last, common[part]);
	}
	/* Parts in which the clock never moved come first, and say nothing. */
	qsort(least, STEP_PARTS, sizeof(*least), compare);
	qsort(common, STEP_PARTS, sizeof(*common), compare);
	return moved ? (stood_still ? least : common)[STEP_PARTS - 1 - moved / 2] : 1;
}

/* Two threads pass the last stamp to and fro; a stamp lower than the one received is a warp. */
struct warp {
	_Alignas(KB_CACHE_LINE) atomic_uint_fast64_t stamp;
	_Alignas(KB_CACHE_LINE) atomic_uint turn;
	uint32_t rounds;
	int64_t worst[2];
};

struct warp_side {
	struct warp *warp;
	unsigned int side;
};

static void *warp_thread(void *arg)
{
	const struct warp_side *s = arg;
	struct warp *w = s->warp;
	uint32_t cpu;

	for (uint32_t i = 0; i < w->rounds; i++) {
		uint64_t theirs, mine;

		for (unsigned int spins = 0;
		     atomic_load_explicit(&w->turn, memory_order_acquire) != s->side; spins++)
			if (spins % 1024 == 1023) /* the other may need this very CPU */
				sched_yield();
		theirs = atomic_load_explicit(&w->stamp, memory_order_relaxed);
		mine = kb_stamp(true, &cpu);
		if ((int64_t)(theirs - mine) > w->worst[s->side])
			w->worst[s->side] = (int64_t)(theirs - mine);
		atomic_store_explicit(&w->stamp, mine, memory_order_relaxed);
		atomic_store_explicit(&w->turn, 1 - s->side, memory_order_release);
	}
	return NULL;
}

int64_t kb_clock_warp_cycles(int cpu_a, int cpu_b, uint32_t rounds)
{
	const int32_t cpus[2] = {cpu_a, cpu_b};
	struct warp w = {.rounds = rounds};
	struct warp_side sides[2] = {{&w, 0}, {&w, 1}};
	pthread_t threads[2];
	unsigned int started = 0;

	for (; started < 2; started++) {
		if (start_thread(&threads[started], &cpus[started], 1, warp_thread,
				 &sides[started])) {
			/* The first waits for a turn that never comes: play the other side here. */
			if (started == 1)
				warp_thread(&sides[1]);
			break;
		}
	}
	for (unsigned int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	if (started < 2)
		return -1;
	return w.worst[0] > w.worst[1] ? w.worst[0] : w.worst[1];
}
