// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests KVM_USER_EXIT and KVM_VCPU_MAKE_EXITFD: every sentence of their documentation, then random
 * kicks, then wakers and closers in each other's way. It runs in the lab's kernel, is static, and
 * prints TAP; the exit status is 0 when nothing failed. It measures nothing.
 *
 *	user_exit [-k KICKS] [-r ROUNDS] [-s SEED] [NAME...]
 *
 * KICKS random kicks by each protocol in each of four states (default 10000, about a minute in TCG;
 * 125000 makes a million), ROUNDS of closing everything in any order (default 500).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef KVM_USER_EXIT
struct kvm_user_exit {
	uint8_t reserved[32];
};
#define KVM_USER_EXIT	     _IOW(KVMIO, 0xf0, struct kvm_user_exit)
#define KVM_VCPU_MAKE_EXITFD _IO(KVMIO, 0xf1)
#define KVM_EXIT_REQUEST     240
#define KVM_CAP_USER_EXIT    1001
#define KVM_CAP_VCPU_EXITFD  1002
#endif

/* Generous: TCG under KASAN on a busy machine is slow, and a lost kick stays lost. */
#ifndef PATIENCE_S
#define PATIENCE_S 60
#endif

#define MEMORY	0x80000
#define CODE	0x1000 /* of the guest */
#define COUNTER 0x8000 /* counts the guest's rounds */
#define RESULT	0x8004 /* what it has read */
#define DEVICE	MEMORY /* nobody answers there */

static int kvm_fd;
static unsigned long n_kicks = 10000, n_rounds = 500;
static unsigned int seed = 1;

/* ---- TAP ---- */

static unsigned int n_failures; /* in the test that runs */

static void fail(const char *file, int line, const char *format, ...)
{
	va_list args;

	n_failures++;
	printf("# %s:%d: ", file, line);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

#define FAIL(...) fail(__FILE_NAME__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			FAIL("not so: %s (errno %d)", #condition, errno);                          \
	} while (0)

