/* A connected non-blocking socket with a deadline: frame headers and exact numbers of bytes (docs/protocol.md,
 * section 1). Allocates nothing. */
#ifndef HSMD_STREAM_H
#define HSMD_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "reasons.h"

enum {
    HEADER_BYTES = 13,
    RECEIVE_BYTES = 2048,
};

struct stream {
    int fd;
    int64_t deadline_ns; /* on CLOCK_MONOTONIC */
    struct failure *failure;
    size_t begin, end; /* received and not yet taken */
    uint8_t bytes[RECEIVE_BYTES];
};

struct frame {
    uint8_t kind;
    uint64_t id;
    size_t length; /* of the body, which is still in the stream */
};

/* Record a failure; always returns false. */
__attribute__((format(printf, 3, 4))) bool fail(struct failure *failure, enum reason reason, const char *format, ...);
bool fail_deadline(struct failure *failure);

int64_t now_ns(void);
int left_ms(int64_t deadline_ns); /* 0 if the deadline has passed */

/* Big-endian integers; put_integer returns the address after the integer. */
uint8_t *put_integer(uint8_t *to, uint64_t value, unsigned bytes);
uint64_t get_integer(const uint8_t *from, unsigned bytes);
uint8_t *put_header(uint8_t *to, size_t body, uint8_t kind, uint64_t id);

/* Send all parts; modifies the array. Returns true also if the peer has closed: it may have sent an error before. */
bool send_all(const struct stream *stream, struct iovec *parts, size_t count);

/* Take exactly `length` bytes; if `to` is null, discard them. */
bool take(struct stream *stream, uint8_t *to, size_t length);
bool take_header(struct stream *stream, struct frame *frame);

#endif
