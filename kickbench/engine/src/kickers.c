/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kicking threads: when they kick, how they know the vCPU's state, and how they tell a kick
 * that is lost from one that is late.
 *
 * A kick is sent by the protocol's own hook, and timed around it. It is taken when the vCPU's
 * thread says so (kb_take_kick). It is lost when it has not been taken after a time far above any
 * latency seen and the guest still runs; then it is sent again until it is.
 */
#include "internal.h"
#include "random.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define YIELD_SPINS	    1024  /* look away once in a while: the other may need this CPU */
#define SLEEP_MARGIN_NS	    60000 /* sleep until shortly before, then spin */
#define DOZE_NS		    20000
#define STILL_RUNNING_SIGNS 10
#define LEAST_GAP_NS	    1000   /* draws of which outrun the clock */
#define STATE_LOOK_NS	    60000  /* so long before the kick the vCPU's state is looked at ... */
#define LOOK_PATIENCE_NS    50000  /* ... for so long at most */
#define STATE_PATIENCE_NS   100000 /* how long to look for a sign of the state */
#define AIM_MARGIN_NS	    1500   /* a window that is nearer cannot be aimed at any more */
#define AIM_STEP_NS	    25	   /* so far the aim moves after each kick */
#define AIM_SPREAD_NS	    200	   /* and so far around it kicks are sent */
#define NUDGE_AGAIN_NS	    200000 /* a vCPU that was to come round has not */
#define MAX_NUDGES	    5

static uint64_t stamp(const struct worker *w)
{
	uint32_t cpu;

	return kb_stamp(w->v.clock_is_tsc, &cpu);
}

/* Uniform in [mean / 2, 3 / 2 mean). */
static uint64_t random_gap(uint64_t *state, uint64_t mean)
{
	return mean / 2 + (mean ? random_next(state) % mean : 0);
}

/* Whoever pauses a VM sleeps while the vCPUs answer: they may need its CPU. */
static void doze(void)
{
	const struct timespec t = {0, DOZE_NS};

	nanosleep(&t, NULL);
}

/* With one CPU, whom we wait for runs only when we yield; a thread of lower priority, never then.
 */
static void relax(const struct kb_engine *e, unsigned int *spins)
{
	if (!e->one_cpu && ++*spins % YIELD_SPINS != 0)
		__builtin_ia32_pause();
	else if (e->realtime)
		doze();
	else
		sched_yield();
}

static void wait_until(const struct kb_engine *e, const struct worker *w, uint64_t until)
{
	unsigned int spins = 0;

	for (;;) {
		uint64_t now = stamp(w);
		int64_t left_ns;

		if (now >= until)
			return;
		left_ns = (int64_t)((double)(until - now) / e->clock_hz * 1e9) - SLEEP_MARGIN_NS;
		if (left_ns > 0) {
			struct timespec t = {left_ns / NS_PER_S, left_ns % NS_PER_S};

			nanosleep(&t, NULL);
		} else {
			relax(e, &spins);
		}
	}
}

static bool is_busy(struct worker *w)
{
	return atomic_load_explicit(&w->busy, memory_order_acquire);
}

/* -- The vCPU's state ----------------------------------------------------------------------------
 */

static uint32_t exit_count(const struct worker *w)
{
	return atomic_load_explicit(&w->v.exit_count, memory_order_relaxed);
}

static bool changes(const struct worker *w, uint32_t (*read)(const struct worker *),
		    uint64_t patience_ns)
{
	const uint64_t until = stamp(w) + to_cycles(w->engine, patience_ns);
	const uint32_t first = read(w);
	unsigned int spins = 0;

	while (read(w) == first) {
		if (stamp(w) >= until)
			return false;
		if (w->engine->one_cpu)
			relax(w->engine, &spins);
	}
	return true;
}

static bool in_kvm_run(const struct worker *w)
{
	return atomic_load_explicit(&w->v.runs, memory_order_relaxed) & 1;
}

/* The thread's state is S, and not R that waits for a CPU. */
static bool is_asleep(const struct worker *w)
{
	char text[256];
	ssize_t n = pread(w->stat_fd, text, sizeof(text) - 1, 0);
	const char *name_end;

	if (n <= 0)
		return false;
	text[n] = '\0';
	name_end = strrchr(text, ')');
	return name_end && !strncmp(name_end, ") S", 3);
}

