/* One notification after another: what was called, what the policy says, what is answered.
 *
 * A call that the kernel tier covers is let through after it was looked at (the kernel refuses what
 * the table refuses, whatever the child's memory holds by then). Where only the table knows, the call
 * is made here, on the object that was decided on, and the child is given the result.
 */
#include "helper.h"

#include <elf.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <time.h>
#include <utime.h>

static pid_t first_child;
static bool started;

void notify_init(pid_t child) {
	first_child = child;
}

static void respond(int listener, const struct seccomp_notif_resp *resp) {
	/* ENOENT: the caller died meanwhile, and nobody waits. */
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, resp) < 0 && errno != ENOENT)
		report_state("{\"event\":\"fault\",\"call\":\"SECCOMP_IOCTL_NOTIF_SEND\",\"errno\":%d}", errno);
}

void notify_reply(int listener, uint64_t id, int error, int64_t value) {
	respond(listener, &(struct seccomp_notif_resp){.id = id, .error = -error, .val = value});
}

void notify_continue(int listener, uint64_t id) {
	respond(listener, &(struct seccomp_notif_resp){
				  .id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE});
}

static void give_fd(struct task *task, int fd, int flags) {
	struct seccomp_notif_addfd add = {.id = task->id,
					  .flags = SECCOMP_ADDFD_FLAG_SEND,
					  .srcfd = (uint32_t)fd,
					  .newfd_flags = (uint32_t)(flags & O_CLOEXEC)};
	if (ioctl(task->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0 && errno != ENOENT) {
		if (errno == EMFILE)
			resource_files_reached();
		notify_reply(task->listener, task->id, errno, 0);
	}
}

/* ---- judging and reporting ----------------------------------------------------------------- */

/* A preset that applies: refuses, or is to be reported if nothing else is. */
static bool preset_refuses(const struct plan *plan, enum preset preset, struct verdict *verdict,
			   int *audit) {
	for (int i = 0; i < plan->n_presets; i++) {
		if (plan->presets[i].preset != preset)
			continue;
		if (plan->presets[i].action != ACTION_AUDIT) {
			*verdict = (struct verdict){.rule = plan->presets[i].id, .audit = RULE_NONE};
			return true;
		}
		*audit = plan->presets[i].id;
	}
	return false;
}

static bool fileless(const char *path) {
	return strncmp(path, "/memfd:", 7) == 0 || strncmp(path, "/dev/shm/", 9) == 0 ||
	       strncmp(path, "/run/shm/", 9) == 0;
}

/* The path under which a Block rule names this very file, if that is not the one that was used. */
static const char *other_name(const struct plan *plan, const char *path, const struct stat *st) {
	if (!st || !S_ISREG(st->st_mode) || st->st_nlink < 2)
		return NULL;
	for (int i = 0; i < plan->n_named; i++)
		if (plan->named[i].ino == st->st_ino && plan->named[i].dev == st->st_dev &&
		    strcmp(plan->named[i].path, path) != 0)
			return plan->named[i].path;
	return NULL;
}

/* What is the machine's, not the workload's: changing the kernel's settings and other processes', and
 * devices that reach hardware or the kernel. A rule that allows one by name comes before this. */
static bool belongs_to_machine(const char *path, enum kind kind, bool of_another,
			       const struct stat *st) {
	bool changes = kind != OP_READ && kind != OP_LIST;
	static const char *const settings[] = {"/proc/sys/", "/proc/irq/", "/proc/sysrq-trigger", "/sys/",
					       "/proc/mtrr", "/proc/acpi/", "/proc/bus/"};
	for (size_t i = 0; changes && i < countof(settings); i++)
		if (!strncmp(path, settings[i], strlen(settings[i])))
			return true;
	if (changes && of_another)
		return true;
	if (kind != OP_READ && kind != OP_WRITE)
		return false;
	if (!st || (!S_ISCHR(st->st_mode) && !S_ISBLK(st->st_mode)))
		return false;
	unsigned major = major(st->st_rdev), minor = minor(st->st_rdev);
	switch (S_ISBLK(st->st_mode) ? 0 : major) { /* Documentation/admin-guide/devices.txt */
	case 0:					   /* disks */
	case 7:					   /* consoles' screens */
	case 10:				   /* kvm, fuse, tun, userfaultfd, uinput, loop-control … */
	case 13:				   /* keyboards and mice */
	case 21:				   /* SCSI, raw */
	case 29:				   /* frame buffers */
	case 202:				   /* model-specific registers */
	case 203:
		return true;
	case 1: /* null, zero, full, random, urandom are harmless; mem, kmem, port, kmsg are not */
		return minor != 3 && minor != 5 && minor != 7 && minor != 8 && minor != 9;
	case 4: /* virtual consoles and serial lines */
		return true;
	default:
		return false;
	}
}

/* The policy's verdict on one operation of a task on a resolved path. */
struct verdict notify_judge(const struct plan *plan, struct task *task, enum kind kind,
			    const char *path, int inode_fd) {
	struct operation op = {.kind = kind, .path = path, .source = task_exe,
			       .parent = task_parent_exe, .owner = task_owner, .tty = task_tty,
			       .args = task_args, .context = task};
	const char *rest;
	pid_t foreign = path_proc_pid(path, &rest);
	struct stat st;
	const struct stat *object = task->opened;
	if (path_is_protected(path))
		return (struct verdict){.rule = RULE_SANDBOX, .audit = RULE_NONE};
	struct verdict verdict;
	int audit = RULE_NONE;
	bool opening = kind == OP_READ || kind == OP_WRITE || kind == OP_CREATE || kind == OP_LIST;
	task->inode_fd = inode_fd;
	if (plan->n_presets && kind == OP_EXEC && fileless(path) &&
	    preset_refuses(plan, PRESET_FILELESS, &verdict, &audit))
		return verdict;
	if (plan->n_presets && opening && foreign) {
		if (foreign != task->pid && foreign != task_tgid(task) &&
		    (preset_refuses(plan, PRESET_PROTECT_PROC, &verdict, &audit) ||
		     (!strcmp(rest, "/environ") &&
		      preset_refuses(plan, PRESET_PROTECT_ENV, &verdict, &audit))))
			return verdict;
	}
	verdict = plan_decide(plan, &op);
	bool unruled = verdict.rule == RULE_NONE && kind != OP_EXEC;
	if (verdict.allow && !object && inode_fd >= 0 && (unruled || plan->n_named))
		object = fstat(inode_fd, &st) == 0 ? &st : NULL;
	if (verdict.allow && plan->n_named && (op.path = other_name(plan, path, object)) != NULL) {
		struct verdict other = plan_decide(plan, &op);
		if (!other.allow)
			verdict = other;
	}
	if (verdict.allow && unruled &&
	    belongs_to_machine(path, kind, foreign && foreign != task_tgid(task), object))
		verdict = (struct verdict){.rule = RULE_SANDBOX, .audit = RULE_NONE};
	if (verdict.allow && verdict.audit == RULE_NONE)
		verdict.audit = audit;
	return verdict;
}

/* Reports what a verdict says should be seen: a refusal, a posture's audit or an Audit rule. */
void notify_report(struct task *task, const struct verdict *verdict,
		   const char *operation, const char *resource, const char *data) {
	struct event event = {.operation = operation, .resource = resource, .data = data};
	if (!verdict->allow) {
		event.blocked = true;
		event.rule = verdict->rule;
	} else if (verdict->audit != RULE_NONE) {
		event.rule = verdict->audit;
	} else if (verdict->posture) {
		event.rule = RULE_POSTURE;
	} else {
		return;
	}
	report_event(task, &event);
}

static bool visible(const struct verdict *verdict) {
	return !verdict->allow || verdict->posture || verdict->audit != RULE_NONE;
}

/* Judges, reports and, where refused, answers. Returns whether the caller may go on. */
static bool passes(const struct plan *plan, struct task *task, enum kind kind, const char *path,
		   int inode_fd, int nr) {
	struct verdict verdict = notify_judge(plan, task, kind, path, inode_fd);
	if (visible(&verdict)) {
		/* One call may be several operations (a rename is two), so the alert says which. */
		static const char *const accesses[] = {
			[OP_READ] = "read", [OP_LIST] = "list", [OP_WRITE] = "write",
			[OP_CREATE] = "create", [OP_DELETE] = "delete", [OP_METADATA] = "metadata"};
		char call[64], data[96];
		syscall_label(call, sizeof call, nr);
		snprintf(data, sizeof data, "%s access=%s", call, accesses[kind]);
		notify_report(task, &verdict, "File", path, data);
	}
	if (!verdict.allow)
		notify_reply(task->listener, task->id, EACCES, 0);
	return verdict.allow;
}

/* ---- open ---------------------------------------------------------------------------------- */

/* Opening a FIFO waits for its other end, and a file with a lease (fcntl(2), F_SETLEASE) for whoever
 * has that, which must not stop everybody else. Who is waited for may be ended: then so is this. */
static void woken(int signal) {
	(void)signal;
}

static _Noreturn void open_waiting(struct task *task, const char *link, int flags) {
	int fd;
	sigset_t alarms;
	struct itimerval often = {{0, 250000}, {0, 250000}};
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = woken}, NULL); /* interrupts open */
	sigprocmask(SIG_UNBLOCK, &alarms, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	while ((fd = open(link, flags | O_CLOEXEC)) < 0 && errno == EINTR)
		if (!task_alive(task))
			_exit(0);
	if (fd < 0)
		notify_reply(task->listener, task->id, errno, 0);
	else
		give_fd(task, fd, flags);
	_exit(0);
}

