/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU threads, and the conductor that steps them through a schedule of blocks.
 *
 * A block is two steps that all threads take together: SWITCH (leave the old protocol, enter the
 * new one), then RUN (the protocol's loop until the window closes). What a block costs to prepare
 * and to evaluate is outside the window.
 */
#include "engine.h"

#include <fcntl.h>
#include <kickbench/clock.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define NS_PER_S	   1000000000ll
#define THREAD_STACK_BYTES (256u << 10)
#define PROC_STAT_BYTES	   (1u << 20)
#define UNKNOWN		   (-1)	     /* a counter that this kernel or clock does not have */
#define KICK_GRACE_NS	   1000000ll /* a vCPU that exits anyway ends its block by itself */
#define KICK_PERIOD_NS	   5000000ll /* then kick, and kick again: the rescue */
#define KICK_MAX_S	   10	     /* a vCPU that stays in KVM_RUN for longer is stuck */

enum command { SWITCH, RUN, QUIT };

/* Counters of a thread, sampled at both ends of the window. */
struct counters {
	int64_t cpu_ns;
	int64_t run_delay_ns;
	long voluntary_switches;
	long involuntary_switches;
};

struct worker {
	struct kb_vcpu v; /* first: the hooks get a pointer to it */
	struct kb_engine *engine;
	const struct kb_guest_params *params;
	const uint32_t *ring;
	uint32_t *samples; /* of all blocks of a call; v.samples is the free rest */
	uint64_t *histograms;
	cpu_set_t cpus;
	pthread_t thread;
	int schedstat_fd;
	const struct kb_protocol *protocol; /* entered by the thread */
	int enter_error;
	struct counters opened;
	uint32_t guest_head; /* when the window opened */
	bool window_opened;
	atomic_bool busy; /* in its loop: the conductor may have to kick it */
};

struct kb_engine {
	uint32_t n_vcpus, n_entries;
	double clock_hz;
	bool memory_locked;
	uint64_t samples_capacity;
	struct worker *workers;
	struct kb_failure failure;
	struct sigaction old_action;
	int signal;
	int proc_stat_fd;
	char *proc_stat;

	/* The current step; written by the conductor before it raises `step`. */
	enum command command;
	struct kb_block block;
	uint64_t record_from, record_until;
	struct kb_block_result *results;

	_Alignas(KB_CACHE_LINE) atomic_uint step;
	_Alignas(KB_CACHE_LINE) atomic_uint pending; /* threads that have not finished it */
};

/* The thread's own vCPU, for the signal handler. Initial-exec: no allocation on first use. */
static __thread struct worker *current __attribute__((tls_model("initial-exec")));

static void on_signal(int signal)
{
	struct worker *w = current;
	int saved_errno = errno;

	(void)signal;
	if (w && w->protocol)
		w->protocol->handler(&w->v);
	errno = saved_errno;
}

/* -- Steps --------------------------------------------------------------------------------------
 */

static void futex_wait(atomic_uint *word, unsigned int value, int64_t timeout_ns)
{
	struct timespec t = {timeout_ns / NS_PER_S, timeout_ns % NS_PER_S};

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &t, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void begin_step(struct kb_engine *e, enum command command)
{
	e->command = command;
	atomic_store_explicit(&e->pending, e->n_vcpus, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->step, 1, memory_order_release);
	futex_wake_all(&e->step);
}

/* Waits for all threads to finish the step; false when `timeout_ns` (< 0: none) passed first. */
static bool end_step(struct kb_engine *e, int64_t timeout_ns)
{
	uint64_t until = timeout_ns < 0 ? UINT64_MAX : kb_raw_ns() + (uint64_t)timeout_ns;
	unsigned int pending;

	while ((pending = atomic_load_explicit(&e->pending, memory_order_acquire))) {
		uint64_t now = kb_raw_ns();

		if (now >= until)
			return false;
		futex_wait(&e->pending, pending, timeout_ns < 0 ? -1 : (int64_t)(until - now));
	}
	return true;
}

static void finish_step(struct kb_engine *e)
{
	if (atomic_fetch_sub_explicit(&e->pending, 1, memory_order_acq_rel) == 1)
		futex_wake_all(&e->pending);
}

/* -- Counters ------------------------------------------------------------------------------------
 */

static int64_t read_run_delay_ns(int fd)
{
	char text[128];
	long long on_cpu, delay;
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return UNKNOWN;
	text[n] = '\0';
	return sscanf(text, "%lld %lld", &on_cpu, &delay) == 2 ? delay : UNKNOWN;
}

static struct counters read_counters(const struct worker *w)
{
	struct timespec cpu;
	struct rusage usage;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	getrusage(RUSAGE_THREAD, &usage);
	return (struct counters){
	    .cpu_ns = cpu.tv_sec * NS_PER_S + cpu.tv_nsec,
	    .run_delay_ns = read_run_delay_ns(w->schedstat_fd),
	    .voluntary_switches = usage.ru_nvcsw,
	    .involuntary_switches = usage.ru_nivcsw,
	};
}

void kb_window_opens(struct kb_vcpu *v)
{
	struct worker *w = (struct worker *)v;

	w->window_opened = true;
	w->opened = read_counters(w);
	/* The round trip that is under way contains this very function: begin with the next. */
	if (w->ring)
		w->guest_head = *(const volatile uint32_t *)&w->params->head + 1;
}

/* Steal of each CPU since boot, in ns, into steal[CPU]; /proc/stat counts it in USER_HZ. */
static void read_steal_ns(struct kb_engine *e, int64_t *steal)
{
	const int64_t ns_per_tick = NS_PER_S / sysconf(_SC_CLK_TCK);
	ssize_t n =
	    e->proc_stat_fd < 0 ? -1 : pread(e->proc_stat_fd, e->proc_stat, PROC_STAT_BYTES - 1, 0);

	memset(steal, 0, CPU_SETSIZE * sizeof(*steal));
	if (n <= 0)
		return;
	e->proc_stat[n] = '\0';
	for (char *line = e->proc_stat; line && !strncmp(line, "cpu", 3);
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		unsigned int cpu;
		long long ticks;

		if (sscanf(line, "cpu%u %*d %*d %*d %*d %*d %*d %*d %lld", &cpu, &ticks) == 2 &&
		    cpu < CPU_SETSIZE)
			steal[cpu] = ticks * ns_per_tick;
	}
}

/* -- Histograms ----------------------------------------------------------------------------------
 */

static uint32_t histogram_bin(uint32_t cycles)
{
	uint32_t shift;

	if (cycles < 2 * KB_HISTOGRAM_HALF)
		return cycles;
	shift = 32 - KB_HISTOGRAM_BITS - (uint32_t)__builtin_clz(cycles);
	return shift * KB_HISTOGRAM_HALF + (cycles >> shift);
}

void kb_histogram_edges(uint64_t *edges)
{
	for (uint32_t bin = 0; bin <= KB_HISTOGRAM_BINS; bin++) {
		uint32_t shift = bin < 2 * KB_HISTOGRAM_HALF ? 0 : bin / KB_HISTOGRAM_HALF - 1;

		edges[bin] = (uint64_t)(bin - shift * KB_HISTOGRAM_HALF) << shift;
	}
}

void kb_engine_histogram(const struct kb_engine *e, uint32_t entry, uint64_t *counts)
{
	memset(counts, 0, KB_HISTOGRAM_BINS * sizeof(*counts));
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		const uint64_t *mine = e->workers[i].histograms + (size_t)entry * KB_HISTOGRAM_BINS;

		for (uint32_t bin = 0; bin < KB_HISTOGRAM_BINS; bin++)
			counts[bin] += mine[bin];
	}
}

/* -- The vCPU thread -----------------------------------------------------------------------------
 */

static void switch_protocol(struct worker *w, const struct kb_protocol *next)
{
	if (w->protocol)
		w->protocol->leave(&w->v);
	w->protocol = next;
	w->enter_error = next ? -next->enter(&w->v) : 0;
}

/* The guest's own round trips of the window, from its ring to where the host's samples would be. */
static void take_guest_samples(struct worker *w, struct kb_block_result *r)
{
	const uint32_t head = *(const volatile uint32_t *)&w->params->head;
	const uint32_t mask = w->params->ring_mask;
	const int32_t made = w->window_opened ? (int32_t)(head - w->guest_head) : 0;
	uint32_t count = made > 0 ? (uint32_t)made : 0;
	uint64_t room =
	    w->v.samples_capacity < (uint64_t)mask + 1 ? w->v.samples_capacity : mask + 1;

	r->unsampled = 0;
	if (count > room) {
		r->unsampled = count - room;
		count = (uint32_t)room;
	}
	for (uint32_t i = 0; i < count; i++)
		w->v.samples[i] = w->ring[(head - count + i) & mask];
	r->samples_count = count;
}

static void evaluate(struct worker *w, struct kb_block_result *r)
{
	struct kb_engine *e = w->engine;
	uint64_t *histogram = w->histograms + (size_t)e->block.entry * KB_HISTOGRAM_BINS;
	struct kb_vcpu *v = &w->v;

	if (w->window_opened) {
		struct counters now = read_counters(w);

		r->cpu_ns = now.cpu_ns - w->opened.cpu_ns;
		r->run_delay_ns = now.run_delay_ns == UNKNOWN
				      ? UNKNOWN
				      : now.run_delay_ns - w->opened.run_delay_ns;
		r->voluntary_switches =
		    (int32_t)(now.voluntary_switches - w->opened.voluntary_switches);
		r->involuntary_switches =
		    (int32_t)(now.involuntary_switches - w->opened.involuntary_switches);
	}
	r->exits = v->exits;
	r->elapsed_cycles = v->window_last - v->window_first;
	r->spurious_exits = v->spurious_exits;
	r->migrations = v->clock_is_tsc ? (int32_t)v->migrations : UNKNOWN;
	r->cpu = sched_getcpu();
	r->kicked = v->kicked;
	r->samples_offset = (uint64_t)(v->samples - w->samples);
	if (w->ring) {
		take_guest_samples(w, r);
	} else {
		r->samples_count = v->exits < v->samples_capacity ? v->exits : v->samples_capacity;
		r->unsampled = v->exits - r->samples_count;
	}
	r->timed_exits = r->samples_count;
	for (uint64_t i = 0; i < r->samples_count; i++) {
		uint32_t cycles = v->samples[i];

		r->timed_cycles += cycles;
		if (cycles > r->max_cycles)
			r->max_cycles = cycles;
		histogram[histogram_bin(cycles)]++;
	}
	v->samples += r->samples_count;
	v->samples_capacity -= r->samples_count;
}

static void run_block(struct worker *w, uint32_t index)
{
	struct kb_engine *e = w->engine;
	struct kb_vcpu *v = &w->v;

	v->record_from = e->record_from;
	v->record_until = e->record_until;
	v->exits = v->spurious_exits = v->window_first = v->window_last = 0;
	v->migrations = 0;
	v->kicked = v->unexpected_exit = false;
	v->run_error = 0;
	w->window_opened = false;
	if (w->enter_error == 0) {
		w->protocol->loop(v);
		atomic_store_explicit(&w->busy, false, memory_order_release);
		evaluate(w, &e->results[index]);
	}
	atomic_store_explicit(&w->busy, false, memory_order_release);
}

/* Zeroed memory on the thread's own node: it is the first to touch it. Locked, if it may be. */
static void *allocate(struct kb_engine *e, size_t bytes)
{
	void *memory =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	memset(memory, 0, bytes);
	if (mlock(memory, bytes))
		e->memory_locked = false;
	return memory;
}

static size_t histograms_bytes(const struct kb_engine *e)
{
	return (size_t)e->n_entries * KB_HISTOGRAM_BINS * sizeof(uint64_t);
}

/* Only the kick signal may reach this thread: what is meant for the process is for its main thread.
 */
static void block_other_signals(int kick)
{
	sigset_t others;

	sigfillset(&others);
	sigdelset(&others, kick);
	pthread_sigmask(SIG_SETMASK, &others, NULL);
}

static void prepare_thread(struct worker *w)
{
	char path[64];

	current = w;
	block_other_signals(w->v.signal);
	w->v.tid = (pid_t)syscall(SYS_gettid);
	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", w->v.tid);
	w->schedstat_fd = open(path, O_RDONLY | O_CLOEXEC);
	w->samples = allocate(w->engine, w->engine->samples_capacity * sizeof(uint32_t));
	w->histograms = allocate(w->engine, histograms_bytes(w->engine));
}

static void *vcpu_thread(void *arg)
{
	struct worker *w = arg;
	struct kb_engine *e = w->engine;
	const uint32_t index = (uint32_t)(w - e->workers);
	unsigned int seen = 0;

	prepare_thread(w);
	finish_step(e);
	for (;;) {
		unsigned int step;

		while ((step = atomic_load_explicit(&e->step, memory_order_acquire)) == seen)
			futex_wait(&e->step, seen, -1);
		seen = step;
		switch (e->command) {
		case SWITCH:
			switch_protocol(w, e->block.protocol);
			break;
		case RUN:
			run_block(w, index);
			break;
		case QUIT:
			switch_protocol(w, NULL);
			finish_step(e);
			return NULL;
		}
		finish_step(e);
	}
}

/* -- The conductor --------------------------------------------------------------------------------
 */

static uint64_t now_cycles(const struct kb_engine *e)
{
	uint32_t cpu;

	return kb_stamp(e->workers[0].v.clock_is_tsc, &cpu);
}

static uint64_t to_cycles(const struct kb_engine *e, uint64_t ns)
{
	return (uint64_t)((double)ns * e->clock_hz / 1e9);
}

static void note_failures(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus && e->failure.vcpu < 0; i++) {
		const struct worker *w = &e->workers[i];
		const struct kvm_run *run = w->v.run;

		if (!w->enter_error && !w->v.run_error && !w->v.unexpected_exit)
			continue;
		e->failure.vcpu = (int32_t)i;
		e->failure.entering = w->enter_error != 0;
		e->failure.error = w->enter_error ? w->enter_error : w->v.run_error;
		e->failure.exit_reason = run->exit_reason;
		if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			e->failure.suberror = run->internal.suberror;
		if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
			e->failure.detail = run->fail_entry.hardware_entry_failure_reason;
	}
}

