/* Starts the command confined, sees to it until it ends, and leaves nothing behind. */
#include "helper.h"

#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

enum { WATCH_MS = 250, FLUSH_MS = 50 };
/* What the supervisor gets when the guard dies: a signal that nobody else has a use for. */
enum { GUARD_GONE = SIGPWR };

/* Between supervisor and child until the command runs: after its filter is on, the child can make no
 * system call but the exec, so it leaves word in memory. */
struct shared {
	volatile int listener; /* -1 until known */
	volatile int failed;   /* exit status to give up with, or 0 */
	volatile int error;    /* errno of the exec */
	char message[512];
};

static struct plan plan;
static struct shared *shared;
static bool scoped; /* signals from here reach this sandbox only: verified, not assumed */
static pid_t child;
static pid_t group; /* the caller's process group: the terminal's foreground, if there is one */
static sigset_t original_mask;

static int give_up(const char *what) {
	fprintf(stderr, "modelarmor-helper: cannot confine: %s\n", what);
	report_state("{\"event\":\"failed\",\"status\":%d}", EXIT_CANNOT_CONFINE);
	report_flush(true);
	return EXIT_CANNOT_CONFINE;
}

/* ---- ending everything --------------------------------------------------------------------- */

static void kill_children(void) {
	char path[64], text[65536];
	int length;
	pid_t pid;
	snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = 0;
	for (char *at = text; sscanf(at, "%d%n", &pid, &length) == 1; at += length)
		kill(pid, SIGKILL);
}

/* Ends every process of the sandbox below this one. All of them are, or become, children of ours:
 * supervisor and guard are subreapers. In a scoped domain kill(-1) reaches exactly the domain, at one
 * stroke, so that not even a fork bomb outruns it (Landlock ABI 6). */
static void end_all(int *status_of_child) {
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) >= 0 || errno != ECHILD;) {
		if (pid <= 0) {
			if (scoped)
				kill(-1, SIGKILL);
			else
				kill_children();
			pid = waitpid(-1, &status, __WALL);
		}
		if (pid > 0 && pid == child && status_of_child)
			*status_of_child = status;
	}
}

static bool outside_is_out_of_reach(pid_t outside) {
	return kill(outside, 0) < 0 && errno == EPERM;
}

/* ---- the child ----------------------------------------------------------------------------- */

/* Variables that the loader was not to heed when this program was started, but is to now. */
static void give_environment_back(void) {
	static const char held[] = "MODELARMOR_HELD_"; /* process.py */
	for (char **entry = environ; *entry; entry++)
		if (!strncmp(*entry, held, sizeof held - 1))
			*entry += sizeof held - 1;
}

static _Noreturn void become(char **argv) {
	setpgid(0, group); /* not the supervisor's, which may not read from the terminal */
	bool good = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 &&
		    resource_apply(&plan, shared->message, sizeof shared->message) &&
		    confine_domain(&plan, DOMAIN_CHILD, shared->message, sizeof shared->message) &&
		    confine_capabilities(plan.keep_caps, shared->message, sizeof shared->message);
	/* Readable to the supervisor until the exec settles it. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	sigprocmask(SIG_SETMASK, &original_mask, NULL);
	int listener = good ? confine_filter(&plan, shared->message, sizeof shared->message) : -1;
	if (listener < 0) {
		shared->failed = EXIT_CANNOT_CONFINE;
		_exit(EXIT_CANNOT_CONFINE);
	}
	shared->listener = listener;
	give_environment_back();
	execvp(argv[0], argv);
	shared->error = errno;
	shared->failed = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC;
	_exit(shared->failed);
}

/* ---- the supervisor ------------------------------------------------------------------------ */

/* Whether the child still runs this program, and so shares our descriptors. */
static bool still_starting(void) {
	struct stat ours, theirs;
	char link[64];
	snprintf(link, sizeof link, "/proc/%d/exe", child);
	return stat("/proc/self/exe", &ours) == 0 && stat(link, &theirs) == 0 &&
	       ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
}

/* Lets go of the command's input and output, so that their other ends see when the command does. */
static void let_go(void) {
	autoclose int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 2; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
}

static bool obey(int control) {
	unsigned char orders[64];
	ssize_t n = read(control, orders, sizeof orders);
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		return false; /* whoever started us is gone */
	for (ssize_t i = 0; i < n; i++) {
		if (orders[i] == SIGKILL)
			return false;
		kill(child, orders[i]);
	}
	return true;
}

static int64_t milliseconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reaps; returns whether the command itself has ended. */
static bool reap(int *status) {
	bool ended = false;
	int now;
	for (pid_t pid; (pid = waitpid(-1, &now, WNOHANG | __WALL)) > 0;)
		if (pid == child) {
			*status = now;
			ended = true;
		}
	return ended;
}

static void answer(int listener) {
	static struct seccomp_notif request;
	memset(&request, 0, sizeof request);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) == 0)
		notify_handle(&plan, listener, &request);
}