static void open_elsewhere(struct task *task, const char *link, int flags) {
	pid_t worker = fork();
	if (worker < 0)
		notify_reply(task->listener, task->id, EAGAIN, 0);
	else if (!worker)
		open_waiting(task, link, flags);
}

static void open_for(struct task *task, struct resolved *at, int flags, mode_t mode,
		     const struct stat *st) {
	char link[32];
	if (!task_assume(task)) {
		task_resume();
		notify_reply(task->listener, task->id, EACCES, 0);
		return;
	}
	autoclose int fd = -1;
	/* What is made anew may be somebody else's FIFO by now. Devices take the flag in their own way. */
	bool waits = (!st || S_ISREG(st->st_mode)) && !(flags & (O_NONBLOCK | O_PATH));
	int ours = O_CLOEXEC | O_NOCTTY | (waits ? O_NONBLOCK : 0);
	if (st) {
		snprintf(link, sizeof link, "/proc/self/fd/%d", at->fd);
		int again = flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW);
		bool fifo = S_ISFIFO(st->st_mode) && !(flags & (O_NONBLOCK | O_PATH));
		fd = fifo ? -1 : open(link, again | ours, mode);
		if (fifo || (fd < 0 && waits && errno == EWOULDBLOCK)) {
			open_elsewhere(task, link, again);
			task_resume();
			return;
		}
	} else {
		task_status(task);
		umask((mode_t)task->umask);
		fd = openat(at->parent, at->name, flags | O_NOFOLLOW | ours, mode);
	}
	int error = errno;
	if (fd >= 0 && waits)
		fcntl(fd, F_SETFL, flags);
	task_resume();
	if (fd < 0)
		notify_reply(task->listener, task->id, error, 0);
	else
		give_fd(task, fd, flags);
}

