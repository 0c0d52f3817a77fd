/* Preloaded: has one kind of system call fail, as the environment says, and passes on all others.

   FAULT_CALL   read, write, short (a write that is cut in half), fsync, syncfs, rename or open
   FAULT_PATH   a part of the file's path
   FAULT_ERRNO  the error's number
   FAULT_AFTER  how many such calls succeed before the first that fails
   FAULT_TIMES  how many fail then */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int fails(const char *call, const char *path) {
    const char *wanted = getenv("FAULT_CALL"), *part = getenv("FAULT_PATH");
    if (!wanted || strcmp(wanted, call) || (part && !strstr(path, part))) return 0;
    int before = atomic_fetch_add(&calls, 1), after = number("FAULT_AFTER", 0);
    if (before < after || before - after >= number("FAULT_TIMES", 1 << 30)) return 0;
    errno = number("FAULT_ERRNO", EIO);
    return 1;
}

static int fails_at(const char *call, int descriptor) {
    char link[64], path[4096];
    if (!getenv("FAULT_CALL")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t read(int descriptor, void *buffer, size_t size) {
    return fails_at("read", descriptor) ? -1 : REAL(read)(descriptor, buffer, size);
}

ssize_t write(int descriptor, const void *buffer, size_t size) {
    if (fails_at("write", descriptor)) return -1;
    if (size > 1 && fails_at("short", descriptor)) size /= 2;
    return REAL(write)(descriptor, buffer, size);
}

int fsync(int descriptor) { return fails_at("fsync", descriptor) ? -1 : REAL(fsync)(descriptor); }

int syncfs(int descriptor) { return fails_at("syncfs", descriptor) ? -1 : REAL(syncfs)(descriptor); }

int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : REAL(rename)(from, to); }

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return fails("open", path) ? -1 : REAL(open64)(path, flags, mode);
}
