/* SPDX-License-Identifier: Apache-2.0 */
/* L2 by VMX: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3C. */
#include "vmx.h"
#include "hypervisor.h"

struct region {
	uint32_t revision;
	uint8_t data[PAGE - 4];
} __attribute__((aligned(PAGE)));

static struct region vmxon_region, vmcs;
static struct tables nested_tables;
static uint32_t pin_controls;
static bool launched;

/* The VMX instructions succeed with CF and ZF clear (volume 3, "Conventions"). */
#define VMX_INSTRUCTION(operation, constraint, operand)                                            \
	({                                                                                         \
		bool failed;                                                                       \
                                                                                                   \
		__asm__ volatile(operation " %1"                                                   \
				 : "=@ccbe"(failed)                                                \
				 : constraint(operand)                                             \
				 : "memory");                                                      \
		failed;                                                                            \
	})

static uint64_t vmread(uint32_t field)
{
	uint64_t value = 0;

	__asm__ volatile("vmread %1, %0" : "+r"(value) : "r"((uint64_t)field) : "cc");
	return value;
}

static void vmwrite(uint32_t field, uint64_t value)
{
	bool failed;

	__asm__ volatile("vmwrite %1, %2"
			 : "=@ccbe"(failed)
			 : "r"(value), "r"((uint64_t)field)
			 : "memory");
	if (failed)
		fail(KB_VMX_FAILED, vmread(INSTRUCTION_ERROR), KB_VMWRITE, field);
}

/* The bits that must be 1 and those that may be: the halves of a capability MSR (A.3.1). */
static uint32_t allowed(uint32_t msr, uint32_t wanted)
{
	const bool has_true = msr <= MSR_VMX_ENTRY_CONTROLS && msr >= MSR_VMX_PIN_CONTROLS &&
			      rdmsr(MSR_VMX_BASIC) & VMX_BASIC_TRUE_CONTROLS;
	const uint64_t limits = rdmsr(has_true ? msr + VMX_TRUE_CONTROLS : msr);

	return (wanted | (uint32_t)limits) & (uint32_t)(limits >> 32);
}

static void operate(void)
{
	const uint32_t revision = (uint32_t)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
	const uint64_t on = (uint64_t)&vmxon_region, current = (uint64_t)&vmcs;

	write_cr0((read_cr0() | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1));
	write_cr4((read_cr4() | CR4_VMXE | rdmsr(MSR_VMX_CR4_FIXED0)) & rdmsr(MSR_VMX_CR4_FIXED1));
	/* The firmware's duty, and we are the firmware. */
	if (!(rdmsr(MSR_FEATURE_CONTROL) & FEATURE_CONTROL_LOCK))
		wrmsr(MSR_FEATURE_CONTROL, FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON);
	vmxon_region.revision = vmcs.revision = revision;
	/* Without a current VMCS there is no error number. */
	if (VMX_INSTRUCTION("vmxon", "m", on))
		fail(KB_VMX_FAILED, 0, KB_VMXON, 0);
	if (VMX_INSTRUCTION("vmclear", "m", current))
		fail(KB_VMX_FAILED, 0, KB_VMCLEAR, 0);
	if (VMX_INSTRUCTION("vmptrld", "m", current))
		fail(KB_VMX_FAILED, 0, KB_VMPTRLD, 0);
}

