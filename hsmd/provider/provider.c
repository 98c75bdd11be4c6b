/* The OpenSSL 3 provider "hsmd": private keys that are used through the local hsmd agent.
 *
 * A TLS server loads a key reference file in place of a private key, and every use of it becomes one request to the
 * agent's Unix socket. The provider only forwards; it computes no hash, padding or cipher. Its only state is this
 * immutable context and immutable keys, so forks, threads and reloads need no handling. */
#include "provider.h"

#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"

#define VERSION "1"

/* --- errors -------------------------------------------------------------------------------------------------- */

static const OSSL_ITEM REASONS[] = {
    {REASON_UNREACHABLE, "agent unreachable"},
    {REASON_DEADLINE, "deadline passed"},
    {REASON_CLOSED, "agent closed the connection"},
    {REASON_PROTOCOL, "protocol error"},
    {REASON_ANSWER, "invalid answer"},
    {REASON_REFUSED, "refused"},
    {REASON_PURPOSE, "purpose not allowed"},
    {REASON_UNAVAILABLE, "no daemon available"},
    {REASON_OVERLOADED, "overloaded"},
    {REASON_DRAINING, "daemon is going away"},
    {REASON_TOKEN, "token failure"},
    {REASON_AUDIT, "audit log failure"},
    {REASON_STORE, "store unreachable"},
    {REASON_INTERNAL, "internal error of the daemon"},
    {REASON_FAILED, "request failed"},
    {REASON_REFERENCE, "malformed key reference"},
    {REASON_CONFIGURATION, "wrong configuration"},
    {REASON_ALGORITHM, "unsupported digest"},
    {REASON_PADDING, "unsupported padding"},
    {REASON_SALT, "unsupported salt length"},
    {REASON_TOO_LONG, "data too long"},
    {REASON_BUFFER, "buffer too small"},
    {REASON_CIPHERTEXT, "wrong ciphertext length"},
    {REASON_TLS_VERSION, "wrong TLS version"},
    {REASON_NO_KEY, "no key set"},
    {REASON_STAYS, "private key cannot leave the provider"},
    {REASON_MEMORY, "out of memory"},
    {0, NULL},
};

bool raise_error(const struct provider *provider, enum reason reason, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    provider->core_new_error(provider->handle);
    provider->core_set_error_debug(provider->handle, PROVIDER_NAME, 0, "");
    provider->core_vset_error(provider->handle, reason, format, arguments);
    va_end(arguments);
    return false;
}

/* The key's name for a log line: names are UTF-8, log lines are printable ASCII. */
static void printable_name(const struct key *key, char name[NAME_BYTES_MAX + 1]) {
    size_t length = key->facts.name.length;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = key->facts.name.bytes[i];
        name[i] = byte < 0x20 || byte > 0x7e ? '?' : (char)byte;
    }
    name[length] = '\0';
}

bool use_key(const struct provider *provider, const struct key *key, const struct operation *operation,
             struct answer *answer) {
    struct failure failure;
    char name[NAME_BYTES_MAX + 1];
    if (agent_call(&provider->agent, operation, answer, &failure))
        return true;
    printable_name(key, name);
    return raise_error(provider, failure.reason, "key %s: %s", name, failure.text);
}

/* --- configuration ------------------------------------------------------------------------------------------- */

/* An invalid value does not stop the provider, because OpenSSL would then continue without it and report nothing. The
 * fault is kept and reported when a key reference is loaded. */
static const char *configure_socket(struct agent *agent, const char *path) {
    if (path[0] != '/')
        return "socket must be an absolute path";
    if (strlen(path) >= sizeof agent->socket)
        return "socket must be shorter than 108 bytes";
    memcpy(agent->socket, path, strlen(path) + 1);
    return NULL;
}

static const char *configure_timeout(struct agent *agent, const char *text) {
    size_t digits = strspn(text, "0123456789");
    unsigned long value = digits > 0 && digits <= 5 && text[digits] == '\0' ? strtoul(text, NULL, 10) : 0;
    if (value < AGENT_TIMEOUT_MIN_MS || value > AGENT_TIMEOUT_MAX_MS)
        return "timeout-ms must be a number from 10 to 10000";
    agent->timeout_ms = (unsigned)value;
    return NULL;
}

