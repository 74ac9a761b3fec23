// SPDX-License-Identifier: GPL-2.0-only
/*
 * What user_exit.c needs of arm64: guests at EL1 without an MMU, how a vCPU begins, and tests of
 * what no other architecture has. user_exit.c includes it where its own tests begin.
 */
#define LEFT	KVM_EXIT_MMIO
#define STORMED KVM_EXIT_MMIO
/* KVM does not keep that a vCPU waits: after an exit it goes on behind WFI. */
#define HALTED KVM_MP_STATE_RUNNABLE

#define DISTRIBUTOR   0x8000000
#define REDISTRIBUTOR 0x80a0000

/* x1 is DEVICE, x2 is COUNTER. */
#define STR_W0_X1   0xb9000020 /* str w0, [x1] */
#define STR_W0_X2_4 0xb9000440 /* str w0, [x2, #4]: RESULT */
#define LDRB_W0_X1  0x39400020 /* ldrb w0, [x1] */

/* 1: str w0, [x1]; b 1b */
static const uint32_t leave[] = {STR_W0_X1, 0x17ffffff};
static const uint32_t storm[] = {STR_W0_X1, 0x17ffffff};
static const struct kvm_ioeventfd storm_ioeventfd = {.addr = DEVICE, .len = 4};
/* 1: wfi; b 1b */
static const uint32_t halt[] = {0xd503207f, 0x17ffffff};
/* 1: ldr w3, [x2]; add w3, w3, #1; str w3, [x2]; b 1b */
static const uint32_t spin[] = {0xb9400043, 0x11000463, 0xb9000043, 0x17fffffd};
static const uint32_t mmio_read[] = {LDRB_W0_X1, STR_W0_X2_4, STR_W0_X1};
static const struct read reads[] = {{mmio_read, sizeof(mmio_read), KVM_EXIT_MMIO, 4}};

#define CORE_REGISTER(name)                                                                        \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |                                     \
	 offsetof(struct kvm_regs, regs.name) / sizeof(uint32_t))

static void set_register(struct machine *m, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	MUST(ioctl(m->fd, KVM_SET_ONE_REG, &reg));
}

static uint64_t get_register(struct machine *m, uint64_t id)
{
	uint64_t value;
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	MUST(ioctl(m->fd, KVM_GET_ONE_REG, &reg));
	return value;
}

static void begin_vm(struct machine *m, enum irqchip irqchip)
{
	(void)m;
	(void)irqchip;
}

static void set_gic(int fd, uint32_t group, uint64_t attribute, uint64_t *address)
{
	struct kvm_device_attr attr = {
	    .group = group, .attr = attribute, .addr = (uintptr_t)address};

	MUST(ioctl(fd, KVM_SET_DEVICE_ATTR, &attr));
}

/* A GICv3. Its descriptor would keep the VM alive. */
static void make_gic(struct machine *m)
{
	struct kvm_create_device device = {.type = KVM_DEV_TYPE_ARM_VGIC_V3};
	uint64_t distributor = DISTRIBUTOR, redistributor = REDISTRIBUTOR;

	MUST(ioctl(m->vm_fd, KVM_CREATE_DEVICE, &device));
	set_gic(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor);
	set_gic(device.fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributor);
	set_gic(device.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
	close(device.fd);
}

static void begin_vcpu(struct machine *m, enum irqchip irqchip)
{
	struct kvm_vcpu_init init;

	if (irqchip == IRQCHIP)
		make_gic(m);
	MUST(ioctl(m->vm_fd, KVM_ARM_PREFERRED_TARGET, &init));
	init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
	MUST(ioctl(m->fd, KVM_ARM_VCPU_INIT, &init));
	set_register(m, CORE_REGISTER(pc), CODE);
	set_register(m, CORE_REGISTER(regs[1]), DEVICE);
	set_register(m, CORE_REGISTER(regs[2]), COUNTER);
}

/* Where the answer to a read goes. */
static uint8_t *answer(struct machine *m)
{
	return m->run->mmio.data;
}

static uint64_t result_register(struct machine *m)
{
	return get_register(m, CORE_REGISTER(regs[0]));
}

static uint64_t program_counter(struct machine *m)
{
	return get_register(m, CORE_REGISTER(pc));
}

/* By KVM_SET_MP_STATE or PSCI: a vCPU that waits to be switched on, or to be woken up. */
static void check_asleep_in(uint32_t state)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, leave);
		struct waker w = waker_kinds[kind](&m);

		MUST(ioctl(m.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){state}));
		check_asleep(&m, &w, state);
		CHECK_EQ(program_counter(&m), CODE);
		MUST(ioctl(m.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){KVM_MP_STATE_RUNNABLE}));
		CHECK_EQ(run(&m), LEFT);
		free_waker(&w);
		free_machine(&m);
	}
}

static void test_stopped(void)
{
	check_asleep_in(KVM_MP_STATE_STOPPED);
}

static void test_suspended(void)
{
	check_asleep_in(KVM_MP_STATE_SUSPENDED);
}

/* What wakes a suspended vCPU up is an exit with a reason of its own, and goes first. */
static void test_keeps_a_pending_wakeup(void)
{
	const struct kvm_irq_level irq = {.irq = KVM_ARM_IRQ_TYPE_CPU << KVM_ARM_IRQ_TYPE_SHIFT |
						 KVM_ARM_IRQ_CPU_IRQ,
					  .level = 1};

	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
		struct waker w = waker_kinds[kind](&m);

		MUST(ioctl(m.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){KVM_MP_STATE_SUSPENDED}));
		MUST(ioctl(m.vm_fd, KVM_IRQ_LINE, &irq));
		WAKE(&w);
		CHECK_EQ(run(&m), KVM_EXIT_SYSTEM_EVENT);
		CHECK_EQ(m.run->system_event.type, KVM_SYSTEM_EVENT_WAKEUP);
		MUST(ioctl(m.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){KVM_MP_STATE_RUNNABLE}));
		CHECK_EQ(run(&m), LEFT); /* and the kick is answered */
		free_waker(&w);
		free_machine(&m);
	}
}

/* A vCPU in WFI goes on behind it, as after a signal. */
static void test_leaves_wfi(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, halt);
		struct waker w = waker_kinds[kind](&m);
		struct thread t;

		start_run(&t, &m);
		await_asleep(&t);
		WAKE(&w);
		CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
		CHECK_EQ(program_counter(&m), CODE + 4);
		free_waker(&w);
		free_machine(&m);
	}
}

static const struct test arch_tests[] = {
    {"stopped", test_stopped},
    {"suspended", test_suspended},
    {"keeps_a_pending_wakeup", test_keeps_a_pending_wakeup},
    {"leaves_wfi", test_leaves_wfi},
};
