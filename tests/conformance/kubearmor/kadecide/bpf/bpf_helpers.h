#pragma once
#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define LIBBPF_PIN_BY_NAME 1
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_PERCPU_ARRAY,
	BPF_MAP_TYPE_RINGBUF,
	BPF_MAP_TYPE_HASH_OF_MAPS,
	BPF_MAP_TYPE_LRU_HASH
};

#define bpf_probe_read(to, size, from) \
	(__builtin_memcpy((void *)(to), (const void *)(from), size), 0)
#define bpf_probe_read_kernel bpf_probe_read
#define bpf_probe_read_user bpf_probe_read
long bpf_probe_read_str(void *to, u32 size, const void *from);
void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags);
long bpf_map_delete_elem(void *map, const void *key);
u64 bpf_get_current_task(void);
u64 bpf_get_current_pid_tgid(void);
u64 bpf_get_current_uid_gid(void);
long bpf_get_current_comm(void *to, u32 size);
u64 bpf_ktime_get_ns(void);
void *bpf_ringbuf_reserve(void *ring, u64 size, u64 flags);
void bpf_ringbuf_submit(void *event, u64 flags);
