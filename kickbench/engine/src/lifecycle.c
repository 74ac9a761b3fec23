/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One kick of a fresh vCPU, at a moment of its thread's life at which a VMM can go wrong: before
 * there is a handler, while the protocol is entered, in the first KVM_RUN, at the thread's end, and
 * when another thread has taken over the vCPU.
 *
 * The calling thread kicks. The process is the VMM: a signal without a handler ends it. So the
 * caller gives each kick a process of its own, and what is made here ends with that.
 */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>

#define NO_MOMENT	 UINT32_MAX
#define RUNS_AFTER_ERROR 10	    /* KVM_RUNs that must fail as well */
#define RETRY_NS	 1000000    /* between two of them */
#define STOP_PERIOD_NS	 10000000   /* a kick that does not end the loop is sent again */
#define STILL_NS	 2000000000 /* a guest that runs on shows it much sooner */
#define STAND_IN_TRIES	 1000	    /* other processes take ids as well */
#define BYSTANDER_NS	 100000000  /* a thread that only has an id sleeps */

struct life {
	struct kb_engine *e;
	struct vcpu_thread *t;
	const struct kb_protocol *protocol;
	uint32_t moment;	     /* that is waited for */
	uint32_t before;	     /* heartbeat when the thread was started */
	int64_t waited_ns;	     /* for a CPU, before the moment */
	uint64_t sent_at;	     /* clock: the call of kb_kick returned */
	_Atomic uint64_t entered_at; /* clock; 0: it has not entered the protocol */
	atomic_bool reached, seen, begun, kicked, left_loop, over;
	int run_error; /* of a KVM_RUN after which none worked */
	int error;     /* the thread cannot run the vCPU at all */
};

static bool is_set(atomic_bool *flag)
{
	return atomic_load_explicit(flag, memory_order_acquire);
}

static void set(atomic_bool *flag, bool value)
{
	atomic_store_explicit(flag, value, memory_order_release);
}

static void wait_for(struct life *l, atomic_bool *flag)
{
	unsigned int spins = 0;

	while (!is_set(flag) && !is_set(&l->over))
		relax(l->e, &spins);
}

static bool is_held(uint32_t moment)
{
	return moment == KB_NO_HANDLER || moment == KB_THREAD_START;
}

/* -- The vCPU's thread ------------------------------------------------------------------------- */

/* So far, for a CPU. A kick that is late for this is not the protocol's fault. */
static int64_t waited_ns(const struct life *l)
{
	const int64_t waited = read_counters(l->t).run_delay_ns;

	return waited == UNKNOWN ? 0 : waited;
}

/*
 * The moment begins. On a busy host the kicker may have no CPU just then, and would come too late.
 * So it answers first.
 */
static void reach(struct life *l, uint32_t moment)
{
	if (l->moment != moment)
		return;
	l->waited_ns = waited_ns(l);
	set(&l->reached, true);
	wait_for(l, &l->seen);
	set(&l->begun, true);
	if (is_held(moment))
		wait_for(l, &l->kicked);
}

/* Until the loop is ended by a kick. A KVM_RUN that fails is tried again: is it the last that did?
 */
static void run(struct life *l)
{
	const struct timespec pause = {0, RETRY_NS};
	struct kb_vcpu *v = &l->t->v;

	for (int failed = 0; failed <= RUNS_AFTER_ERROR; failed++) {
		v->run_error = 0;
		l->protocol->kick_loop(v);
		if (v->kicked || v->unexpected_exit) {
			l->error = v->kicked ? 0 : EPROTO;
			return;
		}
		nanosleep(&pause, NULL);
	}
	l->run_error = v->run_error;
}

static void *live(void *arg)
{
	struct life *l = arg;
	struct vcpu_thread *t = l->t;

	identify_thread(t);
	if (l->moment != KB_STALE && l->e->kickers[0].transport == KB_TIMER &&
	    !create_timers(l->e, &l->e->kickers[0]))
		l->error = l->e->failure.error;
	reach(l, KB_NO_HANDLER);
	install_handler(l->e->signal, NULL);
	reach(l, KB_THREAD_START);
	reach(l, KB_ENTRY);
	become_vcpu(t);
	t->protocol = l->protocol;
	if (!l->error)
		l->error = -l->protocol->enter(&t->v);
	atomic_store_explicit(&l->entered_at, stamp(t), memory_order_release);
	reach(l, KB_FIRST_RUN);
	if (!l->error)
		run(l);
	set(&l->left_loop, true);
	reach(l, KB_THREAD_END);
	l->protocol->leave(&t->v);
	t->protocol = NULL;
	set(&l->over, true);
	return NULL;
}

