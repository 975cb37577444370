/* The attempts that need C: other entries to the kernel, and races at full speed.
 *
 *   probe int80 FILE | uring FILE | race-path DECOY SECRET | race-link DECOY SECRET LINK
 *   probe race-dirfd A B NAME | race-cwd A B NAME | race-rename A B NAME DIR
 *   probe race-exec DECOY SECRET | race-exec-link DECOY SECRET LINK
 *   probe race-write DECOY FILE
 *   probe race-connect DECOY-IP DECOY-PORT IP PORT | race-sendto … | race-sendmsg …
 *   probe newuser clone|clone3 | vfork FILE | uids -
 *
 * Prints what it got hold of and exits 0; exits 1 with a word why not. A race ends after RACE_MS.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef RACE_MS
#define RACE_MS 900
#endif

static atomic_bool stop;
static char shared[4096];
static const char *first, *second, *name, *link_path;
static int fd_first, fd_second, fd_shared;
static struct sockaddr_in to_first, to_second, to_shared;

static int no(const char *what) {
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

static long now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool show(int fd, const char *unless) {
	char text[256];
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0 || (unless && !strncmp(text, unless, strlen(unless))))
		return false;
	fwrite(text, 1, (size_t)n, stdout);
	fflush(stdout);
	return true;
}

/* ---- other entries ------------------------------------------------------------------------- */

static int int80(const char *path) {
#if defined(__x86_64__)
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	snprintf(low, 4096, "%s", path);
	long fd;
	__asm__ volatile("int $0x80" : "=a"(fd) : "a"(5L), "b"(low), "c"(0L), "d"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	if (fd >= 0)
		return !show((int)fd, NULL);
	errno = (int)-fd;
#else
	errno = ENOSYS;
	(void)path;
#endif
	return no("int 0x80");
}

static int uring(const char *path) {
	struct io_uring_params p = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &p);
	if (ring < 0)
		return no("io_uring_setup");
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, 3, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), 3,
			MAP_SHARED, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqes = mmap(NULL, p.sq_entries * sizeof *sqes, 3, MAP_SHARED, ring,
					 IORING_OFF_SQES);
	sqes[0] = (struct io_uring_sqe){.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
					.addr = (uint64_t)(uintptr_t)path};
	((uint32_t *)(sq + p.sq_off.array))[0] = 0;
	*(uint32_t *)(sq + p.sq_off.tail) = 1;
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return no("io_uring_enter");
	int fd = ((struct io_uring_cqe *)(cq + p.cq_off.cqes))->res;
	if (fd >= 0)
		return !show(fd, NULL);
	errno = -fd;
	return no("openat");
}

static char stack[65536];
static int child(void *unused) {
	(void)unused;
	return 0;
}

static int newuser(const char *how) {
	long pid;
	if (!strcmp(how, "clone3")) {
		struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
		pid = syscall(SYS_clone3, &args, sizeof args);
		if (pid == 0)
			_exit(0);
	} else {
		pid = clone(child, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, NULL);
	}
	if (pid < 0)
		return no(how);
	waitpid((pid_t)pid, NULL, 0);
	puts("a user namespace of its own");
	return 0;
}

static int by_vfork(char *path) {
	pid_t pid = vfork();
	if (pid == 0) {
		execl(path, path, NULL);
		_exit(errno);
	}
	int status;
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return status ? no("execve after vfork") : 0;
}

/* ---- races ---------------------------------------------------------------------------------- */

static void *flip_path(void *unused) {
	size_t a = strlen(first) + 1, b = strlen(second) + 1;
	for (; !stop; ) {
		memcpy(shared, first, a);
		memcpy(shared, second, b);
	}
	return unused;
}

static void *flip_link(void *unused) {
	char other[4096];
	snprintf(other, sizeof other, "%s.new", link_path);
	for (bool which = false; !stop; which = !which) {
		if (symlink(which ? first : second, other) == 0)
			rename(other, link_path);
		else
			unlink(other);
	}
	return unused;
}

static void *flip_fd(void *unused) {
	for (; !stop; ) {
		dup2(fd_first, fd_shared);
		dup2(fd_second, fd_shared);
	}
	return unused;
}

static void *flip_cwd(void *unused) {
	for (; !stop; ) {
		(void)!fchdir(fd_first);
		(void)!fchdir(fd_second);
	}
	return unused;
}

static void *flip_rename(void *unused) {
	for (; !stop; )
		renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE);
	return unused;
}

static void *flip_address(void *unused) {
	for (; !stop; ) {
		to_shared = to_first;
		to_shared = to_second;
	}
	return unused;
}

static pthread_t begin(void *(*flip)(void *)) {
	pthread_t thread;
	if (pthread_create(&thread, NULL, flip, NULL))
		exit(no("pthread_create"));
	return thread;
}

static int race_open(void *(*flip)(void *), int dirfd, const char *path) {
	pthread_t thread = begin(flip);
	long end = now_ms() + RACE_MS, tries = 0, opened = 0;
	bool won = false;
	while (!won && now_ms() < end) {
		int fd = openat(dirfd, path, O_RDONLY | O_NOCTTY);
		tries++;
		if (fd >= 0) {
			opened++;
			won = show(fd, "decoy");
		}
	}
	stop = true;
	pthread_join(thread, NULL);
	if (!won)
		fprintf(stderr, "lost: %ld tries, %ld decoys\n", tries, opened);
	return !won;
}