/* Asleep in the kernel's halt. A thread may as well sleep in user space, or in another KVM_RUN. */
static bool is_halted(const struct worker *w)
{
	const unsigned int run = atomic_load_explicit(&w->v.runs, memory_order_relaxed);

	return w->v.expected_exit == KVM_EXIT_HLT && run & 1 && is_asleep(w) &&
	       atomic_load_explicit(&w->v.runs, memory_order_relaxed) == run;
}

/*
 * Off its CPU and off the queue of those that wait for one. The state S does not say so: KVM sets
 * it before it looks for signals a last time (kvm_vcpu_block() in virt/kvm/kvm_main.c), and a
 * thread that is preempted there has it while it waits for a CPU. /proc/.../syscall waits for that
 * to end, and names a system call of a blocked thread only (proc(5)). Without the file nothing is
 * known.
 */
static bool is_blocked(const struct worker *w)
{
	char path[64], text[32] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)w->v.tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n <= 0 || (text[0] >= '0' && text[0] <= '9');
}

/*
 * Is the vCPU in the state? Waits for a sign of it, and is in step with the guest after that: the
 * kick must come some time later. Only user space tells at any moment.
 */
static bool is_in_state(struct worker *w, uint32_t state)
{
	switch (state) {
	case KB_IN_GUEST:
		return changes(w, heartbeat, LOOK_PATIENCE_NS);
	case KB_HALTED:
		return is_halted(w);
	case KB_IN_USERSPACE:
		return atomic_load_explicit(&w->v.in_userspace, memory_order_acquire);
	case KB_IN_STORM:
		return changes(w, exit_count, LOOK_PATIENCE_NS);
	default:
		return true;
	}
}

/*
 * A guest that counts, or exits, time and again was not kicked. One whose thread waits for a CPU
 * does neither, and its kick is late, not lost; nor is it when the guest gets a last step in. A
 * halted one can only be seen to sleep on, in KVM_RUN: a loop that sleeps in user space, for a
 * device or a lock, looks at its flag when it wakes up.
 */
static bool still_runs(const struct worker *w)
{
	if (is_halted(w) && is_blocked(w) && is_halted(w))
		return true;
	for (int i = 0; i < STILL_RUNNING_SIGNS; i++)
		if (!changes(w, w->v.expected_exit ? exit_count : heartbeat, STATE_PATIENCE_NS))
			return false;
	return true;
}

/* -- One kick ------------------------------------------------------------------------------------
 */

struct kick {
	struct kb_engine *engine;
	struct kicker *thread;
	struct kb_kicker *kicker;
	struct worker *w;
	uint32_t volley;
	uint64_t sent, returned;
	uint32_t cpu_sent, cpu_returned, signals;
	bool landed, seen; /* the last one: in the window; by a look at the flag, before it */
};

