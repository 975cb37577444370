/* Answers operations as KubeArmor's BPF-LSM programs do: they are compiled in, for user space.
 *
 * Reads "R" (forget everything), "K PATH SOURCE PROCESS FILE" (a row, hexadecimal, "-" is empty),
 * "V PATH SOURCE ARGUMENT" (an allowed argument, the same) and
 * "O HOOK PATH EXECUTABLE PARENT OWNER A B TERMINAL ARGUMENT...", in which only the arguments, from
 * argv[0] on, are hexadecimal. To the last it says what the hook returns, and whether an event was
 * raised. See ../README.md for how to build it, and for the hooks.
 *
 * With PRESET, OPENS and CONTAINERS (a file, its function and its map) it asks the program of a preset,
 * which blocks, whatever HOOK says.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#define strtol strtol_of_kubearmor
#ifdef PRESET
#include PRESET
#else
#include "enforcer.bpf.c"
#endif
#undef strtol

#include <stdio.h>
#include <string.h>

enum { ROWS = 4096, PARTS = 64, CALLER = 1000, NUMBER = 30, PIDS = 7, MOUNTS = 9, WORDS = 64 };

static struct { bufs_k key; struct data_t value; } rows[ROWS];
static int n_rows;
static arg_bufs_k allowed[ROWS];
static int n_allowed;
static struct argVal words[WORDS];
static int n_words;
static arg_bufs_k argument;
static bufs_k keys[4];
static bufs_t buffer;
static u32 offset, table;
static event raised;
static bool is_raised;
static struct task_struct caller, parent;
static struct signal_struct signals;

/* ---- what BPF has, for the maps and helpers that the hooks use ------------------------------- */

void *bpf_map_lookup_elem(void *map, const void *key) {
	if (map == &bufk)
		return &keys[*(const u32 *)key];
	if (map == &bufs)
		return &buffer;
	if (map == &bufs_off)
		return &offset;
	if (map == &kubearmor_containers)
		return &table;
#ifdef PRESET
	static u32 block = BLOCK;
	if (map == &CONTAINERS)
		return &block;
#endif
	static u32 on = 1;
	if (map == &kubearmor_config) /* as KubeArmor ships: arguments are matched, alerts not throttled */
		return *(const u32 *)key == _MATCH_ARGS ? &on : NULL;
	if (map == &args_bufk)
		return &argument;
	if (map == &kubearmor_args_store) {
		u64 index = ((const struct cmd_args_key *)key)->ind;
		return index < (u64)n_words && index <= MAX_STR_ARR_ELEM ? &words[index] : NULL;
	}
	for (int i = 0; map == &kubearmor_arguments && i < n_allowed; i++)
		if (!memcmp(&allowed[i], key, sizeof(arg_bufs_k)))
			return &on;
	for (int i = 0; map == &table && i < n_rows; i++)
		if (!memcmp(&rows[i].key, key, sizeof(bufs_k)))
			return &rows[i].value;
	return NULL;
}

long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags) {
	(void)flags;
	if (map == &bufk)
		memmove(&keys[*(const u32 *)key], value, sizeof(bufs_k));
	else if (map == &bufs_off)
		offset = *(const u32 *)value;
	return 0;
}

long bpf_map_delete_elem(void *map, const void *key) {
	(void)map, (void)key;
	return 0;
}

long bpf_probe_read_str(void *to, u32 size, const void *from) {
	char *text = to;
	u32 length = 0;
	if (!size)
		return 0;
	for (; length < size - 1 && ((const char *)from)[length]; length++)
		text[length] = ((const char *)from)[length];
	text[length] = 0; /* what is behind it stays, as in the kernel */
	return length + 1;
}

u64 bpf_get_current_task(void) { return (u64)&caller; }
u64 bpf_get_current_pid_tgid(void) { return 5; }
u64 bpf_get_current_uid_gid(void) { return CALLER; }
u64 bpf_ktime_get_ns(void) { return 1; }

long bpf_get_current_comm(void *to, u32 size) {
	memset(to, 0, size);
	return 0;
}

void *bpf_ringbuf_reserve(void *ring, u64 size, u64 flags) {
	(void)ring, (void)size, (void)flags;
	memset(&raised, 0, sizeof raised);
	return &raised;
}

void bpf_ringbuf_submit(void *made, u64 flags) {
	(void)made, (void)flags;
	is_raised = true;
}

/* ---- files and tasks that are made up -------------------------------------------------------- */

struct made_up {
	struct dentry parts[PARTS];
	struct inode inode;
	struct mount mount;
	struct file file;
	char text[4096];
};

static void make_up(struct made_up *it, const char *path, u32 owner) {
	memset(it, 0, sizeof *it);
	snprintf(it->text, sizeof it->text, "%s", path);
	it->inode.i_uid.val = owner;
	struct dentry *at = it->parts;
	*at = (struct dentry){.d_parent = at, .d_name = {1, "/"}, .d_inode = &it->inode};
	int n = 1;
	for (char *name = strtok(it->text, "/"); name && n < PARTS; name = strtok(NULL, "/")) {
		it->parts[n] = (struct dentry){at, {(u32)strlen(name), name}, &it->inode};
		at = &it->parts[n++];
	}
	it->mount.mnt_parent = &it->mount;
	it->mount.mnt.mnt_root = it->parts;
	it->file.f_path = (struct path){&it->mount.mnt, at};
	it->file.f_inode = &it->inode;
}

