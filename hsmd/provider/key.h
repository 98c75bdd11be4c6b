/* Keys of this provider: the public key and the digest that identifies the private key. Immutable, reference-
 * counted. */
#ifndef HSMD_KEY_H
#define HSMD_KEY_H

#include <stdatomic.h>

#include "der.h"

struct provider;

struct key {
    const struct provider *provider;
    atomic_int references;
    enum key_type type;
    bool is_loaded; /* false: the empty object that the core creates before it compares keys */
    struct reference facts; /* points into `der`; RSA numbers are in native byte order there */
    uint8_t der[];
};

/* A key with one reference, or null (an error is raised if there is no memory). */
struct key *key_new(const struct provider *provider, const uint8_t *der, size_t length);
struct key *key_hold(struct key *key);
void key_release(struct key *key); /* may be null */

const char *key_type_name(enum key_type type);

#endif
