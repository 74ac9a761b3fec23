// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel notes of one process with vCPUs, for kickbench observe.
 *
 * The programs hang on raw tracepoints, and find the fields of the kernel's structs by BTF (CO-RE).
 * So this one object runs on any kernel with BTF since 5.15, and needs no compiler, kprobe or
 * tracefs. They count and fill histograms in memory that the observer maps: an exit makes no event.
 * Only a kick does.
 *
 * kvm:kvm_exit is left alone, because some kinds of KVM never fire it. All of them pass
 * kvm:kvm_userspace_exit, at the end of KVM_RUN in kvm_vcpu_ioctl() (virt/kvm/kvm_main.c).
 *
 * One thread writes a vCPU's counts, that which runs it; so they are plain additions. The kick is
 * written by the sender first, and then by the vCPU's thread.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "watch.h"

char LICENSE[] SEC("license") = "GPL";

#define EINTR		  4
#define KVM_EXIT_IO	  2
#define KVM_EXIT_MMIO	  6
#define KVM_RUN_REASON	  32 /* offset of the union in struct kvm_run (linux/kvm.h) */
#define KVM_RUN_IMMEDIATE 1  /* offset of immediate_exit */
#define SI_TIMER	  -2
#define JOBCTL_PENDING	  (1UL << 17 | 1UL << 19) /* to stop, to trap (linux/sched/jobctl.h) */
#define SIGNAL_PENDING	  2 /* TRACE_SIGNAL_ALREADY_PENDING (trace/events/signal.h) */
#define UNKNOWN		  0xffffffff

/* The fields that are read. libbpf puts in the offsets of the running kernel. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct file {
	void *private_data;
};
struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};
struct preempt_notifier {
	struct hlist_node link;
};
struct spinlock {};
struct sighand_struct {
	struct spinlock siglock;
};
struct upid {
	int nr;
};
struct pid {
	struct upid numbers[1];
};
typedef struct {
	unsigned long sig[1];
} sigset_t;
struct sigpending {
	sigset_t signal;
};
struct signal_struct {
	struct sigpending shared_pending;
};
struct task_struct {
	int pid, tgid;
	unsigned long jobctl;
	struct signal_struct *signal;
	struct sigpending pending;
	unsigned int __state;
	int on_cpu;
	struct hlist_head preempt_notifiers;
	struct sighand_struct *sighand;
};
struct kernel_siginfo {
	int si_code;
};
struct k_sigaction {
	struct {
		void *sa_handler;
	} sa;
};
struct kvm_vcpu_stat_generic {
	__u64 halt_successful_poll, halt_attempted_poll;
	__u64 halt_poll_success_ns, halt_poll_fail_ns, halt_wait_ns;
	__u64 blocking;
};
struct kvm_vcpu_stat {
	struct kvm_vcpu_stat_generic generic;
	__u64 exits;
};
struct kvm_vcpu {
	int vcpu_id;
	int sigset_active;
	struct {
		unsigned long sig[1];
	} sigset;
	void *run;
	struct pid *pid;
	struct preempt_notifier preempt_notifier;
	struct kvm_vcpu_stat stat;
};
struct bpf_iter_meta {
	void *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long orig_ax;
};
#define CALL(regs)	((regs)->orig_ax)
#define NR_RT_SIGRETURN 15
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	int syscallno;
};
#define CALL(regs)	((regs)->syscallno)
#define NR_RT_SIGRETURN 139
#endif
#pragma clang attribute pop

const volatile int watched_process = 0; /* set by the observer before loading */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kb_totals);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KB_MAX_VCPUS); /* the observer makes it smaller */
	__type(key, __u32);
	__type(value, struct kb_vcpu);
} vcpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KB_MAX_WAYS);
	__type(key, __u32);
	__type(value, struct kb_way_count);
} ways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KB_MAX_WAYS);
	__type(key, struct kb_way);
	__type(value, __u32);
} way_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KB_MAX_VCPUS);
	__type(key, __u64); /* address of the struct kvm_vcpu */
	__type(value, __u32);
} slots SEC(".maps");

