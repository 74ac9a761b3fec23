/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1, the guest hypervisor: takes an order, runs that many iterations of L2, and writes a record of
 * each. kickbench/nested/guest.py explains its purpose. svm.c and vmx.c enter L2.
 */
#include "hypervisor.h"

#include <kickbench/mark.h>

#define MSR_APIC_BASE	 0x1b /* Intel SDM volume 3, chapter APIC: x2APIC mode and its MSRs */
#define APIC_BASE_X2APIC 0xc00u
#define MSR_X2APIC_SVR	 0x80f
#define SVR_ENABLED	 0x1ffu
#define MSR_X2APIC_SELF	 0x83f
#define CPUID_EXTENDED	 0x80000001u
#define CPUID_SVM	 (1u << 2) /* of it, ECX */
#define CPUID_VMX	 (1u << 5) /* leaf 1, ECX */
/*
 * What L1 injects: #UD, an exception without an error code that L2's code never raises itself. Not
 * an interrupt: QEMU (7.2) delivers an injected one again if it stops L2 itself before an exit.
 */
#define L2_VECTOR     6
#define DRAIN_ENTRIES 16

struct gate {
	uint16_t offset_low, selector, flags, offset_middle;
	uint32_t offset_high, reserved;
};

static struct gate idt[256] __attribute__((aligned(PAGE)));
static struct gate l2_idt[256] __attribute__((aligned(PAGE)));
static const struct vendor *vendor;

volatile struct kb_nested *const shared = (void *)KB_NESTED_SHARED;
/*
 * L2 has tables of its own: while KVM keeps shadows of them it must see each write to their pages,
 * and every walk writes to L1's tables.
 */
struct tables l2_tables;
struct table_register l2_idt_register = {sizeof(l2_idt) - 1, (uint64_t)l2_idt};

static void end_order(enum kb_status status)
{
	shared->status = status;
	__asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(KB_NESTED_PORT) : "memory");
}

void fail(enum kb_status status, uint64_t reason, uint64_t detail, uint64_t more)
{
	shared->reason = reason;
	shared->detail = detail;
	shared->more = more;
	for (;;)
		end_order(status);
}

__attribute__((used)) void on_exception(uint64_t vector, uint64_t error, uint64_t rip)
{
	fail(KB_EXCEPTION, vector, rip, error);
}

static void set_gate(struct gate *gate, uint64_t handler)
{
	*gate = (struct gate){
	    .offset_low = (uint16_t)handler,
	    .selector = CODE_SELECTOR,
	    .flags = 0x8e00, /* present, 64-bit interrupt gate */
	    .offset_middle = (uint16_t)(handler >> 16),
	    .offset_high = (uint32_t)(handler >> 32),
	};
}

void fill_tables(struct tables *tables, uint64_t flags, uint64_t leaf_flags)
{
	tables->level4[0] = (uint64_t)tables->level3 | flags;
	tables->level3[0] = (uint64_t)tables->level2 | flags;
	for (unsigned int i = 0; i < TABLE_ENTRIES; i++)
		tables->level2[i] = TABLE_2_MIB(i) | flags | leaf_flags;
}

static void load_idt(void)
{
	const struct table_register r = {sizeof(idt) - 1, (uint64_t)idt};

	for (unsigned int i = 0; i < 32; i++)
		set_gate(&idt[i], exception_entries[i]);
	set_gate(&idt[KB_NESTED_VECTOR], (uint64_t)interrupt_entry);
	set_gate(&l2_idt[L2_VECTOR], (uint64_t)l2_handler);
	__asm__ volatile("lidt %0" : : "m"(r));
}

static void enable_apic(void)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2APIC);
	wrmsr(MSR_X2APIC_SVR, SVR_ENABLED);
}

static void choose_vendor(void)
{
	bool nested_paging;

	if (cpuid(1).ecx & CPUID_VMX)
		vendor = &vmx;
	else if (cpuid(CPUID_EXTENDED).ecx & CPUID_SVM)
		vendor = &svm;
	else
		fail(KB_NO_VIRTUALIZATION, 0, 0, 0);
	shared->vendor = vendor->id;
	nested_paging = vendor->enable();
	shared->nested_paging = nested_paging;
}

/* Interrupts are enabled for one instruction after the shadow of STI. */
static void take_interrupts(void)
{
	__asm__ volatile("sti; nop; cli" : : : "memory");
}

