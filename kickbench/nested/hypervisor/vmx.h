/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMX as far as L1 uses it. Source: Intel 64 and IA-32 Architectures Software Developer's Manual,
 * volume 3 (3C and 3D): its appendices A (capability MSRs), B (encodings of the VMCS's fields) and
 * C (exit reasons).
 */
#ifndef KICKBENCH_HYPERVISOR_VMX_H
#define KICKBENCH_HYPERVISOR_VMX_H

#define CR4_VMXE	      (1u << 13)
#define MSR_FEATURE_CONTROL   0x3a
#define FEATURE_CONTROL_LOCK  (1u << 0)
#define FEATURE_CONTROL_VMXON (1u << 2) /* outside SMX */

/* Capability MSRs, appendix A. */
#define MSR_VMX_BASIC		0x480 /* A.1 */
#define VMX_BASIC_TRUE_CONTROLS (1ull << 55)
#define MSR_VMX_PIN_CONTROLS	0x481 /* A.3.1 */
#define MSR_VMX_CPU_CONTROLS	0x482 /* A.3.2 */
#define MSR_VMX_EXIT_CONTROLS	0x483 /* A.4.1 */
#define MSR_VMX_ENTRY_CONTROLS	0x484 /* A.5 */
#define MSR_VMX_CR0_FIXED0	0x486 /* A.7 */
#define MSR_VMX_CR0_FIXED1	0x487
#define MSR_VMX_CR4_FIXED0	0x488 /* A.8 */
#define MSR_VMX_CR4_FIXED1	0x489
#define MSR_VMX_CPU_CONTROLS_2	0x48b /* A.3.3 */
#define MSR_VMX_EPT_VPID	0x48c /* A.10 */
#define EPT_WALK_4		(1ull << 6)
#define EPT_WRITE_BACK		(1ull << 14)
#define EPT_2_MIB_PAGES		(1ull << 16)
#define VMX_TRUE_CONTROLS	12 /* MSR_VMX_TRUE_PIN_CONTROLS is 0x48d, and so on; A.3.1 to A.5 */

/* Controls, chapter "Virtual machine control structures": VM-execution, exit and entry controls. */
#define PIN_EXTERNAL_INTERRUPT (1u << 0)
#define CPU_SECONDARY	       (1u << 31)
#define CPU_2_EPT	       (1u << 1)
#define EXIT_HOST_64	       (1u << 9)
#define ENTRY_IA32E	       (1u << 9)
#define EVENT_VALID	       (1u << 31) /* VM-entry interruption-information field */
#define EVENT_TYPE_EXCEPTION   (3u << 8)
#define VECTORING_UNDEFINED (1u << 12) /* a bit of IDT-vectoring information that is not copied */
#define EPTP_WRITE_BACK	    6u
#define EPTP_WALK_4	    (3u << 3)
#define EPT_ALL		    7u /* read, write, execute */
#define EPT_LEAF_WRITE_BACK (6u << 3)

/* Access rights of a segment, guest-state area. */
#define RIGHTS_CODE64	0xa09b
#define RIGHTS_DATA	0xc093
#define RIGHTS_BUSY_TSS 0x008b
#define RIGHTS_UNUSABLE 0x10000

/* Basic exit reasons, appendix C. */
#define EXIT_EXTERNAL_INTERRUPT 1
#define EXIT_TRIPLE_FAULT	2
#define EXIT_VMCALL		18
#define EXIT_BASIC		0xffffu
#define EXIT_ENTRY_FAILED	(1u << 31)

/* B.1.2 16-bit guest-state fields */
#define GUEST_ES_SELECTOR   0x0800
#define GUEST_CS_SELECTOR   0x0802
#define GUEST_SS_SELECTOR   0x0804
#define GUEST_DS_SELECTOR   0x0806
#define GUEST_FS_SELECTOR   0x0808
#define GUEST_GS_SELECTOR   0x080a
#define GUEST_LDTR_SELECTOR 0x080c
#define GUEST_TR_SELECTOR   0x080e
/* B.1.3 16-bit host-state fields */
#define HOST_ES_SELECTOR 0x0c00
#define HOST_CS_SELECTOR 0x0c02
#define HOST_SS_SELECTOR 0x0c04
#define HOST_DS_SELECTOR 0x0c06
#define HOST_FS_SELECTOR 0x0c08
#define HOST_GS_SELECTOR 0x0c0a
#define HOST_TR_SELECTOR 0x0c0c
/* B.2.1 64-bit control fields */
#define EPT_POINTER 0x201a
/* B.2.3 64-bit guest-state fields */
#define VMCS_LINK_POINTER 0x2800
#define GUEST_DEBUGCTL	  0x2802
/* B.3.1 32-bit control fields */
#define PIN_CONTROLS		 0x4000
#define CPU_CONTROLS		 0x4002
#define EXCEPTION_BITMAP	 0x4004
#define CR3_TARGET_COUNT	 0x400a
#define EXIT_CONTROLS		 0x400c
#define EXIT_MSR_STORE_COUNT	 0x400e
#define EXIT_MSR_LOAD_COUNT	 0x4010
#define ENTRY_CONTROLS		 0x4012
#define ENTRY_MSR_LOAD_COUNT	 0x4014
#define ENTRY_INTERRUPTION	 0x4016
#define ENTRY_INSTRUCTION_LENGTH 0x401a
#define CPU_CONTROLS_2		 0x401e
/* B.3.2 32-bit read-only data fields */
#define INSTRUCTION_ERROR 0x4400
#define EXIT_REASON	  0x4402
#define IDT_VECTORING	  0x4408
/* B.3.3 32-bit guest-state fields */
#define GUEST_ES_LIMIT	       0x4800
#define GUEST_CS_LIMIT	       0x4802
#define GUEST_SS_LIMIT	       0x4804
#define GUEST_DS_LIMIT	       0x4806
#define GUEST_FS_LIMIT	       0x4808
#define GUEST_GS_LIMIT	       0x480a
#define GUEST_LDTR_LIMIT       0x480c
#define GUEST_TR_LIMIT	       0x480e
#define GUEST_GDTR_LIMIT       0x4810
#define GUEST_IDTR_LIMIT       0x4812
#define GUEST_ES_RIGHTS	       0x4814
#define GUEST_CS_RIGHTS	       0x4816
#define GUEST_SS_RIGHTS	       0x4818
#define GUEST_DS_RIGHTS	       0x481a
#define GUEST_FS_RIGHTS	       0x481c
#define GUEST_GS_RIGHTS	       0x481e
#define GUEST_LDTR_RIGHTS      0x4820
#define GUEST_TR_RIGHTS	       0x4822
#define GUEST_INTERRUPTIBILITY 0x4824
#define GUEST_ACTIVITY	       0x4826
#define GUEST_SYSENTER_CS      0x482a
/* B.3.4 32-bit host-state field */
#define HOST_SYSENTER_CS 0x4c00
/* B.4.1 natural-width control fields */
#define CR0_GUEST_HOST_MASK 0x6000
#define CR4_GUEST_HOST_MASK 0x6002
#define CR0_READ_SHADOW	    0x6004
#define CR4_READ_SHADOW	    0x6006
/* B.4.2 natural-width read-only data fields */
#define EXIT_QUALIFICATION 0x6400
/* B.4.3 natural-width guest-state fields */
#define GUEST_CR0	    0x6800
#define GUEST_CR3	    0x6802
#define GUEST_CR4	    0x6804
#define GUEST_ES_BASE	    0x6806
#define GUEST_CS_BASE	    0x6808
#define GUEST_SS_BASE	    0x680a
#define GUEST_DS_BASE	    0x680c
#define GUEST_FS_BASE	    0x680e
#define GUEST_GS_BASE	    0x6810
#define GUEST_LDTR_BASE	    0x6812
#define GUEST_TR_BASE	    0x6814
#define GUEST_GDTR_BASE	    0x6816
#define GUEST_IDTR_BASE	    0x6818
#define GUEST_DR7	    0x681a
#define GUEST_RSP	    0x681c
#define GUEST_RIP	    0x681e
#define GUEST_RFLAGS	    0x6820
#define GUEST_PENDING_DEBUG 0x6822
#define GUEST_SYSENTER_ESP  0x6824
#define GUEST_SYSENTER_EIP  0x6826
/* B.4.4 natural-width host-state fields */
#define HOST_CR0	  0x6c00
#define HOST_CR3	  0x6c02
#define HOST_CR4	  0x6c04
#define HOST_FS_BASE	  0x6c06
#define HOST_GS_BASE	  0x6c08
#define HOST_TR_BASE	  0x6c0a
#define HOST_GDTR_BASE	  0x6c0c
#define HOST_IDTR_BASE	  0x6c0e
#define HOST_SYSENTER_ESP 0x6c10
#define HOST_SYSENTER_EIP 0x6c12
#define HOST_RSP	  0x6c14
#define HOST_RIP	  0x6c16
#endif
