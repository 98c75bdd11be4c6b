/* Signatures: collects the bytes to be signed, determines purpose and scheme, and has the agent sign them.
 *
 * The agent gets the whole message, never a digest made here, so that the daemon can check what it signs. OpenSSL
 * also opens contexts only to find out whether a digest is supported, and first asks for the size of a signature;
 * the agent is called only for the signature itself. */
#define _DEFAULT_SOURCE
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"
#include "provider.h"
#include "purpose.h"
#include "scheme.h"

enum {
    PADDING_PKCS1 = 1, /* RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING and the salt codes of openssl/rsa.h */
    PADDING_PSS = 6,
    SALT_DIGEST = -1,
    SALT_AUTO_DIGEST_MAX = -4,
    BUFFER_FIRST = 1024,
};

struct context {
    const struct provider *provider;
    struct key *key;
    const struct digest *digest; /* null: Ed25519, or not initialised */
    bool is_pss;
    int salt; /* bytes, or SALT_DIGEST */
    uint8_t *data;
    size_t length, capacity;
};

/* --- creating and releasing ---------------------------------------------------------------------------------- */

static void *new_context(void *provider, const char *properties) {
    (void)properties;
    struct context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        raise_error(provider, REASON_MEMORY, "no memory for a signature");
        return NULL;
    }
    context->provider = provider;
    context->salt = SALT_DIGEST;
    return context;
}

static void free_context(void *argument) {
    struct context *context = argument;
    if (context == NULL)
        return;
    key_release(context->key);
    free(context->data);
    free(context);
}

static bool append(struct context *context, const uint8_t *data, size_t length);

static void *duplicate(void *argument) {
    const struct context *from = argument;
    struct context *copy = new_context((void *)(uintptr_t)from->provider, NULL);
    if (copy == NULL)
        return NULL;
    copy->digest = from->digest;
    copy->is_pss = from->is_pss;
    copy->salt = from->salt;
    copy->key = from->key == NULL ? NULL : key_hold(from->key);
    if (!append(copy, from->data, from->length)) {
        free_context(copy);
        return NULL;
    }
    return copy;
}

/* --- parameters ---------------------------------------------------------------------------------------------- */

static bool set_padding(struct context *context, const OSSL_PARAM *param) {
    int padding = 0;
    if (param_is_text(param))
        padding = param_text_equals(param, OSSL_PKEY_RSA_PAD_MODE_PKCSV15) ? PADDING_PKCS1
                  : param_text_equals(param, OSSL_PKEY_RSA_PAD_MODE_PSS)   ? PADDING_PSS
                                                                           : 0;
    else if (!param_read_int(param, &padding))
        padding = 0;
    bool is_rsa = context->key != NULL && context->key->type == KEY_RSA;
    if (!is_rsa || (padding != PADDING_PKCS1 && padding != PADDING_PSS))
        return raise_error(context->provider, REASON_PADDING, "only PKCS#1 v1.5 and PSS are supported, with RSA keys");
    context->is_pss = padding == PADDING_PSS;
    return true;
}

/* A number given as text, as on a command line; -2 (an unsupported salt length) for anything else. */
static int salt_from_text(const OSSL_PARAM *param) {
    char digits[4] = "";
    if (param_text_equals(param, OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST) || param_text_equals(param, "auto-digestmax") ||
        param_text_equals(param, "-1"))
        return SALT_DIGEST;
    size_t length = strnlen(param->data, param->data_size);
    if (length == 0 || length >= sizeof digits)
        return -2;
    memcpy(digits, param->data, length);
    return strspn(digits, "0123456789") == length ? atoi(digits) : -2;
}

/* TLS and hsmd support one salt length, that of the digest; a number is compared once the digest is known. */
static bool set_salt(struct context *context, const OSSL_PARAM *param) {
    int salt = -2;
    if (param_is_text(param))
        salt = salt_from_text(param);
    else if (!param_read_int(param, &salt))
        salt = -2;
    if (salt == SALT_AUTO_DIGEST_MAX)
        salt = SALT_DIGEST;
    if (salt < SALT_DIGEST)
        return raise_error(context->provider, REASON_SALT, "only salts as long as the digest are supported");
    context->salt = salt;
    return true;
}