static void triple_fault(void)
{
	const struct table_register none = {0, 0};

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* Enters L2. An exit after which L2 cannot be resumed ends the order. */
static void enter(struct exit *exit, enum kb_phase phase)
{
	shared->phase = phase;
	vendor->enter(exit);
	shared->phase = KB_IN_L1;
	if (exit->kind == LEFT_BY_SHUTDOWN)
		fail(KB_L2_TRIPLE_FAULT, exit->reason, exit->detail, 0);
}

/*
 * Lets L2 finish what it began: the exit for an interrupt comes before the first instruction of the
 * handler of what was injected. L2 then sees that it is to stop, and calls.
 */
static void drain(struct exit last)
{
	l2_stop = 1;
	for (unsigned int i = 0; i < DRAIN_ENTRIES; i++) {
		if (last.kind == LEFT_BY_CALL)
			return;
		vendor->inject_again();
		enter(&last, KB_IN_L2_AGAIN);
		take_interrupts();
	}
	fail(KB_L2_ASTRAY, last.reason, last.detail, 0);
}

static void ask_for_interrupt(enum kb_iteration iteration)
{
	if (iteration == KB_PLAIN || shared->broken & KB_L2_NEVER_EXITS)
		return;
	if (iteration == KB_ASYNCHRONOUS)
		shared->armed++; /* the sender's turn; x86 does not reorder stores */
	else
		wrmsr(MSR_X2APIC_SELF, KB_NESTED_VECTOR);
}

/*
 * 0 when it is not known. Only the exit for the interrupt is caused by what was sent, and the
 * host's stamp may be a little ahead of this clock.
 */
static uint64_t latency_of(const struct exit *exit, uint64_t sent_at)
{
	const bool known = sent_at && exit->kind == LEFT_BY_INTERRUPT;

	return known && exit->left_at > sent_at ? exit->left_at - sent_at : 0;
}

static void iterate(enum kb_iteration iteration, struct kb_nested_record *record)
{
	const bool is_plain = iteration == KB_PLAIN;
	const bool injected = iteration == KB_PENDING || iteration == KB_ASYNCHRONOUS;
	const uint32_t before = interrupts;
	struct exit exit;

	l2_work = 0;
	l2_delivered = 0;
	l2_stop = 0;
	shared->sent_at = 0;
	vendor->aim(shared->broken & KB_L2_TRIPLE_FAULTS ? (uint64_t)l2_fault
		    : is_plain				 ? vendor->call
							 : vendor->spin);
	if (injected)
		vendor->inject(L2_VECTOR);
	ask_for_interrupt(iteration);
	KB_PUT_MARK(KB_MARK_BEGIN);
	enter(&exit, KB_IN_L2);
	KB_PUT_MARK(KB_MARK_END);
	record->cycles = exit.left_at - exit.entered_at;
	record->work = l2_work;
	record->detail = exit.detail;
	record->exit_reason = exit.reason;
	record->expected = exit.kind == (is_plain ? LEFT_BY_CALL : LEFT_BY_INTERRUPT);
	record->injected = injected;
	/* The interrupt is due whatever the exit was: it must not be left to the next iteration. */
	shared->phase = KB_AWAITS_INTERRUPT;
	while (!is_plain && interrupts == before)
		take_interrupts();
	shared->phase = KB_IN_L1;
	record->latency = iteration == KB_ASYNCHRONOUS ? latency_of(&exit, shared->sent_at) : 0;
	drain(exit);
	record->delivered = l2_delivered;
	shared->progress++;
}

static void obey(void)
{
	const enum kb_iteration iteration = shared->iteration;
	struct kb_nested_record *records = (void *)shared->records;
	struct kb_nested_record unused;

	if (shared->broken & KB_L1_TRIPLE_FAULTS)
		triple_fault();
	for (uint32_t i = 0; i < shared->warmup; i++)
		iterate(iteration, &unused);
	for (uint32_t i = 0; i < shared->count; i++)
		iterate(iteration, &records[i]);
}

void main(void)
{
	load_idt();
	enable_apic();
	fill_tables(&l2_tables, TABLE_PRESENT, TABLE_LARGE);
	choose_vendor();
	for (;;) {
		end_order(KB_DONE);
		obey();
	}
}
