/* Reading and writing of OSSL_PARAM values (params.h). */
#define _DEFAULT_SOURCE
#include "params.h"

#include <endian.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

const OSSL_PARAM *param_find(const OSSL_PARAM *params, const char *name) {
    for (; params != NULL && params->key != NULL; params++)
        if (strcmp(params->key, name) == 0)
            return params;
    return NULL;
}

OSSL_PARAM *param_find_output(OSSL_PARAM *params, const char *name) {
    for (; params != NULL && params->key != NULL; params++)
        if (strcmp(params->key, name) == 0)
            return params;
    return NULL;
}

bool param_is_text(const OSSL_PARAM *param) {
    return param->data_type == OSSL_PARAM_UTF8_STRING && param->data != NULL;
}

bool param_text_equals(const OSSL_PARAM *param, const char *text) {
    return param_is_text(param) && strnlen(param->data, param->data_size) == strlen(text) &&
           strncasecmp(param->data, text, strlen(text)) == 0;
}

static bool read_signed(const OSSL_PARAM *param, int64_t *value) {
    int32_t narrow;
    if (param->data_size == sizeof narrow) {
        memcpy(&narrow, param->data, sizeof narrow);
        *value = narrow;
        return true;
    }
    if (param->data_size != sizeof *value)
        return false;
    memcpy(value, param->data, sizeof *value);
    return true;
}

static bool read_unsigned(const OSSL_PARAM *param, int64_t *value) {
    uint32_t narrow;
    uint64_t wide;
    if (param->data_size == sizeof narrow) {
        memcpy(&narrow, param->data, sizeof narrow);
        *value = narrow;
        return true;
    }
    if (param->data_size != sizeof wide)
        return false;
    memcpy(&wide, param->data, sizeof wide);
    *value = (int64_t)wide;
    return wide <= INT_MAX;
}

bool param_read_int(const OSSL_PARAM *param, int *value) {
    int64_t wide;
    if (param->data == NULL)
        return false;
    bool is_read = param->data_type == OSSL_PARAM_INTEGER            ? read_signed(param, &wide)
                   : param->data_type == OSSL_PARAM_UNSIGNED_INTEGER ? read_unsigned(param, &wide)
                                                                     : false;
    if (!is_read || wide < INT_MIN || wide > INT_MAX)
        return false;
    *value = (int)wide;
    return true;
}

/* Return the size; true if the caller's buffer is large enough or the caller only asked for the size. */
static bool write_raw(OSSL_PARAM *param, const void *value, size_t length) {
    param->return_size = length;
    if (param->data == NULL)
        return true;
    if (param->data_size < length)
        return false;
    memcpy(param->data, value, length);
    return true;
}

bool param_write_int(OSSL_PARAM *param, int value) {
    int64_t wide = value;
    if (param == NULL)
        return true;
    if (param->data_type != OSSL_PARAM_INTEGER && param->data_type != OSSL_PARAM_UNSIGNED_INTEGER)
        return false;
    if (param->data_size == sizeof wide)
        return write_raw(param, &wide, sizeof wide);
    return write_raw(param, &value, sizeof value);
}

bool param_write_text(OSSL_PARAM *param, const char *text) {
    size_t length = strlen(text);
    if (param == NULL)
        return true;
    if (param->data_type == OSSL_PARAM_UTF8_PTR) {
        param->return_size = length;
        if (param->data != NULL)
            *(const char **)param->data = text;
        return true;
    }
    if (param->data_type != OSSL_PARAM_UTF8_STRING || !write_raw(param, text, length))
        return false;
    if (param->data != NULL && param->data_size > length)
        ((char *)param->data)[length] = '\0';
    return true;
}

bool param_write_bytes(OSSL_PARAM *param, struct span value) {
    if (param == NULL)
        return true;
    return param->data_type == OSSL_PARAM_OCTET_STRING && write_raw(param, value.bytes, value.length);
}

/* Numbers fill the whole buffer of the caller, padded with zeros at the most significant end. */
bool param_write_number(OSSL_PARAM *param, struct span value) {
    if (param == NULL)
        return true;
    if (param->data_type != OSSL_PARAM_UNSIGNED_INTEGER)
        return false;
    if (param->data == NULL || param->data_size < value.length)
        return write_raw(param, value.bytes, value.length);
    size_t rest = param->data_size - value.length;
    uint8_t *to = param->data;
    bool is_little = __BYTE_ORDER == __LITTLE_ENDIAN;
    memset(to + (is_little ? value.length : 0), 0, rest);
    memcpy(to + (is_little ? 0 : rest), value.bytes, value.length);
    param->return_size = param->data_size;
    return true;
}
