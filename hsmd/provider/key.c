/* Key management: RSA, EC and ED25519 keys that give their public half and refuse to export the private one.
 *
 * Because of the refusal OpenSSL signs with this provider: before every signature it first offers the key to the
 * default provider, and uses the key's own provider only if the export of the private half fails. */
#define _DEFAULT_SOURCE
#include "key.h"

#include <endian.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"
#include "provider.h"

/* --- creating and releasing ---------------------------------------------------------------------------------- */

static struct key *allocate(const struct provider *provider, enum key_type type, size_t length) {
    struct key *key = calloc(1, sizeof *key + length);
    if (key == NULL) {
        raise_error(provider, REASON_MEMORY, "no memory for a key");
        return NULL;
    }
    key->provider = provider;
    key->type = type;
    atomic_init(&key->references, 1);
    return key;
}

/* OSSL_PARAM numbers are in native order, DER is big-endian. `number` points into a key under construction. */
static void make_native(struct key *key, struct span number) {
    if (__BYTE_ORDER == __BIG_ENDIAN || number.length == 0)
        return;
    uint8_t *low = key->der + (number.bytes - key->der);
    for (uint8_t *high = low + number.length - 1; low < high; low++, high--) {
        uint8_t byte = *low;
        *low = *high;
        *high = byte;
    }
}

struct key *key_new(const struct provider *provider, const uint8_t *der, size_t length) {
    struct reference facts;
    if (reference_parse(der, length, &facts) != NULL)
        return NULL;
    struct key *key = allocate(provider, facts.type, length);
    if (key == NULL)
        return NULL;
    memcpy(key->der, der, length);
    key->is_loaded = reference_parse(key->der, length, &key->facts) == NULL;
    make_native(key, key->facts.modulus);
    make_native(key, key->facts.exponent);
    return key;
}

struct key *key_hold(struct key *key) {
    atomic_fetch_add_explicit(&key->references, 1, memory_order_relaxed);
    return key;
}

void key_release(struct key *key) {
    if (key != NULL && atomic_fetch_sub_explicit(&key->references, 1, memory_order_acq_rel) == 1)
        free(key);
}

const char *key_type_name(enum key_type type) {
    static const char *const NAMES[] = {"RSA", "EC", "ED25519"};
    return NAMES[type];
}

static void *new_rsa(void *provider) { return allocate(provider, KEY_RSA, 0); }
static void *new_ec(void *provider) { return allocate(provider, KEY_EC, 0); }
static void *new_ed25519(void *provider) { return allocate(provider, KEY_ED25519, 0); }
static void free_key(void *key) { key_release(key); }

/* The decoder's reference is the address of a key pointer; taking the key sets the pointer to null. */
static void *load(const void *reference, size_t size, enum key_type type) {
    struct key **slot = (struct key **)(uintptr_t)reference;
    if (size != sizeof *slot || *slot == NULL || (*slot)->type != type)
        return NULL;
    struct key *key = *slot;
    *slot = NULL;
    return key;
}

static void *load_rsa(const void *reference, size_t size) { return load(reference, size, KEY_RSA); }
static void *load_ec(const void *reference, size_t size) { return load(reference, size, KEY_EC); }
static void *load_ed25519(const void *reference, size_t size) { return load(reference, size, KEY_ED25519); }

/* Keys are immutable: a copy of a whole key is one more reference. */
static void *duplicate(const void *from, int selection) {
    struct key *key = (struct key *)(uintptr_t)from;
    int pair = OSSL_KEYMGMT_SELECT_KEYPAIR;
    return (selection & pair) == pair ? key_hold(key) : NULL;
}

/* --- queries ------------------------------------------------------------------------------------------------- */

/* A query for the private half asks whether the key can sign, and it can. */
static int has(const void *keydata, int selection) {
    const struct key *key = keydata;
    int parts = OSSL_KEYMGMT_SELECT_KEYPAIR | (key->type == KEY_EC ? OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS : 0);
    return key->is_loaded || (selection & parts) == 0;
}

