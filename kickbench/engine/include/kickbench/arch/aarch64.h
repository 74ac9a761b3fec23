/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine asks of arm64. Arm ARM is the Arm Architecture Reference Manual, DDI 0487. */
#ifndef KICKBENCH_ARCH_AARCH64_H
#define KICKBENCH_ARCH_AARCH64_H

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The longest of the lines that are common: 64 bytes, or 128 (Apple's cores, ThunderX). */
#define KB_CACHE_LINE 128

/* The longest of the pages that the kernel may have: 4, 16 or 64 KiB. */
#define KB_PAGE_BYTES 65536

/*
 * libc's struct rseq of this thread (glibc 2.35): __rseq_offset from the thread pointer. Where libc
 * has none, or has not registered it, the size is 0 or missing.
 */
extern const ptrdiff_t __rseq_offset __attribute__((weak, visibility("default")));
extern const unsigned int __rseq_size __attribute__((weak, visibility("default")));
#define KB_RSEQ_CPU_ID 4 /* offsetof(struct rseq, cpu_id) in linux/rseq.h */

/*
 * The kernel keeps the number up to date whenever the thread returns to user space. It was wrong
 * just after KVM_RUN before Linux 5.15: tools/testing/selftests/kvm/rseq_test.c looks for that bug.
 * Without libc's rseq, each stamp pays for a system call.
 */
static inline uint32_t kb_this_cpu(void)
{
	unsigned int cpu = 0;

	if (&__rseq_size && __rseq_size) {
		const char *rseq = (const char *)__builtin_thread_pointer() + __rseq_offset;

		return *(const volatile uint32_t *)(rseq + KB_RSEQ_CPU_ID);
	}
	syscall(SYS_getcpu, &cpu, NULL, NULL);
	return cpu;
}

/*
 * The virtual counter, and on which CPU it was read.
 *
 * It may be read early, out of the program's order. ISB has it wait for the instructions before it
 * (Arm ARM, "The CNTVCT_EL0 register"; the kernel does the same, __arch_counter_get_cntvct() in
 * arch/arm64/include/asm/arch_timer.h).
 */
static inline uint64_t kb_counter(uint32_t *where)
{
	uint64_t now;

	__asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(now) : : "memory");
	*where = kb_this_cpu();
	return now;
}

/* The CPU's number, from the word that kb_counter() gave beside the counter. */
static inline uint32_t kb_cpu(uint32_t where)
{
	return where;
}

/*
 * In a loop that waits for another CPU. YIELD does nothing on most cores; ISB waits a little. An
 * emulator that runs one CPU after another runs the next one at a YIELD.
 */
static inline void kb_relax(void)
{
	__asm__ volatile("isb\n\tyield" : : : "memory");
}

/*
 * A mark (kickbench/mark.h): movz xzr, #(0x4b00 + its last byte), which changes nothing, and which
 * no compiler writes.
 */
#define KB_PUT_MARK(number)                                                                        \
	__asm__ volatile(".inst 0xd280001f + ((0x4b00 + (%c0 & 0xff)) << 5)"                       \
			 :                                                                         \
			 : "i"(number)                                                             \
			 : "memory")

/* As on x86-64. The guest counts in X3. */
static inline bool kb_guest_count(int fd, uint32_t *count)
{
	uint64_t x3;
	struct kvm_one_reg reg = {
	    .id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
		  KVM_REG_ARM_CORE_REG(regs.regs[3]),
	    .addr = (uintptr_t)&x3,
	};

	if (ioctl(fd, KVM_GET_ONE_REG, &reg))
		return false;
	*count = (uint32_t)x3;
	return true;
}

/* There is no such clock. */
static inline int kb_tell_clock(int fd)
{
	(void)fd;
	return -ENOSYS;
}

/* The general registers, SP, PC and PSTATE, as a VMM reads them, one by one. 0 or -errno. */
static inline int kb_read_state(int fd)
{
	struct kvm_mp_state mp;
	uint64_t value;

	for (size_t at = 0; at <= offsetof(struct user_pt_regs, pstate); at += sizeof(value)) {
		struct kvm_one_reg reg = {
		    .id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
			  (at / sizeof(uint32_t)),
		    .addr = (uintptr_t)&value,
		};

		if (ioctl(fd, KVM_GET_ONE_REG, &reg))
			return -errno;
	}
	return ioctl(fd, KVM_GET_MP_STATE, &mp) ? -errno : 0;
}

/*
 * After kb_request_kick(): a thread that sees a later store sees the flag, too. The flag is set
 * with release, which keeps it behind what came before, but not ahead of what comes after.
 */
static inline void kb_fence_flag(void)
{
	atomic_thread_fence(memory_order_seq_cst); /* dmb ish */
}

#endif
