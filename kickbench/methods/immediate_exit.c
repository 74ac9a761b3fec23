/* SPDX-License-Identifier: Apache-2.0 */
/*
 * immediate_exit: the signal's handler sets run->immediate_exit, which KVM_RUN polls on entry.
 *
 * A signal in the window between the flag and KVM_RUN runs the handler there, and KVM_RUN returns
 * EINTR at once. No lock is taken on the way (Documentation/virt/kvm/api.rst, immediate_exit).
 *
 * The byte is written by this thread only, in its own signal handler: no other CPU is involved, so
 * a compiler barrier is all the ordering that it needs. After EINTR it is cleared before the flag
 * is read: a handler that runs between the two sets it again, and costs a spurious exit, never a
 * lost kick.
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

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	kb_set_immediate_exit(v, 0);
	return kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 1);
}

/* A handler that set the byte meanwhile is wiped out, with its flag to be taken right after. */
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
	return kb_send_signal(v, k);
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL immediate_exit
#include <kickbench/loop.h>
