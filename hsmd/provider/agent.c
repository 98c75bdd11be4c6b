/* One key operation: sending the request, receiving the answer, one deadline for both (agent.h). */
#define _DEFAULT_SOURCE
#include "agent.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "stream.h"

enum {
    KIND_HELLO = 0x01,
    KIND_WELCOME = 0x02,
    KIND_PING = 0x03,
    KIND_PONG = 0x04,
    KIND_KEY_OPERATION = 0x10,
    KIND_RESULT = 0x11,
    KIND_ERROR = 0x12,
    KIND_DRAIN = 0x30,
    KIND_SKIPPABLE = 0x80, /* unknown kinds from this one on may be skipped */

    PROTOCOL_VERSION = 1,
    REQUEST_ID = 1,
    HELLO_BYTES = 10,
    WELCOME_BYTES = 13,
    OPERATION_HEAD_BYTES = 39,
    ERROR_HEAD_BYTES = 6,
    ERROR_TEXT_MAX = 512,
};

static const int64_t NS_PER_MS = 1000000;
static const int64_t BACKLOG_RETRY_NS = 1000000;

enum progress { GO_ON, ANSWERED, FAILED };

/* --- failures ------------------------------------------------------------------------------------------------ */

static const char *hint(int error) {
    switch (error) {
    case ENOENT:
        return "there is no such socket; is the agent running?";
    case ECONNREFUSED:
        return "no process listens on it; is the agent running?";
    case EACCES:
    case EPERM:
        return "this user may not use the socket";
    case EMFILE:
    case ENFILE:
        return "no file descriptor is left";
    default:
        return "system error";
    }
}

static enum reason reason_of_code(unsigned code) {
    switch (code) {
    case 1:
    case 2:
        return REASON_PROTOCOL;
    case 10:
        return REASON_REFUSED;
    case 11:
        return REASON_PURPOSE;
    case 20:
        return REASON_UNAVAILABLE;
    case 21:
        return REASON_OVERLOADED;
    case 22:
        return REASON_DEADLINE;
    case 23:
        return REASON_DRAINING;
    case 30:
        return REASON_TOKEN;
    case 31:
        return REASON_AUDIT;
    case 32:
        return REASON_STORE;
    case 40:
        return REASON_INTERNAL;
    default:
        return REASON_FAILED;
    }
}

/* --- sending ------------------------------------------------------------------------------------------------- */

void agent_request_head(const struct operation *operation, uint32_t wait_ms, uint8_t head[REQUEST_HEAD_BYTES]) {
    uint8_t *to = put_header(head, HELLO_BYTES, KIND_HELLO, 0);
    memcpy(to, "HSMD", 4);
    to = put_integer(to + 4, PROTOCOL_VERSION, 1);
    to = put_integer(to, PROTOCOL_VERSION, 1);
    to = put_integer(to, 0, 4);
    to = put_header(to, OPERATION_HEAD_BYTES + operation->length, KIND_KEY_OPERATION, REQUEST_ID);
    to = put_integer(to, wait_ms, 4);
    to = put_integer(to, operation->purpose, 1);
    to = put_integer(to, operation->scheme, 2);
    memcpy(to, operation->key, KEY_DIGEST_BYTES);
}

static bool send_request(const struct stream *stream, const struct operation *operation) {
    int wait_ms = left_ms(stream->deadline_ns);
    if (wait_ms == 0)
        return fail_deadline(stream->failure);
    uint8_t head[REQUEST_HEAD_BYTES];
    agent_request_head(operation, (uint32_t)wait_ms, head);
    struct iovec parts[2] = {
        {.iov_base = head, .iov_len = sizeof head},
        {.iov_base = (void *)(uintptr_t)operation->data, .iov_len = operation->length},
    };
    return send_all(stream, parts, 2);
}

static bool send_pong(const struct stream *stream, uint64_t id) {
    uint8_t frame[HEADER_BYTES];
    put_header(frame, 0, KIND_PONG, id);
    struct iovec part = {.iov_base = frame, .iov_len = sizeof frame};
    return send_all(stream, &part, 1);
}

/* --- receiving ----------------------------------------------------------------------------------------------- */

