/* As much of the kernel's types as KubeArmor's enforcer looks at, for a program of user space. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16, __u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

typedef struct { u32 val; } kuid_t;
struct qstr { u32 len; const char *name; };
struct inode { kuid_t i_uid; };
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; };
struct vfsmount { struct dentry *mnt_root; };
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct file { struct path f_path; struct inode *f_inode; };
struct ns_common { u32 inum; };
struct pid_namespace { struct ns_common ns; };
struct mnt_namespace { struct ns_common ns; };
struct nsproxy { struct pid_namespace *pid_ns_for_children; struct mnt_namespace *mnt_ns; };
struct upid { int nr; };
struct pid { unsigned level; struct upid numbers[4]; };
struct tty_struct { char name[64]; };
struct signal_struct { struct tty_struct *tty; };
struct mm_struct { struct file *exe_file; };
struct task_struct {
	struct nsproxy *nsproxy;
	struct mm_struct *mm;
	struct task_struct *real_parent, *parent, *group_leader;
	struct pid *thread_pid;
	int pid;
	struct signal_struct *signal;
};
struct linux_binprm { struct file *file; int argc; };
struct sock { struct { u16 skc_dport; } __sk_common; int sk_protocol; };
struct socket { int type; struct sock *sk; };
struct iovec { void *iov_base; };
struct msghdr { struct { void *iov; } msg_iter; };
struct cred;
struct user_namespace;

enum { SOCK_STREAM = 1, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_DCCP, SOCK_PACKET = 10 };
enum { IPPROTO_ICMP = 1, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_SCTP = 132 };
