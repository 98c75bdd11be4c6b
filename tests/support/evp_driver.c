/* Uses keys of the provider through libcrypto, as a server does; prints one result per line. */
#define _DEFAULT_SOURCE
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl3.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* --- helpers ------------------------------------------------------------------------------------------------- */

static EVP_PKEY *load(const char *path) {
    BIO *file = BIO_new_file(path, "r");
    EVP_PKEY *key = file == NULL ? NULL : PEM_read_bio_PrivateKey(file, NULL, NULL, NULL);
    BIO_free(file);
    return key;
}

static X509 *load_certificate(const char *path) {
    BIO *file = BIO_new_file(path, "r");
    X509 *certificate = file == NULL ? NULL : PEM_read_bio_X509(file, NULL, NULL, NULL);
    BIO_free(file);
    return certificate;
}

/* "errors 0", or reason and data of the first error in the queue. Empties the queue. */
static void print_errors(void) {
    const char *data = "";
    int flags = 0;
    unsigned long code = ERR_get_error_all(NULL, NULL, NULL, &data, &flags);
    if (code == 0)
        printf("errors 0\n");
    else
        printf("error %s: %s\n", ERR_reason_error_string(code), data);
    ERR_clear_error();
}

static void print_hex(const char *title, const unsigned char *at, size_t length) {
    printf("%s ", title);
    for (size_t i = 0; i < length; i++)
        printf("%02x", at[i]);
    printf("\n");
}

static int sign(EVP_PKEY *key, const char *digest, int padding, const unsigned char *data, size_t length,
                unsigned char *signature, size_t *signature_length) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *parameters;
    int done = EVP_DigestSignInit_ex(context, &parameters, digest, NULL, NULL, key, NULL) > 0 &&
               (padding == 0 || EVP_PKEY_CTX_set_rsa_padding(parameters, padding) > 0) &&
               (padding != RSA_PKCS1_PSS_PADDING || EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, -1) > 0) &&
               EVP_DigestSign(context, signature, signature_length, data, length) > 0;
    EVP_MD_CTX_free(context);
    return done;
}

/* --- commands ------------------------------------------------------------------------------------------------ */

/* load FILE...: type, bits, size; then the error queue, which must be empty after success */
static int run_load(int count, char **paths) {
    for (int i = 0; i < count; i++) {
        EVP_PKEY *key = load(paths[i]);
        if (key == NULL)
            printf("none\n");
        else
            printf("key %d %d %d\n", EVP_PKEY_get_base_id(key), EVP_PKEY_get_bits(key), EVP_PKEY_get_size(key));
        print_errors();
        EVP_PKEY_free(key);
    }
    return 0;
}

/* corpus FILE COUNT: length-prefixed texts, each loaded as a key file; number of those that loaded */
static int run_corpus(int count, char **arguments) {
    FILE *file = fopen(arguments[0], "rb");
    unsigned char size[4];
    int loaded = 0, read = 0;
    if (count < 1 || file == NULL)
        return 1;
    while (fread(size, 1, sizeof size, file) == sizeof size) {
        size_t length = (size_t)size[0] << 24 | (size_t)size[1] << 16 | (size_t)size[2] << 8 | size[3];
        char *text = malloc(length + 1);
        if (fread(text, 1, length, file) != length)
            return 1;
        BIO *bio = BIO_new_mem_buf(text, (int)length);
        EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        loaded += key != NULL;
        read++;
        EVP_PKEY_free(key);
        BIO_free(bio);
        free(text);
        ERR_clear_error();
    }
    fclose(file);
    printf("read %d loaded %d\n", read, loaded);
    return 0;
}

