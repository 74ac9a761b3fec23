// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU's TCG: it writes down every instruction that a CPU executes between two marks
 * (kickbench/mark.h), and with memory=on every access to memory, in their order.
 *
 * Arguments: out=FILE, memory=on|off. FILE.trace has 32 bits for each entry, FILE.code a record for
 * each translated instruction. kickbench/lab/explain/trace.py reads both. FILE.whole is there if
 * all was written. With check=on it only says that this QEMU can load it.
 *
 * Until the mark KB_MARK_WATCH nothing but that mark is looked for, so that a machine boots as fast
 * as without the plugin.
 *
 * The plugin is for machines that run all their CPUs in one thread (-icount or thread=single): it
 * takes no lock.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The functions of QEMU's plugin API, version 1, that are used here (docs/devel/tcg-plugins.rst).
 */
typedef uint64_t plugin_id;
typedef uint32_t meminfo;
struct tb;
struct insn;
struct hwaddr;
struct info;

typedef void (*simple_callback)(plugin_id id);
typedef void (*udata_callback)(plugin_id id, void *data);
typedef void (*translate_callback)(plugin_id id, struct tb *tb);
typedef void (*execute_callback)(unsigned int cpu, void *data);
typedef void (*memory_callback)(unsigned int cpu, meminfo info, uint64_t vaddr, void *data);
enum flags { NO_REGISTERS };
enum accesses { READS = 1, WRITES, READS_AND_WRITES };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, translate_callback callback);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, execute_callback callback,
					    enum flags flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, memory_callback callback, enum flags flags,
				      enum accesses accesses, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, udata_callback callback, void *data);
void qemu_plugin_reset(plugin_id id, simple_callback callback);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
const void *qemu_plugin_insn_data(const struct insn *insn);
bool qemu_plugin_mem_is_store(meminfo info);
unsigned int qemu_plugin_mem_size_shift(meminfo info);
struct hwaddr *qemu_plugin_get_hwaddr(meminfo info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct hwaddr *address);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct hwaddr *address);

#define EXPORT	 __attribute__((visibility("default")))
#define MAX_CPUS 64

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv);

/* kickbench/mark.h */
enum { MARK_WATCH = 0x4b420000, MARK_BEGIN, MARK_END, MARK_SENT, MARK_PAUSE, MARK_PAUSED };
#define NOT_A_MARK 0

/* An entry of the trace: what in the highest 4 bits, the value in the others. An access has the
 * slot of its page and the offset in it. PAGE has a slot, and three entries MORE behind it have 24
 * bits each: the number of the virtual page in 37 bits, and that of the page in QEMU's memory in
 * 35. The highest bit of the virtual page is that of the address: on arm64, no bit between the 48th
 * and that one says whether an address is the kernel's.
 * CPU has the CPU of all entries behind it. A section begins without a CPU and without pages.
 *
 * The entries are small because to write them takes more time than to make them.
 */
enum what { EXECUTED, READ, WROTE, CPU, PAGE, MORE };
#define WHAT_SHIFT 28
#define PAGE_SHIFT 12
#define VPAGE_BITS 37
#define PLACE_BITS 35
#define MORE_BITS  24
#define N_SLOTS	   (1u << (WHAT_SHIFT - PAGE_SHIFT))
#define NO_CPU	   UINT32_MAX

struct page {
	uint64_t virtual, place;
};

/* A record of the code: an instruction, as it was translated. Its number is its place in FILE. */
struct code {
	uint64_t vaddr;
	uint8_t size;
	uint8_t bytes[15];
};

static char out[4000];
static FILE *trace, *code;
static bool with_memory;
static uint64_t n_code;
/* From a mark KB_MARK_BEGIN on all CPUs are watched, since a kick ends on another one than it
 * begins on. KB_MARK_END ends that. A CPU that has begun itself is watched until it has ended too,
 * or its call is over: other vCPUs, or other kickers, may be later. A pause has a kick for each
 * vCPU, and all CPUs are watched until it is over.
 */
static bool all_watched, watched[MAX_CPUS], in_pause;

