#!/usr/bin/env python3
"""Writes a C program that misuses every function of include/gateway.h, one argument at a time.

For each function and each of its arguments it makes a call whose other arguments are right: NULL in the place of a pointer,
bytes that are no UTF-8 in that of a text, and in that of a handle one that was freed, one of every other kind, one that
was never given out, one that is poisoned, and one of the process it was forked from. Handles of other kinds are tried inside
of a transaction's callback, too. A function that is new in the header is tried without anybody thinking of it.
"""

import re
import sys

HANDLES = {
    "gateway": "flux_gateway(4)",
    "gateway_lease": "new_lease()",
    "gateway_settlements": "new_settlements()",
    "gateway_watch": "new_watch()",
    "gateway_slices": "new_slices()",
    "gateway_bytes": "new_bytes()",
    "gateway_limiter": "new_limiter()",
    "gateway_keyed_limiter": "new_keyed_limiter()",
    "gateway_breaker": "new_breaker()",
    "gateway_queue": "new_queue()",
    "gateway_store": "new_store()",
    "gateway_billing": "new_billing()",
    "gateway_histogram": "new_histogram()",
    "gateway_backoff": "new_backoff()",
    "gateway_window": "new_window()",
}

# Right arguments by name, where the type does not say enough.
RIGHT = {
    "route": '"image/flux/dev/t2i"',
    "currency": '"USD"',
    "entry": '"{}"',
    "config_len": "2",
    "entry_len": "2",
    "snapshot_len": "2",
    "key_len": "1",
    "cap": "sizeof buffer",
    "max": "1",
    "version": "1",
    "precision_bits": "6",
    "buf": "buffer",
    "body": "do_nothing",
    "context": "NULL",
    "lane": "1",
}

PRELUDE = r"""/* Written by tests/c/misuse.py. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <sys/wait.h>
#include <unistd.h>

static _Alignas(16) char buffer[8192];
static const char *const model = "dev";

static gateway_status do_nothing(gateway_tx *tx, void *context) {
    (void)tx;
    (void)context;
    return GATEWAY_OK;
}

static gateway_backend_options backend_options(void) {
    gateway_backend_options options = GATEWAY_BACKEND_OPTIONS_INIT;
    options.modality = "image";
    options.family = "flux";
    options.models = &model;
    options.models_len = 1;
    return options;
}

static gateway_lease *new_lease(void) {
    gateway *gw = flux_gateway(1);
    gateway_lease *lease = NULL;
    submit(gw, START, 1);
    OK(gateway_dispatch(gw, START, &lease, NULL));
    OK(gateway_free(gw));
    return lease;
}

static gateway_settlements *new_settlements(void) {
    gateway *gw = flux_gateway(1);
    gateway_settlements *taken = NULL;
    submit(gw, START, 1);
    OK(gateway_cancel(gw, START, id_of(1)));
    OK(gateway_take_settlements(gw, START, 1, &taken));
    OK(gateway_free(gw));
    return taken;
}

static gateway_bytes *new_bytes(void) {
    gateway *gw = flux_gateway(1);
    gateway_bytes *bytes = NULL;
    OK(gateway_snapshot(gw, &bytes));
    OK(gateway_free(gw));
    return bytes;
}

static gateway_slices *new_slices(void) {
    gateway *gw = flux_gateway(1);
    gateway_slices *slices = NULL;
    OK(gateway_slices_new(gw, &slices));
    OK(gateway_free(gw));
    return slices;
}

#define MAKER(type, ...)                          \
    static type *new_##type(void) {               \
        type *made = NULL;                        \
        OK(type##_new(__VA_ARGS__));              \
        return made;                              \
    }
static const gateway_rate a_rate = {GATEWAY_SECOND, 1, 1};
static const gateway_window_limit a_limit = {GATEWAY_SECOND, 1, 0};
"""

MAKERS = """
#define new_watch new_gateway_watch
#define new_limiter new_gateway_limiter
#define new_keyed_limiter new_gateway_keyed_limiter
#define new_breaker new_gateway_breaker
#define new_queue new_gateway_queue
#define new_store new_gateway_store
#define new_billing new_gateway_billing
#define new_histogram new_gateway_histogram
#define new_backoff new_gateway_backoff
#define new_window new_gateway_window
MAKER(gateway_watch, id_of(1), &made)
MAKER(gateway_limiter, &a_rate, START, &made)
MAKER(gateway_keyed_limiter, NULL, START, &made)
MAKER(gateway_breaker, NULL, START, &made)
MAKER(gateway_queue, NULL, &made)
MAKER(gateway_store, NULL, START, &made)
MAKER(gateway_billing, NULL, 1, "USD", NULL, 0, &made)
MAKER(gateway_histogram, 6, &made)
MAKER(gateway_backoff, NULL, &made)
MAKER(gateway_window, &a_limit, START, &made)
"""


