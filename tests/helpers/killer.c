/* Preloaded into a process, it counts what the process does to files below a folder, and at one of these events kills the
   process, or lets it write half of the data and kills it then, or lets the disk be full from there on.

   cc -shared -fPIC -o killer.so killer.c -ldl; LD_PRELOAD=killer.so python ...; then from Python:
   ctypes.CDLL("killer.so").arm(b"/folder", 17, KILL) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, HALF = 2, FULL = 3 };

static char below[PATH_MAX];
static long at = -1, seen = 0;
static int mode = COUNT;

void arm(const char *folder, long number, int what) {
    snprintf(below, sizeof below, "%s/", folder);
    at = number;
    mode = what;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
}

long events(void) { return __atomic_load_n(&seen, __ATOMIC_SEQ_CST); }

static int inside(const char *path) { return below[0] && !strncmp(path, below, strlen(below)); }

static int path_inside(int folder, const char *path) {
    char link[64], full[2 * PATH_MAX];
    if (!below[0] || !path) return 0;
    if (path[0] == '/') return inside(path);
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, full, PATH_MAX);
    if (length < 0) return 0;
    snprintf(full + length, PATH_MAX, "/%s", path);
    return inside(full);
}

static int file_inside(int file) {
    char link[64], full[PATH_MAX];
    if (!below[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, full, sizeof full - 1);
    if (length < 0) return 0;
    full[length] = 0;
    return inside(full);
}

enum { NAMES = 0, CREATES = 1, WRITES = 2 }; /* the last two need room on the disk */

/* 0: go on; 1: write half and die; 2: the disk is full */
static int event(int kind) {
    long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (at < 0 || number < at) return 0;
    if (mode == FULL) return kind ? 2 : 0;
    if (number > at) return 0;
    if (mode == HALF && kind == WRITES) return 1;
    if (mode != COUNT) kill(getpid(), SIGKILL), pause();
    return 0;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(value) do { errno = ENOSPC; return value; } while (0)
#define CHANGES(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC))

#define OPEN(name)                                                                                   \
    int name(const char *path, int flags, ...) {                                                     \
        va_list rest;                                                                                \
        va_start(rest, flags);                                                                       \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                                \
        if (CHANGES(flags) && path_inside(AT_FDCWD, path) && event(flags & O_CREAT ? CREATES : NAMES) == 2) FAIL(-1);  \
        return REAL(name)(path, flags, rights);                                                      \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                 \
    int name(int folder, const char *path, int flags, ...) {                                         \
        va_list rest;                                                                                \
        va_start(rest, flags);                                                                       \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                                \
        if (CHANGES(flags) && path_inside(folder, path) && event(flags & O_CREAT ? CREATES : NAMES) == 2) FAIL(-1);    \
        return REAL(name)(folder, path, flags, rights);                                              \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                  \
    FILE *name(const char *path, const char *how) {                                                  \
        if (strpbrk(how, "wa+") && path_inside(AT_FDCWD, path) && event(CREATES) == 2) FAIL(NULL);         \
        return REAL(name)(path, how);                                                                \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *data, size_t length) {
    if (file_inside(file)) {
        int what = event(WRITES);
        if (what == 2) FAIL(-1);
        if (what == 1) REAL(write)(file, data, length / 2), kill(getpid(), SIGKILL), pause();
    }
    return REAL(write)(file, data, length);
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    if (file_inside(file)) {
        int what = event(WRITES);
        if (what == 2) FAIL(-1);
        if (what == 1) REAL(writev)(file, parts, (number + 1) / 2), kill(getpid(), SIGKILL), pause();
    }
    return REAL(writev)(file, parts, number);
}

#define PWRITE(name)                                                                                 \
    ssize_t name(int file, const void *data, size_t length, off_t place) {                           \
        if (file_inside(file) && event(CREATES) == 2) FAIL(-1);                                            \
        return REAL(name)(file, data, length, place);                                                \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

int rename(const char *from, const char *to) {
    if (path_inside(AT_FDCWD, to)) event(NAMES);
    return REAL(rename)(from, to);
}
int renameat(int folder, const char *from, int other, const char *to) {
    if (path_inside(other, to)) event(NAMES);
    return REAL(renameat)(folder, from, other, to);
}
int unlink(const char *path) {
    if (path_inside(AT_FDCWD, path)) event(NAMES);
    return REAL(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
    if (path_inside(folder, path)) event(NAMES);
    return REAL(unlinkat)(folder, path, flags);
}
int rmdir(const char *path) {
    if (path_inside(AT_FDCWD, path)) event(NAMES);
    return REAL(rmdir)(path);
}
int mkdir(const char *path, mode_t rights) {
    if (path_inside(AT_FDCWD, path) && event(CREATES) == 2) FAIL(-1);
    return REAL(mkdir)(path, rights);
}
int mkdirat(int folder, const char *path, mode_t rights) {
    if (path_inside(folder, path) && event(CREATES) == 2) FAIL(-1);
    return REAL(mkdirat)(folder, path, rights);
}
int fsync(int file) {
    if (file_inside(file) && event(CREATES) == 2) FAIL(-1);
    return REAL(fsync)(file);
}
