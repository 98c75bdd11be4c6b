/* Which purpose to name to the agent, told from the structure of the bytes to be signed. Knows nothing of OpenSSL. */
#ifndef HSMD_PURPOSE_H
#define HSMD_PURPOSE_H

#include "agent.h"

/* Only names the purpose: whether the bytes are acceptable for it, and for this key, the daemon decides. */
enum purpose purpose_of(const uint8_t *data, size_t length);

#endif
