/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a kicking thread waits: exactly, but it leaves its CPU to the thread that it waits for. A
 * thread that makes noise only sleeps.
 */
#include "internal.h"

#define YIELD_SPINS	1024  /* yield now and then: the other thread may need this CPU */
#define SLEEP_MARGIN_NS 60000 /* sleep until shortly before, then spin */
#define DOZE_NS		20000

/* A thread that pauses a VM sleeps while the vCPUs answer: they may need its CPU. */
void doze(void)
{
	const struct timespec t = {0, DOZE_NS};

	nanosleep(&t, NULL);
}

/*
 * With one CPU, the other thread runs only when this one yields. A thread of lower priority runs
 * only when this one sleeps.
 */
void relax(const struct kb_engine *e, unsigned int *spins)
{
	if (!e->one_cpu && ++*spins % YIELD_SPINS != 0)
		kb_relax();
	else if (e->realtime)
		doze();
	else
		sched_yield();
}

/* Sleeps until `margin_ns` before the moment. False when that is over. */
static bool sleep_before(const struct kb_engine *e, uint64_t now, uint64_t until, int64_t margin_ns)
{
	const int64_t left_ns = (int64_t)((double)(until - now) / e->clock_hz * 1e9) - margin_ns;
	const struct timespec rest = {left_ns / NS_PER_S, left_ns % NS_PER_S};

	if (left_ns <= 0)
		return false;
	nanosleep(&rest, NULL);
	return true;
}

void wait_until(const struct kb_engine *e, const struct vcpu_thread *t, uint64_t until)
{
	unsigned int spins = 0;
	uint64_t now;

	while ((now = stamp(t)) < until)
		if (!sleep_before(e, now, until, SLEEP_MARGIN_NS))
			relax(e, &spins);
}

void sleep_until(const struct kb_engine *e, const struct vcpu_thread *t, uint64_t until)
{
	uint64_t now;

	while ((now = stamp(t)) < until && sleep_before(e, now, until, 0))
		;
}
