/* A program that the policy forbids: says TOKEN and leaves. It needs no library and no loader, so
 * that it also runs as another program's interpreter. */
#include <sys/syscall.h>

static const char token[] = TOKEN "\n";

static long call(long nr, long a, long b, long c) {
	long result;
#if defined(__x86_64__)
	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
#else
#error "the escape tests are written for x86_64"
#endif
	return result;
}

void _start(void) {
	call(SYS_write, 1, (long)token, sizeof token - 1);
	call(SYS_exit_group, 0, 0, 0);
}
