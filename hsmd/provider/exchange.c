/* The RSA key exchange of TLS 1.2: sends an encrypted premaster secret to the agent and returns 48 bytes.
 *
 * Only the daemon knows whether these are what the client encrypted or, if the padding is invalid, pseudo-random
 * bytes: both cases take the same code and the same time and give no error. Errors here depend only on data that an
 * attacker on the network can see. */
#define _DEFAULT_SOURCE
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"
#include "provider.h"

enum {
    PADDING_TLS = 7, /* RSA_PKCS1_WITH_TLS_PADDING of openssl/rsa.h */
    TLS_1_2 = 0x0303,
    PREMASTER_BYTES = 48,
};

struct context {
    const struct provider *provider;
    struct key *key;
    int padding;
    int client_version;
};

static void *new_context(void *provider) {
    struct context *context = calloc(1, sizeof *context);
    if (context == NULL)
        raise_error(provider, REASON_MEMORY, "no memory for a key exchange");
    else
        context->provider = provider;
    return context;
}

static void free_context(void *argument) {
    struct context *context = argument;
    if (context == NULL)
        return;
    key_release(context->key);
    free(context);
}

static bool set_padding(struct context *context, const OSSL_PARAM *param) {
    if (!param_read_int(param, &context->padding) || context->padding != PADDING_TLS)
        return raise_error(context->provider, REASON_PADDING, "only the RSA key exchange of TLS 1.2 can be decrypted");
    return true;
}

static bool set_version(struct context *context, const OSSL_PARAM *param, int *version) {
    if (!param_read_int(param, version) || *version != TLS_1_2)
        return raise_error(context->provider, REASON_TLS_VERSION, "the RSA key exchange is only for TLS 1.2");
    return true;
}

static int set_params(void *argument, const OSSL_PARAM *params) {
    struct context *context = argument;
    int negotiated_version;
    const OSSL_PARAM *padding = param_find(params, OSSL_ASYM_CIPHER_PARAM_PAD_MODE);
    const OSSL_PARAM *client = param_find(params, OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION);
    const OSSL_PARAM *negotiated = param_find(params, OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION);
    return (padding == NULL || set_padding(context, padding)) &&
           (client == NULL || set_version(context, client, &context->client_version)) &&
           (negotiated == NULL || set_version(context, negotiated, &negotiated_version));
}

static const OSSL_PARAM *settable_params(void *context, void *provider) {
    static const OSSL_PARAM SETTABLE[] = {
        OSSL_PARAM_int(OSSL_ASYM_CIPHER_PARAM_PAD_MODE, NULL),
        OSSL_PARAM_uint(OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION, NULL),
        OSSL_PARAM_uint(OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION, NULL),
        OSSL_PARAM_END,
    };
    return (void)context, (void)provider, SETTABLE;
}

static int decrypt_init(void *argument, void *key, const OSSL_PARAM *params) {
    struct context *context = argument;
    if (key != NULL) {
        key_release(context->key);
        context->key = key_hold(key);
    }
    if (context->key == NULL || !context->key->is_loaded)
        return raise_error(context->provider, REASON_NO_KEY, "decryption needs a key");
    context->padding = 0;
    context->client_version = 0;
    return set_params(context, params);
}

static bool is_ready(const struct context *context, size_t length) {
    if (context->key == NULL || context->padding != PADDING_TLS)
        return raise_error(context->provider, REASON_PADDING, "only the RSA key exchange of TLS 1.2 can be decrypted");
    if (context->client_version != TLS_1_2)
        return raise_error(context->provider, REASON_TLS_VERSION, "the client's TLS version was not given");
    if (length != context->key->facts.modulus.length)
        return raise_error(context->provider, REASON_CIPHERTEXT, "%zu bytes, but the modulus has %zu", length,
                           context->key->facts.modulus.length);
    return true;
}

static bool ask_agent(const struct context *context, const uint8_t *data, size_t length,
                      uint8_t premaster[PREMASTER_BYTES]) {
    struct operation operation = {
        .purpose = PURPOSE_TLS12_RSA_PREMASTER,
        .scheme = 0,
        .key = context->key->facts.digest,
        .data = data,
        .length = length,
    };
    struct answer answer = {.bytes = premaster, .capacity = PREMASTER_BYTES};
    if (!use_key(context->provider, context->key, &operation, &answer))
        return false;
    if (answer.length != PREMASTER_BYTES)
        return raise_error(context->provider, REASON_ANSWER, "a premaster secret of %zu bytes", answer.length);
    return true;
}

static int decrypt(void *argument, unsigned char *out, size_t *out_length, size_t capacity, const unsigned char *in,
                   size_t length) {
    const struct context *context = argument;
    uint8_t premaster[PREMASTER_BYTES];
    if (out == NULL) {
        *out_length = PREMASTER_BYTES;
        return 1;
    }
    if (capacity < PREMASTER_BYTES)
        return raise_error(context->provider, REASON_BUFFER, "48 bytes do not fit into %zu", capacity);
    bool is_answered = is_ready(context, length) && ask_agent(context, in, length, premaster);
    if (is_answered) {
        memcpy(out, premaster, PREMASTER_BYTES);
        *out_length = PREMASTER_BYTES;
    }
    explicit_bzero(premaster, sizeof premaster);
    return is_answered;
}

static const OSSL_DISPATCH FUNCTIONS[] = {
    {OSSL_FUNC_ASYM_CIPHER_NEWCTX, (void (*)(void))new_context},
    {OSSL_FUNC_ASYM_CIPHER_FREECTX, (void (*)(void))free_context},
    {OSSL_FUNC_ASYM_CIPHER_DECRYPT_INIT, (void (*)(void))decrypt_init},
    {OSSL_FUNC_ASYM_CIPHER_DECRYPT, (void (*)(void))decrypt},
    {OSSL_FUNC_ASYM_CIPHER_SET_CTX_PARAMS, (void (*)(void))set_params},
    {OSSL_FUNC_ASYM_CIPHER_SETTABLE_CTX_PARAMS, (void (*)(void))settable_params},
    {0, NULL},
};

const OSSL_ALGORITHM exchanges[] = {
    {"RSA", "provider=" PROVIDER_NAME, FUNCTIONS, "RSA key exchange of TLS 1.2 by the hsmd daemon"},
    {NULL, NULL, NULL, NULL},
};