static void handle_open(const struct plan *plan, struct task *task, int dirfd, uint64_t address,
			int flags, mode_t mode, int nr) {
	char path[PATH_MAX];
	struct resolved at;
	struct stat st;
	bool temporary = (flags & O_TMPFILE) == O_TMPFILE, creating = flags & O_CREAT;
	bool writing = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) || creating;
	bool reading = (flags & O_ACCMODE) == O_RDONLY || (flags & O_ACCMODE) == O_RDWR;
	bool enforce = (writing && plan->modes[TRAP_WRITE] == MODE_ENFORCE) ||
		       (reading && plan->modes[TRAP_READ] == MODE_ENFORCE);
	int n = task_read_string(task->pid, address, path, sizeof path);
	if (n <= 0) { /* the kernel has the right error for an empty or unreadable path */
		notify_reply(task->listener, task->id, n < 0 ? -n : ENOENT, 0);
		return;
	}
	if (!enforce && (flags & O_PATH)) {
		notify_continue(task->listener, task->id);
		return;
	}
	bool exclusive = creating && (flags & O_EXCL);
	if (enforce && !task_assume(task)) {
		task_resume();
		notify_reply(task->listener, task->id, EACCES, 0);
		return;
	}
	path_resolve(task, dirfd, path,
		     (flags & O_NOFOLLOW) || exclusive ? RESOLVE_LINK : RESOLVE_FOLLOW, &at);
	task_resume();
	bool exists = at.fd >= 0 && fstat(at.fd, &st) == 0;
	task->opened = exists ? &st : NULL;
	int error = 0;
	if (exists && exclusive)
		error = EEXIST;
	else if (exists && S_ISLNK(st.st_mode) && !(flags & O_PATH))
		error = ELOOP;
	else if (!exists && !(creating && at.parent >= 0))
		error = at.error;
	if (error) {
		/* What a rule blocks is refused, and the attempt seen, also where it does not exist: whether
		 * it does is nobody's business. The posture alone would turn every search into an alarm. */
		struct verdict verdict = {.allow = true};
		if (error == ENOENT && at.path[0])
			verdict = notify_judge(plan, task, OP_READ, at.path, -1);
		if (!verdict.allow && !verdict.posture)
			passes(plan, task, OP_READ, at.path, -1, nr);
		else if (enforce)
			notify_reply(task->listener, task->id, error, 0);
		else
			notify_continue(task->listener, task->id);
	} else {
		bool good = true;
		if (temporary || !exists)
			good = passes(plan, task, OP_CREATE, at.path, at.fd, nr);
		else if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC))
			good = passes(plan, task, OP_WRITE, at.path, at.fd, nr);
		if (good && exists && reading && !temporary)
			good = passes(plan, task, S_ISDIR(st.st_mode) ? OP_LIST : OP_READ, at.path, at.fd,
				      nr);
		/* What is surely readable the child opens itself: whatever its memory or the directories hold
		 * by then, the kernel lets it read nothing that the policy might withhold. */
		if (good && enforce && (writing || !plan_surely_readable(plan, at.path)))
			open_for(task, &at, flags, mode, exists ? &st : NULL);
		else if (good)
			notify_continue(task->listener, task->id);
	}
	path_release(&at);
}

/* ---- exec ---------------------------------------------------------------------------------- */

/* An exec that was let through: the path in the child's memory may have changed since, so what really
 * runs is looked at afterwards. Used where no kernel rule holds the same line. */
static struct pending_exec {
	pid_t pid, thread;
	dev_t dev, before_dev;
	ino_t ino, before;
	struct timespec since;
} pending[256];
static int n_pending;
/* An exec that has not happened by then has failed: nobody is kept from running for that long. */
enum { EXEC_SECONDS = 30, LOOK_NS = 2000000, LATE_NS = 50000000 };

/* False if there is no room to remember one more; then it must not be let through. */
static bool expect_exec(struct task *task, const struct stat *st) {
	struct stat before = {0};
	char link[64];
	if (n_pending == (int)countof(pending))
		return false;
	snprintf(link, sizeof link, "/proc/%d/exe", task->pid);
	stat(link, &before);
	struct pending_exec *exec = &pending[n_pending++];
	*exec = (struct pending_exec){.pid = task_tgid(task), .thread = task->pid,
				      .dev = st->st_dev, .ino = st->st_ino,
				      .before = before.st_ino, .before_dev = before.st_dev};
	clock_gettime(CLOCK_MONOTONIC, &exec->since);
	return true;
}

/* Looks at what runs where an exec was let through, and ends it if the policy refuses that. False
 * while the exec has not happened. */
static bool exec_settled(const struct plan *plan, const struct pending_exec *exec) {
	struct stat st;
	char link[64];
	snprintf(link, sizeof link, "/proc/%d/exe", exec->pid);
	if (stat(link, &st) < 0)
		return true;
	/* First: a program that asks for itself again looks the same before its exec as after it. */
	if (st.st_ino == exec->before && st.st_dev == exec->before_dev)
		return false;
	if (st.st_ino == exec->ino && st.st_dev == exec->dev)
		return true;
	autoclose int fd = open(link, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return true;
	struct task task;
	task_init(&task, -1, 0, exec->pid);
	task.inode_fd = fd;
	struct operation op = {.kind = OP_EXEC, .path = task_exe(&task),
			       .parent = task_parent_exe, .owner = task_owner, .tty = task_tty,
			       .args = task_args, .context = &task};
	struct verdict verdict = plan_decide(plan, &op);
	if (!verdict.allow) {
		notify_report(&task, &verdict, "Process", task.exe,
			      "syscall=SYS_EXECVE ended=after-exec");
		kill(exec->pid, SIGKILL);
	}
	return true;
}

/* A thread that calls anything has its last exec behind it: what runs then is no surprise. Another
 * thread's may still be under way. */
static void settle_execs_of(const struct plan *plan, pid_t thread) {
	for (int i = 0; i < n_pending;) {
		if (pending[i].thread == thread) {
			exec_settled(plan, &pending[i]);
			pending[i] = pending[--n_pending];
		} else {
			i++;
		}
	}
}

/* Looks at the execs let through; returns the milliseconds until it wants to look again, -1 never. */
int notify_tick(const struct plan *plan) {
	static struct timespec looked;
	struct timespec now;
	bool fresh = false;
	if (!n_pending)
		return -1;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec == looked.tv_sec && now.tv_nsec / LOOK_NS == looked.tv_nsec / LOOK_NS)
		return LOOK_NS / 1000000;
	/* Those that are late have failed, most of the time. */
	bool seldom = now.tv_sec != looked.tv_sec || now.tv_nsec / LATE_NS != looked.tv_nsec / LATE_NS;
	looked = now;
	for (int i = 0; i < n_pending;) {
		time_t age = now.tv_sec - pending[i].since.tv_sec;
		bool late = age >= 2;
		if ((!late || seldom) && (exec_settled(plan, &pending[i]) || age > EXEC_SECONDS)) {
			pending[i] = pending[--n_pending];
		} else {
			fresh |= !late;
			i++;
		}
	}
	return !n_pending ? -1 : (fresh ? LOOK_NS : LATE_NS) / 1000000;
}

/* More than 64 KiB of them the kernel refuses (load_elf_phdrs, fs/binfmt_elf.c). */
enum { MAX_SEGMENTS = 65536 / sizeof(Elf64_Phdr) };

