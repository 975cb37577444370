/* For tests: is a plan understood, and what does its table decide?
 *
 *   modelarmor-helper --check-plan FILE    exit 0, or 2 with the reason
 *   modelarmor-helper --decide FILE        one operation a line on stdin, one decision a line out
 *
 * Operation, separated by tabs, %XX as in the plan:
 *   KIND PATH SOURCE PARENT OWNER TTY DOMAIN TYPE PROTOCOL [ARG…]
 * KIND is exec, read, list, write, create, delete, metadata, network, dns or capability; the numbers
 * are decimal. Decision: "allow|block RULE posture|rule AUDIT", RULE and AUDIT -1 for none and RULE -2
 * for the default posture.
 */
#include "helper.h"

#include <ctype.h>

bool plan_read(int fd, struct plan *plan, char *error, size_t size) {
	size_t used = 0, room = 1 << 16;
	char *text = malloc(room + 1);
	ssize_t n;
	while (text && (n = read(fd, text + used, room - used)) > 0) {
		used += (size_t)n;
		if (used == room) {
			room *= 2;
			if (room > 1 << 26) {
				snprintf(error, size, "the plan is larger than 64 MiB");
				return false;
			}
			text = realloc(text, room + 1);
		}
	}
	if (!text || n < 0) {
		snprintf(error, size, "reading the plan: %s", strerror(errno));
		return false;
	}
	text[used] = 0;
	return plan_parse(plan, text, used, error, size);
}

int check_plan(const char *path) {
	struct plan plan;
	char error[256] = "";
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && plan_read(fd, &plan, error, sizeof error))
		return 0;
	fprintf(stderr, "%s: %s\n", path, fd < 0 ? strerror(errno) : error);
	return 2;
}

static bool flag(void *context) {
	return *(bool *)context;
}

struct asked {
	bool owner; /* first: flag() reads it */
	bool tty;
	const char *source, *parent;
	const char *args[64];
	int n_args;
};

static bool asked_tty(void *context) {
	return ((struct asked *)context)->tty;
}

static const char *asked_source(void *context) {
	return ((struct asked *)context)->source;
}

static const char *asked_parent(void *context) {
	return ((struct asked *)context)->parent;
}

static const char *const *asked_args(void *context, int *count) {
	struct asked *asked = context;
	*count = asked->n_args;
	return asked->args;
}

static void plain(char *text) {
	char *out = text;
	for (; *text; text++) {
		if (*text == '%' && isxdigit((unsigned char)text[1]) && isxdigit((unsigned char)text[2])) {
			char hex[3] = {text[1], text[2], 0};
			*out++ = (char)strtol(hex, NULL, 16);
			text += 2;
		} else {
			*out++ = *text;
		}
	}
	*out = 0;
}

int check_decide(const char *path) {
	static const char *const kinds[] = {"exec", "read", "list", "write", "create", "delete",
					    "metadata", "network", "dns", "capability"};
	struct plan plan;
	char error[256] = "", line[65536];
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || !plan_read(fd, &plan, error, sizeof error)) {
		fprintf(stderr, "%s: %s\n", path, fd < 0 ? strerror(errno) : error);
		return 2;
	}
	while (fgets(line, sizeof line, stdin)) {
		char *fields[80] = {0}, *at = line;
		int n = 0;
		line[strcspn(line, "\n")] = 0;
		for (char *field; n < 80 && (field = strsep(&at, "\t"));) {
			plain(field);
			fields[n++] = field;
		}
		struct asked asked = {0};
		struct operation op = {.kind = (enum kind)-1, .source = asked_source,
				       .parent = asked_parent, .owner = flag, .tty = asked_tty,
				       .args = asked_args, .context = &asked};
		for (int i = 0; i < (int)countof(kinds); i++)
			if (n && !strcmp(kinds[i], fields[0]))
				op.kind = (enum kind)i;
		if (n < 9 || (int)op.kind < 0) {
			puts("malformed");
			continue;
		}
		op.path = fields[1];
		asked.source = fields[2];
		asked.parent = fields[3];
		asked.owner = atoi(fields[4]);
		asked.tty = atoi(fields[5]);
		op.domain = atoi(fields[6]);
		op.type = atoi(fields[7]);
		op.protocol = atoi(fields[8]);
		for (int i = 9; i < n && asked.n_args < 64; i++)
			asked.args[asked.n_args++] = fields[i];
		struct verdict verdict = plan_decide(&plan, &op);
		printf("%s %d %s %d\n", verdict.allow ? "allow" : "block", verdict.rule,
		       verdict.posture ? "posture" : "rule", verdict.audit);
		fflush(stdout);
	}
	return 0;
}