/* Kicks every vCPU that is still running; again and again, until all have left. */
static bool kick_stragglers(struct kb_engine *e)
{
	for (int round = 0; round < KICK_MAX_S * (NS_PER_S / KICK_PERIOD_NS); round++) {
		for (uint32_t i = 0; i < e->n_vcpus; i++) {
			struct worker *w = &e->workers[i];

			if (!atomic_load_explicit(&w->busy, memory_order_acquire))
				continue;
			e->block.protocol->kick(&w->v);
			e->results[i].rescues += round > 0;
		}
		if (end_step(e, KICK_PERIOD_NS))
			return true;
	}
	return false;
}

static bool run_one(struct kb_engine *e, uint64_t warmup_ns, uint64_t block_ns)
{
	int64_t wait_ns = (int64_t)(warmup_ns + block_ns) + KICK_GRACE_NS;

	begin_step(e, SWITCH);
	end_step(e, -1);
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		atomic_store_explicit(&e->workers[i].busy, true, memory_order_relaxed);
	e->record_from = now_cycles(e) + to_cycles(e, warmup_ns);
	e->record_until = e->record_from + to_cycles(e, block_ns);
	begin_step(e, RUN);
	if (!end_step(e, wait_ns) && !kick_stragglers(e)) {
		e->failure.stuck = 1;
		for (uint32_t i = 0; i < e->n_vcpus && e->failure.vcpu < 0; i++)
			if (atomic_load_explicit(&e->workers[i].busy, memory_order_acquire))
				e->failure.vcpu = (int32_t)i;
		return false;
	}
	note_failures(e);
	return e->failure.vcpu < 0;
}