/* The dynamic loader that a program names (PT_INTERP), or an empty string. */
static void loader_of(int in, const char *head, ssize_t n, char *to) {
	Elf64_Ehdr elf;
	Elf64_Phdr segment;
	if (n < (ssize_t)sizeof elf)
		return;
	memcpy(&elf, head, sizeof elf);
	for (int i = 0; i < elf.e_phnum && i < MAX_SEGMENTS; i++) {
		uint64_t at = elf.e_phoff + (uint64_t)i * sizeof segment;
		if (at < (uint64_t)n && (uint64_t)n - at >= sizeof segment) /* usually read already */
			memcpy(&segment, head + at, sizeof segment);
		else if (pread(in, &segment, sizeof segment, (off_t)at) != sizeof segment)
			return;
		if (segment.p_type != PT_INTERP)
			continue;
		if (segment.p_filesz < 2 || segment.p_filesz > PATH_MAX)
			return; /* the kernel looks at the first one only, and refuses it then */
		ssize_t size = pread(in, to, segment.p_filesz, (off_t)segment.p_offset);
		to[size > 0 ? size - 1 : 0] = 0; /* the kernel demands that it ends so */
		return;
	}
}

/* What the kernel runs along with a file: a script's interpreter, or (``*loader``) a program's
 * loader; an empty string for neither. False where nobody can tell: the kernel also runs what its
 * mode lets nobody read, or what somebody has a lease on. */
static bool interpreter_of(int fd, char *to, bool *loader) {
	char link[32], head[1024];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	autoclose int in = open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	/* What the policy withholds nobody in here has written. */
	bool withheld = in < 0 && errno == EACCES && access(link, R_OK) == 0;
	ssize_t n = in < 0 ? 0 : read(in, head, sizeof head - 1);
	to[0] = 0;
	*loader = n > 4 && !memcmp(head, "\x7f" "ELF", 4);
	if (*loader)
		loader_of(in, head, n, to);
	if (n < 3 || head[0] != '#' || head[1] != '!')
		return n >= 0 && (in >= 0 || withheld);
	head[n < 255 ? n : 255] = 0; /* BINPRM_BUF_SIZE: more of the line is not looked at */
	char *name = head + 2 + strspn(head + 2, " \t");
	name[strcspn(name, " \t\n")] = 0;
	strcpy(to, name);
	return true;
}

static void handle_exec(const struct plan *plan, struct task *task, int dirfd, uint64_t address,
			uint64_t argv, int flags) {
	char path[PATH_MAX], script[PATH_MAX];
	struct resolved at = {.fd = -1, .parent = -1};
	struct stat st = {0}, runs = {0}; /* looked at; that the process will be, once it runs */
	bool first = !started && task->pid == first_child;
	int n = task_read_string(task->pid, address, path, sizeof path);
	if (n < 0 || (!n && !(flags & AT_EMPTY_PATH))) {
		notify_reply(task->listener, task->id, n < 0 ? -n : ENOENT, 0);
		return;
	}
	task->argv = argv;
	bool enforce = plan->modes[TRAP_EXEC] == MODE_ENFORCE, good = true, loader = false;
	int error = EACCES;
	/* The file, five interpreters (exec_binprm, fs/exec.c) and a loader. */
	for (int depth = 0; good && depth < 7; depth++) {
		path_resolve(task, dirfd, path,
			     flags & AT_SYMLINK_NOFOLLOW ? RESOLVE_LINK : RESOLVE_FOLLOW, &at);
		if (at.fd < 0 || fstat(at.fd, &st) < 0 || !S_ISREG(st.st_mode)) {
			/* Nothing to run; the kernel has the right error, but might find something by then. */
			error = at.fd >= 0 ? S_ISLNK(st.st_mode) ? ELOOP : EACCES : at.error ? at.error : ENOENT;
			good = !enforce || first;
			break;
		}
		if (!loader)
			runs = st;
		struct verdict verdict = notify_judge(plan, task, OP_EXEC, at.path, at.fd);
		/* The command that the caller named, and the loader that every program names, are not the
		 * posture's business; a Block rule's they are. */
		if ((first || loader) && verdict.posture)
			verdict = (struct verdict){.allow = true, .rule = RULE_NONE, .audit = RULE_NONE};
		if (visible(&verdict)) {
			/* Resource is the command line, as KubeArmor gives it. */
			char resource[PATH_MAX + 4200];
			size_t used = (size_t)snprintf(resource, sizeof resource, "%s", at.path);
			int count;
			const char *const *args = task_args(task, &count);
			for (int i = 0; i < count && used < sizeof resource; i++)
				used += (size_t)snprintf(resource + used, sizeof resource - used, " %s",
							 args[i]);
			notify_report(task, &verdict, "Process", resource, "syscall=SYS_EXECVE");
		}
		good = verdict.allow;
		if (loader)
			break;
		if (!interpreter_of(at.fd, script, &loader) && enforce && !first && good) {
			struct verdict unknown = {.rule = RULE_SANDBOX, .audit = RULE_NONE};
			notify_report(task, &unknown, "Process", at.path,
				      "syscall=SYS_EXECVE interpreter=unreadable");
			good = false;
		}
		path_release(&at);
		if (!script[0])
			break;
		strcpy(path, script);
		dirfd = AT_FDCWD;
	}
	path_release(&at);
	if (good && enforce && !first && !expect_exec(task, &runs)) {
		good = false;
		error = EAGAIN; /* as where a user has too many processes, execve(2) */
	}
	if (good) {
		started |= first;
		notify_continue(task->listener, task->id);
	} else {
		notify_reply(task->listener, task->id, error, 0);
	}
}

/* ---- calls that change files --------------------------------------------------------------- */

struct two {
	struct resolved old, new;
	char old_text[PATH_MAX], new_text[PATH_MAX];
};

/* Whether a rule names something below a directory, which moving the directory would take from it. */
static int rule_below(const struct plan *plan, const char *directory) {
	size_t length = strlen(directory);
	for (int i = 0; i < plan->n_rules; i++) {
		const struct rule *rule = &plan->rules[i];
		if (rule->class > CLASS_FILE || rule->action == ACTION_AUDIT || rule->baseline)
			continue;
		if (rule->match == MATCH_PATTERN ? rule->action == ACTION_BLOCK : true) {
			size_t fixed = rule->match == MATCH_PATTERN ? strcspn(rule->value, "*?[")
								    : rule->length;
			bool below = fixed > length + 1 && !strncmp(rule->value, directory, length) &&
				     rule->value[length] == '/';
			/* a pattern with a wild directory on the way may mean this one */
			bool may = rule->match == MATCH_PATTERN && fixed <= length + 1 &&
				   !strncmp(rule->value, directory, fixed) &&
				   strchr(rule->value + fixed, '/') != NULL;
			if (below || may)
				return rule->id;
		}
	}
	return RULE_NONE;
}

