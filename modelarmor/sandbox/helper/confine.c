/* The kernel tier: Landlock domains, capabilities and the seccomp filter.
 *
 * Constants that a build machine's headers may lack are given here with the kernel that brought them
 * (include/uapi/linux/landlock.h, seccomp.h).
 */
#include "helper.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

struct ruleset_attr {
	uint64_t fs, net, scoped;
};
struct __attribute__((packed)) path_beneath_attr {
	uint64_t rights;
	int32_t fd;
};
struct net_port_attr {
	uint64_t rights, port;
};
enum { RULE_PATH_BENEATH = 1, RULE_NET_PORT = 2 };

/* Rights that Landlock accepts on something that is not a directory: execute, write, read,
 * truncate (5.13, 6.2) and ioctl on devices (6.10). */
#define FILE_RIGHTS ((1ull << 0) | (1ull << 1) | (1ull << 2) | (1ull << 14) | (1ull << 15))
#define MOVES (1ull << 13)
#define READ_RIGHTS ((1ull << 2) | (1ull << 3))

static bool add_grant(int ruleset, const char *path, uint64_t rights, char *error, size_t size) {
	autoclose int fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0) {
		if (errno == ENOENT || errno == EACCES)
			return true; /* gone since it was planned: nothing to grant */
		snprintf(error, size, "open(%s): %s", path, strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode))
		rights &= FILE_RIGHTS;
	struct path_beneath_attr attr = {.rights = rights, .fd = fd};
	if (rights && syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &attr, 0) < 0) {
		if (errno == EBADFD || errno == EBADF)
			return true; /* an object without a path, such as a pipe: Landlock leaves it alone */
		snprintf(error, size, "landlock_add_rule(%s): %s", path, strerror(errno));
		return false;
	}
	return true;
}

/* Enters one of the three domains, each inside of the one before. The guard's only says whom signals
 * may reach. The supervisor's and the child's know the same files, except that the supervisor must
 * read /proc; where the policy hides that from the child, the child's states the files once more.
 * Where reading is the supervisor's to decide, the child's grants what is beyond doubt, and no more. */
bool confine_domain(const struct plan *plan, enum domain domain, char *error, size_t size) {
	bool files = domain == DOMAIN_SUPERVISOR || (domain == DOMAIN_CHILD && !plan->child_reads_proc);
	bool ports = domain == DOMAIN_SUPERVISOR;
	struct ruleset_attr attr = {.fs = files ? plan->fs_handled : 0,
				    .net = ports ? plan->net_handled : 0,
				    .scoped = plan->scoped};
	/* Every layer that handles files, and before 6.14 every layer, refuses moves between directories
	 * unless it grants them. A layer without rules grants just that; and even so empty a domain keeps
	 * the child from tracing us. */
	if (!attr.fs)
		attr.fs = MOVES;
	files = attr.fs != MOVES;
	bool sure = domain == DOMAIN_CHILD && plan->n_sure;
	attr.fs |= sure ? READ_RIGHTS : 0;
	size_t attr_size = attr.scoped ? sizeof attr : attr.net ? 16 : 8;
	autoclose int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, attr_size, 0);
	if (ruleset < 0) {
		snprintf(error, size, "landlock_create_ruleset: %s", strerror(errno));
		return false;
	}
	for (int i = 0; files && i < plan->n_grants; i++) {
		uint64_t rights = plan->grants[i].rights & attr.fs & ~(sure ? READ_RIGHTS : 0);
		if (!add_grant(ruleset, plan->grants[i].path, rights, error, size))
			return false;
	}
	if (files && domain == DOMAIN_SUPERVISOR &&
	    !add_grant(ruleset, "/proc", READ_RIGHTS & attr.fs, error, size))
		return false;
	if (!files && !add_grant(ruleset, "/", MOVES, error, size))
		return false;
	for (int i = 0; sure && i < plan->n_sure; i++)
		if (!add_grant(ruleset, plan->sure[i], READ_RIGHTS, error, size))
			return false;
	for (int i = 0; ports && i < plan->n_ports; i++) {
		struct net_port_attr port = {plan->ports[i].rights, plan->ports[i].port};
		if (syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &port, 0) < 0) {
			snprintf(error, size, "landlock_add_rule(port %llu): %s",
				 (unsigned long long)port.port, strerror(errno));
			return false;
		}
	}
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0) {
		snprintf(error, size, "landlock_restrict_self: %s", strerror(errno));
		return false;
	}
	return true;
}