/* Around the protocol's kick, which is not the engine's and may never return. */
void begin_kick(struct kicker *t, const struct worker *w)
{
	atomic_store_explicit(&t->target, w->v.index, memory_order_relaxed);
	atomic_store_explicit(&t->kicks_made,
			      atomic_load_explicit(&t->kicks_made, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	atomic_store_explicit(&t->doing, KB_KICKING, memory_order_relaxed);
}

void end_kick(struct kicker *t)
{
	atomic_store_explicit(&t->doing, KB_IN_LOOP, memory_order_relaxed);
}

static void send_kick(struct kick *k)
{
	const struct kb_target *target = &k->kicker->targets[k->w->v.index];
	const uint32_t signals = target->signals;
	int error;

	begin_kick(k->thread, k->w);
	k->sent = kb_stamp(k->w->v.clock_is_tsc, &k->cpu_sent);
	error = k->engine->block.protocol->kick(&k->w->v, k->kicker);
	k->returned = kb_stamp(k->w->v.clock_is_tsc, &k->cpu_returned);
	end_kick(k->thread);
	k->signals = target->signals - signals;
	if (error)
		k->thread->error = -error;
}

static bool is_taken(const struct kick *k)
{
	return atomic_load_explicit(&k->w->v.acks[k->kicker->index].taken, memory_order_acquire) ==
	       k->kicker->targets[k->w->v.index].requests;
}

/*
 * Waits until the kick is taken, sending it again when it is lost. False when the vCPU left its
 * loop meanwhile (its block ended), or cannot be kicked at all.
 */
static bool wait_taken(struct kick *k, bool *lost, uint32_t *rescues)
{
	const uint64_t lost_after = to_cycles(k->engine, k->engine->plan.lost_after_ns);
	const uint64_t give_up = to_cycles(k->engine, KICK_MAX_S * NS_PER_S);
	uint64_t next_rescue = k->returned + lost_after; /* the kicker may have been preempted */
	unsigned int spins = 0;

	while (!is_taken(k)) {
		uint64_t now = stamp(k->w);

		if (!is_busy(k->w) || now - k->sent > give_up || k->thread->error)
			return is_taken(k);
		if (now >= next_rescue) {
			if (still_runs(k->w) && !is_taken(k)) {
				*lost = true;
				begin_kick(k->thread, k->w);
				k->engine->block.protocol->kick(&k->w->v, k->kicker);
				end_kick(k->thread);
				++*rescues;
			}
			next_rescue = stamp(k->w) + lost_after;
		}
		if (k->engine->plan.kicking == KB_PAUSES)
			doze();
		else
			relax(k->engine, &spins);
	}
	return true;
}

static uint32_t saturate(uint64_t cycles)
{
	return cycles > UINT32_MAX ? UINT32_MAX : (uint32_t)cycles;
}

/* The time from `begin` to `at`; 0 when that came first. */
static uint32_t since(uint64_t begin, uint64_t at)
{
	return at > begin ? saturate(at - begin) : 0;
}

static void note_kick(const struct kick *k, const struct kb_kick *note)
{
	if (k->thread->n_kicks < k->engine->kicks_capacity)
		k->thread->kicks[k->thread->n_kicks++] = *note;
}

/* Now that it is known: when the guest ran again after this kicker's last kick of the vCPU. */
static void note_resumed(const struct kick *k, uint64_t resumed_after)
{
	for (uint64_t i = resumed_after ? k->thread->n_kicks : 0; i-- > 0;) {
		struct kb_kick *last = &k->thread->kicks[i];

		if (last->block != k->engine->block_index)
			return;
		if (last->vcpu != (int16_t)k->w->v.index)
			continue;
		if (last->latency)
			last->resumed = saturate(last->latency + resumed_after);
		return;
	}
}

/* Kicks once and notes it. False when the vCPU's block is over. */
static bool kick_once(struct kick *k, bool met)
{
	const bool aimed = k->engine->plan.kicking == KB_AIMED;
	const struct kb_engine *e = k->engine;
	const struct kb_ack *ack = &k->w->v.acks[k->kicker->index];
	uint64_t from;
	bool lost = false;
	struct kb_kick note = {.block = e->block_index,
			       .vcpu = (int16_t)k->w->v.index,
			       .kicker = (uint8_t)k->kicker->index,
			       .volley = k->volley,
			       .cpu = -1};

	send_kick(k);
	if (!wait_taken(k, &lost, &note.rescues)) {
		/* Not the end of its block: nothing gets it out, and that is to be seen. */
		if (is_busy(k->w) && !k->thread->error) {
			note.at = k->sent - e->record_from;
			note.latency = UINT32_MAX;
			note.flags = KB_KICK_LOST | (aimed ? KB_KICK_LANDED : 0);
			note_kick(k, &note);
		}
		return false;
	}
	note.at = k->sent - e->record_from;
	note.send = saturate(k->returned - k->sent);
	if (k->cpu_sent == k->cpu_returned && k->cpu_sent != KB_CPU_UNKNOWN)
		note.cpu = (int32_t)k->cpu_sent;
	/* For another kicker's sake, KVM_RUN had returned already: not the wanted state. */
	met = met && ack->taken_at > k->sent;
	/* The loop's own time in user space, which was to end then, is no part of the protocol. */
	from = ack->free_at > k->sent ? ack->free_at : k->sent;
	note.latency = ack->taken_at > k->sent ? since(from, ack->taken_at) : 0;
	note.returned = since(from, ack->returned_at);
	if (ack->handler_at <= ack->taken_at)
		note.delivery = since(from, ack->handler_at);
	note.signals = k->signals;
	k->landed = aimed && (lost || ack->landed);
	k->seen = !ack->returned_at;
	note.flags = (uint8_t)((met ? KB_KICK_MET : 0) | (lost ? KB_KICK_LOST : 0) |
			       (k->landed ? KB_KICK_LANDED : 0));
	note_resumed(k, ack->resumed_after);
	note_kick(k, &note);
	return true;
}

/* -- What a kicker does in a block ---------------------------------------------------------------
 */

/* The first moment that is not over yet: whoever is late leaves some out, and is not late again. */
static uint64_t next_volley(struct kick *k, uint64_t *random, uint64_t gap, uint64_t next)
{
	const uint64_t now = stamp(k->w);

	do {
		next += random_gap(random, gap);
		k->volley++;
	} while (next < now);
	return next;
}

/* All kickers draw the same times from the same seed, so that they kick at once. */
static void kick_in_volleys(struct kb_engine *e, struct kick *k)
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
		k->w = &e->workers[vcpu++ % e->n_vcpus];
		wait_until(e, k->w, next - look);
		begun = stamp(k->w);
		met = is_in_state(k->w, e->plan.state);
		took = stamp(k->w) - begun;
		if (took > look) /* a slow machine: begin earlier ... */
			look = 2 * took < longest ? 2 * took : longest;
		else if (2 * took < shortest) /* ... or it was somebody else's turn */
			look = shortest;
		if (begun + took > next)
			continue; /* the kick before, or the look, took too long */
		wait_until(e, k->w, next);
		if (e->plan.state == KB_IN_USERSPACE)
			met = is_in_state(k->w, e->plan.state);
		if (!kick_once(k, met))
			return;
	}
}

