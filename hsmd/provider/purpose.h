/* The purpose of a signature, derived from the structure of the bytes to be signed. Does not depend on OpenSSL. */
#ifndef HSMD_PURPOSE_H
#define HSMD_PURPOSE_H

#include "agent.h"

/* Only classifies: the daemon decides whether the bytes are acceptable for the purpose and the key. */
enum purpose purpose_of(const uint8_t *data, size_t length);

#endif