/* File descriptors of vCPUs, and the threads that ran them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KB_MAX_VCPUS);
	__type(key, __u32);
	__type(value, __u32);
} vcpu_files SEC(".maps"), vcpu_threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KB_MAX_SENDERS);
	__type(key, struct kb_sender);
	__type(value, struct kb_sender_count);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the observer makes it larger */
} kicks SEC(".maps");

/* Of a thread of the process. */
struct thread {
	__u32 slot;	/* of its vCPU, + 1; 0: it never ran one */
	__u32 handling; /* it is in the handler of a kick */
	__u64 kvm_vcpu;
	__u64 run;	  /* kernel address of the kvm_run page */
	__u64 entered_ns; /* 0: unknown */
	__u64 left_ns;	  /* 0: unknown */
	__u32 way;	  /* index of the last exit's way, + 1; 0: none */
	int id;		  /* the vCPU's number */
	__u64 early_ns;	  /* when KVM_RUN returned for a signal that `sent` did not see yet */
	__u64 n_before;	  /* signals to it alone before it was known to run a vCPU */
	__u64 before;	  /* of these, those that were still pending then: bit 0 is signal 1 */
	__u64 waits_ns;	  /* since when it waits for siglock; 0: it does not */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

static __always_inline struct kb_totals *all(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&totals, &first);
}

/* The totals while watching a thread of the watched process; else NULL. */
static __always_inline struct kb_totals *watched(struct task_struct *task)
{
	struct kb_totals *total;

	if (task->tgid != watched_process)
		return NULL;
	total = all();
	return total && total->watching ? total : NULL;
}

static __always_inline struct thread *thread_of(struct task_struct *task, __u64 flags)
{
	return bpf_task_storage_get(&threads, (void *)task, 0, flags);
}

static __always_inline struct kb_vcpu *vcpu_of(struct thread *thread)
{
	__u32 slot = thread->slot - 1;

	return bpf_map_lookup_elem(&vcpus, &slot);
}

/* Not __builtin_clzll(): clang 14 never ends to compile it for BPF. */
static __always_inline __u32 log2_of(__u64 n)
{
	__u32 log = 0;

#pragma unroll
	for (int bits = 32; bits; bits /= 2) {
		if (n >> bits) {
			log += bits;
			n >>= bits;
		}
	}
	return log;
}

static __always_inline void count(__u64 *histogram, __u64 ns)
{
	__u64 log = log2_of(ns), bin = ns;

	if (log >= KB_SUB_BITS)
		bin = ((log - KB_SUB_BITS) << KB_SUB_BITS) + (ns >> (log - KB_SUB_BITS));
	barrier_var(bin); /* the verifier must see the comparison on what is the index */
	if (bin >= KB_BINS)
		bin = KB_BINS - 1;
	histogram[bin]++;
}

/* The slot of a vCPU: its own, or a new one. UNKNOWN: there is no room. */
static __always_inline __u32 slot_of(struct kb_totals *total, struct kvm_vcpu *kvm_vcpu)
{
	__u64 key = (__u64)kvm_vcpu;
	__u32 *known = bpf_map_lookup_elem(&slots, &key), slot;
	__u32 id = BPF_CORE_READ(kvm_vcpu, vcpu_id);
	struct kb_vcpu *vcpu = known ? bpf_map_lookup_elem(&vcpus, known) : NULL;

	/* One that was closed may have had the address, with the same number or another. */
	if (known && (!vcpu || vcpu->id == id))
		return *known;
	slot = __sync_fetch_and_add(&total->n_vcpus, 1);
	vcpu = bpf_map_lookup_elem(&vcpus, &slot);
	if (!vcpu || bpf_map_update_elem(&slots, &key, &slot, BPF_ANY)) {
		__sync_fetch_and_add(&total->lost_vcpus, 1);
		return UNKNOWN;
	}
	vcpu->kvm_vcpu = key;
	vcpu->id = id;
	return slot;
}

/* The task turns out to be the thread of a vCPU. */
static __always_inline void runs(struct task_struct *task, struct thread *thread,
				 struct kvm_vcpu *kvm_vcpu, __u32 slot)
{
	struct kb_vcpu *vcpu = bpf_map_lookup_elem(&vcpus, &slot);
	__u64 n = vcpu ? __sync_lock_test_and_set(&thread->n_before, 0) : 0;