/* Brings a vCPU round that is in KVM_RUN, by a signal that is no kick. */
static void nudge(const struct kick *k)
{
	struct kb_vcpu *v = &k->w->v;

	atomic_store_explicit(&v->nudged, true, memory_order_relaxed);
	syscall(SYS_tgkill, k->kicker->pid, v->tid, v->signal);
}

/*
 * Waits for a window that opens (0: has opened) later than the vCPU's turn `last`. A kick that
 * returns late finds the vCPU in the guest again, past a window that nobody aimed at: it is brought
 * round. One that shares its CPU with the kicker never is in time: then any moment will do. False
 * when the block is over.
 */
static bool wait_for_window(struct kb_engine *e, struct kick *k, unsigned int *last,
			    uint64_t *window_at)
{
	const uint64_t width = to_cycles(e, e->plan.window_ns ? e->plan.window_ns : 0);
	const uint64_t margin = to_cycles(e, e->plan.window_ns ? 0 : AIM_MARGIN_NS);
	uint64_t next_nudge = 0;
	unsigned int spins = 0, nudges = 0;

	for (;;) {
		const struct kb_vcpu *v = &k->w->v;
		const unsigned int turn = atomic_load_explicit(&v->turn, memory_order_acquire);
		const uint64_t now = stamp(k->w);

		*window_at = atomic_load_explicit(&v->window_at, memory_order_relaxed);
		if (now >= e->record_until || !is_busy(k->w))
			return false;
		if (turn != *last && (now + margin < *window_at + width || nudges == MAX_NUDGES)) {
			*last = turn;
			return true;
		}
		if (turn != 0 && now >= *window_at + width && now >= next_nudge &&
		    in_kvm_run(k->w) && nudges < MAX_NUDGES) {
			nudge(k);
			nudges++;
			next_nudge = stamp(k->w) + to_cycles(e, NUDGE_AGAIN_NS);
		}
		relax(e, &spins);
	}
}

/*
 * Kicks into each window. One that is held open is kicked into at once. The natural one is aimed
 * at: the dangerous kicks set their flag just after the thread's last look at it. So the aim moves
 * to later when that look saw the kick, and to earlier when it did not.
 */
