/* What a path of the child means, and who the child is.
 *
 * A path is resolved here as the kernel would resolve it for the child: from its root, its working
 * directory or its descriptor, with /proc/self standing for the child and not for this process. The
 * result is an O_PATH descriptor, so that what was decided on is what is acted on.
 */
#include "helper.h"

#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <grp.h>

static pid_t protected_pids[2];

void path_protect(pid_t guard, pid_t supervisor) {
	protected_pids[0] = guard;
	protected_pids[1] = supervisor;
}

/* The process whose directory in /proc a resolved path lies in, or 0; ``rest`` is what follows. */
pid_t path_proc_pid(const char *path, const char **rest) {
	char *end;
	if (strncmp(path, "/proc/", 6) != 0 || path[6] < '0' || path[6] > '9')
		return 0;
	long pid = strtol(path + 6, &end, 10);
	if (*end && *end != '/')
		return 0;
	if (rest)
		*rest = end;
	return (pid_t)pid;
}

/* Whether a process runs this program, as those that open for us do; ended ones do not. */
static bool is_helper(pid_t pid) {
	static struct stat ours;
	struct stat its;
	char link[32];
	snprintf(link, sizeof link, "/proc/%d/exe", pid);
	return (ours.st_ino || stat("/proc/self/exe", &ours) == 0) && stat(link, &its) == 0 &&
	       its.st_ino == ours.st_ino && its.st_dev == ours.st_dev;
}

/* Our own directories in /proc: opening them for the child would hand over ourselves. */
bool path_is_protected(const char *path) {
	pid_t pid = path_proc_pid(path, NULL);
	return pid && (pid == protected_pids[0] || pid == protected_pids[1] || is_helper(pid));
}

/* ---- memory of the child ------------------------------------------------------------------- */

ssize_t task_read(pid_t pid, uint64_t address, void *to, size_t size) {
	struct iovec local = {to, size}, remote = {(void *)(uintptr_t)address, size};
	return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

ssize_t task_write(pid_t pid, uint64_t address, const void *from, size_t size) {
	struct iovec local = {(void *)(uintptr_t)from, size}, remote = {(void *)(uintptr_t)address, size};
	return process_vm_writev(pid, &local, 1, &remote, 1, 0);
}

/* Reads a string page by page, since the next page may not be mapped. Returns its length or -errno. */
int task_read_string(pid_t pid, uint64_t address, char *to, size_t size) {
	size_t have = 0;
	while (have < size) {
		size_t room = 4096 - (address + have) % 4096;
		if (room > size - have)
			room = size - have;
		ssize_t n = task_read(pid, address + have, to + have, room);
		if (n <= 0)
			return n < 0 && errno == ESRCH ? -ESRCH : -EFAULT;
		char *end = memchr(to + have, 0, (size_t)n);
		if (end)
			return (int)(end - to);
		have += (size_t)n;
	}
	return -ENAMETOOLONG;
}

/* ---- facts about the child ----------------------------------------------------------------- */

void task_init(struct task *task, int listener, uint64_t id, pid_t pid) {
	/* Not a memset: the buffers are large and filled only when asked for. */
	task->pid = task->tgid = pid;
	task->listener = listener;
	task->id = id;
	task->inode_fd = -1;
	task->opened = NULL;
	task->ppid = task->tty = 0;
	task->umask = 022;
	task->uid = task->fsuid = 0;
	task->fsgid = 0;
	task->caps = 0;
	task->have_status = task->have_stat = task->have_exe = task->have_parent = false;
	task->have_cwd = task->have_args = false;
	task->argv = 0;
	task->n_args = 0;
}

/* Whether the call still waits for its answer, so that facts read by pid were about its maker. */
bool task_alive(const struct task *task) {
	return ioctl(task->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &task->id) == 0;
}

static ssize_t slurp(pid_t pid, const char *name, char *to, size_t size) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, to, size - 1);
	to[n > 0 ? n : 0] = 0;
	return n;
}

static const char *field(const char *text, const char *name) {
	const char *at = strstr(text, name);
	return at ? at + strlen(name) : "";
}

