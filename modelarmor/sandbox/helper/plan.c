/* The decision table: its text form, and what it decides.
 *
 * The table is policy/decide.py compiled flat: the same levels in the same order, checked against
 * that module by a differential test. Text, one record a line, fields separated by tabs, bytes up to
 * the space, '%' and DEL written %XX. It comes from the planner, yet is parsed as if it did not.
 */
#include "helper.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "syscall_table.h"

/* Calls that came after some build machines' headers; their numbers are the same everywhere. */
static const struct {
	const char *name;
	int nr;
} late_calls[] = {{"fchmodat2", 452}, {"setxattrat", 463}, {"removexattrat", 466},
		  {"open_tree_attr", 467}, {"file_setattr", 469}, {"process_mrelease", 448}};

static int by_name(const void *name, const void *entry) {
	return strcmp(name, *(const char *const *)entry); /* the name is an entry's first member */
}

int syscall_number(const char *name) {
	const char *const *found = bsearch(name, syscall_table, countof(syscall_table),
					   sizeof syscall_table[0], by_name);
	size_t at = found ? (size_t)((const char *)found - (const char *)syscall_table) : 0;
	if (found)
		return syscall_table[at / sizeof syscall_table[0]].nr;
	for (size_t i = 0; i < countof(late_calls); i++)
		if (!strcmp(late_calls[i].name, name))
			return late_calls[i].nr;
	return -1;
}

const char *syscall_name(int nr) {
	for (size_t i = 0; i < countof(syscall_table); i++)
		if (syscall_table[i].nr == nr)
			return syscall_table[i].name;
	for (size_t i = 0; i < countof(late_calls); i++)
		if (late_calls[i].nr == nr)
			return late_calls[i].name;
	return "unknown";
}

