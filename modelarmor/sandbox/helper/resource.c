/* Limits on memory, processes, open files, disk and CPU.
 *
 * Where a control group can be had the planner made one, and the kernel limits: here the child joins
 * and the counters are watched, so that reaching a limit is an alert and not a mystery. Elsewhere the
 * supervisor adds up what the tree uses, four times a second, and ends what goes beyond.
 */
#include "helper.h"

#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

/* Opens the control group's files while they are still within reach. */
bool resource_open(struct plan *plan, char *error, size_t size) {
	for (int i = 0; i < plan->n_cgroups; i++) {
		plan->cgroup_fds[i] = open(plan->cgroups[i], O_WRONLY | O_CLOEXEC);
		if (plan->cgroup_fds[i] < 0) {
			snprintf(error, size, "open(%s): %s", plan->cgroups[i], strerror(errno));
			return false;
		}
	}
	for (int i = 0; i < plan->n_counters; i++)
		plan->counters[i].fd = open(plan->counters[i].path, O_RDONLY | O_CLOEXEC);
	return true;
}

/* In the child: joins the control groups and sets what is inherited. */
bool resource_apply(const struct plan *plan, char *error, size_t size) {
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none); /* a core file would be a copy of memory in the workspace */
	for (int i = 0; i < plan->n_cgroups; i++)
		if (write(plan->cgroup_fds[i], "0", 1) != 1) {
			snprintf(error, size, "write(%s): %s", plan->cgroups[i], strerror(errno));
			return false;
		}
	if (plan->limits.open_files) {
		struct rlimit files;
		getrlimit(RLIMIT_NOFILE, &files);
		if (plan->limits.open_files < files.rlim_max)
			files.rlim_max = plan->limits.open_files;
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
			snprintf(error, size, "setrlimit(RLIMIT_NOFILE): %s", strerror(errno));
			return false;
		}
	}
	if (plan->limits.disk) { /* one file; the sum is watched */
		struct rlimit size = {plan->limits.disk, plan->limits.disk};
		setrlimit(RLIMIT_FSIZE, &size);
	}
	if (plan->limits.cpu_millis) {
		cpu_set_t have, want;
		uint64_t cpus = (plan->limits.cpu_millis + 999) / 1000;
		CPU_ZERO(&want);
		sched_getaffinity(0, sizeof have, &have);
		for (int cpu = 0; cpu < CPU_SETSIZE && cpus; cpu++)
			if (CPU_ISSET(cpu, &have)) {
				CPU_SET(cpu, &want);
				cpus--;
			}
		if (sched_setaffinity(0, sizeof want, &want) < 0) {
			snprintf(error, size, "sched_setaffinity: %s", strerror(errno));
			return false;
		}
	}
	return true;
}

bool resource_watched(const struct plan *plan) {
	const struct limits *l = &plan->limits;
	return plan->n_counters || l->memory || l->processes || l->disk || l->open_files || l->cpu_millis;
}

static void alert(const char *what, uint64_t limit, uint64_t used, bool ended) {
	char resource[64], data[96];
	snprintf(resource, sizeof resource, "%s", what);
	snprintf(data, sizeof data, "limit=%llu used=%llu", (unsigned long long)limit,
		 (unsigned long long)used);
	report_event(NULL, &(struct event){.operation = "Resource", .resource = resource, .data = data,
					   .rule = RULE_RESOURCE, .blocked = true,
					   .message = ended ? "the limit was reached: the workload was ended"
							    : "the limit was reached"});
}

/* Reaching it is said once: a program that runs into it does so again and again. */
void resource_files_reached(void) {
	static bool said;
	if (!said)
		alert("open-files", 0, 0, false);
	said = true;
}

/* Space that is reserved is not written, so it is not in the sum of what was. */
bool resource_allocation_fits(const struct plan *plan, uint64_t offset, uint64_t length) {
	uint64_t limit = plan->limits.disk;
	if (!limit || (offset <= limit && length <= limit - offset))
		return true;
	alert("ephemeral-storage", limit, offset + length, false);
	return false;
}

static void check_counters(struct plan *plan) {
	for (int i = 0; i < plan->n_counters; i++) {
		struct counter *counter = &plan->counters[i];
		char text[2048];
		ssize_t n = counter->fd < 0 ? -1 : pread(counter->fd, text, sizeof text - 1, 0);
		if (n <= 0)
			continue;
		text[n] = 0;
		size_t length = strlen(counter->key);
		for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
			unsigned long long value;
			if (strncmp(line, counter->key, length) != 0 ||
			    sscanf(line + length, " %llu", &value) != 1)
				continue;
			if (value > counter->last)
				alert(counter->kind, 0, value, !strcmp(counter->kind, "memory"));
			counter->last = value;
			break;
		}
	}
}