/* A new name for an old file must not be a way around what is said of the old name. */
static bool may_alias(const struct plan *plan, struct task *task, const struct resolved *old,
		      int object, const struct stat *st, int nr) {
	if (S_ISDIR(st->st_mode)) {
		int rule = rule_below(plan, old->path);
		if (rule == RULE_NONE)
			return true;
		struct verdict verdict = {.rule = rule, .audit = RULE_NONE};
		notify_report(task, &verdict, "File", old->path, "moves=ruled-directory");
		notify_reply(task->listener, task->id, EACCES, 0);
		return false;
	}
	if (!S_ISREG(st->st_mode))
		return true;
	/* By its rules only: that /dev/shm is no place to execute from stays true of the new name. */
	task->inode_fd = object;
	struct operation execution = {.kind = OP_EXEC, .path = old->path, .source = task_exe,
				      .parent = task_parent_exe, .owner = task_owner,
				      .tty = task_tty, .args = task_args, .context = task};
	struct verdict run = plan_decide(plan, &execution);
	if (!run.allow && !run.posture) {
		notify_report(task, &run, "File", old->path, "renames=blocked-executable");
		notify_reply(task->listener, task->id, EACCES, 0);
		return false;
	}
	if (nr == SYS_linkat) /* a hard link shares content: both ways of using it must be open */
		return passes(plan, task, OP_READ, old->path, object, nr) &&
		       passes(plan, task, OP_WRITE, old->path, object, nr);
	return true;
}