static void bear(struct task_struct *task, struct task_struct *of, struct mm_struct *mm) {
	static struct pid_namespace pids = {{PIDS}};
	static struct mnt_namespace mounts = {{MOUNTS}};
	static struct nsproxy namespaces = {&pids, &mounts};
	static struct pid number = {0, {{NUMBER}}};
	*task = (struct task_struct){.nsproxy = &namespaces, .mm = mm, .real_parent = of, .parent = of,
				     .group_leader = task, .thread_pid = &number, .signal = &signals};
}

/* ---- questions --------------------------------------------------------------------------------- */

#ifdef PRESET
static int ask(const char *hook, const char *path, struct file *file, int a, int b) {
	(void)hook, (void)path, (void)a, (void)b;
	return OPENS(file);
}
#else
/* As a resolver sends it: to port 53, the name behind a header of 12 bytes, label by label. */
static int ask_for(const char *name) {
	char packet[512] = {0}, *to = packet + 12;
	while (*name && to - packet < 400) {
		size_t length = strcspn(name, ".");
		*to++ = (char)length;
		memcpy(to, name, length);
		to += length;
		name += length + (name[length] == '.');
	}
	struct iovec vector = {packet};
	struct sock peer = {{bpf_ntohs(53)}, IPPROTO_UDP};
	struct socket socket = {SOCK_DGRAM, &peer};
	struct msghdr message = {{&vector}};
	return enforce_dns(&socket, &message, (int)(to - packet) + 5);
}

static int ask(const char *hook, const char *path, struct file *file, int a, int b) {
	struct linux_binprm program = {file, n_words};
	if (!strcmp(hook, "exec"))
		return enforce_proc(&program, 0);
	if (!strcmp(hook, "open"))
		return enforce_file(file);
	if (!strcmp(hook, "write"))
		return enforce_file_perm(file, MASK_WRITE);
	if (!strcmp(hook, "net"))
		return enforce_net_create(2, a, b);
	if (!strcmp(hook, "dns"))
		return ask_for(path);
	if (!strcmp(hook, "cap"))
		return enforce_cap(NULL, NULL, a, 0);
	/* the hooks of enforcer_path.bpf.c are this call */
	int event = !strcmp(hook, "create") ? _FILE_MKNOD
		    : !strcmp(hook, "delete") ? _FILE_UNLINK
					      : _FILE_CHMOD;
	return match_and_enforce_path_hooks(&file->f_path, dpath, event);
}
#endif

static void decode(char *to, const char *hexadecimal) {
	unsigned byte;
	for (; sscanf(hexadecimal, "%2x", &byte) == 1; hexadecimal += 2)
		*to++ = (char)byte;
}

/* What follows TERMINAL in a line; the store of arguments keeps them as the monitor does, cut. */
static void read_words(char *rest) {
	n_words = 0;
	for (char *word = strtok(rest, " \n"); word && n_words < WORDS; word = strtok(NULL, " \n")) {
		static char text[1 << 12];
		memset(text, 0, sizeof text);
		if (*word != '-' && strlen(word) < sizeof text)
			decode(text, word);
		memset(&words[n_words], 0, sizeof *words);
		bpf_probe_read_str(&words[n_words++], sizeof *words, text);
	}
}

int main(void) {
	static struct made_up file, executable, parents;
	static struct mm_struct memory = {&executable.file}, parents_memory = {&parents.file};
	static struct tty_struct tty = {"pts0"};
	static char line[1 << 16], path[4096], exe[4096], of[4096], word[4096];
	bear(&parent, &parent, &parents_memory);
	bear(&caller, &parent, &memory);
	while (fgets(line, sizeof line, stdin)) {
		char hook[32];
		unsigned owner, process, mask;
		int a = 0, b = 0, terminal = 0, end = 0;
		if (*line == 'R') {
			n_rows = n_allowed = 0;
			memset(keys, 0, sizeof keys);
		} else if (sscanf(line, "K %4095s %4095s %u %u", path, exe, &process, &mask) == 4 &&
			   n_rows < ROWS) {
			memset(&rows[n_rows], 0, sizeof *rows);
			decode(rows[n_rows].key.path, path);
			decode(rows[n_rows].key.source, exe);
			rows[n_rows++].value = (struct data_t){(u16)process, (u16)mask};
		} else if (sscanf(line, "V %4095s %4095s %4095s", path, exe, word) == 3 &&
			   n_allowed < ROWS) {
			arg_bufs_k *made = &allowed[n_allowed++];
			memset(made, 0, sizeof *made);
			made->okey.pid_ns = PIDS;
			made->okey.mnt_ns = MOUNTS;
			decode(made->store.path, path);
			decode(made->store.source, exe);
			decode(made->arg, word);
		} else if (sscanf(line, "O %31s %4095s %4095s %4095s %u %d %d %d%n", hook, path, exe, of,
				  &owner, &a, &b, &terminal, &end) == 8) {
			signals.tty = terminal ? &tty : NULL;
			read_words(line + end);
			make_up(&file, path, owner);
			make_up(&executable, exe, 0);
			make_up(&parents, of, 0);
			is_raised = false; /* the keys stay as the last hook left them, as in the kernel */
			int answer = ask(hook, path, &file.file, a, b);
			printf("%d %d\n", answer, is_raised);
			fflush(stdout);
		} else {
			fprintf(stderr, "kadecide: not understood: %s", line);
			return 2;
		}
	}
	return 0;
}
