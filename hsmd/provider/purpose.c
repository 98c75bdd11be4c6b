/* Distinguishes the three structures that a TLS peer signs from each other and from all other bytes. */
#include "purpose.h"

#include <string.h>

enum {
    PADDING_BYTES = 64, /* spaces (RFC 8446, section 4.4.3) */
    CONTEXT_BYTES = 34, /* with its closing zero byte */
    RANDOMS_BYTES = 64, /* client random, server random (RFC 8422, section 5.4) */
    NAMED_CURVE = 3,
    CURVE_PARAMETERS_BYTES = 4, /* curve type, named curve (2), length of the point */
    CLIENT_HELLO = 1,
    HANDSHAKE_HEADER_BYTES = 4, /* type, length (3) (RFC 5246, section 7.4) */
};

static const char SERVER_CONTEXT[CONTEXT_BYTES] = "TLS 1.3, server CertificateVerify";
static const char CLIENT_CONTEXT[CONTEXT_BYTES] = "TLS 1.3, client CertificateVerify";

static bool is_certificate_verify(const uint8_t *data, size_t length, const char context[CONTEXT_BYTES]) {
    size_t head = PADDING_BYTES + CONTEXT_BYTES;
    if (length != head + 32 && length != head + 48 && length != head + 64)
        return false;
    for (size_t i = 0; i < PADDING_BYTES; i++)
        if (data[i] != ' ')
            return false;
    return memcmp(data + PADDING_BYTES, context, CONTEXT_BYTES) == 0;
}

static bool is_server_key_exchange(const uint8_t *data, size_t length) {
    size_t head = RANDOMS_BYTES + CURVE_PARAMETERS_BYTES;
    return length > head && data[RANDOMS_BYTES] == NAMED_CURVE && length == head + data[head - 1];
}

/* A ClientHello followed by more handshake messages; a ClientHello has at most 65,535 bytes. */
static bool is_handshake(const uint8_t *data, size_t length) {
    if (length <= HANDSHAKE_HEADER_BYTES || data[0] != CLIENT_HELLO || data[1] != 0)
        return false;
    size_t hello = (size_t)data[2] << 8 | data[3];
    return length > HANDSHAKE_HEADER_BYTES + hello;
}

enum purpose purpose_of(const uint8_t *data, size_t length) {
    if (is_certificate_verify(data, length, SERVER_CONTEXT))
        return PURPOSE_TLS13_SERVER;
    if (is_certificate_verify(data, length, CLIENT_CONTEXT))
        return PURPOSE_TLS13_CLIENT;
    if (is_server_key_exchange(data, length))
        return PURPOSE_TLS12_SERVER;
    if (is_handshake(data, length))
        return PURPOSE_TLS12_CLIENT;
    return PURPOSE_SIGN_MESSAGE;
}
