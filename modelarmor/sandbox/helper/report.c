/* Alerts as JSON lines on a pipe, and the count of what did not fit.
 *
 * The child must not be able to slow anybody down by being refused often: beyond a budget a second,
 * events are only counted, per rule and operation, and the sums follow as records of their own.
 * Nothing here blocks; a reader that does not keep up finds sums instead of lines. Only where every
 * event is wanted is a reader waited for, a second at a time.
 */
#include "helper.h"

#include <poll.h>
#include <stdarg.h>
#include <time.h>

enum { BUFFER = 1 << 20, SUMS = 64, WAITS = 20, WAIT_MS = 50 };

static int out = -1;
static char buffer[BUFFER];
static size_t used;
static double per_second, tokens; /* none for every one */
static struct sum {
	int rule;
	bool blocked;
	const char *operation;
	unsigned long long count;
} sums[SUMS];
static int n_sums;

void report_to(int fd) {
	out = fd;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* So many alerts a second are listed, twice as many at once; 0 lists every one. */
void report_limit(uint64_t alerts_per_second) {
	per_second = (double)alerts_per_second;
	tokens = 2 * per_second;
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void drain(void) {
	size_t done = 0;
	while (done < used) {
		ssize_t n = write(out, buffer + done, used - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		done += (size_t)n;
	}
	memmove(buffer, buffer + done, used - done);
	used -= done;
}

static bool put(const char *line, size_t length) {
	for (int i = 0; !per_second && length > sizeof buffer - used && i < WAITS; i++) {
		poll(&(struct pollfd){.fd = out, .events = POLLOUT}, 1, WAIT_MS);
		drain();
	}
	if (length > sizeof buffer - used)
		return false;
	memcpy(buffer + used, line, length);
	used += length;
	drain();
	return true;
}

/* Room for the longest event: 6656 bytes of strings (report_event), each up to six characters. */
struct text {
	char data[40960];
	size_t n;
};

static void add(struct text *t, const char *format, ...) {
	va_list list;
	va_start(list, format);
	int n = vsnprintf(t->data + t->n, sizeof t->data - t->n, format, list);
	va_end(list);
	if (n > 0 && (size_t)n < sizeof t->data - t->n)
		t->n += (size_t)n;
}

/* A JSON string of bytes: each byte stands for the character of its number, so that any file name
 * survives; the reader turns the characters back into bytes. */
static void add_string(struct text *t, const char *key, const char *value, size_t max) {
	add(t, ",\"%s\":\"", key);
	for (size_t i = 0; value && value[i] && i < max; i++) {
		unsigned char c = (unsigned char)value[i];
		if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
			add(t, "\\u%04x", c);
		else if (t->n + 2 < sizeof t->data)
			t->data[t->n++] = (char)c;
	}
	add(t, "\"");
}

static void count(const struct event *event) {
	int i = 0;
	while (i < n_sums && (sums[i].rule != event->rule || sums[i].blocked != event->blocked ||
			      strcmp(sums[i].operation, event->operation) != 0))
		i++;
	if (i == n_sums && n_sums < SUMS)
		sums[n_sums++] = (struct sum){event->rule, event->blocked, event->operation, 0};
	if (i == SUMS)
		i = SUMS - 1; /* the last one takes what is left, so that the total is right */
	sums[i].count++;
}

static bool within_limit(void) {
	static double last;
	if (!per_second)
		return true;
	double time = now();
	tokens += (time - last) * per_second;
	last = time;
	if (tokens > 2 * per_second)
		tokens = 2 * per_second;
	if (tokens < 1)
		return false;
	tokens -= 1;
	return true;
}

/* Reports one decision, or counts it where the budget or the reader's buffer is used up. */
void report_event(struct task *task, const struct event *event) {
	if (!within_limit()) {
		count(event);
		return;
	}
	struct text t = {.n = 0};
	char line[1024];
	struct timespec wall;
	clock_gettime(CLOCK_REALTIME, &wall);
	add(&t, "{\"event\":\"alert\",\"time\":%lld.%06ld,\"rule\":%d,\"blocked\":%s", (long long)wall.tv_sec,
	    wall.tv_nsec / 1000, event->rule, event->blocked ? "true" : "false");
	add_string(&t, "operation", event->operation, 32);
	add_string(&t, "resource", event->resource, 2000);
	add_string(&t, "data", event->data, 300);
	if (event->message)
		add_string(&t, "message", event->message, 300);
	if (task) {
		task_status(task);
		task_stat(task);
		add(&t, ",\"pid\":%d,\"ppid\":%d,\"uid\":%u,\"tty\":%d", task->tgid, task->ppid, task->uid,
		    task->tty);
		add_string(&t, "exe", task_exe(task), 1000);
		add_string(&t, "parent", task_parent_exe(task), 1000);
		add_string(&t, "cwd", task_cwd(task), 1000);
		task_cmdline(task->pid, line, sizeof line);
		add_string(&t, "command", line, sizeof line);
	}
	add(&t, "}\n");
	if (t.data[t.n - 1] != '\n' || !put(t.data, t.n))
		count(event);
}

/* A record about the sandbox itself: started, failed, ended. */
void report_state(const char *format, ...) {
	char line[2048];
	va_list list;
	va_start(list, format);
	int n = vsnprintf(line, sizeof line - 1, format, list);
	va_end(list);
	if (n < 0 || (size_t)n >= sizeof line - 1)
		return;
	line[n] = '\n';
	put(line, (size_t)n + 1);
}

bool report_pending(void) {
	return used > 0 || n_sums > 0;
}

/* Sends the sums and what the reader had no room for; with ``all`` waits for it, two seconds. */
void report_flush(bool all) {
	double until = now() + 2;
	do {
		drain();
		while (n_sums && used < BUFFER / 2) {
			const struct sum *sum = &sums[n_sums - 1];
			char line[256];
			int n = snprintf(line, sizeof line,
					 "{\"event\":\"suppressed\",\"rule\":%d,\"blocked\":%s,\"operation\":\"%s\",\"count\":%llu}\n",
					 sum->rule, sum->blocked ? "true" : "false", sum->operation, sum->count);
			if (!put(line, (size_t)n))
				break;
			n_sums--;
		}
		if (all && report_pending())
			poll(&(struct pollfd){.fd = out, .events = POLLOUT}, 1, 50);
	} while (all && report_pending() && now() < until);
}
