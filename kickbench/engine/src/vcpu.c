/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread of one vCPU: it switches protocols, runs blocks, evaluates them, and answers kicks.
 * The loops themselves are the protocols' (loop.h).
 */
#include "internal.h"
#include "random.h"

#include <kickbench/mark.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define PIDFD_THREAD   O_EXCL /* Linux 6.9 */
#define PAUSED_LOOK_NS 5000000ll
#define MIXING_ROUNDS  8 /* until the states of two vCPUs have nothing in common */

/* The thread's own vCPU, for the signal handler. Initial-exec: no allocation on first use. */
static __thread struct vcpu_thread *current __attribute__((tls_model("initial-exec")));

static void kick_signal_handler(int signal)
{
	struct vcpu_thread *t = current;
	int saved_errno = errno;

	(void)signal;
	if (t && t->protocol) {
		const enum kb_doing before =
		    atomic_load_explicit(&t->v.doing, memory_order_relaxed);
		uint32_t cpu;

		t->v.handler_at = kb_stamp(t->v.clock_is_counter, &cpu);
		kb_mark(&t->v, KB_IN_HANDLER);
		t->protocol->handler(&t->v);
		kb_mark(&t->v, before);
	}
	errno = saved_errno;
}

void install_handler(int signal, struct sigaction *before)
{
	const struct sigaction action = {.sa_handler = kick_signal_handler};

	sigaction(signal, &action, before);
}

/* It does nothing, but it is seen to have run. */
void foreign_signal_handler(int signal)
{
	(void)signal;
	if (current)
		atomic_fetch_add_explicit(&current->foreign_taken, 1, memory_order_relaxed);
}

/* The vCPU runs. The last vCPU to be counted in begins the block. */
static void count_in(struct vcpu_thread *t)
{
	struct kb_engine *e = t->engine;

	if (t->counted_in)
		return;
	t->counted_in = true;
	if (atomic_fetch_sub_explicit(&e->starting, 1, memory_order_acq_rel) == 1)
		begin_block(e);
}

/* A paced guest whose exits stay in the kernel: KVM_RUN returns for kicks alone. */
static bool times_itself(const struct vcpu_thread *t)
{
	return t->ring && !t->v.expected_exit;
}

bool kb_window_opens(struct kb_vcpu *v, uint64_t now)
{
	struct vcpu_thread *t = (struct vcpu_thread *)v;
	struct kb_engine *e = t->engine;

	count_in(t);
	if (!has_begun(e) || now < e->record_from)
		return false;
	v->record_until = e->record_until;
	if (now >= e->record_until)
		return true;
	if (times_itself(t))
		return false;
	v->spurious_exits = v->stalled_cycles = v->spurious_at = 0;
	t->window_opened = true;
	t->opened = read_counters(t);
	/* The round trip that is under way contains this very function: begin with the next. */
	if (t->ring)
		t->guest_head = *(const volatile uint32_t *)&t->params->head + 1;
	return true;
}

void kb_note_spurious(struct kb_vcpu *v, uint64_t now, uint64_t exits)
{
	v->spurious_exits++;
	if (v->spurious_at && v->spurious_after == exits)
		v->stalled_cycles += now - v->spurious_at;
	v->spurious_at = now;
	v->spurious_after = exits;
}

/* False when the kernel refuses. */
static bool follow_pause(struct vcpu_thread *t)
{
	const uint32_t after = t->engine->plan.after;
	uint32_t cpu;

	if (after & KB_TELL_CLOCK) {
		t->follow_error = -kb_tell_clock(t->v.fd);
		t->clock_at = kb_stamp(t->v.clock_is_counter, &cpu);
	}
	if (after & KB_READ_STATE && !t->follow_error) {
		t->follow_error = -kb_read_state(t->v.fd);
		t->state_at = kb_stamp(t->v.clock_is_counter, &cpu);
	}
	atomic_store_explicit(&t->followed,
			      atomic_load_explicit(&t->v.acks[0].taken, memory_order_relaxed),
			      memory_order_release);
	return !t->follow_error;
}