#define CHECK_EQ(actual, expected)                                                                 \
	do {                                                                                       \
		long long a_ = (actual), e_ = (expected);                                          \
		if (a_ != e_)                                                                      \
			FAIL("%s is %lld, not %lld", #actual, a_, e_);                             \
	} while (0)

/* For what is no test but what tests need. */
#define MUST(call)                                                                                 \
	({                                                                                         \
		long r_ = (call);                                                                  \
		if (r_ < 0) {                                                                      \
			printf("Bail out! %s:%d: %s: %s\n", __FILE_NAME__, __LINE__, #call,        \
			       strerror(errno));                                                   \
			exit(2);                                                                   \
		}                                                                                  \
		r_;                                                                                \
	})

/* ---- a machine ---- */

struct machine {
	int vm_fd, fd;
	struct kvm_run *run;
	uint8_t *memory;
	size_t run_size;
};

enum irqchip { NO_IRQCHIP, IRQCHIP };

#define NEW_MACHINE(irqchip, code) new_machine(irqchip, 0, code, sizeof(code))

/* What x86_64.h or arm64.h does for a new VM, before its vCPU is made, and for its vCPU. */
static void begin_vm(struct machine *m, enum irqchip irqchip);
static void begin_vcpu(struct machine *m, enum irqchip irqchip);

static struct machine new_machine(enum irqchip irqchip, int vcpu_id, const void *code, size_t size)
{
	struct machine m;

	m.vm_fd = MUST(ioctl(kvm_fd, KVM_CREATE_VM, 0));
	m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(m.memory == MAP_FAILED ? -1 : 0);
	begin_vm(&m, irqchip);
	struct kvm_userspace_memory_region region = {
	    .memory_size = MEMORY,
	    .userspace_addr = (uintptr_t)m.memory,
	};
	MUST(ioctl(m.vm_fd, KVM_SET_USER_MEMORY_REGION, &region));
	memcpy(m.memory + CODE, code, size);
	m.fd = MUST(ioctl(m.vm_fd, KVM_CREATE_VCPU, vcpu_id));
	m.run_size = MUST(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0));
	m.run = mmap(NULL, m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
	MUST(m.run == MAP_FAILED ? -1 : 0);
	begin_vcpu(&m, irqchip);
	return m;
}

static void free_machine(struct machine *m)
{
	munmap(m->run, m->run_size);
	close(m->fd);
	close(m->vm_fd);
	munmap(m->memory, MEMORY);
}

static uint32_t guest_word(struct machine *m, unsigned int address)
{
	return *(volatile uint32_t *)(m->memory + address);
}

/* An exit reason, or -errno. */
static int run(struct machine *m)
{
	return ioctl(m->fd, KVM_RUN, 0) == 0 ? (int)m->run->exit_reason : -errno;
}

/* ---- kicks ---- */

struct waker {
	const char *name;
	int (*wake)(struct waker *w);
	int fd; /* of the vCPU, or an exitfd */
};

static int wake_by_user_exit(struct waker *w)
{
	struct kvm_user_exit arg = {{0}};

	return ioctl(w->fd, KVM_USER_EXIT, &arg);
}

static int wake_by_exitfd(struct waker *w)
{
	const uint64_t one = 1;

	return write(w->fd, &one, sizeof(one)) == sizeof(one) ? 0 : -1;
}

static struct waker by_user_exit(struct machine *m)
{
	return (struct waker){"user_exit", wake_by_user_exit, m->fd};
}

static struct waker by_exitfd(struct machine *m)
{
	return (struct waker){"exitfd", wake_by_exitfd,
			      MUST(ioctl(m->fd, KVM_VCPU_MAKE_EXITFD, 0))};
}

static void free_waker(struct waker *w)
{
	if (w->wake == wake_by_exitfd)
		close(w->fd);
}

static struct waker (*const waker_kinds[])(struct machine *m) = {by_user_exit, by_exitfd};
#define EACH_KIND(kind)                                                                            \
	for (unsigned int kind = 0; kind < sizeof(waker_kinds) / sizeof(*waker_kinds); kind++)

#define WAKE(w) CHECK_EQ((w)->wake(w), 0)

/* ---- a vCPU thread ---- */

struct thread {
	struct machine *m;
	pthread_t id;
	atomic_int tid;
	atomic_bool in_run, done;
	int result;
};

static void *run_once(void *arg)
{
	struct thread *t = arg;

	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	atomic_store(&t->in_run, true);
	t->result = run(t->m);
	atomic_store(&t->done, true);
	return NULL;
}

static void start_run(struct thread *t, struct machine *m)
{
	*t = (struct thread){.m = m};
	MUST(-pthread_create(&t->id, NULL, run_once, t));
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Until the guest counts (or, without a counter, until the thread sleeps in the kernel). */
static void await_running(struct thread *t)
{
	uint32_t from = guest_word(t->m, COUNTER);

	for (int i = 0; i < PATIENCE_S * 1000 && guest_word(t->m, COUNTER) == from; i++)
		sleep_ms(1);
	CHECK(guest_word(t->m, COUNTER) != from);
}

static void await_asleep(struct thread *t)
{
	char path[64], text[256], state = 0;

	while (!atomic_load(&t->in_run))
		sleep_ms(1);
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&t->tid));
	for (int i = 0, asleep = 0; i < PATIENCE_S * 100 && asleep < 5; i++) {
		int fd = open(path, O_RDONLY);
		ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

		if (fd >= 0)
			close(fd);
		text[n > 0 ? n : 0] = 0;
		char *end = strrchr(text, ')');
		state = end ? end[2] : 0;
		asleep = state == 'S' ? asleep + 1 : 0;
		sleep_ms(10);
	}
	CHECK_EQ(state, 'S');
}

static void on_signal(int number)
{
	(void)number;
}

/* The result of KVM_RUN; rescues a vCPU that was not woken up. */
static int join_run(struct thread *t)
{
	for (int i = 0; i < PATIENCE_S * 1000 && !atomic_load(&t->done); i++)
		sleep_ms(1);
	if (!atomic_load(&t->done)) {
		FAIL("the kick was lost");
		t->m->run->immediate_exit = 1;
		while (!atomic_load(&t->done)) {
			pthread_kill(t->id, SIGUSR1);
			sleep_ms(10);
		}
		t->m->run->immediate_exit = 0;
	}
	pthread_join(t->id, NULL);
	return t->result;
}

static int mp_state(struct machine *m)
{
	struct kvm_mp_state state;

	MUST(ioctl(m->fd, KVM_GET_MP_STATE, &state));
	return state.mp_state;
}

/* A vCPU that sleeps in KVM_RUN is woken up, exits early when kicked before, and sleeps again. */
static void check_asleep(struct machine *m, struct waker *w, int state)
{
	for (int i = 0; i < 5; i++) {
		struct thread t;

		start_run(&t, m);
		await_asleep(&t);
		WAKE(w);
		CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
		CHECK_EQ(mp_state(m), state);
		WAKE(w);
		start_run(&t, m);
		CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
		CHECK_EQ(mp_state(m), state);
	}
}

