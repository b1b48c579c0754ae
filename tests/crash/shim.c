/* What a program does to the files below a folder, written down; and, at one of these operations, a kill or a fault.

   LD_PRELOAD=shim.so SHIM_ROOT=/folder SHIM_LOG=/side/file SHIM_MODE=count|kill|enospc|eio|eintr|short SHIM_AT=k
   SHIM_FOR=n python ...      (operations are counted from 0; the fault lasts for n of them, 1 unless told)

   Every operation that came to pass is a record of SHIM_LOG:
       "NAME PID DESCRIPTOR NUMBER LENGTH PATH\tOTHER\n", LENGTH bytes, "\n"
   NUMBER is an open's flags, a write's place, a truncation's size. tests/crash/disk.py makes of a prefix of these
   records the folder that a power cut would leave (SHIM_DISK in tests/crash/harness.py). A kill comes before its
   operation. A program may arm the shim by itself: shim_arm(root, log, mode, at, for); shim_count() is how many
   operations there were. Writing through a mapping is not seen. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, ENOSPACE, EIO_, EINTR_, SHORT };
static const char *const MODES[] = {"count", "kill", "enospc", "eio", "eintr", "short"};
#define FILES 4096
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], watched[FILES];
static int mode = COUNT, side = -1, armed;
static long at = -1, lasts = 1, count;


void shim_arm(const char *folder, const char *log, const char *kind, long first, long many) {
    pthread_mutex_lock(&turn);
    if (side >= 0) syscall(SYS_close, side);
    memset(watched, 0, sizeof watched);
    armed = folder && *folder;
    snprintf(root, sizeof root, "%s", armed ? folder : "");
    side = log && *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    mode = COUNT;
    for (int i = 0; i <= SHORT; i++)
        if (kind && !strcmp(kind, MODES[i])) mode = i;
    at = first, lasts = many > 0 ? many : 1, count = 0;
    pthread_mutex_unlock(&turn);
}

long shim_count(void) { return count; }

__attribute__((constructor)) static void begin(void) {
    const char *first = getenv("SHIM_AT"), *many = getenv("SHIM_FOR");
    shim_arm(getenv("SHIM_ROOT"), getenv("SHIM_LOG"), getenv("SHIM_MODE"), first ? atol(first) : -1, many ? atol(many) : 1);
}

/* The whole path of a name that is relative to a folder's descriptor; 1 if it lies below our root. */
static int ours(int folder, const char *name, char *path) {
    if (!armed || !name) return 0;
    if (*name == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, path, PATH_MAX - 1);
        if (size < 0) return 0;
        snprintf(path + size, (size_t)(PATH_MAX - size), "/%s", name);
    }
    size_t size = strlen(root);
    return !strncmp(path, root, size) && (path[size] == '/' || !path[size]);
}

static int known(int fd) { return armed && fd >= 0 && fd < FILES && watched[fd]; }

/* Count an operation. 0: it is to come to pass; -1: it fails with errno; 1: half of it. `room`: it may need space. */
static int operation(int room, int can_be_short) {
    long now = count++;
    if (mode == COUNT || at < 0 || now < at || now >= at + lasts) return 0;
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == SHORT) return can_be_short;
    if (mode == ENOSPACE && !room) return 0;
    errno = mode == ENOSPACE ? ENOSPC : mode == EIO_ ? EIO : EINTR;
    return -1;
}

static void note(const char *name, int fd, long number, size_t length, const char *path, const char *other, const void *data) {
    if (side < 0) return;
    int before = errno;
    char head[2 * PATH_MAX + 128];
    int size = snprintf(head, sizeof head, "%s %d %d %ld %zu %s\t%s\n", name, getpid(), fd, number, length, path, other);
    struct iovec parts[3] = {{head, (size_t)size}, {(void *)data, length}, {"\n", 1}};
    if (syscall(SYS_writev, side, parts, 3) != size + (long)length + 1) abort();
    errno = before;
}

static int opened(const char *name, int folder, int flags, mode_t rights) {
    char path[PATH_MAX];
    if (!ours(folder, name, path)) return (int)syscall(SYS_openat, folder, name, flags, rights);
    pthread_mutex_lock(&turn);
    int fd = operation(flags & O_CREAT, 0);
    if (!fd) {
        fd = (int)syscall(SYS_openat, folder, name, flags, rights);
        if (fd >= 0 && fd < FILES) watched[fd] = 1;
        if (fd >= 0) note("open", fd, flags, 0, path, "", "");
    }
    pthread_mutex_unlock(&turn);
    return fd;
}

#define RIGHTS(flags, rights) \
    mode_t rights = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        rights = va_arg(list, mode_t); \
        va_end(list); \
    }