bool kb_take_kick(struct kb_vcpu *v, uint64_t returned_at)
{
	struct vcpu_thread *t = (struct vcpu_thread *)v;
	struct kb_engine *e = t->engine;
	uint32_t cpu;
	const uint64_t now = kb_stamp(v->clock_is_counter, &cpu);
	const unsigned int resumed = atomic_load_explicit(&e->resumed, memory_order_acquire);
	/* Acquire: what the kickers wrote. Release: a byte that kb_finish_exit has cleared. */
	unsigned int kickers =
	    atomic_exchange_explicit(&v->kick_requested, 0, memory_order_acq_rel);
	const bool stop = kickers & (1u << KB_CONDUCTOR);

	if (!returned_at)
		t->io_pending = false; /* kb_finish_exit has completed it, if the protocol can */
	KB_PUT_MARK(KB_MARK_END);
	t->ran_before = t->ran;
	t->ran = false;
	if (e->plan.kicking == KB_VOLLEYS)
		v->resuming |= kickers & ~(1u << KB_CONDUCTOR);
	for (kickers &= ~(1u << KB_CONDUCTOR); kickers; kickers &= kickers - 1) {
		const int kicker = __builtin_ctz(kickers);
		struct kb_ack *ack = &v->acks[kicker];

		ack->taken_at = now;
		ack->returned_at = returned_at;
		ack->handler_at = v->handler_at;
		ack->free_at = t->free_at;
		ack->landed = t->landed >> kicker & 1;
		ack->resumed_after = t->resumed_after[kicker];
		t->resumed_after[kicker] = 0;
		atomic_fetch_add_explicit(&ack->taken, 1, memory_order_release);
	}
	t->landed = 0;
	/* Paused until it is resumed. A rescue, or the conductor, needs an answer meanwhile. */
	if (!stop && e->plan.kicking == KB_PAUSES) {
		kb_mark(v, KB_TAKING);
		if (e->plan.after && !follow_pause(t))
			return true;
		while (atomic_load_explicit(&e->resumed, memory_order_acquire) == resumed &&
		       !kb_kick_requested(v))
			futex_wait(&e->resumed, resumed, PAUSED_LOOK_NS);
		kb_mark(v, KB_IN_LOOP);
	}
	return stop;
}

/* Without PAUSE: an emulator leaves its loop for each, and RDTSCP is slow enough itself. */
static uint64_t spin_until(const struct kb_vcpu *v, uint64_t until)
{
	uint64_t now;
	uint32_t cpu;

	while ((now = kb_stamp(v->clock_is_counter, &cpu)) < until)
		;
	return now;
}

/* The window is open from now on: kickers that aim may kick. */
static uint64_t open_window(struct kb_vcpu *v)
{
	uint32_t cpu;
	uint64_t now = kb_stamp(v->clock_is_counter, &cpu);

	atomic_store_explicit(&v->window_at, now, memory_order_relaxed);
	atomic_fetch_add_explicit(&v->turn, 1, memory_order_release);
	return now;
}

/*
 * A kick of the window's own state is timed from the window's end on. There is no window for a kick
 * that needs pending I/O while there is none.
 */
void kb_hold_window(struct kb_vcpu *v)
{
	struct vcpu_thread *t = (struct vcpu_thread *)v;
	const uint32_t state = t->engine->plan.state;
	uint64_t end;

	if (state == KB_PENDING_IO && !t->io_pending)
		return;
	end = spin_until(v, open_window(v) + v->window_cycles);
	if (state != KB_ANY_STATE)
		t->free_at = end;
}

/*
 * A window that is not widened is too narrow to be aimed at once it is open. So it is announced to
 * the kickers ahead: it opens after the time in user space. That time follows an exit of the guest:
 * there is none while the protocol cleans up after a kick.
 */
void kb_come_round(struct kb_vcpu *v)
{
	struct vcpu_thread *t = (struct vcpu_thread *)v;
	uint32_t cpu;
	uint64_t now = kb_stamp(v->clock_is_counter, &cpu);

	if (!v->window_cycles) {
		atomic_store_explicit(&v->window_at, now + v->userspace_cycles,
				      memory_order_relaxed);
		atomic_fetch_add_explicit(&v->turn, 1, memory_order_release);
		t->free_at = 0;
	}
	t->last_heartbeat = heartbeat(t);
	if (v->userspace_cycles && !v->resuming) {
		atomic_store_explicit(&v->in_userspace, true, memory_order_release);
		t->free_at = spin_until(v, now + v->userspace_cycles);
		atomic_store_explicit(&v->in_userspace, false, memory_order_release);
	}
}

