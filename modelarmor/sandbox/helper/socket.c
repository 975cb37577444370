/* Network calls: which sockets exist, and whom they may talk to.
 *
 * socket() is judged by its registers, which nobody can change meanwhile. Addresses lie in memory, so
 * connect, bind, listen and addressed sends are made here on a copy of the child's descriptor
 * (pidfd_getfd, 5.6). Where that call is not to be had (Docker's default seccomp profile without
 * CAP_SYS_PTRACE) they are looked at and let through, and the plan says "approximate".
 */
#include "helper.h"

#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <sys/ioctl.h>
#include <sys/un.h>

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	unsigned char bytes[sizeof(struct sockaddr_storage)];
};

bool socket_traps(int nr) {
	return nr == SYS_socket || nr == SYS_socketpair || nr == SYS_connect || nr == SYS_bind ||
	       nr == SYS_listen || nr == SYS_sendto || nr == SYS_sendmsg || nr == SYS_sendmmsg;
}

/* A copy of the child's descriptor, sharing its open file; -1 where this machine does not let us. */
static int copy_fd(struct task *task, int fd) {
	static pid_t last;
	static int pidfd = -1;
	/* The same caller again: its pidfd is still good, or says that it is somebody else by now. */
	int copy = last == task->pid ? (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0) : -1;
	if (last == task->pid && (copy >= 0 || errno != ESRCH))
		return copy;
	close_fd(&pidfd);
	pidfd = (int)syscall(SYS_pidfd_open, task->pid, 0);
	if (pidfd < 0) { /* not a thread group's leader */
		task_status(task);
		pidfd = (int)syscall(SYS_pidfd_open, task->tgid, 0);
	}
	last = pidfd < 0 ? 0 : task->pid;
	return pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
}

bool socket_can_act(pid_t pid) {
	struct task task;
	task_init(&task, -1, 0, pid);
	autoclose int fd = copy_fd(&task, 2);
	return fd >= 0 || errno == EBADF;
}

