/* Calls that name another process: signals, and what changes its limits and its share of the machine.
 *
 * Landlock keeps signals inside of the sandbox since ABI 6 (Linux 6.12); nothing does so for the
 * others. The target is a register, so a decision on it cannot be raced, except by a pid that is taken
 * by somebody else in between. Whoever descends from the supervisor may be named; nobody else.
 */
#include "helper.h"

#include <sys/resource.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#define NO_ZERO -1 /* there, 0 is not the caller alone */

static const struct call {
	int nr, target;
	bool signal;
} calls[] = {
	{SYS_kill, NO_ZERO, true},
	{SYS_tkill, NO_ZERO, true},
	{SYS_tgkill, NO_ZERO, true},
	{SYS_rt_sigqueueinfo, NO_ZERO, true},
	{SYS_rt_tgsigqueueinfo, NO_ZERO, true},
	{SYS_pidfd_send_signal, NO_ZERO, true},
	{SYS_prlimit64, 0, false},
	{SYS_setpriority, NO_ZERO, false},
	{SYS_ioprio_set, NO_ZERO, false},
	{SYS_sched_setaffinity, 0, false},
	{SYS_sched_setscheduler, 0, false},
	{SYS_sched_setparam, 0, false},
	{SYS_sched_setattr, 0, false},
};

static const struct call *call_of(int nr) {
	for (size_t i = 0; i < countof(calls); i++)
		if (calls[i].nr == nr)
			return &calls[i];
	return NULL;
}

bool processes_trap(const struct plan *plan, int nr) {
	const struct call *call = call_of(nr);
	return call && !(call->signal && plan->scoped & SCOPE_SIGNALS);
}

/* The argument that is 0 where the call is about its caller, or -1. */
int processes_target(int nr) {
	const struct call *call = call_of(nr);
	return call ? call->target : NO_ZERO;
}

static bool descends(pid_t pid) {
	for (int depth = 0; pid > 1 && depth < 4096; depth++) {
		struct task task;
		task_init(&task, -1, 0, pid);
		task_status(&task);
		if (task.ppid == getpid())
			return true;
		pid = task.ppid;
	}
	return false;
}

/* The process that a pidfd of the child's stands for, or 0. */
static pid_t of_pidfd(pid_t owner, int fd) {
	char path[64], text[512];
	pid_t pid = 0;
	snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", owner, fd);
	autoclose int info = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = info < 0 ? -1 : read(info, text, sizeof text - 1);
	text[n > 0 ? n : 0] = 0;
	char *at = strstr(text, "Pid:");
	if (at)
		sscanf(at + 4, "%d", &pid);
	return pid;
}

/* Who is meant: a process, the negative of a group's leader, or -1 for more than that. */
static pid_t target_of(struct task *task, const struct seccomp_data *data) {
	pid_t first = (pid_t)data->args[0], second = (pid_t)data->args[1];
	bool process = true;
	switch (data->nr) {
	case SYS_pidfd_send_signal:
		return of_pidfd(task->pid, first);
	case SYS_setpriority:
		process = first == PRIO_PROCESS;
		break;
	case SYS_ioprio_set:
		process = first == 1; /* IOPRIO_WHO_PROCESS */
		break;
	case SYS_kill:
		return first ? first : -getpgid(task->pid);
	default:
		return first;
	}
	return !process ? -1 : second ? second : task->pid;
}

void processes_handle(struct task *task, const struct seccomp_notif *req) {
	pid_t target = target_of(task, &req->data), named = target < 0 ? -target : target;
	if (target != -1 && named > 1 && (named == task->pid || descends(named))) {
		notify_continue(task->listener, task->id);
		return;
	}
	char resource[64];
	struct verdict verdict = {.rule = RULE_SANDBOX, .audit = RULE_NONE};
	snprintf(resource, sizeof resource, "%s pid=%d", syscall_name(req->data.nr), target);
	notify_report(task, &verdict, "Syscall", resource, "target=outside");
	notify_reply(task->listener, task->id, EPERM, 0);
}
