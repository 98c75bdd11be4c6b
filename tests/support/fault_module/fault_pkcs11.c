/* A PKCS#11 module in front of a real one, which injects faults on command and records all calls. For tests only.
 *
 * Environment: HSMD_FAULT_MODULE, the real module; HSMD_FAULT_CONTROL, the control page (made by control.py, mapped by every
 * process, so that rules can change while they run); HSMD_FAULT_CALLS, the file that calls are appended to;
 * HSMD_FAULT_WATCH, optional: a file whose inode and size are recorded when C_Sign or C_Decrypt begins, which proves what had
 * been written to it before the key was used.
 *
 * A call goes through these steps: 1. the state of the token (present, session still valid, same process); 2. rules;
 * 3. the real module; 4. damage to the output; 5. one record in the file of calls, before the caller gets the output.
 * Functions that could use a private key without a record are refused.
 *
 * The layouts of struct page, struct rule and struct record are known to control.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* --- the parts of PKCS#11 2.40 needed here --- */

typedef unsigned long CK_ULONG, CK_RV, CK_FLAGS, CK_SLOT_ID, CK_SESSION_HANDLE, CK_OBJECT_HANDLE;
typedef unsigned char CK_BYTE;

typedef struct {
    CK_ULONG mechanism;
    void *parameter;
    CK_ULONG parameter_length;
} CK_MECHANISM;

typedef struct {
    CK_ULONG type;
    void *value;
    CK_ULONG length;
} CK_ATTRIBUTE;

typedef struct {
    CK_BYTE description[64], manufacturer[32];
    CK_FLAGS flags;
    CK_BYTE versions[4];
} CK_SLOT_INFO;

typedef struct {
    CK_BYTE label[32], manufacturer[32], model[16], serial[16];
    CK_FLAGS flags;
    CK_ULONG sessions_and_memory[10];
    CK_BYTE versions[4], utc_time[16];
} CK_TOKEN_INFO;

#define FUNCTIONS 68
typedef struct {
    CK_BYTE version[2];
    void *functions[FUNCTIONS];
} CK_FUNCTION_LIST;

enum {
    CKR_OK = 0x00,
    CKR_GENERAL_ERROR = 0x05,
    CKR_DEVICE_REMOVED = 0x32,
    CKR_FUNCTION_NOT_SUPPORTED = 0x54,
    CKR_MECHANISM_INVALID = 0x70,
    CKR_PIN_INCORRECT = 0xa0,
    CKR_PIN_LOCKED = 0xa4,
    CKR_SESSION_COUNT = 0xb1,
    CKR_SESSION_HANDLE_INVALID = 0xb3,
    CKR_ATTRIBUTE_TYPE_INVALID = 0x12,
    CKR_TOKEN_WRITE_PROTECTED = 0xe2,
    CKR_TOKEN_NOT_PRESENT = 0xe0,
    CKR_CRYPTOKI_NOT_INITIALIZED = 0x190,
};
enum { CKF_TOKEN_PRESENT = 0x1, CKF_WRITE_PROTECTED = 0x2, CKF_RW_SESSION = 0x2 };
enum { CKA_CLASS = 0x0, CKA_LABEL = 0x3 };
#define CK_UNAVAILABLE_INFORMATION (~0UL)
enum { CKF_USER_PIN_COUNT_LOW = 0x10000, CKF_USER_PIN_FINAL_TRY = 0x20000, CKF_USER_PIN_LOCKED = 0x40000 };

