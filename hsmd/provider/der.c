/* A strict reader for the DER structures that this provider needs: key references, public keys, ECDSA signatures. */
#include "der.h"

#include <string.h>

enum {
    TAG_INTEGER = 0x02,
    TAG_BIT_STRING = 0x03,
    TAG_OCTET_STRING = 0x04,
    TAG_NULL = 0x05,
    TAG_OID = 0x06,
    TAG_UTF8 = 0x0c,
    TAG_SEQUENCE = 0x30,

    DIGEST_BYTES = 32,
    ED25519_BYTES = 32,
    RSA_EXPONENT_BYTES_MAX = 8,
    POINT_UNCOMPRESSED = 0x04,
};

static const uint8_t RSA_ENCRYPTION[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01};
static const uint8_t EC_PUBLIC_KEY[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
static const uint8_t ED25519[] = {0x2b, 0x65, 0x70};

static const struct curve {
    const char *group;
    uint8_t oid[8];
    size_t oid_length;
    size_t coordinate; /* bytes */
    int bits;
    int security_bits;
    size_t signature_max;
} CURVES[] = {
    {"prime256v1", {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, 8, 32, 256, 128, 72},
    {"secp384r1", {0x2b, 0x81, 0x04, 0x00, 0x22}, 5, 48, 384, 192, 104},
    {"secp521r1", {0x2b, 0x81, 0x04, 0x00, 0x23}, 5, 66, 521, 256, 139},
};

/* --- tag, length, value -------------------------------------------------------------------------------------- */

static bool take_byte(struct span *in, uint8_t *byte) {
    if (in->length == 0)
        return false;
    *byte = *in->bytes++;
    in->length--;
    return true;
}

/* Definite lengths up to 65,535 in their shortest form (X.690, section 10.1). */
static bool take_length(struct span *in, size_t *length) {
    uint8_t first, byte;
    if (!take_byte(in, &first))
        return false;
    *length = first;
    if (first < 0x80)
        return true;
    if (first != 0x81 && first != 0x82)
        return false;
    *length = 0;
    for (int i = first & 0x7f; i > 0; i--) {
        if (!take_byte(in, &byte))
            return false;
        *length = *length << 8 | byte;
    }
    return *length >= (first == 0x81 ? 0x80u : 0x100u);
}

/* Take one element with this tag from the beginning of `in`. */
static bool take(struct span *in, uint8_t tag, struct span *content) {
    uint8_t found;
    size_t length;
    if (!take_byte(in, &found) || found != tag || !take_length(in, &length) || length > in->length)
        return false;
    content->bytes = in->bytes;
    content->length = length;
    in->bytes += length;
    in->length -= length;
    return true;
}

/* The same, but nothing may follow the element. */
static bool take_last(struct span *in, uint8_t tag, struct span *content) {
    return take(in, tag, content) && in->length == 0;
}

static bool take_oid(struct span *in, const uint8_t *oid, size_t length) {
    struct span content;
    return take(in, TAG_OID, &content) && content.length == length && memcmp(content.bytes, oid, length) == 0;
}

/* A positive INTEGER in its shortest form; the leading zero of the sign is dropped. */
static bool take_positive(struct span *in, struct span *content) {
    if (!take(in, TAG_INTEGER, content) || content->length == 0 || content->bytes[0] >= 0x80)
        return false;
    if (content->bytes[0] != 0)
        return true;
    if (content->length == 1 || content->bytes[1] < 0x80)
        return false;
    content->bytes++;
    content->length--;
    return true;
}

/* A BIT STRING of whole bytes. */
static bool take_bits(struct span *in, struct span *content) {
    uint8_t unused;
    return take_last(in, TAG_BIT_STRING, content) && take_byte(content, &unused) && unused == 0;
}

/* --- UTF-8 --------------------------------------------------------------------------------------------------- */

/* Length of the well-formed character at the beginning (RFC 3629, section 4), or 0. */
static size_t utf8_character(struct span text) {
    static const uint32_t SMALLEST[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = text.bytes[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || length > text.length)
        return 0;
    uint32_t value = first & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text.bytes[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (text.bytes[i] & 0x3f);
    }
    bool is_surrogate = value >= 0xd800 && value <= 0xdfff;
    return value < SMALLEST[length] || value > 0x10ffff || is_surrogate ? 0 : length;
}

/* A name of 1 to 64 characters. */
static bool is_name(struct span text) {
    size_t characters = 0;
    while (text.length > 0) {
        size_t length = utf8_character(text);
        if (length == 0 || ++characters > NAME_CHARACTERS_MAX)
            return false;
        text.bytes += length;
        text.length -= length;
    }
    return characters > 0;
}

/* --- public keys --------------------------------------------------------------------------------------------- */

static int bit_length(struct span number) {
    int bits = (int)number.length * 8;
    for (uint8_t first = number.bytes[0]; first < 0x80; first = (uint8_t)(first << 1))
        bits--;
    return bits;
}

/* NIST SP 800-57 part 1, table 2; 4096 bits as in OpenSSL. */
static int rsa_security_bits(int bits) {
    return bits >= 7680 ? 192 : bits >= 4096 ? 152 : bits >= 3072 ? 128 : 112;
}

static bool is_odd(struct span number) { return number.bytes[number.length - 1] & 1; }

static const char *parse_rsa(struct span algorithm, struct span bits, struct reference *key) {
    struct span null, numbers;
    if (!take_last(&algorithm, TAG_NULL, &null) || null.length != 0)
        return "RSA parameters are not NULL";
    if (!take_last(&bits, TAG_SEQUENCE, &numbers) || !take_positive(&numbers, &key->modulus) ||
        !take_positive(&numbers, &key->exponent) || numbers.length != 0)
        return "not an RSA public key";
    if (!is_odd(key->modulus) || !is_odd(key->exponent) || key->exponent.length > RSA_EXPONENT_BYTES_MAX ||
        (key->exponent.length == 1 && key->exponent.bytes[0] < 3))
        return "invalid RSA modulus or exponent";
    key->bits = bit_length(key->modulus);
    if (key->bits < RSA_BITS_MIN || key->bits > RSA_BITS_MAX)
        return "RSA modulus outside 2048 to 8192 bits";
    key->type = KEY_RSA;
    key->security_bits = rsa_security_bits(key->bits);
    key->signature_max = key->modulus.length;
    return NULL;
}

static const struct curve *find_curve(struct span oid) {
    for (size_t i = 0; i < sizeof CURVES / sizeof CURVES[0]; i++)
        if (oid.length == CURVES[i].oid_length && memcmp(oid.bytes, CURVES[i].oid, oid.length) == 0)
            return &CURVES[i];
    return NULL;
}

static const char *parse_ec(struct span algorithm, struct span bits, struct reference *key) {
    struct span oid;
    const struct curve *curve = take_last(&algorithm, TAG_OID, &oid) ? find_curve(oid) : NULL;
    if (curve == NULL)
        return "the curve is none of P-256, P-384, P-521";
    if (bits.length != 1 + 2 * curve->coordinate || bits.bytes[0] != POINT_UNCOMPRESSED)
        return "not an uncompressed point of its curve";
    key->type = KEY_EC;
    key->group = curve->group;
    key->bits = curve->bits;
    key->security_bits = curve->security_bits;
    key->signature_max = curve->signature_max;
    key->point = bits;
    return NULL;
}

static const char *parse_ed25519(struct span algorithm, struct span bits, struct reference *key) {
    if (algorithm.length != 0 || bits.length != ED25519_BYTES)
        return "not an Ed25519 public key";
    key->type = KEY_ED25519;
    key->bits = 256; /* as in OpenSSL */
    key->security_bits = 128;
    key->signature_max = 64;
    key->point = bits;
    return NULL;
}

static const char *parse_public_key(struct span info, struct reference *key) {
    struct span algorithm, bits, rest;
    if (!take(&info, TAG_SEQUENCE, &algorithm) || !take_bits(&info, &bits))
        return "not a SubjectPublicKeyInfo";
    rest = algorithm;
    if (take_oid(&rest, RSA_ENCRYPTION, sizeof RSA_ENCRYPTION))
        return parse_rsa(rest, bits, key);
    rest = algorithm;
    if (take_oid(&rest, EC_PUBLIC_KEY, sizeof EC_PUBLIC_KEY))
        return parse_ec(rest, bits, key);
    rest = algorithm;
    if (take_oid(&rest, ED25519, sizeof ED25519))
        return parse_ed25519(rest, bits, key);
    return "the key is none of RSA, EC, Ed25519";
}

/* --- public functions ---------------------------------------------------------------------------------------- */

const char *reference_parse(const uint8_t *der, size_t length, struct reference *reference) {
    struct span in = {der, length}, body, title, digest, info;
    memset(reference, 0, sizeof *reference);
    if (length > REFERENCE_MAX)
        return "longer than 8192 bytes";
    if (!take_last(&in, TAG_SEQUENCE, &body))
        return "not exactly one DER SEQUENCE";
    if (!take(&body, TAG_UTF8, &title) || title.length != strlen(REFERENCE_TITLE) ||
        memcmp(title.bytes, REFERENCE_TITLE, title.length) != 0)
        return "does not begin with \"" REFERENCE_TITLE "\"";
    if (!take(&body, TAG_UTF8, &reference->name) || !is_name(reference->name))
        return "the name is not 1 to 64 characters of UTF-8";
    if (!take(&body, TAG_OCTET_STRING, &digest) || digest.length != DIGEST_BYTES)
        return "the key digest is not 32 bytes";
    reference->digest = digest.bytes;
    if (!take_last(&body, TAG_SEQUENCE, &info))
        return "not a SubjectPublicKeyInfo";
    return parse_public_key(info, reference);
}

bool is_ecdsa_signature(const uint8_t *der, size_t length) {
    struct span in = {der, length}, numbers, number;
    return take_last(&in, TAG_SEQUENCE, &numbers) && take_positive(&numbers, &number) &&
           take_positive(&numbers, &number) && numbers.length == 0;
}
