/* OSSL_PARAM arrays without libcrypto: find, read and write the few kinds that this provider meets. */
#ifndef HSMD_PARAMS_H
#define HSMD_PARAMS_H

#include <openssl/core.h>
#include <stdbool.h>

#include "der.h"

/* The parameter with this name, or null; also for a null array. */
const OSSL_PARAM *param_find(const OSSL_PARAM *params, const char *name);
OSSL_PARAM *param_find_output(OSSL_PARAM *params, const char *name);

bool param_is_text(const OSSL_PARAM *param);
bool param_text_equals(const OSSL_PARAM *param, const char *text); /* case does not matter */
bool param_read_int(const OSSL_PARAM *param, int *value);          /* signed or unsigned */

/* Writers: a null `param` is one that nobody asked for, and fine. */
bool param_write_int(OSSL_PARAM *param, int value);
bool param_write_text(OSSL_PARAM *param, const char *text);
bool param_write_bytes(OSSL_PARAM *param, struct span value);
bool param_write_number(OSSL_PARAM *param, struct span value); /* bytes already in native order */

#endif
