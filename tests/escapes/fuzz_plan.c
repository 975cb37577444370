/* Parses plans and decides by them, thousands a second: input is a row of (length, bytes) pairs.
 * Built with the sanitizers and the helper's own plan.c; prints how many were understood. */
#include "helper.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static bool yes(void *context) {
	return context != NULL;
}

static const char *shell(void *context) {
	return context ? "/bin/sh" : "";
}

static const char *const *arguments(void *context, int *count) {
	static const char *const args[] = {"-c", "", "\xff\n", NULL};
	*count = context ? 3 : 0;
	return args;
}

static void decide(const struct plan *plan) {
	static const char *const paths[] = {"/", "/a", "/a/b/c", "/usr/lib/x.so.1", "/dev/pts/0",
					    "/w/[x]*?", "", "relative", "/\xff\xfe\n\"", "tcp", "net_raw"};
	for (int kind = OP_EXEC; kind <= OP_CAPABILITY; kind++)
		for (size_t i = 0; i < countof(paths); i++) {
			struct operation op = {
				.kind = (enum kind)kind, .path = paths[i],
				.source = i % 5 ? shell : NULL, .parent = i % 3 ? shell : NULL,
				.owner = yes, .tty = yes, .args = arguments,
				.context = i % 2 ? (void *)plan : NULL,
				.domain = AF_INET, .type = (int)i, .protocol = (int)i * 3};
			plan_decide(plan, &op);
		}
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(443)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	v6.sin6_addr.s6_addr[10] = v6.sin6_addr.s6_addr[11] = 0xff;
	plan_endpoint_allowed(plan, (struct sockaddr *)&v4, IPPROTO_TCP);
	plan_endpoint_allowed(plan, (struct sockaddr *)&v6, IPPROTO_UDP);
}

int main(void) {
	uint32_t size;
	unsigned long all = 0, understood = 0;
	while (fread(&size, sizeof size, 1, stdin) == 1) {
		char *text = malloc((size_t)size + 1), error[64];
		if (!text || fread(text, 1, size, stdin) != size)
			return 1;
		text[size] = 0;
		struct plan plan;
		all++;
		if (plan_parse(&plan, text, size, error, sizeof error)) {
			understood++;
			decide(&plan);
		}
		free(text);
	}
	printf("%lu %lu\n", all, understood);
	return 0;
}