/* The steal of the CPU that each vCPU's thread ended the block on. */
static void share_out_steal(struct kb_engine *e, const int64_t *before, const int64_t *after)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct kb_block_result *r = &e->results[i];

		r->steal_ns = UNKNOWN;
		if (e->proc_stat_fd >= 0 && r->cpu >= 0 && r->cpu < CPU_SETSIZE)
			r->steal_ns = after[r->cpu] - before[r->cpu];
	}
}

int kb_engine_blocks(struct kb_engine *e, const struct kb_block *blocks, uint32_t n_blocks,
		     uint64_t warmup_ns, uint64_t block_ns, struct kb_block_result *results)
{
	int64_t steal[2][CPU_SETSIZE];

	memset(results, 0, (size_t)n_blocks * e->n_vcpus * sizeof(*results));
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		e->workers[i].v.samples = e->workers[i].samples;
		e->workers[i].v.samples_capacity = e->samples_capacity;
	}
	read_steal_ns(e, steal[0]);
	for (uint32_t b = 0; b < n_blocks; b++) {
		e->block = blocks[b];
		e->results = results + (size_t)b * e->n_vcpus;
		if (!run_one(e, warmup_ns, block_ns))
			return -1;
		read_steal_ns(e, steal[(b + 1) % 2]);
		share_out_steal(e, steal[b % 2], steal[(b + 1) % 2]);
	}
	return 0;
}