/* Entries that are not in the file yet: a call of stdio for each would take half of the time. */
static uint32_t entries[1 << 16];
static size_t n_entries;
/* What the entries since the section's begin have said. No page at virtual address 0 is at place 0.
 */
static struct page pages[N_SLOTS];
static uint32_t last_cpu = NO_CPU;

static void write_entries(void)
{
	if (fwrite(entries, sizeof(entries[0]), n_entries, trace) != n_entries) {
		perror("kickbench: the trace cannot be written");
		exit(1);
	}
	n_entries = 0;
}

static void put(enum what what, uint64_t value)
{
	entries[n_entries++] = (uint32_t)what << WHAT_SHIFT | (uint32_t)value;
	if (n_entries == sizeof(entries) / sizeof(entries[0]))
		write_entries();
}

static void put_of(unsigned int cpu, enum what what, uint64_t value)
{
	if (cpu != last_cpu) {
		put(CPU, cpu);
		last_cpu = cpu;
	}
	put(what, value);
}

static void executed(unsigned int cpu, void *number)
{
	if (all_watched || watched[cpu])
		put_of(cpu, EXECUTED, (uint64_t)number);
}

/* The slot of a page: that of its virtual address. */
static uint32_t slot_of(uint64_t virtual, uint64_t place)
{
	const uint32_t slot = (uint32_t)(virtual ^ virtual >> 16) % N_SLOTS;
	const uint64_t more = (1 << MORE_BITS) - 1;
	struct page *page = &pages[slot];

	if (page->virtual != virtual || page->place != place) {
		*page = (struct page){virtual, place};
		put(PAGE, slot);
		put(MORE, virtual >> (VPAGE_BITS - MORE_BITS));
		put(MORE, (virtual << (2 * MORE_BITS - VPAGE_BITS) | place >> MORE_BITS) & more);
		put(MORE, place & more);
	}
	return slot;
}

static uint64_t number_of_page(uint64_t vaddr)
{
	const uint64_t is_kernels = vaddr >> 63, mask = (1ull << (VPAGE_BITS - 1)) - 1;

	return is_kernels << (VPAGE_BITS - 1) | (vaddr >> PAGE_SHIFT & mask);
}

static void accessed(unsigned int cpu, meminfo info, uint64_t vaddr, void *number)
{
	const uint64_t offset_mask = (1 << PAGE_SHIFT) - 1;
	const struct hwaddr *address;
	uint64_t place;
	uint32_t slot;

	(void)number;
	if (!all_watched && !watched[cpu])
		return;
	address = qemu_plugin_get_hwaddr(info, vaddr);
	if (!address || qemu_plugin_hwaddr_is_io(address))
		return;
	place = qemu_plugin_hwaddr_phys_addr(address);
	slot = slot_of(number_of_page(vaddr), place >> PAGE_SHIFT & ((1ull << PLACE_BITS) - 1));
	put_of(cpu, qemu_plugin_mem_is_store(info) ? WROTE : READ,
	       slot << PAGE_SHIFT | (vaddr & offset_mask));
}

/* Who runs the machine's methods executes the first mark between any two of them. */
static void parted(unsigned int cpu, void *number)
{
	(void)cpu;
	memset(pages, 0, sizeof(pages));
	last_cpu = NO_CPU;
	put(EXECUTED, (uint64_t)number);
}

static void begins(unsigned int cpu, void *number)
{
	all_watched = watched[cpu] = true;
	executed(cpu, number);
}

static void ends(unsigned int cpu, void *number)
{
	executed(cpu, number);
	if (!in_pause)
		all_watched = watched[cpu] = false;
}

static void has_sent(unsigned int cpu, void *number)
{
	executed(cpu, number);
	watched[cpu] = false;
}

static void pause_begins(unsigned int cpu, void *number)
{
	in_pause = all_watched = true;
	executed(cpu, number);
}

static void pause_ends(unsigned int cpu, void *number)
{
	executed(cpu, number);
	in_pause = all_watched = false;
	memset(watched, 0, sizeof(watched));
}

