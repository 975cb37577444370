/* The sandbox's helper: confines one command and answers for it to a policy.
 *
 * Three processes. The *guard* starts everything, waits, and ends whatever is left when the
 * supervisor dies. The *supervisor* listens to seccomp notifications, decides by the table that the
 * planner compiled, acts on the child's behalf and reports. The *child* becomes the command.
 *
 *   guard             Landlock domain D0: signals reach this sandbox and nothing else
 *     supervisor      D0 > D1: all that it does for the child stays inside the child's own boundary
 *       child         D0 > D1 > D2: cannot signal, trace or reach the two above, even as root
 *
 * One job a file:  main.c lifecycle | plan.c the table and its decisions | confine.c Landlock,
 * seccomp, capabilities | notify.c one notification after another | path.c what a path of the child
 * means | socket.c network calls | processes.c calls that name another process | report.c alerts as
 * JSON lines | resource.c limits | check.c the table, for tests.
 */
#ifndef MODELARMOR_HELPER_H
#define MODELARMOR_HELPER_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define countof(a) (sizeof(a) / sizeof((a)[0]))
static inline void close_fd(const int *fd) {
	if (*fd >= 0)
		close(*fd);
}
#define autoclose __attribute__((cleanup(close_fd)))

/* Exit status of the helper itself when the command could not be confined, as container runtimes. */
enum { EXIT_CANNOT_CONFINE = 125, EXIT_CANNOT_EXEC = 126, EXIT_NOT_FOUND = 127 };

/* ---- plan.c ------------------------------------------------------------------------------- */

enum class { CLASS_PROCESS, CLASS_FILE, CLASS_NETWORK, CLASS_CAPABILITY, CLASS_DNS,
	CLASS_COUNT };
enum match { MATCH_PATH, MATCH_EXECNAME, MATCH_DIRECTORY, MATCH_PATTERN, MATCH_NAME, MATCH_DNS };
enum action { ACTION_ALLOW, ACTION_BLOCK, ACTION_AUDIT };
enum posture { POSTURE_OPEN, POSTURE_AUDIT, POSTURE_BLOCK };
enum kind { OP_EXEC, OP_READ, OP_LIST, OP_WRITE, OP_CREATE, OP_DELETE, OP_METADATA, OP_NETWORK,
	OP_DNS, OP_CAPABILITY };
/* What a trap is for: nothing, telling what the kernel tier refuses, or refusing itself. */
enum mode { MODE_NONE, MODE_REPORT, MODE_ENFORCE };
enum trap { TRAP_READ, TRAP_WRITE, TRAP_METADATA, TRAP_EXEC, TRAP_SOCKET, TRAP_ENDPOINT,
	TRAP_DNS, TRAP_COUNT };
enum egress { EGRESS_ANY, EGRESS_NONE, EGRESS_LIMITED };
enum preset { PRESET_NONE, PRESET_FILELESS, PRESET_PROTECT_PROC, PRESET_PROTECT_ENV, PRESET_EXEC,
	PRESET_ANON_EXEC };

struct rule {
	int id;
	enum class class;
	enum match match;
	enum action action;
	bool owner_only, read_only, recursive, tty_only, baseline, device;
	char *value;
	size_t length;
	char **sources;
	int n_sources;
	char **args;
	int n_args;
	int next; /* in its bucket, or -1 */
};

struct syscall_source {
	bool directory, recursive;
	char *path;
};

struct syscall_rule {
	int id, nr;
	char *path;
	bool recursive;
	struct syscall_source *sources;
	int n_sources;
};

struct preset_rule {
	int id;
	enum preset preset;
	enum action action;
};

/* A file that a Block rule covers and that had another name before: told by its inode. */
struct named {
	dev_t dev;
	ino_t ino;
	const char *path;
};

struct fs_grant {
	char *path;
	uint64_t rights;
};

struct port_grant {
	uint64_t rights, port;
};

struct cidr {
	int family;
	unsigned char address[16];
	int prefix;
};