static int supervise(int listener, int control, int signals) {
	struct pollfd fds[3 + 256] = {{.fd = listener, .events = POLLIN},
				      {.fd = control, .events = POLLIN},
				      {.fd = signals, .events = POLLIN}};
	bool starting = true, watched = resource_watched(&plan);
	int64_t next_watch = 0, next_flush = 0;
	int status = 0;
	for (;;) {
		int waiting = socket_waiting(fds + 3, 256);
		int timeout = notify_tick(&plan);
		if (starting && !(starting = still_starting()))
			let_go();
		if ((starting || waiting) && (timeout < 0 || timeout > 2))
			timeout = 2;
		if (report_pending() && (timeout < 0 || timeout > FLUSH_MS))
			timeout = FLUSH_MS;
		if (watched && (timeout < 0 || timeout > WATCH_MS))
			timeout = WATCH_MS;
		if (poll(fds, (nfds_t)(3 + waiting), timeout) < 0 && errno != EINTR)
			break;
		if (fds[0].revents & POLLIN)
			answer(listener);
		else if (fds[0].revents)
			fds[0].fd = -1; /* nobody is left who could call */
		if (waiting)
			socket_ready(fds + 3, waiting);
		if (fds[1].revents && !obey(control))
			break;
		if (fds[2].revents) {
			struct signalfd_siginfo info;
			bool alone = false;
			while (read(signals, &info, sizeof info) == sizeof info)
				if (info.ssi_signo == GUARD_GONE)
					alone = true;
				else if (info.ssi_signo != SIGCHLD && info.ssi_code <= 0)
					kill(child, (int)info.ssi_signo); /* the guard passes it on */
			if (reap(&status) || alone)
				break;
		}
		int64_t now = report_pending() || watched ? milliseconds() : 0;
		if (report_pending() && now >= next_flush) {
			report_flush(false);
			next_flush = now + FLUSH_MS;
		}
		if (watched && now >= next_watch) {
			if (!resource_check(&plan, child))
				break;
			next_watch = now + WATCH_MS;
		}
	}
	end_all(&status);
	if (watched)
		resource_check(&plan, child);
	if (WIFSIGNALED(status))
		report_state("{\"event\":\"exit\",\"signal\":%d}", WTERMSIG(status));
	else
		report_state("{\"event\":\"exit\",\"code\":%d}", WEXITSTATUS(status));
	report_flush(true);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int supervisor(char **argv, int plan_fd, int control, int signals, pid_t outside) {
	char error[512] = "";
	/* A group of its own: a signal to the command's group is not meant for us. */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, GUARD_GONE);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	path_protect(getppid(), getpid());
	/* The caller makes the plan while we start, and says when it is there; or it has given up. */
	if (read(control, &(char){0}, 1) != 1)
		return EXIT_CANNOT_CONFINE;
	lseek(plan_fd, 0, SEEK_SET);
	if (!plan_read(plan_fd, &plan, error, sizeof error) ||
	    !resource_open(&plan, error, sizeof error))
		return give_up(error);
	close(plan_fd);
	report_limit(plan.limits.alerts);
	task_identities(plan.keep_caps);
	if (!confine_domain(&plan, DOMAIN_SUPERVISOR, error, sizeof error))
		return give_up(error);
	scoped = plan.scoped & SCOPE_SIGNALS && outside_is_out_of_reach(outside);
	/* The descriptor table is shared until the exec, which is how the listener gets here: passing it
	 * over a socket would itself be a call that the filter may trap. */
	child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (child < 0)
		return give_up(strerror(errno));
	if (!child)
		become(argv);
	notify_init(child);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* of 50 us, which would double the sleep below */
	while (shared->listener < 0) {
		int status;
		if (waitpid(child, &status, WNOHANG) == child)
			return give_up(shared->message[0] ? shared->message : "the child ended before it was confined");
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
	}
	int listener = shared->listener;
#ifdef SECCOMP_IOCTL_NOTIF_SET_FLAGS
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
#else
	ioctl(listener, _IOW('!', 4, uint64_t), 1ul); /* the same, 6.6, with older headers */
#endif
	report_state("{\"event\":\"started\",\"pid\":%d,\"acts_on_sockets\":%s}", child,
		     socket_can_act(child) ? "true" : "false");
	int code = supervise(listener, control, signals);
	if (shared->failed) {
		report_state("{\"event\":\"failed\",\"status\":%d,\"errno\":%d}", shared->failed, shared->error);
		report_flush(true);
		fprintf(stderr, "modelarmor-helper: %s: %s\n", argv[0], strerror(shared->error));
	}
	return code;
}

