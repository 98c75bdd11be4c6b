/* Key references: a strict DER reader and the content of one (docs/protocol.md, section 7). Does not depend on
 * OpenSSL and allocates nothing; every returned pointer points into the given bytes. */
#ifndef HSMD_DER_H
#define HSMD_DER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REFERENCE_MAX = 8192, /* bytes of DER */
    NAME_CHARACTERS_MAX = 64,
    NAME_BYTES_MAX = 4 * NAME_CHARACTERS_MAX,
    RSA_BITS_MIN = 2048,
    RSA_BITS_MAX = 8192,
    SIGNATURE_MAX = RSA_BITS_MAX / 8,
};

#define REFERENCE_TITLE "hsmd key reference v1"

enum key_type { KEY_RSA, KEY_EC, KEY_ED25519 };

struct span {
    const uint8_t *bytes;
    size_t length;
};

struct reference {
    struct span name;      /* UTF-8 */
    const uint8_t *digest; /* 32 bytes, sent to the agent as they are */
    enum key_type type;
    const char *group; /* EC: OpenSSL's name of the curve */
    int bits;
    int security_bits;
    size_t signature_max; /* longest signature; RSA: the length of the modulus */
    struct span modulus;  /* RSA: big-endian, without leading zero */
    struct span exponent;
    struct span point; /* EC: uncompressed point; Ed25519: the 32 bytes */
};

/* Parse exactly `length` bytes. Returns null on success, otherwise a message that says what is wrong. */
const char *reference_parse(const uint8_t *der, size_t length, struct reference *reference);

/* Whether this is exactly SEQUENCE { INTEGER, INTEGER } with positive, minimal integers (RFC 3279, section 2.2.3). */
bool is_ecdsa_signature(const uint8_t *der, size_t length);

#endif