static bool judge_two(const struct plan *plan, struct task *task, struct two *two, int nr,
		      unsigned flags) {
	struct stat st;
	autoclose int object = openat(two->old.parent, two->old.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (object < 0 || fstat(object, &st) < 0) {
		notify_reply(task->listener, task->id, errno, 0);
		return false;
	}
	if (!may_alias(plan, task, &two->old, object, &st, nr))
		return false;
	if (nr == SYS_renameat2 && !passes(plan, task, OP_DELETE, two->old.path, object, nr))
		return false;
	autoclose int target = openat(two->new.parent, two->new.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (!passes(plan, task, OP_CREATE, two->new.path, target, nr))
		return false;
	if (nr == SYS_renameat2 && flags & 2) { /* RENAME_EXCHANGE: the other way round as well */
		if (target < 0 || fstat(target, &st) < 0) {
			notify_reply(task->listener, task->id, ENOENT, 0);
			return false;
		}
		return may_alias(plan, task, &two->new, target, &st, nr) &&
		       passes(plan, task, OP_DELETE, two->new.path, target, nr) &&
		       passes(plan, task, OP_CREATE, two->old.path, object, nr);
	}
	return true;
}

static void handle_two(const struct plan *plan, struct task *task, int nr, int old_fd, uint64_t old,
		       int new_fd, uint64_t new, int flags) {
	static struct two two;
	bool enforce = plan->modes[TRAP_WRITE] == MODE_ENFORCE;
	int a = task_read_string(task->pid, old, two.old_text, PATH_MAX);
	int b = task_read_string(task->pid, new, two.new_text, PATH_MAX);
	if (a < 0 || b < 0) {
		notify_reply(task->listener, task->id, a < 0 ? -a : -b, 0);
		return;
	}
	bool mine = !enforce || task_assume(task);
	bool follows = nr == SYS_linkat && flags & AT_SYMLINK_FOLLOW;
	bool by_fd = nr == SYS_linkat && flags & AT_EMPTY_PATH && !a;
	if (by_fd || follows) {
		/* The object is given by a descriptor or behind a link: name it where it really is. */
		struct resolved object;
		path_resolve(task, old_fd, two.old_text, RESOLVE_FOLLOW, &object);
		snprintf(two.old_text, PATH_MAX, "%s", object.path);
		if (object.fd < 0)
			snprintf(two.old_text, PATH_MAX, "/nonexistent");
		path_release(&object);
		flags &= ~(AT_EMPTY_PATH | AT_SYMLINK_FOLLOW);
	}
	path_resolve(task, old_fd, two.old_text, RESOLVE_PARENT, &two.old);
	path_resolve(task, new_fd, two.new_text, RESOLVE_PARENT, &two.new);
	task_resume();
	int error = !mine ? EACCES : two.old.error ? two.old.error : two.new.error;
	if (error) {
		notify_reply(task->listener, task->id, error, 0);
	} else if (judge_two(plan, task, &two, nr, (unsigned)flags)) {
		if (!enforce) {
			notify_continue(task->listener, task->id);
		} else if (task_alive(task)) {
			int failed = !task_assume(task) ? -1
				     : nr == SYS_linkat
					     ? linkat(two.old.parent, two.old.name, two.new.parent,
						      two.new.name, flags)
					     : (int)syscall(SYS_renameat2, two.old.parent, two.old.name,
							    two.new.parent, two.new.name, flags);
			error = errno;
			task_resume();
			notify_reply(task->listener, task->id, failed ? error : 0, 0);
		}
	}
	path_release(&two.old);
	path_release(&two.new);
}

/* mkdir, mknod, symlink, unlink, rmdir: one name in one directory. */
static void handle_name(const struct plan *plan, struct task *task, int nr, int dirfd,
			uint64_t address, uint64_t extra, mode_t mode, uint64_t device, int flags) {
	char path[PATH_MAX], target[PATH_MAX] = "";
	struct resolved at;
	bool enforce = plan->modes[TRAP_WRITE] == MODE_ENFORCE;
	int n = task_read_string(task->pid, address, path, sizeof path);
	if (n >= 0 && nr == SYS_symlinkat) {
		int m = task_read_string(task->pid, extra, target, sizeof target);
		n = m < 0 ? m : n;
	}
	if (n <= 0) {
		notify_reply(task->listener, task->id, n < 0 ? -n : ENOENT, 0);
		return;
	}
	bool mine = !enforce || task_assume(task);
	path_resolve(task, dirfd, path, RESOLVE_PARENT, &at);
	task_resume();
	autoclose int object =
		at.parent < 0 ? -1 : openat(at.parent, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int error = mine ? at.error : EACCES;
	bool creates = nr != SYS_unlinkat;
	if (!error && creates && object >= 0)
		error = EEXIST;
	if (!error && !creates && object < 0)
		error = ENOENT;
	if (error && !enforce) {
		notify_continue(task->listener, task->id);
	} else if (error) {
		notify_reply(task->listener, task->id, error, 0);
	} else if (passes(plan, task, creates ? OP_CREATE : OP_DELETE, at.path, object, nr)) {
		if (!enforce) {
			notify_continue(task->listener, task->id);
		} else if (task_alive(task)) {
			task_status(task);
			umask((mode_t)task->umask);
			int failed = -1;
			errno = EACCES;
			if (task_assume(task))
				failed = nr == SYS_mkdirat ? mkdirat(at.parent, at.name, mode)
					 : nr == SYS_mknodat ? mknodat(at.parent, at.name, mode, (dev_t)device)
					 : nr == SYS_symlinkat
						 ? symlinkat(target, at.parent, at.name)
						 : unlinkat(at.parent, at.name, flags & AT_REMOVEDIR);
			error = errno;
			task_resume();
			notify_reply(task->listener, task->id, failed ? error : 0, 0);
		}
	}
	path_release(&at);
}

/* ---- calls that change what is said of a file ---------------------------------------------- */

struct change {
	enum { CHANGE_MODE, CHANGE_OWNER, CHANGE_TIMES, CHANGE_SET_XATTR, CHANGE_REMOVE_XATTR,
	       CHANGE_LENGTH } what;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	bool now;
	struct timespec times[2];
	uint64_t name, value, size;
	int flags;
};

static int apply_change(const struct change *change, int fd, pid_t pid) {
	char link[32], name[256];
	static char value[65536];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	switch (change->what) {
	case CHANGE_MODE:
		return chmod(link, change->mode);
	case CHANGE_OWNER:
		return fchownat(fd, "", change->uid, change->gid, AT_EMPTY_PATH);
	case CHANGE_TIMES:
		return utimensat(AT_FDCWD, link, change->now ? NULL : change->times, 0);
	case CHANGE_LENGTH: {
		/* Not truncate(), which waits for whoever has a lease. */
		struct stat st;
		autoclose int file = -1;
		errno = EINVAL;
		if (fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
			file = open(link, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		return file < 0 ? -1 : ftruncate(file, (off_t)change->size);
	}
	default:
		break;
	}
	int n = task_read_string(pid, change->name, name, sizeof name);
	if (n < 0) {
		errno = n == -ENAMETOOLONG ? ERANGE : -n;
		return -1;
	}
	if (change->what == CHANGE_REMOVE_XATTR)
		return removexattr(link, name);
	if (change->size > sizeof value) {
		errno = E2BIG;
		return -1;
	}
	if (change->size && task_read(pid, change->value, value, change->size) != (ssize_t)change->size) {
		errno = EFAULT;
		return -1;
	}
	return setxattr(link, name, value, change->size, change->flags);
}

/* ``address`` 0 names the descriptor itself. These are always done here: Landlock does not know them. */
static void handle_change(const struct plan *plan, struct task *task, int nr, int dirfd,
			  uint64_t address, bool follow, const struct change *change) {
	char path[PATH_MAX] = "";
	struct resolved at = {.fd = -1, .parent = -1};
	bool writes = change->what == CHANGE_LENGTH;
	int n = address ? task_read_string(task->pid, address, path, sizeof path) : 0;
	if (n < 0) {
		notify_reply(task->listener, task->id, -n, 0);
		return;
	}
	bool mine = task_assume(task);
	if (!path[0] && dirfd == AT_FDCWD && !address)
		at.error = EFAULT;
	else if (!path[0] && address && dirfd == AT_FDCWD)
		at.error = ENOENT;
	else
		path_resolve(task, dirfd, path, follow ? RESOLVE_FOLLOW : RESOLVE_LINK, &at);
	task_resume();
	if (at.fd < 0 || !mine) {
		notify_reply(task->listener, task->id, mine ? at.error : EACCES, 0);
	} else if (passes(plan, task, writes ? OP_WRITE : OP_METADATA, at.path, at.fd, nr)) {
		if (writes && plan->modes[TRAP_WRITE] == MODE_REPORT) {
			notify_continue(task->listener, task->id);
		} else if (task_alive(task)) {
			errno = EACCES;
			int failed = task_assume(task) ? apply_change(change, at.fd, task->pid) : -1;
			int error = errno;
			task_resume();
			notify_reply(task->listener, task->id, failed ? error : 0, 0);
		}
	}
	path_release(&at);
}

/* Attribute ioctls are not made for anybody: programs take it for a file system that has none. */
static void handle_attributes(const struct plan *plan, struct task *task, int nr, int fd) {
	struct resolved at;
	path_resolve(task, fd, "", RESOLVE_FOLLOW, &at);
	if (at.fd < 0 || passes(plan, task, OP_METADATA, at.path, at.fd, nr))
		notify_reply(task->listener, task->id, at.fd < 0 ? at.error : ENOTTY, 0);
	path_release(&at);
}

static bool read_times(struct task *task, uint64_t address, int form, struct change *change) {
	struct timeval tv[2];
	struct utimbuf old;
	change->now = !address;
	if (!address)
		return true;
	if (form == SYS_utimensat)
		return task_read(task->pid, address, change->times, sizeof change->times) ==
		       sizeof change->times;
#ifdef SYS_utime
	if (form == SYS_utime) {
		bool good = task_read(task->pid, address, &old, sizeof old) == sizeof old;
		change->times[0] = (struct timespec){.tv_sec = old.actime};
		change->times[1] = (struct timespec){.tv_sec = old.modtime};
		return good;
	}
#endif
	(void)old;
	bool good = task_read(task->pid, address, tv, sizeof tv) == sizeof tv;
	for (int i = 0; good && i < 2; i++) /* more than a second's worth is for the kernel to refuse */
		change->times[i] = (struct timespec){
			tv[i].tv_sec, tv[i].tv_usec < 0 || tv[i].tv_usec >= 1000000 ? -1
										      : tv[i].tv_usec * 1000};
	return good;
}

static void handle_times(const struct plan *plan, struct task *task, int nr, int form, int dirfd,
			 uint64_t path, uint64_t times, int flags) {
	struct change change = {.what = CHANGE_TIMES};
	if (!read_times(task, times, form, &change))
		notify_reply(task->listener, task->id, EFAULT, 0);
	else
		handle_change(plan, task, nr, dirfd, path, !(flags & AT_SYMLINK_NOFOLLOW), &change);
}

/* ---- refused and audited calls ------------------------------------------------------------- */

static const char *const capability_names[] = {
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
	"setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
	"ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
	"sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
	"lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
	"wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"};

static void handle_refused(const struct plan *plan, struct task *task, int nr) {
	int cap = confine_capability_of(nr);
	struct verdict verdict = {.rule = RULE_SANDBOX, .audit = RULE_NONE};
	char data[80], resource[64];
	snprintf(data, sizeof data, "syscall=%s", syscall_name(nr));
	if (cap >= 0 && cap < (int)countof(capability_names)) {
		struct operation op = {.kind = OP_CAPABILITY, .path = capability_names[cap],
				       .source = task_exe, .context = task};
		struct verdict said = plan_decide(plan, &op);
		snprintf(resource, sizeof resource, "CAP_%s", capability_names[cap]);
		for (char *c = resource; *c; c++)
			*c = (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
		if (!said.allow) {
			notify_report(task, &said, "Capabilities", resource, data);
			notify_reply(task->listener, task->id, EPERM, 0);
			return;
		}
	}
	notify_report(task, &verdict, "Syscall", syscall_name(nr), data);
	notify_reply(task->listener, task->id, EPERM, 0);
}

static bool syscall_source(const struct syscall_rule *rule, const char *exe) {
	for (int i = 0; i < rule->n_sources; i++) {
		const struct syscall_source *source = &rule->sources[i];
		size_t length = strlen(source->path);
		if (!source->directory) {
			if (!strcmp(source->path, exe))
				return true;
			continue;
		}
		while (length && source->path[length - 1] == '/')
			length--;
		if (!strncmp(exe, source->path, length) && exe[length] == '/' &&
		    (source->recursive || !strchr(exe + length + 1, '/')))
			return true;
	}
	return !rule->n_sources;
}

static bool syscall_path(const struct syscall_rule *rule, const char *path) {
	size_t length = strlen(rule->path);
	if (!length || !strcmp(rule->path, path))
		return true;
	while (length && rule->path[length - 1] == '/')
		length--;
	return !strncmp(path, rule->path, length) && path[length] == '/' &&
	       (rule->recursive || (rule->path[length] == '/' && !strchr(path + length + 1, '/')));
}

/* The argument of a call that is a path, and the descriptor that it starts from; -1 for none. */
static void path_argument(const char *name, int *dirfd, int *path) {
	size_t length = strlen(name);
	static const char *const plain[] = {
		"open", "creat", "unlink", "rmdir", "mkdir", "mknod", "chmod", "chown", "lchown",
		"truncate", "rename", "link", "symlink", "stat", "lstat", "access", "readlink", "execve",
		"chdir", "utime", "utimes", "setxattr", "lsetxattr", "removexattr", "lremovexattr",
		"statfs", "mount", "umount2", "chroot", "getxattr", "lgetxattr", "swapon", "swapoff"};
	*dirfd = *path = -1;
	for (size_t i = 0; i < countof(plain); i++)
		if (!strcmp(plain[i], name))
			*path = 0;
	if (*path < 0 && ((length > 2 && !strcmp(name + length - 2, "at")) ||
			  !strcmp(name, "renameat2") || !strcmp(name, "fchmodat2") ||
			  !strcmp(name, "faccessat2") || !strcmp(name, "statx"))) {
		*dirfd = 0;
		*path = 1;
	}
}

static void audit_syscall(const struct plan *plan, struct task *task, const struct seccomp_data *data) {
	char text[PATH_MAX] = "";
	static struct resolved at;
	const char *path = "", *name = syscall_name(data->nr);
	int dirfd, arg;
	path_argument(name, &dirfd, &arg);
	if (arg >= 0 && task_read_string(task->pid, data->args[arg], text, sizeof text) > 0) {
		int from = dirfd < 0 ? AT_FDCWD : (int)data->args[dirfd];
		path_resolve(task, from, text, RESOLVE_LINK, &at);
		path = at.path;
		path_release(&at);
	}
	for (int i = 0; i < plan->n_syscalls; i++) {
		const struct syscall_rule *rule = &plan->syscalls[i];
		if (rule->nr != data->nr || !syscall_source(rule, task_exe(task)) ||
		    !syscall_path(rule, path))
			continue;
		char said[64];
		syscall_label(said, sizeof said, data->nr);
		report_event(task, &(struct event){.operation = "Syscall", .resource = path, .data = said,
						   .rule = rule->id});
	}
}

/* ---- the switch ---------------------------------------------------------------------------- */

#define CALL(name) case SYS_##name
void notify_handle(const struct plan *plan, int listener, const struct seccomp_notif *req) {
	static struct task task;
	const struct seccomp_data *d = &req->data;
	const __u64 *a = d->args;
	int nr = d->nr;
	task_init(&task, listener, req->id, (pid_t)req->pid);
	if (n_pending)
		settle_execs_of(plan, task.pid);
	for (int i = 0; i < plan->n_syscalls; i++)
		if (plan->syscalls[i].nr == nr) {
			audit_syscall(plan, &task, d);
			break;
		}
	bool attributes = nr == SYS_ioctl && !confine_terminal_ioctl((uint32_t)a[1]);
	if (confine_refused(nr) && !attributes && (nr != SYS_clone || a[0] & 0x7e020000)) {
		handle_refused(plan, &task, nr);
		return;
	}
	if (socket_traps(nr)) {
		socket_handle(plan, &task, req);
		return;
	}
	if (processes_trap(plan, nr)) {
		processes_handle(&task, req);
		return;
	}
	bool opens = plan->modes[TRAP_READ] != MODE_NONE || plan->modes[TRAP_WRITE] != MODE_NONE;
	bool writes = plan->modes[TRAP_WRITE] != MODE_NONE;
	bool changes = plan->modes[TRAP_METADATA] != MODE_NONE;
	struct change mode = {.what = CHANGE_MODE}, owner = {.what = CHANGE_OWNER};
	struct change xattr = {.what = CHANGE_SET_XATTR, .name = a[1], .value = a[2], .size = a[3],
			       .flags = (int)a[4]};
	struct change no_xattr = {.what = CHANGE_REMOVE_XATTR, .name = a[1]};
	switch (nr) {
#ifdef SYS_open
	CALL(open):
		if (opens)
			return handle_open(plan, &task, AT_FDCWD, a[0], (int)a[1], (mode_t)a[2], nr);
		break;
	CALL(creat):
		if (writes)
			return handle_open(plan, &task, AT_FDCWD, a[0], O_CREAT | O_WRONLY | O_TRUNC,
					   (mode_t)a[1], nr);
		break;
	CALL(rename):
		if (writes)
			return handle_two(plan, &task, SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], 0);
		break;
	CALL(link):
		if (writes)
			return handle_two(plan, &task, SYS_linkat, AT_FDCWD, a[0], AT_FDCWD, a[1], 0);
		break;
	CALL(symlink):
		if (writes)
			return handle_name(plan, &task, SYS_symlinkat, AT_FDCWD, a[1], a[0], 0, 0, 0);
		break;
	CALL(unlink):
		if (writes)
			return handle_name(plan, &task, SYS_unlinkat, AT_FDCWD, a[0], 0, 0, 0, 0);
		break;
	CALL(rmdir):
		if (writes)
			return handle_name(plan, &task, SYS_unlinkat, AT_FDCWD, a[0], 0, 0, 0, AT_REMOVEDIR);
		break;
	CALL(mkdir):
		if (writes)
			return handle_name(plan, &task, SYS_mkdirat, AT_FDCWD, a[0], 0, (mode_t)a[1], 0, 0);
		break;
	CALL(mknod):
		if (writes)
			return handle_name(plan, &task, SYS_mknodat, AT_FDCWD, a[0], 0, (mode_t)a[1], a[2], 0);
		break;
	CALL(chmod):
		mode.mode = (mode_t)a[1];
		if (changes)
			return handle_change(plan, &task, nr, AT_FDCWD, a[0], true, &mode);
		break;
	CALL(chown):
	CALL(lchown):
		owner.uid = (uid_t)a[1];
		owner.gid = (gid_t)a[2];
		if (changes)
			return handle_change(plan, &task, nr, AT_FDCWD, a[0], nr == SYS_chown, &owner);
		break;
	CALL(utime):
	CALL(utimes):
		if (changes)
			return handle_times(plan, &task, nr, nr, AT_FDCWD, a[0], a[1], 0);
		break;
	CALL(futimesat):
		if (changes)
			return handle_times(plan, &task, nr, nr, (int)a[0], a[1], a[2], 0);
		break;
#endif
	CALL(openat):
		if (opens)
			return handle_open(plan, &task, (int)a[0], a[1], (int)a[2], (mode_t)a[3], nr);
		break;
	CALL(execve):
		if (plan->modes[TRAP_EXEC] != MODE_NONE)
			return handle_exec(plan, &task, AT_FDCWD, a[0], a[1], 0);
		break;
	CALL(execveat):
		if (plan->modes[TRAP_EXEC] != MODE_NONE)
			return handle_exec(plan, &task, (int)a[0], a[1], a[2], (int)a[4]);
		break;
	CALL(truncate):
		if (writes) {
			struct change length = {.what = CHANGE_LENGTH, .size = a[1]};
			return handle_change(plan, &task, nr, AT_FDCWD, a[0], true, &length);
		}
		break;
#ifdef SYS_renameat
	CALL(renameat):
		if (writes)
			return handle_two(plan, &task, SYS_renameat2, (int)a[0], a[1], (int)a[2], a[3], 0);
		break;
#endif
	CALL(renameat2):
		if (writes)
			return handle_two(plan, &task, nr, (int)a[0], a[1], (int)a[2], a[3], (int)a[4]);
		break;
	CALL(linkat):
		if (writes)
			return handle_two(plan, &task, nr, (int)a[0], a[1], (int)a[2], a[3], (int)a[4]);
		break;
	CALL(symlinkat):
		if (writes)
			return handle_name(plan, &task, nr, (int)a[1], a[2], a[0], 0, 0, 0);
		break;
	CALL(unlinkat):
		if (writes)
			return handle_name(plan, &task, nr, (int)a[0], a[1], 0, 0, 0, (int)a[2]);
		break;
	CALL(mkdirat):
		if (writes)
			return handle_name(plan, &task, nr, (int)a[0], a[1], 0, (mode_t)a[2], 0, 0);
		break;
	CALL(mknodat):
		if (writes)
			return handle_name(plan, &task, nr, (int)a[0], a[1], 0, (mode_t)a[2], a[3], 0);
		break;
	CALL(ioctl):
		if (changes)
			return handle_attributes(plan, &task, nr, (int)a[0]);
		break;
	CALL(fchmodat):
	case 452: /* fchmodat2, 6.6 */
		mode.mode = (mode_t)a[2];
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], a[1],
					     nr == SYS_fchmodat || !(a[3] & AT_SYMLINK_NOFOLLOW), &mode);
		break;
	CALL(fchmod):
		mode.mode = (mode_t)a[1];
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], 0, true, &mode);
		break;
	CALL(fchownat):
		owner.uid = (uid_t)a[2];
		owner.gid = (gid_t)a[3];
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], a[1],
					     !(a[4] & AT_SYMLINK_NOFOLLOW), &owner);
		break;
	CALL(fchown):
		owner.uid = (uid_t)a[1];
		owner.gid = (gid_t)a[2];
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], 0, true, &owner);
		break;
	CALL(utimensat):
		if (changes)
			return handle_times(plan, &task, nr, nr, (int)a[0], a[1], a[2], (int)a[3]);
		break;
	CALL(setxattr):
	CALL(lsetxattr):
		if (changes)
			return handle_change(plan, &task, nr, AT_FDCWD, a[0], nr == SYS_setxattr, &xattr);
		break;
	CALL(fsetxattr):
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], 0, true, &xattr);
		break;
	CALL(removexattr):
	CALL(lremovexattr):
		if (changes)
			return handle_change(plan, &task, nr, AT_FDCWD, a[0], nr == SYS_removexattr,
					     &no_xattr);
		break;
	CALL(fremovexattr):
		if (changes)
			return handle_change(plan, &task, nr, (int)a[0], 0, true, &no_xattr);
		break;
	CALL(fallocate):
		if (!resource_allocation_fits(plan, a[2], a[3]))
			return notify_reply(listener, req->id, EFBIG, 0);
		break;
	CALL(mmap): {
		struct verdict verdict = {.allow = true, .rule = RULE_NONE, .audit = RULE_NONE};
		bool refused =
			preset_refuses(plan, PRESET_ANON_EXEC, &verdict, &verdict.audit);
		notify_report(&task, &verdict, "Process", task_exe(&task), "syscall=SYS_MMAP");
		if (refused)
			return notify_reply(listener, req->id, EACCES, 0);
		break;
	}
	default:
		break;
	}
	/* Trapped only because an Audit rule wants to see it: it goes on as it was. */
	notify_continue(listener, req->id);
}
