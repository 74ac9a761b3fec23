/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stub of KVM under the engine: the linker sends all calls of ioctl here (--wrap=ioctl).
 *
 * The guest sleeps in ppoll with the mask of KVM_SET_SIGNAL_MASK, and exits by itself after a
 * while, so that a kick that is lost does not stop a test. With STUB_EAGAIN in the environment it
 * gives up with EAGAIN every other time, as KVM_RUN of a vCPU that gets its INIT.
 */
#include "kvm.h"

#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define GUEST_NS     200000 /* between two exits of the guest's own */
#define KERNEL_BYTES 8	    /* of a sigset_t in the kernel */

static struct kvm_run runs[STUB_VCPUS];
static struct kb_guest_params params[STUB_VCPUS];
static int
    requests[STUB_VCPUS]; /* eventfds: KVM_USER_EXIT, and what KVM_VCPU_MAKE_EXITFD duplicates */

static unsigned int again[STUB_VCPUS];

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
	} else if (ready == 0 && getenv("STUB_EAGAIN") && !__atomic_fetch_xor(&again[vcpu], 1, 0)) {
		ready = -1;
		error = EAGAIN;
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

struct kb_vcpu_config stub_vcpu(int index, uint32_t n_cpus, const int32_t *cpus)
{
	requests[index] = eventfd(0, EFD_NONBLOCK);
	return (struct kb_vcpu_config){index, n_cpus, cpus, &runs[index], &params[index], NULL};
}

/* Linked with -rdynamic. */
const struct kb_protocol *find_protocol(const char *name)
{
	char symbol[64];

	snprintf(symbol, sizeof(symbol), "kb_protocol_%s", name);
	return dlsym(RTLD_DEFAULT, symbol);
}