static bool set_controls(void)
{
	const uint64_t needed = EPT_WALK_4 | EPT_WRITE_BACK | EPT_2_MIB_PAGES;
	bool nested_paging = false;

	if (allowed(MSR_VMX_CPU_CONTROLS, CPU_SECONDARY) & CPU_SECONDARY &&
	    allowed(MSR_VMX_CPU_CONTROLS_2, CPU_2_EPT) & CPU_2_EPT)
		nested_paging = (rdmsr(MSR_VMX_EPT_VPID) & needed) == needed;
	pin_controls = allowed(MSR_VMX_PIN_CONTROLS, PIN_EXTERNAL_INTERRUPT);
	vmwrite(CPU_CONTROLS, allowed(MSR_VMX_CPU_CONTROLS, nested_paging ? CPU_SECONDARY : 0));
	vmwrite(EXIT_CONTROLS, allowed(MSR_VMX_EXIT_CONTROLS, EXIT_HOST_64));
	vmwrite(ENTRY_CONTROLS, allowed(MSR_VMX_ENTRY_CONTROLS, ENTRY_IA32E));
	if (nested_paging) {
		fill_tables(&nested_tables, EPT_ALL, EPT_LEAF_WRITE_BACK | TABLE_LARGE);
		vmwrite(CPU_CONTROLS_2, allowed(MSR_VMX_CPU_CONTROLS_2, CPU_2_EPT));
		vmwrite(EPT_POINTER, (uint64_t)&nested_tables | EPTP_WALK_4 | EPTP_WRITE_BACK);
	}
	vmwrite(CR0_READ_SHADOW, read_cr0());
	vmwrite(CR4_READ_SHADOW, read_cr4());
	return nested_paging;
}

static void set_host_state(void)
{
	struct table_register idt;

	__asm__ volatile("sidt %0" : "=m"(idt));
	vmwrite(HOST_CS_SELECTOR, CODE_SELECTOR);
	vmwrite(HOST_SS_SELECTOR, DATA_SELECTOR);
	vmwrite(HOST_DS_SELECTOR, DATA_SELECTOR);
	vmwrite(HOST_ES_SELECTOR, DATA_SELECTOR);
	vmwrite(HOST_TR_SELECTOR, TSS_SELECTOR); /* must not be 0; nothing uses the TSS */
	vmwrite(HOST_CR0, read_cr0());
	vmwrite(HOST_CR3, read_cr3());
	vmwrite(HOST_CR4, read_cr4());
	vmwrite(HOST_GDTR_BASE, gdt_register.base);
	vmwrite(HOST_IDTR_BASE, idt.base);
	vmwrite(HOST_RIP, (uint64_t)vmx_exit);
}

/* A guest's segment register: the six fields of each have the same order. */
static void set_segment(uint32_t which, uint16_t selector, uint32_t limit, uint32_t rights)
{
	vmwrite(GUEST_ES_SELECTOR + 2 * which, selector);
	vmwrite(GUEST_ES_LIMIT + 2 * which, limit);
	vmwrite(GUEST_ES_RIGHTS + 2 * which, rights);
	vmwrite(GUEST_ES_BASE + 2 * which, 0);
}

static void set_guest_state(void)
{
	enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

	set_segment(CS, CODE_SELECTOR, 0xffffffff, RIGHTS_CODE64);
	for (uint32_t which = ES; which <= GS; which++)
		if (which != CS)
			set_segment(which, DATA_SELECTOR, 0xffffffff, RIGHTS_DATA);
	set_segment(LDTR, 0, 0, RIGHTS_UNUSABLE);
	set_segment(TR, TSS_SELECTOR, 0x67, RIGHTS_BUSY_TSS);
	vmwrite(GUEST_GDTR_BASE, gdt_register.base);
	vmwrite(GUEST_GDTR_LIMIT, gdt_register.limit);
	vmwrite(GUEST_IDTR_BASE, l2_idt_register.base);
	vmwrite(GUEST_IDTR_LIMIT, l2_idt_register.limit);
	vmwrite(GUEST_CR0, read_cr0());
	vmwrite(GUEST_CR3, (uint64_t)&l2_tables);
	vmwrite(GUEST_CR4, read_cr4());
	vmwrite(GUEST_DR7, 0x400);
	vmwrite(VMCS_LINK_POINTER, ~0ull);
}