/* Indices in the function list. */
enum {
    INITIALIZE = 0, FINALIZE = 1, GET_SLOT_LIST = 4, GET_SLOT_INFO = 5, GET_TOKEN_INFO = 6, GET_MECHANISM_LIST = 7,
    OPEN_SESSION = 12, CLOSE_SESSION = 13, CLOSE_ALL_SESSIONS = 14, LOGIN = 18, LOGOUT = 19, CREATE_OBJECT = 20,
    DESTROY_OBJECT = 22, GET_ATTRIBUTE_VALUE = 24, FIND_OBJECTS_INIT = 26, FIND_OBJECTS = 27, FIND_OBJECTS_FINAL = 28,
    DECRYPT_INIT = 33, DECRYPT = 34, DECRYPT_UPDATE = 35, DECRYPT_FINAL = 36, SIGN_INIT = 42, SIGN = 43, SIGN_UPDATE = 44,
    SIGN_FINAL = 45, SIGN_RECOVER_INIT = 46, SIGN_RECOVER = 47, DECRYPT_DIGEST_UPDATE = 55, SIGN_ENCRYPT_UPDATE = 56,
    DECRYPT_VERIFY_UPDATE = 57, GENERATE_KEY = 58, GENERATE_KEY_PAIR = 59, WRAP_KEY = 60, UNWRAP_KEY = 61,
    DERIVE_KEY = 62, GENERATE_RANDOM = 64,
};

/* --- the control page --- */

enum { MAGIC = 0x48534d46, RULES = 32, PROCESSES = 64, HIDDEN = 8, OWN_SESSIONS = 256, LABEL = 56 };
enum about { ANYTHING = 0, MARKED_KEY, MARKED_SLOT };
enum garbled { PADDED_WITH_NUL = 1, NOT_UTF8 };
#define UNLIMITED UINT32_MAX
#define ALWAYS UINT32_MAX
#define ANY_BIT UINT64_MAX

enum action { RETURN = 1, RETURN_AFTER, SLEEP, HANG, ABORT, CRASH, FLIP, TRUNCATE };

struct rule {
    _Atomic uint32_t active;
    uint32_t function, action, pid; /* pid 0: every process */
    uint32_t probability;           /* out of UINT32_MAX */
    _Atomic uint32_t skip, left;
    uint32_t about;
    uint64_t argument; /* a CK_RV, milliseconds, a bit, or a number of bytes */
    uint64_t seed;
    _Atomic uint64_t drawn, hits;
};

struct process {
    _Atomic uint32_t pid, sessions;
};

struct page {
    uint32_t magic, unused;
    _Atomic uint64_t sequence;
    _Atomic uint32_t life, absent;             /* sessions opened in an earlier life are invalid */
    _Atomic uint32_t session_cap, pin_tries;   /* 0: no limit */
    _Atomic uint32_t wrong_tries, wrong_total; /* since the last successful login, and in total */
    _Atomic uint64_t hidden[HIDDEN];           /* mechanisms the token pretends not to have; UINT64_MAX: none */
    struct process processes[PROCESSES];
    struct rule rules[RULES];
    struct {
        uint32_t object_class, attribute; /* each plus one; class 0: of every object, attribute 0: none */
    } hidden_attributes[HIDDEN];
    _Atomic uint32_t write_protected, garbled;
    uint64_t marked_slot;
    char marked_label[LABEL]; /* CKA_LABEL of the key that rules about the marked key apply to */
};

struct record {
    uint32_t length, pid;
    uint64_t sequence, began_ns, ended_ns, rv, argument, object, watched_inode, watched_size;
    uint32_t function, rule, asked_length, answer_length;
};

_Static_assert(sizeof(struct rule) == 64, "control.py knows the layout");
_Static_assert(sizeof(struct page) == 104 + 8 * PROCESSES + 64 * RULES + 8 * HIDDEN + 16 + LABEL, "control.py knows the layout");
_Static_assert(sizeof(struct record) == 88, "control.py knows the layout");

static CK_FUNCTION_LIST ours;
static const CK_FUNCTION_LIST *real;
static struct page *page;
static int calls = -1;
static const char *watched;
static pid_t initialized_in;

/* State per process: a worker has one session, and this module supports only single-threaded processes. */
static struct {
    CK_SESSION_HANDLE handle;
    uint32_t life;
    bool used;
    CK_ULONG mechanism, key; /* of the operation begun last */
} sessions[OWN_SESSIONS];

/* --- one call --- */