def functions(header):
    """Each function: its result, its name, its parameters as (type, name), and its documentation."""
    text = open(header, encoding="utf-8").read()
    pattern = r"/\*\*((?:(?!\*/).)*)\*/\n([a-z][^;{}#]*?)\b(gateway_\w+)\(([^;{}]*)\);"
    for doc, result, name, parameters in re.findall(pattern, text, re.S):
        if "typedef" in result:
            continue
        listed = [] if parameters.strip() == "void" else [" ".join(p.split()) for p in parameters.split(",")]
        split = [re.match(r"(.*?[ *])(\w+)$", parameter).groups() for parameter in listed]
        yield result.strip(), name, [(kind.strip(), own) for kind, own in split], " ".join(doc.replace("*", "").split())


def handle_of(kind):
    """The kind of handle a parameter is, or None. A place for a handle is none."""
    found = re.fullmatch(r"(?:const )?(\w+) \*", kind)
    return found.group(1) if found and found.group(1) in HANDLES else None


def right(function, kind, name):
    """An argument that is right, as far as it can be without a story."""
    if handle_of(kind):
        return name
    if function.startswith("gateway_job_id_parse") and name == "given":
        return '"j_00000000000000000000000001"'
    if name == "config" and kind == "const char *":
        return '"{}"'
    if function == "gateway_put_backend" and name == "options":
        return "&right_options"
    if function == "gateway_force_breaker" and name == "until":
        return "GATEWAY_FOREVER"
    if kind in ("const gateway_call *", "const gateway_output *", "const gateway_batch *", "const gateway_rate *",
                "const gateway_window_limit *"):
        return "&" + name
    if kind == "gateway_tx *":
        return "NULL"
    if name in RIGHT:
        return RIGHT[name]
    if kind == "const char *":
        return '"acme"'
    if kind in ("gateway_job_id", "gateway_ticket"):
        return "id_of(1)" if kind == "gateway_job_id" else "ticket"
    if kind == "const void *":
        return "buffer"
    if kind.startswith("const gateway_") and kind.endswith("*"):
        return "NULL"
    if kind.endswith("*"):
        return f"({kind})buffer"
    return "0"


def call(function, parameters, change=None):
    """The call with one argument changed."""
    arguments = [right(function, kind, name) for kind, name in parameters]
    if change:
        arguments[change[0]] = change[1]
    return f"{function}({', '.join(arguments)})"


RIGHT_ARGUMENTS = """    gateway_call call = {"r", "acme", "m", NULL};
    gateway_output output = GATEWAY_OUTPUT_URL("u");
    gateway_batch batch = {1, 1, 1};
    gateway_rate rate = a_rate;
    gateway_window_limit limit = a_limit;
    gateway_ticket ticket = {0, 0};
    gateway_backend_options right_options = backend_options();
    (void)call, (void)output, (void)batch, (void)rate, (void)limit, (void)ticket, (void)right_options;"""


def handles_of(parameters):
    """Where a function takes a handle: the place, its kind, its name."""
    return [(at, handle_of(kind), own) for at, (kind, own) in enumerate(parameters) if handle_of(kind)]


def other_kinds(out, name, parameters):
    """The function that hands a function a live handle of every other kind, in the place of each of its own. `tx` is the
    transaction it is called in, or NULL."""
    out.append(f"static void other_kinds_{name}(gateway_tx *tx) {{")
    out.append(RIGHT_ARGUMENTS)
    for _, kind, own in handles_of(parameters):
        out.append(f"    {kind} *{own} = live_{kind};\n    (void){own};")
    places = [(at, kind) for at, kind, _ in handles_of(parameters)]
    if name.startswith("gateway_tx_"):
        places = [(0, None)]
    for at, kind in places:
        cast = f"({parameters[at][0]})"
        for other in HANDLES:
            if other != kind:
                made = call(name, parameters, (at, f"{cast}live_{other}"))
                out.append(f"    STATUS({made}, GATEWAY_INVALID_HANDLE);")
        if kind:
            out.append(f"    if (tx != NULL) STATUS({call(name, parameters, (at, cast + 'tx'))}, GATEWAY_INVALID_HANDLE);")
    out.append("    (void)tx;\n}\n")