/* ---- what the architecture has ---- */

struct test {
	const char *name;
	void (*function)(void);
};

/* A guest that reads a byte of a device, writes what it has read to RESULT, and leaves. */
struct read {
	const void *code;
	size_t size;
	int reason;	     /* of the exit */
	unsigned int length; /* of the instruction that reads, in bytes */
};

/*
 * It has these guests: leave, whose every round is an exit LEFT without an interrupt chip; halt,
 * which sleeps in KVM_RUN with one, in the state HALTED; spin, which counts in COUNTER; storm,
 * whose every round is an exit STORMED; and those of reads. And it has tests of its own.
 */
#ifdef __x86_64__
#include "x86_64.h"
#else
#include "arm64.h"
#endif

/* ---- the argument ---- */

static void test_capabilities(void)
{
	CHECK_EQ(ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_EXIT), 1);
	CHECK_EQ(ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_EXITFD), 1);
}

static void test_argument(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	long page = sysconf(_SC_PAGESIZE);
	uint8_t *pages =
	    mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_user_exit arg = {{0}};

	MUST(pages == MAP_FAILED ? -1 : 0);
	MUST(munmap(pages + page, page));
	errno = 0;
	CHECK(ioctl(m.fd, KVM_USER_EXIT, NULL) < 0 && errno == EFAULT);
	CHECK(ioctl(m.fd, KVM_USER_EXIT, pages + page) < 0 && errno == EFAULT);
	CHECK(ioctl(m.fd, KVM_USER_EXIT, pages + page - 31) < 0 && errno == EFAULT);
	pages[page - 31] = 1;
	CHECK(ioctl(m.fd, KVM_USER_EXIT, pages + page - 31) < 0 && errno == EFAULT);
	for (size_t i = 0; i < sizeof(arg.reserved); i++) {
		arg.reserved[i] = 1 << (i % 8);
		CHECK(ioctl(m.fd, KVM_USER_EXIT, &arg) < 0 && errno == EINVAL);
		arg.reserved[i] = 0;
	}
	CHECK_EQ(run(&m), LEFT); /* none of these was a kick */
	pages[page - 31] = 0;
	CHECK_EQ(ioctl(m.fd, KVM_USER_EXIT, pages + page - 32), 0);
	CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
	munmap(pages, page);
	free_machine(&m);
}

static void test_exitfd_is_an_eventfd(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	struct waker w = by_exitfd(&m);
	const uint64_t values[] = {0, 1, 2, UINT64_MAX - 1, UINT64_MAX - 1, UINT64_MAX - 1, 0};
	char path[64], target[64] = "";
	uint64_t value = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", w.fd);
	CHECK(readlink(path, target, sizeof(target) - 1) > 0);
	CHECK_EQ(strcmp(target, "anon_inode:[eventfd]"), 0);
	CHECK_EQ(fcntl(w.fd, F_GETFD), FD_CLOEXEC);
	CHECK(fcntl(w.fd, F_GETFL) & O_NONBLOCK);
	CHECK(ioctl(m.fd, KVM_VCPU_MAKE_EXITFD, 1) < 0 && errno == EINVAL);
	/* Whichever value is written: it kicks, is not to be read, and never fills the counter. */
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		struct pollfd poller = {.fd = w.fd, .events = POLLIN | POLLOUT};

		CHECK_EQ(write(w.fd, &values[i], 8), 8);
		CHECK_EQ(poll(&poller, 1, 0), 1);
		CHECK_EQ(poller.revents, POLLOUT);
		CHECK(read(w.fd, &value, 8) < 0 && errno == EAGAIN);
		CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
		CHECK_EQ(run(&m), LEFT);
	}
	value = UINT64_MAX;
	CHECK(write(w.fd, &value, 8) < 0 && errno == EINVAL);
	CHECK(write(w.fd, &value, 7) < 0 && errno == EINVAL);
	CHECK_EQ(run(&m), LEFT);
	free_waker(&w);
	free_machine(&m);
}

/* ---- where the vCPU is ---- */

static void test_not_running(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
		struct waker w = waker_kinds[kind](&m);

		CHECK_EQ(run(&m), LEFT);
		for (int kicks = 1; kicks <= 3; kicks++) {
			for (int i = 0; i < kicks; i++)
				WAKE(&w);
			CHECK_EQ(run(&m), KVM_EXIT_REQUEST); /* early, and several are one */
			CHECK_EQ(run(&m), LEFT);	     /* once */
			CHECK_EQ(run(&m), LEFT);
		}
		free_waker(&w);
		free_machine(&m);
	}
}