	if (n) {
		__sync_fetch_and_add(&vcpu->kicks_before, n);
		thread->before = task->pending.signal.sig[0];
	}
	thread->slot = slot + 1;
	thread->kvm_vcpu = (__u64)kvm_vcpu;
	thread->run = (__u64)BPF_CORE_READ(kvm_vcpu, run);
	thread->id = BPF_CORE_READ(kvm_vcpu, vcpu_id);
	thread->left_ns = 0;
	thread->way = 0;
}

/* --- when watching begins, and when vCPUs come later ----------------------------------------- */

/* Notes the thread that ran the vCPU, if it has run and none is known yet. */
static __always_inline void find_thread(struct kb_vcpu *vcpu, __u32 slot)
{
	struct kvm_vcpu *kvm_vcpu = (struct kvm_vcpu *)vcpu->kvm_vcpu;
	__u32 thread = BPF_CORE_READ(kvm_vcpu, pid, numbers[0].nr);

	if (!thread || vcpu->thread)
		return;
	vcpu->thread = thread;
	bpf_map_update_elem(&vcpu_threads, &thread, &slot, BPF_ANY);
}

/* Gives each vCPU among the process's open files its slot, and notes the thread that ran it. */
SEC("iter/task_file")
int find_vcpus(struct bpf_iter__task_file *at)
{
	struct task_struct *task = at->task;
	struct file *file = at->file;
	__u32 fd = at->fd, slot;
	struct kvm_vcpu *kvm_vcpu;
	struct kb_totals *total = all();
	struct kb_vcpu *vcpu;

	if (!task || !file || !total || task->tgid != watched_process)
		return 0;
	if (!bpf_map_lookup_elem(&vcpu_files, &fd))
		return 0;
	kvm_vcpu = file->private_data;
	slot = slot_of(total, kvm_vcpu);
	vcpu = bpf_map_lookup_elem(&vcpus, &slot);
	if (vcpu)
		find_thread(vcpu, slot);
	return 0;
}

/* Remembers for each of these threads which vCPU it runs: it may be in KVM_RUN for long. */
SEC("iter/task")
int find_threads(struct bpf_iter__task *at)
{
	struct task_struct *task = at->task;
	struct thread *thread;
	struct kb_vcpu *vcpu;
	__u32 id, *slot;

	if (!task || task->tgid != watched_process)
		return 0;
	id = task->pid;
	slot = bpf_map_lookup_elem(&vcpu_threads, &id);
	vcpu = slot ? bpf_map_lookup_elem(&vcpus, slot) : NULL;
	thread = vcpu ? thread_of(task, BPF_LOCAL_STORAGE_GET_F_CREATE) : NULL;
	if (thread && slot && !thread->slot)
		runs(task, thread, (struct kvm_vcpu *)vcpu->kvm_vcpu, *slot);
	return 0;
}

/* Reads what KVM counts of a vCPU itself, its signal mask, and its thread if that was not known.
 * The observer calls it; the vCPU does not notice. */
SEC("syscall")
int read_counts(__u32 *slot)
{
	struct kb_vcpu *vcpu;
	struct kvm_vcpu *from;
	struct kb_kvm_counts *to;
	__u32 key = *slot;

	vcpu = bpf_map_lookup_elem(&vcpus, &key);
	if (!vcpu || !vcpu->kvm_vcpu)
		return 1;
	from = (struct kvm_vcpu *)vcpu->kvm_vcpu;
	to = &vcpu->kvm;
	find_thread(vcpu, key);
	vcpu->has_mask = BPF_CORE_READ(from, sigset_active);
	vcpu->mask = BPF_CORE_READ(from, sigset.sig[0]);
	if (bpf_core_field_exists(from->stat.exits))
		to->exits = BPF_CORE_READ(from, stat.exits);
	if (bpf_core_field_exists(from->stat.generic.halt_wait_ns)) {
		to->halt_wait_ns = BPF_CORE_READ(from, stat.generic.halt_wait_ns);
		to->halt_polls = BPF_CORE_READ(from, stat.generic.halt_attempted_poll);
		to->halt_polls_good = BPF_CORE_READ(from, stat.generic.halt_successful_poll);
		to->halt_poll_ns = BPF_CORE_READ(from, stat.generic.halt_poll_success_ns) +
				   BPF_CORE_READ(from, stat.generic.halt_poll_fail_ns);
	}
	return 0;
}

