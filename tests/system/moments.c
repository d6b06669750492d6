/* A process that stops itself at a drawn moment of an update, so that a kill arrives right there.
 *
 * Put before libc, it follows which state the device's update.json has been given, and stops the process
 * (SIGSTOP) so many microseconds after a wanted state was stored; or it stops whoever is about to make
 * the n-th change below the folder of updates since then, the process itself or one that it has started.
 * Who watches shares a page of memory with them (tests/system/moments.py). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, ARMED, INSIDE, MISSED, STOPPED };

struct span { char state[16]; int64_t changes, us; };

struct page {
    int32_t phase, spans;
    int64_t change, after_us; /* one of them is -1 */
    int64_t seen, since_us;
    char wanted[16], state[16];
    struct span span[64];
};

static struct page *page;
static char below[PATH_MAX], stored[PATH_MAX];

#define REAL(type, name, ...) \
    type (*real)(__VA_ARGS__) = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("EDGETRT_MOMENT"), *folder = getenv("EDGETRT_MOMENT_BELOW");
    if (!name || !folder) return;
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found == MAP_FAILED) return;
    snprintf(below, sizeof below, "%s/", folder);
    snprintf(stored, sizeof stored, "%s/update.json", folder);
    page = found;
}

static void stop(void) {
    int32_t inside = INSIDE; /* one process stops, once */
    if (__atomic_compare_exchange_n(&page->phase, &inside, STOPPED, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        raise(SIGSTOP);
}

static void *wait_then_stop(void *left_us) {
    struct timespec t = {(int64_t)left_us / 1000000, (int64_t)left_us % 1000000 * 1000};
    nanosleep(&t, NULL);
    stop();
    return NULL;
}

static void enter(void) {
    page->seen = 0;
    page->phase = INSIDE;
    if (page->after_us < 0) return;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all); /* none of its signals may end up in this thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!pthread_create(&thread, NULL, wait_then_stop, (void *)page->after_us)) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The state of the update that the document is about: the first one in it. END when it has a code. */
static int read_state(char *state) {
    static char text[1 << 18];
    int fd = open(stored, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length < 0) return 0;
    text[length] = 0;
    const char *found = strstr(text, "\"state\": \""), *code = strstr(text, "\"code\": ");
    if (!found || !code) return 0;
    if (code[8] == '"') { strcpy(state, "END"); return 1; }
    return sscanf(found, "\"state\": \"%15[A-Z]", state) == 1;
}

static void follow(void) {
    char state[16];
    if (!read_state(state)) return;
    if (!page->state[0] && !strcmp(state, "END")) return; /* of the update before */
    int64_t now = now_us();
    int other = strcmp(state, page->state) != 0;
    if (other) {
        struct span *left = &page->span[page->spans++ % 64];
        strcpy(left->state, page->state);
        left->changes = page->seen, left->us = now - page->since_us;
        strcpy(page->state, state);
        page->since_us = now, page->seen = 0;
    }
    if (page->phase == INSIDE && other && page->after_us < 0) page->phase = MISSED;
    if (page->phase == ARMED && !strcmp(state, page->wanted)) enter();
}

static void change(const char *path) {
    if (!page || strncmp(path, below, strlen(below)) != 0) return;
    int64_t seen = __atomic_fetch_add(&page->seen, 1, __ATOMIC_SEQ_CST);
    if (page->phase == INSIDE && page->change >= 0 && seen == page->change) stop();
}

static void change_fd(int fd) {
    char name[64], path[PATH_MAX];
    if (!page) return;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    change(path);
}

static void change_at(int fd, const char *path) {
    if (path[0] == '/' || fd == AT_FDCWD) change(path);
    else change_fd(fd);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(int, name, const char *, int, ...); \
        if (flags & O_CREAT) change(path); \
        return real(path, flags, mode); }
OPEN(open) OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t); change_fd(fd); return real(fd, data, size); }
int fsync(int fd) { REAL(int, fsync, int); change_fd(fd); return real(fd); }
int fdatasync(int fd) { REAL(int, fdatasync, int); change_fd(fd); return real(fd); }
int ftruncate(int fd, off_t size) { REAL(int, ftruncate, int, off_t); change_fd(fd); return real(fd, size); }
int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t); change_fd(fd); return real(fd, size); }
int posix_fallocate(int fd, off_t from, off_t size) {
    REAL(int, posix_fallocate, int, off_t, off_t); change_fd(fd); return real(fd, from, size); }
int posix_fallocate64(int fd, off64_t from, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t); change_fd(fd); return real(fd, from, size); }
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    change(to);
    int status = real(from, to);
    if (page && !status && !strcmp(to, stored)) follow();
    return status; }
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t); change(path); return real(path, mode); }
int symlink(const char *to, const char *path) {
    REAL(int, symlink, const char *, const char *); change(path); return real(to, path); }
int unlink(const char *path) { REAL(int, unlink, const char *); change(path); return real(path); }
int unlinkat(int fd, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int); change_at(fd, path); return real(fd, path, flags); }
int rmdir(const char *path) { REAL(int, rmdir, const char *); change(path); return real(path); }
