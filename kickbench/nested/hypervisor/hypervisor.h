/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest hypervisor's own files share: the CPU's instructions, L2, and the two vendors. */
#ifndef KICKBENCH_HYPERVISOR_H
#define KICKBENCH_HYPERVISOR_H

#include "selectors.h"
#include "shared.h"

#include <stdbool.h>

#define PAGE	       4096
#define TABLE_ENTRIES  512
#define TABLE_PRESENT  0x67u /* present, writable, for user mode, accessed, dirty */
#define TABLE_LARGE    (1u << 7)
#define TABLE_2_MIB(n) ((uint64_t)(n) << 21)

/* Page tables that map the first GiB to itself, by pages of 2 MiB. */
struct tables {
	uint64_t level4[TABLE_ENTRIES], level3[TABLE_ENTRIES], level2[TABLE_ENTRIES];
} __attribute__((aligned(PAGE)));

struct __attribute__((packed)) table_register {
	uint16_t limit;
	uint64_t base;
};

/* How and when L2 left. */
struct exit {
	uint64_t entered_at, left_at; /* L1's TSC; first: entry.S writes them */
	uint32_t reason;
	uint64_t detail;
	enum { LEFT_OTHERWISE, LEFT_BY_CALL, LEFT_BY_INTERRUPT, LEFT_BY_SHUTDOWN } kind;
};

/* One way to run L2. Each function is called with interrupts disabled. */
struct vendor {
	enum kb_vendor id;
	uint64_t call, spin; /* where L2 begins: it calls at once, or counts until l2_stop is set */
	bool (*enable)(void);
	void (*aim)(uint64_t rip);
	void (*inject)(uint8_t vector); /* at the next entry only */
	void (*enter)(struct exit *exit);
	void (*inject_again)(void); /* what the last exit kept from being delivered */
};

extern const struct vendor svm, vmx;
/* The page at KB_NESTED_SHARED. */
extern volatile struct kb_nested *const shared;

/* entry.S */
extern struct table_register gdt_register;
extern const uint64_t exception_entries[32];
extern char interrupt_entry[];
extern volatile uint32_t interrupts; /* taken by L1 */
void svm_enter(struct exit *exit, uint64_t vmcb);
unsigned int vmx_enter(struct exit *exit, bool launched);
extern char vmx_exit[];

/* l2.S */
extern char l2_call_svm[], l2_spin_svm[], l2_call_vmx[], l2_spin_vmx[], l2_fault[], l2_handler[];
extern char l2_stack_end[];
extern struct table_register l2_idt_register;
extern volatile uint64_t l2_work;
extern volatile uint32_t l2_delivered, l2_stop;

/* main.c */
extern struct tables l2_tables;
void fill_tables(struct tables *tables, uint64_t flags, uint64_t leaf_flags);
_Noreturn void fail(enum kb_status status, uint64_t reason, uint64_t detail, uint64_t more);

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(0));
	return r;
}

#define CONTROL_REGISTER(name)                                                                     \
	static inline uint64_t read_##name(void)                                                   \
	{                                                                                          \
		uint64_t value;                                                                    \
                                                                                                   \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(value));                             \
		return value;                                                                      \
	}                                                                                          \
	static inline void write_##name(uint64_t value)                                            \
	{                                                                                          \
		__asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                    \
	}
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)

#endif
