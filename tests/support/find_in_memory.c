/* Finds byte strings in the memory of processes: find_in_memory PID... < needles, one per line in hexadecimal.
 * Prints "PID NUMBER" for each needle found (counted from 0), then "PID read BYTES". Reads each process once, while it runs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEEDLES_MAX = 4096, NEEDLE_BYTES_MAX = 256, HEAD_BYTES = 8, CHUNK_BYTES = 8 << 20, FILTER_BITS = 18 };

struct needle {
    uint8_t bytes[NEEDLE_BYTES_MAX];
    size_t length;
    int next; /* with the same hash of its first eight bytes */
    bool found;
};

static struct needle needles[NEEDLES_MAX];
static int count, heads[1 << FILTER_BITS];
static uint8_t chunk[CHUNK_BYTES + NEEDLE_BYTES_MAX];

static unsigned hash(const uint8_t *at) {
    uint64_t head;
    memcpy(&head, at, sizeof head);
    return (unsigned)(head * UINT64_C(0x9e3779b97f4a7c15) >> (64 - FILTER_BITS));
}

static void read_needles(void) {
    char line[2 * NEEDLE_BYTES_MAX + 2];
    memset(heads, -1, sizeof heads);
    while (fgets(line, sizeof line, stdin) != NULL) {
        struct needle *needle = &needles[count];
        size_t digits = strcspn(line, "\n");
        for (needle->length = 0; needle->length < digits / 2; needle->length++)
            if (count == NEEDLES_MAX || sscanf(line + 2 * needle->length, "%2hhx", &needle->bytes[needle->length]) != 1)
                exit(2);
        if (needle->length < HEAD_BYTES)
            exit(2);
        needle->next = heads[hash(needle->bytes)];
        heads[hash(needle->bytes)] = count++;
    }
}

static void look(size_t length) {
    for (size_t at = 0; at + HEAD_BYTES <= length; at++)
        for (int i = heads[hash(chunk + at)]; i >= 0; i = needles[i].next)
            if (at + needles[i].length <= length && memcmp(chunk + at, needles[i].bytes, needles[i].length) == 0)
                needles[i].found = true;
}

/* Pieces overlap by the longest needle less one byte. Unreadable mappings are devices, or have been unmapped. */
static uint64_t look_at_mapping(int memory, uint64_t begin, uint64_t end) {
    uint64_t seen = 0;
    while (begin < end) {
        size_t wanted = end - begin < sizeof chunk ? end - begin : sizeof chunk;
        ssize_t length = pread(memory, chunk, wanted, (off_t)begin);
        if (length <= 0)
            break;
        look((size_t)length);
        seen += (uint64_t)length;
        if (begin + (uint64_t)length >= end)
            break;
        begin += (uint64_t)length > NEEDLE_BYTES_MAX ? (uint64_t)length - (NEEDLE_BYTES_MAX - 1) : (uint64_t)length;
    }
    return seen;
}

static bool look_at_process(const char *pid) {
    char path[64], line[4096], mode[5];
    uint64_t begin, end, seen = 0;
    snprintf(path, sizeof path, "/proc/%s/mem", pid);
    int memory = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/%s/maps", pid);
    FILE *maps = fopen(path, "re");
    if (memory < 0 || maps == NULL) {
        perror(path);
        return false;
    }
    for (int i = 0; i < count; i++)
        needles[i].found = false;
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &begin, &end, mode) == 3 && mode[0] == 'r' && begin < INT64_MAX)
            seen += look_at_mapping(memory, begin, end);
    for (int i = 0; i < count; i++)
        if (needles[i].found)
            printf("%s %d\n", pid, i);
    printf("%s read %" PRIu64 "\n", pid, seen);
    fclose(maps);
    close(memory);
    return true;
}

int main(int argc, char **argv) {
    read_needles();
    for (int i = 1; i < argc; i++)
        if (!look_at_process(argv[i]))
            return 1;
    return 0;
}