/* A halted guest leaves no sign: it halted again, unless KVM_RUN gave up with no kick pending. */
static bool guest_ran(const struct vcpu_thread *t, int error)
{
	switch (t->v.expected_exit) {
	case 0:
		return heartbeat(t) != t->last_heartbeat;
	case KVM_EXIT_HLT:
		return !error || kb_kick_requested(&t->v);
	default:
		return kb_is_own_exit(&t->v, error);
	}
}

void kb_came_back(struct kb_vcpu *v, int error)
{
	struct vcpu_thread *t = (struct vcpu_thread *)v;

	t->io_pending =
	    !error && (v->run->exit_reason == KVM_EXIT_IO || v->run->exit_reason == KVM_EXIT_MMIO ||
		       v->run->exit_reason == KVM_EXIT_HYPERCALL);
	/* kb_before_run had not seen these kicks, and KVM_RUN ended before the guest. */
	if (!guest_ran(t, error)) {
		t->landed |= atomic_load_explicit(&v->kick_requested, memory_order_relaxed);
		return;
	}
	t->landed = 0;
	t->ran = true;
	for (; v->resuming; v->resuming &= v->resuming - 1) {
		const int kicker = __builtin_ctz(v->resuming);

		t->resumed_after[kicker] = v->entered_at - v->acks[kicker].taken_at;
	}
}

bool kb_is_spurious(struct kb_vcpu *v)
{
	if (kb_kick_requested(v))
		return false;
	if (!atomic_load_explicit(&v->nudged, memory_order_relaxed))
		return true;
	atomic_store_explicit(&v->nudged, false, memory_order_relaxed);
	return false;
}

static void switch_protocol(struct vcpu_thread *t, const struct kb_protocol *next)
{
	kb_mark(&t->v, KB_LEAVING);
	if (t->protocol)
		t->protocol->leave(&t->v);
	compare_accesses(t);
	t->protocol = next;
	kb_mark(&t->v, KB_ENTERING);
	t->enter_error = next ? -next->enter(&t->v) : 0;
}

/* The guest's own round trips of the window, from its ring to where the host's samples would be. */
static void take_guest_samples(struct vcpu_thread *t, struct kb_block_result *r)
{
	const uint32_t head = *(const volatile uint32_t *)&t->params->head;
	const uint32_t mask = t->params->ring_mask;
	const int32_t made = t->window_opened ? (int32_t)(head - t->guest_head) : 0;
	uint32_t count = made > 0 ? (uint32_t)made : 0;
	uint64_t room =
	    t->v.samples_capacity < (uint64_t)mask + 1 ? t->v.samples_capacity : mask + 1;

	r->unsampled = 0;
	if (count > room) {
		r->unsampled = count - room;
		count = (uint32_t)room;
	}
	for (uint32_t i = 0; i < count; i++)
		t->v.samples[i] = t->ring[(head - count + i) & mask];
	r->samples_count = count;
}

