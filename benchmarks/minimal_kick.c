/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least program that times a kick: one vCPU that counts, one thread that signals it by tgkill,
 * a handler that sets immediate_exit, a stamp on either side. Prints the median in cycles.
 *
 *	minimal_kick IMAGE VCPU_CPU KICKER_CPU KICKS GAP_NS
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define MEMORY (2u << 20)
#define ENTRY  0x1000

static struct kvm_run *run;
static int vcpu;
static atomic_int tid;
static _Atomic uint64_t taken_at;

static uint64_t stamp(void)
{
	unsigned int aux;

	return __rdtscp(&aux);
}

static void on_signal(int signal)
{
	(void)signal;
	run->immediate_exit = 1;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void make_vcpu(const char *image)
{
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), file;
	char *memory =
	    mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY,
						     .userspace_addr = (uintptr_t)memory};
	struct kvm_segment flat = {.limit = UINT32_MAX, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = ENTRY, .rflags = 2, .rsi = 0x10000};

	ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR))
		ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	file = open(image, O_RDONLY);
	if (run == MAP_FAILED || read(file, memory + ENTRY, 4096) <= 0) {
		perror("minimal_kick");
		exit(1);
	}
	ioctl(vcpu, KVM_GET_SREGS, &sregs);
	flat.type = 11;
	flat.selector = 8;
	sregs.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cr0 |= 1;
	ioctl(vcpu, KVM_SET_SREGS, &sregs);
	ioctl(vcpu, KVM_SET_REGS, &regs);
}

static void *run_vcpu(void *cpu)
{
	pin(*(int *)cpu);
	tid = (int)syscall(SYS_gettid);
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) == 0)
			exit(1);
		run->immediate_exit = 0;
		atomic_store(&taken_at, stamp());
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};
	int vcpu_cpu, kicks;
	uint64_t *latency;
	pthread_t thread;

	if (argc != 6)
		return 2;
	vcpu_cpu = atoi(argv[2]);
	kicks = atoi(argv[4]);
	latency = calloc((size_t)kicks, sizeof(*latency));
	sigaction(SIGUSR1, &action, NULL);
	make_vcpu(argv[1]);
	pthread_create(&thread, NULL, run_vcpu, &vcpu_cpu);
	pin(atoi(argv[3]));
	while (!tid)
		;
	for (int i = 0; i < kicks; i++) {
		struct timespec gap = {0, atol(argv[5]) / 2 + rand() % atol(argv[5])};
		uint64_t sent, taken;

		nanosleep(&gap, NULL);
		atomic_store(&taken_at, 0);
		sent = stamp();
		syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
		while (!(taken = atomic_load(&taken_at)))
			_mm_pause();
		latency[i] = taken - sent;
	}
	qsort(latency, (size_t)kicks, sizeof(*latency), compare);
	printf("%llu\n", (unsigned long long)latency[kicks / 2]);
	return 0;
}