/* An alert's Data as KubeArmor writes it: syscall=SYS_OPENAT. */
void syscall_label(char *to, size_t size, int nr) {
	size_t fixed = strlen("syscall=SYS_");
	snprintf(to, size, "syscall=SYS_%s", syscall_name(nr));
	for (char *c = to + fixed; *c; c++)
		*c = (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct cursor {
	char **fields;
	int n, at;
	bool bad;
};

static char *next(struct cursor *c) {
	if (c->at < c->n)
		return c->fields[c->at++];
	c->bad = true;
	return (char *)"";
}

static uint64_t number(struct cursor *c, int base, uint64_t max) {
	char *end, *text = next(c);
	errno = 0;
	uint64_t value = strtoull(text, &end, base);
	if (!*text || *end || errno || value > max || *text == '-')
		c->bad = true;
	return c->bad ? 0 : value;
}

static int word(struct cursor *c, const char *const *words, int n) {
	const char *text = next(c);
	for (int i = 0; i < n; i++)
		if (strcmp(words[i], text) == 0)
			return i;
	c->bad = true;
	return 0;
}
#define WORD(c, ...) \
	word(c, (const char *const[]){__VA_ARGS__}, \
	     (int)countof(((const char *const[]){__VA_ARGS__})))

static bool unescape(char *text) {
	char *out = text;
	for (; *text; text++) {
		unsigned byte;
		if (*text != '%') {
			*out++ = *text;
		} else if (sscanf(text + 1, "%2x", &byte) == 1 && text[1] && text[2] && byte) {
			*out++ = (char)byte;
			text += 2;
		} else {
			return false;
		}
	}
	*out = 0;
	return true;
}

/* Grows an array by one zeroed element; the table is small, so one realloc a record will do. */
static void *grow(void *array, int *count, size_t size) {
	char *bigger = reallocarray(array, (size_t)*count + 1, size);
	if (!bigger) {
		fputs("modelarmor-helper: out of memory while reading the plan\n", stderr);
		exit(EXIT_CANNOT_CONFINE);
	}
	memset(bigger + (size_t)*count * size, 0, size);
	++*count;
	return bigger;
}
#define ADD(array, count) (array = grow(array, &(count), sizeof *(array)), &(array)[(count) - 1])

static char **strings(struct cursor *c, int *count) {
	char **list = NULL;
	int wanted = (int)number(c, 10, 100000);
	for (int i = 0; i < wanted && !c->bad; i++)
		*ADD(list, *count) = next(c);
	return list;
}

static struct cidr cidr(struct cursor *c) {
	struct cidr net = {0};
	const char *text = next(c);
	net.family = strchr(text, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(net.family, text, net.address) != 1)
		c->bad = true;
	net.prefix = (int)number(c, 10, net.family == AF_INET ? 32 : 128);
	return net;
}

static void read_rule(struct plan *plan, struct cursor *c) {
	struct rule *rule = ADD(plan->rules, plan->n_rules);
	rule->id = (int)number(c, 10, INT_MAX);
	rule->class = WORD(c, "process", "file", "network", "capabilities", "dns");
	rule->match = WORD(c, "path", "execname", "directory", "pattern", "name", "domain");
	rule->action = WORD(c, "Allow", "Block", "Audit");
	for (const char *flag = next(c); *flag; flag++) {
		rule->owner_only |= *flag == 'o';
		rule->read_only |= *flag == 'r';
		rule->recursive |= *flag == 'R';
		rule->tty_only |= *flag == 't';
		rule->baseline |= *flag == 'b';
		rule->device |= *flag == 'd';
	}
	rule->value = next(c);
	rule->length = strlen(rule->value);
	rule->sources = strings(c, &rule->n_sources);
	rule->args = strings(c, &rule->n_args);
	if (rule->match == MATCH_DIRECTORY && (!rule->length || rule->value[rule->length - 1] != '/'))
		c->bad = true;
}

static void read_syscall(struct plan *plan, struct cursor *c) {
	struct syscall_rule *rule = ADD(plan->syscalls, plan->n_syscalls);
	rule->id = (int)number(c, 10, INT_MAX);
	rule->nr = syscall_number(next(c));
	rule->path = next(c);
	rule->recursive = number(c, 10, 1);
	int sources = (int)number(c, 10, 100000);
	for (int i = 0; i < sources && !c->bad; i++) {
		struct syscall_source *source = ADD(rule->sources, rule->n_sources);
		int form = WORD(c, "path", "dir", "tree");
		source->directory = form > 0;
		source->recursive = form == 2;
		source->path = next(c);
	}
}

static void read_endpoint(struct plan *plan, struct cursor *c) {
	struct endpoint *point = ADD(plan->endpoints, plan->n_endpoints);
	point->net = cidr(c);
	point->protocol = (const int[]){0, IPPROTO_TCP, IPPROTO_UDP}[WORD(c, "any", "tcp", "udp")];
	point->low = (int)number(c, 10, 65535);
	point->high = (int)number(c, 10, 65535);
	int except = (int)number(c, 10, 100000);
	for (int i = 0; i < except && !c->bad; i++)
		*ADD(point->except, point->n_except) = cidr(c);
}

static bool read_record(struct plan *plan, struct cursor *c) {
	const char *record = next(c);
	if (!strcmp(record, "rule")) {
		read_rule(plan, c);
	} else if (!strcmp(record, "syscall")) {
		read_syscall(plan, c);
	} else if (!strcmp(record, "preset")) {
		struct preset_rule *rule = ADD(plan->presets, plan->n_presets);
		rule->id = (int)number(c, 10, INT_MAX);
		rule->preset = 1 + WORD(c, "filelessExec", "protectProc", "protectEnv", "exec",
					"anonymousMapExec");
		rule->action = WORD(c, "Allow", "Block", "Audit");
	} else if (!strcmp(record, "posture")) {
		int class = WORD(c, "process", "file", "network", "capabilities", "dns");
		plan->postures[class] = WORD(c, "open", "audit", "block");
	} else if (!strcmp(record, "mode")) {
		int trap = WORD(c, "read", "write", "metadata", "exec", "socket", "endpoint", "dns");
		plan->modes[trap] = WORD(c, "none", "report", "enforce");
	} else if (!strcmp(record, "landlock")) {
		plan->fs_handled = number(c, 16, UINT64_MAX);
		plan->net_handled = number(c, 16, UINT64_MAX);
		plan->scoped = number(c, 16, UINT64_MAX);
		plan->child_reads_proc = number(c, 10, 1);
	} else if (!strcmp(record, "grant")) {
		struct fs_grant *grant = ADD(plan->grants, plan->n_grants);
		grant->rights = number(c, 16, UINT64_MAX);
		grant->path = next(c);
	} else if (!strcmp(record, "sure")) {
		*ADD(plan->sure, plan->n_sure) = next(c);
	} else if (!strcmp(record, "port")) {
		struct port_grant *grant = ADD(plan->ports, plan->n_ports);
		grant->rights = number(c, 16, UINT64_MAX);
		grant->port = number(c, 10, 65535);
	} else if (!strcmp(record, "capabilities")) {
		plan->keep_caps = number(c, 16, UINT64_MAX);
	} else if (!strcmp(record, "egress")) {
		plan->egress = WORD(c, "any", "none", "limited");
	} else if (!strcmp(record, "endpoint")) {
		read_endpoint(plan, c);
	} else if (!strcmp(record, "named")) {
		struct named *named = ADD(plan->named, plan->n_named);
		named->dev = (dev_t)number(c, 10, UINT64_MAX);
		named->ino = (ino_t)number(c, 10, UINT64_MAX);
		named->path = next(c);
	} else if (!strcmp(record, "limit")) {
		uint64_t *const limits[] = {&plan->limits.memory, &plan->limits.processes,
					    &plan->limits.disk, &plan->limits.open_files,
					    &plan->limits.cpu_millis, &plan->limits.alerts};
		int which = WORD(c, "memory", "processes", "disk", "open-files", "cpu", "alerts");
		*limits[which] = number(c, 10, UINT64_MAX);
	} else if (!strcmp(record, "cgroup") && plan->n_cgroups < (int)countof(plan->cgroups)) {
		plan->cgroups[plan->n_cgroups++] = next(c);
	} else if (!strcmp(record, "counter") && plan->n_counters < (int)countof(plan->counters)) {
		struct counter *counter = &plan->counters[plan->n_counters++];
		counter->kind = (const char *const[]){"memory", "processes",
						      "cpu"}[WORD(c, "memory", "processes", "cpu")];
		counter->path = next(c);
		counter->key = next(c);
	} else {
		return false;
	}
	return !c->bad && c->at == c->n;
}

/* ---- deciding ------------------------------------------------------------------------------ */

static bool in_directory(const struct rule *rule, const char *path, size_t length) {
	if (length + 1 == rule->length)
		return strncmp(path, rule->value, length) == 0; /* the directory itself */
	if (length < rule->length || strncmp(path, rule->value, rule->length) != 0)
		return length == 1 && rule->length == 1;
	return rule->recursive || !strchr(path + rule->length, '/');
}

/* One element of a pattern: its length, and whether the character at ``text`` fits. */
static size_t element(const char *pattern, const unsigned char *text, bool *fits) {
	const char *end = *pattern == '[' && pattern[1] ? strchr(pattern + 2, ']') : NULL;
	if (*pattern == '?') {
		*fits = *text != '/';
		return 1;
	}
	if (!end) {
		*fits = (unsigned char)*pattern == *text;
		return 1;
	}
	const unsigned char *at = (const unsigned char *)pattern + 1, *stop = (const unsigned char *)end;
	bool negated = (*at == '!' || *at == '^') && stop - at > 1, found = false;
	for (at += negated; at < stop; at++) {
		bool range = at + 2 < stop && at[1] == '-';
		found |= *at <= *text && *text <= (range ? at[2] : *at);
		at += range ? 2 : 0;
	}
	*fits = found != negated && *text != '/';
	return (size_t)(end - pattern) + 1;
}

/* Patterns as policy/decide.py's Glob has them: all states at once, since paths come from the child
 * and several stars must not let one of them take long. `?` is a byte here, a character there. */
static bool glob_match(const char *pattern, const char *text) {
	static unsigned char states[2][4097];
	size_t length = strlen(pattern), fixed = strcspn(pattern, "*?[");
	if (length > 4096 || strncmp(pattern, text, fixed) != 0)
		return false;
	unsigned char *now = states[0], *then = states[1];
	memset(now, 0, length + 1);
	now[0] = 1;
	for (const unsigned char *at = (const unsigned char *)text;; at++) {
		for (size_t i = 0; i < length; i++) /* stars also match nothing */
			if (now[i] && pattern[i] == '*')
				now[i + (pattern[i + 1] == '*' ? 2 : 1)] = 1;
		if (!*at)
			return now[length];
		memset(then, 0, length + 1);
		for (size_t i = 0; i < length; i++) {
			bool fits, deep = pattern[i + 1] == '*';
			if (!now[i])
				continue;
			if (pattern[i] == '*') {
				then[i] |= deep || *at != '/';
				continue;
			}
			size_t step = element(pattern + i, at, &fits);
			then[i + step] |= fits;
		}
		unsigned char *swap = now;
		now = then;
		then = swap;
	}
}

static bool protocol_match(const char *name, const struct operation *op) {
	int type = op->type & 0xf, protocol = op->protocol;
	bool packet = op->domain == AF_PACKET || type == SOCK_PACKET;
	if (!strcmp(name, "all"))
		return true;
	if (!strcmp(name, "tcp"))
		return type == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP ||
					       protocol == 262 /* IPPROTO_MPTCP, 5.6 */);
	if (!strcmp(name, "udp"))
		return type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
	if (!strcmp(name, "icmp"))
		return protocol == IPPROTO_ICMP;
	if (!strcmp(name, "icmpv6"))
		return protocol == IPPROTO_ICMPV6;
	if (!strcmp(name, "sctp"))
		return protocol == IPPROTO_SCTP;
	if (!strcmp(name, "raw"))
		return type == SOCK_RAW;
	if (!strcmp(name, "stream"))
		return type == SOCK_STREAM;
	if (!strcmp(name, "dgram"))
		return type == SOCK_DGRAM;
	if (!strcmp(name, "rdm"))
		return type == SOCK_RDM;
	if (!strcmp(name, "seqpacket"))
		return type == SOCK_SEQPACKET;
	if (!strcmp(name, "dccp"))
		return type == SOCK_DCCP;
	return !strcmp(name, "packet") && packet;
}

static bool dns_match(const char *domain, const char *query) {
	size_t want = strlen(domain), have = strlen(query);
	return want && have >= want && strcasecmp(query + have - want, domain) == 0 &&
	       (have == want || query[have - want - 1] == '.');
}

static bool has_source(const struct rule *rule, const struct operation *op) {
	bool parents = rule->class == CLASS_PROCESS && op->parent;
	for (int i = 0; i < rule->n_sources; i++)
		if ((op->source && !strcmp(rule->sources[i], op->source(op->context))) ||
		    (parents && !strcmp(rule->sources[i], op->parent(op->context))))
			return true;
	return false;
}

/* How specific a rule's hit is: level and depth packed into one number, 0 for no hit. */
static unsigned hit(const struct rule *rule, const struct operation *op, size_t length,
		    const char *base) {
	unsigned plain, sourced, depth = 0;
	switch (rule->match) {
	case MATCH_PATH:
		if (rule->length != length || memcmp(rule->value, op->path, length) != 0)
			return 0;
		plain = 4, sourced = 6;
		break;
	case MATCH_EXECNAME:
		if (op->kind != OP_EXEC || strcmp(rule->value, base) != 0)
			return 0;
		plain = sourced = 3;
		break;
	case MATCH_PATTERN:
		if (!glob_match(rule->value, op->path))
			return 0;
		plain = sourced = 2;
		break;
	case MATCH_DIRECTORY:
		if (!in_directory(rule, op->path, length))
			return 0;
		plain = 1, sourced = 5, depth = (unsigned)rule->length;
		break;
	case MATCH_NAME:
		if (op->kind == OP_NETWORK ? !protocol_match(rule->value, op)
					   : op->kind == OP_DNS || strcmp(rule->value, op->path) != 0)
			return 0;
		plain = 1, sourced = 2;
		break;
	case MATCH_DNS:
		if (op->kind != OP_DNS || !dns_match(rule->value, op->path))
			return 0;
		plain = 1, sourced = 2, depth = (unsigned)rule->length;
		break;
	default:
		return 0;
	}
	if (rule->n_sources && !has_source(rule, op))
		return 0;
	if (rule->tty_only && !(op->tty && op->tty(op->context)))
		return 0;
	return ((rule->n_sources ? sourced : plain) << 16) + depth + 1;
}

static bool reads_only(enum kind kind) {
	return kind == OP_READ || kind == OP_LIST || kind == OP_EXEC;
}

static bool args_allowed(const struct rule *rule, const struct operation *op) {
	int count = 0;
	const char *const *args = op->args ? op->args(op->context, &count) : NULL;
	if (count > 20 || count < 0)
		return false;
	for (int i = 0; i < count; i++) {
		bool listed = strlen(args[i]) <= 104;
		for (int j = 0; listed; j++) {
			if (j == rule->n_args)
				return false;
			if (!strcmp(rule->args[j], args[i]))
				break;
		}
		if (!listed)
			return false;
	}
	return true;
}

/* What a matched rule permits: nothing for a bare Block, the qualified part otherwise. */
static bool permits(const struct rule *rule, const struct operation *op) {
	bool args = rule->n_args && rule->action != ACTION_ALLOW && op->kind == OP_EXEC;
	if (!rule->owner_only && !rule->read_only && !rule->device && !args)
		return rule->action == ACTION_ALLOW;
	if (rule->device && op->kind != OP_READ && op->kind != OP_WRITE)
		return false;
	if (rule->read_only && !reads_only(op->kind))
		return false;
	if (rule->owner_only && !(op->owner && op->owner(op->context)))
		return false;
	return !args || args_allowed(rule, op);
}

static enum class class_of(enum kind kind) {
	switch (kind) {
	case OP_EXEC:
		return CLASS_PROCESS;
	case OP_NETWORK:
		return CLASS_NETWORK;
	case OP_DNS:
		return CLASS_DNS;
	case OP_CAPABILITY:
		return CLASS_CAPABILITY;
	default:
		return CLASS_FILE;
	}
}

/* Which of two rules on the same key speaks: a Block that refuses, a Block, an Allow that permits. */
static int rank(const struct rule *rule, const struct operation *op) {
	bool good = permits(rule, op);
	return rule->action == ACTION_BLOCK ? 3 - good : good;
}

enum wanted { WANT_RULE, WANT_AUDIT, WANT_BASELINE };

static enum wanted wanted_of(const struct rule *rule) {
	return rule->action == ACTION_AUDIT ? WANT_AUDIT : rule->baseline ? WANT_BASELINE : WANT_RULE;
}

/* Rules are found by what they name, however many there are: paths, directories and names through a
 * hash of the path's prefixes, the others (patterns, protocols …) one after another. */
enum { BUCKETS = 4096 };
static const uint32_t HASH_START = 2166136261u;

static uint32_t hash_byte(uint32_t hash, char byte) {
	return (hash ^ (unsigned char)byte) * 16777619u; /* FNV-1a */
}

static bool hashed(const struct rule *rule) {
	return rule->match == MATCH_PATH || rule->match == MATCH_DIRECTORY ||
	       rule->match == MATCH_EXECNAME;
}

static bool build_index(struct plan *plan) {
	plan->buckets = malloc(BUCKETS * sizeof *plan->buckets);
	plan->scanned = -1;
	if (!plan->buckets)
		return false;
	for (int i = 0; i < BUCKETS; i++)
		plan->buckets[i] = -1;
	for (int i = 0; i < plan->n_rules; i++) {
		struct rule *rule = &plan->rules[i];
		uint32_t hash = HASH_START;
		for (size_t j = 0; j < rule->length; j++)
			hash = hash_byte(hash, rule->value[j]);
		int *head = hashed(rule) ? &plan->buckets[hash % BUCKETS] : &plan->scanned;
		rule->next = *head;
		*head = i;
	}
	return true;
}

struct search {
	const struct plan *plan;
	const struct operation *op;
	enum class class;
	enum wanted wanted;
	size_t length;
	const char *base;
	const struct rule *best;
	unsigned highest;
};

static void consider(struct search *search, int at) {
	for (; at >= 0; at = search->plan->rules[at].next) {
		const struct rule *rule = &search->plan->rules[at];
		if (rule->class != search->class || wanted_of(rule) != search->wanted)
			continue;
		unsigned now = hit(rule, search->op, search->length, search->base);
		if (!now || now < search->highest)
			continue;
		/* An Audit reports what a Block in its place would refuse; any baseline rule will do. */
		if (search->wanted == WANT_AUDIT ? permits(rule, search->op)
						 : search->wanted == WANT_BASELINE &&
							   !permits(rule, search->op))
			continue;
		if (now > search->highest || (search->wanted == WANT_RULE &&
					      rank(rule, search->op) > rank(search->best, search->op))) {
			search->best = rule;
			search->highest = now;
		}
	}
}

static const struct rule *best_of(const struct plan *plan, const struct operation *op,
				  enum class class, enum wanted wanted) {
	struct search search = {plan, op, class, wanted, strlen(op->path), strrchr(op->path, '/'), NULL, 0};
	uint32_t hash = HASH_START, name = HASH_START;
	search.base = search.base ? search.base + 1 : op->path;
	if (!plan->present[class][wanted])
		return NULL;
	for (const char *at = op->path; *at; at++) {
		hash = hash_byte(hash, *at);
		if (*at == '/' && at[1])
			consider(&search, plan->buckets[hash % BUCKETS]);
	}
	consider(&search, plan->buckets[hash % BUCKETS]);
	if (!search.length || op->path[search.length - 1] != '/')
		consider(&search, plan->buckets[hash_byte(hash, '/') % BUCKETS]); /* the directory itself */
	if (op->kind == OP_EXEC) {
		for (const char *at = search.base; *at; at++)
			name = hash_byte(name, *at);
		consider(&search, plan->buckets[name % BUCKETS]);
	}
	consider(&search, plan->scanned);
	return search.best;
}

/* The verdict of the table on one operation. */
struct verdict plan_decide(const struct plan *plan, const struct operation *op) {
	struct verdict verdict = {.allow = true, .rule = RULE_NONE, .audit = RULE_NONE};
	enum class class = class_of(op->kind);
	const struct rule *rule = best_of(plan, op, class, WANT_RULE);
	if (rule && permits(rule, op)) {
		verdict.rule = rule->id;
	} else if (rule && rule->action == ACTION_BLOCK) {
		verdict.allow = false;
		verdict.rule = rule->id;
	} else if (plan->postures[class] != POSTURE_OPEN) {
		bool self = op->kind == OP_EXEC && op->source &&
			    !strcmp(op->source(op->context), op->path);
		if (!best_of(plan, op, class, WANT_BASELINE) && !self) {
			verdict.posture = true;
			verdict.rule = RULE_POSTURE;
			verdict.allow = plan->postures[class] == POSTURE_AUDIT;
		}
	}
	if (op->kind == OP_EXEC && verdict.allow) {
		/* Exec opens the file, so a file rule that refuses every read refuses it too. */
		rule = best_of(plan, op, CLASS_FILE, WANT_RULE);
		if (rule && rule->action == ACTION_BLOCK && !rule->owner_only && !rule->read_only)
			return (struct verdict){.rule = rule->id, .audit = RULE_NONE};
	}
	if (verdict.allow && (rule = best_of(plan, op, class, WANT_AUDIT)))
		verdict.audit = rule->id;
	return verdict;
}

/* Order of paths in which a directory is followed by what lies in it, before anything else. */
static int by_path(const void *left, const void *right) {
	const unsigned char *a = *(const unsigned char *const *)left;
	const unsigned char *b = *(const unsigned char *const *)right;
	for (; *a && *a == *b; a++)
		b++;
	return (*a == '/' ? 1 : *a) - (*b == '/' ? 1 : *b);
}

/* Whether a resolved path is one that the child's own domain lets it read, or lies below one. None of
 * them lies below another, so it is the last that is not after the path. */
bool plan_surely_readable(const struct plan *plan, const char *path) {
	int low = 0, high = plan->n_sure;
	while (low < high) {
		int middle = (low + high) / 2;
		if (by_path(&plan->sure[middle], &path) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return false;
	const char *sure = plan->sure[low - 1];
	size_t length = strlen(sure);
	return !strncmp(sure, path, length) && (!path[length] || path[length] == '/');
}

/* Reads a table. ``text`` must stay: the table points into it. False with a message in ``error``. */
bool plan_parse(struct plan *plan, char *text, size_t length, char *error, size_t error_size) {
	static const char magic[] = "modelarmor-plan\t1\n";
	memset(plan, 0, sizeof *plan);
	if (length < sizeof magic - 1 || strncmp(text, magic, sizeof magic - 1) != 0 ||
	    memchr(text, 0, length) || text[length - 1] != '\n') {
		snprintf(error, error_size, "the plan does not begin with its version or does not end with a line");
		return false;
	}
	int line = 2;
	char *at = text + sizeof magic - 1, *end = text + length;
	while (at < end) {
		char *stop = memchr(at, '\n', (size_t)(end - at));
		*stop = 0;
		struct cursor c = {0};
		for (char *field = at; field; ) {
			char *tab = strchr(field, '\t');
			if (tab)
				*tab = 0;
			*ADD(c.fields, c.n) = field;
			c.bad |= !unescape(field);
			field = tab ? tab + 1 : NULL;
		}
		bool good = !c.bad && read_record(plan, &c);
		if (!good) {
			snprintf(error, error_size, "the plan's line %d (%.40s) is not understood", line,
				 c.fields[0]);
			free(c.fields);
			return false;
		}
		free(c.fields);
		at = stop + 1;
		line++;
	}
	for (int i = 0; i < plan->n_rules; i++)
		plan->present[plan->rules[i].class][wanted_of(&plan->rules[i])] = true;
	if (plan->n_sure)
		qsort(plan->sure, (size_t)plan->n_sure, sizeof *plan->sure, by_path);
	return build_index(plan);
}

static bool inside(const struct cidr *net, int family, const unsigned char *address) {
	if (net->family != family)
		return false;
	int whole = net->prefix / 8, rest = net->prefix % 8;
	if (memcmp(net->address, address, (size_t)whole) != 0)
		return false;
	return !rest || (net->address[whole] ^ address[whole]) >> (8 - rest) == 0;
}

/* Whether the profile's egress lets an address be reached; v4-mapped addresses count as v4. */
bool plan_endpoint_allowed(const struct plan *plan, const struct sockaddr *to, int protocol) {
	const unsigned char *address;
	int port, family = to->sa_family;
	if (plan->egress == EGRESS_ANY)
		return true;
	if (plan->egress == EGRESS_NONE)
		return false;
	if (family == AF_INET) {
		const struct sockaddr_in *in = (const void *)to;
		address = (const void *)&in->sin_addr;
		port = ntohs(in->sin_port);
	} else if (family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)to;
		address = in6->sin6_addr.s6_addr;
		port = ntohs(in6->sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
			address += 12;
			family = AF_INET;
		}
	} else {
		return false;
	}
	/* Linux sends what goes to the unspecified address to loopback. */
	static const unsigned char loopback4[] = {127, 0, 0, 1}, none[16], loopback6[16] = {[15] = 1};
	if (!memcmp(address, none, family == AF_INET ? 4 : 16))
		address = family == AF_INET ? loopback4 : loopback6;
	for (int i = 0; i < plan->n_endpoints; i++) {
		const struct endpoint *point = &plan->endpoints[i];
		if ((point->protocol && point->protocol != protocol) || port < point->low ||
		    port > point->high || !inside(&point->net, family, address))
			continue;
		bool excepted = false;
		for (int j = 0; j < point->n_except; j++)
			excepted |= inside(&point->except[j], family, address);
		if (!excepted)
			return true;
	}
	return false;
}
