/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud_hypervisor_7455: Cloud Hypervisor, as pull request 7455 would have paused its vCPUs.
 *
 * A vCPU has a mutex, and its thread holds it in KVM_RUN and until the exit is handled. The pause
 * sets a flag and tries the mutex. If it is free, the vCPU is in user space before the mutex, and
 * the pause sets run->immediate_exit. Then it sends a signal whose handler does nothing. If the
 * mutex is taken, the vCPU is expected to be in KVM_RUN. It may also have taken the mutex and not
 * have entered yet: then neither the byte nor the signal stops it.
 *
 * Sources: https://github.com/cloud-hypervisor/cloud-hypervisor, pull request 7455 (2025, not
 * merged: signal_vcpus and the review of it), and the loop of vmm/src/cpu.rs, whose
 * `match vcpu.lock().unwrap().run()` holds the mutex.
 * Left out: that the bytes of all vCPUs are set before the first signal is sent. A kick that was
 * seen by its flag may leave the byte set. There the resume clears it, and here it is one spurious
 * exit.
 *
 * Expected: in a race with a wide window, which lies behind the mutex, nearly every aimed kick is
 * lost.
 */
#include <kickbench/protocol.h>

#define MAX_VCPUS 1024

static struct {
	_Alignas(KB_CACHE_LINE) atomic_flag taken;
	bool by_vcpu; /* only its thread looks */
} mutexes[MAX_VCPUS];

static void lock(struct kb_vcpu *v)
{
	while (atomic_flag_test_and_set_explicit(&mutexes[v->index].taken, memory_order_acquire))
		;
	mutexes[v->index].by_vcpu = true;
}

static void unlock(struct kb_vcpu *v)
{
	if (!mutexes[v->index].by_vcpu)
		return;
	mutexes[v->index].by_vcpu = false;
	atomic_flag_clear_explicit(&mutexes[v->index].taken, memory_order_release);
}

static int kb_enter(struct kb_vcpu *v)
{
	if (v->index >= MAX_VCPUS)
		return -E2BIG;
	kb_set_immediate_exit(v, 0);
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
	unlock(v);
	kb_set_immediate_exit(v, 0);
	kb_forget_kicks(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	unlock(v);
	if (kb_kick_requested(v)) {
		kb_set_immediate_exit(v, 0);
		return true;
	}
	lock(v);
	return false;
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	kb_set_immediate_exit(v, 0);
	unlock(v);
	return kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	if (!atomic_flag_test_and_set_explicit(&mutexes[v->index].taken, memory_order_acquire)) {
		kb_set_immediate_exit(v, 1);
		atomic_flag_clear_explicit(&mutexes[v->index].taken, memory_order_release);
	}
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL cloud_hypervisor_7455
#include <kickbench/loop.h>
