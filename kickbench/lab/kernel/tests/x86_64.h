// SPDX-License-Identifier: GPL-2.0-only
/*
 * What user_exit.c needs of x86-64: guests in real mode, how a vCPU begins, and tests of what no
 * other architecture has. user_exit.c includes it where its own tests begin.
 */
#define IO_PORT	       0x10    /* nobody answers */
#define PAGE_DIRECTORY 0x10000 /* of the nested guest's hypervisor */
#define VMCB	       0x20000 /* of the nested guest */
#define HSAVE	       0x22000
#define L2_CODE	       0x24000

#define LEFT	KVM_EXIT_HLT
#define STORMED KVM_EXIT_IO
#define HALTED	KVM_MP_STATE_HALTED

/* 1: hlt; jmp 1b. With an interrupt chip it sleeps in KVM_RUN. */
static const uint8_t leave[] = {0xf4, 0xeb, 0xfd};
static const uint8_t halt[] = {0xf4, 0xeb, 0xfd};
/* 1: incl COUNTER; jmp 1b */
static const uint8_t spin[] = {0x66, 0xff, 0x06, 0x00, 0x80, 0xeb, 0xf9};
/* 1: out %al, $IO_PORT; jmp 1b */
static const uint8_t storm[] = {0xe6, IO_PORT, 0xeb, 0xfc};
static const struct kvm_ioeventfd storm_ioeventfd = {
    .addr = IO_PORT, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO};
/* in $IO_PORT, %al; mov %al, RESULT; hlt */
static const uint8_t pio_read[] = {0xe4, IO_PORT, 0xa2, 0x04, 0x80, 0xf4};
/* mov %es:0, %al; mov %al, RESULT; hlt */
static const uint8_t mmio_read[] = {0x26, 0xa0, 0, 0, 0xa2, 0x04, 0x80, 0xf4};
static const struct read reads[] = {
    {pio_read, sizeof(pio_read), KVM_EXIT_IO, 2},
    {mmio_read, sizeof(mmio_read), KVM_EXIT_MMIO, 4},
};
/* mov %eax, %es:0xffe; hlt */
static const uint8_t mmio_write[] = {0x66, 0x26, 0xa3, 0xfe, 0x0f, 0xf4};

static void begin_vm(struct machine *m, enum irqchip irqchip)
{
	MUST(ioctl(m->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000));
	if (irqchip == IRQCHIP)
		MUST(ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, 0));
}

/* Real mode, with DEVICE as the base of ES. */
static void begin_vcpu(struct machine *m, enum irqchip irqchip)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rax = 0x12345678};
	struct kvm_sregs sregs;

	(void)irqchip;
	MUST(ioctl(m->fd, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.es.base = DEVICE;
	sregs.es.selector = DEVICE >> 4;
	MUST(ioctl(m->fd, KVM_SET_SREGS, &sregs));
	MUST(ioctl(m->fd, KVM_SET_REGS, &regs));
}

/* Where the answer to a read goes. */
static uint8_t *answer(struct machine *m)
{
	if (m->run->exit_reason == KVM_EXIT_MMIO)
		return m->run->mmio.data;
	return (uint8_t *)m->run + m->run->io.data_offset;
}

static uint64_t result_register(struct machine *m)
{
	struct kvm_regs regs;

	MUST(ioctl(m->fd, KVM_GET_REGS, &regs));
	return regs.rax;
}

static uint64_t program_counter(struct machine *m)
{
	struct kvm_regs regs;

	MUST(ioctl(m->fd, KVM_GET_REGS, &regs));
	return regs.rip;
}

static void test_waiting_for_init(void)
{
	EACH_KIND(kind)
	{
		struct machine m = new_machine(IRQCHIP, 1, halt, sizeof(halt));
		struct waker w = waker_kinds[kind](&m);

		check_asleep(&m, &w, KVM_MP_STATE_UNINITIALIZED);
		free_waker(&w);
		free_machine(&m);
	}
}

static void test_waiting_for_sipi(void)
{
	EACH_KIND(kind)
	{
		struct machine m = new_machine(IRQCHIP, 1, halt, sizeof(halt));
		struct waker w = waker_kinds[kind](&m);

		MUST(ioctl(m.fd, KVM_SET_MP_STATE,
			   &(struct kvm_mp_state){KVM_MP_STATE_INIT_RECEIVED}));
		check_asleep(&m, &w, KVM_MP_STATE_INIT_RECEIVED);
		free_waker(&w);
		free_machine(&m);
	}
}

/* A write across two pages is two exits: the second one is under way when the vCPU is kicked. */
static void test_keeps_a_second_fragment(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(NO_IRQCHIP, mmio_write);
		struct waker w = waker_kinds[kind](&m);

		CHECK_EQ(run(&m), KVM_EXIT_MMIO);
		CHECK_EQ(m.run->mmio.phys_addr, DEVICE + 0xffe);
		WAKE(&w);
		CHECK_EQ(run(&m), KVM_EXIT_MMIO);
		CHECK_EQ(m.run->mmio.phys_addr, DEVICE + 0x1000);
		CHECK_EQ(run(&m), LEFT);
		free_waker(&w);
		free_machine(&m);
	}
}