/* ---- the guard ----------------------------------------------------------------------------- */

static int guard(pid_t supervising, int control, int signals) {
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = control, .events = 0}};
	int status = 0;
	let_go();
	for (;;) {
		poll(fds, 2, -1);
		if (fds[1].revents & (POLLHUP | POLLERR)) {
			/* The supervisor ends things in order, if it can; it is given a second. */
			fds[1].fd = -1;
			alarm(1);
		}
		struct signalfd_siginfo info;
		bool over = false;
		while (read(signals, &info, sizeof info) == sizeof info) {
			if (info.ssi_signo == SIGALRM)
				over = true;
			else if (info.ssi_signo != SIGCHLD && info.ssi_code <= 0)
				kill(supervising, (int)info.ssi_signo); /* sent to us, meant for the command */
		}
		pid_t pid;
		int now;
		while ((pid = waitpid(-1, &now, WNOHANG | __WALL)) > 0)
			if (pid == supervising) {
				status = now;
				over = true;
			}
		if (over)
			break;
	}
	end_all(NULL);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + SIGKILL;
}

/* What is known before there is a plan: descriptors, and what the guard must not keep. */
struct options {
	uint64_t plan, control, events, capabilities, scoped;
};

/* Returns where the command begins, or 0. */
static int parse(struct options *options, int argc, char **argv) {
	const struct {
		const char *name;
		uint64_t *value, least, most;
	} known[] = {{"--plan", &options->plan, 3, INT_MAX},
		     {"--control", &options->control, 3, INT_MAX},
		     {"--events", &options->events, 3, INT_MAX},
		     {"--capabilities", &options->capabilities, 0, UINT64_MAX},
		     {"--scoped", &options->scoped, 0, UINT64_MAX}};
	int i = 1;
	for (size_t k = 0; k < countof(known); k++, i += 2) {
		char *end;
		if (i + 1 >= argc || strcmp(argv[i], known[k].name) != 0)
			return 0;
		uint64_t value = *known[k].value = strtoull(argv[i + 1], &end, 10);
		if (*end || end == argv[i + 1] || value < known[k].least || value > known[k].most)
			return 0;
	}
	return i + 1 < argc && !strcmp(argv[i], "--") ? i + 1 : 0;
}

int main(int argc, char **argv) {
	char error[512] = "";
	struct options options;
	if (argc == 3 && !strcmp(argv[1], "--check-plan"))
		return check_plan(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "--decide"))
		return check_decide(argv[2]);
	int command = parse(&options, argc, argv);
	if (!command) {
		fputs("usage: modelarmor-helper --plan FD --control FD --events FD --capabilities MASK --scoped MASK"
		      " -- COMMAND [ARG ...]\n"
		      "Started by modelarmor; see `modelarmor run --help`.\n",
		      stderr);
		return EXIT_CANNOT_CONFINE;
	}
	int plan_fd = (int)options.plan, control = (int)options.control;
	fcntl(plan_fd, F_SETFD, FD_CLOEXEC);
	fcntl(control, F_SETFD, FD_CLOEXEC);
	fcntl((int)options.events, F_SETFD, FD_CLOEXEC);
	report_to((int)options.events);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return give_up("out of memory");
	shared->listener = -1;

	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &original_mask);
	autoclose int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	pid_t outside = getppid();
	group = getpgrp();
	uint64_t caps = options.capabilities;
	if (caps) /* a child that may change its user is followed by one that may, too */
		caps |= 1ull << CAP_SYS_PTRACE | 1ull << CAP_SETUID | 1ull << CAP_SETGID | 1ull << CAP_KILL |
			1ull << CAP_SETPCAP;
	if (signals < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return give_up(strerror(errno));
	plan.scoped = options.scoped;
	if (!confine_capabilities(caps, error, sizeof error) ||
	    !confine_domain(&plan, DOMAIN_GUARD, error, sizeof error))
		return give_up(error);
	scoped = plan.scoped & SCOPE_SIGNALS && outside_is_out_of_reach(outside);
	pid_t pid = fork();
	if (pid < 0)
		return give_up(strerror(errno));
	if (!pid) {
		autoclose int own = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
		return supervisor(argv + command, plan_fd, control, own, outside);
	}
	close(plan_fd);
	return guard(pid, control, signals);
}
