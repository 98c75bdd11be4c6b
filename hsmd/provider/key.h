/* Keys of this provider: public facts and the digest that names the private key to the agent. Immutable, counted. */
#ifndef HSMD_KEY_H
#define HSMD_KEY_H

#include <stdatomic.h>

#include "der.h"

struct provider;

struct key {
    const struct provider *provider;
    atomic_int references;
    enum key_type type;
    bool is_loaded; /* false: the empty object that the core asks for before it compares keys */
    struct reference facts; /* points into `der`; RSA numbers are in native byte order there */
    uint8_t der[];
};

/* A key with one reference, or null (with an error raised where memory is short). */
struct key *key_new(const struct provider *provider, const uint8_t *der, size_t length);
struct key *key_hold(struct key *key);
void key_release(struct key *key); /* null is fine */

const char *key_type_name(enum key_type type);

#endif