static void test_keeps_a_pending_shutdown(void)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};

	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
		struct waker w = waker_kinds[kind](&m);
		struct kvm_vcpu_events events;

		MUST(ioctl(m.vm_fd, KVM_ENABLE_CAP, &cap));
		MUST(ioctl(m.fd, KVM_GET_VCPU_EVENTS, &events));
		events.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		events.triple_fault.pending = 1;
		MUST(ioctl(m.fd, KVM_SET_VCPU_EVENTS, &events));
		WAKE(&w);
		CHECK_EQ(run(&m), KVM_EXIT_SHUTDOWN);
		CHECK_EQ(run(&m), LEFT);
		free_waker(&w);
		free_machine(&m);
	}
}

/* ---- nested ---- */

static void set_u32(struct machine *m, unsigned int address, uint32_t value)
{
	memcpy(m->memory + address, &value, sizeof(value));
}

static void set_segment(struct machine *m, unsigned int address, uint16_t selector,
			uint16_t attributes)
{
	set_u32(m, address, selector | (uint32_t)attributes << 16);
	set_u32(m, address + 4, 0xffffffff);
}

/* AMD alone: a guest in flat paged mode that runs a guest that spins and intercepts nothing. */
static bool become_hypervisor(struct machine *m)
{
	static const uint8_t l1[] = {0xb8, 0x00, 0x00, 0x02, 0x00, /* mov $VMCB, %eax */
				     0x0f, 0x01, 0xd8,		   /* vmrun */
				     0xf4};			   /* hlt */
	static const uint8_t l2[] = {0xff, 0x05, 0x00, 0x80, 0x00, 0x00, 0xeb, 0xf8};
	const struct kvm_segment code = {
	    .selector = 8, .limit = ~0u, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	const struct kvm_segment data = {
	    .selector = 16, .limit = ~0u, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = {.head.nent = 256};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head.nmsrs = 1, .entry = {.index = 0xc0010117, .data = HSAVE}}; /* VM_HSAVE_PA */
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;
	bool svm = false;

	MUST(ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid));
	for (unsigned int i = 0; i < cpuid.head.nent; i++)
		svm |= cpuid.entries[i].function == 0x80000001 && cpuid.entries[i].ecx & 4;
	if (!svm)
		return false;
	MUST(ioctl(m->fd, KVM_SET_CPUID2, &cpuid));
	MUST(ioctl(m->fd, KVM_GET_SREGS, &sregs));
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	/* VMRUN is for paged mode alone: one page of 4 MiB. */
	set_u32(m, PAGE_DIRECTORY, 0x83);
	sregs.cr3 = PAGE_DIRECTORY;
	sregs.cr4 |= 1 << 4;
	sregs.cr0 |= 1u << 31 | 1;
	sregs.efer |= 1 << 12; /* SVME */
	MUST(ioctl(m->fd, KVM_SET_SREGS, &sregs));
	MUST(ioctl(m->fd, KVM_SET_REGS, &regs));
	MUST(ioctl(m->fd, KVM_SET_MSRS, &msrs) == 1 ? 0 : -1);

	memcpy(m->memory + CODE, l1, sizeof(l1));
	memcpy(m->memory + L2_CODE, l2, sizeof(l2));
	set_u32(m, VMCB + 0x10, 1);		 /* intercept VMRUN, or it is refused */
	set_u32(m, VMCB + 0x58, 1);		 /* ASID */
	set_segment(m, VMCB + 0x400, 16, 0xc93); /* ES, CS, SS, DS */
	set_segment(m, VMCB + 0x410, 8, 0xc9b);
	set_segment(m, VMCB + 0x420, 16, 0xc93);
	set_segment(m, VMCB + 0x430, 16, 0xc93);
	set_u32(m, VMCB + 0x4d0, 1 << 12); /* EFER */
	set_u32(m, VMCB + 0x558, 0x11);	   /* CR0 */
	set_u32(m, VMCB + 0x560, 0x400);   /* DR7, DR6 */
	set_u32(m, VMCB + 0x568, 0xffff0ff0);
	set_u32(m, VMCB + 0x570, 2); /* RFLAGS, RIP */
	set_u32(m, VMCB + 0x578, L2_CODE);
	return true;
}

static bool in_l2(struct machine *m)
{
	static union {
		struct kvm_nested_state head;
		uint8_t room[16384];
	} state;

	state.head.size = sizeof(state);
	MUST(ioctl(m->fd, KVM_GET_NESTED_STATE, &state));
	return state.head.flags & KVM_STATE_NESTED_GUEST_MODE;
}

static void test_nested(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, halt);
		struct waker w = waker_kinds[kind](&m);

		if (!become_hypervisor(&m)) {
			printf("# left out: no nested SVM\n");
			free_waker(&w);
			free_machine(&m);
			return;
		}
		for (int i = 0; i < 20; i++) {
			struct thread t;

			start_run(&t, &m);
			await_running(&t);
			WAKE(&w);
			CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
			CHECK(in_l2(&m));
			WAKE(&w);
			CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
			CHECK(in_l2(&m));
		}
		free_waker(&w);
		free_machine(&m);
	}
}

static const struct test arch_tests[] = {
    {"waiting_for_init", test_waiting_for_init},
    {"waiting_for_sipi", test_waiting_for_sipi},
    {"keeps_a_second_fragment", test_keeps_a_second_fragment},
    {"keeps_a_pending_shutdown", test_keeps_a_pending_shutdown},
    {"nested", test_nested},
};