/* sign FILE DIGEST PADDING TEXT: digest "-" for none, padding as in openssl/rsa.h or 0 */
static int run_sign(int count, char **arguments) {
    unsigned char signature[2048];
    size_t length = sizeof signature;
    EVP_PKEY *key = count == 4 ? load(arguments[0]) : NULL;
    if (key == NULL)
        return 1;
    const char *digest = strcmp(arguments[1], "-") == 0 ? NULL : arguments[1];
    const unsigned char *text = (const unsigned char *)arguments[3];
    if (sign(key, digest, atoi(arguments[2]), text, strlen(arguments[3]), signature, &length))
        print_hex("signature", signature, length);
    print_errors();
    EVP_PKEY_free(key);
    return 0;
}

static int swallow(const OSSL_PARAM *params, void *argument) { return (void)params, (void)argument, 1; }

/* compare REFERENCE CERTIFICATE OTHER_CERTIFICATE: equality both ways, duplication, export of every selection */
static int run_compare(int count, char **paths) {
    EVP_PKEY *key = count == 3 ? load(paths[0]) : NULL;
    X509 *certificate = count == 3 ? load_certificate(paths[1]) : NULL;
    X509 *other = count == 3 ? load_certificate(paths[2]) : NULL;
    if (key == NULL || certificate == NULL || other == NULL)
        return 1;
    EVP_PKEY *public = X509_get0_pubkey(certificate), *unrelated = X509_get0_pubkey(other), *copy = EVP_PKEY_dup(key);
    EVP_PKEY *again = load(paths[0]);
    printf("equal %d %d %d %d\n", EVP_PKEY_eq(key, public), EVP_PKEY_eq(public, key), EVP_PKEY_eq(key, copy),
           EVP_PKEY_eq(key, again));
    print_errors();
    printf("unrelated %d %d\n", EVP_PKEY_eq(key, unrelated) == 1, EVP_PKEY_eq(unrelated, key) == 1);
    ERR_clear_error();
    printf("fits %d %d\n", X509_check_private_key(certificate, key), X509_check_private_key(other, key));
    ERR_clear_error();
    unsigned exported = 0;
    for (int selection = 0; selection < 256; selection++)
        if (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY)
            exported += EVP_PKEY_export(key, selection, swallow, NULL) > 0;
    printf("private exports %u\n", exported);
    printf("public export %d\n", EVP_PKEY_export(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY, swallow, NULL));
    unsigned char *der = NULL;
    printf("written %d\n", i2d_PrivateKey(key, &der) > 0);
    ERR_clear_error();
    EVP_PKEY_free(key);
    EVP_PKEY_free(copy);
    EVP_PKEY_free(again);
    X509_free(certificate);
    X509_free(other);
    return 0;
}

static int decrypt(EVP_PKEY *key, int padding, unsigned version, const unsigned char *in, size_t length,
                   unsigned char *out, size_t *out_length) {
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int(OSSL_ASYM_CIPHER_PARAM_PAD_MODE, &padding),
        OSSL_PARAM_construct_uint(OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION, &version),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    int done = EVP_PKEY_decrypt_init(context) > 0 && EVP_PKEY_CTX_set_params(context, params) > 0 &&
               EVP_PKEY_decrypt(context, out, out_length, in, length) > 0;
    EVP_PKEY_CTX_free(context);
    return done;
}

/* A heap block of exactly 48 bytes, where the sanitizer detects any access beyond it. */
static void try_decrypt(EVP_PKEY *key, const char *title, int padding, unsigned version, const unsigned char *in,
                        size_t length) {
    size_t out_length = SSL_MAX_MASTER_KEY_LENGTH;
    unsigned char *out = malloc(out_length);
    if (decrypt(key, padding, version, in, length, out, &out_length))
        print_hex(title, out, out_length);
    else
        printf("%s none\n", title);
    print_errors();
    free(out);
}