struct call {
    uint32_t function, rule;
    CK_RV rv, rv_after;
    bool decided; /* by a rule or the state of the token: the real module is not called */
    uint64_t flip, began_ns, argument, object, inode, size;
    bool flips;
    uint32_t cut;
    const void *asked, *answer;
    CK_ULONG asked_length, answer_length;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The n-th number of a rule's own sequence (splitmix64): the same seed and order of calls give the same faults. */
static uint64_t draw(struct rule *rule)
{
    uint64_t z = rule->seed + 0x9e3779b97f4a7c15u * (atomic_fetch_add(&rule->drawn, 1) + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Decrement a counter that several processes share; false if it is zero. */
static bool take_one(_Atomic uint32_t *counter)
{
    uint32_t value = atomic_load(counter);
    while (value != 0)
        if (atomic_compare_exchange_weak(counter, &value, value - 1))
            return true;
    return false;
}

/* What the call that begins is about; rules may apply to calls about one key or slot only. */
static CK_SLOT_ID about_slot = CK_UNAVAILABLE_INFORMATION;
static CK_SESSION_HANDLE about_session;
static CK_OBJECT_HANDLE about_key = CK_UNAVAILABLE_INFORMATION;

static bool is_marked_key(void)
{
    typedef CK_RV (*get)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
    char label[LABEL] = {0};
    CK_ATTRIBUTE wanted = {CKA_LABEL, label, sizeof label};
    return about_key != CK_UNAVAILABLE_INFORMATION &&
           ((get)real->functions[GET_ATTRIBUTE_VALUE])(about_session, about_key, &wanted, 1) == CKR_OK &&
           memcmp(label, page->marked_label, sizeof label) == 0;
}

static bool is_about(enum about about)
{
    return about == ANYTHING || (about == MARKED_SLOT && about_slot == page->marked_slot) ||
           (about == MARKED_KEY && is_marked_key());
}

static bool applies(struct rule *rule, uint32_t function)
{
    if (!atomic_load(&rule->active) || rule->function != function || !is_about(rule->about))
        return false;
    if (rule->pid != 0 && rule->pid != (uint32_t)getpid())
        return false;
    if (take_one(&rule->skip))
        return false;
    if (rule->probability != ALWAYS && (uint32_t)draw(rule) >= rule->probability)
        return false;
    if (atomic_load(&rule->left) != UNLIMITED && !take_one(&rule->left))
        return false;
    atomic_fetch_add(&rule->hits, 1);
    return true;
}

static void sleep_ms(uint64_t ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0)
        ;
}

static void act(struct call *call, struct rule *rule)
{
    switch ((enum action)rule->action) {
    case RETURN:
        call->rv = rule->argument;
        call->decided = true;
        return;
    case RETURN_AFTER:
        call->rv_after = rule->argument;
        return;
    case SLEEP:
        sleep_ms(rule->argument);
        return;
    case HANG:
        for (;;)
            pause();
    case ABORT:
        abort();
    case CRASH:
        raise(SIGSEGV);
        return;
    case FLIP:
        call->flips = true;
        call->flip = rule->argument == ANY_BIT ? draw(rule) : rule->argument;
        return;
    case TRUNCATE:
        call->cut = (uint32_t)rule->argument;
        return;
    }
}

/* Steps 1 and 2 for functions that work without a session. */
static struct call begin(uint32_t function)
{
    struct call call = {.function = function, .rv = CKR_OK, .began_ns = now_ns()};
    if (function != INITIALIZE && initialized_in != getpid()) {
        call.rv = CKR_CRYPTOKI_NOT_INITIALIZED; /* as hardware does after a fork */
        call.decided = true;
        return call;
    }
    for (uint32_t n = 0; n < RULES; n++)
        if (applies(&page->rules[n], function)) {
            call.rule = n + 1;
            act(&call, &page->rules[n]);
        }
    return call;
}

static void decide(struct call *call, CK_RV rv)
{
    if (!call->decided) {
        call->rv = rv;
        call->decided = true;
    }
}

static int own_session(CK_SESSION_HANDLE handle)
{
    for (int n = 0; n < OWN_SESSIONS; n++)
        if (sessions[n].used && sessions[n].handle == handle)
            return n;
    return -1;
}

static struct call begin_at(uint32_t function, CK_SLOT_ID slot)
{
    about_slot = slot;
    struct call call = begin(function);
    about_slot = CK_UNAVAILABLE_INFORMATION;
    return call;
}

/* Steps 1 and 2 for functions of a session, which ends with the life of the token. */
static struct call begin_in(uint32_t function, CK_SESSION_HANDLE handle)
{
    struct call call = begin(function);
    int own = own_session(handle);
    if (atomic_load(&page->absent))
        decide(&call, CKR_DEVICE_REMOVED);
    else if (own >= 0 && sessions[own].life != atomic_load(&page->life))
        decide(&call, CKR_SESSION_HANDLE_INVALID);
    return call;
}

static struct call begin_with(uint32_t function, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    about_session = session;
    about_key = key;
    struct call call = begin_in(function, session);
    about_key = CK_UNAVAILABLE_INFORMATION;
    return call;
}

/* Step 5. */
static CK_RV end(struct call *call)
{
    if (call->rv == CKR_OK && call->rv_after != CKR_OK)
        call->rv = call->rv_after;
    if (call->rv != CKR_OK || call->answer == NULL)
        call->answer_length = 0;
    struct record record = {
        .pid = (uint32_t)getpid(),
        .sequence = atomic_fetch_add(&page->sequence, 1),
        .began_ns = call->began_ns,
        .ended_ns = now_ns(),
        .rv = call->rv,
        .argument = call->argument,
        .object = call->object,
        .watched_inode = call->inode,
        .watched_size = call->size,
        .function = call->function,
        .rule = call->rule,
        .asked_length = (uint32_t)call->asked_length,
        .answer_length = (uint32_t)call->answer_length,
    };
    record.length = (uint32_t)(sizeof record + call->asked_length + call->answer_length);
    struct iovec parts[] = {
        {&record, sizeof record},
        {(void *)(uintptr_t)call->asked, call->asked_length},
        {(void *)(uintptr_t)call->answer, call->answer_length},
    };
    if (writev(calls, parts, 3) != (ssize_t)record.length)
        abort(); /* without a record, the test would be meaningless */
    return call->rv;
}

/* --- functions without special handling --- */

#define PASS(call, function, parameters, ...) \
    do { \
        if (!(call).decided) \
            (call).rv = ((CK_RV(*) parameters)real->functions[function])(__VA_ARGS__); \
    } while (0)

#define IN_SESSION(name, function, parameters, ...) \
    static CK_RV name parameters \
    { \
        struct call call = begin_in(function, session); \
        PASS(call, function, parameters, __VA_ARGS__); \
        return end(&call); \
    }

IN_SESSION(logout, LOGOUT, (CK_SESSION_HANDLE session), session)
IN_SESSION(create_object, CREATE_OBJECT, (CK_SESSION_HANDLE session, void *values, CK_ULONG count, void *made),
           session, values, count, made)
IN_SESSION(destroy_object, DESTROY_OBJECT, (CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object), session, object)
IN_SESSION(find_objects_init, FIND_OBJECTS_INIT, (CK_SESSION_HANDLE session, void *values, CK_ULONG count),
           session, values, count)
IN_SESSION(find_objects, FIND_OBJECTS, (CK_SESSION_HANDLE session, void *found, CK_ULONG most, CK_ULONG *count),
           session, found, most, count)
IN_SESSION(find_objects_final, FIND_OBJECTS_FINAL, (CK_SESSION_HANDLE session), session)
IN_SESSION(generate_key_pair, GENERATE_KEY_PAIR,
           (CK_SESSION_HANDLE session, void *mechanism, void *public, CK_ULONG public_count, void *private,
            CK_ULONG private_count, void *public_made, void *private_made),
           session, mechanism, public, public_count, private, private_count, public_made, private_made)
IN_SESSION(generate_key, GENERATE_KEY,
           (CK_SESSION_HANDLE session, void *mechanism, void *values, CK_ULONG count, void *made),
           session, mechanism, values, count, made)
IN_SESSION(generate_random, GENERATE_RANDOM, (CK_SESSION_HANDLE session, CK_BYTE *bytes, CK_ULONG length),
           session, bytes, length)

static bool is_hidden(CK_ULONG attribute, CK_ULONG object_class)
{
    for (int n = 0; n < HIDDEN; n++)
        if (page->hidden_attributes[n].attribute == attribute + 1 &&
            (page->hidden_attributes[n].object_class == 0 ||
             page->hidden_attributes[n].object_class == object_class + 1))
            return true;
    return false;
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *values, CK_ULONG count)
{
    typedef CK_RV (*get)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
    struct call call = begin_with(GET_ATTRIBUTE_VALUE, session, object);
    PASS(call, GET_ATTRIBUTE_VALUE, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG),
         session, object, values, count);
    CK_ULONG object_class = CK_UNAVAILABLE_INFORMATION;
    CK_ATTRIBUTE wanted = {CKA_CLASS, &object_class, sizeof object_class};
    (void)((get)real->functions[GET_ATTRIBUTE_VALUE])(session, object, &wanted, 1);
    for (CK_ULONG n = 0; !call.decided && n < count; n++)
        if (is_hidden(values[n].type, object_class)) {
            values[n].length = CK_UNAVAILABLE_INFORMATION;
            call.rv = CKR_ATTRIBUTE_TYPE_INVALID;
        }
    return end(&call);
}

static CK_RV finalize(void *reserved)
{
    struct call call = begin(FINALIZE);
    PASS(call, FINALIZE, (void *), reserved);
    return end(&call);
}

static CK_RV initialize(void *arguments)
{
    struct call call = begin(INITIALIZE);
    PASS(call, INITIALIZE, (void *), arguments);
    if (call.rv == CKR_OK)
        initialized_in = getpid();
    return end(&call);
}

/* --- slot and token --- */

static CK_RV get_slot_list(CK_BYTE token_present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    struct call call = begin(GET_SLOT_LIST);
    if (!call.decided && token_present && atomic_load(&page->absent)) {
        *count = 0;
        decide(&call, CKR_OK);
    }
    PASS(call, GET_SLOT_LIST, (CK_BYTE, CK_SLOT_ID *, CK_ULONG *), token_present, slots, count);
    return end(&call);
}

static CK_RV get_slot_info(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
    struct call call = begin_at(GET_SLOT_INFO, slot);
    PASS(call, GET_SLOT_INFO, (CK_SLOT_ID, CK_SLOT_INFO *), slot, info);
    if (call.rv == CKR_OK && atomic_load(&page->absent))
        info->flags &= ~(CK_FLAGS)CKF_TOKEN_PRESENT;
    return end(&call);
}

static void garble(CK_TOKEN_INFO *info)
{
    static const char not_utf8[] = "caf\xe9\x1b[31m\xe2\x80\xae";
    if (atomic_load(&page->write_protected))
        info->flags |= CKF_WRITE_PROTECTED;
    if (atomic_load(&page->garbled) == PADDED_WITH_NUL)
        for (size_t n = sizeof info->label; n-- > 0 && info->label[n] == ' ';)
            info->label[n] = 0;
    if (atomic_load(&page->garbled) == NOT_UTF8) {
        memcpy(info->label, not_utf8, sizeof not_utf8 - 1);
        memcpy(info->manufacturer, not_utf8, sizeof not_utf8 - 1);
        memcpy(info->model, not_utf8, sizeof not_utf8 - 1);
    }
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
    struct call call = begin_at(GET_TOKEN_INFO, slot);
    if (atomic_load(&page->absent))
        decide(&call, CKR_TOKEN_NOT_PRESENT);
    PASS(call, GET_TOKEN_INFO, (CK_SLOT_ID, CK_TOKEN_INFO *), slot, info);
    uint32_t tries = atomic_load(&page->pin_tries), wrong = atomic_load(&page->wrong_tries);
    if (call.rv == CKR_OK && !call.decided && tries != 0) {
        info->flags &= ~(CK_FLAGS)(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED);
        info->flags |= wrong > 0 ? CKF_USER_PIN_COUNT_LOW : 0;
        info->flags |= wrong + 1 == tries ? CKF_USER_PIN_FINAL_TRY : 0;
        info->flags |= wrong >= tries ? CKF_USER_PIN_LOCKED : 0;
    }
    if (call.rv == CKR_OK && !call.decided)
        garble(info);
    return end(&call);
}

static bool hidden(CK_ULONG mechanism)
{
    for (int n = 0; n < HIDDEN; n++)
        if (atomic_load(&page->hidden[n]) == mechanism)
            return true;
    return false;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_ULONG *mechanisms, CK_ULONG *count)
{
    struct call call = begin_at(GET_MECHANISM_LIST, slot);
    if (atomic_load(&page->absent))
        decide(&call, CKR_TOKEN_NOT_PRESENT);
    PASS(call, GET_MECHANISM_LIST, (CK_SLOT_ID, CK_ULONG *, CK_ULONG *), slot, mechanisms, count);
    if (call.rv == CKR_OK && !call.decided && mechanisms != NULL) {
        CK_ULONG kept = 0;
        for (CK_ULONG n = 0; n < *count; n++)
            if (!hidden(mechanisms[n]))
                mechanisms[kept++] = mechanisms[n];
        *count = kept;
    }
    return end(&call);
}

/* --- wrapped keys; a mechanism that the token pretends not to have is refused --- */

static CK_RV wrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key,
                      CK_BYTE *wrapped, CK_ULONG *length)
{
    struct call call = begin_in(WRAP_KEY, session);
    if (!call.decided && hidden(mechanism->mechanism))
        decide(&call, CKR_MECHANISM_INVALID);
    PASS(call, WRAP_KEY,
         (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG *),
         session, mechanism, wrapping, key, wrapped, length);
    return end(&call);
}