/* --- kicks ----------------------------------------------------------------------------------- */

/* Hands an answered kick to the observer, and makes room for the next one. */
static __always_inline void answer(struct kb_totals *total, struct kb_vcpu *vcpu)
{
	struct kb_kick_counts *counts = &vcpu->kicks;
	__u64 sent_ns = vcpu->kick.sent_ns, left_ns = vcpu->kick.left_ns;

	counts->by_state[vcpu->kick.state & 3]++;
	counts->more += vcpu->kick.more;
	if (vcpu->kick.handled_ns)
		counts->handled++;
	if (left_ns) {
		counts->left++;
		if (left_ns > sent_ns && left_ns - sent_ns > counts->longest_ns)
			counts->longest_ns = left_ns - sent_ns;
	}
	if (bpf_ringbuf_output(&kicks, &vcpu->kick, sizeof(vcpu->kick), 0))
		__sync_fetch_and_add(&total->lost_kicks, 1);
	vcpu->kick.left_ns = 0;
	vcpu->kick.handled_ns = 0;
	vcpu->kick.more = 0;
	vcpu->kick.sent_ns = 0;
}

static __always_inline __u8 is_immediate(struct thread *thread)
{
	__u8 immediate = 0;

	bpf_probe_read_kernel(&immediate, 1, (void *)thread->run + KVM_RUN_IMMEDIATE);
	return immediate == 1;
}

static __always_inline void note_sender(struct kb_totals *total, struct task_struct *from,
					int signal, int code, int to_process, int result)
{
	struct kb_sender sender = {.signal = signal, .code = code, .to_process = to_process};
	struct kb_sender_count *known, first = {};

	sender.system_call = -1;
	/* A signal from a timer or the kernel has nothing to do with the thread that it interrupts.
	 */
	if (code <= 0 && code != SI_TIMER) {
		sender.thread = from->pid;
		sender.process = from->tgid;
		sender.system_call = CALL((struct pt_regs *)bpf_task_pt_regs((void *)from));
	}
	known = bpf_map_lookup_elem(&senders, &sender);
	if (!known) {
		if (sender.thread)
			bpf_get_current_comm(first.comm, sizeof(first.comm));
		bpf_map_update_elem(&senders, &sender, &first, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&senders, &sender);
		if (!known) {
			__sync_fetch_and_add(&total->lost_senders, 1);
			return;
		}
	}
	__sync_fetch_and_add(&known->sent, 1);
	if (result == SIGNAL_PENDING)
		__sync_fetch_and_add(&known->pending, 1);
	else if (result)
		__sync_fetch_and_add(&known->failed, 1);
}

/*
 * What the vCPU does when the signal has been sent. KVM's notifier is in the task while KVM_RUN has
 * the vCPU loaded. A vCPU that was asleep has been woken by now, but KVM still counts it as
 * blocked.
 */
static __always_inline __u32 state_of(struct task_struct *task, struct thread *thread)
{
	struct kvm_vcpu *kvm_vcpu = (struct kvm_vcpu *)thread->kvm_vcpu;

	if (!task->preempt_notifiers.first)
		return KB_STATE_USERSPACE;
	if (task->on_cpu)
		return KB_STATE_RUNNING;
	if (task->__state || (bpf_core_field_exists(kvm_vcpu->stat.generic.blocking) &&
			      BPF_CORE_READ(kvm_vcpu, stat.generic.blocking)))
		return KB_STATE_HALTED;
	return KB_STATE_WAITING;
}

