/* Runs inside the sandbox for SECONDS: system calls that the helper looks at, with numbers, pointers
 * and strings as a hostile program would choose them, from several threads of several processes.
 * It changes what it can reach, so it refuses to be root, and is to be started by unprivileged.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int calls[] = {
	SYS_open, SYS_openat, SYS_openat2, SYS_creat, SYS_truncate, SYS_rename, SYS_renameat,
	SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_unlink, SYS_unlinkat,
	SYS_rmdir, SYS_mkdir, SYS_mkdirat, SYS_mknod, SYS_mknodat, SYS_chmod, SYS_fchmod, SYS_fchmodat,
	SYS_chown, SYS_fchown, SYS_lchown, SYS_fchownat, SYS_utime, SYS_utimes, SYS_futimesat,
	SYS_utimensat, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr,
	SYS_fremovexattr, SYS_execve, SYS_execveat, SYS_socket, SYS_socketpair, SYS_connect, SYS_bind,
	SYS_listen, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_mount, SYS_umount2, SYS_ptrace,
	SYS_bpf, SYS_keyctl, SYS_unshare, SYS_setns, SYS_chroot, SYS_open_by_handle_at,
	SYS_name_to_handle_at, SYS_process_vm_readv, SYS_io_uring_setup, SYS_personality,
	SYS_pidfd_getfd, SYS_kcmp, SYS_prlimit64, 452, 463, 466, 469};

static const char *dir;
static char *edge; /* the last bytes before memory that is not there */
static __thread uint64_t seed;

static uint64_t roll(void) {
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static char *name(char *room, size_t size) {
	static const char *const tails[] = {"secret", "vault/x", "vault/../secret", "ro/data", "new", "",
		"./././ro", "link", "loop", "\n{\"event\":\"alert\"}", "\x1b[31m\xff\xfe\"\\", "a//b",
		"fifo", "ro/data/not-a-directory", "%s%n%x"};
	static const char *const heads[] = {"/proc/self/root", "/proc/self/cwd/../", "/proc/thread-self/root",
		"/proc/self/fd/3", "/proc/1/root", "/dev/fd/0", "/proc/self/task/1/root"};
	switch (roll() % 12) {
	case 0:
		memset(room, 'a' + (int)(roll() % 26), size - 1);
		room[size - 1] = 0;
		return room;
	case 1:
		snprintf(room, size, "%s", heads[roll() % 7]);
		return room;
	case 2:
		for (size_t i = 0; i + 1 < size; i += 3)
			memcpy(room + i, "../", 3);
		room[size - 1] = 0;
		return room;
	case 3:
		memset(edge - 16, 'e', 16); /* no end */
		return edge - 16;
	case 4:
		return NULL;
	case 5:
		return (char *)(uintptr_t)roll();
	case 6:
		return "";
	case 7:
		snprintf(room, size, "%s%s/%s", heads[roll() % 7], dir, tails[roll() % 15]);
		return room;
	default:
		snprintf(room, size, "%s/%s", dir, tails[roll() % 15]);
		return room;
	}
}

static uint64_t number(void) {
	static const uint64_t odd[] = {0, 1, 2, 3, ~0ull, (uint64_t)AT_FDCWD, INT32_MAX, INT32_MIN, 4096,
				       O_CREAT | O_RDWR, O_PATH, O_TMPFILE | O_RDWR, AT_EMPTY_PATH,
				       0xffffffff00000003, SOCK_RAW, AF_INET6, 110, 16, 128};
	return roll() % 4 ? odd[roll() % 19] : roll();
}

static uint64_t argument(char *room, size_t size) {
	struct sockaddr_un *to = (void *)room;
	switch (roll() % 6) {
	case 0:
	case 1:
		return (uint64_t)(uintptr_t)name(room, size);
	case 2:
		memset(room, 0, 160);
		to->sun_family = (sa_family_t)(roll() % 3 ? roll() % 11 : roll());
		snprintf(to->sun_path, sizeof to->sun_path, "%s/s", dir);
		return (uint64_t)(uintptr_t)room;
	case 3:
		for (size_t i = 0; i < 256; i += 8)
			memcpy(room + i, &(uint64_t){roll() % 3 ? (uint64_t)(uintptr_t)(room + i) : number()}, 8);
		return (uint64_t)(uintptr_t)room;
	default:
		return number();
	}
}

static void *storm(void *start) {
	static __thread char room[6][8192];
	seed = (uint64_t)(uintptr_t)start | 1;
	for (int i = 0; i < 4000; i++) {
		uint64_t a[6];
		for (int j = 0; j < 6; j++)
			a[j] = argument(room[j], 64 + roll() % (sizeof room[j] - 64));
		int nr = calls[roll() % (sizeof calls / sizeof *calls)];
		if (nr == SYS_prlimit64 || nr == SYS_ptrace)
			a[0] = 1u << 30 | 1; /* nobody: neither us nor anybody else */
		syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	}
	return NULL;
}

int main(int argc, char **argv) {
	if (argc != 4 || geteuid() == 0)
		return 2;
	dir = argv[1];
	long end = time(NULL) + atol(argv[2]);
	uint64_t base = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull;
	edge = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
	mprotect(edge, 4096, PROT_NONE);
	signal(SIGPIPE, SIG_IGN);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	unsigned long rounds = 0;
	for (; time(NULL) < end; rounds++) {
		pid_t pids[3];
		for (int i = 0; i < 3; i++)
			if ((pids[i] = fork()) == 0) {
				pthread_t threads[3];
				alarm(5);
				for (int j = 0; j < 3; j++)
					pthread_create(&threads[j], NULL, storm,
						       (void *)(uintptr_t)(base + rounds * 64 + (uint64_t)(i * 8 + j) * 77 + 1));
				/* every other one leaves in the middle of what its threads ask */
				if (i == 0)
					usleep(2000 + (unsigned)(rounds % 7) * 900);
				else
					for (int j = 0; j < 3; j++)
						pthread_join(threads[j], NULL);
				_exit(0);
			}
		for (int i = 0; i < 3; i++)
			if (pids[i] > 0)
				waitpid(pids[i], NULL, 0);
	}
	printf("rounds %lu\n", rounds);
	return 0;
}