static int option(int fd, int name) {
	int value = -1;
	socklen_t size = sizeof value;
	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

static void refuse(struct task *task, const struct verdict *verdict,
		   const char *resource, int nr) {
	char data[64];
	syscall_label(data, sizeof data, nr);
	notify_report(task, verdict, "Network", resource, data);
	if (!verdict->allow)
		notify_reply(task->listener, task->id, EACCES, 0);
}

static const struct verdict beyond_egress = {.rule = RULE_EGRESS, .audit = RULE_NONE};

/* ---- socket() ------------------------------------------------------------------------------ */

static void describe(char *to, size_t size, int domain, int type, int protocol) {
	static const char *const types[] = {"0", "SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_RDM",
					    "SOCK_SEQPACKET", "SOCK_DCCP", "7", "8", "9", "SOCK_PACKET"};
	const char *family = domain == AF_INET	   ? "AF_INET"
			     : domain == AF_INET6  ? "AF_INET6"
			     : domain == AF_UNIX   ? "AF_UNIX"
			     : domain == AF_PACKET ? "AF_PACKET"
			     : domain == AF_NETLINK ? "AF_NETLINK"
						   : NULL;
	bool inet = domain == AF_INET || domain == AF_INET6;
	int kind = type & 0xf;
	const char *name = !inet ? NULL
			   : protocol == IPPROTO_TCP || (!protocol && kind == SOCK_STREAM) ? "TCP"
			   : protocol == IPPROTO_UDP || (!protocol && kind == SOCK_DGRAM) ? "UDP"
			   : protocol == IPPROTO_ICMP ? "ICMP"
			   : protocol == IPPROTO_ICMPV6 ? "ICMPV6"
			   : protocol == IPPROTO_SCTP ? "SCTP"
						      : NULL;
	char number[16], other[32];
	snprintf(number, sizeof number, "%d", protocol);
	snprintf(other, sizeof other, "domain=%d", domain);
	snprintf(to, size, "%s%s type=%s protocol=%s", family ? "domain=" : "", family ? family : other,
		 kind < (int)countof(types) ? types[kind] : "?", name ? name : number);
}

static bool family_permitted(const struct plan *plan, int domain, int type, int protocol) {
	type &= 0xf;
	if (plan->egress == EGRESS_ANY)
		return true;
	/* A datagram names its receiver in memory, which could be changed meanwhile; also one of a pair
	 * may go elsewhere. SOCK_RAW is another word for it here (unix_create, net/unix/af_unix.c). */
	if (domain == AF_UNIX)
		return type == SOCK_STREAM || type == SOCK_SEQPACKET;
	if (domain == AF_NETLINK) /* interface lists, which getaddrinfo and ZeroMQ ask for */
		return protocol == NETLINK_ROUTE;
	/* Only what Landlock and the endpoint list know: not MPTCP, SCTP, raw, vsock … */
	return plan->egress == EGRESS_LIMITED && (domain == AF_INET || domain == AF_INET6) &&
	       ((type == SOCK_STREAM && (!protocol || protocol == IPPROTO_TCP)) ||
		(type == SOCK_DGRAM && (!protocol || protocol == IPPROTO_UDP)));
}

static void handle_socket(const struct plan *plan, struct task *task, int nr, int domain, int type,
			  int protocol) {
	struct operation op = {.kind = OP_NETWORK, .path = "", .source = task_exe,
			       .tty = task_tty, .context = task, .domain = domain, .type = type,
			       .protocol = protocol};
	struct verdict verdict = plan_decide(plan, &op);
	char resource[128];
	describe(resource, sizeof resource, domain, type, protocol);
	if (verdict.allow && !family_permitted(plan, domain, type, protocol))
		verdict = beyond_egress;
	if (!verdict.allow) {
		refuse(task, &verdict, resource, nr);
		return;
	}
	if ((type & 0xf) == SOCK_RAW || domain == AF_PACKET) {
		struct operation raw = {.kind = OP_CAPABILITY, .path = "net_raw", .source = task_exe,
					.context = task};
		struct verdict said = plan_decide(plan, &raw);
		bool netlink = domain == AF_NETLINK; /* SOCK_RAW there needs no capability */
		if (!netlink && (!said.allow || said.audit != RULE_NONE))
			notify_report(task, &said, "Capabilities", "CAP_NET_RAW", resource);
		if (!netlink && !said.allow) {
			notify_reply(task->listener, task->id, EPERM, 0);
			return;
		}
	}
	notify_report(task, &verdict, "Network", resource, "syscall=SYS_SOCKET");
	notify_continue(task->listener, task->id);
}

/* ---- whom to talk to ----------------------------------------------------------------------- */

static void address_text(const union address *to, char *out, size_t size) {
	char text[INET6_ADDRSTRLEN] = "";
	if (to->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &to->in.sin_addr, text, sizeof text);
		snprintf(out, size, "remoteip=%s port=%d", text, ntohs(to->in.sin_port));
	} else if (to->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &to->in6.sin6_addr, text, sizeof text);
		snprintf(out, size, "remoteip=%s port=%d", text, ntohs(to->in6.sin6_port));
	} else {
		snprintf(out, size, "domain=%d", to->any.sa_family);
	}
}

/* Sockets that the sandbox itself put into the file system. */
static struct own_socket {
	dev_t dev;
	ino_t ino;
} own_sockets[1024];
static unsigned n_own_sockets;

static void remember_socket(const struct resolved *at) {
	struct stat st;
	if (fstatat(at->parent, at->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode))
		own_sockets[n_own_sockets++ % countof(own_sockets)] =
			(struct own_socket){st.st_dev, st.st_ino};
}

static bool is_own_socket(int fd) {
	struct stat st;
	if (fstat(fd, &st) < 0)
		return false;
	for (size_t i = 0; i < countof(own_sockets); i++)
		if (own_sockets[i].ino == st.st_ino && own_sockets[i].dev == st.st_dev)
			return true;
	return false;
}

