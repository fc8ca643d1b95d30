/* Records what a disk holds for certain: preloaded into every process of a server, it keeps what each fsync made last.
 *
 * $SYNCS is a folder. `log` gets a line per fsync: its number, f or d, the identity of the file or folder, its path;
 * `N` gets the bytes of the file, or of each name in the folder its kind and identity. An identity is inode:birth, as
 * inodes are used again. What was not fsynced is nowhere here: a power cut may lose it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void identity(int at, const char *name, char *out, size_t size) {
    struct statx found;
    if (statx(at, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &found)) {
        snprintf(out, size, "gone");
        return;
    }
    snprintf(out, size, "%llu:%lld.%u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
             found.stx_btime.tv_nsec);
}

static void keep_file(const char *self, FILE *out) {
    char block[1 << 16];
    size_t count;
    FILE *in = fopen(self, "rb"); /* a descriptor of its own: offsets and access modes stay the caller's */
    if (!in) return;
    while ((count = fread(block, 1, sizeof block, in)) > 0) fwrite(block, 1, count, out);
    fclose(in);
}

static void keep_folder(const char *self, FILE *out) {
    char id[128];
    DIR *folder = opendir(self);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        identity(dirfd(folder), entry->d_name, id, sizeof id);
        fprintf(out, "%c %s %s\n", entry->d_type == DT_DIR ? 'd' : 'f', id, entry->d_name);
    }
    closedir(folder);
}

static void record(int fd) {
    const char *folder = getenv("SYNCS");
    char self[64], path[PATH_MAX], name[PATH_MAX], id[128], number[32] = "0";
    struct stat found;
    if (!folder || fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) return;
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(self, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    snprintf(name, sizeof name, "%s/count", folder);
    int count = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (count < 0) return;
    flock(count, LOCK_EX); /* one order for all processes and threads */
    long n = pread(count, number, sizeof number - 1, 0) > 0 ? atol(number) + 1 : 1;
    identity(fd, "", id, sizeof id);
    snprintf(name, sizeof name, "%s/%ld", folder, n);
    FILE *out = fopen(name, "wbe");
    if (out) {
        S_ISDIR(found.st_mode) ? keep_folder(self, out) : keep_file(self, out);
        fclose(out);
    }
    snprintf(name, sizeof name, "%s/log", folder);
    FILE *log = fopen(name, "abe");
    if (log) {
        fprintf(log, "%ld %c %s %s\n", n, S_ISDIR(found.st_mode) ? 'd' : 'f', id, path);
        fclose(log);
    }
    length = snprintf(number, sizeof number, "%ld", n);
    if (pwrite(count, number, (size_t)length, 0) < 0) abort();
    close(count);
}

static int sync_then_record(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(fd), error = errno;
    if (!result) record(fd);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_then_record("fsync", fd); }
int fdatasync(int fd) { return sync_then_record("fdatasync", fd); }