def inherited(out, name, parameters):
    """The function that calls a function in a child with what is its parent's."""
    out.append(f"static void inherited_{name}(gateway_tx *tx) {{")
    out.append(RIGHT_ARGUMENTS)
    for _, kind, own in handles_of(parameters):
        out.append(f"    {kind} *{own} = live_{kind};\n    (void){own};")
    if name.startswith("gateway_tx_"):
        out.append(f"    if (tx != NULL) STATUS({call(name, parameters, (0, 'tx'))}, GATEWAY_FORKED);")
    else:
        out.append(f"    STATUS({call(name, parameters)}, GATEWAY_FORKED);")
    out.append("    (void)tx;\n}\n")


def all_of_them(out, tried):
    """What calls all of these functions: outside and inside of a transaction, and in children made in both places."""
    for what in ("other_kinds", "inherited"):
        out.append(f"static void all_{what}(gateway_tx *tx) {{")
        out.extend(f"    {what}_{name}(tx);" for name in tried)
        out.append("}\n")
    out.append("static void make_live(void) {")
    out.extend(f"    live_{kind} = {maker};" for kind, maker in HANDLES.items())
    out.append("}\nstatic void free_live(void) {")
    out.extend(f"    OK({kind}_free(live_{kind}));" for kind in HANDLES)
    out.append("}\n")
    out.append(IN_CHILDREN)


IN_CHILDREN = r"""
/* A call that hangs ends the program. */
static void in_a_child(gateway_tx *tx) {
    fflush(NULL);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(300);
        all_inherited(tx);
        NUMBER(gateway_handles_live(), 0);
        CHILD_IS_WELL();
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static gateway_status inside(gateway_tx *tx, void *context) {
    (void)context;
    all_other_kinds(tx);
    in_a_child(tx);
    return GATEWAY_OK;
}

static void other_kinds_and_inherited_ones(void) {
    const uint64_t before = gateway_handles_live();
    alarm(300);
    make_live();
    all_other_kinds(NULL);
    in_a_child(NULL);
    OK(gateway_transaction(live_gateway, START, inside, NULL));
    // Nothing of it has touched what was handed over.
    free_live();
    NUMBER(gateway_handles_live(), before);
    alarm(0);
}
"""


def misuse(out, name, parameters, doc):
    """The function that misuses a function."""
    handles = handles_of(parameters)
    frees = name.endswith("_free")
    inside = name.startswith("gateway_tx_")
    out.append(f"static void misuse_{name}(void) {{")
    out.append(RIGHT_ARGUMENTS)
    for _, kind, own in handles:
        out.append(f"    {kind} *{own} = {HANDLES[kind]};")
    for at, (kind, own) in enumerate(parameters):
        pointer = kind.endswith("*") or own == "body"
        if pointer and not frees and not inside:
            made = call(name, parameters, (at, "NULL"))
            said = rf"`\*?{own}`[^.;]{{0,60}}NULL|NULL[^.;]{{0,30}}`{own}`"
            may = re.search(said, doc) or own in ("needed", "buf", "context") or (name, own) in MAY_BE_NULL
            if name == "gateway_wake_from_signal":
                out.append(f"    STATUS({made}, GATEWAY_BAD_POINTER);")
                continue
            out.append(f"    {'any_of' if may else 'bad_pointer'}({made}, \"{own}\");")
        if kind == "const char *" and not inside and not own == "snapshot":
            made = call(name, parameters, (at, '"\\xff\\xfe"'))
            out.append(f"    STATUS({made}, GATEWAY_NOT_UTF8);")
    if inside:
        # There is no transaction to be inside of: NULL, made up, and a live handle of another kind.
        for given, want in (("NULL", "GATEWAY_BAD_POINTER"), ("(gateway_tx *)&call", "GATEWAY_INVALID_HANDLE")):
            out.append(f"    STATUS({call(name, parameters, (0, given))}, {want});")
    for at, kind, own in handles:
        other = "gateway_limiter" if kind != "gateway_limiter" else "gateway_breaker"
        cast = f"({parameters[at][0]})"
        out.append(f"    {other} *other_{own} = {HANDLES[other]};")
        for given in (f"{cast}other_{own}", f"{cast}&call", f"{cast}(uintptr_t)16", f"{cast}(uintptr_t)UINTPTR_MAX"):
            out.append(f"    STATUS({call(name, parameters, (at, given))}, GATEWAY_INVALID_HANDLE);")
        out.append(f"    OK({other}_free(other_{own}));")
        # A handle whose call panicked answers so until it is freed, and freeing it is fine.
        free = f"{kind}_free"
        out.append(f"    STATUS(gateway_testing_panic({own}), GATEWAY_PANIC);")
        if not frees:
            out.append(f"    STATUS({call(name, parameters)}, GATEWAY_POISONED);")
        out.append(f"    OK({free}({own}));")
        out.append(f"    STATUS({call(name, parameters)}, GATEWAY_INVALID_HANDLE);")
        out.append(f"    STATUS({free}({own}), GATEWAY_INVALID_HANDLE);")
        out.append(f"    OK({free}(NULL));")
        if len(handles) > 1:
            out.append(f"    {own} = {HANDLES[kind]};")
    if len(handles) > 1:
        out.extend(f"    OK({kind}_free({own}));" for _, kind, own in handles)
    out.append("}\n")