struct endpoint {
	struct cidr net;
	int protocol; /* IPPROTO_TCP, IPPROTO_UDP, or 0 for both */
	int low, high;
	struct cidr *except;
	int n_except;
};

struct limits {
	uint64_t memory, processes, disk, open_files, cpu_millis, alerts;
};

/* A counter of a control group: growing means that its limit was reached. */
struct counter {
	const char *kind; /* memory, processes, cpu */
	const char *path, *key;
	int fd;
	unsigned long long last;
};

/* Bits of ``scoped`` (Landlock ABI 6). */
enum { SCOPE_ABSTRACT_SOCKETS = 1, SCOPE_SIGNALS = 2 };

struct plan {
	struct rule *rules;
	int n_rules;
	int *buckets, scanned;
	bool present[CLASS_COUNT][3];
	struct syscall_rule *syscalls;
	int n_syscalls;
	struct preset_rule *presets;
	int n_presets;
	enum posture postures[CLASS_COUNT];
	enum mode modes[TRAP_COUNT];
	uint64_t fs_handled, net_handled, scoped, keep_caps;
	bool child_reads_proc;
	struct fs_grant *grants;
	int n_grants;
	/* What may be read whatever the conditions of rules turn out to be, sorted; the child's own
	 * domain grants just that, so that an open of it can be left to the child (plan_surely_readable). */
	char **sure;
	int n_sure;
	struct port_grant *ports;
	int n_ports;
	enum egress egress;
	struct endpoint *endpoints;
	int n_endpoints;
	struct named *named;
	int n_named;
	struct limits limits;
	char *cgroups[8];
	int cgroup_fds[8];
	int n_cgroups;
	struct counter counters[8];
	int n_counters;
};

/* What the child is about to do. The callbacks are asked only where a rule needs them. */
struct operation {
	enum kind kind;
	const char *path;             /* resolved; protocol name, domain or capability elsewhere */
	/* Facts that few rules ask for, found out when one does; NULL for none. */
	const char *(*source)(void *); /* the executables of the caller and of its parent */
	const char *(*parent)(void *);
	bool (*owner)(void *);
	bool (*tty)(void *);
	const char *const *(*args)(void *, int *count);
	void *context;
	int domain, type, protocol;   /* OP_NETWORK */
};

struct verdict {
	bool allow, posture;
	int rule;  /* that decided, -1 for none */
	int audit; /* Audit rule to report, -1 for none */
};

bool plan_parse(struct plan *plan, char *text, size_t length, char *error, size_t error_size);
struct verdict plan_decide(const struct plan *plan, const struct operation *op);
bool plan_surely_readable(const struct plan *plan, const char *path);
bool plan_endpoint_allowed(const struct plan *plan, const struct sockaddr *to, int protocol);
int syscall_number(const char *name);
const char *syscall_name(int nr);
void syscall_label(char *to, size_t size, int nr);

/* ---- confine.c ---------------------------------------------------------------------------- */

enum domain { DOMAIN_GUARD, DOMAIN_SUPERVISOR, DOMAIN_CHILD };
bool confine_domain(const struct plan *plan, enum domain domain, char *error, size_t error_size);
bool confine_capabilities(uint64_t keep, char *error, size_t error_size);
int confine_filter(const struct plan *plan, char *error, size_t error_size);
bool confine_refused(int nr);
int confine_capability_of(int nr);
bool confine_terminal_ioctl(uint32_t request);

/* ---- report.c ----------------------------------------------------------------------------- */