/* Keeps only the capabilities in ``keep``, in every set and in the bounding set. */
bool confine_capabilities(uint64_t keep, char *error, size_t size) {
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data) < 0) {
		snprintf(error, size, "capget: %s", strerror(errno));
		return false;
	}
	bool can_bound = data[0].effective & (1u << CAP_SETPCAP);
	for (int cap = 0; can_bound && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			snprintf(error, size, "prctl(PR_CAPBSET_DROP, %d): %s", cap, strerror(errno));
			return false;
		}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int word = 0; word < 2; word++) {
		uint32_t mask = (uint32_t)(keep >> (32 * word));
		data[word].effective &= mask;
		data[word].permitted &= mask;
		data[word].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, data) < 0) {
		snprintf(error, size, "capset: %s", strerror(errno));
		return false;
	}
	return true;
}

/* The first number that no kernel had when this was written (7.0). */
enum { FUTURE = 472 };

/* ---- seccomp ------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "only x86_64 and aarch64 are known to this helper"
#endif

/* Never allowed: each reaches past what the other mechanisms see. The capability is the one that a
 * KubeArmor rule would name, so that a `capabilities` rule is the one reported; -1 for none. */
static const struct refused {
	const char *name;
	int capability;
} refused[] = {
	/* other processes */
	{"ptrace", CAP_SYS_PTRACE}, {"process_vm_readv", CAP_SYS_PTRACE},
	{"process_vm_writev", CAP_SYS_PTRACE}, {"process_madvise", -1}, {"pidfd_getfd", -1},
	{"kcmp", -1}, {"process_mrelease", -1}, {"migrate_pages", -1}, {"move_pages", -1},
	/* memory, queues and semaphores that have a number instead of a path */
	{"shmget", -1}, {"shmat", -1}, {"shmctl", -1}, {"msgget", -1}, {"msgsnd", -1}, {"msgrcv", -1},
	{"msgctl", -1}, {"semget", -1}, {"semop", -1}, {"semtimedop", -1}, {"semctl", -1},
	{"mq_open", -1}, {"mq_unlink", -1},
	/* work that the kernel does out of our sight */
	{"io_uring_setup", -1}, {"io_uring_enter", -1}, {"io_uring_register", -1},
	{"userfaultfd", -1}, {"bpf", CAP_BPF}, {"perf_event_open", CAP_PERFMON},
	/* files without a path */
	{"open_by_handle_at", CAP_DAC_READ_SEARCH}, {"name_to_handle_at", -1},
	/* the mount table and namespaces */
	{"mount", CAP_SYS_ADMIN}, {"umount2", CAP_SYS_ADMIN}, {"pivot_root", CAP_SYS_ADMIN},
	{"open_tree", CAP_SYS_ADMIN}, {"open_tree_attr", CAP_SYS_ADMIN},
	{"move_mount", CAP_SYS_ADMIN}, {"fsopen", CAP_SYS_ADMIN}, {"fsconfig", CAP_SYS_ADMIN},
	{"fsmount", CAP_SYS_ADMIN}, {"fspick", CAP_SYS_ADMIN}, {"mount_setattr", CAP_SYS_ADMIN},
	{"unshare", CAP_SYS_ADMIN}, {"setns", CAP_SYS_ADMIN}, {"chroot", CAP_SYS_CHROOT},
	/* the machine */
	{"init_module", CAP_SYS_MODULE}, {"finit_module", CAP_SYS_MODULE},
	{"delete_module", CAP_SYS_MODULE}, {"kexec_load", CAP_SYS_BOOT},
	{"kexec_file_load", CAP_SYS_BOOT}, {"reboot", CAP_SYS_BOOT}, {"swapon", CAP_SYS_ADMIN},
	{"swapoff", CAP_SYS_ADMIN}, {"acct", CAP_SYS_PACCT}, {"quotactl", CAP_SYS_ADMIN},
	{"quotactl_fd", CAP_SYS_ADMIN}, {"settimeofday", CAP_SYS_TIME},
	{"clock_settime", CAP_SYS_TIME}, {"sethostname", CAP_SYS_ADMIN},
	{"setdomainname", CAP_SYS_ADMIN}, {"syslog", CAP_SYSLOG}, {"iopl", CAP_SYS_RAWIO},
	{"ioperm", CAP_SYS_RAWIO}, {"vhangup", CAP_SYS_TTY_CONFIG}, {"fanotify_init", -1},
	{"lookup_dcookie", CAP_SYS_ADMIN}, {"uselib", -1}, {"modify_ldt", -1},
	/* keys outlive and cross sandboxes */
	{"add_key", -1}, {"request_key", -1}, {"keyctl", -1},
	/* changes what other checks mean */
	{"seccomp", -1}, {"personality", -1},
};