static CK_RV unwrap_key(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped,
                        CK_ULONG length, void *values, CK_ULONG count, CK_OBJECT_HANDLE *key)
{
    struct call call = begin_in(UNWRAP_KEY, session);
    if (!call.decided && hidden(mechanism->mechanism))
        decide(&call, CKR_MECHANISM_INVALID);
    PASS(call, UNWRAP_KEY,
         (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG, void *, CK_ULONG,
          CK_OBJECT_HANDLE *),
         session, mechanism, unwrapping, wrapped, length, values, count, key);
    return end(&call);
}

/* --- sessions, of all processes together --- */

static struct process *own_process(void)
{
    uint32_t self = (uint32_t)getpid();
    for (int n = 0; n < PROCESSES; n++)
        if (atomic_load(&page->processes[n].pid) == self)
            return &page->processes[n];
    for (int n = 0; n < PROCESSES; n++) {
        uint32_t found = atomic_load(&page->processes[n].pid);
        bool vacant = found == 0 || (kill((pid_t)found, 0) != 0);
        if (vacant && atomic_compare_exchange_strong(&page->processes[n].pid, &found, self)) {
            atomic_store(&page->processes[n].sessions, 0);
            return &page->processes[n];
        }
    }
    abort(); /* more than PROCESSES processes: no test has that many */
}

