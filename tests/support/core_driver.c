/* Runs the provider's pure functions for the tests: one command per line on standard input, one answer per line. */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "der.h"
#include "pem.h"
#include "purpose.h"
#include "scheme.h"
#include "stream.h"

enum { LINE_MAX_BYTES = 4 * 1024 * 1024 };

static const int64_t PATIENCE_NS = 5000000000;

/* Bytes in a block of exactly their size, so that the sanitizer detects any access beyond it. */
struct bytes {
    uint8_t *at;
    size_t length;
};

static struct bytes from_hex(const char *hex) {
    size_t length = hex == NULL || strcmp(hex, "-") == 0 ? 0 : strlen(hex) / 2;
    struct bytes bytes = {malloc(length), length};
    for (size_t i = 0; i < length; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        bytes.at[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return bytes;
}

static void print_hex(const uint8_t *at, size_t length) {
    for (size_t i = 0; i < length; i++)
        printf("%02x", at[i]);
    printf(length == 0 ? "-" : "");
}

static char *word(void) { return strtok(NULL, " \n"); }

static unsigned number(void) {
    const char *text = word();
    return text == NULL ? 0 : (unsigned)strtoul(text, NULL, 10);
}

/* head WAIT PURPOSE SCHEME KEY DATA: the hello and key operation frames, all but the data */
static void run_head(void) {
    uint8_t head[REQUEST_HEAD_BYTES];
    unsigned wait_ms = number(), purpose = number(), scheme = number();
    struct bytes key = from_hex(word()), data = from_hex(word());
    struct operation operation = {purpose, (uint16_t)scheme, key.at, data.at, data.length};
    agent_request_head(&operation, wait_ms, head);
    print_hex(head, sizeof head);
    free(key.at);
    free(data.at);
}

/* exchange CAPACITY STREAM: the outcome of an agent's bytes */
static void run_exchange(void) {
    int ends[2];
    unsigned capacity = number();
    struct bytes stream = from_hex(word());
    static const uint8_t KEY[KEY_DIGEST_BYTES];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
        abort();
    if (write(ends[1], stream.at, stream.length) != (ssize_t)stream.length || shutdown(ends[1], SHUT_WR) != 0)
        abort();
    struct operation operation = {PURPOSE_SIGN_MESSAGE, 0x0403, KEY, KEY, sizeof KEY};
    struct answer answer = {malloc(capacity), capacity, 0};
    struct failure failure;
    if (agent_exchange(ends[0], now_ns() + PATIENCE_NS, &operation, &answer, &failure)) {
        printf("ok ");
        print_hex(answer.bytes, answer.length);
    } else
        printf("fail %d %s", failure.reason, failure.text);
    free(answer.bytes);
    free(stream.at);
    close(ends[0]);
    close(ends[1]);
}

/* der HEX: the members of a key reference */
static void run_der(void) {
    struct bytes der = from_hex(word());
    struct reference reference;
    const char *fault = reference_parse(der.at, der.length, &reference);
    if (fault != NULL)
        printf("bad %s", fault);
    else {
        printf("ok ");
        print_hex(reference.name.bytes, reference.name.length);
        printf(" ");
        print_hex(reference.digest, 32);
        printf(" %d %d %zu %s", reference.type, reference.bits, reference.signature_max,
               reference.group == NULL ? "-" : reference.group);
    }
    free(der.at);
}

/* pem PIECE HEX: the content of the first block, fed in lines or pieces of at most PIECE bytes */
static void run_pem(void) {
    size_t piece = number();
    struct bytes text = from_hex(word());
    struct pem *pem = calloc(1, sizeof *pem);
    bool go_on = true;
    for (size_t at = 0, length; go_on && at < text.length; at += length) {
        const uint8_t *end = memchr(text.at + at, '\n', text.length - at);
        length = end == NULL ? text.length - at : (size_t)(end - (text.at + at)) + 1;
        length = length > piece ? piece : length;
        go_on = pem_feed(pem, (const char *)text.at + at, length);
    }
    if (go_on)
        pem_finish(pem);
    if (!pem->is_ours)
        printf("none");
    else if (pem->fault != NULL)
        printf("bad %s", pem->fault);
    else {
        printf("ok ");
        print_hex(pem->der, pem->length);
    }
    free(pem);
    free(text.at);
}

/* purpose HEX */
static void run_purpose(void) {
    struct bytes data = from_hex(word());
    printf("%d", purpose_of(data.at, data.length));
    free(data.at);
}

/* scheme TYPE DIGEST PSS: the code point and the AlgorithmIdentifier */
static void run_scheme(void) {
    uint8_t der[ALGORITHM_ID_MAX];
    enum key_type type = number();
    const char *name = word();
    const struct digest *digest = name == NULL ? NULL : digest_find(name);
    bool is_pss = number();
    if (digest == NULL && type != KEY_ED25519) {
        printf("none");
        return;
    }
    printf("%d ", scheme_of(type, digest, is_pss));
    print_hex(der, algorithm_id(type, digest, is_pss, der));
}

/* ecdsa HEX: whether it has the form of a signature */
static void run_ecdsa(void) {
    struct bytes der = from_hex(word());
    printf("%d", is_ecdsa_signature(der.at, der.length));
    free(der.at);
}

static const struct {
    const char *name;
    void (*run)(void);
} COMMANDS[] = {
    {"head", run_head},       {"exchange", run_exchange}, {"der", run_der},     {"pem", run_pem},
    {"purpose", run_purpose}, {"scheme", run_scheme},     {"ecdsa", run_ecdsa},
};

static void run(const char *name) {
    for (size_t i = 0; i < sizeof COMMANDS / sizeof COMMANDS[0]; i++)
        if (name != NULL && strcmp(name, COMMANDS[i].name) == 0) {
            COMMANDS[i].run();
            printf("\n");
            return;
        }
    abort();
}

int main(void) {
    char *line = malloc(LINE_MAX_BYTES);
    while (fgets(line, LINE_MAX_BYTES, stdin) != NULL)
        run(strtok(line, " \n"));
    free(line);
    return 0;
}