/* A socket in the file system is a door to another program: it must be the policy's to write, and
 * where the policy does not limit files, be the sandbox's own. */
static struct verdict judge_unix(const struct plan *plan, struct task *task, const char *path, int fd) {
	struct verdict verdict = notify_judge(plan, task, OP_WRITE, path, fd);
	if (!verdict.allow || plan->egress == EGRESS_ANY || plan->postures[CLASS_FILE] == POSTURE_BLOCK)
		return verdict;
	return is_own_socket(fd) ? verdict : beyond_egress;
}

/* An abstract socket has no path: the Landlock domain is the limit, and before it can be (ABI 6) none
 * may be reached from a workload whose egress is limited. */
static bool abstract_passes(const struct plan *plan, struct task *task, int nr) {
	if (plan->scoped & SCOPE_ABSTRACT_SOCKETS || plan->egress == EGRESS_ANY)
		return true;
	refuse(task, &beyond_egress, "domain=AF_UNIX abstract", nr);
	return false;
}

/* Judges an address; answers and returns false where it is refused. For a path socket, ``at`` keeps
 * the object and ``to`` is rewritten to name exactly that. */
static bool may_reach(const struct plan *plan, struct task *task, int nr, int fd, union address *to,
		      socklen_t *length, struct resolved *at) {
	char resource[PATH_MAX + 32];
	if (to->any.sa_family == AF_UNSPEC)
		return true;
	if (to->any.sa_family == AF_UNIX) {
		size_t room = *length - offsetof(struct sockaddr_un, sun_path);
		if (*length <= offsetof(struct sockaddr_un, sun_path) || !to->un.sun_path[0])
			return abstract_passes(plan, task, nr);
		char path[sizeof to->un.sun_path + 1] = "";
		memcpy(path, to->un.sun_path, room < sizeof path ? room : sizeof path - 1);
		bool mine = task_assume(task);
		path_resolve(task, AT_FDCWD, path, RESOLVE_FOLLOW, at);
		task_resume();
		if (at->fd < 0 || !mine) {
			notify_reply(task->listener, task->id, mine ? at->error : EACCES, 0);
			return false;
		}
		struct verdict verdict = judge_unix(plan, task, at->path, at->fd);
		if (!verdict.allow) {
			refuse(task, &verdict, at->path, nr);
			return false;
		}
		to->un.sun_family = AF_UNIX;
		int n = snprintf(to->un.sun_path, sizeof to->un.sun_path, "/proc/self/fd/%d", at->fd);
		*length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
		return true;
	}
	if (to->any.sa_family != AF_INET && to->any.sa_family != AF_INET6)
		return true; /* netlink and the like: which families exist is socket()'s question */
	int protocol = fd >= 0 && option(fd, SO_TYPE) == SOCK_DGRAM ? IPPROTO_UDP : IPPROTO_TCP;
	if (plan_endpoint_allowed(plan, &to->any, protocol))
		return true;
	address_text(to, resource, sizeof resource);
	snprintf(resource + strlen(resource), 16, " protocol=%s", protocol == IPPROTO_UDP ? "UDP" : "TCP");
	refuse(task, &beyond_egress, resource, nr);
	return false;
}

static bool read_address(struct task *task, uint64_t at, uint64_t length, union address *to) {
	memset(to, 0, sizeof *to);
	return length >= sizeof(sa_family_t) && length <= sizeof *to &&
	       task_read(task->pid, at, to->bytes, length) == (ssize_t)length;
}

/* As read_address, of one to send to or to bind. Without a family it is IPv4's to Linux
 * (udp_sendmsg, net/ipv4/udp.c; __inet_bind, net/ipv4/af_inet.c); for connect it dissolves. */
static bool read_destination(struct task *task, uint64_t at, uint64_t length, union address *to) {
	bool good = read_address(task, at, length, to);
	if (good && to->any.sa_family == AF_UNSPEC)
		to->any.sa_family = AF_INET;
	return good;
}