/* The digest is set at initialisation; a parameter may repeat it. */
static bool is_same_digest(const struct context *context, const OSSL_PARAM *param) {
    if (context->digest != NULL)
        for (const char *const *name = context->digest->names; *name != NULL; name++)
            if (param_text_equals(param, *name))
                return true;
    return raise_error(context->provider, REASON_ALGORITHM, "the digest cannot be changed, and MGF1 uses the same");
}

static int set_params(void *argument, const OSSL_PARAM *params) {
    struct context *context = argument;
    const OSSL_PARAM *padding = param_find(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
    const OSSL_PARAM *salt = param_find(params, OSSL_SIGNATURE_PARAM_PSS_SALTLEN);
    const OSSL_PARAM *digest = param_find(params, OSSL_SIGNATURE_PARAM_DIGEST);
    const OSSL_PARAM *mask_digest = param_find(params, OSSL_SIGNATURE_PARAM_MGF1_DIGEST);
    return (padding == NULL || set_padding(context, padding)) && (salt == NULL || set_salt(context, salt)) &&
           (digest == NULL || is_same_digest(context, digest)) &&
           (mask_digest == NULL || is_same_digest(context, mask_digest));
}

static const OSSL_PARAM *settable_params(void *context, void *provider) {
    static const OSSL_PARAM SETTABLE[] = {
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, NULL, 0),
        OSSL_PARAM_END,
    };
    return (void)context, (void)provider, SETTABLE;
}

/* --- the algorithm ------------------------------------------------------------------------------------------- */

static bool choose_digest(struct context *context, const char *name) {
    bool is_absent = name == NULL || name[0] == '\0' || strcmp(name, "UNDEF") == 0;
    if (context->key->type == KEY_ED25519) {
        context->digest = NULL;
        return is_absent || raise_error(context->provider, REASON_ALGORITHM, "Ed25519 takes no digest");
    }
    if (is_absent && context->digest != NULL)
        return true; /* initialised again: the digest stays */
    context->digest = digest_find(is_absent ? "SHA256" : name);
    return context->digest != NULL ||
           raise_error(context->provider, REASON_ALGORITHM, "%.32s is none of SHA256, SHA384, SHA512", name);
}

static int digest_sign_init(void *argument, const char *digest, void *key, const OSSL_PARAM *params) {
    struct context *context = argument;
    if (key != NULL) {
        key_release(context->key);
        context->key = key_hold(key);
    }
    if (context->key == NULL || !context->key->is_loaded)
        return raise_error(context->provider, REASON_NO_KEY, "a signature needs a key");
    context->length = 0;
    context->is_pss = false;
    context->salt = SALT_DIGEST;
    return choose_digest(context, digest) && set_params(context, params);
}

static bool is_ready(const struct context *context) {
    if (context->key == NULL || (context->digest == NULL && context->key->type != KEY_ED25519))
        return raise_error(context->provider, REASON_NO_KEY, "the signature was not initialised");
    if (context->is_pss && context->salt != SALT_DIGEST && context->salt != context->digest->length)
        return raise_error(context->provider, REASON_SALT, "a salt of %d bytes, only %d are supported",
                           context->salt, context->digest->length);
    return true;
}

static int get_params(void *argument, OSSL_PARAM *params) {
    const struct context *context = argument;
    uint8_t der[ALGORITHM_ID_MAX];
    OSSL_PARAM *param = param_find_output(params, OSSL_SIGNATURE_PARAM_ALGORITHM_ID);
    if (param == NULL)
        return 1;
    if (!is_ready(context))
        return 0;
    size_t length = algorithm_id(context->key->type, context->digest, context->is_pss, der);
    return param_write_bytes(param, (struct span){der, length});
}

static const OSSL_PARAM *gettable_params(void *context, void *provider) {
    static const OSSL_PARAM GETTABLE[] = {
        OSSL_PARAM_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, NULL, 0),
        OSSL_PARAM_END,
    };
    return (void)context, (void)provider, GETTABLE;
}

/* --- signing ------------------------------------------------------------------------------------------------- */

