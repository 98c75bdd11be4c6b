/* OSSL_PARAM arrays without libcrypto: find, read and write the few types that this provider needs. */
#ifndef HSMD_PARAMS_H
#define HSMD_PARAMS_H

#include <openssl/core.h>
#include <stdbool.h>

#include "der.h"

/* The parameter with this name, or null. The array may be null. */
const OSSL_PARAM *param_find(const OSSL_PARAM *params, const char *name);
OSSL_PARAM *param_find_output(OSSL_PARAM *params, const char *name);

bool param_is_text(const OSSL_PARAM *param);
bool param_text_equals(const OSSL_PARAM *param, const char *text); /* ignores case */
bool param_read_int(const OSSL_PARAM *param, int *value);          /* signed or unsigned */

/* Writers: `param` is null if the caller did not request it; that is no error. */
bool param_write_int(OSSL_PARAM *param, int value);
bool param_write_text(OSSL_PARAM *param, const char *text);
bool param_write_bytes(OSSL_PARAM *param, struct span value);
bool param_write_number(OSSL_PARAM *param, struct span value); /* bytes already in native order */

#endif