static uint32_t open_sessions(void)
{
    uint32_t total = 0;
    for (int n = 0; n < PROCESSES; n++) {
        uint32_t pid = atomic_load(&page->processes[n].pid);
        if (pid != 0 && kill((pid_t)pid, 0) == 0)
            total += atomic_load(&page->processes[n].sessions);
    }
    return total;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *context, void *notify, CK_SESSION_HANDLE *handle)
{
    struct call call = begin_at(OPEN_SESSION, slot);
    struct process *process = own_process();
    uint32_t cap = atomic_load(&page->session_cap), life = atomic_load(&page->life);
    if (atomic_load(&page->absent))
        decide(&call, CKR_TOKEN_NOT_PRESENT);
    else if (cap != 0 && open_sessions() >= cap)
        decide(&call, CKR_SESSION_COUNT);
    else if (atomic_load(&page->write_protected) && flags & CKF_RW_SESSION)
        decide(&call, CKR_TOKEN_WRITE_PROTECTED);
    PASS(call, OPEN_SESSION, (CK_SLOT_ID, CK_FLAGS, void *, void *, CK_SESSION_HANDLE *),
         slot, flags, context, notify, handle);
    if (call.rv == CKR_OK && !call.decided) {
        atomic_fetch_add(&process->sessions, 1);
        for (int n = 0; n < OWN_SESSIONS; n++)
            if (!sessions[n].used) {
                sessions[n].used = true;
                sessions[n].handle = *handle;
                sessions[n].life = life;
                break;
            }
    }
    return end(&call);
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    struct call call = begin_in(CLOSE_SESSION, session);
    PASS(call, CLOSE_SESSION, (CK_SESSION_HANDLE), session);
    int own = own_session(session);
    if (call.rv == CKR_OK && own >= 0) {
        sessions[own].used = false;
        atomic_fetch_sub(&own_process()->sessions, 1);
    }
    return end(&call);
}