void task_status(struct task *task) {
	char text[4096];
	if (task->have_status)
		return;
	task->have_status = true;
	if (slurp(task->pid, "status", text, sizeof text) <= 0)
		return;
	unsigned mask = 022;
	sscanf(field(text, "\nUmask:"), "%o", &mask);
	task->umask = (int)mask;
	sscanf(field(text, "\nTgid:"), "%d", &task->tgid);
	sscanf(field(text, "\nPPid:"), "%d", &task->ppid);
	sscanf(field(text, "\nUid:"), "%u %*u %*u %u", &task->uid, &task->fsuid);
	sscanf(field(text, "\nGid:"), "%*u %*u %*u %u", &task->fsgid);
	unsigned long long caps = 0;
	sscanf(field(text, "\nCapEff:"), "%llx", &caps);
	task->caps = caps;
}

/* The process that the task is a thread of: itself, where it is the first one. */
pid_t task_tgid(struct task *task) {
	if (syscall(SYS_tgkill, task->pid, task->pid, 0) < 0)
		task_status(task);
	return task->tgid;
}

void task_stat(struct task *task) {
	char text[1024];
	if (task->have_stat)
		return;
	task->have_stat = true;
	if (slurp(task->pid, "stat", text, sizeof text) <= 0)
		return;
	const char *after = strrchr(text, ')'); /* the name may hold anything, brackets too */
	if (after)
		sscanf(after + 1, " %*c %*d %*d %*d %d", &task->tty);
}

static const char *link_of(pid_t pid, const char *name, char *to) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	ssize_t n = readlink(path, to, PATH_MAX - 1);
	to[n > 0 ? n : 0] = 0;
	return to;
}

const char *task_exe(void *context) {
	struct task *task = context;
	if (!task->have_exe)
		link_of(task->pid, "exe", task->exe);
	task->have_exe = true;
	return task->exe;
}

const char *task_parent_exe(void *context) {
	struct task *task = context;
	if (!task->have_parent) {
		task_status(task);
		link_of(task->ppid, "exe", task->parent_exe);
		if (task->ppid == protected_pids[1]) /* started by us: its parent is the caller's shell */
			task->parent_exe[0] = 0;
	}
	task->have_parent = true;
	return task->parent_exe;
}

const char *task_cwd(struct task *task) {
	if (!task->have_cwd)
		link_of(task->pid, "cwd", task->cwd);
	task->have_cwd = true;
	return task->cwd;
}

int task_cmdline(pid_t pid, char *to, size_t size) {
	ssize_t n = slurp(pid, "cmdline", to, size);
	for (ssize_t i = 0; i < n - 1; i++)
		if (!to[i])
			to[i] = ' ';
	return (int)n;
}

bool task_owner(void *context) {
	struct task *task = context;
	struct stat st;
	if (task->inode_fd < 0) /* what does not exist yet belongs to who would make it */
		return true;
	task_status(task);
	return fstat(task->inode_fd, &st) == 0 && st.st_uid == task->fsuid;
}

bool task_tty(void *context) {
	struct task *task = context;
	task_stat(task);
	return task->tty != 0;
}

/* argv[1:] of an exec that is about to happen. A count of -1 says that it could not be read whole. */
const char *const *task_args(void *context, int *count) {
	struct task *task = context;
	if (!task->have_args) {
		size_t used = 0;
		task->have_args = true;
		for (int i = 1; task->argv; i++) {
			uint64_t pointer = 0;
			if (task_read(task->pid, task->argv + 8 * (uint64_t)i, &pointer, 8) != 8) {
				task->n_args = -1;
				break;
			}
			if (!pointer)
				break;
			int n = -1;
			if (task->n_args < (int)countof(task->args))
				n = task_read_string(task->pid, pointer, task->arg_text + used,
						     sizeof task->arg_text - used);
			if (n < 0) {
				task->n_args = -1;
				break;
			}
			task->args[task->n_args++] = task->arg_text + used;
			used += (size_t)n + 1;
		}
	}
	*count = task->n_args;
	return task->args;
}

/* Acts with the child's identity where that can differ from ours: owner of what is created, and
 * permissions. It can only where the supervisor is root and lets the child keep capabilities. */
