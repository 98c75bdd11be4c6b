/* Shared by the files of the OpenSSL provider: its immutable context, its tables, and how errors are raised.
 *
 * The provider links only to libc. At run time it uses OpenSSL through the upcalls that the core passes to it; of
 * libcrypto only headers are used. */
#ifndef HSMD_PROVIDER_H
#define HSMD_PROVIDER_H

#include <openssl/core.h>
#include <openssl/core_dispatch.h>

#include "agent.h"
#include "key.h"

#define PROVIDER_NAME "hsmd"
#define REFERENCE_STRUCTURE "HsmdKeyReference"

/* Written once by OSSL_provider_init, then only read, by every thread and every forked worker. */
struct provider {
    const OSSL_CORE_HANDLE *handle;
    OSSL_FUNC_core_get_params_fn *core_get_params;
    OSSL_FUNC_core_new_error_fn *core_new_error;
    OSSL_FUNC_core_set_error_debug_fn *core_set_error_debug;
    OSSL_FUNC_core_vset_error_fn *core_vset_error;
    OSSL_FUNC_BIO_read_ex_fn *bio_read_ex;
    OSSL_FUNC_BIO_gets_fn *bio_gets;
    struct agent agent;
    const char *fault; /* what is wrong with the provider's configuration section, or null */
};

extern const OSSL_ALGORITHM key_managements[];
extern const OSSL_ALGORITHM decoders[];
extern const OSSL_ALGORITHM signatures[];
extern const OSSL_ALGORITHM exchanges[];

/* Put an error into OpenSSL's queue; always returns false. */
__attribute__((format(printf, 3, 4))) bool raise_error(const struct provider *provider, enum reason reason,
                                                       const char *format, ...);

/* Have the agent perform one operation with a key; errors are raised and name the key. */
bool use_key(const struct provider *provider, const struct key *key, const struct operation *operation,
             struct answer *answer);

#endif
