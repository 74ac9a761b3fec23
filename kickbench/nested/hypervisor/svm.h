/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SVM as far as L1 uses it. Source: AMD64 Architecture Programmer's Manual, volume 2 (publication
 * 24593): section 15, and appendix B for the layout of the VMCB.
 */
#ifndef KICKBENCH_HYPERVISOR_SVM_H
#define KICKBENCH_HYPERVISOR_SVM_H

#include <stddef.h>
#include <stdint.h>

#define CPUID_SVM_FEATURES 0x8000000a /* volume 3, E.4.9 */
#define CPUID_SVM_NPT	   (1u << 0)  /* in EDX */
#define MSR_EFER	   0xc0000080
#define EFER_SVME	   (1u << 12)  /* 15.4 */
#define MSR_VM_HSAVE_PA	   0xc0010117u /* 15.30.4 */

/* Intercepts, table B-1: offset 00Ch (vector 3) and 010h (vector 4). */
#define INTERCEPT3_INTR	    (1u << 0)
#define INTERCEPT3_SHUTDOWN (1u << 31)
#define INTERCEPT4_VMRUN    (1u << 0) /* must be set, 15.5.1 */
#define INTERCEPT4_VMMCALL  (1u << 1)

#define V_INTR_MASKING	     (1ull << 24) /* table B-1, offset 060h; 15.21.1 */
#define NP_ENABLE	     (1ull << 0)  /* table B-1, offset 090h; 15.25.3 */
#define EVENT_VALID	     (1ull << 31) /* EVENTINJ and EXITINTINFO, 15.20 and 15.7.2 */
#define EVENT_TYPE_EXCEPTION (3ull << 8)

/* Exit codes, appendix C. */
#define VMEXIT_INTR	0x60u
#define VMEXIT_SHUTDOWN 0x7fu
#define VMEXIT_VMMCALL	0x81u
#define VMEXIT_INVALID	0xffffffffu /* -1, here its low half */

/* Attributes of a segment are bits 55:52 and 47:40 of its descriptor, 15.5.1. */
#define SEGMENT_CODE64 0xa9b
#define SEGMENT_DATA   0xc93

struct vmcb_segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

struct vmcb {
	/* The control area, table B-1. */
	uint32_t intercepts[6];
	uint8_t reserved_018[0x03c - 0x018];
	uint16_t pause_filter_threshold, pause_filter_count;
	uint64_t iopm_base, msrpm_base;
	uint64_t tsc_offset;
	uint32_t asid, tlb_control;
	uint64_t virtual_interrupt; /* V_INTR_MASKING is here */
	uint64_t interrupt_shadow;
	uint64_t exit_code, exit_info_1, exit_info_2, exit_interrupt_info;
	uint64_t nested_paging;
	uint8_t reserved_098[0x0a8 - 0x098];
	uint64_t event_injection;
	uint64_t nested_cr3;
	uint8_t reserved_0b8[0x400 - 0x0b8];
	/* The state save area, table B-2, whose offsets begin anew. */
	struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t reserved_4a0[0x4cb - 0x4a0];
	uint8_t cpl;
	uint32_t reserved_4cc;
	uint64_t efer;
	uint8_t reserved_4d8[0x548 - 0x4d8];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
	uint8_t reserved_580[0x5d8 - 0x580];
	uint64_t rsp, s_cet, ssp, isst_addr, rax;
	uint8_t reserved_600[0x668 - 0x600];
	uint64_t g_pat;
	uint8_t reserved_670[0x1000 - 0x670];
};

#define VMCB_SAVE 0x400

_Static_assert(offsetof(struct vmcb, pause_filter_threshold) == 0x03c, "table B-1");
_Static_assert(offsetof(struct vmcb, iopm_base) == 0x040, "table B-1");
_Static_assert(offsetof(struct vmcb, tsc_offset) == 0x050, "table B-1");
_Static_assert(offsetof(struct vmcb, asid) == 0x058, "table B-1");
_Static_assert(offsetof(struct vmcb, virtual_interrupt) == 0x060, "table B-1");
_Static_assert(offsetof(struct vmcb, interrupt_shadow) == 0x068, "table B-1");
_Static_assert(offsetof(struct vmcb, exit_code) == 0x070, "table B-1");
_Static_assert(offsetof(struct vmcb, exit_info_1) == 0x078, "table B-1");
_Static_assert(offsetof(struct vmcb, exit_interrupt_info) == 0x088, "table B-1");
_Static_assert(offsetof(struct vmcb, nested_paging) == 0x090, "table B-1");
_Static_assert(offsetof(struct vmcb, event_injection) == 0x0a8, "table B-1");
_Static_assert(offsetof(struct vmcb, nested_cr3) == 0x0b0, "table B-1");
_Static_assert(offsetof(struct vmcb, es) == VMCB_SAVE, "table B-2");
_Static_assert(offsetof(struct vmcb, gdtr) == VMCB_SAVE + 0x060, "table B-2");
_Static_assert(offsetof(struct vmcb, tr) == VMCB_SAVE + 0x090, "table B-2");
_Static_assert(offsetof(struct vmcb, cpl) == VMCB_SAVE + 0x0cb, "table B-2");
_Static_assert(offsetof(struct vmcb, efer) == VMCB_SAVE + 0x0d0, "table B-2");
_Static_assert(offsetof(struct vmcb, cr4) == VMCB_SAVE + 0x148, "table B-2");
_Static_assert(offsetof(struct vmcb, rip) == VMCB_SAVE + 0x178, "table B-2");
_Static_assert(offsetof(struct vmcb, rsp) == VMCB_SAVE + 0x1d8, "table B-2");
_Static_assert(offsetof(struct vmcb, rax) == VMCB_SAVE + 0x1f8, "table B-2");
_Static_assert(offsetof(struct vmcb, g_pat) == VMCB_SAVE + 0x268, "table B-2");
_Static_assert(sizeof(struct vmcb) == 0x1000, "15.5");
#endif
