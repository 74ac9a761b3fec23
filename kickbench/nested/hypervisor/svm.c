/* SPDX-License-Identifier: Apache-2.0 */
/* L2 by SVM: AMD64 Architecture Programmer's Manual, volume 2, section 15. */
#include "svm.h"
#include "hypervisor.h"

#define DEFAULT_PAT 0x0007040600070406ull /* 7.8.1 */

static struct tables nested_tables;
static struct vmcb vmcb __attribute__((aligned(PAGE)));
static uint64_t efer;
static uint8_t host_save_area[PAGE] __attribute__((aligned(PAGE)));

static bool enable(void)
{
	const struct vmcb_segment data = {DATA_SELECTOR, SEGMENT_DATA, 0xffffffff, 0};
	const bool nested_paging = cpuid(CPUID_SVM_FEATURES).edx & CPUID_SVM_NPT;

	efer = rdmsr(MSR_EFER) | EFER_SVME;
	wrmsr(MSR_EFER, efer);
	wrmsr(MSR_VM_HSAVE_PA, (uint64_t)host_save_area);
	vmcb.intercepts[3] = INTERCEPT3_INTR | INTERCEPT3_SHUTDOWN;
	vmcb.intercepts[4] = INTERCEPT4_VMRUN | INTERCEPT4_VMMCALL;
	vmcb.virtual_interrupt = V_INTR_MASKING;
	if (nested_paging) {
		/* Every access is one of user mode for them (15.25.5). */
		fill_tables(&nested_tables, TABLE_PRESENT, TABLE_LARGE);
		vmcb.nested_paging = NP_ENABLE;
		vmcb.nested_cr3 = (uint64_t)&nested_tables;
	}
	vmcb.cs = (struct vmcb_segment){CODE_SELECTOR, SEGMENT_CODE64, 0xffffffff, 0};
	vmcb.ss = vmcb.ds = vmcb.es = data;
	vmcb.gdtr.limit = gdt_register.limit;
	vmcb.gdtr.base = gdt_register.base;
	vmcb.idtr.limit = l2_idt_register.limit;
	vmcb.idtr.base = l2_idt_register.base;
	vmcb.cr0 = read_cr0();
	vmcb.cr3 = (uint64_t)&l2_tables;
	vmcb.cr4 = read_cr4();
	vmcb.dr6 = 0xffff0ff0;
	vmcb.dr7 = 0x400;
	vmcb.g_pat = DEFAULT_PAT;
	return nested_paging;
}

static void aim(uint64_t rip)
{
	vmcb.rip = rip;
	vmcb.rsp = (uint64_t)l2_stack_end;
	vmcb.rflags = 0x202;
	vmcb.cpl = 0;
	vmcb.interrupt_shadow = 0;
	vmcb.event_injection = 0;
	/* Neither is valid (15.5.1, canonicalization and consistency checks). */
	vmcb.asid = shared->broken & KB_BAD_CONTROL_FIELD ? 0 : 1;
	vmcb.efer = shared->broken & KB_BAD_GUEST_STATE ? efer & ~(uint64_t)EFER_SVME : efer;
}

static void inject(uint8_t vector)
{
	vmcb.event_injection = EVENT_VALID | EVENT_TYPE_EXCEPTION | vector;
}

/* #VMEXIT has cleared the valid bit of what was delivered (15.20). */
static void inject_again(void)
{
	vmcb.event_injection =
	    vmcb.exit_interrupt_info & EVENT_VALID ? vmcb.exit_interrupt_info : 0;
}

static void enter(struct exit *exit)
{
	svm_enter(exit, (uint64_t)&vmcb);
	exit->reason = (uint32_t)vmcb.exit_code;
	exit->detail = vmcb.exit_info_1;
	switch (exit->reason) {
	case VMEXIT_INVALID:
		fail(KB_ENTRY_FAILED, exit->reason, exit->detail, 0);
	case VMEXIT_VMMCALL:
		exit->kind = LEFT_BY_CALL;
		break;
	case VMEXIT_INTR:
		exit->kind = LEFT_BY_INTERRUPT;
		break;
	case VMEXIT_SHUTDOWN:
		exit->kind = LEFT_BY_SHUTDOWN;
		break;
	default:
		exit->kind = LEFT_OTHERWISE;
	}
}

const struct vendor svm = {
    .id = KB_SVM,
    .call = (uint64_t)l2_call_svm,
    .spin = (uint64_t)l2_spin_svm,
    .enable = enable,
    .aim = aim,
    .inject = inject,
    .enter = enter,
    .inject_again = inject_again,
};