/* Connections that the child waits for and we must not. */
static struct waiting {
	uint64_t id;
	int listener, fd, flags;
	bool retry; /* a full backlog of a Unix socket: asked again, there is nothing to poll */
	int object; /* what ``to`` names by descriptor, or -1 */
	union address to;
	socklen_t length;
} waiting[256];
static int n_waiting;

static void finish(int i, int error) {
	fcntl(waiting[i].fd, F_SETFL, waiting[i].flags);
	notify_reply(waiting[i].listener, waiting[i].id, error, 0);
	close(waiting[i].fd);
	close_fd(&waiting[i].object);
	waiting[i] = waiting[--n_waiting];
}

int socket_waiting(struct pollfd *fds, int max) {
	int n = 0;
	for (; n < n_waiting && n < max; n++)
		fds[n] = (struct pollfd){.fd = waiting[n].fd, .events = waiting[n].retry ? 0 : POLLOUT};
	return n;
}

void socket_ready(const struct pollfd *fds, int count) {
	for (int i = count - 1; i >= 0; i--) {
		struct waiting *wait = &waiting[i];
		if (ioctl(wait->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &wait->id) < 0) {
			finish(i, EINTR);
		} else if (wait->retry) {
			if (connect(wait->fd, &wait->to.any, wait->length) == 0 || errno != EAGAIN)
				finish(i, errno == EAGAIN ? 0 : errno);
		} else if (fds[i].revents) {
			finish(i, option(wait->fd, SO_ERROR));
		}
	}
}

static void act_connect(struct task *task, int *fd, const union address *to, socklen_t length,
			struct resolved *at) {
	int flags = fcntl(*fd, F_GETFL);
	bool blocking = !(flags & O_NONBLOCK);
	if (blocking)
		fcntl(*fd, F_SETFL, flags | O_NONBLOCK);
	int failed = connect(*fd, &to->any, length), error = errno;
	if (failed && blocking && (error == EINPROGRESS || error == EAGAIN) &&
	    n_waiting < (int)countof(waiting)) {
		waiting[n_waiting++] = (struct waiting){.id = task->id, .listener = task->listener,
							.fd = *fd, .flags = flags, .object = at->fd,
							.retry = error == EAGAIN, .to = *to,
							.length = length};
		*fd = at->fd = -1; /* answered when it is done */
		return;
	}
	if (blocking)
		fcntl(*fd, F_SETFL, flags);
	notify_reply(task->listener, task->id, failed ? error : 0, 0);
}

static void handle_connect(const struct plan *plan, struct task *task, int nr, const __u64 *a) {
	union address to;
	struct resolved at = {.fd = -1, .parent = -1};
	socklen_t length = (socklen_t)a[2];
	if (!read_address(task, a[1], length, &to)) {
		notify_reply(task->listener, task->id, EINVAL, 0);
		return;
	}
	autoclose int fd = copy_fd(task, (int)a[0]);
	if (fd < 0 && errno == EBADF) {
		notify_reply(task->listener, task->id, EBADF, 0);
		return;
	}
	if (may_reach(plan, task, nr, fd, &to, &length, &at)) {
		if (fd < 0)
			notify_continue(task->listener, task->id);
		else if (!task_assume(task))
			notify_reply(task->listener, task->id, EACCES, 0);
		else
			act_connect(task, &fd, &to, length, &at);
		task_resume();
	}
	path_release(&at);
}

/* ---- being talked to ----------------------------------------------------------------------- */