/* decrypt REFERENCE CERTIFICATE: the RSA key exchange with valid and invalid ciphertexts, versions, lengths, paddings */
static int run_decrypt(int count, char **paths) {
    unsigned char premaster[48] = {3, 3, 'p', 'm', 's'}, in[1024] = {0}, bad[1024];
    EVP_PKEY *key = count == 2 ? load(paths[0]) : NULL;
    X509 *certificate = count == 2 ? load_certificate(paths[1]) : NULL;
    if (key == NULL || certificate == NULL)
        return 1;
    size_t length = sizeof in;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(X509_get0_pubkey(certificate), NULL);
    if (EVP_PKEY_encrypt_init(context) <= 0 || EVP_PKEY_encrypt(context, in, &length, premaster, 48) <= 0)
        return 1;
    memcpy(bad, in, sizeof bad);
    bad[length - 1] ^= 1;
    print_hex("expected", premaster, sizeof premaster);
    try_decrypt(key, "good", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, in, length);
    try_decrypt(key, "bad", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, bad, length);
    try_decrypt(key, "bad-again", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, bad, length);
    try_decrypt(key, "short", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, in, length - 1);
    try_decrypt(key, "long", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, in, length + 1);
    try_decrypt(key, "empty", RSA_PKCS1_WITH_TLS_PADDING, 0x0303, in, 0);
    try_decrypt(key, "version", RSA_PKCS1_WITH_TLS_PADDING, 0x0302, in, length);
    try_decrypt(key, "pkcs1", RSA_PKCS1_PADDING, 0x0303, in, length);
    try_decrypt(key, "oaep", RSA_PKCS1_OAEP_PADDING, 0x0303, in, length);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(key);
    X509_free(certificate);
    return 0;
}

struct work {
    EVP_PKEY *key;
    int rounds, failed;
};

static void *work(void *argument) {
    struct work *work = argument;
    for (int i = 0; i < work->rounds; i++) {
        unsigned char signature[2048];
        size_t length = sizeof signature;
        EVP_PKEY_up_ref(work->key);
        work->failed += !sign(work->key, "SHA256", 0, (const unsigned char *)"thread", 6, signature, &length);
        EVP_PKEY_free(work->key);
    }
    return NULL;
}

/* threads FILE THREADS ROUNDS: one key, many threads; number of failed signatures */
static int run_threads(int count, char **arguments) {
    enum { THREADS_MAX = 64 };
    pthread_t threads[THREADS_MAX];
    struct work works[THREADS_MAX];
    EVP_PKEY *key = count == 3 ? load(arguments[0]) : NULL;
    int failed = 0, width = count == 3 ? atoi(arguments[1]) : 0;
    if (key == NULL || width > THREADS_MAX)
        return 1;
    for (int i = 0; i < width; i++) {
        works[i] = (struct work){key, atoi(arguments[2]), 0};
        pthread_create(&threads[i], NULL, work, &works[i]);
    }
    for (int i = 0; i < width; i++) {
        pthread_join(threads[i], NULL);
        failed += works[i].failed;
    }
    EVP_PKEY_free(key);
    printf("failed %d\n", failed);
    return 0;
}

/* exit FILE THREADS: exit at the end of standard input, while threads wait for signatures */
static int run_exit(int count, char **arguments) {
    static struct work endless;
    pthread_t thread;
    EVP_PKEY *key = count == 2 ? load(arguments[0]) : NULL;
    if (key == NULL)
        return 1;
    endless = (struct work){key, 1000000, 0};
    for (int i = 0; i < atoi(arguments[1]); i++)
        pthread_create(&thread, NULL, work, &endless);
    while (getchar() != EOF)
        continue;
    exit(0);
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        int (*run)(int count, char **arguments);
    } COMMANDS[] = {
        {"load", run_load},       {"corpus", run_corpus},   {"sign", run_sign},
        {"compare", run_compare}, {"decrypt", run_decrypt}, {"threads", run_threads},
        {"exit", run_exit},
    };
    for (size_t i = 0; count >= 2 && i < sizeof COMMANDS / sizeof COMMANDS[0]; i++)
        if (strcmp(arguments[1], COMMANDS[i].name) == 0)
            return COMMANDS[i].run(count - 2, arguments + 2);
    return 2;
}