static __always_inline __u64 bit_of(int signal)
{
	return 1ULL << ((signal - 1) & 63);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(sent, int signal, struct kernel_siginfo *info, struct task_struct *task, int group,
	     int result)
{
	struct task_struct *from = bpf_get_current_task_btf();
	struct kb_totals *total = watched(task);
	struct thread *thread;
	struct kb_vcpu *vcpu;
	int code = 0;
	__u64 now;

	if (!total)
		return 0;
	thread = thread_of(task, group ? 0 : BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (thread && !thread->slot && !group)
		__sync_fetch_and_add(&thread->n_before, 1);
	vcpu = thread && thread->slot ? vcpu_of(thread) : NULL;
	if (!vcpu)
		return 0;
	if (!result)
		thread->before &= ~bit_of(signal);
	now = bpf_ktime_get_ns();
	/*
	 * SEND_SIG_NOINFO and SEND_SIG_PRIV are 0 and 1 (linux/sched/signal.h). That is why newer
	 * verifiers take info for a number, and do not let it be followed.
	 */
	if ((unsigned long)info > 1)
		code = BPF_CORE_READ(info, si_code);
	else if ((unsigned long)info == 1)
		code = 128; /* SI_KERNEL */
	note_sender(total, from, signal, code, group, result);
	if (group || (result && result != SIGNAL_PENDING))
		return 0;
	if (!__sync_bool_compare_and_swap(&vcpu->kick.sent_ns, 0, now)) {
		__sync_fetch_and_add(&vcpu->kick.more, 1);
		return 0;
	}
	vcpu->kick.vcpu = thread->slot - 1;
	vcpu->kick.sender = code <= 0 && code != SI_TIMER ? from->pid : 0;
	vcpu->kick.signal = signal;
	vcpu->kick.code = code;
	vcpu->kick.set_by_sender = is_immediate(thread);
	vcpu->kick.state = state_of(task, thread);
	/* The kernel wakes the thread first, and reports the signal then. */
	if (thread->early_ns) {
		vcpu->kick.reason = KB_REASON_ERROR + EINTR;
		vcpu->kick.set_at_exit = vcpu->kick.set_by_sender;
		vcpu->kick.state = KB_STATE_RUNNING;
		vcpu->kick.left_ns = now; /* so it took 0 ns */
		thread->early_ns = 0;
	}
	return 0;
}

SEC("tp_btf/signal_deliver")
int BPF_PROG(delivered, int signal, struct kernel_siginfo *info, struct k_sigaction *action)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = watched(task);
	struct thread *thread = total ? thread_of(task, 0) : NULL;
	struct kb_vcpu *vcpu = thread && thread->slot ? vcpu_of(thread) : NULL;

	if (!vcpu)
		return 0;
	if (thread->before & bit_of(signal)) {
		thread->before &= ~bit_of(signal);
		return 0;
	}
	if (!vcpu->kick.sent_ns || vcpu->kick.signal != signal) {
		vcpu->foreign_signals++;
		return 0;
	}
	/* SIG_DFL and SIG_IGN are 0 and 1. */
	if ((unsigned long)action->sa.sa_handler > 1) {
		vcpu->kick.handled_ns = bpf_ktime_get_ns();
		thread->handling = 1;
	}
	if (!vcpu->kick.left_ns)
		vcpu->kick.reason = UNKNOWN;
	answer(total, vcpu);
	return 0;
}

/*
 * A handler ends, by rt_sigreturn(2): what it left in kvm_run->immediate_exit tells the protocols
 * apart. This makes all system calls of the host slower, so it is attached for a short time only.
 */
SEC("tp_btf/sys_enter")
int BPF_PROG(handled, struct pt_regs *regs, long call)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = call == NR_RT_SIGRETURN ? watched(task) : NULL;
	struct thread *thread = total ? thread_of(task, 0) : NULL;
	struct kb_vcpu *vcpu = thread && thread->slot ? vcpu_of(thread) : NULL;

	if (!vcpu || !thread->handling)
		return 0;
	thread->handling = 0;
	total->handlers++;
	if (is_immediate(thread))
		total->handlers_set++;
	return 0;
}

/* --- exits ----------------------------------------------------------------------------------- */

/*
 * Finds the vCPU that the thread has just loaded, without the file descriptor of its ioctl: KVM
 * puts a notifier into the task, which is a part of the vCPU (vcpu_load() in virt/kvm/kvm_main.c).
 */
static __always_inline void find_vcpu(struct kb_totals *total, struct task_struct *task,
				      struct thread *thread)
{
	__u64 link = (__u64)task->preempt_notifiers.first;
	struct kvm_vcpu *kvm_vcpu;
	struct kb_vcpu *vcpu;
	__u64 run;
	__u32 slot;