const struct kb_failure *kb_engine_failure(const struct kb_engine *e)
{
	return &e->failure;
}

const uint32_t *kb_engine_samples(const struct kb_engine *e, uint32_t vcpu)
{
	return e->workers[vcpu].samples;
}

int kb_engine_memory_locked(const struct kb_engine *e)
{
	return e->memory_locked;
}

/* -- Life ----------------------------------------------------------------------------------------
 */

static int start_thread(struct worker *w)
{
	pthread_attr_t attr;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	pthread_attr_setaffinity_np(&attr, sizeof(w->cpus), &w->cpus);
	error = pthread_create(&w->thread, &attr, vcpu_thread, w);
	pthread_attr_destroy(&attr);
	return error;
}

static void init_worker(struct kb_engine *e, struct worker *w, const struct kb_config *config,
			const struct kb_vcpu_config *vcpu)
{
	w->engine = e;
	w->params = vcpu->params;
	w->ring = vcpu->ring;
	w->schedstat_fd = -1;
	w->v.fd = vcpu->fd;
	w->v.run = vcpu->run;
	w->v.signal = config->signal;
	w->v.clock_is_tsc = config->clock_is_tsc;
	w->v.expected_exit = config->expected_exit;
	CPU_ZERO(&w->cpus);
	for (uint32_t i = 0; i < vcpu->n_cpus; i++)
		CPU_SET(vcpu->cpus[i], &w->cpus);
}

