/* SPDX-License-Identifier: Apache-2.0 */
/*
 * immediate_exit_remote: the kicker itself sets run->immediate_exit, then sends a signal whose
 * handler does nothing. Proposed for Cloud Hypervisor (pull request 7455).
 *
 * Two CPUs write the byte, so the order matters as in Dekker's algorithm. The vCPU's thread clears
 * the byte, then reads the flag; the kicker sets the flag, then the byte. Were the clear still on
 * its way to memory when the flag is read, it could wipe out a byte set in between, and the kick
 * with it: hence the full fence. A kicker whose flag was not seen after the fence sets the byte
 * later than the clear, and KVM_RUN polls it. kb_fence_flag() keeps the kicker's two stores in
 * order.
 */
#include <kickbench/protocol.h>

/* A kicker that is as early as this wrote the byte, too: the flag is read after the fence. */
static int kb_enter(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	kb_forget_kicks(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	kb_set_immediate_exit(v, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
}

/*
 * A byte that a kicker set meanwhile is wiped out. Its flag is taken right after, by an exchange
 * that releases: a kicker whose flag comes after that sets the byte later than the clear. So there
 * is no need of a fence here.
 */
static int kb_finish_exit(struct kb_vcpu *v)
{
	int error;

	kb_set_immediate_exit(v, 1);
	error = kb_complete_io(v);
	kb_set_immediate_exit(v, 0);
	return error;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	kb_fence_flag();
	kb_set_immediate_exit(v, 1);
	return kb_send_signal(v, k);
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL immediate_exit_remote
#include <kickbench/loop.h>
