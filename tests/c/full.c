/* Without room for another handle nothing is done that would be answered by one: the digest and the number of commands stay.
   Uses the library with its feature `testing`, which makes the table small. */
#include "check.h"

typedef struct {
    uint8_t digest[32];
    uint64_t commands, live, next_event, changes;
} state;

static state state_of(gateway *gw) {
    state own;
    memset(&own, 0, sizeof own);
    OK(gateway_digest(gw, own.digest));
    OK(gateway_commands(gw, &own.commands));
    OK(gateway_next_event(gw, &own.next_event));
    OK(gateway_changes(gw, &own.changes));
    own.live = gateway_handles_live();
    return own;
}

static void is_as_before(gateway *gw, const state *before) {
    const state now = state_of(gw);
    CHECK(memcmp(now.digest, before->digest, sizeof now.digest) == 0);
    NUMBER(now.commands, before->commands);
    NUMBER(now.live, before->live);
    NUMBER(now.next_event, before->next_event);
    NUMBER(now.changes, before->changes);
}

/* Refused, and nothing has changed. */
#define FULL(call) (STATUS(call, GATEWAY_TOO_MANY_HANDLES), is_as_before(gw, &before))

static gateway_bytes *no_bytes;
static gateway_lease *no_leases[100];

/* Four jobs wait, for more slots than that. */
static gateway *busy_gateway(void) {
    gateway *gw = flux_gateway(200);
    for (uint64_t n = 1; n <= 4; n++) submit(gw, START, n);
    submit(gw, START, 5);
    OK(gateway_cancel(gw, START, id_of(5)));
    return gw;
}

/* A lease was once given back, which counts as a requeue; settlements were out until `settle_within`; a reply was lost. */
static void a_command_that_is_answered_by_a_handle_is_not_done(void) {
    gateway *gw = busy_gateway();
    gateway_settlements *settlements = NULL;
    gateway_outcome outcome;
    size_t count = 77;
    uint64_t until = 77;
    const char *entry = "{\"at\":1700000001000000000,\"do\":\"advance\"}";
    gateway_testing_leave_room_for(0);
    const state before = state_of(gw);
    // An instant later, so that a command that is done is seen.
    const uint64_t now = START + GATEWAY_SECOND;
    FULL(gateway_dispatch(gw, now, &no_leases[0], &until));
    FULL(gateway_dispatch_route(gw, now, "image/flux/dev/t2i", &no_leases[0], &until));
    FULL(gateway_dispatch_to(gw, now, "flux-1", no_leases, 4, &count));
    FULL(gateway_dispatch_to(gw, now, "flux-1", no_leases, 100, &count));
    FULL(gateway_wait_dispatch(gw, GATEWAY_FOREVER, &no_leases[0]));
    FULL(gateway_wait_dispatch_to(gw, "flux-1", GATEWAY_FOREVER, no_leases, 4, &count));
    FULL(gateway_wait_outcome(gw, id_of(5), GATEWAY_FOREVER, &outcome, &no_bytes));
    FULL(gateway_take_settlements(gw, now, 10, &settlements));
    FULL(gateway_apply_json(gw, entry, strlen(entry), &no_bytes));
    FULL(gateway_snapshot(gw, &no_bytes));
    NUMBER(count, 77);
    NUMBER(until, 77);
    CHECK(no_leases[0] == NULL && no_bytes == NULL && settlements == NULL);
    // A handle that is freed is room for another.
    gateway_testing_leave_room_for(1);
    gateway_lease *lease = NULL;
    OK(gateway_dispatch(gw, now, &lease, NULL));
    STATUS(gateway_dispatch(gw, now, &no_leases[0], NULL), GATEWAY_TOO_MANY_HANDLES);
    OK(gateway_lease_free(lease));
    OK(gateway_dispatch(gw, now, &lease, NULL));
    OK(gateway_lease_free(lease));
    OK(gateway_free(gw));
}

/* As many places as there may be leases are needed, and not one more: a list may be longer than the backend has slots. */
static void a_batch_needs_room_for_all_its_leases(void) {
    gateway *gw = busy_gateway();
    size_t count = 0;
    gateway_testing_leave_room_for(3);
    const state before = state_of(gw);
    FULL(gateway_dispatch_to(gw, START, "flux-1", no_leases, 4, &count));
    OK(gateway_dispatch_to(gw, START, "flux-1", no_leases, 3, &count));
    NUMBER(count, 3);
    for (size_t i = 0; i < count; i++) OK(gateway_lease_free(no_leases[i]));
    OK(gateway_free(gw));

    gw = flux_gateway(2);
    for (uint64_t n = 1; n <= 4; n++) submit(gw, START, n);
    gateway_testing_leave_room_for(2);
    OK(gateway_dispatch_to(gw, START, "flux-1", no_leases, 100, &count));
    NUMBER(count, 2);
    for (size_t i = 0; i < count; i++) OK(gateway_lease_free(no_leases[i]));
    OK(gateway_free(gw));
}

