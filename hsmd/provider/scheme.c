/* The table of digests, and the four forms of AlgorithmIdentifier (scheme.h). */
#define _DEFAULT_SOURCE
#include "scheme.h"

#include <string.h>
#include <strings.h>

static const char *const SHA256_NAMES[] = {"SHA256", "SHA2-256", "SHA-256", NULL};
static const char *const SHA384_NAMES[] = {"SHA384", "SHA2-384", "SHA-384", NULL};
static const char *const SHA512_NAMES[] = {"SHA512", "SHA2-512", "SHA-512", NULL};

static const struct digest DIGESTS[] = {
    {SHA256_NAMES, 32, 0x0401, 0x0804, 0x0403, 11, 2, 1},
    {SHA384_NAMES, 48, 0x0501, 0x0805, 0x0503, 12, 3, 2},
    {SHA512_NAMES, 64, 0x0601, 0x0806, 0x0603, 13, 4, 3},
};

static const uint16_t ED25519_SCHEME = 0x0807;

const struct digest *digest_find(const char *name) {
    for (size_t i = 0; i < sizeof DIGESTS / sizeof DIGESTS[0]; i++)
        for (const char *const *known = DIGESTS[i].names; *known != NULL; known++)
            if (strcasecmp(name, *known) == 0)
                return &DIGESTS[i];
    return NULL;
}

uint16_t scheme_of(enum key_type type, const struct digest *digest, bool is_pss) {
    if (type == KEY_ED25519)
        return ED25519_SCHEME;
    if (type == KEY_EC)
        return digest->ecdsa;
    return is_pss ? digest->rsa_pss : digest->rsa_pkcs1;
}

/* The hash and mask functions and the salt length are explicit, because the defaults of RFC 4055 are for SHA-1. */
static const uint8_t PSS[ALGORITHM_ID_MAX] = {
    0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, /* id-RSASSA-PSS */
    0x30, 0x34,                                                                   /* RSASSA-PSS-params */
    0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, /* hash */
    0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, /* id-mgf1 */
    0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, /* its hash */
    0xa2, 0x03, 0x02, 0x01, 0x20,                                                             /* salt length */
};
enum { PSS_HASH_AT = 29, PSS_MASK_HASH_AT = 59, PSS_SALT_AT = 66 };

static const uint8_t PKCS1[] = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00};
enum { PKCS1_OID_AT = 12 };

static const uint8_t ECDSA[] = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};
enum { ECDSA_OID_AT = 11 };

static const uint8_t ED25519[] = {0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70};

static size_t pss_id(const struct digest *digest, uint8_t *der) {
    memcpy(der, PSS, sizeof PSS);
    der[PSS_HASH_AT] = der[PSS_MASK_HASH_AT] = digest->hash_oid;
    der[PSS_SALT_AT] = (uint8_t)digest->length;
    return sizeof PSS;
}

size_t algorithm_id(enum key_type type, const struct digest *digest, bool is_pss, uint8_t der[ALGORITHM_ID_MAX]) {
    if (type == KEY_ED25519) {
        memcpy(der, ED25519, sizeof ED25519);
        return sizeof ED25519;
    }
    if (type == KEY_EC) {
        memcpy(der, ECDSA, sizeof ECDSA);
        der[ECDSA_OID_AT] = digest->ecdsa_oid;
        return sizeof ECDSA;
    }
    if (is_pss)
        return pss_id(digest, der);
    memcpy(der, PKCS1, sizeof PKCS1);
    der[PKCS1_OID_AT] = digest->pkcs1_oid;
    return sizeof PKCS1;
}
