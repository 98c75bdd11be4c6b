/* Failures: the reason numbers of this provider's OpenSSL errors, which are never reused, and a text. */
#ifndef HSMD_REASONS_H
#define HSMD_REASONS_H

enum reason {
    REASON_NONE = 0,
    /* connection to the agent */
    REASON_UNREACHABLE = 1,
    REASON_DEADLINE = 2,
    REASON_CLOSED = 3,
    REASON_PROTOCOL = 4,
    REASON_ANSWER = 5,
    /* errors from the agent (docs/protocol.md, section 5) */
    REASON_REFUSED = 10,
    REASON_PURPOSE = 11,
    REASON_UNAVAILABLE = 20,
    REASON_OVERLOADED = 21,
    REASON_DRAINING = 23,
    REASON_TOKEN = 30,
    REASON_AUDIT = 31,
    REASON_STORE = 32,
    REASON_INTERNAL = 40,
    REASON_FAILED = 41,
    /* invalid calls and configuration */
    REASON_REFERENCE = 50,
    REASON_CONFIGURATION = 51,
    REASON_ALGORITHM = 52,
    REASON_PADDING = 53,
    REASON_SALT = 54,
    REASON_TOO_LONG = 55,
    REASON_BUFFER = 56,
    REASON_CIPHERTEXT = 57,
    REASON_TLS_VERSION = 58,
    REASON_NO_KEY = 59,
    REASON_STAYS = 60,
    REASON_MEMORY = 61,
};

enum { FAILURE_TEXT_BYTES = 640 };

struct failure {
    enum reason reason;
    char text[FAILURE_TEXT_BYTES]; /* printable ASCII */
};

#endif