static void kick_at_window(struct kb_engine *e, struct kick *k)
{
	const bool natural = !e->plan.window_ns;
	const int64_t step = (int64_t)to_cycles(e, AIM_STEP_NS);
	const int64_t spread = (int64_t)to_cycles(e, AIM_SPREAD_NS);
	const int64_t most = (int64_t)to_cycles(e, e->plan.userspace_ns / 2);
	uint64_t random = random_state(e->plan.seed, k->kicker->index);
	unsigned int turn = 0;
	uint64_t window_at;
	int64_t *aim = &k->thread->aim;

	k->w = &e->workers[k->kicker->index % e->n_vcpus];
	while (k->thread->n_kicks < e->kicks_capacity && wait_for_window(e, k, &turn, &window_at)) {
		if (natural)
			wait_until(e, k->w,
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

static void note_pause(struct kb_engine *e, uint64_t begun, uint64_t sent, uint32_t rescues)
{
	struct kb_pause *pause = &e->pauses[e->n_pauses++];

	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		uint64_t taken_at = e->workers[i].v.acks[0].taken_at;

		e->scratch[i] = taken_at > begun ? taken_at - begun : 0;
	}
	qsort(e->scratch, e->n_vcpus, sizeof(*e->scratch), compare);
	*pause = (struct kb_pause){
	    .at = begun - e->record_from,
	    .send = sent - begun,
	    .first = e->scratch[0],
	    .median = e->scratch[(e->n_vcpus - 1) / 2],
	    .last = e->scratch[e->n_vcpus - 1],
	    .block = e->block_index,
	    .rescues = rescues,
	};
}

/* Every vCPU has come round since it was let go: it is in KVM_RUN again, or about to be. */
static bool all_came_round(struct kb_engine *e, const uint64_t *turns)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		while (atomic_load_explicit(&e->workers[i].v.turn, memory_order_acquire) ==
		       turns[i]) {
			if (stamp(&e->workers[0]) >= e->record_until)
				return false;
			doze();
		}
	return true;
}

/* Kicks all vCPUs, then waits for each: how pausing a VM goes. False when it cannot be done. */
static bool pause_once(struct kb_engine *e, struct kick *k)
{
	const uint64_t begun = stamp(&e->workers[0]);
	uint32_t rescues = 0;
	uint64_t sent;

	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		k->w = &e->workers[i];
		send_kick(k);
	}
	sent = stamp(&e->workers[0]);
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		bool lost = false;

		k->w = &e->workers[i];
		k->sent = sent;
		if (!wait_taken(k, &lost, &rescues))
			return false;
	}
	note_pause(e, begun, sent, rescues);
	return true;
}

static void pause_all(struct kb_engine *e, struct kick *k)
{
	const uint64_t gap = to_cycles(e, e->plan.gap_ns);
	uint64_t random = random_state(e->plan.seed, 0);
	bool fine = true;

	memset(e->scratch, 0, e->n_vcpus * sizeof(*e->scratch));
	while (fine && all_came_round(e, e->scratch) && e->n_pauses < e->pauses_capacity) {
		wait_until(e, &e->workers[0], stamp(&e->workers[0]) + random_gap(&random, gap));
		if (stamp(&e->workers[0]) >= e->record_until)
			return;
		fine = pause_once(e, k);
		for (uint32_t i = 0; i < e->n_vcpus; i++)
			e->scratch[i] =
			    atomic_load_explicit(&e->workers[i].v.turn, memory_order_acquire);
		atomic_fetch_add_explicit(&e->resumed, 1, memory_order_release);
		futex_wake_all(&e->resumed);
	}
}

static void kick_in_block(struct kb_engine *e, uint32_t index)
{
	struct kick k = {
	    .engine = e,
	    .thread = &e->threads[index],
	    .kicker = &e->kickers[index],
	    .w = &e->workers[0],
	};

	/* Kicks that a block left behind were forgotten when it was over. */
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		k.kicker->targets[i].requests =
		    atomic_load_explicit(&e->workers[i].v.acks[index].taken, memory_order_relaxed);
	wait_for_begin(e, -1);
	wait_until(e, k.w, e->record_from);
	switch (e->plan.kicking) {
	case KB_VOLLEYS:
		kick_in_volleys(e, &k);
		break;
	case KB_AIMED:
		kick_at_window(e, &k);
		break;
	case KB_PAUSES:
		if (index == 0)
			pause_all(e, &k);
		break;
	default:
		break;
	}
}

