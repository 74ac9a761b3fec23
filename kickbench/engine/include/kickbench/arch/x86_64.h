/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine asks of x86-64. */
#ifndef KICKBENCH_ARCH_X86_64_H
#define KICKBENCH_ARCH_X86_64_H

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* What one CPU writes and another one reads is this far apart. */
#define KB_CACHE_LINE 64

/* What threads on different nodes write is not on one page. */
#define KB_PAGE_BYTES 4096

#define KB_TSC_AUX_CPU_MASK 0xfffu

/*
 * The TSC, and on which CPU it was read: see kb_cpu().
 *
 * RDTSCP and not RDTSC: it waits for the instructions before it (Intel SDM volume 2B, RDTSCP), and
 * gives the number of this CPU (the kernel keeps it in IA32_TSC_AUX, bits 0-11), so that a
 * migration is seen without a system call. Threads on CPUs from 4,096 on, whose number does not
 * fit, get the other clock (kickbench/host/clock.py).
 *
 * rseq(2) has numbers without that limit, but is not for this place. It is read at another moment
 * than the counter. It was wrong just after KVM_RUN on some kernels: tools/testing/selftests/kvm/
 * rseq_test.c looks for that bug. And where libc did not register it, each exit would pay for
 * getcpu(2).
 */
static inline uint64_t kb_counter(uint32_t *where)
{
	/* __rdtscp(), without its header: nine tenths of what each protocol would compile. */
	return __builtin_ia32_rdtscp(where);
}

/* The CPU's number, from the word that kb_counter() gave beside the counter. */
static inline uint32_t kb_cpu(uint32_t where)
{
	return where & KB_TSC_AUX_CPU_MASK;
}

/* In a loop that waits for another CPU: the core's other thread is faster meanwhile. */
static inline void kb_relax(void)
{
	__builtin_ia32_pause();
}

/* A mark (kickbench/mark.h): nopl number(%rax,%rax,1), which is 0f 1f 84 00 and the number. */
#define KB_PUT_MARK(number)                                                                        \
	__asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00\n\t.long %c0" : : "i"(number) : "memory")

/*
 * The exits that a guest at full speed has counted, modulo 2^32: it counts ECX down
 * (kickbench/guest/programs/x86_64/program.inc). For the vCPU's own thread. False: KVM refuses.
 */
static inline bool kb_guest_count(int fd, uint32_t *count)
{
	struct kvm_regs regs;

	if (ioctl(fd, KVM_GET_REGS, &regs))
		return false;
	*count = 0 - (uint32_t)regs.rcx;
	return true;
}

/* KVM_KVMCLOCK_CTRL: a guest that watches for lockups is to know of the pause. 0 or -errno. */
static inline int kb_tell_clock(int fd)
{
	return ioctl(fd, KVM_KVMCLOCK_CTRL, 0) == 0 ? 0 : -errno;
}

/*
 * Reads the vCPU's state as a VMM does that saves it, but for its MSRs, whose list is each VMM's
 * own. There is no local APIC without an interrupt chip in the kernel (EINVAL). 0 or -errno.
 */
static inline int kb_read_state(int fd)
{
	struct {
		struct kvm_mp_state mp;
		struct kvm_regs regs;
		struct kvm_sregs sregs;
		struct kvm_xsave xsave;
		struct kvm_xcrs xcrs;
		struct kvm_debugregs debug;
		struct kvm_lapic_state lapic;
		struct kvm_vcpu_events events;
	} state;

	if (ioctl(fd, KVM_GET_MP_STATE, &state.mp) || ioctl(fd, KVM_GET_REGS, &state.regs) ||
	    ioctl(fd, KVM_GET_SREGS, &state.sregs) || ioctl(fd, KVM_GET_XSAVE, &state.xsave) ||
	    ioctl(fd, KVM_GET_XCRS, &state.xcrs) || ioctl(fd, KVM_GET_DEBUGREGS, &state.debug) ||
	    ioctl(fd, KVM_GET_VCPU_EVENTS, &state.events) ||
	    (ioctl(fd, KVM_GET_LAPIC, &state.lapic) && errno != EINVAL))
		return -errno;
	return 0;
}

/*
 * After kb_request_kick(): a thread that sees a later store sees the flag, too. The flag is set by
 * a locked instruction, which is a full fence. So only the compiler needs a fence here.
 */
static inline void kb_fence_flag(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

#endif
