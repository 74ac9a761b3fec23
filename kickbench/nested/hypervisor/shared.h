/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What L1, the guest hypervisor, shares with the host: the page of orders and answers, and the
 * record of one iteration. The same layouts are in kickbench/nested/guest.py.
 */
#ifndef KICKBENCH_HYPERVISOR_SHARED_H
#define KICKBENCH_HYPERVISOR_SHARED_H

#include <stddef.h>
#include <stdint.h>

#define KB_NESTED_SHARED 0x1000	 /* guest address of the page */
#define KB_NESTED_IMAGE	 0x10000 /* of the program, which begins there */
#define KB_NESTED_PORT	 0xe8	 /* a write ends an order */
#define KB_NESTED_VECTOR 0x41	 /* of the interrupt that is L1's */

enum kb_iteration { KB_PLAIN, KB_PENDING, KB_PENDING_NO_INJECTION, KB_ASYNCHRONOUS };

enum kb_vendor { KB_NO_VENDOR, KB_SVM, KB_VMX };

/* Where L1 is. The host reports it if L1 hangs. */
enum kb_phase { KB_IN_L1, KB_IN_L2, KB_AWAITS_INTERRUPT, KB_IN_L2_AGAIN };

/* How an order ended; `reason` and `detail` say more. */
enum kb_status {
	KB_DONE,
	KB_NO_VIRTUALIZATION, /* CPUID has neither VMX nor SVM */
	KB_EXCEPTION,	      /* L1's: the vector; its RIP; the error code in `more` */
	KB_VMX_FAILED,	      /* an instruction failed: VM-instruction error; enum kb_vmx_step */
	KB_ENTRY_FAILED,      /* the state for L2 is invalid: exit reason; qualification */
	KB_L2_TRIPLE_FAULT,   /* exit reason; qualification */
	KB_L2_ASTRAY,	      /* L2 could not be brought to its end: exit reason; qualification */
};

enum kb_vmx_step { KB_VMXON = 1, KB_VMCLEAR, KB_VMPTRLD, KB_VMWRITE, KB_VMENTRY };

/* Deliberately broken variants, for tests: each must be reported, and none may hang. */
#define KB_BAD_CONTROL_FIELD 1u
#define KB_BAD_GUEST_STATE   2u
#define KB_L2_TRIPLE_FAULTS  4u
#define KB_L2_NEVER_EXITS    8u
#define KB_L1_TRIPLE_FAULTS  16u

struct kb_nested {
	/* The order. */
	uint32_t iteration; /* enum kb_iteration */
	uint32_t count;
	uint64_t records; /* guest address of `count` of them */
	uint32_t warmup;  /* iterations before them */
	uint32_t broken;  /* KB_BAD_CONTROL_FIELD and so on */
	/* The answer. */
	uint32_t vendor, nested_paging;
	uint32_t status, phase;
	uint64_t reason, detail, more;
	uint32_t progress; /* iterations finished, ever */
	uint32_t reserved;
	/* Asynchronous iterations: L1 raises `armed`, the sender stamps and sends. */
	_Alignas(64) uint32_t armed;
	_Alignas(64) uint64_t sent_at; /* in L1's TSC; 0 when unknown */
};

struct kb_nested_record {
	uint64_t cycles; /* of L1's TSC, from just before the entry to just after the exit */
	uint64_t work;	 /* L2's loop count when it left */
	uint64_t detail; /* exit qualification, or EXITINFO1 */
	uint64_t latency;
	uint32_t exit_reason; /* the basic reason, or the low half of EXITCODE */
	uint32_t delivered;   /* runs of L2's handler */
	uint8_t expected, injected;
};

_Static_assert(sizeof(struct kb_nested_record) == 48, "layout");
#endif