static void evaluate(struct vcpu_thread *t, struct kb_block_result *r)
{
	struct kb_engine *e = t->engine;
	uint64_t *histogram = t->histograms + (size_t)e->block.entry * KB_HISTOGRAM_BINS;
	struct kb_vcpu *v = &t->v;

	if (t->window_opened) {
		struct counters now = read_counters(t);

		r->cpu_ns = now.cpu_ns - t->opened.cpu_ns;
		r->run_delay_ns = now.run_delay_ns == UNKNOWN
				      ? UNKNOWN
				      : now.run_delay_ns - t->opened.run_delay_ns;
		r->voluntary_switches =
		    (int32_t)(now.voluntary_switches - t->opened.voluntary_switches);
		r->involuntary_switches =
		    (int32_t)(now.involuntary_switches - t->opened.involuntary_switches);
	}
	r->exits = v->exits;
	r->elapsed_cycles = v->window_last - v->window_first;
	r->skew_cycles = t->window_opened ? v->window_first - e->record_from : e->block_cycles;
	if (times_itself(t))
		r->skew_cycles = 0;
	r->spurious_exits = v->spurious_exits;
	r->stalled_cycles = (int64_t)v->stalled_cycles;
	if (r->stalled_cycles > r->elapsed_cycles)
		r->stalled_cycles = r->elapsed_cycles;
	r->migrations = v->clock_is_counter ? (int32_t)v->migrations : UNKNOWN;
	r->cpu = sched_getcpu();
	r->kicked = v->kicked;
	r->samples_offset = (uint64_t)(v->samples - t->samples);
	if (t->ring) {
		take_guest_samples(t, r);
	} else {
		r->samples_count = v->exits < v->samples_capacity ? v->exits : v->samples_capacity;
		r->unsampled = v->exits - r->samples_count;
	}
	r->timed_exits = r->samples_count;
	for (int64_t i = 0; i < r->samples_count; i++) {
		uint32_t cycles = v->samples[i];

		r->timed_cycles += cycles;
		if (cycles > r->max_cycles)
			r->max_cycles = cycles;
		histogram[histogram_bin(cycles)]++;
	}
	kb_quantiles(v->samples, r->samples_count, e->clock_step, t->scratch, r->quantiles);
	v->samples += r->samples_count;
	v->samples_capacity -= r->samples_count;
}

/*
 * The guest paces itself from a random moment of its gap on, another one in every block and for
 * every vCPU. Guests that have one gap would otherwise keep the phases that the wake-up gave them,
 * and so collide in every round, or never.
 */
static void draw_phase(struct vcpu_thread *t)
{
	const struct kb_engine *e = t->engine;
	uint64_t random = random_state(e->plan.seed + t->v.index, e->block_index);

	for (int i = 0; i < MIXING_ROUNDS; i++)
		random_next(&random);
	*(volatile uint32_t *)&t->params->phase = 1 + (uint32_t)(random % t->params->mean_gap);
}

/* The window of such a guest is all of its loop, the warm-up included: nothing opens it later. */
static void open_own_window(struct vcpu_thread *t)
{
	t->guest_head = *(const volatile uint32_t *)&t->params->head;
	t->window_opened = true;
	t->opened = read_counters(t);
	t->own_window_at = stamp(t);
}

static void close_own_window(struct vcpu_thread *t)
{
	t->v.window_first = t->own_window_at;
	t->v.window_last = stamp(t);
	t->v.exits = (uint32_t)(*(const volatile uint32_t *)&t->params->head - t->guest_head);
}

static void run_block(struct vcpu_thread *t)
{
	struct kb_engine *e = t->engine;
	struct kb_block_result *result = &e->results[t->v.index];
	struct kb_vcpu *v = &t->v;

	v->userspace_cycles = to_cycles(e, e->plan.userspace_ns);
	v->window_cycles = to_cycles(e, e->plan.window_ns);
	v->record_until = 0;
	v->exits = v->spurious_exits = v->window_first = v->window_last = 0;
	v->stalled_cycles = v->spurious_at = 0;
	v->early_exits = 0;
	v->gave_up_after = UINT64_MAX;
	v->migrations = 0;
	v->kicked = v->unexpected_exit = v->finish_failed = false;
	v->run_error = 0;
	t->counted_in = t->window_opened = false;
	t->follow_error = 0;
	atomic_store_explicit(&t->foreign_taken, 0, memory_order_relaxed);
	t->landed = v->resuming = 0;
	t->free_at = 0;
	t->io_pending = false;
	memset(t->resumed_after, 0, sizeof(t->resumed_after));
	if (t->ring)
		draw_phase(t);
	kb_mark(v, KB_IN_LOOP);
	/* A guest that does not exit at once counts as running as soon as its thread runs. */
	if (e->plan.loop == KB_KICK_LOOP || t->ring || !v->expected_exit)
		count_in(t);
	if (t->enter_error == 0 && e->plan.loop == KB_KICK_LOOP) {
		t->protocol->kick_loop(v);
		result->exits = atomic_load_explicit(&v->exit_count, memory_order_relaxed);
		result->spurious_exits = v->spurious_exits;
		result->elapsed_cycles = e->block_cycles;
		result->kicked = v->kicked;
		result->cpu = sched_getcpu();
		note_accesses(t, (uint64_t)result->exits, result);
	} else if (t->enter_error == 0) {
		if (times_itself(t))
			open_own_window(t);
		if (v->expected_exit == KB_BOUNCE)
			kb_set_immediate_exit(v, 1);
		KB_PUT_MARK(KB_MARK_BEGIN);
		t->protocol->exit_loop(v);
		KB_PUT_MARK(KB_MARK_END);
		if (times_itself(t))
			close_own_window(t);
		atomic_store_explicit(&t->busy, false, memory_order_release);
		kb_mark(v, KB_EVALUATING);
		evaluate(t, result);
		note_accesses(t, v->early_exits + v->exits, result);
	}
	atomic_store_explicit(&t->busy, false, memory_order_release);
	count_in(t); /* at the latest: KVM_RUN may have failed */
}

