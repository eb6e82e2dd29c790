/* A file system that lacks something: FAIL_CALL=ERRNO makes a system call fail as it does there.

   Calls of the C library are replaced, for fsync of directories alone; renameat2 is made without the C library,
   so a filter of the kernel answers for it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *name) {
    const char *number = getenv(name);
    if (number == NULL)
        return 0;
    errno = atoi(number);
    return 1;
}

#define REAL(type, name) type real = (type)dlsym(RTLD_NEXT, name)

int link(const char *from, const char *to) {
    REAL(int (*)(const char *, const char *), "link");
    return fails("FAIL_LINK") ? -1 : real(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    REAL(int (*)(int, const char *, int, const char *, int), "linkat");
    return fails("FAIL_LINK") ? -1 : real(from_dir, from, to_dir, to, flags);
}

int flock(int file, int operation) {
    REAL(int (*)(int, int), "flock");
    return fails("FAIL_FLOCK") ? -1 : real(file, operation);
}

int rename(const char *from, const char *to) {
    REAL(int (*)(const char *, const char *), "rename");
    return fails("FAIL_RENAME") ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int (*)(int, const char *, int, const char *), "renameat");
    return fails("FAIL_RENAME") ? -1 : real(from_dir, from, to_dir, to);
}

int fsync(int file) {
    struct stat status;
    REAL(int (*)(int), "fsync");
    if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode) && fails("FAIL_DIRSYNC"))
        return -1;
    return real(file);
}

static void filter(const char *name, unsigned int call) {
    const char *number = getenv(name);
    if (number == NULL)
        return;
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (atoi(number) & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        abort();
}

__attribute__((constructor)) static void start(void) {
    filter("FAIL_RENAME_NEW", SYS_renameat2);
}