static int race_write(void) {
	pthread_t thread = begin(flip_path);
	for (long end = now_ms() + RACE_MS; now_ms() < end; ) {
		int fd = open(shared, O_WRONLY);
		if (fd >= 0) {
			(void)!write(fd, "changed by the workload\n", 24);
			close(fd);
		}
	}
	stop = true;
	pthread_join(thread, NULL);
	return 0;
}

static int race_exec(void *(*flip)(void *), const char *path) {
	pthread_t thread = begin(flip);
	long end = now_ms() + RACE_MS * 2, tries = 0, ran = 0;
	bool won = false;
	while (!won && now_ms() < end) {
		int out[2];
		if (pipe(out) < 0)
			return no("pipe");
		/* memory is shared, so that the flipping thread races the kernel's reading of the path */
		pid_t pid = vfork();
		if (pid == 0) {
			dup2(out[1], 1);
			execl(path, "x", NULL);
			_exit(errno);
		}
		close(out[1]);
		tries++;
		int status = 1;
		won = show(out[0], "decoy");
		waitpid(pid, &status, 0);
		ran += status == 0;
	}
	stop = true;
	pthread_join(thread, NULL);
	if (!won)
		fprintf(stderr, "lost: %ld tries, %ld decoys\n", tries, ran);
	return !won;
}

static struct sockaddr_in address(const char *ip, const char *port) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	inet_pton(AF_INET, ip, &to.sin_addr);
	return to;
}

static int race_network(const char *how, char **to) {
	to_first = address(to[0], to[1]);
	to_second = address(to[2], to[3]);
	pthread_t thread = begin(flip_address);
	long end = now_ms() + RACE_MS, tries = 0;
	bool won = false;
	int type = strcmp(how, "connect") ? SOCK_DGRAM : SOCK_STREAM;
	struct timeval wait = {0, 20000};
	while (!won && now_ms() < end) {
		int fd = socket(AF_INET, type, 0);
		if (fd < 0)
			return no("socket");
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
		struct iovec io = {"token", 5};
		struct msghdr message = {.msg_name = &to_shared, .msg_namelen = sizeof to_shared,
					 .msg_iov = &io, .msg_iovlen = 1};
		long done = !strcmp(how, "connect") ? connect(fd, (void *)&to_shared, sizeof to_shared)
			: !strcmp(how, "sendto") ? sendto(fd, "token", 5, 0, (void *)&to_shared, sizeof to_shared)
						 : sendmsg(fd, &message, 0);
		if (!strcmp(how, "connect"))
			(void)!send(fd, "token", 5, MSG_NOSIGNAL);
		tries++;
		won = done >= 0 && show(fd, "decoy");
		if (!won)
			close(fd);
	}
	stop = true;
	pthread_join(thread, NULL);
	if (!won)
		fprintf(stderr, "lost: %ld tries\n", tries);
	return !won;
}

int main(int argc, char **argv) {
	if (argc < 3)
		return 2;
	const char *what = argv[1];
	if (!strcmp(what, "int80"))
		return int80(argv[2]);
	if (!strcmp(what, "uring"))
		return uring(argv[2]);
	if (!strcmp(what, "newuser"))
		return newuser(argv[2]);
	if (!strcmp(what, "uids"))
		return printf("%d %d\n", (int)geteuid(), (int)getuid()) < 0;
	if (!strcmp(what, "vfork"))
		return by_vfork(argv[2]);
	first = argv[2];
	second = argv[3];
	if (!strcmp(what, "race-path"))
		return race_open(flip_path, AT_FDCWD, shared);
	if (!strcmp(what, "race-write"))
		return race_write();
	if (!strcmp(what, "race-exec"))
		return race_exec(flip_path, shared);
	link_path = argc > 4 ? argv[4] : NULL;
	if (!strcmp(what, "race-link"))
		return race_open(flip_link, AT_FDCWD, link_path);
	if (!strcmp(what, "race-exec-link"))
		return race_exec(flip_link, link_path);
	name = argc > 4 ? argv[4] : NULL;
	fd_first = open(first, O_PATH);
	fd_second = open(second, O_PATH);
	if (!strcmp(what, "race-dirfd")) {
		fd_shared = dup(fd_first);
		return race_open(flip_fd, fd_shared, name);
	}
	if (!strcmp(what, "race-cwd"))
		return race_open(flip_cwd, AT_FDCWD, name);
	if (!strcmp(what, "race-rename")) {
		/* one's own directory, with a directory and a link to the hidden one in turn in a name */
		static char path[4096], a[2048], b[2048], file[4096];
		mkdir(argv[5], 0700);
		snprintf(a, sizeof a, "%s/a", argv[5]);
		snprintf(b, sizeof b, "%s/b", argv[5]);
		snprintf(file, sizeof file, "%s/%s", a, name);
		snprintf(path, sizeof path, "%s/%s", a, name);
		mkdir(a, 0700);
		int fd = open(file, O_CREAT | O_WRONLY, 0600);
		(void)!write(fd, "decoy\n", 6);
		close(fd);
		(void)!symlink(second, b);
		first = a;
		second = b;
		return race_open(flip_rename, AT_FDCWD, path);
	}
	if (argc == 6 && !strncmp(what, "race-", 5))
		return race_network(what + 5, argv + 2);
	return 2;
}