/*
 * Only the kick signal may reach this thread, and the foreign signal that is sent to it on purpose:
 * what is meant for the process is for its main thread.
 */
static void block_other_signals(int kick, int foreign)
{
	sigset_t others;

	sigfillset(&others);
	sigdelset(&others, kick);
	if (foreign)
		sigdelset(&others, foreign);
	pthread_sigmask(SIG_SETMASK, &others, NULL);
}

/* A file that this kernel does not have is no error; the limit of open files is one. */
static int note_lack(struct vcpu_thread *t, int fd)
{
	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		t->lacks_files = true;
	return fd;
}

static int open_of_thread(struct vcpu_thread *t, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", t->v.tid, name);
	return note_lack(t, open(path, O_RDONLY | O_CLOEXEC));
}

/*
 * Real-time vCPU threads have one priority below the threads that kick and conduct: a guest that
 * spins gives no turn to a thread of the same priority, and nothing could end its block.
 */
static void let_kickers_come_first(const struct kb_engine *e)
{
	struct sched_param param;

	if (!e->realtime || syscall(SYS_sched_getparam, 0, &param))
		return;
	param.sched_priority -= param.sched_priority > sched_get_priority_min(SCHED_FIFO);
	syscall(SYS_sched_setparam, 0, &param);
}

void identify_thread(struct vcpu_thread *t)
{
	t->v.tid = (pid_t)syscall(SYS_gettid);
	t->v.pidfd = note_lack(t, (int)syscall(SYS_pidfd_open, t->v.tid, PIDFD_THREAD));
	t->pidfd_error = t->v.pidfd < 0 ? errno : 0;
	t->schedstat_fd = open_of_thread(t, "schedstat");
}

void become_vcpu(struct vcpu_thread *t)
{
	let_kickers_come_first(t->engine);
	current = t;
	t->tls = &current;
	block_other_signals(t->v.signal, t->engine->foreign_signal);
}

static void prepare_thread(struct vcpu_thread *t)
{
	become_vcpu(t);
	identify_thread(t);
	t->stat_fd = open_of_thread(t, "stat");
	pthread_getcpuclockid(pthread_self(), &t->cpu_clock);
	t->samples = allocate(t->engine, t->engine->samples_capacity * sizeof(uint32_t));
	/* Used only between the windows, so not locked: many hosts allow little locked memory. */
	t->scratch = allocate_touched(scratch_bytes(t->engine));
	t->histograms = allocate(t->engine, histograms_bytes(t->engine));
}

void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;
	struct kb_engine *e = t->engine;
	unsigned int seen = 0;

	prepare_thread(t);
	kb_mark(&t->v, KB_WAITING);
	finish_part(&e->pending);
	for (;;) {
		seen = wait_for_step(e, seen);
		switch (e->command) {
		case SWITCH:
			switch_protocol(t, e->block.protocol);
			break;
		case RUN:
			run_block(t);
			break;
		case QUIT:
			switch_protocol(t, NULL);
			kb_mark(&t->v, KB_WAITING);
			finish_part(&e->pending);
			return NULL;
		}
		kb_mark(&t->v, KB_WAITING);
		finish_part(&e->pending);
	}
}