/* VMCLEAR does not say what the fields are, whatever was in the page. */
static void clear_the_rest(void)
{
	static const uint32_t fields[] = {
	    GUEST_DEBUGCTL,	 EXCEPTION_BITMAP,     CR3_TARGET_COUNT,    EXIT_MSR_STORE_COUNT,
	    EXIT_MSR_LOAD_COUNT, ENTRY_MSR_LOAD_COUNT, CR0_GUEST_HOST_MASK, CR4_GUEST_HOST_MASK,
	    GUEST_SYSENTER_CS,	 GUEST_SYSENTER_ESP,   GUEST_SYSENTER_EIP,  HOST_FS_SELECTOR,
	    HOST_GS_SELECTOR,	 HOST_FS_BASE,	       HOST_GS_BASE,	    HOST_TR_BASE,
	    HOST_SYSENTER_CS,	 HOST_SYSENTER_ESP,    HOST_SYSENTER_EIP,
	};

	for (uint32_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		vmwrite(fields[i], 0);
}

static bool enable(void)
{
	bool nested_paging;

	operate();
	clear_the_rest();
	nested_paging = set_controls();
	set_host_state();
	set_guest_state();
	return nested_paging;
}

static void aim(uint64_t rip)
{
	/* Bits 31:8 are reserved (volume 3, pin-based VM-execution controls). */
	const uint32_t reserved = shared->broken & KB_BAD_CONTROL_FIELD ? 1u << 31 : 0;

	vmwrite(PIN_CONTROLS, pin_controls | reserved);
	/* Bit 1 of RFLAGS must be 1 (volume 3, checks on guest RIP, RFLAGS, and SSP). */
	vmwrite(GUEST_RFLAGS, shared->broken & KB_BAD_GUEST_STATE ? 0x200 : 0x202);
	vmwrite(GUEST_RIP, rip);
	vmwrite(GUEST_RSP, (uint64_t)l2_stack_end);
	vmwrite(GUEST_INTERRUPTIBILITY, 0);
	vmwrite(GUEST_ACTIVITY, 0);
	vmwrite(GUEST_PENDING_DEBUG, 0);
	vmwrite(ENTRY_INTERRUPTION, 0);
}

static void inject(uint8_t vector)
{
	vmwrite(ENTRY_INTERRUPTION, EVENT_VALID | EVENT_TYPE_EXCEPTION | vector);
}

/* An exit has cleared the valid bit of what was injected, be it delivered or not. */
static void inject_again(void)
{
	const uint64_t vectoring = vmread(IDT_VECTORING);

	if (vectoring & EVENT_VALID)
		vmwrite(ENTRY_INTERRUPTION, vectoring & ~(uint64_t)VECTORING_UNDEFINED);
}

static void enter(struct exit *exit)
{
	const unsigned int failed = vmx_enter(exit, launched);
	uint64_t reason;

	if (failed) /* VMfailInvalid has no number: there is no current VMCS */
		fail(KB_VMX_FAILED, failed == 1 ? vmread(INSTRUCTION_ERROR) : 0, KB_VMENTRY, 0);
	reason = vmread(EXIT_REASON);
	exit->reason = reason & EXIT_BASIC;
	exit->detail = vmread(EXIT_QUALIFICATION);
	if (reason & EXIT_ENTRY_FAILED)
		fail(KB_ENTRY_FAILED, exit->reason, exit->detail, 0);
	launched = true;
	switch (exit->reason) {
	case EXIT_VMCALL:
		exit->kind = LEFT_BY_CALL;
		break;
	case EXIT_EXTERNAL_INTERRUPT:
		exit->kind = LEFT_BY_INTERRUPT;
		break;
	case EXIT_TRIPLE_FAULT:
		exit->kind = LEFT_BY_SHUTDOWN;
		break;
	default:
		exit->kind = LEFT_OTHERWISE;
	}
}

const struct vendor vmx = {
    .id = KB_VMX,
    .call = (uint64_t)l2_call_vmx,
    .spin = (uint64_t)l2_spin_vmx,
    .enable = enable,
    .aim = aim,
    .inject = inject,
    .enter = enter,
    .inject_again = inject_again,
};