static void test_running(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, spin);
		struct waker w = waker_kinds[kind](&m);

		for (int i = 0; i < 20; i++) {
			struct thread t;

			start_run(&t, &m);
			await_running(&t);
			WAKE(&w);
			CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
		}
		free_waker(&w);
		free_machine(&m);
	}
}

static void test_halted(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, halt);
		struct waker w = waker_kinds[kind](&m);

		check_asleep(&m, &w, HALTED);
		free_waker(&w);
		free_machine(&m);
	}
}

/* ---- I/O that is not finished, and exits for other reasons ---- */

static void test_completes_io_first(void)
{
	EACH_KIND(kind)
	{
		for (size_t i = 0; i < sizeof(reads) / sizeof(*reads); i++) {
			struct machine m = new_machine(NO_IRQCHIP, 0, reads[i].code, reads[i].size);
			struct waker w = waker_kinds[kind](&m);

			CHECK_EQ(run(&m), reads[i].reason);
			*answer(&m) = 0x5a;
			WAKE(&w);
			CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
			CHECK_EQ(result_register(&m) & 0xff, 0x5a);
			CHECK_EQ(program_counter(&m), CODE + reads[i].length);
			CHECK_EQ(guest_word(&m, RESULT), 0); /* and not one instruction more */
			CHECK_EQ(run(&m), LEFT);
			CHECK_EQ(guest_word(&m, RESULT), 0x5a);
			free_waker(&w);
			free_machine(&m);
		}
	}
}

static void test_immediate_exit(void)
{
	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
		struct waker w = waker_kinds[kind](&m);

		WAKE(&w);
		m.run->immediate_exit = 1;
		CHECK_EQ(run(&m), -EINTR);
		m.run->immediate_exit = 0;
		CHECK_EQ(run(&m), LEFT);
		free_waker(&w);
		free_machine(&m);
	}
}

static void *signal_thread(void *arg)
{
	struct thread *t = arg;

	pthread_kill(t->id, SIGUSR1);
	return NULL;
}

/* One of the two ends KVM_RUN; neither is left over but a signal whose handler ran in user space.
 */
static void test_signal_at_the_same_time(void)
{
	unsigned int interrupted = 0, requested = 0;

	EACH_KIND(kind)
	{
		struct machine m = NEW_MACHINE(IRQCHIP, spin);
		struct waker w = waker_kinds[kind](&m);

		for (int i = 0; i < 100; i++) {
			struct thread t;
			pthread_t signaller;
			int result;

			start_run(&t, &m);
			await_running(&t); /* nothing is left over from the last round */
			MUST(-pthread_create(&signaller, NULL, signal_thread, &t));
			WAKE(&w);
			pthread_join(signaller, NULL);
			result = join_run(&t);
			CHECK(result == KVM_EXIT_REQUEST || result == -EINTR);
			requested += result == KVM_EXIT_REQUEST;
			interrupted += result == -EINTR;
			/* The kick may have come after the signal's return: use it up. */
			m.run->immediate_exit = 1;
			CHECK_EQ(run(&m), -EINTR);
			m.run->immediate_exit = 0;
		}
		free_waker(&w);
		free_machine(&m);
	}
	printf("# KVM_EXIT_REQUEST %u times, EINTR %u times\n", requested, interrupted);
}

/* KVM_RUN that fails for its argument did not run, and does not use a kick up. */
static void test_refused_run(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	struct waker w = by_user_exit(&m);

	WAKE(&w);
	CHECK(ioctl(m.fd, KVM_RUN, 1) < 0 && errno == EINVAL);
	CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
	CHECK_EQ(run(&m), LEFT);
	free_machine(&m);
}

/* ---- who kicks ---- */

static void test_needs_no_vcpu_mutex(void)
{
	struct machine m = NEW_MACHINE(IRQCHIP, spin);
	struct thread t;
	struct waker w;

	start_run(&t, &m);
	await_running(&t);
	w = by_exitfd(&m); /* would wait for KVM_RUN */
	WAKE(&w);
	CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
	free_waker(&w);
	free_machine(&m);
}

