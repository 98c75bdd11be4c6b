/* PEM blocks, line by line (RFC 7468): finds the first block of a text and, if it is a key reference, its content.
 * Knows nothing of OpenSSL; the caller feeds lines, whole or in pieces. */
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
    bool is_ours;       /* the block that was found has our label */
    const char *fault;  /* what is wrong with a block of ours, or null */
    bool mid_line;      /* the next piece continues a line */
    uint32_t quantum;   /* base64 characters not yet turned into bytes */
    unsigned collected; /* how many, 0 to 3 */
    unsigned padding;   /* "=" seen */
    size_t length;
    uint8_t der[REFERENCE_MAX];
};

/* Feed one piece of text: a line with its end, or part of one. False: the first block has ended. */
bool pem_feed(struct pem *pem, const char *text, size_t length);

/* After the last piece, when no END line came: a block of ours that was cut off is faulty. */
void pem_finish(struct pem *pem);

#endif
