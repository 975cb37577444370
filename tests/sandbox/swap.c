/* Has a blocked program run in the place of one that may: the path changes while it is executed.
 *
 *     swap FROM TO TRIES [noise]
 *
 * FROM is what is asked for, TO what the memory says a moment later; ``noise`` is a thread beside that
 * goes on failing to execute something. TO is given the argument 1. Prints how often TO came to its
 * end, which it takes a second for, so that whoever ends it has time to. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK = 65536, PAUSE = 20000, OWN = 7, REFUSED = 9 };
static volatile char path[4096];
static char *from, *to, *arguments[] = {"swapped", "1", NULL}, *environment[] = {NULL};
static char stacks[3][STACK];
static int noisy;

static int swapping(void *unused) {
	(void)unused;
	for (;;) {
		strcpy((char *)path, to);
		for (volatile int i = 0; i < PAUSE; i++) {}
		strcpy((char *)path, from);
		for (volatile int i = 0; i < PAUSE; i++) {}
	}
}

static int failing(void *unused) {
	(void)unused;
	for (;;)
		execve("/nonexistent", arguments, environment);
}

static int asking(void *unused) {
	(void)unused;
	if (noisy)
		clone(failing, stacks[2] + STACK,
		      CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FS | CLONE_FILES, NULL);
	execve((char *)path, arguments, environment);
	_exit(REFUSED);
}

int main(int argc, char **argv) {
	int ran = 0, ended = 0, own = 0, refused = 0, status;
	if (argc < 4)
		return OWN; /* executed as FROM */
	from = argv[1];
	to = argv[2];
	noisy = argc > 4;
	strcpy((char *)path, from);
	int swapper = clone(swapping, stacks[0] + STACK, CLONE_VM | SIGCHLD, NULL);
	for (int tries = atoi(argv[3]); tries && !ran; tries--) {
		waitpid(clone(asking, stacks[1] + STACK, CLONE_VM | SIGCHLD, NULL), &status, 0);
		ended += WIFSIGNALED(status);
		own += WIFEXITED(status) && WEXITSTATUS(status) == OWN;
		refused += WIFEXITED(status) && WEXITSTATUS(status) == REFUSED;
		ran += WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	kill(swapper, SIGKILL);
	printf("ran %d, ended %d, own %d, refused %d\n", ran, ended, own, refused);
	return 0;
}