static void handle_bind(const struct plan *plan, struct task *task, const __u64 *a) {
	union address to;
	struct resolved at = {.fd = -1, .parent = -1};
	socklen_t length = (socklen_t)a[2];
	char resource[128];
	if (!read_destination(task, a[1], length, &to)) {
		notify_reply(task->listener, task->id, EINVAL, 0);
		return;
	}
	bool inet = to.any.sa_family == AF_INET || to.any.sa_family == AF_INET6;
	if (inet && plan->egress != EGRESS_ANY) {
		address_text(&to, resource, sizeof resource);
		refuse(task, &beyond_egress, resource, SYS_bind);
		return;
	}
	bool path = to.any.sa_family == AF_UNIX &&
		    length > offsetof(struct sockaddr_un, sun_path) && to.un.sun_path[0];
	if (path) {
		char name[sizeof to.un.sun_path + 1] = "";
		memcpy(name, to.un.sun_path, length - offsetof(struct sockaddr_un, sun_path) < sizeof name
						     ? length - offsetof(struct sockaddr_un, sun_path)
						     : sizeof name - 1);
		bool mine = task_assume(task);
		path_resolve(task, AT_FDCWD, name, RESOLVE_PARENT, &at);
		task_resume();
		if (at.error || !mine) {
			notify_reply(task->listener, task->id, mine ? at.error : EACCES, 0);
			path_release(&at);
			return;
		}
		struct verdict verdict = notify_judge(plan, task, OP_CREATE, at.path, -1);
		if (!verdict.allow) {
			notify_report(task, &verdict, "File", at.path, "syscall=SYS_BIND");
			notify_reply(task->listener, task->id, EACCES, 0);
			path_release(&at);
			return;
		}
	}
	autoclose int fd = copy_fd(task, (int)a[0]);
	if (fd < 0) {
		notify_continue(task->listener, task->id);
	} else {
		/* With the address as it was given, since getsockname() returns it: a path that is moved
		 * in between is held by Landlock's "make socket" alone. */
		char cwd[64];
		snprintf(cwd, sizeof cwd, "/proc/%d/cwd", task->pid);
		task_status(task);
		umask((mode_t)task->umask);
		int failed = -1, error = EACCES;
		if (task_assume(task) && (!path || chdir(cwd) == 0))
			failed = bind(fd, &to.any, length);
		if (failed)
			error = errno;
		else if (path)
			remember_socket(&at);
		task_resume();
		if (path && chdir("/") < 0)
			error = errno;
		notify_reply(task->listener, task->id, failed ? error : 0, 0);
	}
	path_release(&at);
}

static void handle_listen(const struct plan *plan, struct task *task, const __u64 *a) {
	autoclose int fd = copy_fd(task, (int)a[0]);
	int domain = fd < 0 ? -1 : option(fd, SO_DOMAIN);
	/* One that listens already was given by whoever started the workload: asyncio and others
	   call listen() again to set the length of its queue. */
	bool inet = (domain == AF_INET || domain == AF_INET6) && option(fd, SO_ACCEPTCONN) != 1;
	if (fd < 0 && errno == EBADF) {
		notify_reply(task->listener, task->id, EBADF, 0);
	} else if (plan->egress != EGRESS_ANY && (inet || (fd < 0 && plan->egress == EGRESS_LIMITED))) {
		refuse(task, &beyond_egress, "listen", SYS_listen);
	} else if (fd < 0) {
		notify_continue(task->listener, task->id);
	} else {
		int failed = listen(fd, (int)a[1]);
		notify_reply(task->listener, task->id, failed ? errno : 0, 0);
	}
}

/* ---- messages ------------------------------------------------------------------------------ */

enum { MESSAGE_MAX = 65536 };
static unsigned char message[MESSAGE_MAX];

/* The name that a DNS query asks for (RFC 1035 section 4.1.2), or false. */
static bool dns_query(const unsigned char *data, size_t size, char *name, size_t room) {
	size_t at = 12, used = 0;
	if (size < 17 || data[2] & 0x80 || !(data[4] | data[5]))
		return false;
	while (at < size && data[at]) {
		size_t label = data[at++];
		if (label > 63 || at + label >= size || used + label + 2 > room)
			return false;
		if (used)
			name[used++] = '.';
		memcpy(name + used, data + at, label);
		used += label;
		at += label;
	}
	name[used] = 0;
	return used > 0 && strlen(name) == used;
}