enum { RULE_NONE = -1, RULE_POSTURE = -2, RULE_SANDBOX = -3, RULE_RESOURCE = -4, RULE_EGRESS = -5 };
struct task;
struct event {
	const char *operation; /* Process, File, Network, Capabilities, Syscall, Resource */
	const char *resource, *data, *message;
	int rule;
	bool blocked;
};
void report_to(int fd);
void report_limit(uint64_t alerts_per_second);
void report_event(struct task *task, const struct event *event);
void report_state(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool report_pending(void);
void report_flush(bool all);

/* ---- path.c ------------------------------------------------------------------------------- */

/* A process that made a call; facts about it are read once and only when asked for. */
struct task {
	pid_t pid; /* the thread's id, as the notification gives it */
	int listener;
	uint64_t id;
	int inode_fd; /* object whose owner matters, or -1 */
	const struct stat *opened; /* what an open found, so that it is looked at once; or NULL */
	pid_t tgid, ppid;
	int tty, umask;
	uid_t uid, fsuid;
	gid_t fsgid;
	uint64_t caps;
	bool have_status, have_stat;
	char exe[PATH_MAX], parent_exe[PATH_MAX], cwd[PATH_MAX];
	bool have_exe, have_parent, have_cwd;
	const char *args[24];
	char arg_text[4096];
	int n_args;
	bool have_args;
	uint64_t argv;
};
void task_init(struct task *task, int listener, uint64_t id, pid_t pid);
bool task_alive(const struct task *task);
void task_status(struct task *task);
pid_t task_tgid(struct task *task);
void task_stat(struct task *task);
const char *task_exe(void *task);
const char *task_parent_exe(void *task);
const char *task_cwd(struct task *task);
int task_cmdline(pid_t pid, char *out, size_t size);
bool task_owner(void *task);
bool task_tty(void *task);
const char *const *task_args(void *task, int *count);
void task_identities(uint64_t keep_caps);
bool task_assume(struct task *task);
void task_resume(void);
ssize_t task_read(pid_t pid, uint64_t address, void *out, size_t size);
ssize_t task_write(pid_t pid, uint64_t address, const void *in, size_t size);
int task_read_string(pid_t pid, uint64_t address, char *out, size_t size);

struct resolved {
	int fd;     /* O_PATH of the object, or -1 where it does not exist (errno in error) */
	int parent; /* O_PATH of its directory where only the last name is missing or is wanted */
	int error;
	char name[NAME_MAX + 1];
	char path[PATH_MAX];
};
enum { RESOLVE_FOLLOW = 0, RESOLVE_LINK = 1, RESOLVE_PARENT = 2 };
void path_resolve(struct task *task, int dirfd, const char *path, int how, struct resolved *out);
void path_release(struct resolved *resolved);
void path_protect(pid_t guard, pid_t supervisor);
bool path_is_protected(const char *path);
pid_t path_proc_pid(const char *path, const char **rest);

/* ---- notify.c, socket.c, processes.c, resource.c -------------------------------------------------------- */

void notify_handle(const struct plan *plan, int listener, const struct seccomp_notif *req);
void notify_init(pid_t child);
int notify_tick(const struct plan *plan);
struct verdict notify_judge(const struct plan *plan, struct task *task, enum kind kind,
			    const char *path, int inode_fd);
void notify_reply(int listener, uint64_t id, int error, int64_t value);
void notify_continue(int listener, uint64_t id);
void notify_report(struct task *task, const struct verdict *verdict,
		   const char *operation, const char *resource, const char *data);
void socket_handle(const struct plan *plan, struct task *task, const struct seccomp_notif *req);
bool socket_traps(int nr);
int socket_waiting(struct pollfd *fds, int max);
void socket_ready(const struct pollfd *fds, int count);
bool socket_can_act(pid_t pid);

bool processes_trap(const struct plan *plan, int nr);
int processes_target(int nr);
void processes_handle(struct task *task, const struct seccomp_notif *req);

bool resource_open(struct plan *plan, char *error, size_t error_size);
bool resource_apply(const struct plan *plan, char *error, size_t error_size);
void resource_files_reached(void);
bool resource_allocation_fits(const struct plan *plan, uint64_t offset, uint64_t length);
bool resource_watched(const struct plan *plan);
bool resource_check(struct plan *plan, pid_t child);

/* ---- check.c ------------------------------------------------------------------------------- */

int check_plan(const char *path);
int check_decide(const char *path);
bool plan_read(int fd, struct plan *plan, char *error, size_t error_size);

#endif