static CK_RV close_all_sessions(CK_SLOT_ID slot)
{
    struct call call = begin(CLOSE_ALL_SESSIONS);
    PASS(call, CLOSE_ALL_SESSIONS, (CK_SLOT_ID), slot);
    if (call.rv == CKR_OK) {
        memset(sessions, 0, sizeof sessions);
        atomic_store(&own_process()->sessions, 0);
    }
    return end(&call);
}

/* A wrong PIN counts, whether the real module or a rule reports it. */
static CK_RV login(CK_SESSION_HANDLE session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length)
{
    struct call call = begin_in(LOGIN, session);
    uint32_t tries = atomic_load(&page->pin_tries);
    call.argument = user;
    if (tries != 0 && atomic_load(&page->wrong_tries) >= tries)
        decide(&call, CKR_PIN_LOCKED);
    PASS(call, LOGIN, (CK_SESSION_HANDLE, CK_ULONG, CK_BYTE *, CK_ULONG), session, user, pin, length);
    if (call.rv == CKR_PIN_INCORRECT) {
        atomic_fetch_add(&page->wrong_tries, 1);
        atomic_fetch_add(&page->wrong_total, 1);
    } else if (call.rv == CKR_OK) {
        atomic_store(&page->wrong_tries, 0);
    }
    return end(&call);
}

