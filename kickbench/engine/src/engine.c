/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conductor, who steps all threads through a schedule of blocks, and the engine's life.
 *
 * A block is two steps that all threads take together: SWITCH (leave the old protocol, enter the
 * new one), then RUN (the protocol's loop until the window closes). What a block costs to prepare
 * and to evaluate is outside the window.
 */
#include "internal.h"

#include <kickbench/mark.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KICK_GRACE_NS	 1000000ll /* a vCPU that exits anyway ends its block by itself */
#define KICKERS_GRACE_NS (2 * KICK_MAX_S * NS_PER_S)

static void note_failures(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus && e->failure.vcpu < 0; i++) {
		const struct vcpu_thread *t = &e->vcpu_threads[i];
		const struct kvm_run *run = t->v.run;

		if (!t->enter_error && !t->v.run_error && !t->v.unexpected_exit && !t->follow_error)
			continue;
		e->failure.vcpu = (int32_t)i;
		e->failure.entering = t->enter_error != 0;
		e->failure.finishing = t->v.finish_failed;
		e->failure.following = t->follow_error != 0;
		e->failure.error = t->enter_error    ? t->enter_error
				   : t->follow_error ? t->follow_error
						     : t->v.run_error;
		e->failure.exit_reason = run->exit_reason;
		if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			e->failure.suberror = run->internal.suberror;
		if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
			e->failure.detail = run->fail_entry.hardware_entry_failure_reason;
	}
	if (e->failure.vcpu < 0)
		note_failed_kick(e);
}

static bool kickers_come(struct kb_engine *e, int64_t whole_ns)
{
	return wait_for_kicks(e, &e->kickers_pending, e->kicker_threads, e->n_kickers,
			      whole_ns + KICKERS_GRACE_NS) ||
	       give_up(e, false);
}

static bool run_one(struct kb_engine *e, uint64_t warmup_ns, uint64_t block_ns)
{
	const int64_t whole_ns = (int64_t)(warmup_ns + block_ns);
	const bool by_clock = e->plan.loop == KB_EXIT_LOOP;

	if (!do_step(e, SWITCH))
		return give_up(e, true);
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct vcpu_thread *t = &e->vcpu_threads[i];

		atomic_store_explicit(&t->v.turn, 0, memory_order_relaxed);
		atomic_store_explicit(&t->v.exit_count, 0, memory_order_relaxed);
		atomic_store_explicit(&t->busy, true, memory_order_relaxed);
	}
	e->warmup_cycles = to_cycles(e, warmup_ns);
	e->block_cycles = to_cycles(e, block_ns);
	atomic_store_explicit(&e->starting, e->n_vcpus, memory_order_relaxed);
	atomic_store_explicit(&e->begun, NOT_BEGUN, memory_order_relaxed);
	begin_step(e, RUN);
	/* Threads that share a CPU may take longer to have had their turns than a block lasts. */
	if (!wait_for_begin(e, whole_ns))
		begin_block(e);
	if (!by_clock && !kickers_come(e, whole_ns))
		return false;
	if (!(by_clock && wait_for_none(&e->pending, whole_ns + KICK_GRACE_NS)) && !stop_vcpus(e))
		return false;
	if (!kickers_come(e, 0) || !noise_comes(e))
		return false;
	note_noise(e);
	note_failures(e);
	return e->failure.vcpu < 0;
}

/* The last protocol leaves: the accesses of its block are compared then. */
static bool leave_last(struct kb_engine *e)
{
	e->block.protocol = NULL;
	return !e->guest_counts || do_step(e, SWITCH) || give_up(e, true);
}

/* The results are the caller's again. */
static int fail(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		e->vcpu_threads[i].of_block = NULL;
	return -1;
}

int kb_engine_blocks(struct kb_engine *e, const struct kb_block *blocks, uint32_t n_blocks,
		     uint64_t warmup_ns, uint64_t block_ns, const struct kb_plan *plan,
		     struct kb_block_result *results)
{
	const bool blocks_are_short = (int64_t)(warmup_ns + block_ns) < steal_tick_ns(e->steal);
	uint32_t shared_out = 0;