	kvm_vcpu =
	    (struct kvm_vcpu *)(link - bpf_core_field_offset(struct kvm_vcpu, preempt_notifier) -
				bpf_core_field_offset(struct preempt_notifier, link));
	if (!link)
		return;
	/* A vCPU that was closed leaves its address to another one, and at times its page, too. */
	run = (__u64)BPF_CORE_READ(kvm_vcpu, run);
	if ((__u64)kvm_vcpu == thread->kvm_vcpu && run == thread->run &&
	    BPF_CORE_READ(kvm_vcpu, vcpu_id) == thread->id)
		return;
	slot = slot_of(total, kvm_vcpu);
	runs(task, thread, kvm_vcpu, slot);
	vcpu = bpf_map_lookup_elem(&vcpus, &slot);
	if (!vcpu)
		return;
	if (vcpu->thread && vcpu->thread != (__u32)task->pid)
		vcpu->changed_thread++;
	vcpu->thread = task->pid;
}

/*
 * KVM_RUN begins. A tracepoint of system calls would see it earlier, but makes each system call of
 * the whole host slower.
 * On x86 KVM loads the guest's FPU once per KVM_RUN. On arm64 this is the entry of the guest, and
 * the first one after KVM_RUN counts.
 */
#if defined(__TARGET_ARCH_x86)
#define IS_ENTRY(load) (load)
SEC("tp_btf/kvm_fpu")
#else
#define IS_ENTRY(pc) 1 /* the guest's program counter, which may be 0 */
SEC("tp_btf/kvm_entry")
#endif
int BPF_PROG(entered, unsigned long argument)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = IS_ENTRY(argument) ? watched(task) : NULL;
	struct thread *thread;
	struct kb_vcpu *vcpu;
	__u64 now;

	if (!total)
		return 0;
	thread = thread_of(task, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread) {
		__sync_fetch_and_add(&total->lost_threads, 1);
		return 0;
	}
	find_vcpu(total, task, thread);
	vcpu = vcpu_of(thread);
	if (!vcpu || thread->entered_ns)
		return 0;
	vcpu->entries++;
	now = bpf_ktime_get_ns();
	if (vcpu->kick.sent_ns && vcpu->kick.left_ns)
		answer(total, vcpu); /* the signal was eaten without a handler */
	if (thread->left_ns) {
		__u32 index = thread->way - 1;
		struct kb_way_count *way = bpf_map_lookup_elem(&ways, &index);

		count(vcpu->userspace_ns, now - thread->left_ns);
		if (way) {
			way->userspace_ns += now - thread->left_ns;
			way->handled++;
		}
	}
	thread->entered_ns = now;
	return 0;
}

/* What the guest accessed, by its kvm_run page (linux/kvm.h). */
union access {
	struct {
		__u8 direction, size;
		__u16 port;
	} io;
	struct {
		__u64 address;
		__u8 data[8];
		__u32 size;
		__u8 is_write;
	} mmio;
};

static __always_inline void read_access(struct thread *thread, struct kb_way *way)
{
	void *from = (void *)thread->run + KVM_RUN_REASON;
	union access access;

	if (way->reason == KVM_EXIT_IO &&
	    !bpf_probe_read_kernel(&access.io, sizeof(access.io), from)) {
		way->write = access.io.direction;
		way->size = access.io.size;
		way->address = access.io.port;
	}
	if (way->reason == KVM_EXIT_MMIO &&
	    !bpf_probe_read_kernel(&access.mmio, sizeof(access.mmio), from)) {
		way->write = access.mmio.is_write;
		way->size = access.mmio.size;
		way->address = access.mmio.address;
	}
}

/* The index of a way, + 1: its own or a new one. 0: there is no room. */
static __always_inline __u32 index_of(struct kb_totals *total, struct kb_way *way)
{
	__u32 *known = bpf_map_lookup_elem(&way_index, way), index;
	struct kb_way_count *entry;

	if (known)
		return *known + 1;
	index = __sync_fetch_and_add(&total->n_ways, 1);
	entry = bpf_map_lookup_elem(&ways, &index);
	if (!entry || bpf_map_update_elem(&way_index, way, &index, BPF_NOEXIST)) {
		__sync_fetch_and_add(&total->lost_ways, 1);
		return 0;
	}
	entry->way = *way;
	return index + 1;
}

