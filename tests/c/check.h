/* What a C test needs: claims that end the program with their place and words. */
#ifndef CHECK_H
#define CHECK_H

#include <gateway.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
/* Only the library with its feature `testing` has these: a call that panics while it holds a handle's lock, how many
   callers wait for a gateway, how often they looked, and how many more handles can be made. */
gateway_status gateway_testing_panic(const void *handle);
uint32_t gateway_testing_waiting(const gateway *gw);
uint64_t gateway_testing_attempts(const gateway *gw);
void gateway_testing_leave_room_for(uint32_t handles);
#ifdef __cplusplus
}
#endif

/* An instant to begin at; tests make their own time. */
#define START (1700000000ull * GATEWAY_SECOND)

static inline void check_fail(const char *file, int line, const char *what) {
    char message[1100];
    if (gateway_last_error_message(message, sizeof message, NULL) != GATEWAY_OK) message[0] = 0;
    fprintf(stderr, "%s:%d: %s\n  last error: %s\n", file, line, what, message);
    exit(1);
}

static inline void check_status(const char *file, int line, const char *what, gateway_status got, gateway_status want) {
    if (got == want) return;
    char text[600];
    snprintf(text, sizeof text, "%s is %d (%s), not %d (%s)", what, got, gateway_status_name(got), want,
             gateway_status_name(want));
    check_fail(file, line, text);
}

static inline void check_number(const char *file, int line, const char *what, unsigned long long got,
                                unsigned long long want) {
    if (got == want) return;
    char text[600];
    snprintf(text, sizeof text, "%s is %llu, not %llu", what, got, want);
    check_fail(file, line, text);
}

static inline void check_text(const char *file, int line, const char *what, const char *got, const char *want) {
    if (strcmp(got, want) == 0) return;
    fprintf(stderr, "%s is \"%s\", not \"%s\"\n", what, got, want);
    check_fail(file, line, what);
}

#define CHECK(claim) ((claim) ? (void)0 : check_fail(__FILE__, __LINE__, #claim))
#define STATUS(call, want) check_status(__FILE__, __LINE__, #call, (call), (want))
#define OK(call) STATUS(call, GATEWAY_OK)
#define NUMBER(got, want) check_number(__FILE__, __LINE__, #got, (unsigned long long)(got), (unsigned long long)(want))
#define TEXT(got, want) check_text(__FILE__, __LINE__, #got, (got), (want))

/* Ends a child that was forked and found all well. Another program takes its place, so that no tool looks for leaks among
   what is its parent's. */
#define CHILD_IS_WELL() (execl("/bin/sh", "sh", "-c", "exit 0", (char *)NULL), _exit(1))

/* An id that is easy to read: j_0000000000000000000000000n. */
static inline gateway_job_id id_of(uint64_t n) {
    gateway_job_id id;
    id.high = 0;
    id.low = n;
    return id;
}

static inline int same_id(gateway_job_id one, gateway_job_id other) {
    return one.high == other.high && one.low == other.low;
}

/* A backend "flux-1" for image/flux/dev with so many slots. */
static inline void put_flux(gateway *gw, uint64_t now, uint32_t slots) {
    static const char *const models[] = {"schnell", "dev"};
    gateway_backend_options flux = GATEWAY_BACKEND_OPTIONS_INIT;
    flux.modality = "image";
    flux.family = "flux";
    flux.models = models;
    flux.models_len = 2;
    flux.kind = GATEWAY_KIND_TORCH;
    flux.slots = slots;
    OK(gateway_put_backend(gw, now, "flux-1", &flux));
}

/* A gateway with all defaults and that backend. */
static inline gateway *flux_gateway(uint32_t slots) {
    gateway *gw = NULL;
    OK(gateway_new(NULL, START, &gw));
    put_flux(gw, START, slots);
    return gw;
}

static inline gateway_job_id submit(gateway *gw, uint64_t now, uint64_t n) {
    OK(gateway_submit(gw, now, id_of(n), "acme", "image/flux/dev/t2i", NULL, NULL));
    return id_of(n);
}

/* The next lease, read. */
static inline gateway_lease_info lease_next(gateway *gw, uint64_t now) {
    gateway_lease *lease = NULL;
    gateway_lease_info info;
    OK(gateway_dispatch(gw, now, &lease, NULL));
    OK(gateway_lease_read(lease, &info));
    OK(gateway_lease_free(lease));
    return info;
}

#endif
