/* Bytes and frame headers over a non-blocking socket with one deadline (stream.h). */
#define _DEFAULT_SOURCE
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    LENGTH_MIN = 9, /* of a frame: kind and request id */
    LENGTH_MAX = 1048576,
};

static const int64_t NS_PER_MS = 1000000;

/* --- failures ------------------------------------------------------------------------------------------------ */

bool fail(struct failure *failure, enum reason reason, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    failure->reason = reason;
    vsnprintf(failure->text, sizeof failure->text, format, arguments);
    va_end(arguments);
    return false;
}

bool fail_deadline(struct failure *failure) {
    return fail(failure, REASON_DEADLINE, "the agent did not answer in time");
}

/* --- integers and time --------------------------------------------------------------------------------------- */

uint8_t *put_integer(uint8_t *to, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    return to + bytes;
}

uint64_t get_integer(const uint8_t *from, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value = value << 8 | from[i];
    return value;
}

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * NS_PER_MS + now.tv_nsec;
}

/* Rounded up, so that poll is not called in a loop during the last millisecond. */
int left_ms(int64_t deadline_ns) {
    int64_t left = deadline_ns - now_ns();
    return left <= 0 ? 0 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
}

static bool wait_for(int fd, short events, int64_t deadline_ns, struct failure *failure) {
    for (;;) {
        int wait_ms = left_ms(deadline_ns);
        if (wait_ms == 0)
            return fail_deadline(failure);
        struct pollfd watched = {.fd = fd, .events = events};
        int ready = poll(&watched, 1, wait_ms);
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            return fail(failure, REASON_UNREACHABLE, "cannot wait for the agent, errno %d", errno);
    }
}

/* --- sending ------------------------------------------------------------------------------------------------- */

uint8_t *put_header(uint8_t *to, size_t body, uint8_t kind, uint64_t id) {
    to = put_integer(to, body + LENGTH_MIN, 4);
    *to++ = kind;
    return put_integer(to, id, 8);
}

static void advance(struct msghdr *message, size_t sent) {
    while (message->msg_iovlen > 0 && sent >= message->msg_iov->iov_len) {
        sent -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen > 0) {
        message->msg_iov->iov_base = (uint8_t *)message->msg_iov->iov_base + sent;
        message->msg_iov->iov_len -= sent;
    }
}

bool send_all(const struct stream *stream, struct iovec *parts, size_t count) {
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    advance(&message, 0);
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
        if (sent >= 0)
            advance(&message, (size_t)sent);
        else if (errno == EAGAIN) {
            if (!wait_for(stream->fd, POLLOUT, stream->deadline_ns, stream->failure))
                return false;
        } else if (errno == EPIPE || errno == ECONNRESET)
            return true; /* an agent that refuses a connection has often sent an error before: read it */
        else if (errno != EINTR)
            return fail(stream->failure, REASON_UNREACHABLE, "cannot send to the agent, errno %d", errno);
    }
    return true;
}

/* --- receiving ----------------------------------------------------------------------------------------------- */

static bool fill(struct stream *stream) {
    for (;;) {
        if (!wait_for(stream->fd, POLLIN, stream->deadline_ns, stream->failure))
            return false;
        ssize_t received = recv(stream->fd, stream->bytes, sizeof stream->bytes, 0);
        if (received > 0) {
            stream->begin = 0;
            stream->end = (size_t)received;
            return true;
        }
        if (received == 0 || errno == ECONNRESET)
            return fail(stream->failure, REASON_CLOSED, "the agent closed the connection before it answered");
        if (errno != EAGAIN && errno != EINTR)
            return fail(stream->failure, REASON_UNREACHABLE, "cannot read from the agent, errno %d", errno);
    }
}

bool take(struct stream *stream, uint8_t *to, size_t length) {
    while (length > 0) {
        if (stream->begin == stream->end && !fill(stream))
            return false;
        size_t ready = stream->end - stream->begin;
        size_t part = ready < length ? ready : length;
        if (to != NULL) {
            memcpy(to, stream->bytes + stream->begin, part);
            to += part;
        }
        stream->begin += part;
        length -= part;
    }
    return true;
}

bool take_header(struct stream *stream, struct frame *frame) {
    uint8_t header[HEADER_BYTES];
    if (!take(stream, header, sizeof header))
        return false;
    uint64_t length = get_integer(header, 4);
    if (length < LENGTH_MIN || length > LENGTH_MAX)
        return fail(stream->failure, REASON_PROTOCOL, "the agent announced a frame of %llu bytes",
                    (unsigned long long)length);
    frame->kind = header[4];
    frame->id = get_integer(header + 5, 8);
    frame->length = (size_t)length - LENGTH_MIN;
    return true;
}
