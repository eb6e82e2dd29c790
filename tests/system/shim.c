/* A file system that lacks something: FAIL_CALL=ERRNO makes a system call fail as it does there.

   Locks and syncs are calls of the C library, which are replaced; fsync for directories alone. Links and renames are
   made without the C library, so a filter of the kernel answers for them. */
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

#define REAL(type, name) __typeof__(type) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

int flock(int file, int operation) {
    REAL(int (*)(int, int), "flock");
    return fails("FAIL_FLOCK") ? -1 : real(file, operation);
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
    filter("FAIL_LINK", SYS_linkat);
#ifdef SYS_rename
    filter("FAIL_RENAME", SYS_rename);
#endif
#ifdef SYS_renameat
    filter("FAIL_RENAME", SYS_renameat);
#else
    filter("FAIL_RENAME", SYS_renameat2);
#endif
}
