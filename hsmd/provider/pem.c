/* Reads the first PEM block of a text strictly: canonical base64, matching END line, bounded size (pem.h). */
#include "pem.h"

#include <string.h>

static const char BEGIN[] = "-----BEGIN ";
static const char END[] = "-----END ";
static const char DASHES[] = "-----";

static bool starts_with(const char *text, size_t length, const char *prefix) {
    return length >= strlen(prefix) && memcmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Whether the line consists of `prefix`, our label, five dashes and trailing blanks. */
static bool has_our_label(const char *text, size_t length, const char *prefix) {
    const char *const parts[] = {prefix, PEM_LABEL, DASHES};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!starts_with(text, length, parts[i]))
            return false;
        text += strlen(parts[i]);
        length -= strlen(parts[i]);
    }
    while (length > 0 && is_blank(text[length - 1]))
        length--;
    return length == 0;
}

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static const char *emit(struct pem *pem, unsigned bytes) {
    if (pem->length + bytes > sizeof pem->der)
        return "longer than 8192 bytes";
    for (unsigned i = 0; i < bytes; i++)
        pem->der[pem->length++] = (uint8_t)(pem->quantum >> (16 - 8 * i));
    pem->quantum = 0;
    pem->collected = 0;
    return NULL;
}

static const char *take_character(struct pem *pem, char c) {
    int value = base64_value(c);
    if (value < 0 || pem->padding > 0)
        return "not base64";
    pem->quantum |= (uint32_t)value << (18 - 6 * pem->collected);
    return ++pem->collected == 4 ? emit(pem, 3) : NULL;
}

static const char *take_base64(struct pem *pem, const char *text, size_t length) {
    const char *fault = NULL;
    for (size_t i = 0; i < length && fault == NULL; i++) {
        if (is_blank(text[i]))
            continue;
        if (text[i] == '=' && pem->padding < 2)
            pem->padding++;
        else
            fault = take_character(pem, text[i]);
    }
    return fault;
}

/* The last quantum: two or three characters, padded to four, unused bits zero (RFC 4648, section 3.5). */
static const char *end_base64(struct pem *pem) {
    if (pem->collected == 0 && pem->padding == 0)
        return NULL;
    if (pem->collected < 2 || pem->collected + pem->padding != 4)
        return "base64 of the wrong length";
    unsigned bytes = pem->collected - 1;
    if (pem->quantum << (8 + 8 * bytes) != 0)
        return "base64 that is not canonical";
    return emit(pem, bytes);
}

static void begin(struct pem *pem, const char *text, size_t length) {
    pem->is_ours = has_our_label(text, length, BEGIN);
    pem->state = pem->is_ours ? PEM_OURS : PEM_FOREIGN;
}

static void end(struct pem *pem, const char *text, size_t length) {
    if (pem->state == PEM_OURS && pem->fault == NULL)
        pem->fault = has_our_label(text, length, END) ? end_base64(pem) : "the END line has another label";
    pem->state = PEM_DONE;
}

bool pem_feed(struct pem *pem, const char *text, size_t length) {
    bool at_line_start = !pem->mid_line;
    pem->mid_line = length > 0 && text[length - 1] != '\n';
    if (pem->state == PEM_BEFORE) {
        if (at_line_start && starts_with(text, length, BEGIN))
            begin(pem, text, length);
    } else if (at_line_start && starts_with(text, length, END)) {
        end(pem, text, length);
    } else if (pem->state == PEM_OURS && pem->fault == NULL) {
        pem->fault = take_base64(pem, text, length);
    }
    return pem->state != PEM_DONE;
}

void pem_finish(struct pem *pem) {
    if (pem->state == PEM_OURS && pem->fault == NULL)
        pem->fault = "the END line is missing";
}