static void configure(struct provider *provider) {
    char *path = AGENT_SOCKET_DEFAULT, *timeout = NULL;
    OSSL_PARAM asked[] = {
        {"socket", OSSL_PARAM_UTF8_PTR, &path, 0, 0},
        {"timeout-ms", OSSL_PARAM_UTF8_PTR, &timeout, 0, 0},
        OSSL_PARAM_END,
    };
    provider->agent.timeout_ms = AGENT_TIMEOUT_DEFAULT_MS;
    if (!provider->core_get_params(provider->handle, asked)) {
        provider->fault = "the configuration cannot be read";
        return;
    }
    provider->fault = configure_socket(&provider->agent, path);
    if (provider->fault == NULL && timeout != NULL)
        provider->fault = configure_timeout(&provider->agent, timeout);
}

/* --- functions for the core ---------------------------------------------------------------------------------- */

static const OSSL_ALGORITHM *query_operation(void *context, int operation, int *no_cache) {
    (void)context;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT:
        return key_managements;
    case OSSL_OP_DECODER:
        return decoders;
    case OSSL_OP_SIGNATURE:
        return signatures;
    case OSSL_OP_ASYM_CIPHER:
        return exchanges;
    default:
        return NULL;
    }
}

static const OSSL_ITEM *get_reason_strings(void *context) { return (void)context, REASONS; }

static const OSSL_PARAM *gettable_params(void *context) {
    static const OSSL_PARAM GETTABLE[] = {
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_NAME, NULL, 0),
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_VERSION, NULL, 0),
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_BUILDINFO, NULL, 0),
        OSSL_PARAM_int(OSSL_PROV_PARAM_STATUS, NULL),
        OSSL_PARAM_END,
    };
    return (void)context, GETTABLE;
}

static int get_params(void *context, OSSL_PARAM *params) {
    const struct provider *provider = context;
    return param_write_text(param_find_output(params, OSSL_PROV_PARAM_NAME), "hsmd agent provider") &&
           param_write_text(param_find_output(params, OSSL_PROV_PARAM_VERSION), VERSION) &&
           param_write_text(param_find_output(params, OSSL_PROV_PARAM_BUILDINFO), VERSION) &&
           param_write_int(param_find_output(params, OSSL_PROV_PARAM_STATUS), provider->fault == NULL);
}

static void teardown(void *context) { free(context); }

static const OSSL_DISPATCH FUNCTIONS[] = {
    {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query_operation},
    {OSSL_FUNC_PROVIDER_GET_REASON_STRINGS, (void (*)(void))get_reason_strings},
    {OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, (void (*)(void))gettable_params},
    {OSSL_FUNC_PROVIDER_GET_PARAMS, (void (*)(void))get_params},
    {OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))teardown},
    {0, NULL},
};

static void take_upcall(struct provider *provider, const OSSL_DISPATCH *entry) {
    switch (entry->function_id) {
    case OSSL_FUNC_CORE_GET_PARAMS:
        provider->core_get_params = OSSL_FUNC_core_get_params(entry);
        break;
    case OSSL_FUNC_CORE_NEW_ERROR:
        provider->core_new_error = OSSL_FUNC_core_new_error(entry);
        break;
    case OSSL_FUNC_CORE_SET_ERROR_DEBUG:
        provider->core_set_error_debug = OSSL_FUNC_core_set_error_debug(entry);
        break;
    case OSSL_FUNC_CORE_VSET_ERROR:
        provider->core_vset_error = OSSL_FUNC_core_vset_error(entry);
        break;
    case OSSL_FUNC_BIO_READ_EX:
        provider->bio_read_ex = OSSL_FUNC_BIO_read_ex(entry);
        break;
    case OSSL_FUNC_BIO_GETS:
        provider->bio_gets = OSSL_FUNC_BIO_gets(entry);
        break;
    default:
        break;
    }
}

static bool has_upcalls(const struct provider *provider) {
    return provider->core_get_params != NULL && provider->core_new_error != NULL &&
           provider->core_set_error_debug != NULL && provider->core_vset_error != NULL &&
           provider->bio_read_ex != NULL && provider->bio_gets != NULL;
}

/* The only exported symbol. */
__attribute__((visibility("default"))) OSSL_provider_init_fn OSSL_provider_init;

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                       void **context) {
    struct provider *provider = calloc(1, sizeof *provider);
    if (provider == NULL)
        return 0;
    provider->handle = handle;
    for (; in->function_id != 0; in++)
        take_upcall(provider, in);
    if (!has_upcalls(provider)) {
        free(provider);
        return 0;
    }
    configure(provider);
    *out = FUNCTIONS;
    *context = provider;
    return 1;
}