static bool to_dns_port(int fd, const union address *to, socklen_t length) {
	union address peer = {0};
	socklen_t size = sizeof peer;
	if (!length && fd >= 0 && getpeername(fd, &peer.any, &size) == 0)
		to = &peer;
	return (to->any.sa_family == AF_INET && to->in.sin_port == htons(53)) ||
	       (to->any.sa_family == AF_INET6 && to->in6.sin6_port == htons(53));
}

/* Judges one message; false where it was refused and answered. */
static bool message_passes(const struct plan *plan, struct task *task, int nr, int fd,
			   union address *to, socklen_t *length, size_t size, struct resolved *at) {
	char name[256];
	if (plan->modes[TRAP_DNS] != MODE_NONE && (fd < 0 || to_dns_port(fd, to, *length)) &&
	    dns_query(message, size, name, sizeof name)) {
		struct operation op = {.kind = OP_DNS, .path = name, .source = task_exe,
				       .context = task};
		struct verdict verdict = plan_decide(plan, &op);
		refuse(task, &verdict, name, nr);
		if (!verdict.allow)
			return false;
	}
	return plan->modes[TRAP_ENDPOINT] == MODE_NONE || !*length ||
	       may_reach(plan, task, nr, fd, to, length, at);
}

static void handle_sendto(const struct plan *plan, struct task *task, const __u64 *a) {
	union address to = {0};
	struct resolved at = {.fd = -1, .parent = -1};
	socklen_t length = a[4] ? (socklen_t)a[5] : 0;
	bool endpoint = plan->modes[TRAP_ENDPOINT] != MODE_NONE;
	if (endpoint && a[3] & MSG_FASTOPEN) {
		refuse(task, &beyond_egress, "flags=MSG_FASTOPEN", SYS_sendto);
		return;
	}
	if (length && !read_destination(task, a[4], length, &to)) {
		notify_reply(task->listener, task->id, EINVAL, 0);
		return;
	}
	if (!length && plan->modes[TRAP_DNS] == MODE_NONE) {
		notify_continue(task->listener, task->id);
		return;
	}
	autoclose int fd = copy_fd(task, (int)a[0]);
	if (a[2] > MESSAGE_MAX && length) {
		notify_reply(task->listener, task->id, EMSGSIZE, 0);
		return;
	}
	size_t size = a[2] < MESSAGE_MAX ? a[2] : MESSAGE_MAX;
	bool datagram = fd >= 0 && option(fd, SO_TYPE) == SOCK_DGRAM;
	if (size && (length || datagram) && task_read(task->pid, a[1], message, size) != (ssize_t)size) {
		notify_reply(task->listener, task->id, EFAULT, 0);
		return;
	}
	if (message_passes(plan, task, SYS_sendto, fd, &to, &length, datagram || fd < 0 ? size : 0, &at)) {
		if (fd < 0 || !length || !endpoint) {
			notify_continue(task->listener, task->id);
		} else {
			ssize_t n = sendto(fd, message, size, (int)a[3] | MSG_DONTWAIT | MSG_NOSIGNAL,
					   &to.any, length);
			notify_reply(task->listener, task->id, n < 0 ? errno : 0, n);
		}
	}
	path_release(&at);
}

/* Reads one message of the child into ``message``. Returns its size, or -errno. */
static ssize_t gather(struct task *task, uint64_t at, struct msghdr *head, union address *to,
		      socklen_t *length) {
	struct iovec parts[64];
	size_t size = 0;
	if (task_read(task->pid, at, head, sizeof *head) != sizeof *head)
		return -EFAULT;
	*length = head->msg_name ? head->msg_namelen : 0;
	if (*length && !read_destination(task, (uintptr_t)head->msg_name, *length, to))
		return -EINVAL;
	if (head->msg_iovlen > countof(parts) || head->msg_iovlen == 0)
		return head->msg_iovlen ? -EMSGSIZE : 0;
	size_t bytes = head->msg_iovlen * sizeof *parts;
	if (task_read(task->pid, (uintptr_t)head->msg_iov, parts, bytes) != (ssize_t)bytes)
		return -EFAULT;
	for (size_t i = 0; i < head->msg_iovlen; i++) {
		if (parts[i].iov_len > MESSAGE_MAX - size)
			return -EMSGSIZE;
		if (parts[i].iov_len && task_read(task->pid, (uintptr_t)parts[i].iov_base, message + size,
						  parts[i].iov_len) != (ssize_t)parts[i].iov_len)
			return -EFAULT;
		size += parts[i].iov_len;
	}
	return (ssize_t)size;
}