static bool same(struct span a, struct span b) {
    return a.length == b.length && (a.length == 0 || memcmp(a.bytes, b.bytes, a.length) == 0);
}

static int match(const void *keydata1, const void *keydata2, int selection) {
    const struct key *a = keydata1, *b = keydata2;
    if (!a->is_loaded || !b->is_loaded || a->type != b->type)
        return 0;
    if ((selection & OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS) && a->facts.group != b->facts.group)
        return 0; /* group names are entries of one table */
    if ((selection & OSSL_KEYMGMT_SELECT_KEYPAIR) == 0)
        return 1;
    return same(a->facts.modulus, b->facts.modulus) && same(a->facts.exponent, b->facts.exponent) &&
           same(a->facts.point, b->facts.point);
}

static int get_common(const struct key *key, OSSL_PARAM *params) {
    return key->is_loaded && param_write_int(param_find_output(params, OSSL_PKEY_PARAM_BITS), key->facts.bits) &&
           param_write_int(param_find_output(params, OSSL_PKEY_PARAM_SECURITY_BITS), key->facts.security_bits) &&
           param_write_int(param_find_output(params, OSSL_PKEY_PARAM_MAX_SIZE), (int)key->facts.signature_max);
}

static int get_rsa(void *keydata, OSSL_PARAM *params) {
    const struct key *key = keydata;
    return get_common(key, params) &&
           param_write_text(param_find_output(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST), "SHA256") &&
           param_write_number(param_find_output(params, OSSL_PKEY_PARAM_RSA_N), key->facts.modulus) &&
           param_write_number(param_find_output(params, OSSL_PKEY_PARAM_RSA_E), key->facts.exponent);
}

static bool write_point(const struct key *key, OSSL_PARAM *params) {
    return param_write_bytes(param_find_output(params, OSSL_PKEY_PARAM_PUB_KEY), key->facts.point) &&
           param_write_bytes(param_find_output(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), key->facts.point);
}

static int get_ec(void *keydata, OSSL_PARAM *params) {
    const struct key *key = keydata;
    return get_common(key, params) &&
           param_write_text(param_find_output(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST), "SHA256") &&
           param_write_text(param_find_output(params, OSSL_PKEY_PARAM_GROUP_NAME), key->facts.group) &&
           write_point(key, params);
}

/* An empty mandatory digest: Ed25519 takes the message itself. */
static int get_ed25519(void *keydata, OSSL_PARAM *params) {
    const struct key *key = keydata;
    return get_common(key, params) &&
           param_write_text(param_find_output(params, OSSL_PKEY_PARAM_MANDATORY_DIGEST), "") &&
           write_point(key, params);
}

#define COMMON_GETTABLE                                                                                               \
    OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL), OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),                  \
        OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL)

static const OSSL_PARAM RSA_GETTABLE[] = {
    COMMON_GETTABLE,
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
    OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0),
    OSSL_PARAM_END,
};

static const OSSL_PARAM EC_GETTABLE[] = {
    COMMON_GETTABLE,
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
    OSSL_PARAM_END,
};

static const OSSL_PARAM ED25519_GETTABLE[] = {
    COMMON_GETTABLE,
    OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_MANDATORY_DIGEST, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
    OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
    OSSL_PARAM_END,
};

static const OSSL_PARAM *gettable_rsa(void *provider) { return (void)provider, RSA_GETTABLE; }
static const OSSL_PARAM *gettable_ec(void *provider) { return (void)provider, EC_GETTABLE; }
static const OSSL_PARAM *gettable_ed25519(void *provider) { return (void)provider, ED25519_GETTABLE; }

static const char *ec_operation_name(int operation) { return operation == OSSL_OP_SIGNATURE ? "ECDSA" : NULL; }