/* The marks of x86-64 and of arm64 (KB_PUT_MARK). No instruction of one is a mark of the other. */
static uint32_t mark_of(const struct insn *insn)
{
	static const uint8_t nop[] = {0x0f, 0x1f, 0x84, 0x00};
	const uint8_t *bytes = qemu_plugin_insn_data(insn);
	const size_t size = qemu_plugin_insn_size(insn);
	uint32_t number = NOT_A_MARK, word;

	if (size == 8 && !memcmp(bytes, nop, sizeof(nop))) {
		memcpy(&number, bytes + sizeof(nop), sizeof(number));
	} else if (size == 4) {
		memcpy(&word, bytes, sizeof(word));
		if ((word & 0xffe0001f) == 0xd280001f && (word >> 13 & 0xff) == 0x4b)
			number = MARK_WATCH + (word >> 5 & 0xff);
	}
	return number >= MARK_WATCH && number <= MARK_PAUSED ? number : NOT_A_MARK;
}

static execute_callback callback_of(uint32_t mark)
{
	switch (mark) {
	case MARK_WATCH:
		return parted;
	case MARK_BEGIN:
		return begins;
	case MARK_END:
		return ends;
	case MARK_SENT:
		return has_sent;
	case MARK_PAUSE:
		return pause_begins;
	case MARK_PAUSED:
		return pause_ends;
	default:
		return executed;
	}
}

static uint64_t note_code(const struct insn *insn)
{
	struct code record = {.vaddr = qemu_plugin_insn_vaddr(insn)};
	const size_t size = qemu_plugin_insn_size(insn);

	record.size = (uint8_t)size;
	memcpy(record.bytes, qemu_plugin_insn_data(insn),
	       size < sizeof(record.bytes) ? size : sizeof(record.bytes));
	fwrite(&record, sizeof(record), 1, code);
	return n_code++;
}

static void translated(plugin_id id, struct tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		void *number = (void *)note_code(insn);

		qemu_plugin_register_vcpu_insn_exec_cb(insn, callback_of(mark_of(insn)),
						       NO_REGISTERS, number);
		if (with_memory)
			qemu_plugin_register_vcpu_mem_cb(insn, accessed, NO_REGISTERS,
							 READS_AND_WRITES, number);
	}
}

static FILE *open_file(const char *suffix)
{
	char name[4096];
	FILE *file;

	snprintf(name, sizeof(name), "%s.%s", out, suffix);
	file = fopen(name, "we");
	if (!file)
		fprintf(stderr, "kickbench: %s: %s\n", name, strerror(errno));
	return file;
}

/* FILE.whole says that all was written: the disk was not full. */
static void finish(plugin_id id, void *data)
{
	int failed = ferror(code);
	FILE *whole;

	(void)id;
	(void)data;
	failed |= fwrite(entries, sizeof(entries[0]), n_entries, trace) != n_entries;
	failed |= fflush(trace);
	failed |= fflush(code);
	if (failed) {
		fprintf(stderr, "kickbench: the trace was not written\n");
		return;
	}
	whole = open_file("whole");
	if (whole)
		fclose(whole);
}

static void watch_all(plugin_id id)
{
	/* The reset has taken this callback away, too. */
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
}

static void watch(unsigned int cpu, void *id)
{
	(void)cpu;
	/* All translations are thrown away: the next ones are watched. */
	qemu_plugin_reset((plugin_id)(uintptr_t)id, watch_all);
}

static void look_for_watch(plugin_id id, struct tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (mark_of(insn) == MARK_WATCH)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, watch, NO_REGISTERS,
							       (void *)(uintptr_t)id);
	}
}

int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4)) {
			snprintf(out, sizeof(out), "%s", argv[i] + 4);
			trace = open_file("trace");
			code = open_file("code");
		} else if (!strcmp(argv[i], "memory=on")) {
			with_memory = true;
		} else if (!strcmp(argv[i], "check=on")) {
			fprintf(stderr, "kickbench: the plugin fits\n");
		}
	}
	if (!trace || !code)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, look_for_watch);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