static void test_other_process(void)
{
	struct machine m = NEW_MACHINE(IRQCHIP, spin);
	struct waker foreign = by_user_exit(&m), w = by_exitfd(&m);
	struct thread t;
	int status;
	pid_t child;

	start_run(&t, &m);
	await_running(&t);
	child = MUST(fork());
	if (child == 0) {
		/* The ioctl is for the process of the VM alone; whoever has the eventfd can write.
		 */
		bool refused = foreign.wake(&foreign) < 0 && errno == EIO;

		_exit(refused && w.wake(&w) == 0 ? 0 : 1);
	}
	MUST(waitpid(child, &status, 0));
	CHECK_EQ(status, 0);
	CHECK_EQ(join_run(&t), KVM_EXIT_REQUEST);
	free_waker(&w);
	free_machine(&m);
}

/* A signal from the kernel kicks too; here in KVM_RUN itself, from the vCPU that is kicked. */
static void test_kernel_signals_exitfd(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, storm);
	struct waker w = by_exitfd(&m);
	struct kvm_ioeventfd ioeventfd = storm_ioeventfd;

	ioeventfd.fd = w.fd;
	MUST(ioctl(m.vm_fd, KVM_IOEVENTFD, &ioeventfd));
	for (int i = 0; i < 1000; i++)
		CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
	ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	MUST(ioctl(m.vm_fd, KVM_IOEVENTFD, &ioeventfd));
	CHECK_EQ(run(&m), STORMED);
	free_waker(&w);
	free_machine(&m);
}

/* ---- random kicks ---- */

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Mostly short, so that the two meet; now and then long, so that each gets anywhere. */
static void random_delay(uint32_t *state)
{
	uint32_t r = next_random(state), rounds = (r >> 8) & ((1u << (r % 13)) - 1);

	for (volatile uint32_t i = 0; i < rounds; i++)
		;
}

struct duel {
	struct machine m;
	struct waker w;
	int own_reason; /* of the guest, or -1 */
	bool delays;	/* the vCPU thread spends a while in user space */
	uint64_t n;
	_Alignas(64) atomic_ullong started; /* by the kicker: before and after a kick */
	_Alignas(64) atomic_ullong finished;
	_Alignas(64) atomic_ullong seen; /* by the vCPU: kicks that a return of KVM_RUN answered */
	atomic_bool stop;
	uint64_t requests, own_exits, lost, doubled, odd;
	uint64_t in_user_space; /* kicks that came and went between two KVM_RUNs */
};

/*
 * The vCPU: its requests and the kicks must match, kick by kick. Without a reason of its own each
 * kick is one KVM_EXIT_REQUEST. With one, an exit under way answers the kick as well; but a kick
 * that began and ended in user space must cut the next KVM_RUN short, and one that has been
 * answered must not.
 */
static void *duel_vcpu(void *arg)
{
	struct duel *d = arg;
	uint32_t random = seed * 2654435761u | 1;
	uint64_t started_at_return = 0, answered = 0;

	while (!atomic_load(&d->stop)) {
		uint64_t finished_at_entry, started;
		int result;

		if (d->delays)
			random_delay(&random);
		finished_at_entry = atomic_load(&d->finished);
		result = run(&d->m);
		started = atomic_load(&d->started);
		if (result == KVM_EXIT_REQUEST) {
			d->requests++;
			/* Without a kick that was not answered by the last return for certain. */
			d->doubled += started == answered;
		} else if (result == d->own_reason) {
			d->own_exits++;
			d->lost += finished_at_entry > started_at_return;
		} else if (result != -EINTR || !atomic_load(&d->stop)) {
			d->odd++;
		}
		d->in_user_space += finished_at_entry > started_at_return;
		started_at_return = started;
		/* A kick that was over when this KVM_RUN began is answered, whatever it returned.
		 */
		answered = finished_at_entry;
		if (result == KVM_EXIT_REQUEST && d->own_reason < 0)
			answered = started;
		atomic_store(&d->seen,
			     result == d->own_reason ? atomic_load(&d->finished) : started);
	}
	return NULL;
}

static bool await_seen(struct duel *d, uint64_t kick)
{
	time_t until = time(NULL) + PATIENCE_S;

	for (unsigned int i = 1; atomic_load(&d->seen) < kick; i++) {
		if (i % 4096 == 0 && time(NULL) > until)
			return false;
		if (i > 64)
			sched_yield();
	}
	return true;
}

static void *duel_kicker(void *arg)
{
	struct duel *d = arg;
	uint32_t random = seed * 40503u | 1;

	for (uint64_t kick = 1; kick <= d->n; kick++) {
		random_delay(&random);
		atomic_store(&d->started, kick);
		if (d->w.wake(&d->w) < 0)
			d->odd++;
		atomic_store(&d->finished, kick);
		if (!await_seen(d, kick)) {
			d->lost++;
			break;
		}
	}
	return NULL;
}