/* Read an error frame. Its text goes into the TLS server's log file: it is bounded and printable ASCII only. */
static bool take_error(struct stream *stream, const struct frame *frame) {
    uint8_t head[ERROR_HEAD_BYTES];
    char text[ERROR_TEXT_MAX + 1];
    if (frame->length < sizeof head || frame->length > sizeof head + ERROR_TEXT_MAX)
        return fail(stream->failure, REASON_PROTOCOL, "the agent's error has %zu bytes", frame->length);
    size_t length = frame->length - sizeof head;
    if (!take(stream, head, sizeof head) || !take(stream, (uint8_t *)text, length))
        return false;
    for (size_t i = 0; i < length; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            text[i] = '?';
    text[length] = '\0';
    unsigned code = (unsigned)get_integer(head, 2);
    return fail(stream->failure, reason_of_code(code), "%s (agent's error %u)", text, code);
}

static bool take_welcome(struct stream *stream) {
    struct frame frame;
    uint8_t body[WELCOME_BYTES];
    if (!take_header(stream, &frame))
        return false;
    if (frame.kind == KIND_ERROR && frame.id == 0)
        return take_error(stream, &frame);
    if (frame.kind != KIND_WELCOME || frame.id != 0 || frame.length != sizeof body)
        return fail(stream->failure, REASON_PROTOCOL, "the agent's first frame is not a welcome");
    if (!take(stream, body, sizeof body))
        return false;
    if (body[0] != PROTOCOL_VERSION)
        return fail(stream->failure, REASON_PROTOCOL, "the agent chose version %u", body[0]);
    return true;
}

static enum progress take_result(struct stream *stream, const struct frame *frame, struct answer *answer) {
    if (frame->length > answer->capacity) {
        fail(stream->failure, REASON_ANSWER, "the agent answered %zu bytes, at most %zu are possible", frame->length,
             answer->capacity);
        return FAILED;
    }
    if (!take(stream, answer->bytes, frame->length))
        return FAILED;
    answer->length = frame->length;
    return ANSWERED;
}

static enum progress take_frame(struct stream *stream, struct answer *answer) {
    struct frame frame;
    if (!take_header(stream, &frame))
        return FAILED;
    if (frame.kind == KIND_RESULT && frame.id == REQUEST_ID)
        return take_result(stream, &frame, answer);
    if (frame.kind == KIND_ERROR && (frame.id == REQUEST_ID || frame.id == 0)) {
        take_error(stream, &frame);
        return FAILED;
    }
    if (frame.kind == KIND_PING && frame.length == 0)
        return send_pong(stream, frame.id) ? GO_ON : FAILED;
    if (frame.kind >= KIND_SKIPPABLE || (frame.kind == KIND_DRAIN && frame.length == 4))
        return take(stream, NULL, frame.length) ? GO_ON : FAILED;
    fail(stream->failure, REASON_PROTOCOL, "the agent sent a frame of kind 0x%02x for request %llu", frame.kind,
         (unsigned long long)frame.id);
    return FAILED;
}

/* --- the operation ------------------------------------------------------------------------------------------- */

bool agent_exchange(int fd, int64_t deadline_ns, const struct operation *operation, struct answer *answer,
                    struct failure *failure) {
    struct stream stream = {.fd = fd, .deadline_ns = deadline_ns, .failure = failure};
    if (operation->length > OPERATION_DATA_MAX)
        return fail(failure, REASON_TOO_LONG, "%zu bytes, at most %d can be sent", operation->length,
                    OPERATION_DATA_MAX);
    enum progress progress = FAILED;
    if (send_request(&stream, operation) && take_welcome(&stream))
        do
            progress = take_frame(&stream, answer);
        while (progress == GO_ON);
    explicit_bzero(stream.bytes, sizeof stream.bytes); /* may have held a premaster secret */
    return progress == ANSWERED;
}

/* A full backlog gives EAGAIN, and the socket cannot be polled then: sleep briefly until the deadline. */
static bool connect_until(int fd, const char *path, int64_t deadline_ns, struct failure *failure) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strnlen(path, sizeof address.sun_path - 1));
    while (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        if (errno != EAGAIN && errno != EINTR)
            return fail(failure, REASON_UNREACHABLE, "cannot reach agent at %s: %s (errno %d)", path, hint(errno),
                        errno);
        if (left_ms(deadline_ns) == 0)
            return fail(failure, REASON_DEADLINE, "the agent at %s did not accept in time", path);
        struct timespec pause = {.tv_nsec = BACKLOG_RETRY_NS};
        nanosleep(&pause, NULL);
    }
    return true;
}

bool agent_call(const struct agent *agent, const struct operation *operation, struct answer *answer,
                struct failure *failure) {
    int64_t deadline_ns = now_ns() + agent->timeout_ms * NS_PER_MS;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(failure, REASON_UNREACHABLE, "cannot make a socket: %s (errno %d)", hint(errno), errno);
    bool answered = connect_until(fd, agent->socket, deadline_ns, failure) &&
                    agent_exchange(fd, deadline_ns, operation, answer, failure);
    close(fd);
    return answered;
}