/* --- uses of private keys --- */

static CK_RV key_init(uint32_t function, CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    struct call call = begin_with(function, session, key);
    call.argument = mechanism->mechanism;
    call.object = key;
    if (hidden(mechanism->mechanism))
        decide(&call, CKR_MECHANISM_INVALID);
    PASS(call, function, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE), session, mechanism, key);
    int own = own_session(session);
    if (own >= 0) {
        sessions[own].mechanism = mechanism->mechanism;
        sessions[own].key = key;
    }
    return end(&call);
}

static void damage(struct call *call, CK_BYTE *answer, CK_ULONG *length)
{
    if (call->cut != 0)
        *length -= call->cut < *length ? call->cut : *length;
    if (call->flips && *length != 0)
        answer[call->flip / 8 % *length] ^= (CK_BYTE)(1u << call->flip % 8);
}

/* A query for the size of the output uses no key: no rule and no record. */
static CK_RV key_use(uint32_t function, CK_SESSION_HANDLE session, CK_BYTE *asked, CK_ULONG asked_length,
                     CK_BYTE *answer, CK_ULONG *length)
{
    typedef CK_RV (*use)(CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
    struct stat status = {0};
    if (answer == NULL)
        return ((use)real->functions[function])(session, asked, asked_length, NULL, length);
    if (watched != NULL)
        (void)stat(watched, &status);
    int own = own_session(session);
    struct call call = begin_with(function, session, own >= 0 ? sessions[own].key : CK_UNAVAILABLE_INFORMATION);
    if (own >= 0) {
        call.argument = sessions[own].mechanism;
        call.object = sessions[own].key;
    }
    call.inode = (uint64_t)status.st_ino;
    call.size = (uint64_t)status.st_size;
    call.asked = asked;
    call.asked_length = asked_length;
    if (!call.decided) {
        call.rv = ((use)real->functions[function])(session, asked, asked_length, answer, length);
    } else { /* the operation ends nevertheless (PKCS#11 2.40, section 5.11), without a result */
        CK_BYTE nobodys[2048];
        CK_ULONG size = sizeof nobodys;
        (void)((use)real->functions[function])(session, asked, asked_length, nobodys, &size);
    }
    if (call.rv == CKR_OK && !call.decided) {
        damage(&call, answer, length);
        call.answer = answer;
        call.answer_length = *length;
    }
    return end(&call);
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    return key_init(SIGN_INIT, session, mechanism, key);
}

static CK_RV decrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    return key_init(DECRYPT_INIT, session, mechanism, key);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *size)
{
    return key_use(SIGN, session, data, length, signature, size);
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE *data, CK_ULONG length, CK_BYTE *plain, CK_ULONG *size)
{
    return key_use(DECRYPT, session, data, length, plain, size);
}