static const char *const write_calls[] = {
	"creat", "truncate", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
	"symlinkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "mknod", "mknodat"};
static const char *const metadata_calls[] = {
	"chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes",
	"futimesat", "utimensat", "setxattr", "lsetxattr", "removexattr", "lremovexattr",
	"fchmod", "fchown", "fsetxattr", "fremovexattr"};
/* Later ways (6.13, 6.17) to do the same; libc falls back to the ones above. */
static const char *const late_metadata_calls[] = {"setxattrat", "removexattrat", "file_setattr"};
static const char *const endpoint_calls[] = {"connect", "bind", "listen"};
static const char *const message_calls[] = {"sendmsg", "sendmmsg"};

/* The first two type into the terminal; the others change a file's attributes through a descriptor
 * that was opened to read (FS_IOC_SETFLAGS, its 32-bit form, SETVERSION, FSSETXATTR). */
static const uint32_t ioctls[] = {TIOCSTI, TIOCLINUX, 0x40086602, 0x40046602, 0x40087602, 0x401c5820};

static size_t confine_ioctls_count(const struct plan *plan) {
	return plan->modes[TRAP_METADATA] != MODE_NONE ? countof(ioctls) : 2;
}

bool confine_terminal_ioctl(uint32_t request) {
	return request == TIOCSTI || request == TIOCLINUX;
}

/* What is said of one call: instructions that return, or fall through to what is said next. Without any
 * the call is allowed. What is said first counts, so once it is settled nothing is added. */
struct call {
	bool settled;
	uint8_t n;
	struct sock_filter code[20];
};
struct program {
	struct call calls[FUTURE];
	struct sock_filter code[2048];
	unsigned n;
	bool overflow;
};
#define TRAP_ACTION SECCOMP_RET_USER_NOTIF
#define FAIL(e) (SECCOMP_RET_ERRNO | (e))

static void say(struct program *p, int nr, uint16_t op, uint32_t value, uint8_t yes, uint8_t no) {
	struct call *call = nr >= 0 && nr < FUTURE ? &p->calls[nr] : NULL;
	if (!call || call->settled)
		return;
	if (call->n == countof(call->code)) {
		p->overflow = true;
		return;
	}
	call->code[call->n++] = (struct sock_filter){op, yes, no, value};
}
#define LOAD(p, nr, field) say(p, nr, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field), 0, 0)
#define LOAD_ARG(p, nr, i) LOAD(p, nr, args[i])
#define GIVE(p, nr, value) say(p, nr, BPF_RET | BPF_K, value, 0, 0)
/* Goes on with the next instruction where it holds, and skips ``no`` otherwise. */
#define IF_EQUAL(p, nr, value, no) say(p, nr, BPF_JMP | BPF_JEQ | BPF_K, value, 0, no)
#define IF_SET(p, nr, mask, no) say(p, nr, BPF_JMP | BPF_JSET | BPF_K, mask, 0, no)

static void settle(struct program *p, int nr, uint32_t action) {
	GIVE(p, nr, action);
	if (nr >= 0 && nr < FUTURE)
		p->calls[nr].settled = true;
}

static void when(struct program *p, const char *name, uint32_t action) {
	settle(p, syscall_number(name), action);
}

static void when_each(struct program *p, const char *const *names, size_t n, uint32_t action) {
	for (size_t i = 0; i < n; i++)
		when(p, names[i], action);
}

/* call(… args[i] …): ``action`` where a bit of ``mask`` is set. */
static void when_bits(struct program *p, int nr, int arg, uint32_t mask, uint32_t action) {
	LOAD_ARG(p, nr, arg);
	IF_SET(p, nr, mask, 1);
	GIVE(p, nr, action);
}

/* call(… args[i] …): ``action`` where it is one of ``values``. */
static void when_one_of(struct program *p, int nr, int arg, const uint32_t *values, size_t n, uint32_t action) {
	LOAD_ARG(p, nr, arg);
	for (size_t i = 0; i < n; i++) {
		IF_EQUAL(p, nr, values[i], 1);
		GIVE(p, nr, action);
	}
}

/* Without scoped signals: whom a descriptor's signals go to, by any number (F_SETSIG). */
static void refuse_owners(struct program *p) {
	static const uint32_t commands[] = {F_SETOWN, F_SETOWN_EX}, requests[] = {FIOSETOWN, SIOCSPGRP};
	when_one_of(p, SYS_fcntl, 1, commands, countof(commands), FAIL(EPERM));
	when_one_of(p, SYS_ioctl, 1, requests, countof(requests), FAIL(EPERM));
}

/* open and openat are trapped by what they ask for: the flags are a register, so this part of the
 * decision cannot be raced. O_PATH grants no access to content and passes. */
static void opens(struct program *p, const struct plan *plan, const char *name, int arg) {
	uint32_t writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
	int nr = syscall_number(name);
	if (plan->modes[TRAP_READ] != MODE_NONE) {
		when_bits(p, nr, arg, O_PATH, SECCOMP_RET_ALLOW);
		settle(p, nr, TRAP_ACTION);
	} else if (plan->modes[TRAP_WRITE] != MODE_NONE) {
		when_bits(p, nr, arg, writes, TRAP_ACTION);
	}
}

/* sendto with an address, or opening a connection on the way (MSG_FASTOPEN). */
static void sends(struct program *p) {
	int nr = syscall_number("sendto");
	LOAD_ARG(p, nr, 4);
	IF_EQUAL(p, nr, 0, 4);
	say(p, nr, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4]) + 4, 0, 0);
	IF_EQUAL(p, nr, 0, 2);
	LOAD_ARG(p, nr, 3);
	IF_SET(p, nr, MSG_FASTOPEN, 1);
	GIVE(p, nr, TRAP_ACTION);
}

