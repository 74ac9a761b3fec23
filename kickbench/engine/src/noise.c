/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Noise, as the other threads of a VMM make it: foreign signals to the vCPUs' threads, and threads
 * that take the siglock that all threads of the process share.
 *
 * Noise begins and ends with the recorded part of a block, in the blocks of all protocols alike.
 */
#include "internal.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static bool sends(const struct noise_thread *t)
{
	return t->engine->foreign_signal && t == t->engine->noise_threads;
}

/*
 * The signal is no kick. Go's runtime, for example, sends SIGURG to a thread whose goroutine has
 * run for 10 ms, whatever the thread does (sysmon in runtime/proc.go, preemptM in
 * runtime/signal_unix.go).
 */
static void send_foreign(struct kb_engine *e, uint32_t vcpu)
{
	if (!syscall(SYS_tgkill, getpid(), e->vcpu_threads[vcpu].v.tid, e->foreign_signal))
		e->results[vcpu].foreign_sent++;
}

/*
 * rt_sigprocmask takes current->sighand->siglock, but only if the mask changes (kernel/signal.c,
 * __set_current_blocked, Linux 6.12). Threads of a process share the sighand (CLONE_SIGHAND).
 * SIGURG is ignored by default, so nothing follows if one comes while it is not blocked.
 */
static void take_siglock(struct noise_thread *t)
{
	sigset_t urgent;

	sigemptyset(&urgent);
	sigaddset(&urgent, SIGURG);
	pthread_sigmask(t->siglock_taken++ % 2 ? SIG_BLOCK : SIG_UNBLOCK, &urgent, NULL);
}

/* At random times, uniform in half to three halves of the mean gap. A late thread catches up. */
static void make_noise(struct noise_thread *t)
{
	struct kb_engine *e = t->engine;
	const uint32_t index = (uint32_t)(t - e->noise_threads);
	const bool is_sender = sends(t);
	const uint64_t gap =
	    to_cycles(e, is_sender ? e->plan.foreign_gap_ns : e->plan.siglock_gap_ns);
	uint64_t random = random_state(e->plan.seed + index, e->block_index);
	uint64_t next = e->record_from + (gap ? random_next(&random) % gap : 0);
	uint32_t vcpu = e->block_index; /* a block may be shorter than a gap */

	for (; gap && next < e->record_until; next += random_gap(&random, gap)) {
		sleep_until(e, &e->vcpu_threads[0], next);
		if (stamp(&e->vcpu_threads[0]) >= e->record_until)
			return;
		if (is_sender)
			send_foreign(e, vcpu++ % e->n_vcpus);
		else
			take_siglock(t);
	}
}

static void *run_noise(void *arg)
{
	struct noise_thread *t = arg;
	struct kb_engine *e = t->engine;
	unsigned int seen = atomic_load(&e->step);
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_TIMERSLACK, 1);
	finish_part(&e->noise_pending);
	for (;;) {
		enum command command;

		seen = wait_for_step(e, seen);
		command = e->command;
		t->siglock_taken = 0;
		if (command == RUN) {
			wait_for_begin(e, -1);
			make_noise(t);
		}
		finish_part(&e->noise_pending);
		if (command == QUIT)
			return NULL;
	}
}

/* The threads run on the CPUs of the conductor, who starts them. */
bool start_noise(struct kb_engine *e, const struct kb_config *config)
{
	const uint32_t n = config->n_siglock_threads + (config->foreign_signal != 0);
	/* As the Go runtime has it for its SIGURG (setsig, runtime/os_linux.go). */
	struct sigaction action = {.sa_handler = foreign_signal_handler, .sa_flags = SA_RESTART};
	int error = 0;

	if (!n)
		return true;
	e->noise_threads = aligned_alloc(KB_CACHE_LINE, n * sizeof(*e->noise_threads));
	if (!e->noise_threads)
		return lacks(e, KB_MEMORY, ENOMEM);
	memset(e->noise_threads, 0, n * sizeof(*e->noise_threads));
	sigfillset(&action.sa_mask);
	if (e->foreign_signal)
		sigaction(e->foreign_signal, &action, &e->old_foreign_action);
	for (uint32_t i = 0; i < n && !error; i++) {
		struct noise_thread *t = &e->noise_threads[i];

		t->engine = e;
		atomic_fetch_add(&e->noise_pending, 1);
		error = start_thread(&t->thread, NULL, 0, run_noise, t);
		if (error)
			atomic_fetch_sub(&e->noise_pending, 1);
		e->n_noise += !error;
	}
	if (!wait_for_each(&e->noise_pending, START_MAX_S * NS_PER_S))
		return give_up(e, false);
	return !error || lacks(e, KB_THREADS, error);
}

/* Waits for the noise of a block to end, which its clock ends. False when a thread is stuck. */
bool noise_comes(struct kb_engine *e)
{
	return wait_for_each(&e->noise_pending, START_MAX_S * NS_PER_S) || give_up(e, false);
}

void note_noise(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		e->results[i].foreign_taken = (int64_t)atomic_load_explicit(
		    &e->vcpu_threads[i].foreign_taken, memory_order_relaxed);
	for (uint32_t i = 0; i < e->n_noise; i++)
		e->results[0].siglock_taken += (int64_t)e->noise_threads[i].siglock_taken;
}

void release_noise(struct kb_engine *e)
{
	if (e->foreign_signal && e->noise_threads)
		sigaction(e->foreign_signal, &e->old_foreign_action, NULL);
	free(e->noise_threads);
}