static CK_RV refused(void)
{
    return CKR_FUNCTION_NOT_SUPPORTED;
}

/* --- set-up --- */

static const int REFUSED[] = {
    DECRYPT_UPDATE, DECRYPT_FINAL, SIGN_UPDATE, SIGN_FINAL, SIGN_RECOVER_INIT, SIGN_RECOVER, DECRYPT_DIGEST_UPDATE,
    SIGN_ENCRYPT_UPDATE, DECRYPT_VERIFY_UPDATE, DERIVE_KEY,
};

static const struct {
    int index;
    void *function;
} OVERRIDDEN[] = {
    {INITIALIZE, (void *)initialize},
    {FINALIZE, (void *)finalize},
    {GET_SLOT_LIST, (void *)get_slot_list},
    {GET_SLOT_INFO, (void *)get_slot_info},
    {GET_TOKEN_INFO, (void *)get_token_info},
    {GET_MECHANISM_LIST, (void *)get_mechanism_list},
    {OPEN_SESSION, (void *)open_session},
    {CLOSE_SESSION, (void *)close_session},
    {CLOSE_ALL_SESSIONS, (void *)close_all_sessions},
    {LOGIN, (void *)login},
    {LOGOUT, (void *)logout},
    {CREATE_OBJECT, (void *)create_object},
    {DESTROY_OBJECT, (void *)destroy_object},
    {GET_ATTRIBUTE_VALUE, (void *)get_attribute_value},
    {FIND_OBJECTS_INIT, (void *)find_objects_init},
    {FIND_OBJECTS, (void *)find_objects},
    {FIND_OBJECTS_FINAL, (void *)find_objects_final},
    {DECRYPT_INIT, (void *)decrypt_init},
    {DECRYPT, (void *)decrypt},
    {SIGN_INIT, (void *)sign_init},
    {SIGN, (void *)sign},
    {GENERATE_KEY, (void *)generate_key},
    {GENERATE_KEY_PAIR, (void *)generate_key_pair},
    {WRAP_KEY, (void *)wrap_key},
    {UNWRAP_KEY, (void *)unwrap_key},
    {GENERATE_RANDOM, (void *)generate_random},
};

static bool map_page(const char *path)
{
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return false;
    void *mapped = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    page = mapped == MAP_FAILED ? NULL : mapped;
    return page != NULL && page->magic == MAGIC;
}

static bool load_real(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get_function_list)(CK_FUNCTION_LIST **) = NULL;
    CK_FUNCTION_LIST *found = NULL;
    if (library != NULL)
        *(void **)&get_function_list = dlsym(library, "C_GetFunctionList");
    if (get_function_list == NULL || get_function_list(&found) != CKR_OK)
        return false;
    real = found;
    return true;
}

static bool set_up(void)
{
    const char *module = getenv("HSMD_FAULT_MODULE"), *control = getenv("HSMD_FAULT_CONTROL");
    const char *path = getenv("HSMD_FAULT_CALLS");
    watched = getenv("HSMD_FAULT_WATCH");
    if (module == NULL || control == NULL || path == NULL || !map_page(control) || !load_real(module))
        return false;
    calls = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (calls < 0)
        return false;
    ours = *real;
    for (size_t n = 0; n < sizeof REFUSED / sizeof *REFUSED; n++)
        ours.functions[REFUSED[n]] = (void *)refused;
    for (size_t n = 0; n < sizeof OVERRIDDEN / sizeof *OVERRIDDEN; n++)
        ours.functions[OVERRIDDEN[n].index] = OVERRIDDEN[n].function;
    return true;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (calls < 0 && !set_up()) {
        fprintf(stderr, "fault_pkcs11: HSMD_FAULT_MODULE, HSMD_FAULT_CONTROL or HSMD_FAULT_CALLS is missing or wrong\n");
        return CKR_GENERAL_ERROR;
    }
    *list = &ours;
    return CKR_OK;
}