/* Servers put these bytes into handshakes without checking them, so malformed answers are refused here. */
static bool is_possible(const struct key *key, const uint8_t *signature, size_t length) {
    if (key->type == KEY_EC)
        return length <= key->facts.signature_max && is_ecdsa_signature(signature, length);
    return length == key->facts.signature_max;
}

static bool ask_agent(const struct context *context, const uint8_t *data, size_t length, struct answer *answer) {
    const struct key *key = context->key;
    struct operation operation = {
        .purpose = purpose_of(data, length),
        .scheme = scheme_of(key->type, context->digest, context->is_pss),
        .key = key->facts.digest,
        .data = data,
        .length = length,
    };
    if (!use_key(context->provider, key, &operation, answer))
        return false;
    if (!is_possible(key, answer->bytes, answer->length))
        return raise_error(context->provider, REASON_ANSWER, "%zu bytes that are no %s signature of this key",
                           answer->length, key_type_name(key->type));
    return true;
}

static int digest_sign(void *argument, unsigned char *signature, size_t *length, size_t capacity,
                       const unsigned char *data, size_t data_length) {
    const struct context *context = argument;
    uint8_t bytes[SIGNATURE_MAX];
    if (!is_ready(context))
        return 0;
    size_t longest = context->key->facts.signature_max;
    if (signature == NULL) {
        *length = longest;
        return 1;
    }
    struct answer answer = {.bytes = bytes, .capacity = longest};
    if (!ask_agent(context, data, data_length, &answer))
        return 0;
    if (answer.length > capacity)
        return raise_error(context->provider, REASON_BUFFER, "a signature of %zu bytes does not fit into %zu",
                           answer.length, capacity);
    memcpy(signature, bytes, answer.length);
    *length = answer.length;
    return 1;
}

/* --- signing in parts ---------------------------------------------------------------------------------------- */

static bool grow(struct context *context, size_t needed) {
    size_t capacity = context->capacity > 0 ? context->capacity : BUFFER_FIRST;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *data = realloc(context->data, capacity);
    if (data == NULL)
        return raise_error(context->provider, REASON_MEMORY, "no memory for %zu bytes to sign", needed);
    context->data = data;
    context->capacity = capacity;
    return true;
}

static bool append(struct context *context, const uint8_t *data, size_t length) {
    if (length == 0)
        return true;
    if (length > OPERATION_DATA_MAX - context->length)
        return raise_error(context->provider, REASON_TOO_LONG, "more than %d bytes to sign", OPERATION_DATA_MAX);
    if (context->length + length > context->capacity && !grow(context, context->length + length))
        return false;
    memcpy(context->data + context->length, data, length);
    context->length += length;
    return true;
}

static int digest_sign_update(void *argument, const unsigned char *data, size_t length) {
    return append(argument, data, length);
}

static int digest_sign_final(void *argument, unsigned char *signature, size_t *length, size_t capacity) {
    const struct context *context = argument;
    return digest_sign(argument, signature, length, capacity, context->data, context->length);
}

/* --- tables -------------------------------------------------------------------------------------------------- */

static const OSSL_DISPATCH FUNCTIONS[] = {
    {OSSL_FUNC_SIGNATURE_NEWCTX, (void (*)(void))new_context},
    {OSSL_FUNC_SIGNATURE_FREECTX, (void (*)(void))free_context},
    {OSSL_FUNC_SIGNATURE_DUPCTX, (void (*)(void))duplicate},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, (void (*)(void))digest_sign_init},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN, (void (*)(void))digest_sign},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, (void (*)(void))digest_sign_update},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, (void (*)(void))digest_sign_final},
    {OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, (void (*)(void))set_params},
    {OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, (void (*)(void))settable_params},
    {OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, (void (*)(void))get_params},
    {OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, (void (*)(void))gettable_params},
    {0, NULL},
};

const OSSL_ALGORITHM signatures[] = {
    {"RSA", "provider=" PROVIDER_NAME, FUNCTIONS, "RSA signatures by the hsmd daemon"},
    {"ECDSA", "provider=" PROVIDER_NAME, FUNCTIONS, "ECDSA signatures by the hsmd daemon"},
    {"ED25519", "provider=" PROVIDER_NAME, FUNCTIONS, "Ed25519 signatures by the hsmd daemon"},
    {NULL, NULL, NULL, NULL},
};