static int start(struct life *l, const struct kb_vcpu_config *vcpu)
{
	atomic_store_explicit(&l->entered_at, 0, memory_order_relaxed);
	set(&l->left_loop, false);
	set(&l->over, false);
	l->before = heartbeat(l->t);
	l->waited_ns = 0;
	return start_thread(&l->t->thread, vcpu->cpus, vcpu->n_cpus, live, l);
}

static bool has_run(const struct life *l)
{
	return heartbeat(l->t) != l->before;
}

static void wait_until_it_runs(struct life *l)
{
	unsigned int spins = 0;

	while (!has_run(l) && !is_set(&l->over))
		relax(l->e, &spins);
}

/* -- The kicker -------------------------------------------------------------------------------- */

/* Ends the loop, however often the protocol loses the kick. */
static void stop_loop(struct life *l)
{
	unsigned int spins = 0;

	while (!is_set(&l->left_loop)) {
		const uint64_t until = stamp(l->t) + to_cycles(l->e, STOP_PERIOD_NS);

		l->protocol->kick(&l->t->v, &l->e->kickers[KB_CONDUCTOR]);
		while (!is_set(&l->left_loop) && stamp(l->t) < until)
			relax(l->e, &spins);
	}
}

static bool is_taken(const struct life *l)
{
	return atomic_load_explicit(&l->t->acks[0].taken, memory_order_acquire) != 0;
}

/* Whether the kick came before the moment was over. */
static bool met_moment(struct life *l, uint32_t moment, uint64_t sent, int error)
{
	const uint64_t entered_at = atomic_load_explicit(&l->entered_at, memory_order_acquire);

	switch (moment) {
	case KB_ENTRY:
		return !entered_at || sent < entered_at;
	case KB_FIRST_RUN:
	case KB_TAKEOVER:
		return !has_run(l);
	case KB_THREAD_END:
		return error == 0;
	default:
		return true;
	}
}

/* Waits until the kick is taken, or will not be any more. */
static void wait_for_answer(struct life *l, uint64_t lost_at)
{
	unsigned int spins = 0;

	while (!is_taken(l) && !is_set(&l->over)) {
		if (stamp(l->t) >= lost_at && still_runs(l->t))
			return;
		relax(l->e, &spins);
	}
}

/* The kicker may have lost its CPU before the signal was sent: its call is no part of the delay. */
static uint32_t fate_of(const struct life *l, const struct kb_life *found, uint64_t late_after)
{
	if (l->run_error)
		return KB_POISONED;
	if (is_taken(l))
		return l->t->acks[0].taken_at > l->sent_at + found->waited + late_after
			   ? KB_LATE
			   : KB_ANSWERED;
	return found->error ? KB_REFUSED : KB_LOST;
}

static void kick(struct life *l, const struct kb_life_plan *plan, struct kb_life *found)
{
	struct vcpu_thread *t = l->t;
	int64_t waited_after;
	uint64_t sent;

	wait_until(l->e, t, stamp(t) + to_cycles(l->e, plan->delay_ns));
	sent = stamp(t);
	found->error = -l->protocol->kick(&t->v, &l->e->kickers[0]);
	l->sent_at = stamp(t);
	found->met = met_moment(l, plan->moment, sent, found->error);
	set(&l->kicked, true);
	wait_for_answer(l, l->sent_at + to_cycles(l->e, plan->lost_after_ns));
	if (is_taken(l) && t->acks[0].taken_at > sent)
		found->latency = t->acks[0].taken_at - sent;
	waited_after = waited_ns(l) - l->waited_ns;
	found->waited = to_cycles(l->e, waited_after > 0 ? (uint64_t)waited_after : 0);
}

/*
 * A kick can be answered, and have poisoned the VM all the same: the guest must run on. False if it
 * does not, although its thread has a CPU.
 */
static bool runs_on(struct life *l)
{
	const int64_t waited = waited_ns(l);
	const uint64_t begin = stamp(l->t);
	uint64_t until = begin + to_cycles(l->e, STILL_NS);
	unsigned int spins = 0;

	l->before = heartbeat(l->t);
	while (!has_run(l) && !is_set(&l->over)) {
		if (stamp(l->t) >= until) {
			const int64_t more = waited_ns(l) - waited;

			until = begin + to_cycles(l->e, STILL_NS + (uint64_t)(more > 0 ? more : 0));
			if (stamp(l->t) >= until)
				return false;
		}
		relax(l->e, &spins);
	}
	return true;
}

