/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the engine on a stub of KVM, for ThreadSanitizer: driver PROTOCOL TRANSPORT LOST_AFTER_NS.
 *
 * The linker sends all calls of ioctl here (--wrap=ioctl). The guest sleeps in ppoll with the mask
 * of KVM_SET_SIGNAL_MASK, and exits by itself after a while, so that a kick that is lost does not
 * stop the test. Losing kicks is not what is looked for here: data races are.
 */
#include "engine.h"

#include <kickbench/clock.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define VCPUS	     2
#define KICKERS	     2
#define BLOCKS	     2
#define BLOCK_NS     30000000ull
#define WARMUP_NS    1000000ull
#define GUEST_NS     200000 /* between two exits of the guest's own */
#define MAX_KICKS    4096
#define KERNEL_BYTES 8 /* of a sigset_t in the kernel */

/* The descriptor of a vCPU is its index: nothing but the stub ever sees it. */
static struct kvm_run runs[VCPUS];
static struct kb_guest_params params[VCPUS];
static int requests[VCPUS]; /* eventfds: KVM_USER_EXIT, and what KVM_VCPU_MAKE_EXITFD duplicates */

static _Thread_local sigset_t mask_inside;
static _Thread_local bool has_mask_inside;

static int set_signal_mask(const struct kvm_signal_mask *mask)
{
	has_mask_inside = mask != NULL;
	if (mask) {
		sigemptyset(&mask_inside);
		memcpy(&mask_inside, mask->sigset, KERNEL_BYTES);
	}
	return 0;
}

/* The byte is polled with the signals blocked: one that comes later ends ppoll. */
static int run_guest(int vcpu)
{
	const struct timespec guest = {0, GUEST_NS};
	struct pollfd request = {requests[vcpu], POLLIN, 0};
	sigset_t all, outside;
	int ready = -1, error = EINTR;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &outside);
	if (!__atomic_load_n(&runs[vcpu].immediate_exit, __ATOMIC_RELAXED)) {
		ready = ppoll(&request, 1, &guest, has_mask_inside ? &mask_inside : &outside);
		error = errno;
	}
	if (ready > 0) {
		eventfd_t count;

		eventfd_read(requests[vcpu], &count);
		runs[vcpu].exit_reason = KB_EXIT_REQUEST;
	} else if (ready == 0) {
		runs[vcpu].exit_reason = KVM_EXIT_IO;
	}
	pthread_sigmask(SIG_SETMASK, &outside, NULL);
	errno = error;
	return ready < 0 ? -1 : 0;
}

/* NOLINTNEXTLINE: the linker's name */
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	switch (request) {
	case KVM_RUN:
		return run_guest(fd);
	case KVM_SET_SIGNAL_MASK:
		return set_signal_mask(argument);
	case KB_USER_EXIT:
		return eventfd_write(requests[fd], 1);
	case KB_VCPU_MAKE_EXITFD:
		return dup(requests[fd]);
	default:
		errno = ENOTTY;
		return -1;
	}
}

#define PROTOCOLS(use)                                                                             \
	use(flag_signal) use(sigmask) use(sigmask_same) use(immediate_exit)                        \
	    use(immediate_exit_remote) use(immediate_exit_remote_flag_first) use(user_exit)        \
		use(exitfd)
#define DECLARE(name)  extern const struct kb_protocol kb_protocol_##name;
#define REFER_TO(name) &kb_protocol_##name,
PROTOCOLS(DECLARE)

static const struct kb_protocol *find_protocol(const char *name)
{
	static const struct kb_protocol *const protocols[] = {PROTOCOLS(REFER_TO)};

	for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++)
		if (!strcmp(protocols[i]->name, name))
			return protocols[i];
	return NULL;
}

static struct kb_engine *create(double clock_hz, uint32_t transport)
{
	const int32_t cpus[] = {0, 1};
	const uint32_t n_cpus = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
	struct kb_vcpu_config vcpus[VCPUS];
	struct kb_config config = {
	    .n_vcpus = VCPUS,
	    .n_entries = 1,
	    .signal = SIGUSR1,
	    .expected_exit = KVM_EXIT_IO,
	    .clock_is_tsc = 1,
	    .transport = transport,
	    .samples_capacity = 1 << 12,
	    .clock_hz = clock_hz,
	    .vcpus = vcpus,
	    .n_kickers = KICKERS,
	    .n_kicker_cpus = n_cpus,
	    .kicker_cpus = cpus,
	    .kicks_capacity = MAX_KICKS,
	    .pauses_capacity = MAX_KICKS,
	};

	for (int i = 0; i < VCPUS; i++) {
		requests[i] = eventfd(0, EFD_NONBLOCK);
		vcpus[i] = (struct kb_vcpu_config){i, n_cpus, cpus, &runs[i], &params[i], NULL};
	}
	return kb_engine_create(&config);
}

/* The number of kicks and pauses that were answered; -1 when a block failed. */
static long run_blocks(struct kb_engine *e, const struct kb_protocol *protocol,
		       const struct kb_plan *plan)
{
	struct kb_block_result results[BLOCKS * VCPUS];
	struct kb_block blocks[BLOCKS];
	uint64_t count;
	long kicks = 0;

	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = (struct kb_block){.protocol = protocol};
	if (kb_engine_blocks(e, blocks, BLOCKS, WARMUP_NS, BLOCK_NS, plan, results))
		return -1;
	for (uint32_t kicker = 0; kicker < KICKERS; kicker++) {
		kb_engine_kicks(e, kicker, &count);
		kicks += (long)count;
	}
	kb_engine_pauses(e, &count);
	return kicks + (long)count;
}

int main(int argc, char **argv)
{
	static const struct kb_plan plans[] = {
	    {.loop = KB_EXIT_LOOP},
	    {.loop = KB_EXIT_LOOP, .kicking = KB_VOLLEYS, .gap_ns = 300000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_VOLLEYS, .gap_ns = 300000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_AIMED, .userspace_ns = 20000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_AIMED, .window_ns = 50000},
	    {.loop = KB_KICK_LOOP, .kicking = KB_PAUSES, .gap_ns = 300000},
	};
	const struct kb_protocol *protocol = argc == 4 ? find_protocol(argv[1]) : NULL;
	struct kb_engine *e;

	if (!protocol)
		return 2;
	e = create(kb_clock_calibrate(10000000), (uint32_t)atoi(argv[2]));
	if (!e) {
		perror("kb_engine_create");
		return 3;
	}
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct kb_plan plan = plans[i];
		long kicks;

		plan.seed = 1;
		plan.lost_after_ns = strtoull(argv[3], NULL, 10);
		kicks = run_blocks(e, protocol, &plan);
		printf("plan %zu: %ld\n", i, kicks);
		if (kicks < 0 || (kicks == 0) != (plan.kicking == KB_NO_KICKS))
			return 4;
	}
	kb_engine_destroy(e);
	return 0;
}
