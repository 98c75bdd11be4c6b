/* Finds what may be a secret: find_windows LENGTH STEP DISTINCT HIGH FILE... prints each window of LENGTH bytes, at offsets that
 * are multiples of STEP, with at least DISTINCT different bytes, of which HIGH bytes or more are no ASCII. The same window may
 * be printed more than once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool looks_random(const uint8_t *at, size_t length, int distinct, int high) {
    uint64_t seen[4] = {0};
    for (size_t i = 0; i < length; i++) {
        seen[at[i] >> 6] |= UINT64_C(1) << (at[i] & 63);
        high -= at[i] >> 7;
    }
    for (int i = 0; i < 4; i++)
        distinct -= __builtin_popcountll(seen[i]);
    return distinct <= 0 && high <= 0;
}

static int look_at_file(const char *path, size_t length, size_t step, int distinct, int high) {
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0) {
        perror(path);
        return 1;
    }
    size_t size = (size_t)status.st_size;
    if (size >= length) {
        const uint8_t *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED) {
            perror(path);
            return 1;
        }
        for (size_t at = 0; at + length <= size; at += step)
            if (looks_random(data + at, length, distinct, high) && fwrite(data + at, length, 1, stdout) != 1)
                return 1;
        munmap((void *)data, size);
    }
    close(file);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    for (int i = 5; i < argc; i++)
        if (look_at_file(argv[i], strtoul(argv[1], NULL, 10), strtoul(argv[2], NULL, 10), atoi(argv[3]), atoi(argv[4])) != 0)
            return 1;
    return fflush(stdout) == 0 ? 0 : 1;
}
