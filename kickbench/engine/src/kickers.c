/* SPDX-License-Identifier: Apache-2.0 */
/* The kicking threads: their life, what they need, and what they leave. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static void *run_kicker(void *arg)
{
	struct kicker_thread *t = arg;
	struct kb_engine *e = t->engine;
	const uint32_t index = (uint32_t)(t - e->kicker_threads);
	unsigned int seen = atomic_load(&e->step);
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	t->tid = (pid_t)syscall(SYS_gettid);
	prctl(PR_SET_TIMERSLACK, 1); /* wake up when asked to, not up to 50 us later */
	t->kicks = allocate(e, e->kicks_capacity * sizeof(*t->kicks));
	atomic_store_explicit(&t->doing, KB_WAITING, memory_order_relaxed);
	finish_part(&e->kickers_pending);
	for (;;) {
		enum command command;

		seen = wait_for_step(e, seen);
		command = e->command; /* the conductor may change it once this part is finished */
		atomic_store_explicit(&t->doing, KB_IN_LOOP, memory_order_relaxed);
		if (command == RUN)
			kick_in_block(e, index);
		t->cpu = sched_getcpu();
		atomic_store_explicit(&t->doing, KB_WAITING, memory_order_relaxed);
		finish_part(&e->kickers_pending);
		if (command == QUIT)
			return NULL;
	}
}

static struct kicker_thread *allocate_threads(uint32_t n)
{
	const size_t bytes = (n ? n : 1) * sizeof(struct kicker_thread);
	struct kicker_thread *threads = aligned_alloc(KB_CACHE_LINE, bytes);

	if (threads)
		memset(threads, 0, bytes);
	return threads;
}

bool allocate_kickers(struct kb_engine *e, const struct kb_config *config)
{
	e->kickers = calloc(KB_MAX_KICKERS + 1, sizeof(*e->kickers));
	e->kicker_threads = allocate_threads(config->n_kickers);
	e->scratch = calloc(config->n_vcpus, sizeof(*e->scratch));
	e->kicks_capacity = config->kicks_capacity;
	e->pauses_capacity = config->pauses_capacity;
	if (e->pauses_capacity)
		e->pauses = allocate(e, e->pauses_capacity * sizeof(*e->pauses));
	if (!e->kickers || !e->kicker_threads || !e->scratch || (e->pauses_capacity && !e->pauses))
		return lacks(e, KB_MEMORY, ENOMEM);
	for (uint32_t i = 0; i <= KB_MAX_KICKERS; i++) {
		struct kb_kicker *k = &e->kickers[i];

		k->index = i;
		k->pid = getpid();
		k->transport = i == KB_CONDUCTOR ? KB_TGKILL : config->transport;
		if (i >= config->n_kickers && i != KB_CONDUCTOR)
			continue;
		k->targets = calloc(config->n_vcpus, sizeof(*k->targets));
		if (!k->targets)
			return lacks(e, KB_MEMORY, ENOMEM);
		for (uint32_t vcpu = 0; vcpu < config->n_vcpus; vcpu++)
			k->targets[vcpu].exitfd = -1;
	}
	return true;
}

bool create_timers(struct kb_engine *e, struct kb_kicker *k)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = e->signal};

		event._sigev_un._tid = e->vcpu_threads[i].v.tid;
		if (timer_create(CLOCK_MONOTONIC, &event, &k->targets[i].timer))
			return lacks(e, KB_TIMERS, errno);
		e->n_timers++;
	}
	return true;
}

static bool start_kicker(struct kb_engine *e, uint32_t index, const struct kb_config *config)
{
	struct kicker_thread *t = &e->kicker_threads[index];
	int error;

	if (config->transport == KB_PIDFD && e->vcpu_threads[0].v.pidfd < 0)
		return lacks(e, KB_PIDFDS, e->vcpu_threads[0].pidfd_error);
	if (config->transport == KB_TIMER && !create_timers(e, &e->kickers[index]))
		return false;
	t->engine = e;
	atomic_fetch_add(&e->kickers_pending, 1);
	error = start_thread(&t->thread, config->kicker_cpus, config->n_kicker_cpus, run_kicker, t);
	if (error) {
		atomic_fetch_sub(&e->kickers_pending, 1);
		return lacks(e, error == EINVAL ? KB_CPUS : KB_THREADS, error);
	}
	e->n_kickers++;
	return true;
}

/* Waits for the threads that were started, also if a later one could not be. */
bool start_kickers(struct kb_engine *e, const struct kb_config *config)
{
	bool fine = true;

	for (uint32_t i = 0; i < config->n_kickers && fine; i++)
		fine = start_kicker(e, i, config);
	if (!wait_for_each(&e->kickers_pending, START_MAX_S * NS_PER_S))
		return give_up(e, false);
	for (uint32_t i = 0; i < e->n_kickers && fine; i++)
		if (!e->kicker_threads[i].kicks)
			fine = lacks(e, KB_MEMORY, ENOMEM);
	return fine;
}

/* Only the timers that were created: 0 is a timer's id, too. */
static void delete_timers(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_timers; i++)
		timer_delete(e->kickers[i / e->n_vcpus].targets[i % e->n_vcpus].timer);
}

void release_kickers(struct kb_engine *e)
{
	delete_timers(e);
	for (uint32_t i = 0; e->kickers && i <= KB_MAX_KICKERS; i++) {
		struct kb_kicker *k = &e->kickers[i];

		for (uint32_t vcpu = 0; k->targets && vcpu < e->n_vcpus; vcpu++)
			if (k->targets[vcpu].exitfd >= 0)
				close(k->targets[vcpu].exitfd);
		free(k->targets);
	}
	for (uint32_t i = 0; e->kicker_threads && i < e->n_kickers; i++)
		if (e->kicker_threads[i].kicks)
			munmap(e->kicker_threads[i].kicks,
			       e->kicks_capacity * sizeof(struct kb_kick_record));
	if (e->pauses)
		munmap(e->pauses, e->pauses_capacity * sizeof(*e->pauses));
	free(e->scratch);
	free(e->kicker_threads);
	free(e->kickers);
}

const struct kb_kick_record *kb_engine_kicks(const struct kb_engine *e, uint32_t kicker,
					     uint64_t *count)
{
	*count = e->kicker_threads[kicker].n_kicks;
	return e->kicker_threads[kicker].kicks;
}

const struct kb_pause *kb_engine_pauses(const struct kb_engine *e, uint64_t *count)
{
	*count = e->n_pauses;
	return e->pauses;
}
