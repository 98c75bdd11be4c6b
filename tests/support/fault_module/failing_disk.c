/* Failing disk on command, for LD_PRELOAD into the front process: write and fdatasync on the audit log. For tests only.
 *
 * Environment: HSMD_DISK_CONTROL, a mapped file of two 32-bit words: the errno for write and for fdatasync, 0 for none;
 * HSMD_DISK_FILE, the end of the path of the affected file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WRITE, SYNC };

static const volatile uint32_t *control;
static const char *ending;
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("HSMD_DISK_CONTROL");
    *(void **)&real_write = dlsym(RTLD_NEXT, "write");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    ending = getenv("HSMD_DISK_FILE");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, 2 * sizeof *control, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    control = mapped == MAP_FAILED ? NULL : mapped;
}

/* The errno with which an operation on this descriptor must fail; 0 for none. */
static int fault(int which, int fd)
{
    char link[32], path[512];
    if (control == NULL || ending == NULL || control[which] == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    size_t tail = strlen(ending);
    if (length < (ssize_t)tail || memcmp(path + length - tail, ending, tail) != 0)
        return 0;
    return (int)control[which];
}

ssize_t write(int fd, const void *data, size_t length)
{
    int number = fault(WRITE, fd);
    if (number == 0)
        return real_write(fd, data, length);
    errno = number;
    return -1;
}

int fdatasync(int fd)
{
    int number = fault(SYNC, fd);
    if (number == 0)
        return real_fdatasync(fd);
    errno = number;
    return -1;
}