# What may be missing although the function's own documentation does not say it in so many words: it says "as" another
# function, or the list is empty.
MAY_BE_NULL = {
    ("gateway_submit", "job"),
    ("gateway_dispatch_route", "until"),
    ("gateway_progress", "deadline"),
    ("gateway_cancel_lease", "job"),
    ("gateway_cancel_lease", "usage"),
    ("gateway_cancel_with", "usage"),
    ("gateway_complete", "usage"),
    ("gateway_correct_usage", "usage"),
    ("gateway_fail", "usage"),
    ("gateway_accept_clock", "advanced"),
    ("gateway_wait_ended", "state"),
    ("gateway_put_prices", "prices"),
    ("gateway_preempt", "usage"),
    ("gateway_release_until", "usage"),
    ("gateway_release_with", "job"),
    ("gateway_release_with", "usage"),
    ("gateway_return_settlements", "count"),
    ("gateway_limiter_peek", "acquired"),
    ("gateway_keyed_limiter_peek", "acquired"),
    ("gateway_window_peek", "acquired"),
    ("gateway_store_fail", "failure"),
    ("gateway_store_outcome", "outcome"),
    ("gateway_billing_new", "prices"),
    ("gateway_billing_put_prices", "prices"),
    ("gateway_billing_end", "usage"),
}

ANSWERS = """
/* A pointer that has to be there. */
static void bad_pointer_(gateway_status got, const char *call, const char *name) {
    char field[64];
    check_status(name, 0, call, got, GATEWAY_BAD_POINTER);
    OK(gateway_last_error_field(field, sizeof field, NULL));
    CHECK(field[0] != 0);
}
#define bad_pointer(call, name) bad_pointer_((call), #call, (name))

/* One that may be missing: any answer will do that is not a crash, a panic or a word about handles. */
static void any_of_(gateway_status got, const char *call, const char *name) {
    if (got == GATEWAY_PANIC || got == GATEWAY_INVALID_HANDLE || got == GATEWAY_POISONED) check_status(name, 0, call, got, 0);
}
#define any_of(call, name) any_of_((call), #call, (name))
"""


def main():
    """Reads the header and writes the program."""
    out = [PRELUDE, MAKERS, ANSWERS]
    out.extend(f"static {kind} *live_{kind};" for kind in HANDLES)
    tried, with_handles = [], []
    for result, name, parameters, doc in functions(sys.argv[1]):
        if result != "gateway_status" or not parameters or name == "gateway_last_error_status":
            continue
        misuse(out, name, parameters, doc)
        tried.append(name)
        if handles_of(parameters) or name.startswith("gateway_tx_"):
            other_kinds(out, name, parameters)
            inherited(out, name, parameters)
            with_handles.append(name)
    all_of_them(out, with_handles)
    out.append("int main(void) {\n")
    out.extend(f"    misuse_{name}();" for name in tried)
    out.append("    other_kinds_and_inherited_ones();")
    out.append(f"    printf(\"%d functions misused\\n\", {len(tried)});")
    out.append("    gateway_last_error_clear();\n    return 0;\n}")
    with open(sys.argv[2], "w", encoding="utf-8") as program:
        program.write("\n".join(out) + "\n")


main()
