/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * Kick protocols in other languages than C.
 *
 * Such a protocol is a shared library libNAME.so with these functions of the C ABI, for a protocol
 * called NAME. They are the hooks of protocol.h, which describes them:
 *
 *	int  NAME_enter(struct kb_vcpu *)
 *	void NAME_leave(struct kb_vcpu *)
 *	bool NAME_before_run(struct kb_vcpu *)
 *	bool NAME_after_run(struct kb_vcpu *, int error)
 *	void NAME_handler(struct kb_vcpu *)
 *	int  NAME_kick(struct kb_vcpu *, struct kb_kicker *)
 *	int  NAME_finish_exit(struct kb_vcpu *)		optional
 *
 * To the library, both structures are opaque. It gets at them by the functions below. The hot loops
 * are C, and call the hooks, which are inlined in a protocol in C.
 */
/* clang-format on */
#ifndef KICKBENCH_FOREIGN_H
#define KICKBENCH_FOREIGN_H

#include <kickbench/protocol.h>

/* The vCPU's descriptor, its number from 0, the signal that kicks it, and the page of KVM_RUN. */
KB_EXPORT int kb_foreign_fd(const struct kb_vcpu *v);
KB_EXPORT uint32_t kb_foreign_index(const struct kb_vcpu *v);
KB_EXPORT int kb_foreign_signal(const struct kb_vcpu *v);
KB_EXPORT struct kvm_run *kb_foreign_run(struct kb_vcpu *v);

/* run->immediate_exit. Write it atomically: a signal handler and KVM_RUN read it, too. */
KB_EXPORT uint8_t *kb_foreign_immediate_exit(struct kb_vcpu *v);

/* The helpers of protocol.h. */
KB_EXPORT void kb_foreign_request_kick(struct kb_vcpu *v, const struct kb_kicker *k);
KB_EXPORT bool kb_foreign_kick_requested(const struct kb_vcpu *v);
KB_EXPORT void kb_foreign_forget_kicks(struct kb_vcpu *v);
KB_EXPORT int kb_foreign_send_signal(const struct kb_vcpu *v, const struct kb_kicker *k);
KB_EXPORT int kb_foreign_complete_io(struct kb_vcpu *v);

/* What kickbench compiles for libNAME.so, with KB_PROTOCOL NAME. */
#ifdef KB_PROTOCOL
#define KB_FOREIGN_PASTE_(a, b) a##_##b
#define KB_FOREIGN_PASTE(a, b)	KB_FOREIGN_PASTE_(a, b)
#define KB_FOREIGN(hook)	KB_FOREIGN_PASTE(KB_PROTOCOL, hook)

extern KB_EXPORT int KB_FOREIGN(enter)(struct kb_vcpu *v);
extern KB_EXPORT void KB_FOREIGN(leave)(struct kb_vcpu *v);
extern KB_EXPORT bool KB_FOREIGN(before_run)(struct kb_vcpu *v);
extern KB_EXPORT bool KB_FOREIGN(after_run)(struct kb_vcpu *v, int error);
extern KB_EXPORT void KB_FOREIGN(handler)(struct kb_vcpu *v);
extern KB_EXPORT int KB_FOREIGN(kick)(struct kb_vcpu *v, struct kb_kicker *k);

#define kb_enter      KB_FOREIGN(enter)
#define kb_leave      KB_FOREIGN(leave)
#define kb_before_run KB_FOREIGN(before_run)
#define kb_after_run  KB_FOREIGN(after_run)
#define kb_handler    KB_FOREIGN(handler)
#define kb_kick	      KB_FOREIGN(kick)
#ifdef KB_HAS_FINISH_EXIT
extern KB_EXPORT int KB_FOREIGN(finish_exit)(struct kb_vcpu *v);
#define kb_finish_exit KB_FOREIGN(finish_exit)
#endif

#include <kickbench/loop.h>
#endif

#endif