static bool all_prepared(const struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		if (!e->workers[i].samples || !e->workers[i].histograms)
			return false;
	return true;
}

static void stop_threads(struct kb_engine *e)
{
	begin_step(e, QUIT);
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		pthread_join(e->workers[i].thread, NULL);
}

static void release(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct worker *w = &e->workers[i];

		if (w->schedstat_fd >= 0)
			close(w->schedstat_fd);
		if (w->samples)
			munmap(w->samples, e->samples_capacity * sizeof(uint32_t));
		if (w->histograms)
			munmap(w->histograms, histograms_bytes(e));
	}
	sigaction(e->signal, &e->old_action, NULL);
	if (e->proc_stat_fd >= 0)
		close(e->proc_stat_fd);
	free(e->proc_stat);
	free(e->workers);
	free(e);
}

struct kb_engine *kb_engine_create(const struct kb_config *config)
{
	struct kb_engine *e = aligned_alloc(KB_CACHE_LINE, sizeof(*e));
	struct sigaction action = {.sa_handler = on_signal};
	const size_t workers_bytes = config->n_vcpus * sizeof(struct worker);
	int error = 0;

	if (!e)
		return NULL;
	memset(e, 0, sizeof(*e));
	e->workers = aligned_alloc(KB_CACHE_LINE, workers_bytes);
	e->proc_stat = malloc(PROC_STAT_BYTES);
	if (!e->workers || !e->proc_stat) {
		free(e->workers);
		free(e->proc_stat);
		free(e);
		errno = ENOMEM;
		return NULL;
	}
	memset(e->workers, 0, workers_bytes);
	e->n_entries = config->n_entries;
	e->clock_hz = config->clock_hz;
	e->samples_capacity = config->samples_capacity;
	e->memory_locked = true;
	e->failure.vcpu = -1;
	e->signal = config->signal;
	e->proc_stat_fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
	sigaction(e->signal, &action, &e->old_action);

	atomic_store(&e->pending, config->n_vcpus);
	for (uint32_t i = 0; i < config->n_vcpus && !error; i++) {
		init_worker(e, &e->workers[i], config, &config->vcpus[i]);
		error = start_thread(&e->workers[i]);
		e->n_vcpus += !error;
	}
	atomic_fetch_sub(&e->pending, config->n_vcpus - e->n_vcpus);
	end_step(e, -1);
	if (!error && !all_prepared(e))
		error = ENOMEM;
	if (error) {
		stop_threads(e);
		release(e);
		errno = error;
		return NULL;
	}
	return e;
}

/* A stuck vCPU's thread can't be joined: the process is about to end, leave all as it is. */
void kb_engine_destroy(struct kb_engine *e)
{
	if (e->failure.stuck)
		return;
	stop_threads(e);
	release(e);
}

size_t kb_sizeof(const char *name)
{
	static const struct {
		const char *name;
		size_t size;
	} sizes[] = {
	    {"vcpu_config", sizeof(struct kb_vcpu_config)},
	    {"config", sizeof(struct kb_config)},
	    {"block", sizeof(struct kb_block)},
	    {"block_result", sizeof(struct kb_block_result)},
	    {"failure", sizeof(struct kb_failure)},
	    {"guest_params", sizeof(struct kb_guest_params)},
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!strcmp(name, sizes[i].name))
			return sizes[i].size;
	return 0;
}
