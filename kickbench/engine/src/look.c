/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at a vCPU from outside: which state it is in, and whether it still runs. A look costs the
 * vCPU nothing but the cache lines that its thread or its guest writes anyway.
 */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_PATIENCE_NS    50000  /* how long to look for the state before a kick */
#define STATE_PATIENCE_NS   100000 /* how long to look for a sign that it still runs */
#define STILL_RUNNING_SIGNS 10
#define TICK_PATIENCE_NS    12000000 /* a tick of the slowest kernel, HZ = 100 */
#define STILL_WORKING_TICKS 3
#define WORKED_NS	    20000 /* in KVM_RUN: far longer than its way to sleep or out */

static uint32_t exit_count(const struct vcpu_thread *t)
{
	return atomic_load_explicit(&t->v.exit_count, memory_order_relaxed);
}

static bool changes(const struct vcpu_thread *t, uint32_t (*read)(const struct vcpu_thread *),
		    uint64_t patience_ns)
{
	const uint64_t until = stamp(t) + to_cycles(t->engine, patience_ns);
	const uint32_t first = read(t);
	unsigned int spins = 0;

	while (read(t) == first) {
		if (stamp(t) >= until)
			return false;
		if (t->engine->one_cpu)
			relax(t->engine, &spins);
	}
	return true;
}

bool in_kvm_run(const struct vcpu_thread *t)
{
	return atomic_load_explicit(&t->v.runs, memory_order_relaxed) & 1;
}

/* The thread's state is S, and not R that waits for a CPU. */
static bool is_asleep(const struct vcpu_thread *t)
{
	char text[256];
	ssize_t n = pread(t->stat_fd, text, sizeof(text) - 1, 0);
	const char *name_end;

	if (n <= 0)
		return false;
	text[n] = '\0';
	name_end = strrchr(text, ')');
	return name_end && !strncmp(name_end, ") S", 3);
}

/*
 * Asleep in the kernel's halt. A thread may as well sleep in user space, or in another KVM_RUN. So
 * the look at the thread must stay between the two loads, on CPUs that reorder loads as well.
 */
static bool is_halted(const struct vcpu_thread *t)
{
	const unsigned int run = atomic_load_explicit(&t->v.runs, memory_order_acquire);

	if (t->v.expected_exit != KVM_EXIT_HLT || !(run & 1) || !is_asleep(t))
		return false;
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&t->v.runs, memory_order_relaxed) == run;
}

/* The thread's CPU time in ns, modulo 2^32. The kernel tells it of a running thread as well. */
static uint32_t cpu_time(const struct vcpu_thread *t)
{
	struct timespec used = {0, 0};

	clock_gettime(t->cpu_clock, &used);
	return (uint32_t)((uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec);
}

/*
 * A halted vCPU whose thread runs on, for so much CPU time in one KVM_RUN: KVM polls for what wakes
 * it up, or it is halted in the guest. A thread that waits for a CPU has no CPU time.
 */
static bool works_while_halted(const struct vcpu_thread *t, uint32_t cpu_ns, uint64_t patience_ns)
{
	const unsigned int run = atomic_load_explicit(&t->v.runs, memory_order_acquire);
	const uint64_t until = stamp(t) + to_cycles(t->engine, patience_ns);
	const uint32_t from = cpu_time(t);
	unsigned int spins = 0;

	if (t->v.expected_exit != KVM_EXIT_HLT || !(run & 1))
		return false;
	while (cpu_time(t) - from < cpu_ns) {
		if (stamp(t) >= until)
			return false;
		if (t->engine->one_cpu)
			relax(t->engine, &spins);
	}
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&t->v.runs, memory_order_relaxed) == run;
}

/*
 * Off its CPU and off the queue of those that wait for one. The state S does not say so: KVM sets
 * it before it looks for signals a last time (kvm_vcpu_block() in virt/kvm/kvm_main.c), and a
 * thread that is preempted there has it while it waits for a CPU. /proc/.../syscall waits for that
 * to end, and names a system call of a blocked thread only (proc(5)). Without the file nothing is
 * known.
 */
static bool is_blocked(const struct vcpu_thread *t)
{
	char path[64], text[32] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)t->v.tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n <= 0 || (text[0] >= '0' && text[0] <= '9');
}

/* The thread's time on CPUs, modulo 2^32 ns, as its own CPU noted it at its last tick. */
static uint32_t ticked_time(const struct vcpu_thread *t)
{
	char text[32] = "";

	return pread(t->schedstat_fd, text, sizeof(text) - 1, 0) > 0
		   ? (uint32_t)strtoull(text, NULL, 10)
		   : 0;
}

/* The kick's signal was sent, and KVM_RUN has not seen it. Without the file nothing is known. */
static bool signal_is_pending(const struct vcpu_thread *t)
{
	char path[64], line[128];
	unsigned long long pending = ~0ull;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)t->v.tid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "SigPnd:", 7))
			pending = strtoull(line + 7, NULL, 16);
	if (file)
		fclose(file);
	return pending >> (t->v.signal - 1) & 1;
}

/*
 * A halted vCPU whose thread works on in one KVM_RUN, although its CPU has handled several ticks:
 * each is an exit of the guest, after which KVM looks for signals and requests. The thread's CPU
 * time alone is no sign here. It also grows while a hypervisor below lets the CPU wait, and then
 * the kick is late.
 */
static bool works_on(const struct vcpu_thread *t)
{
	const unsigned int run = atomic_load_explicit(&t->v.runs, memory_order_acquire);

	if (t->v.expected_exit != KVM_EXIT_HLT || !(run & 1) || signal_is_pending(t))
		return false;
	for (int i = 0; i < STILL_WORKING_TICKS; i++)
		if (!changes(t, ticked_time, TICK_PATIENCE_NS))
			return false;
	return atomic_load_explicit(&t->v.runs, memory_order_acquire) == run;
}

/*
 * Is the vCPU in the state? Waits for a sign of it. The caller is in step with the guest after
 * that, so the kick must come some time later. Only user space, and a halted vCPU whose thread
 * works, can be seen at any moment.
 */
bool is_in_state(struct vcpu_thread *t, uint32_t state)
{
	switch (state) {
	case KB_IN_GUEST:
		return changes(t, heartbeat, LOOK_PATIENCE_NS);
	case KB_HALTED:
	case KB_UNSTARTED:
		return is_halted(t);
	case KB_POLLED:
	case KB_HALTED_INSIDE:
		return works_while_halted(t, WORKED_NS, LOOK_PATIENCE_NS);
	case KB_IN_USERSPACE:
		return atomic_load_explicit(&t->v.in_userspace, memory_order_acquire);
	case KB_IN_STORM:
		return changes(t, exit_count, LOOK_PATIENCE_NS);
	default:
		return true;
	}
}

/*
 * A guest that counts, or exits, again and again was not kicked. A guest whose thread waits for a
 * CPU does neither: its kick is late, not lost. A single last step is no sign either. A halted
 * guest can only be seen to sleep or wait on, in KVM_RUN: a loop that sleeps in user space, for a
 * device or a lock, looks at its flag when it wakes up.
 */
bool still_runs(const struct vcpu_thread *t)
{
	if (is_halted(t) && is_blocked(t) && is_halted(t))
		return true;
	if (works_on(t))
		return true;
	for (int i = 0; i < STILL_RUNNING_SIGNS; i++)
		if (!changes(t, t->v.expected_exit ? exit_count : heartbeat, STATE_PATIENCE_NS))
			return false;
	return true;
}
