/* Decoders: from a PEM file with our label to a key, in two stages; other input is ignored without an error.
 *
 * The first stage recognises the label and passes the DER on; the second, one per key type, creates the key. OpenSSL
 * also calls the second with other DER, and calls both before its own decoders. So for other input they report
 * success without a result and raise no error; anything else would break ordinary keys in the whole process. */
#include <openssl/core_names.h>
#include <openssl/core_object.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"
#include "pem.h"
#include "provider.h"

enum { LINE_BYTES = 256 };

/* Decoders have no state: their context is the provider. */
static void *new_context(void *provider) { return provider; }
static void free_context(void *context) { (void)context; }

/* --- PEM to DER ---------------------------------------------------------------------------------------------- */

/* Reads up to the first END line and no further: OpenSSL calls again for the next block of the file. */
static void read_block(const struct provider *provider, OSSL_CORE_BIO *in, struct pem *pem) {
    char line[LINE_BYTES];
    int length;
    while ((length = provider->bio_gets(in, line, sizeof line)) > 0)
        if (!pem_feed(pem, line, (size_t)length))
            return;
    pem_finish(pem);
}

static int pass_on(const struct pem *pem, OSSL_CALLBACK *callback, void *argument) {
    OSSL_PARAM params[] = {
        OSSL_PARAM_octet_string(OSSL_OBJECT_PARAM_DATA, (void *)(uintptr_t)pem->der, pem->length),
        OSSL_PARAM_utf8_string(OSSL_OBJECT_PARAM_DATA_STRUCTURE, REFERENCE_STRUCTURE,
                               sizeof REFERENCE_STRUCTURE - 1),
        OSSL_PARAM_END,
    };
    return callback(params, argument);
}

/* The label is ours, so faults are reported here; the next stage must not raise errors. */
static bool is_usable(const struct provider *provider, const struct pem *pem) {
    struct reference reference;
    const char *fault = pem->fault != NULL ? pem->fault : reference_parse(pem->der, pem->length, &reference);
    if (fault != NULL)
        return raise_error(provider, REASON_REFERENCE, "%s", fault);
    if (provider->fault != NULL)
        return raise_error(provider, REASON_CONFIGURATION, "%s", provider->fault);
    return true;
}

static int decode_pem(void *context, OSSL_CORE_BIO *in, int selection, OSSL_CALLBACK *callback, void *argument,
                      OSSL_PASSPHRASE_CALLBACK *passphrase, void *passphrase_argument) {
    const struct provider *provider = context;
    (void)selection, (void)passphrase, (void)passphrase_argument;
    struct pem *pem = calloc(1, sizeof *pem);
    if (pem == NULL)
        return raise_error(provider, REASON_MEMORY, "no memory for a key reference");
    read_block(provider, in, pem);
    int outcome = 1;
    if (pem->is_ours)
        outcome = is_usable(provider, pem) && pass_on(pem, callback, argument);
    free(pem);
    return outcome;
}

/* --- DER to key ---------------------------------------------------------------------------------------------- */

/* Reads all of the input; returns nothing if it is longer than a reference can be. */
static size_t read_der(const struct provider *provider, OSSL_CORE_BIO *in, uint8_t der[REFERENCE_MAX + 1]) {
    size_t length = 0, part;
    while (length <= REFERENCE_MAX && provider->bio_read_ex(in, der + length, REFERENCE_MAX + 1 - length, &part) &&
           part > 0)
        length += part;
    return length <= REFERENCE_MAX ? length : 0;
}

/* Pass the key on by reference; the function that takes it sets the pointer to null. */
static int emit_key(struct key *key, OSSL_CALLBACK *callback, void *argument) {
    int object = OSSL_OBJECT_PKEY;
    const char *type = key_type_name(key->type);
    OSSL_PARAM params[] = {
        OSSL_PARAM_int(OSSL_OBJECT_PARAM_TYPE, &object),
        OSSL_PARAM_utf8_string(OSSL_OBJECT_PARAM_DATA_TYPE, (void *)(uintptr_t)type, strlen(type)),
        OSSL_PARAM_octet_string(OSSL_OBJECT_PARAM_REFERENCE, &key, sizeof key),
        OSSL_PARAM_END,
    };
    int outcome = callback(params, argument);
    key_release(key);
    return outcome;
}

static int decode_der(const struct provider *provider, OSSL_CORE_BIO *in, enum key_type type,
                      OSSL_CALLBACK *callback, void *argument) {
    uint8_t der[REFERENCE_MAX + 1];
    struct reference reference;
    size_t length = read_der(provider, in, der);
    if (reference_parse(der, length, &reference) != NULL || reference.type != type)
        return 1;
    struct key *key = key_new(provider, der, length);
    return key == NULL ? 0 : emit_key(key, callback, argument);
}

#define DECODE_DER(name, type)                                                                                        \
    static int decode_##name(void *context, OSSL_CORE_BIO *in, int selection, OSSL_CALLBACK *callback,                \
                             void *argument, OSSL_PASSPHRASE_CALLBACK *passphrase, void *passphrase_argument) {       \
        (void)selection, (void)passphrase, (void)passphrase_argument;                                                 \
        return decode_der(context, in, type, callback, argument);                                                     \
    }

DECODE_DER(rsa, KEY_RSA)
DECODE_DER(ec, KEY_EC)
DECODE_DER(ed25519, KEY_ED25519)

/* Called when a property query passes our key to another provider's key management, which could only get the public
 * half and would fail at the first signature: refuse it now with a clear error. */
static int export_object(void *context, const void *reference, size_t size, OSSL_CALLBACK *callback, void *argument) {
    (void)reference, (void)size, (void)callback, (void)argument;
    return raise_error(context, REASON_STAYS, "a property query excludes the provider of this key");
}

/* --- tables -------------------------------------------------------------------------------------------------- */

#define DECODER(name)                                                                                                 \
    static const OSSL_DISPATCH DECODE_##name[] = {                                                                    \
        {OSSL_FUNC_DECODER_NEWCTX, (void (*)(void))new_context},                                                      \
        {OSSL_FUNC_DECODER_FREECTX, (void (*)(void))free_context},                                                    \
        {OSSL_FUNC_DECODER_DECODE, (void (*)(void))decode_##name},                                                    \
        {OSSL_FUNC_DECODER_EXPORT_OBJECT, (void (*)(void))export_object},                                             \
        {0, NULL},                                                                                                    \
    };

DECODER(pem)
DECODER(rsa)
DECODER(ec)
DECODER(ed25519)

#define FROM_PEM "provider=" PROVIDER_NAME ",input=pem"
#define FROM_DER "provider=" PROVIDER_NAME ",input=der,structure=" REFERENCE_STRUCTURE

const OSSL_ALGORITHM decoders[] = {
    {"DER", FROM_PEM, DECODE_pem, "hsmd key reference, PEM"},
    {"RSA", FROM_DER, DECODE_rsa, "hsmd key reference, RSA"},
    {"EC", FROM_DER, DECODE_ec, "hsmd key reference, EC"},
    {"ED25519", FROM_DER, DECODE_ed25519, "hsmd key reference, Ed25519"},
    {NULL, NULL, NULL, NULL},
};
