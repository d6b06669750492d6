/* A disk that fills up: put before libc, it lets the n-th change below one folder fail with a given errno.
 *
 * arm(folder, n, count, error): the changes n, n+1, ... n+count-1 fail; n = 0 only counts. counted() tells. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char below[PATH_MAX];
static long at, count, seen;
static int error;

void arm(const char *folder, long n, long how_many, int what) {
    snprintf(below, sizeof below, "%s/", folder);
    at = n, count = how_many, seen = 0, error = what;
}

long counted(void) { return seen; }

static int full(const char *path) {
    if (!below[0] || strncmp(path, below, strlen(below)) != 0) return 0;
    seen++;
    return at && seen >= at && seen - at < count;
}

static int full_fd(int fd) {
    char name[64], path[PATH_MAX];
    if (!below[0]) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return full(path);
}

#define REAL(type, name, ...) \
    type (*real)(__VA_ARGS__) = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define STOP(is_full, value) \
    if (is_full) { errno = error; return value; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(int, name, const char *, int, ...); \
        STOP((flags & O_CREAT) && full(path), -1) \
        return real(path, flags, mode); }
OPEN(open) OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t); STOP(full_fd(fd), -1) return real(fd, data, size); }
int fsync(int fd) { REAL(int, fsync, int); STOP(full_fd(fd), -1) return real(fd); }
int fdatasync(int fd) { REAL(int, fdatasync, int); STOP(full_fd(fd), -1) return real(fd); }
int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t); STOP(full_fd(fd), -1) return real(fd, size); }
int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t); STOP(full_fd(fd), -1) return real(fd, size); }
int posix_fallocate(int fd, off_t from, off_t size) {
    REAL(int, posix_fallocate, int, off_t, off_t); if (full_fd(fd)) return error; return real(fd, from, size); }
int posix_fallocate64(int fd, off64_t from, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t); if (full_fd(fd)) return error;
    return real(fd, from, size); }
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *); STOP(full(to), -1) return real(from, to); }
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t); STOP(full(path), -1) return real(path, mode); }
int symlink(const char *to, const char *path) {
    REAL(int, symlink, const char *, const char *); STOP(full(path), -1) return real(to, path); }
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *); STOP(full(to), -1) return real(from, to); }
int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    STOP(full(to), -1) return real(from_fd, from, to_fd, to, flags); }