/* --- In a transaction the other steps stand --- */

static gateway_status steps(gateway_tx *tx, void *context) {
    (void)context;
    size_t count = 77;
    gateway_lease *lease = NULL;
    STATUS(gateway_tx_dispatch(tx, &lease, NULL), GATEWAY_TOO_MANY_HANDLES);
    STATUS(gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &lease, NULL), GATEWAY_TOO_MANY_HANDLES);
    STATUS(gateway_tx_dispatch_to(tx, "flux-1", no_leases, 4, &count), GATEWAY_TOO_MANY_HANDLES);
    CHECK(lease == NULL);
    NUMBER(count, 77);
    return gateway_tx_cancel(tx, id_of(4));
}

static gateway_status only_cancel(gateway_tx *tx, void *context) {
    (void)context;
    return gateway_tx_cancel(tx, id_of(4));
}

static void a_step_that_finds_no_room_has_changed_nothing(void) {
    gateway *gw = busy_gateway(), *other = NULL;
    gateway_bytes *snapshot = NULL;
    static char bytes[65536];
    size_t len = 0;
    OK(gateway_snapshot(gw, &snapshot));
    OK(gateway_bytes_copy(snapshot, bytes, sizeof bytes, &len));
    OK(gateway_bytes_free(snapshot));
    OK(gateway_replica(bytes, len, &other));
    gateway_testing_leave_room_for(0);
    OK(gateway_transaction(gw, START, steps, NULL));
    OK(gateway_transaction(other, START, only_cancel, NULL));
    const state one = state_of(gw), two = state_of(other);
    CHECK(memcmp(one.digest, two.digest, sizeof one.digest) == 0);
    NUMBER(one.commands, two.commands);
    OK(gateway_free(gw));
    OK(gateway_free(other));
}

/* --- The rest --- */

static void a_slice_is_not_lost(void) {
    gateway *gw = busy_gateway();
    gateway_slices *slices = NULL;
    gateway_bytes *slice = NULL, *whole = NULL;
    size_t len = 0, all = 0, sum = 0;
    OK(gateway_snapshot(gw, &whole));
    OK(gateway_bytes_len(whole, &all));
    OK(gateway_bytes_free(whole));
    OK(gateway_slices_new(gw, &slices));
    for (;;) {
        gateway_testing_leave_room_for(0);
        STATUS(gateway_slices_next(slices, gw, &slice), GATEWAY_TOO_MANY_HANDLES);
        gateway_testing_leave_room_for(1);
        const gateway_status status = gateway_slices_next(slices, gw, &slice);
        if (status == GATEWAY_NONE) break;
        OK(status);
        OK(gateway_bytes_len(slice, &len));
        OK(gateway_bytes_free(slice));
        sum += len;
    }
    NUMBER(sum, all);
    OK(gateway_slices_free(slices));
    OK(gateway_free(gw));
}

static void nothing_is_made_without_room(void) {
    const gateway_rate rate = {GATEWAY_SECOND, 1, 1};
    gateway *gw = NULL;
    gateway_limiter *limiter = NULL;
    gateway_histogram *histogram = NULL;
    gateway_testing_leave_room_for(0);
    const uint64_t live = gateway_handles_live();
    STATUS(gateway_new(NULL, START, &gw), GATEWAY_TOO_MANY_HANDLES);
    STATUS(gateway_limiter_new(&rate, START, &limiter), GATEWAY_TOO_MANY_HANDLES);
    STATUS(gateway_histogram_new(3, &histogram), GATEWAY_TOO_MANY_HANDLES);
    CHECK(gw == NULL && limiter == NULL && histogram == NULL);
    NUMBER(gateway_handles_live(), live);
}

#define ROOM (gateway_testing_leave_room_for(4000))

int main(void) {
    a_command_that_is_answered_by_a_handle_is_not_done(), ROOM;
    a_batch_needs_room_for_all_its_leases(), ROOM;
    a_step_that_finds_no_room_has_changed_nothing(), ROOM;
    a_slice_is_not_lost(), ROOM;
    nothing_is_made_without_room(), ROOM;
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