static bool can_differ, assumed;
static struct __user_cap_data_struct own_caps[2];

void task_identities(uint64_t keep_caps) {
	can_differ = geteuid() == 0 && keep_caps;
}

bool task_assume(struct task *task) {
	if (!can_differ)
		return true;
	task_status(task);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	if (syscall(SYS_capget, &header, own_caps) < 0)
		return false;
	assumed = true;
	if (task->fsgid != getegid() || task->fsuid != 0) {
		gid_t groups[256];
		char text[4096];
		int n = 0, length;
		slurp(task->pid, "status", text, sizeof text);
		const char *at = field(text, "\nGroups:");
		while (n < 256 && sscanf(at, "%u%n", &groups[n], &length) == 1) {
			at += length;
			n++;
		}
		if (setgroups((size_t)n, groups) < 0)
			return false;
		setfsgid(task->fsgid);
		setfsuid(task->fsuid);
		if ((uid_t)setfsuid(task->fsuid) != task->fsuid)
			return false;
	}
	struct __user_cap_data_struct caps[2];
	memcpy(caps, own_caps, sizeof caps);
	for (int i = 0; i < 2; i++)
		caps[i].effective = caps[i].permitted & (uint32_t)(task->caps >> (32 * i));
	caps[0].effective |= caps[0].permitted & (1u << CAP_SYS_PTRACE); /* to look at the child's /proc */
	return syscall(SYS_capset, &header, caps) == 0;
}

void task_resume(void) {
	if (!assumed)
		return;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	setfsuid(0);
	syscall(SYS_capset, &header, own_caps);
	setfsgid(getegid());
	if (setgroups(0, NULL) < 0 && errno != EPERM)
		_exit(EXIT_CANNOT_CONFINE);
	assumed = false;
}

/* ---- resolution ---------------------------------------------------------------------------- */