static __always_inline void note_interrupted(struct task_struct *task, struct thread *thread,
					     struct kb_vcpu *vcpu, __u64 now)
{
	vcpu->eintr++;
	if (is_immediate(thread))
		vcpu->eintr_immediate++;
	else if (!vcpu->kick.sent_ns && task->pending.signal.sig[0] & ~thread->before)
		thread->early_ns = now;
	else if (!vcpu->kick.sent_ns && !task->pending.signal.sig[0] &&
		 !task->signal->shared_pending.signal.sig[0] && !(task->jobctl & JOBCTL_PENDING))
		vcpu->eintr_unasked++;
}

SEC("tp_btf/kvm_userspace_exit")
int BPF_PROG(left, __u32 reason, int error)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = watched(task);
	struct thread *thread = total ? thread_of(task, 0) : NULL;
	struct kb_vcpu *vcpu = thread && thread->slot ? vcpu_of(thread) : NULL;
	struct kb_way way = {};
	struct kb_way_count *entry;
	__u64 now;
	__u32 index;

	if (!vcpu)
		return 0;
	vcpu->exits++;
	if (!total->detail && error != -EINTR && !vcpu->kick.sent_ns) {
		/* The rest would be noticed by a guest that exits at full speed. */
		thread->left_ns = thread->entered_ns = 0;
		thread->way = 0;
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (vcpu->kick.sent_ns && vcpu->kick.left_ns)
		answer(total, vcpu); /* the signal was eaten without a handler, and KVM_RUN again */
	thread->early_ns = 0;
	if (error == -EINTR)
		note_interrupted(task, thread, vcpu, now);
	/* A kick that comes at this very moment finds the vCPU on its way out already. */
	if (vcpu->kick.sent_ns && vcpu->kick.sent_ns <= now && !vcpu->kick.left_ns) {
		vcpu->kick.left_ns = now;
		vcpu->kick.reason = error < 0 ? KB_REASON_ERROR - error : reason;
		vcpu->kick.set_at_exit = is_immediate(thread);
	}
	if (!total->detail) {
		thread->left_ns = thread->entered_ns = 0;
		thread->way = 0;
		return 0;
	}
	vcpu->looked_at++;
	way.vcpu = thread->slot - 1;
	way.reason = error < 0 ? KB_REASON_ERROR - error : reason;
	read_access(thread, &way);
	/* Most exits are for the same reason as the one before: then there is no need to search. */
	index = thread->way - 1;
	entry = bpf_map_lookup_elem(&ways, &index);
	if (!entry || entry->way.address != way.address || entry->way.reason != way.reason ||
	    entry->way.size != way.size || entry->way.write != way.write) {
		thread->way = index_of(total, &way);
		index = thread->way - 1;
		entry = bpf_map_lookup_elem(&ways, &index);
	}
	if (entry) {
		entry->exits++;
		if (thread->entered_ns) {
			entry->in_run_ns += now - thread->entered_ns;
			entry->timed++;
		}
	}
	if (thread->entered_ns)
		count(vcpu->in_run_ns, now - thread->entered_ns);
	if (thread->left_ns)
		count(vcpu->gap_ns, now - thread->left_ns);
	thread->left_ns = now;
	thread->entered_ns = 0;
	return 0;
}

/* --- siglock --------------------------------------------------------------------------------- */

SEC("tp_btf/contention_begin")
int BPF_PROG(waits, void *lock, unsigned int flags)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = watched(task);
	struct thread *thread;

	if (!total || lock != (void *)&task->sighand->siglock)
		return 0;
	thread = thread_of(task, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (thread)
		thread->waits_ns = bpf_ktime_get_ns();
	else
		__sync_fetch_and_add(&total->lost_threads, 1);
	return 0;
}

SEC("tp_btf/contention_end")
int BPF_PROG(waited, void *lock, int error)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct kb_totals *total = watched(task);
	struct thread *thread = total ? thread_of(task, 0) : NULL;

	if (!thread || !thread->waits_ns || lock != (void *)&task->sighand->siglock)
		return 0;
	__sync_fetch_and_add(&total->siglock_waits, 1);
	__sync_fetch_and_add(&total->siglock_wait_ns, bpf_ktime_get_ns() - thread->waits_ns);
	if (thread->slot)
		__sync_fetch_and_add(&total->siglock_vcpu_waits, 1);
	thread->waits_ns = 0;
	return 0;
}
