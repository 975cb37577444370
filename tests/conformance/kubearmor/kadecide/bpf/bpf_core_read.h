#pragma once
#define CORE_2(a, b) (a)->b
#define CORE_3(a, b, c) (a)->b->c
#define CORE_4(a, b, c, d) (a)->b->c->d
#define CORE_OF(_1, _2, _3, _4, name, ...) name
#define BPF_CORE_READ(...) CORE_OF(__VA_ARGS__, CORE_4, CORE_3, CORE_2)(__VA_ARGS__)
#define bpf_core_read(to, size, from) \
	(__builtin_memcpy((void *)(to), (const void *)(from), size), 0)
#define bpf_core_field_exists(field) 1