static void say_all(struct program *p, const struct plan *plan) {
	/* Audited system calls trap whatever else would be said of them. */
	for (int i = 0; i < plan->n_syscalls; i++)
		settle(p, plan->syscalls[i].nr, TRAP_ACTION);
	/* Their arguments lie in memory, where the filter cannot look; libc falls back. */
	when(p, "clone3", FAIL(ENOSYS));
	when(p, "openat2", FAIL(ENOSYS));
	if (plan->limits.cpu_millis)
		when(p, "sched_setaffinity", FAIL(EPERM));
	if (plan->limits.disk)
		when(p, "fallocate", TRAP_ACTION);
	opens(p, plan, "open", 1);
	opens(p, plan, "openat", 2);
	if (plan->modes[TRAP_WRITE] != MODE_NONE)
		when_each(p, write_calls, countof(write_calls), TRAP_ACTION);
	if (plan->modes[TRAP_METADATA] != MODE_NONE) {
		when_each(p, metadata_calls, countof(metadata_calls), TRAP_ACTION);
		when_each(p, late_metadata_calls, countof(late_metadata_calls), FAIL(ENOSYS));
	}
	if (plan->modes[TRAP_EXEC] != MODE_NONE) {
		when(p, "execve", TRAP_ACTION);
		when(p, "execveat", TRAP_ACTION);
	}
	if (plan->modes[TRAP_SOCKET] != MODE_NONE) {
		when(p, "socket", TRAP_ACTION);
		when(p, "socketpair", TRAP_ACTION);
	}
	if (plan->modes[TRAP_ENDPOINT] != MODE_NONE)
		when_each(p, endpoint_calls, countof(endpoint_calls), TRAP_ACTION);
	else if (plan->modes[TRAP_WRITE] == MODE_ENFORCE)
		when(p, "bind", TRAP_ACTION); /* makes a file, if its address is a path */
	if (plan->modes[TRAP_DNS] != MODE_NONE) {
		when(p, "sendto", TRAP_ACTION);
		when_each(p, message_calls, countof(message_calls), TRAP_ACTION);
	} else if (plan->modes[TRAP_ENDPOINT] != MODE_NONE) {
		sends(p);
		when_each(p, message_calls, countof(message_calls), TRAP_ACTION);
	}
	for (int nr = 0; nr < FUTURE; nr++) {
		int target = processes_target(nr); /* 0 there is the caller itself, and no question */
		if (!processes_trap(plan, nr))
			continue;
		if (target < 0) {
			settle(p, nr, TRAP_ACTION);
		} else {
			LOAD_ARG(p, nr, target);
			say(p, nr, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
			GIVE(p, nr, TRAP_ACTION);
		}
	}
	if (!(plan->scoped & SCOPE_SIGNALS))
		refuse_owners(p);
	for (int i = 0; i < plan->n_presets; i++) /* mmap(… PROT_EXEC, MAP_ANONYMOUS …), all registers */
		if (plan->presets[i].preset == PRESET_ANON_EXEC) {
			LOAD_ARG(p, SYS_mmap, 2);
			IF_SET(p, SYS_mmap, 4, 3);
			LOAD_ARG(p, SYS_mmap, 3);
			IF_SET(p, SYS_mmap, 0x20, 1);
			GIVE(p, SYS_mmap, TRAP_ACTION);
		}
	/* New namespaces, by clone's flags; TIOCSTI (type into the terminal) and TIOCLINUX. */
	when_bits(p, SYS_clone, 0,
		  CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
			  CLONE_NEWUTS | CLONE_NEWCGROUP,
		  TRAP_ACTION);
	when_one_of(p, SYS_ioctl, 1, ioctls, confine_ioctls_count(plan), TRAP_ACTION);
	/* Setting a new personality is refused; asking for the present one is not. */
	static const uint32_t asking[] = {0xffffffff, 0};
	when_one_of(p, SYS_personality, 0, asking, countof(asking), SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < countof(refused); i++)
		when(p, refused[i].name, TRAP_ACTION);
	/* setsid, prctl and the rest are the kernel's to judge. */
	for (int nr = 0; nr < FUTURE; nr++)
		settle(p, nr, SECCOMP_RET_ALLOW);
}

static unsigned emit(struct program *p, uint16_t op, uint32_t value, uint8_t yes, uint8_t no) {
	p->overflow |= p->n == countof(p->code);
	if (p->overflow)
		return 0;
	p->code[p->n] = (struct sock_filter){op, yes, no, value};
	return p->n++;
}

static bool alike(const struct call *a, const struct call *b) {
	return a->n == 1 && b->n == 1 && a->code[0].k == b->code[0].k;
}

/* Finds the call by halves, ``from`` included: the kernel tries every number when it takes a filter in
 * (seccomp_cache_prepare, 5.11), and runs it at each call whose arguments matter. */
static void search(struct program *p, int from, int to) {
	int middle = (from + to) / 2;
	while (middle > from && alike(&p->calls[middle - 1], &p->calls[middle]))
		middle--;
	if (middle == from)
		for (middle = (from + to) / 2 + 1; middle < to && alike(&p->calls[from], &p->calls[middle]);)
			middle++;
	if (middle >= to) {
		for (int i = 0; i < p->calls[from].n; i++) {
			struct sock_filter *code = &p->calls[from].code[i];
			emit(p, code->code, code->k, code->jt, code->jf);
		}
		return;
	}
	unsigned test = emit(p, BPF_JMP | BPF_JGE | BPF_K, (uint32_t)middle, 0, 0);
	search(p, from, middle);
	unsigned length = p->n - test - 1;
	if (length <= UINT8_MAX) {
		p->code[test].jt = (uint8_t)length;
	} else { /* as far as that only an unconditional jump reaches */
		emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
		if (p->overflow)
			return;
		memmove(&p->code[test + 2], &p->code[test + 1], length * sizeof *p->code);
		p->code[test].jf = 1;
		p->code[test + 1] = (struct sock_filter){BPF_JMP | BPF_JA, 0, 0, length};
	}
	search(p, middle, to);
}

static void build(struct program *p, const struct plan *plan) {
	say_all(p, plan);
	emit(p, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0);
	emit(p, BPF_RET | BPF_K, FAIL(ENOSYS), 0, 0);
	emit(p, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
	/* Calls that nobody has looked at yet, and on x86_64 those of x32. */
	emit(p, BPF_JMP | BPF_JGE | BPF_K, FUTURE, 0, 1);
	emit(p, BPF_RET | BPF_K, FAIL(ENOSYS), 0, 0);
	search(p, 0, FUTURE);
}

/* By number, since every notification asks. */
static struct {
	bool refused;
	int capability;
} by_number[1024];

static void number_refused(void) {
	static bool done;
	for (size_t i = 0; !done && i < countof(refused); i++) {
		int nr = syscall_number(refused[i].name);
		if (nr >= 0 && nr < (int)countof(by_number)) {
			by_number[nr].refused = true;
			by_number[nr].capability = refused[i].capability;
		}
	}
	by_number[SYS_ioctl].refused = by_number[SYS_clone].refused = true;
	by_number[SYS_ioctl].capability = -1;
	by_number[SYS_clone].capability = CAP_SYS_ADMIN;
	done = true;
}

bool confine_refused(int nr) {
	number_refused();
	return nr >= 0 && nr < (int)countof(by_number) && by_number[nr].refused;
}

int confine_capability_of(int nr) {
	return confine_refused(nr) ? by_number[nr].capability : -1;
}

/* Installs the filter for this process and what comes of it. Returns the listener, or -1. */
int confine_filter(const struct plan *plan, char *error, size_t size) {
	static struct program program;
	build(&program, plan);
	if (program.overflow) {
		snprintf(error, size, "the seccomp filter is too long");
		return -1;
	}
	struct sock_fprog fprog = {(unsigned short)program.n, program.code};
	unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog);
	if (listener < 0)
		snprintf(error, size, "seccomp: %s%s", strerror(errno),
			 errno == EBUSY ? " (another supervisor already listens to this process: a sandbox inside a sandbox)"
					: "");
	return listener;
}
