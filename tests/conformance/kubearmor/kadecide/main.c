/* Answers operations as KubeArmor's BPF-LSM programs do: they are compiled in, for user space.
 *
 * Reads "R" (forget the rows), "K PATH SOURCE PROCESS FILE" (a row, hexadecimal, "-" is empty) and
 * "O HOOK PATH EXECUTABLE PARENT OWNER A B". To the last it says what the hook returns, and whether an
 * event was raised. See ../README.md for how to build it, and for the hooks.
 */
#define strtol strtol_of_kubearmor
#include "enforcer.bpf.c"
#undef strtol

#include <stdio.h>
#include <string.h>

enum { ROWS = 4096, PARTS = 64, CALLER = 1000 };

static struct { bufs_k key; struct data_t value; } rows[ROWS];
static int n_rows;
static bufs_k keys[4];
static bufs_t buffer;
static u32 offset, table;
static event raised;
static bool is_raised;
static struct task_struct caller, parent;

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
	static struct pid_namespace pids = {{7}};
	static struct mnt_namespace mounts = {{9}};
	static struct nsproxy namespaces = {&pids, &mounts};
	static struct signal_struct signals;
	static struct pid number;
	*task = (struct task_struct){.nsproxy = &namespaces, .mm = mm, .real_parent = of, .parent = of,
				     .group_leader = task, .thread_pid = &number, .signal = &signals};
}

/* ---- questions --------------------------------------------------------------------------------- */

static int ask(const char *hook, struct file *file, int a, int b) {
	struct linux_binprm program = {file, 0};
	if (!strcmp(hook, "exec"))
		return enforce_proc(&program, 0);
	if (!strcmp(hook, "open"))
		return enforce_file(file);
	if (!strcmp(hook, "write"))
		return enforce_file_perm(file, MASK_WRITE);
	if (!strcmp(hook, "net"))
		return enforce_net_create(2, a, b);
	if (!strcmp(hook, "cap"))
		return enforce_cap(NULL, NULL, a, 0);
	/* the hooks of enforcer_path.bpf.c are this call */
	int event = !strcmp(hook, "create") ? _FILE_MKNOD
		    : !strcmp(hook, "delete") ? _FILE_UNLINK
					      : _FILE_CHMOD;
	return match_and_enforce_path_hooks(&file->f_path, dpath, event);
}

static void decode(char *to, const char *hexadecimal) {
	unsigned byte;
	for (; sscanf(hexadecimal, "%2x", &byte) == 1; hexadecimal += 2)
		*to++ = (char)byte;
}

int main(void) {
	static struct made_up file, executable, parents;
	static struct mm_struct memory = {&executable.file}, parents_memory = {&parents.file};
	static char line[1 << 14], path[4096], exe[4096], of[4096];
	bear(&parent, &parent, &parents_memory);
	bear(&caller, &parent, &memory);
	while (fgets(line, sizeof line, stdin)) {
		char hook[32];
		unsigned owner, process, mask;
		int a = 0, b = 0;
		if (*line == 'R') {
			n_rows = 0;
		} else if (sscanf(line, "K %4095s %4095s %u %u", path, exe, &process, &mask) == 4 &&
			   n_rows < ROWS) {
			memset(&rows[n_rows], 0, sizeof *rows);
			decode(rows[n_rows].key.path, path);
			decode(rows[n_rows].key.source, exe);
			rows[n_rows++].value = (struct data_t){(u16)process, (u16)mask};
		} else if (sscanf(line, "O %31s %4095s %4095s %4095s %u %d %d", hook, path, exe, of, &owner,
				  &a, &b) >= 5) {
			make_up(&file, path, owner);
			make_up(&executable, exe, 0);
			make_up(&parents, of, 0);
			memset(keys, 0, sizeof keys);
			is_raised = false;
			int answer = ask(hook, &file.file, a, b);
			printf("%d %d\n", answer, is_raised);
			fflush(stdout);
		} else {
			fprintf(stderr, "kadecide: not understood: %s", line);
			return 2;
		}
	}
	return 0;
}