static void duel(const char *what, unsigned int kind, enum irqchip irqchip, const void *code,
		 size_t size, int own_reason, bool delays)
{
	struct duel d = {.own_reason = own_reason, .delays = delays, .n = n_kicks};
	pthread_t vcpu, kicker;
	uint64_t sent;

	d.m = new_machine(irqchip, 0, code, size);
	d.w = waker_kinds[kind](&d.m);
	MUST(-pthread_create(&vcpu, NULL, duel_vcpu, &d));
	MUST(-pthread_create(&kicker, NULL, duel_kicker, &d));
	pthread_join(kicker, NULL);
	sleep_ms(50); /* for a doubled one */
	sent = atomic_load(&d.started);
	atomic_store(&d.stop, true);
	/* Answered for certain by now, and thus the end of this loop is no kick that counts. */
	d.m.run->immediate_exit = 1;
	pthread_kill(vcpu, SIGUSR1);
	pthread_join(vcpu, NULL);

	CHECK_EQ(d.lost, 0);
	CHECK_EQ(d.doubled, 0);
	CHECK_EQ(d.odd, 0);
	CHECK_EQ(sent, n_kicks);
	if (own_reason < 0)
		CHECK_EQ(d.requests, sent);
	else
		CHECK(d.requests <= sent);
	printf("# %-9s %-9s %llu kicks: %llu KVM_EXIT_REQUEST, %llu own exits, %llu wholly in user "
	       "space, %llu lost, %llu doubled\n",
	       d.w.name, what, (unsigned long long)sent, (unsigned long long)d.requests,
	       (unsigned long long)d.own_exits, (unsigned long long)d.in_user_space,
	       (unsigned long long)d.lost, (unsigned long long)d.doubled);
	fflush(stdout);
	free_waker(&d.w);
	free_machine(&d.m);
}

static void test_random_kicks(void)
{
	EACH_KIND(kind)
	{
		duel("guest", kind, IRQCHIP, spin, sizeof(spin), -1, false);
		duel("halted", kind, IRQCHIP, halt, sizeof(halt), -1, false);
		duel("any state", kind, IRQCHIP, spin, sizeof(spin), -1, true);
		duel("storm", kind, IRQCHIP, storm, sizeof(storm), STORMED, true);
	}
}

/* ---- many wakers ---- */

#define N_WAKERS 4

struct crowd {
	struct machine m;
	struct member {
		struct crowd *crowd;
		struct waker w;
		uint32_t random;
		uint64_t lost;
		_Alignas(64) atomic_bool flag;
	} members[N_WAKERS];
	atomic_bool stop;
	uint64_t requests;
};

static void *crowd_vcpu(void *arg)
{
	struct crowd *c = arg;

	while (!atomic_load(&c->stop)) {
		c->requests += run(&c->m) == KVM_EXIT_REQUEST;
		/* The flag first, then KVM_RUN: whoever sets it later kicks later. */
		for (int i = 0; i < N_WAKERS; i++)
			atomic_store(&c->members[i].flag, false);
	}
	return NULL;
}

static void *crowd_waker(void *arg)
{
	struct member *me = arg;

	for (unsigned long kick = 0; kick < n_kicks / N_WAKERS && !me->lost; kick++) {
		time_t until = time(NULL) + PATIENCE_S;

		random_delay(&me->random);
		atomic_store(&me->flag, true);
		WAKE(&me->w);
		for (unsigned int i = 1; atomic_load(&me->flag); i++) {
			if (i % 4096 == 0 && time(NULL) > until) {
				me->lost++;
				break;
			}
			sched_yield();
		}
	}
	return NULL;
}

static void test_many_wakers(void)
{
	struct crowd c = {.m = NEW_MACHINE(IRQCHIP, halt)};
	pthread_t vcpu, wakers[N_WAKERS];

	for (int i = 0; i < N_WAKERS; i++) {
		c.members[i].crowd = &c;
		c.members[i].random = seed * 7919 + i + 1;
		c.members[i].w = i == 0 ? by_user_exit(&c.m) : by_exitfd(&c.m);
	}
	MUST(-pthread_create(&vcpu, NULL, crowd_vcpu, &c));
	for (int i = 0; i < N_WAKERS; i++)
		MUST(-pthread_create(&wakers[i], NULL, crowd_waker, &c.members[i]));
	for (int i = 0; i < N_WAKERS; i++) {
		pthread_join(wakers[i], NULL);
		CHECK_EQ(c.members[i].lost, 0);
	}
	atomic_store(&c.stop, true);
	c.m.run->immediate_exit = 1;
	pthread_kill(vcpu, SIGUSR1);
	pthread_join(vcpu, NULL);
	printf("# %lu kicks of %d wakers: %llu KVM_EXIT_REQUEST\n", n_kicks / N_WAKERS * N_WAKERS,
	       N_WAKERS, (unsigned long long)c.requests);
	for (int i = 0; i < N_WAKERS; i++)
		free_waker(&c.members[i].w);
	free_machine(&c.m);
}