	memset(results, 0, (size_t)n_blocks * e->n_vcpus * sizeof(*results));
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		e->vcpu_threads[i].v.samples = e->vcpu_threads[i].samples;
		e->vcpu_threads[i].v.samples_capacity = e->samples_capacity;
	}
	for (uint32_t i = 0; i < e->n_kickers; i++)
		e->kicker_threads[i].n_kicks = 0;
	e->n_pauses = 0;
	e->plan = *plan;
	read_steal(e->steal);
	for (uint32_t b = 0; b < n_blocks; b++) {
		e->block = blocks[b];
		e->block_index = b;
		e->results = results + (size_t)b * e->n_vcpus;
		if (!run_one(e, warmup_ns, block_ns))
			return fail(e);
		if (blocks_are_short && b + 1 < n_blocks)
			continue;
		read_steal(e->steal);
		share_out_steal(e->steal, results + (size_t)shared_out * e->n_vcpus,
				b + 1 - shared_out, e->n_vcpus);
		shared_out = b + 1;
	}
	return leave_last(e) ? 0 : fail(e);
}

const struct kb_failure *kb_engine_failure(const struct kb_engine *e)
{
	return &e->failure;
}

const uint32_t *kb_engine_samples(const struct kb_engine *e, uint32_t vcpu)
{
	return e->vcpu_threads[vcpu].samples;
}

int kb_engine_memory_locked(const struct kb_engine *e)
{
	return e->memory_locked;
}

/* -- Life ----------------------------------------------------------------------------------------
 */

/* Untouched pages, and no huge page: it would put many vCPUs on the node of the first. */
static struct vcpu_thread *map_vcpu_threads(size_t bytes)
{
	void *memory =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

void init_vcpu(struct kb_engine *e, struct vcpu_thread *t, const struct kb_config *config,
	       const struct kb_vcpu_config *vcpu)
{
	t->engine = e;
	t->params = vcpu->params;
	t->ring = vcpu->ring;
	t->schedstat_fd = t->stat_fd = -1;
	t->v.fd = vcpu->fd;
	t->v.run = vcpu->run;
	t->v.signal = config->signal;
	t->v.clock_is_counter = config->clock_is_counter;
	t->v.expected_exit = config->expected_exit;
	t->v.other_exit = config->other_exit;
	t->v.index = (uint32_t)(t - e->vcpu_threads);
	t->v.pidfd = -1;
	t->v.kickers = e->kickers;
	t->v.n_kickers = config->n_kickers;
	t->v.acks = t->acks;
}

static bool all_prepared(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		if (e->vcpu_threads[i].lacks_files)
			return lacks(e, KB_FILES, EMFILE);
		if (!e->vcpu_threads[i].samples || !e->vcpu_threads[i].scratch ||
		    !e->vcpu_threads[i].histograms)
			return lacks(e, KB_MEMORY, ENOMEM);
	}
	return true;
}

/* False when one is stuck. */
static bool stop_threads(struct kb_engine *e)
{
	if (!do_step(e, QUIT))
		return give_up(e, true);
	quit_stopper(e);
	for (uint32_t i = 0; i < e->n_vcpus; i++)
		pthread_join(e->vcpu_threads[i].thread, NULL);
	for (uint32_t i = 0; i < e->n_kickers; i++)
		pthread_join(e->kicker_threads[i].thread, NULL);
	for (uint32_t i = 0; i < e->n_noise; i++)
		pthread_join(e->noise_threads[i].thread, NULL);
	return true;
}

static void release(struct kb_engine *e)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct vcpu_thread *t = &e->vcpu_threads[i];

		if (t->schedstat_fd >= 0)
			close(t->schedstat_fd);
		if (t->stat_fd >= 0)
			close(t->stat_fd);
		if (t->samples)
			munmap(t->samples, e->samples_capacity * sizeof(uint32_t));
		if (t->scratch)
			munmap(t->scratch, scratch_bytes(e));
		if (t->histograms)
			munmap(t->histograms, histograms_bytes(e));
		if (t->v.pidfd >= 0)
			close(t->v.pidfd);
	}
	release_kickers(e);
	release_noise(e);
	sigaction(e->signal, &e->old_action, NULL);
	close_steal(e->steal);
	munmap(e->vcpu_threads, e->vcpu_threads_bytes);
	free(e);
}

