/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hands a cache line from one CPU to another and back, as CPUs hand over the word of a contended
 * spinlock: each spins on a load until the word says that it is its turn, then writes the word by
 * an atomic instruction (kernel/locking/qspinlock.c: atomic_cond_read_acquire(), then
 * atomic_try_cmpxchg). One hand-over is one such write, with the way of the line to its writer.
 *
 * It has no part in the engine's blocks, and needs no KVM.
 */
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>

#define LOOK_EVERY  (1u << 14) /* turns of the spinning loop: some ms at most */
#define HANDOVER_S  10	       /* a block that takes longer hangs */
#define FIRST_TURN  0u
#define SECOND_TURN 1u

/* The line, alone on its page: no neighbour's line is fetched along with it. */
struct line {
	_Alignas(KB_PAGE_BYTES) atomic_uint turn;
};

struct exchange {
	struct line *line;
	int32_t second_cpu;
	uint32_t handovers, bouts; /* an even number in a bout */
	uint64_t until_ns;
	atomic_bool over; /* one of the two waited too long; read seldom */
	bool moved;	  /* the second thread was not on its CPU at the end */
};

static bool is_over(struct exchange *x)
{
	if (kb_raw_ns() >= x->until_ns)
		atomic_store_explicit(&x->over, true, memory_order_relaxed);
	return atomic_load_explicit(&x->over, memory_order_relaxed);
}

/*
 * Takes the turn `mine` when it comes, and passes it on. False if it does not come. The loop reads
 * `x`, which lies on the first thread's stack, only seldom: what that thread writes beside it
 * would cost the other one a second line.
 */
static bool pass(struct exchange *x, atomic_uint *turn, unsigned int mine)
{
	unsigned int expected = mine, spins = 0;

	while (atomic_load_explicit(turn, memory_order_acquire) != mine) {
		kb_relax();
		if (++spins % LOOK_EVERY == 0 && is_over(x))
			return false;
	}
	return atomic_compare_exchange_strong_explicit(turn, &expected, !mine, memory_order_acq_rel,
						       memory_order_relaxed);
}

static void *run_second(void *arg)
{
	struct exchange *x = arg;
	atomic_uint *turn = &x->line->turn;
	/* One more: the first thread does not time the bout in which this one arrives. */
	uint64_t left = (uint64_t)(x->bouts + 1) * (x->handovers / 2);

	while (left && pass(x, turn, SECOND_TURN))
		left--;
	x->moved = sched_getcpu() != x->second_cpu;
	return NULL;
}

/* The first thread's part of a bout. Alone, it takes both turns. */
static bool run_bout(struct exchange *x, bool alone)
{
	atomic_uint *turn = &x->line->turn;

	for (uint32_t left = x->handovers / 2; left; left--)
		if (!pass(x, turn, FIRST_TURN) || (alone && !pass(x, turn, SECOND_TURN)))
			return false;
	return true;
}

static int run_first(struct exchange *x, bool alone, bool clock_is_counter, uint64_t *cycles)
{
	uint64_t before, now;
	uint32_t where;

	if (!run_bout(x, alone))
		return ETIMEDOUT;
	before = kb_stamp(clock_is_counter, &where);
	for (uint32_t i = 0; i < x->bouts; i++) {
		if (!run_bout(x, alone))
			return ETIMEDOUT;
		now = kb_stamp(clock_is_counter, &where);
		cycles[i] = now - before;
		before = now;
	}
	return 0;
}

/* The page comes from the node of the CPU that the calling thread is on. */
static int exchange(struct exchange *x, int32_t first_cpu, bool clock_is_counter, uint64_t *cycles)
{
	const bool alone = x->second_cpu == first_cpu;
	pthread_t second;
	int error;

	x->line = mmap(NULL, sizeof(*x->line), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (x->line == MAP_FAILED)
		return errno;
	error = alone ? 0 : start_thread(&second, &x->second_cpu, 1, run_second, x);
	if (!error) {
		error = run_first(x, alone, clock_is_counter, cycles);
		if (error)
			atomic_store_explicit(&x->over, true, memory_order_relaxed);
		if (!alone)
			pthread_join(second, NULL);
		/* The kernel moves a thread whose CPU goes offline. */
		if (!error && (x->moved || sched_getcpu() != first_cpu))
			error = EXDEV;
	}
	munmap(x->line, sizeof(*x->line));
	return error;
}

int kb_handover(int32_t first_cpu, int32_t second_cpu, int clock_is_counter, uint32_t handovers,
		uint32_t bouts, uint64_t *cycles)
{
	struct exchange x = {
	    .second_cpu = second_cpu,
	    .handovers = handovers,
	    .bouts = bouts,
	    .until_ns = kb_raw_ns() + HANDOVER_S * NS_PER_S,
	};
	union cpus before;
	int error = stand_on(&first_cpu, 1, &before);

	if (error)
		return error;
	error = exchange(&x, first_cpu, clock_is_counter, cycles);
	stand_back(&before);
	return error;
}
