/* SPDX-License-Identifier: Apache-2.0 */
/*
 * firecracker_1_14: Firecracker since 1.14, as it sends a vCPU an event.
 *
 * VcpuHandle::send_event() puts the event into a channel, sets run->immediate_exit from its own
 * thread, then sends a signal whose handler only has a fence. The vCPU's loop is that of
 * firecracker_1_13.
 *
 * Two threads write the byte, so that the order matters as in Dekker's algorithm: the vCPU's thread
 * clears the byte and reads the channel, the other one fills the channel and sets the byte. Both
 * sides need a full fence between. Firecracker has none of its own there. Rust's channel has:
 * try_recv() begins with a fence, send() exchanges the tail (library/std/src/sync/mpmc/list.rs).
 * Here both are written out.
 *
 * The pause is answered whether or not I/O is pending: there is no kb_finish_exit.
 *
 * Sources: https://github.com/firecracker-microvm/firecracker, src/vmm/src/vstate/vcpu.rs at
 * 81b38b9dad60 (run_emulation, VcpuHandle::send_event) and pull request 5428 (2025).
 *
 * Expected: no kick is lost.
 */
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	kb_forget_kicks(v);
}

static inline bool clear_and_read(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return kb_kick_requested(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return __atomic_load_n(&v->run->immediate_exit, __ATOMIC_RELAXED) && clear_and_read(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && clear_and_read(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
	atomic_thread_fence(memory_order_acquire);
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	kb_fence_flag();
	kb_set_immediate_exit(v, 1);
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL firecracker_1_14
#include <kickbench/loop.h>
