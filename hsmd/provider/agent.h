/* One key operation by the local agent: connect, send, receive, close (docs/protocol.md, sections 1, 2, 3, 5 and 6).
 *
 * No state is kept between two calls: no connection, no thread, no lock. Forks and reloads of the TLS server and
 * restarts of the agent therefore need no handling. Does not depend on OpenSSL. */
#ifndef HSMD_AGENT_H
#define HSMD_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "reasons.h"

enum {
    AGENT_TIMEOUT_DEFAULT_MS = 500,
    AGENT_TIMEOUT_MIN_MS = 10,
    AGENT_TIMEOUT_MAX_MS = 10000,
    KEY_DIGEST_BYTES = 32,
    /* 65,536 (the agent's frame limit) less kind, request id and the fixed part of the body */
    OPERATION_DATA_MAX = 65488,
    /* hello frame, then the key operation frame up to the data */
    REQUEST_HEAD_BYTES = 13 + 10 + 13 + 39,
};

enum purpose {
    PURPOSE_TLS13_SERVER = 1,
    PURPOSE_TLS13_CLIENT = 2,
    PURPOSE_TLS12_SERVER = 3,
    PURPOSE_TLS12_CLIENT = 4,
    PURPOSE_TLS12_RSA_PREMASTER = 5,
    PURPOSE_SIGN_MESSAGE = 8,
};

#define AGENT_SOCKET_DEFAULT "/run/hsmd/agent.sock"

struct agent {
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
    unsigned timeout_ms; /* for the whole operation */
};

struct operation {
    enum purpose purpose;
    uint16_t scheme;    /* TLS SignatureScheme, 0 for decryption */
    const uint8_t *key; /* KEY_DIGEST_BYTES, SHA-256 of the SubjectPublicKeyInfo */
    const uint8_t *data;
    size_t length; /* of data, at most OPERATION_DATA_MAX */
};

struct answer {
    uint8_t *bytes;
    size_t capacity;
    size_t length; /* set on success, never above capacity */
};

/* Have the agent perform one operation. Returns false if there is no answer, with the reason in `failure`. */
bool agent_call(const struct agent *agent, const struct operation *operation, struct answer *answer,
                struct failure *failure);

/* Like agent_call, over a connected non-blocking socket; `deadline_ns` is on CLOCK_MONOTONIC. */
bool agent_exchange(int fd, int64_t deadline_ns, const struct operation *operation, struct answer *answer,
                    struct failure *failure);

/* The bytes that precede the data on the wire; `wait_ms` is the time until the deadline. */
void agent_request_head(const struct operation *operation, uint32_t wait_ms, uint8_t head[REQUEST_HEAD_BYTES]);

#endif