/* ---- closing ---- */

static void test_eventfd_closes_first(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	struct waker w = by_exitfd(&m), other = by_exitfd(&m);
	int copy = MUST(dup(w.fd));

	free_waker(&w);
	w.fd = copy;
	WAKE(&w); /* the file lives */
	CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
	WAKE(&w);
	free_waker(&w);
	CHECK_EQ(run(&m), KVM_EXIT_REQUEST); /* a kick outlives its exitfd */
	CHECK_EQ(run(&m), LEFT);
	WAKE(&other);
	CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
	free_waker(&other);
	free_machine(&m);
}

static void test_vcpu_closes_first(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	struct waker w = by_exitfd(&m);
	uint64_t value = 0;

	munmap(m.run, m.run_size);
	close(m.fd);
	WAKE(&w); /* the VM lives */
	close(m.vm_fd);
	munmap(m.memory, MEMORY);
	/* From here on it is an ordinary eventfd. */
	for (int i = 0; i < 3; i++)
		WAKE(&w);
	CHECK_EQ(read(w.fd, &value, 8), 8);
	CHECK_EQ(value, 3);
	free_waker(&w);
}

struct demolition {
	struct machine m;
	int fds[N_WAKERS];
	atomic_int next, ready;
	unsigned int round;
};

static void *demolish(void *arg)
{
	struct demolition *d = arg;
	int me = atomic_fetch_add(&d->next, 1);
	uint32_t random = (seed + d->round) * 2246822519u + me + 1;
	const uint64_t one = 1;

	/* A copy keeps the number ours: nobody writes to another's file by mistake. */
	int mine = me < N_WAKERS ? MUST(dup(d->fds[me])) : -1;

	atomic_fetch_add(&d->ready, 1);
	while (atomic_load(&d->ready) < N_WAKERS + 2)
		sched_yield();
	random_delay(&random);
	if (me < N_WAKERS) {
		for (uint32_t i = next_random(&random) % 8; i > 0; i--)
			if (write(mine, &one, sizeof(one)) != sizeof(one))
				FAIL("write: errno %d", errno);
		close(mine);
	} else if (me == N_WAKERS) {
		for (int i = 0; i < N_WAKERS; i++)
			close(d->fds[i]);
	} else {
		run(&d->m);
		random_delay(&random);
		free_machine(&d->m);
	}
	return NULL;
}

static unsigned int count_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static long slab_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SUnreclaim: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* Writers, a closer of the eventfds and one of the VM, all at once, in any order. */
static void test_closing_under_load(void)
{
	unsigned int fds = count_fds();
	long slab = 0;

	for (unsigned long round = 0; round < n_rounds; round++) {
		struct demolition d = {.m = NEW_MACHINE(NO_IRQCHIP, leave), .round = round};
		pthread_t threads[N_WAKERS + 2];

		for (int i = 0; i < N_WAKERS; i++)
			d.fds[i] = MUST(ioctl(d.m.fd, KVM_VCPU_MAKE_EXITFD, 0));
		for (int i = 0; i < N_WAKERS + 2; i++)
			MUST(-pthread_create(&threads[i], NULL, demolish, &d));
		for (int i = 0; i < N_WAKERS + 2; i++)
			pthread_join(threads[i], NULL);
		if (round == n_rounds / 10)
			slab = slab_kib();
	}
	CHECK_EQ(count_fds(), fds);
	printf("# %lu rounds, unreclaimable slab %+ld KiB since the first tenth\n", n_rounds,
	       slab_kib() - slab);
}

/*
 * With the default ROUNDS a leak of one allocation per exitfd would be 6 MiB and more. KASAN, which
 * keeps what is freed for a while, wants fewer rounds, and has kmemleak.
 */