static void path_of_fd(int fd, char *path) {
	static int own_fds = -1;
	char name[16];
	if (own_fds < 0) /* kept: this is asked at each open */
		own_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(name, sizeof name, "%d", fd);
	ssize_t n = readlinkat(own_fds, name, path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = 0;
}

static int open_base(struct task *task, int dirfd) {
	char name[64];
	if (dirfd == AT_FDCWD)
		snprintf(name, sizeof name, "/proc/%d/cwd", task->pid);
	else
		snprintf(name, sizeof name, "/proc/%d/fd/%d", task->pid, dirfd);
	int fd = open(name, O_PATH | O_CLOEXEC);
	if (fd < 0 && dirfd != AT_FDCWD)
		errno = EBADF;
	return fd;
}

static bool on_proc(int fd) {
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* The walk, component by component: where a magic link of /proc or /proc/self is on the way. */
static int walk(struct task *task, int base, const char *path, bool follow_last) {
	char rest[PATH_MAX], name[NAME_MAX + 1], target[PATH_MAX], where[PATH_MAX];
	int at = base, links = 0;
	if (strlen(path) >= sizeof rest) {
		close(at);
		return -ENAMETOOLONG;
	}
	strcpy(rest, path);
	while (rest[0]) {
		size_t skip = strspn(rest, "/"), length = strcspn(rest + skip, "/");
		if (!length)
			break;
		bool last = !rest[skip + length + strspn(rest + skip + length, "/")];
		bool slash = rest[skip + length] == '/';
		if (length > NAME_MAX) {
			close(at);
			return -ENAMETOOLONG;
		}
		memcpy(name, rest + skip, length);
		name[length] = 0;
		memmove(rest, rest + skip + length, strlen(rest + skip + length) + 1);
		int step = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		int error = errno;
		struct stat st;
		if (step < 0 || fstat(step, &st) < 0) {
			close_fd(&step);
			close(at);
			return -error;
		}
		if (!S_ISLNK(st.st_mode) || (last && !follow_last && !slash)) {
			close(at);
			at = step;
			continue;
		}
		if (++links > 40) {
			close(step);
			close(at);
			return -ELOOP;
		}
		path_of_fd(step, where);
		if (!strcmp(where, "/proc/self") || !strcmp(where, "/proc/thread-self")) {
			if (where[6] == 's')
				snprintf(target, sizeof target, "%d", task_tgid(task));
			else
				snprintf(target, sizeof target, "%d/task/%d", task_tgid(task), task->pid);
		} else if (on_proc(step) && path_proc_pid(where, NULL)) {
			/* A magic link is followed by opening through it, never by its text. Whose it is, is
			 * checked first: ours would lead anywhere. */
			int through = path_is_protected(where) ? -1
							       : openat(at, name, O_PATH | O_CLOEXEC);
			error = path_is_protected(where) ? EACCES : errno;
			close(step);
			close(at);
			if (through < 0)
				return -error;
			at = through;
			continue;
		} else {
			ssize_t n = readlinkat(step, "", target, sizeof target - 1);
			if (n < 0) {
				close(step);
				close(at);
				return -EACCES;
			}
			target[n] = 0;
		}
		close(step);
		if (strlen(target) + 1 + strlen(rest) >= sizeof rest) {
			close(at);
			return -ENAMETOOLONG;
		}
		memmove(rest + strlen(target), rest, strlen(rest) + 1);
		memcpy(rest, target, strlen(target));
		if (rest[0] == '/') {
			close(at);
			at = open("/", O_PATH | O_CLOEXEC);
			if (at < 0)
				return -errno;
		}
	}
	return at;
}

/* Whether a path is written as the kernel would write it if no symbolic link is on the way. */
static bool is_plain(const char *path) {
	const char *at = path;
	while (*at == '/' && at[1] && at[1] != '/') {
		size_t length = strcspn(++at, "/");
		if (at[0] == '.' && (length == 1 || (length == 2 && at[1] == '.')))
			return false;
		at += length;
	}
	return !*at && at - path < PATH_MAX;
}

/* The kernel's own resolution where it means the same here as there; the walk elsewhere: a magic link
 * (refused with ELOOP), our own entry in /proc reached through /proc/self, and names that exist for
 * the child alone (/proc/self/fd/7). */
static int open_path(struct task *task, int dirfd, const char *path, bool follow, char *resolved) {
	struct open_how how = {.flags = (uint64_t)(O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)),
			       .resolve = RESOLVE_NO_MAGICLINKS};
	bool absolute = path[0] == '/';
	int base = absolute ? AT_FDCWD : open_base(task, dirfd);
	if (base < 0 && !absolute)
		return -errno;
	if (!path[0]) { /* AT_EMPTY_PATH: the descriptor's own object */
		path_of_fd(base, resolved);
		return base;
	}
	/* Most paths are written as what they mean: then the kernel need not be asked for that. */
	bool plain = is_plain(path);
	const char *meant = path;
	char own_entry[PATH_MAX];
	if (plain && !strncmp(path, "/proc/self/", 11) && strlen(path) < PATH_MAX - 16) {
		snprintf(own_entry, sizeof own_entry, "/proc/%d%s", task_tgid(task), path + 10);
		meant = own_entry;
	}
	how.resolve |= plain ? RESOLVE_NO_SYMLINKS : 0;
	int fd = (int)syscall(SYS_openat2, base, meant, &how, sizeof how);
	if (fd < 0 && errno == ELOOP && plain) {
		plain = false;
		how.resolve = RESOLVE_NO_MAGICLINKS;
		fd = (int)syscall(SYS_openat2, base, path, &how, sizeof how);
	}
	int error = errno;
	if (fd >= 0 && plain)
		strcpy(resolved, meant);
	else if (fd >= 0)
		path_of_fd(fd, resolved);
	bool own = strncmp(path, "/proc", 5) == 0 || strncmp(path, "/dev", 4) == 0;
	bool done = fd >= 0 ? !path_is_protected(resolved)
			    : error != ELOOP && !own && (absolute || !on_proc(base));
	if (done) {
		if (!absolute)
			close(base);
		return fd >= 0 ? fd : -error;
	}
	close_fd(&fd);
	if (absolute && (base = open("/", O_PATH | O_CLOEXEC)) < 0)
		return -errno;
	fd = walk(task, base, path, follow);
	if (fd >= 0)
		path_of_fd(fd, resolved);
	return fd;
}

/* Names what does not exist, nor its directory: the deepest directory that does, and the rest as it
 * was written. For judging the attempt only; a rest with ".." is not named. */
static void name_missing(struct task *task, int dirfd, const char *path, char *name) {
	char directory[PATH_MAX];
	size_t cut = strlen(path);
	if (cut >= sizeof directory || strstr(path, "/..") || !strncmp(path, "..", 2))
		return;
	for (int fd = -1; cut && fd < 0;) {
		while (cut > 1 && path[cut - 1] != '/')
			cut--;
		while (cut > 1 && path[cut - 1] == '/')
			cut--;
		if (cut == 1 && path[0] != '/')
			return;
		memcpy(directory, path, cut);
		directory[cut] = 0;
		fd = open_path(task, dirfd, directory, true, name);
		if (fd < 0 && cut == 1)
			return;
		close_fd(&fd);
	}
	size_t have = strlen(name);
	if (have + strlen(path + cut) + 2 < PATH_MAX)
		snprintf(name + have, PATH_MAX - have, "%s", path + cut + (have == 1 && path[cut] == '/'));
}

/* Resolves a path of the child; see struct resolved. Where the object does not exist, ``path`` is what
 * it would be called, or empty. */
static void resolve(struct task *task, int dirfd, const char *path, int how, struct resolved *out,
		    int depth) {
	out->fd = out->parent = -1;
	out->error = 0;
	out->name[0] = out->path[0] = 0;
	if (how != RESOLVE_PARENT) {
		out->fd = open_path(task, dirfd, path, how == RESOLVE_FOLLOW, out->path);
		if (out->fd >= 0)
			return;
		out->error = -out->fd;
		out->fd = -1;
		if (out->error != ENOENT)
			return;
	}
	/* Only the last name is missing, or only the directory is wanted. */
	char directory[PATH_MAX];
	size_t length = strlen(path);
	while (length > 1 && path[length - 1] == '/')
		length--;
	size_t cut = length;
	while (cut && path[cut - 1] != '/')
		cut--;
	if (!length || length - cut > NAME_MAX) {
		out->error = length ? ENAMETOOLONG : ENOENT;
		return;
	}
	memcpy(out->name, path + cut, length - cut);
	out->name[length - cut] = 0;
	memcpy(directory, path, cut);
	directory[cut] = 0;
	out->parent = open_path(task, dirfd, cut ? directory : ".", true, out->path);
	if (out->parent < 0) {
		out->error = -out->parent;
		out->parent = -1;
		if (out->error == ENOENT && how != RESOLVE_PARENT)
			name_missing(task, dirfd, path, out->path);
		return;
	}
	out->error = how == RESOLVE_PARENT ? 0 : ENOENT;
	if (!strcmp(out->name, ".") || !strcmp(out->name, "..") || !out->name[0]) {
		if (how == RESOLVE_PARENT)
			out->error = out->name[0] ? EINVAL : EBUSY;
		close_fd(&out->parent);
		out->parent = -1;
		return;
	}
	char target[PATH_MAX];
	ssize_t n = how == RESOLVE_FOLLOW && depth < 8
			    ? readlinkat(out->parent, out->name, target, sizeof target - 1)
			    : -1;
	if (n > 0) { /* a link to what does not exist: creating makes its target */
		int from = out->parent;
		target[n] = 0;
		resolve(task, from, target, how, out, depth + 1);
		close(from);
		return;
	}
	size_t have = strlen(out->path);
	if (have + 1 + strlen(out->name) >= sizeof out->path) {
		out->error = ENAMETOOLONG;
		close(out->parent);
		out->parent = -1;
		return;
	}
	snprintf(out->path + have, sizeof out->path - have, "%s%s", have > 1 ? "/" : "", out->name);
}

void path_resolve(struct task *task, int dirfd, const char *path, int how, struct resolved *out) {
	resolve(task, dirfd, path, how, out, 0);
}

void path_release(struct resolved *resolved) {
	close_fd(&resolved->fd);
	close_fd(&resolved->parent);
	resolved->fd = resolved->parent = -1;
}
