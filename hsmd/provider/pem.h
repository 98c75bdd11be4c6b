/* PEM blocks, line by line (RFC 7468): finds the first block of a text and, if it is a key reference, its content.
 * Does not depend on OpenSSL; the caller passes lines, whole or in pieces. */
#ifndef HSMD_PEM_H
#define HSMD_PEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "der.h"

#define PEM_LABEL "HSMD KEY REFERENCE"

enum pem_state { PEM_BEFORE, PEM_FOREIGN, PEM_OURS, PEM_DONE };

struct pem {
    enum pem_state state;
    bool is_ours;       /* the block has our label */
    const char *fault;  /* what is wrong with a block that has our label, or null */
    bool mid_line;      /* the next piece continues a line */
    uint32_t quantum;   /* base64 characters not yet decoded */
    unsigned collected; /* how many, 0 to 3 */
    unsigned padding;   /* number of "=" read */
    size_t length;
    uint8_t der[REFERENCE_MAX];
};

/* Pass one piece of text: a line with its end, or part of one. Returns false once the first block has ended. */
bool pem_feed(struct pem *pem, const char *text, size_t length);

/* Call after the last piece if there was no END line: marks a truncated block that has our label as faulty. */
void pem_finish(struct pem *pem);

#endif