static void *kicker_thread(void *arg)
{
	struct kicker *t = arg;
	struct kb_engine *e = t->engine;
	const uint32_t index = (uint32_t)(t - e->threads);
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
		command = e->command; /* the conductor's again, once this part is finished */
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

/* -- Life ----------------------------------------------------------------------------------------
 */

static struct kicker *allocate_threads(uint32_t n)
{
	const size_t bytes = (n ? n : 1) * sizeof(struct kicker);
	struct kicker *threads = aligned_alloc(KB_CACHE_LINE, bytes);

	if (threads)
		memset(threads, 0, bytes);
	return threads;
}

bool allocate_kickers(struct kb_engine *e, const struct kb_config *config)
{
	e->kickers = calloc(KB_MAX_KICKERS + 1, sizeof(*e->kickers));
	e->threads = allocate_threads(config->n_kickers);
	e->scratch = calloc(config->n_vcpus, sizeof(*e->scratch));
	e->kicks_capacity = config->kicks_capacity;
	e->pauses_capacity = config->pauses_capacity;
	if (e->pauses_capacity)
		e->pauses = allocate(e, e->pauses_capacity * sizeof(*e->pauses));
	if (!e->kickers || !e->threads || !e->scratch || (e->pauses_capacity && !e->pauses))
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

static bool create_timers(struct kb_engine *e, struct kb_kicker *k)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = e->signal};

		event._sigev_un._tid = e->workers[i].v.tid;
		if (timer_create(CLOCK_MONOTONIC, &event, &k->targets[i].timer))
			return lacks(e, KB_TIMERS, errno);
		e->n_timers++;
	}
	return true;
}

static bool start_kicker(struct kb_engine *e, uint32_t index, const struct kb_config *config)
{
	struct kicker *t = &e->threads[index];
	int error;

	if (config->transport == KB_PIDFD && e->workers[0].v.pidfd < 0)
		return lacks(e, KB_PIDFDS, e->workers[0].pidfd_error);
	if (config->transport == KB_TIMER && !create_timers(e, &e->kickers[index]))
		return false;
	t->engine = e;
	atomic_fetch_add(&e->kickers_pending, 1);
	error =
	    start_thread(&t->thread, config->kicker_cpus, config->n_kicker_cpus, kicker_thread, t);
	if (error) {
		atomic_fetch_sub(&e->kickers_pending, 1);
		return lacks(e, error == EINVAL ? KB_CPUS : KB_THREADS, error);
	}
	e->n_kickers++;
	return true;
}

/* Waits for those that were started, also when the next could not be. */
bool start_kickers(struct kb_engine *e, const struct kb_config *config)
{
	bool fine = true;

	for (uint32_t i = 0; i < config->n_kickers && fine; i++)
		fine = start_kicker(e, i, config);
	if (!wait_for_each(&e->kickers_pending, START_MAX_S * NS_PER_S))
		return give_up(e, false);
	for (uint32_t i = 0; i < e->n_kickers && fine; i++)
		if (!e->threads[i].kicks)
			fine = lacks(e, KB_MEMORY, ENOMEM);
	return fine;
}

/* Only those that were created: 0 is a timer's id, too. */
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
	for (uint32_t i = 0; e->threads && i < e->n_kickers; i++)
		if (e->threads[i].kicks)
			munmap(e->threads[i].kicks, e->kicks_capacity * sizeof(struct kb_kick));
	if (e->pauses)
		munmap(e->pauses, e->pauses_capacity * sizeof(*e->pauses));
	free(e->scratch);
	free(e->threads);
	free(e->kickers);
}

const struct kb_kick *kb_engine_kicks(const struct kb_engine *e, uint32_t kicker, uint64_t *count)
{
	*count = e->threads[kicker].n_kicks;
	return e->threads[kicker].kicks;
}

const struct kb_pause *kb_engine_pauses(const struct kb_engine *e, uint64_t *count)
{
	*count = e->n_pauses;
	return e->pauses;
}