/* The page with the vCPU's flag is on the node of its CPUs: it is first touched there. */
static int start_vcpu(struct kb_engine *e, uint32_t index, const struct kb_config *config)
{
	const struct kb_vcpu_config *vcpu = &config->vcpus[index];
	struct vcpu_thread *t = &e->vcpu_threads[index];
	union cpus before;
	int error = stand_on(vcpu->cpus, vcpu->n_cpus, &before);

	if (error)
		return error;
	init_vcpu(e, t, config, vcpu);
	stand_back(&before);
	return start_thread(&t->thread, vcpu->cpus, vcpu->n_cpus, run_vcpu, t);
}

/* Waits for the threads that were started, also if a later one could not be. */
static bool start_vcpus(struct kb_engine *e, const struct kb_config *config)
{
	int error = 0;

	for (uint32_t i = 0; i < config->n_vcpus && !error; i++) {
		atomic_fetch_add(&e->pending, 1);
		error = start_vcpu(e, i, config);
		if (error)
			atomic_fetch_sub(&e->pending, 1);
		e->n_vcpus += !error;
	}
	if (!wait_for_each(&e->pending, START_MAX_S * NS_PER_S))
		return give_up(e, true);
	if (error)
		return lacks(e, error == EINVAL ? KB_CPUS : KB_THREADS, error);
	return all_prepared(e);
}

/* All threads share one CPU: a thread that is waited for runs only when the other yields. */
static bool has_one_cpu(const struct kb_config *config)
{
	const int32_t first = config->vcpus[0].n_cpus ? config->vcpus[0].cpus[0] : -1;

	for (uint32_t i = 0; i < config->n_vcpus; i++)
		for (uint32_t c = 0; c < config->vcpus[i].n_cpus; c++)
			if (config->vcpus[i].cpus[c] != first)
				return false;
	for (uint32_t c = 0; c < config->n_kicker_cpus; c++)
		if (config->kicker_cpus[c] != first)
			return false;
	return first >= 0;
}

static struct kb_engine *allocate_engine(const struct kb_config *config)
{
	struct kb_engine *e = aligned_alloc(KB_CACHE_LINE, sizeof(*e));

	if (!e)
		return NULL;
	memset(e, 0, sizeof(*e));
	e->failure.vcpu = e->failure.kicker = -1;
	e->vcpu_threads_bytes = config->n_vcpus * sizeof(struct vcpu_thread);
	e->vcpu_threads = map_vcpu_threads(e->vcpu_threads_bytes);
	e->steal = open_steal("/proc/stat");
	if (!e->vcpu_threads || !e->steal) {
		if (e->vcpu_threads)
			munmap(e->vcpu_threads, e->vcpu_threads_bytes);
		close_steal(e->steal);
		free(e);
		return NULL;
	}
	return e;
}

static bool is_realtime(void)
{
	/* musl's functions for this only return ENOSYS. */
	const long policy = syscall(SYS_sched_getscheduler, 0) & ~SCHED_RESET_ON_FORK;

	return policy == SCHED_FIFO || policy == SCHED_RR;
}

struct kb_engine *new_engine(const struct kb_config *config)
{
	struct kb_engine *e = allocate_engine(config);

	if (!e)
		return NULL;
	e->n_entries = config->n_entries;
	e->clock_hz = config->clock_hz;
	e->clock_step = (double)kb_clock_step((int)config->clock_is_counter);
	e->one_cpu = has_one_cpu(config);
	e->guest_counts = config->guest_counts;
	e->realtime = is_realtime();
	e->samples_capacity = config->samples_capacity;
	e->memory_locked = true;
	e->signal = config->signal;
	e->foreign_signal = config->foreign_signal;
	return e;
}

struct kb_engine *kb_engine_create(const struct kb_config *config, struct kb_failure *failure)
{
	struct kb_engine *e = new_engine(config);

	if (!e) {
		*failure = (struct kb_failure){
		    .vcpu = -1, .kicker = -1, .resource = KB_MEMORY, .error = ENOMEM};
		return NULL;
	}
	install_handler(e->signal, &e->old_action);

	/* The kickers' tables come first: vCPU threads get their address. */
	if (allocate_kickers(e, config) && start_vcpus(e, config) && start_kickers(e, config) &&
	    start_noise(e, config) && start_stopper(e))
		return e;
	*failure = e->failure;
	if (!failure->stuck && stop_threads(e))
		release(e);
	return NULL;
}

int kb_engine_destroy(struct kb_engine *e)
{
	if (e->failure.stuck || !stop_threads(e))
		return -1;
	release(e);
	return 0;
}

void kb_watch(void)
{
	KB_PUT_MARK(KB_MARK_WATCH);
}