static void conclude(struct life *l, const struct kb_life_plan *plan, struct kb_life *found)
{
	const bool stands_still = !is_set(&l->left_loop) && !runs_on(l);

	found->fate = fate_of(l, found, to_cycles(l->e, plan->late_after_ns));
	if (!is_set(&l->over))
		stop_loop(l);
	pthread_join(l->t->thread, NULL);
	if (stands_still) {
		found->fate = KB_POISONED;
		found->error = EINTR;
	} else if (l->run_error)
		found->error = l->run_error;
	else if (found->fate != KB_REFUSED)
		found->error = 0;
}

/* -- A thread that has the id of one that ended ------------------------------------------------ */

struct stand_in {
	pid_t wanted;
	atomic_int tid;
};

static void *stand(void *arg)
{
	const struct timespec nap = {0, BYSTANDER_NS};
	struct stand_in *s = arg;
	const pid_t wanted = s->wanted, tid = (pid_t)syscall(SYS_gettid);

	atomic_store(&s->tid, tid);
	while (tid == wanted)
		nanosleep(&nap, NULL);
	return NULL;
}

/* The kernel gives the ids out in turn: the next one is kernel.ns_last_pid (proc_sys_kernel(5))
 * + 1.
 */
static int set_last_id(int fd, pid_t id)
{
	char text[16];
	const int length = snprintf(text, sizeof(text), "%d", (int)id);

	return pwrite(fd, text, (size_t)length, 0) == length ? 0 : errno;
}

/* EAGAIN: another process was quicker each time, or the thread that had the id is not gone. */
static int stand_in_for(pid_t wanted)
{
	int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	int error = fd < 0 ? errno : EAGAIN;

	for (int i = 0; i < STAND_IN_TRIES && error == EAGAIN; i++) {
		struct stand_in s = {.wanted = wanted};
		pthread_t thread;

		error = set_last_id(fd, wanted - 1);
		if (!error)
			error = start_thread(&thread, NULL, 0, stand, &s);
		if (error)
			break;
		while (!atomic_load(&s.tid))
			sched_yield();
		if (atomic_load(&s.tid) == wanted)
			break;
		pthread_join(thread, NULL);
		error = EAGAIN;
	}
	if (fd >= 0)
		close(fd);
	return error;
}

/* -- The lives --------------------------------------------------------------------------------- */

/* A thread runs the vCPU, unkicked but for its end, and is gone. */
static int live_before(struct life *l, const struct kb_vcpu_config *vcpu)
{
	int error;

	l->moment = NO_MOMENT;
	error = start(l, vcpu);
	if (error)
		return error;
	wait_until_it_runs(l);
	stop_loop(l);
	pthread_join(l->t->thread, NULL);
	return l->error ? l->error : l->run_error;
}

static int kick_stale(struct life *l, const struct kb_life_plan *plan, struct kb_life *found,
		      pid_t tid, int pidfd)
{
	struct kb_vcpu *v = &l->t->v;
	pid_t tid_now;
	int pidfd_now, error = stand_in_for(tid);

	if (error)
		return error;
	wait_until_it_runs(l);
	l->waited_ns = waited_ns(l);
	tid_now = v->tid;
	pidfd_now = v->pidfd;
	v->tid = tid;
	v->pidfd = pidfd;
	kick(l, plan, found);
	v->tid = tid_now;
	v->pidfd = pidfd_now;
	return 0;
}

static int kick_at(struct life *l, const struct kb_life_plan *plan,
		   const struct kb_vcpu_config *vcpu, struct kb_life *found)
{
	const bool again = plan->moment == KB_TAKEOVER || plan->moment == KB_STALE;
	int error = again ? live_before(l, vcpu) : 0;
	const pid_t tid = l->t->v.tid;
	const int pidfd = l->t->v.pidfd;

	l->moment = plan->moment;
	if (!error)
		error = start(l, vcpu);
	if (error)
		return error;
	if (plan->moment == KB_THREAD_END) {
		wait_until_it_runs(l);
		stop_loop(l);
	}
	if (!again) {
		wait_for(l, &l->reached);
		set(&l->seen, true);
		wait_for(l, &l->begun);
	}
	if (plan->moment == KB_STALE)
		error = kick_stale(l, plan, found, tid, pidfd);
	else if (!l->error)
		kick(l, plan, found);
	conclude(l, plan, found);
	return error ? error : l->error;
}

int kb_live(const struct kb_config *config, const struct kb_life_plan *plan, struct kb_life *found)
{
	struct life l = {.e = new_engine(config), .protocol = plan->protocol};

	if (!l.e || !allocate_kickers(l.e, config))
		return ENOMEM;
	l.t = l.e->vcpu_threads;
	l.e->n_vcpus = 1;
	l.e->plan = (struct kb_plan){.loop = KB_KICK_LOOP, .kicking = KB_AIMED};
	init_vcpu(l.e, l.t, config, config->vcpus);
	return kick_at(&l, plan, config->vcpus, found);
}
