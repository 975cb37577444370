/* Signals, before Landlock can keep them inside of the sandbox (ABI 6, Linux 6.12).
 *
 * The target is a register, so a decision on it cannot be raced, except by a pid that is taken by
 * somebody else in between. Whoever descends from the supervisor may be signalled; nobody else.
 */
#include "helper.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

static const int calls[] = {SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo,
			    SYS_rt_tgsigqueueinfo, SYS_pidfd_send_signal};

bool signals_trap(const struct plan *plan, int nr) {
	if (plan->scoped & SCOPE_SIGNALS)
		return false;
	for (size_t i = 0; i < countof(calls); i++)
		if (calls[i] == nr)
			return true;
	return false;
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

void signals_handle(const struct plan *plan, struct task *task, const struct seccomp_notif *req) {
	pid_t target = (pid_t)req->data.args[0];
	if (req->data.nr == SYS_pidfd_send_signal)
		target = of_pidfd(task->pid, (int)target);
	else if (target == 0)
		target = -getpgid(task->pid);
	/* A group is the sandbox's if its leader is; -1 would be everybody. */
	pid_t named = target < 0 ? -target : target;
	if (target != -1 && named > 1 && (named == task->pid || descends(named))) {
		notify_continue(task->listener, task->id);
		return;
	}
	char resource[64];
	struct verdict verdict = {.rule = RULE_SANDBOX, .audit = RULE_NONE};
	snprintf(resource, sizeof resource, "%s pid=%d", syscall_name(req->data.nr), target);
	notify_report(plan, task, &verdict, "Syscall", resource, "signal=outside");
	notify_reply(task->listener, task->id, EPERM, 0);
}
