/* Bad weather for a server, preloaded into all its processes: a time of day that jumps, and a disk that takes its time.
 *
 * $WEATHER is a file of three numbers (int64), which may change at any time: the seconds that the time of day is ahead, the
 * milliseconds that each fsync takes, and those that each write to a file takes. Clocks that measure durations go on as
 * they are, as the kernel's do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *weather(void) {
    static const volatile int64_t calm[3], *found;
    if (found) return found;
    const char *name = getenv("WEATHER");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof calm, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    return found = seen == MAP_FAILED ? calm : seen;
}

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = next("clock_gettime");
    int result = real(id, at);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += weather()[0];
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = next("gettimeofday");
    int result = real(at, zone);
    if (!result) at->tv_sec += weather()[0];
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

static void delay(int file, int64_t ms) {
    struct stat found;
    if (ms && !fstat(file, &found) && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) usleep((useconds_t)(ms * 1000));
}

static int synced(const char *name, int file) {
    int (*real)(int) = next(name);
    delay(file, weather()[1]);
    return real(file);
}

int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }

ssize_t write(int file, const void *from, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = next("write");
    delay(file, weather()[2]);
    return real(file, from, size);
}

ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = next("pwrite64");
    delay(file, weather()[2]);
    return real(file, from, size, at);
}