static void test_no_leak(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	const unsigned long n = 100 * n_rounds;
	unsigned int fds = count_fds();
	struct rlimit limit, none;
	long before, after;

	for (unsigned long i = 0; i < n / 10; i++)
		close(MUST(ioctl(m.fd, KVM_VCPU_MAKE_EXITFD, 0)));
	sleep_ms(500);
	before = slab_kib();
	for (unsigned long i = 0; i < n; i++)
		close(MUST(ioctl(m.fd, KVM_VCPU_MAKE_EXITFD, 0)));
	/* When there is no descriptor left it is the file that is dropped. */
	MUST(getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 0;
	MUST(setrlimit(RLIMIT_NOFILE, &none));
	for (unsigned long i = 0; i < n; i++)
		if (ioctl(m.fd, KVM_VCPU_MAKE_EXITFD, 0) >= 0 || errno != EMFILE)
			FAIL("not EMFILE but %d", errno);
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	sleep_ms(500); /* RCU frees files late */
	after = slab_kib();
	CHECK_EQ(count_fds(), fds);
	CHECK(after - before < 3 * 1024);
	printf("# %lu made and closed, %lu refused: unreclaimable slab %+ld KiB\n", n, n,
	       after - before);
	free_machine(&m);
}

static void test_any_number(void)
{
	struct machine m = NEW_MACHINE(NO_IRQCHIP, leave);
	struct waker wakers[500];

	for (int i = 0; i < 500; i++)
		wakers[i] = by_exitfd(&m);
	for (int i = 0; i < 500; i++) {
		WAKE(&wakers[i]);
		CHECK_EQ(run(&m), KVM_EXIT_REQUEST);
		CHECK_EQ(run(&m), LEFT);
	}
	for (int i = 0; i < 500; i += 2)
		free_waker(&wakers[i]);
	free_machine(&m); /* with every other one open */
	for (int i = 1; i < 500; i += 2)
		free_waker(&wakers[i]);
}

/* ---- all of them ---- */

static const struct test tests[] = {
    {"capabilities", test_capabilities},
    {"argument", test_argument},
    {"exitfd_is_an_eventfd", test_exitfd_is_an_eventfd},
    {"not_running", test_not_running},
    {"running", test_running},
    {"halted", test_halted},
    {"completes_io_first", test_completes_io_first},
    {"immediate_exit", test_immediate_exit},
    {"signal_at_the_same_time", test_signal_at_the_same_time},
    {"refused_run", test_refused_run},
    {"needs_no_vcpu_mutex", test_needs_no_vcpu_mutex},
    {"other_process", test_other_process},
    {"kernel_signals_exitfd", test_kernel_signals_exitfd},
    {"eventfd_closes_first", test_eventfd_closes_first},
    {"vcpu_closes_first", test_vcpu_closes_first},
    {"any_number", test_any_number},
    {"no_leak", test_no_leak},
    {"closing_under_load", test_closing_under_load},
    {"many_wakers", test_many_wakers},
    {"random_kicks", test_random_kicks},
};

static bool is_chosen(const char *name, int n, char **names)
{
	for (int i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return n == 0;
}

static bool run_test(int number, const struct test *test)
{
	struct timespec from, to;

	n_failures = 0;
	clock_gettime(CLOCK_MONOTONIC, &from);
	test->function();
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%s %d - %s # %lld ms\n", n_failures ? "not ok" : "ok", number, test->name,
	       (to.tv_sec - from.tv_sec) * 1000LL + (to.tv_nsec - from.tv_nsec) / 1000000);
	return n_failures == 0;
}

int main(int argc, char **argv)
{
	const int n_arch_tests = sizeof(arch_tests) / sizeof(*arch_tests);
	const int n_tests = n_arch_tests + sizeof(tests) / sizeof(*tests);
	int option, failed = 0;

	while ((option = getopt(argc, argv, "k:r:s:")) != -1) {
		if (option == 'k')
			n_kicks = strtoul(optarg, NULL, 0);
		else if (option == 'r')
			n_rounds = strtoul(optarg, NULL, 0);
		else if (option == 's')
			seed = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
	kvm_fd = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	printf("TAP version 13\n1..%d\n", n_tests);
	for (int i = 0; i < n_tests; i++) {
		const struct test *test =
		    i < n_arch_tests ? &arch_tests[i] : &tests[i - n_arch_tests];

		if (is_chosen(test->name, argc - optind, argv + optind))
			failed += !run_test(i + 1, test);
		else
			printf("ok %d - %s # SKIP not chosen\n", i + 1, test->name);
	}
	printf("# %d failed\n", failed);
	return failed ? 1 : 0;
}