int open(const char *name, int flags, ...) { RIGHTS(flags, rights) return opened(name, AT_FDCWD, flags, rights); }
int open64(const char *name, int flags, ...) { RIGHTS(flags, rights) return opened(name, AT_FDCWD, flags, rights); }
int openat(int folder, const char *name, int flags, ...) { RIGHTS(flags, rights) return opened(name, folder, flags, rights); }
int openat64(int folder, const char *name, int flags, ...) { RIGHTS(flags, rights) return opened(name, folder, flags, rights); }

/* A write of some buffers as one, at a place (-1: where the descriptor stands). */
static ssize_t wrote(int fd, const struct iovec *parts, int many, off_t place) {
    size_t whole = 0;
    for (int i = 0; i < many; i++) whole += parts[i].iov_len;
    char *data = malloc(whole + 1), *end = data;
    for (int i = 0; i < many; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    pthread_mutex_lock(&turn);
    ssize_t done = operation(1, 1);
    if (done >= 0) {
        struct stat facts;
        size_t part = done ? (whole + 1) / 2 : whole;
        off_t from = place >= 0 ? place : lseek(fd, 0, SEEK_CUR);
        if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &facts)) from = facts.st_size;
        done = place >= 0 ? syscall(SYS_pwrite64, fd, data, part, place) : syscall(SYS_write, fd, data, part);
        if (done >= 0) note("write", fd, from, (size_t)done, "", "", data);
    }
    pthread_mutex_unlock(&turn);
    free(data);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!known(fd)) return syscall(SYS_write, fd, data, size);
    return wrote(fd, &(struct iovec){(void *)data, size}, 1, -1);
}
ssize_t writev(int fd, const struct iovec *parts, int many) {
    return known(fd) ? wrote(fd, parts, many, -1) : syscall(SYS_writev, fd, parts, many);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    if (!known(fd)) return syscall(SYS_pwrite64, fd, data, size, place);
    return wrote(fd, &(struct iovec){(void *)data, size}, 1, place);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t place) { return pwrite(fd, data, size, place); }

/* An operation on a descriptor, or on one or two names, that the kernel answers with 0 or -1. */
static int simple(const char *what, int fd, long number, const char *path, const char *other, int room, long call, long a, long b, long c, long d) {
    pthread_mutex_lock(&turn);
    int done = operation(room, 0) < 0 ? -1 : 0;
    if (!done) done = (int)syscall(call, a, b, c, d, 0L);
    if (!done) note(what, fd, number, 0, path, other, "");
    pthread_mutex_unlock(&turn);
    return done;
}

int ftruncate(int fd, off_t size) {
    if (!known(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    return simple("truncate", fd, size, "", "", 0, SYS_ftruncate, fd, size, 0, 0);
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
int fsync(int fd) { return known(fd) ? simple("sync", fd, 0, "", "", 1, SYS_fsync, fd, 0, 0, 0) : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return known(fd) ? simple("sync", fd, 0, "", "", 1, SYS_fdatasync, fd, 0, 0, 0) : (int)syscall(SYS_fdatasync, fd); }

int close(int fd) {
    if (!known(fd)) return (int)syscall(SYS_close, fd);
    pthread_mutex_lock(&turn);
    int trouble = operation(0, 0) < 0 ? errno : 0, done = (int)syscall(SYS_close, fd);
    watched[fd] = 0;
    note("close", fd, 0, 0, "", "", "");
    if (trouble) errno = trouble, done = -1; /* the descriptor is gone, as on Linux */
    pthread_mutex_unlock(&turn);
    return done;
}

int renameat(int from, const char *old, int to, const char *new) {
    char a[PATH_MAX], b[PATH_MAX];
    if (!ours(from, old, a) || !ours(to, new, b)) return (int)syscall(SYS_renameat2, from, old, to, new, 0);
    return simple("rename", -1, 0, a, b, 1, SYS_renameat2, from, (long)old, to, (long)new);
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char a[PATH_MAX], b[PATH_MAX];
    if (flags || !ours(from, old, a) || !ours(to, new, b)) return (int)syscall(SYS_linkat, from, old, to, new, flags);
    return simple("link", -1, 0, a, b, 1, SYS_linkat, from, (long)old, to, (long)new);
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    if (!ours(folder, name, path)) return (int)syscall(SYS_unlinkat, folder, name, flags);
    return simple("unlink", -1, 0, path, "", 0, SYS_unlinkat, folder, (long)name, flags, 0);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t rights) {
    char path[PATH_MAX];
    if (!ours(folder, name, path)) return (int)syscall(SYS_mkdirat, folder, name, rights);
    return simple("mkdir", -1, 0, path, "", 1, SYS_mkdirat, folder, (long)name, (long)rights, 0);
}
int mkdir(const char *name, mode_t rights) { return mkdirat(AT_FDCWD, name, rights); }
