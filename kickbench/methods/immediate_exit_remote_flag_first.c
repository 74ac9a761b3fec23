/* SPDX-License-Identifier: Apache-2.0 */
/*
 * immediate_exit_remote_flag_first: immediate_exit_remote in the wrong order, a negative control.
 *
 * The flag is read first and run->immediate_exit cleared after it. A kick between the two is wiped
 * out: the flag was not seen, the byte is gone, and the signal's handler does nothing.
 */
#include <kickbench/protocol.h>

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
	bool requested = kb_kick_requested(v);

	if (!requested) /* or the kickers would aim at a kick that is being taken */
		kb_window(v);
	kb_set_immediate_exit(v, 0);
	return requested;
}

/* The flag is read where the loop comes round. */
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	(void)v;
	(void)error;
	return false;
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
}

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

#define KB_WINDOW_IN_HOOK
#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL immediate_exit_remote_flag_first
#include <kickbench/loop.h>