/* --- export -------------------------------------------------------------------------------------------------- */

static OSSL_PARAM parameter(const char *name, unsigned type, const void *value, size_t length) {
    return (OSSL_PARAM){name, type, (void *)(uintptr_t)value, length, OSSL_PARAM_UNMODIFIED};
}

static int export_key(void *keydata, int selection, OSSL_CALLBACK *callback, void *argument) {
    const struct key *key = keydata;
    OSSL_PARAM params[3], *next = params;
    if (!key->is_loaded || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY))
        return 0; /* without raising an error: OpenSSL tries this before every signature */
    if (key->type == KEY_EC && (selection & OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS))
        *next++ = parameter(OSSL_PKEY_PARAM_GROUP_NAME, OSSL_PARAM_UTF8_STRING, key->facts.group,
                            strlen(key->facts.group));
    if ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) && key->type == KEY_RSA) {
        *next++ = parameter(OSSL_PKEY_PARAM_RSA_N, OSSL_PARAM_UNSIGNED_INTEGER, key->facts.modulus.bytes,
                            key->facts.modulus.length);
        *next++ = parameter(OSSL_PKEY_PARAM_RSA_E, OSSL_PARAM_UNSIGNED_INTEGER, key->facts.exponent.bytes,
                            key->facts.exponent.length);
    } else if (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY)
        *next++ = parameter(OSSL_PKEY_PARAM_PUB_KEY, OSSL_PARAM_OCTET_STRING, key->facts.point.bytes,
                            key->facts.point.length);
    *next = (OSSL_PARAM)OSSL_PARAM_END;
    return callback(params, argument);
}

/* What export may return, for all key types together. */
static const OSSL_PARAM *export_types(int selection) {
    static const OSSL_PARAM PUBLIC[] = {
        OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
        OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
        OSSL_PARAM_END,
    };
    return selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY ? NULL : PUBLIC;
}

/* --- tables -------------------------------------------------------------------------------------------------- */

#define ENTRY(id, function) {id, (void (*)(void))(function)}

#define KEY_MANAGEMENT(type)                                                                                          \
    ENTRY(OSSL_FUNC_KEYMGMT_NEW, new_##type), ENTRY(OSSL_FUNC_KEYMGMT_FREE, free_key),                                \
        ENTRY(OSSL_FUNC_KEYMGMT_LOAD, load_##type), ENTRY(OSSL_FUNC_KEYMGMT_HAS, has),                                \
        ENTRY(OSSL_FUNC_KEYMGMT_MATCH, match), ENTRY(OSSL_FUNC_KEYMGMT_DUP, duplicate),                               \
        ENTRY(OSSL_FUNC_KEYMGMT_GET_PARAMS, get_##type),                                                              \
        ENTRY(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettable_##type),                                                    \
        ENTRY(OSSL_FUNC_KEYMGMT_EXPORT, export_key), ENTRY(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, export_types)

static const OSSL_DISPATCH RSA_FUNCTIONS[] = {KEY_MANAGEMENT(rsa), {0, NULL}};
static const OSSL_DISPATCH ED25519_FUNCTIONS[] = {KEY_MANAGEMENT(ed25519), {0, NULL}};
static const OSSL_DISPATCH EC_FUNCTIONS[] = {
    KEY_MANAGEMENT(ec),
    ENTRY(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, ec_operation_name),
    {0, NULL},
};

const OSSL_ALGORITHM key_managements[] = {
    {"RSA", "provider=" PROVIDER_NAME, RSA_FUNCTIONS, "RSA keys held by the hsmd daemon"},
    {"EC", "provider=" PROVIDER_NAME, EC_FUNCTIONS, "EC keys held by the hsmd daemon"},
    {"ED25519", "provider=" PROVIDER_NAME, ED25519_FUNCTIONS, "Ed25519 keys held by the hsmd daemon"},
    {NULL, NULL, NULL, NULL},
};