struct usage {
	uint64_t memory, disk, most, ticks; /* CPU time, of children that were waited for too */
	int processes;
	pid_t biggest;
	uint64_t open_files;
};

static bool number_in(pid_t pid, const char *file, const char *format, const char *after,
		      unsigned long long *a, unsigned long long *b) {
	char path[64], text[2048];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return false;
	text[n] = 0;
	const char *at = after ? strstr(text, after) : text;
	return at && sscanf(at + (after ? strlen(after) : 0), format, a, b) >= 1;
}

static uint64_t ticks_of(pid_t pid) {
	char path[64], text[1024];
	unsigned long long user = 0, system = 0, child_user = 0, child_system = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = 0;
	const char *after = strrchr(text, ')');
	if (after)
		sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu",
		       &user, &system, &child_user, &child_system);
	return user + system + child_user + child_system;
}

/* Where affinity holds the processors back there is no counter: all of them busy for a second says
 * that the limit is what it is waiting for. */
static void check_processors(const struct plan *plan, uint64_t ticks) {
	static uint64_t last, since;
	static int busy;
	static bool said;
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	uint64_t now = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	uint64_t cpus = (plan->limits.cpu_millis + 999) / 1000;
	uint64_t used = (ticks - last) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
	if (now - since < 200)
		return;
	busy = since && ticks >= last && used * 10 >= (now - since) * cpus * 9 ? busy + 1 : 0;
	last = ticks;
	since = now;
	if (busy >= 4 && !said) {
		alert("cpu", plan->limits.cpu_millis, cpus * 1000, false);
		said = true;
	}
}

/* Adds up a process and everything below it. */
static void add_tree(pid_t pid, struct usage *usage, bool exact, int depth) {
	char path[64], text[4096];
	unsigned long long resident = 0, shared = 0, written = 0, cancelled = 0;
	struct stat st;
	if (depth > 512 || usage->processes > 100000)
		return;
	if (exact) {
		number_in(pid, "smaps_rollup", " %llu", "\nPss:", &resident, &shared);
		resident *= 1024;
	} else if (number_in(pid, "statm", "%*u %llu %llu", NULL, &resident, &shared)) {
		resident = (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
	}
	if (number_in(pid, "io", " %llu", "\nwrite_bytes:", &written, &shared)) {
		number_in(pid, "io", " %llu", "\ncancelled_write_bytes:", &cancelled, &shared);
		usage->disk += written > cancelled ? written - cancelled : 0;
	}
	usage->ticks += ticks_of(pid);
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	if (stat(path, &st) == 0 && (uint64_t)st.st_size > usage->open_files)
		usage->open_files = (uint64_t)st.st_size; /* the count, since Linux 6.2 */
	usage->memory += resident;
	usage->processes++;
	if (resident >= usage->most) {
		usage->most = resident;
		usage->biggest = pid;
	}
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	DIR *tasks = opendir(path);
	for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/%d/task/%.12s/children", pid, entry->d_name);
		autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
		text[n > 0 ? n : 0] = 0;
		int length;
		pid_t child;
		for (char *at = text; sscanf(at, "%d%n", &child, &length) == 1; at += length)
			add_tree(child, usage, exact, depth + 1);
	}
	if (tasks)
		closedir(tasks);
}

/* Looks once; returns false when everything has to end. */
bool resource_check(struct plan *plan, pid_t child) {
	const struct limits *limit = &plan->limits;
	struct usage usage = {0};
	check_counters(plan);
	if (!limit->memory && !limit->processes && !limit->disk && !limit->open_files && !limit->cpu_millis)
		return true;
	add_tree(getpid(), &usage, false, 0);
	usage.processes--; /* ourselves */
	if (limit->cpu_millis)
		check_processors(plan, usage.ticks);
	if (limit->open_files && usage.open_files >= limit->open_files)
		resource_files_reached();
	if (limit->memory && usage.memory > limit->memory) {
		/* Shared pages were counted once for each process: only now is the dear sum worth it. */
		struct usage exact = {0};
		add_tree(child, &exact, true, 0);
		if (exact.memory > limit->memory) {
			alert("memory", limit->memory, exact.memory, true);
			kill(exact.biggest, SIGKILL);
		}
	}
	if (limit->processes && (uint64_t)usage.processes > limit->processes) {
		alert("processes", limit->processes, (uint64_t)usage.processes, true);
		return false;
	}
	if (limit->disk && usage.disk > limit->disk) {
		alert("ephemeral-storage", limit->disk, usage.disk, true);
		return false;
	}
	return true;
}
