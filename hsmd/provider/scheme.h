/* Signature algorithms: from OpenSSL's key type, digest and padding to TLS SignatureScheme code points. */
#ifndef HSMD_SCHEME_H
#define HSMD_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "der.h"

struct digest {
    const char *const *names; /* ends with a null */
    int length;               /* bytes */
    uint16_t rsa_pkcs1, rsa_pss, ecdsa; /* code points (RFC 8446, section 4.2.3) */
    uint8_t pkcs1_oid, ecdsa_oid, hash_oid; /* last bytes of the object identifiers */
};

enum { ALGORITHM_ID_MAX = 67 };

/* The digest with this name in any of its spellings, or null. */
const struct digest *digest_find(const char *name);

/* Code point for a key of this type; `digest` is null only for Ed25519. */
uint16_t scheme_of(enum key_type type, const struct digest *digest, bool is_pss);

/* DER AlgorithmIdentifier (RFC 4055, RFC 5758, RFC 8410) of the same; returns its length. */
size_t algorithm_id(enum key_type type, const struct digest *digest, bool is_pss, uint8_t der[ALGORITHM_ID_MAX]);

#endif