/* sendmsg and sendmmsg. Datagrams to the internet are sent here; everything else goes on: a stream
 * ignores the address, and a Unix socket may carry descriptors, which only the child can send. */
static void handle_messages(const struct plan *plan, struct task *task, int nr, const __u64 *a) {
	bool many = nr == SYS_sendmmsg, endpoint = plan->modes[TRAP_ENDPOINT] != MODE_NONE;
	int flags = (int)a[many ? 3 : 2];
	unsigned count = many ? (unsigned)a[2] : 1, done = 0;
	ssize_t last = 0;
	if (endpoint && flags & MSG_FASTOPEN) {
		refuse(task, &beyond_egress, "flags=MSG_FASTOPEN", nr);
		return;
	}
	autoclose int fd = copy_fd(task, (int)a[0]);
	int domain = fd < 0 ? -1 : option(fd, SO_DOMAIN);
	bool datagram = fd < 0 || ((domain == AF_INET || domain == AF_INET6) &&
				   option(fd, SO_TYPE) == SOCK_DGRAM);
	if (!datagram) {
		notify_continue(task->listener, task->id);
		return;
	}
	for (; done < count && done < 1024; done++) {
		struct mmsghdr entry;
		union address to = {0};
		struct resolved at = {.fd = -1, .parent = -1};
		socklen_t length = 0;
		uint64_t where = a[1] + (many ? done * sizeof entry : 0);
		ssize_t size = gather(task, where, &entry.msg_hdr, &to, &length);
		if (size < 0) {
			if (!done)
				notify_reply(task->listener, task->id, (int)-size, 0);
			break;
		}
		if (!message_passes(plan, task, nr, fd, &to, &length, (size_t)size, &at)) {
			path_release(&at);
			return;
		}
		path_release(&at);
		if (fd < 0 || !endpoint)
			continue;
		last = sendto(fd, message, (size_t)size, flags | MSG_DONTWAIT | MSG_NOSIGNAL,
			      length ? &to.any : NULL, length);
		if (last < 0) {
			if (!done)
				notify_reply(task->listener, task->id, errno, 0);
			break;
		}
		unsigned sent = (unsigned)last;
		if (many)
			task_write(task->pid, where + offsetof(struct mmsghdr, msg_len), &sent, sizeof sent);
	}
	if (fd < 0 || !endpoint) {
		notify_continue(task->listener, task->id);
	} else if (done || !count) {
		notify_reply(task->listener, task->id, 0, many ? (ssize_t)done : last);
	}
}

void socket_handle(const struct plan *plan, struct task *task, const struct seccomp_notif *req) {
	const __u64 *a = req->data.args;
	int nr = req->data.nr;
	if (nr == SYS_socket || nr == SYS_socketpair)
		handle_socket(plan, task, nr, (int)a[0], (int)a[1], (int)a[2]);
	else if (nr == SYS_sendto)
		handle_sendto(plan, task, a);
	else if (nr == SYS_sendmsg || nr == SYS_sendmmsg)
		handle_messages(plan, task, nr, a);
	else if (nr == SYS_bind && (plan->modes[TRAP_ENDPOINT] != MODE_NONE ||
				    plan->modes[TRAP_WRITE] == MODE_ENFORCE))
		handle_bind(plan, task, a);
	else if (plan->modes[TRAP_ENDPOINT] == MODE_NONE)
		notify_continue(task->listener, task->id); /* seen by an Audit rule only */
	else if (nr == SYS_connect)
		handle_connect(plan, task, nr, a);
	else
		handle_listen(plan, task, a);
}
