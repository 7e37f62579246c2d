/* Several steps as one: they happen together or not at all, and nothing can be left open. */
#include "check.h"

static gateway *other_gateway;
static gateway *own_gateway;
static gateway_tx *kept;

static void digest_of(gateway *gw, uint8_t digest[GATEWAY_DIGEST_LEN]) { OK(gateway_digest(gw, digest)); }

typedef struct {
    gateway_lease *leases[2];
    gateway_status end;
} pair;

static gateway_status both(gateway_tx *tx, void *context) {
    pair *own = (pair *)context;
    gateway_status status = gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &own->leases[0], NULL);
    if (status != GATEWAY_OK) return status;
    status = gateway_tx_dispatch_route(tx, "image/flux/schnell/t2i", &own->leases[1], NULL);
    return status != GATEWAY_OK ? status : own->end;
}

static void drop(pair *own) {
    for (int i = 0; i < 2; i++) {
        OK(gateway_lease_free(own->leases[i]));
        own->leases[i] = NULL;
    }
}

static void both_steps_happen_or_neither(void) {
    gateway *gw = flux_gateway(4);
    submit(gw, START, 1);
    OK(gateway_advance(gw, START, NULL));
    uint8_t before[GATEWAY_DIGEST_LEN], after[GATEWAY_DIGEST_LEN];
    digest_of(gw, before);
    pair own = {{NULL, NULL}, GATEWAY_OK};
    STATUS(gateway_transaction(gw, START, both, &own), GATEWAY_WAIT);
    digest_of(gw, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    CHECK(own.leases[0] != NULL && own.leases[1] == NULL);
    // A lease of a transaction that did not happen is none.
    gateway_lease_info info;
    OK(gateway_lease_read(own.leases[0], &info));
    STATUS(gateway_heartbeat(gw, START, info.id, NULL), GATEWAY_UNKNOWN_LEASE);
    drop(&own);

    OK(gateway_submit(gw, START, id_of(2), "acme", "image/flux/schnell/t2i", NULL, NULL));
    digest_of(gw, before);
    own.end = 4711;
    STATUS(gateway_transaction(gw, START, both, &own), 4711);
    digest_of(gw, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    drop(&own);
    own.end = GATEWAY_OK;
    OK(gateway_transaction(gw, START, both, &own));
    drop(&own);
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    NUMBER(stats.running, 2);
    OK(gateway_free(gw));
}

/* Every step there is, with what it answers. */
static gateway_status all_steps(gateway_tx *tx, void *context) {
    (void)context;
    uint64_t now = 0, until = 0;
    OK(gateway_tx_now(tx, &now));
    NUMBER(now, START + 5);
    gateway_job_id job;
    for (uint64_t n = 1; n <= 4; n++) {
        OK(gateway_tx_submit(tx, id_of(n), "acme", "image/flux/dev/t2i", NULL, &job));
        CHECK(same_id(job, id_of(n)));
    }
    STATUS(gateway_tx_submit(tx, id_of(1), "acme", "image/flux/dev/t2i", NULL, NULL), GATEWAY_DUPLICATE_JOB);
    gateway_lease *lease = NULL, *more[8];
    gateway_lease_info info;
    OK(gateway_tx_dispatch(tx, &lease, &until));
    OK(gateway_lease_read(lease, &info));
    OK(gateway_lease_free(lease));
    OK(gateway_tx_heartbeat(tx, info.id, &until));
    OK(gateway_tx_progress(tx, info.id, 5, &until));
    gateway_output output = GATEWAY_OUTPUT_DATA("png", 3);
    gateway_settled settled;
    OK(gateway_tx_complete(tx, info.id, &output, NULL, 0, &settled));
    STATUS(gateway_tx_complete(tx, info.id, &output, NULL, 0, NULL), GATEWAY_SUPERSEDED);
    size_t count = 0;
    OK(gateway_tx_dispatch_to(tx, "flux-1", more, 8, &count));
    NUMBER(count, 3);
    gateway_lease_info infos[3];
    for (int i = 0; i < 3; i++) {
        OK(gateway_lease_read(more[i], &infos[i]));
        OK(gateway_lease_free(more[i]));
    }
    STATUS(gateway_tx_dispatch_to(tx, "flux-1", more, 8, &count), GATEWAY_WAIT);
    STATUS(gateway_tx_dispatch(tx, &lease, &until), GATEWAY_WAIT);
    gateway_after_failure after;
    OK(gateway_tx_fail(tx, infos[0].id, NULL, NULL, 0, &after));
    NUMBER(after.retried, 0);
    OK(gateway_tx_release(tx, infos[1].id, &job));
    CHECK(same_id(job, infos[1].job));
    OK(gateway_tx_cancel(tx, infos[2].job));
    STATUS(gateway_tx_cancel(tx, infos[2].job), GATEWAY_ENDED);
    OK(gateway_tx_delete(tx, infos[2].job));
    return GATEWAY_OK;
}

static void every_step_is_there(void) {
    gateway *gw = flux_gateway(8);
    OK(gateway_transaction(gw, START + 5, all_steps, NULL));
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    NUMBER(stats.complete, 1);
    NUMBER(stats.error, 1);
    NUMBER(stats.queued, 1);
    NUMBER(stats.cancelled, 0);
    OK(gateway_free(gw));
}

/* --- Room for another one --- */

typedef struct {
    gateway_job_id batch;
    uint64_t ended;
    gateway_lease *urgent;
} room;

static gateway_status make_room(gateway_tx *tx, void *context) {
    room *own = (room *)context;
    gateway_status status = gateway_tx_preempt(tx, own->batch, NULL, 0, &own->ended);
    if (status != GATEWAY_OK) return status;
    return gateway_tx_dispatch_route(tx, "image/flux/schnell/t2i", &own->urgent, NULL);
}

static void an_urgent_job_gets_the_slot_of_a_preempted_one_or_nothing_happens(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, START, 1);
    gateway_lease_info batch = lease_next(gw, START);
    // Nobody is there for whom it would make room.
    uint8_t before[GATEWAY_DIGEST_LEN], after[GATEWAY_DIGEST_LEN];
    digest_of(gw, before);
    room own = {id_of(1), 0, NULL};
    STATUS(gateway_transaction(gw, START, make_room, &own), GATEWAY_WAIT);
    digest_of(gw, after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    OK(gateway_heartbeat(gw, START, batch.id, NULL));

    OK(gateway_submit(gw, START, id_of(2), "acme", "image/flux/schnell/t2i", NULL, NULL));
    OK(gateway_transaction(gw, START, make_room, &own));
    NUMBER(own.ended, batch.id);
    gateway_lease_info urgent;
    OK(gateway_lease_read(own.urgent, &urgent));
    CHECK(same_id(urgent.job, id_of(2)));
    OK(gateway_lease_free(own.urgent));
    STATUS(gateway_heartbeat(gw, START, batch.id, NULL), GATEWAY_SUPERSEDED);
    gateway_job job;
    OK(gateway_read_job(gw, id_of(1), &job));
    NUMBER(job.state, GATEWAY_STATE_QUEUED);
    NUMBER(job.preemptions, 1);
    NUMBER(job.attempts, 0);
    STATUS(gateway_transaction(gw, START, make_room, &own), GATEWAY_NOT_ALLOWED);
    OK(gateway_free(gw));
}

static gateway_status put_off(gateway_tx *tx, void *context) {
    const uint64_t lease = *(uint64_t *)context;
    gateway_usage usage = {"GPU-1", GATEWAY_SECOND};
    gateway_job_id job;
    STATUS(gateway_tx_release_until(tx, lease, START + 1, NULL, 1, NULL), GATEWAY_BAD_POINTER);
    OK(gateway_tx_release_until(tx, lease, START + 10 * GATEWAY_SECOND, &usage, 1, &job));
    CHECK(same_id(job, id_of(1)));
    STATUS(gateway_tx_release_until(tx, lease, START + 1, NULL, 0, NULL), GATEWAY_SUPERSEDED);
    STATUS(gateway_tx_preempt(tx, id_of(1), NULL, 0, NULL), GATEWAY_NOT_ALLOWED);
    STATUS(gateway_tx_preempt(tx, id_of(9), NULL, 0, NULL), GATEWAY_UNKNOWN_JOB);
    return GATEWAY_OK;
}

static void a_job_is_put_off_within_a_transaction(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, START, 1);
    uint64_t lease = lease_next(gw, START).id;
    OK(gateway_transaction(gw, START + 2 * GATEWAY_SECOND, put_off, &lease));
    uint64_t deadline = 0;
    OK(gateway_next_deadline(gw, &deadline));
    NUMBER(deadline, START + 10 * GATEWAY_SECOND);
    NUMBER(lease_next(gw, deadline).attempt, 2);
    OK(gateway_free(gw));
}

static gateway_status second(gateway_tx *tx, void *context) {
    STATUS(gateway_tx_now((gateway_tx *)context, NULL), GATEWAY_BAD_POINTER);
    uint64_t now;
    STATUS(gateway_tx_now((gateway_tx *)context, &now), GATEWAY_REENTERED);
    OK(gateway_tx_submit(tx, id_of(20), "acme", "image/flux/dev/t2i", NULL, NULL));
    kept = tx;
    return GATEWAY_WAIT;
}

static gateway_status third(gateway_tx *tx, void *context) {
    (void)context;
    return gateway_tx_submit(tx, id_of(30), "acme", "image/flux/dev/t2i", NULL, NULL);
}

static gateway_status alternatives(gateway_tx *tx, void *context) {
    (void)context;
    OK(gateway_tx_submit(tx, id_of(10), "acme", "image/flux/dev/t2i", NULL, NULL));
    STATUS(gateway_tx_attempt(tx, second, tx), GATEWAY_WAIT);
    uint64_t now;
    STATUS(gateway_tx_now(kept, &now), GATEWAY_INVALID_HANDLE);
    return gateway_tx_attempt(tx, third, NULL);
}

static void an_attempt_that_fails_takes_only_itself_back(void) {
    gateway *gw = flux_gateway(8);
    OK(gateway_transaction(gw, START, alternatives, NULL));
    uint32_t position;
    OK(gateway_position(gw, id_of(10), &position));
    STATUS(gateway_position(gw, id_of(20), &position), GATEWAY_NONE);
    OK(gateway_position(gw, id_of(30), &position));
    OK(gateway_free(gw));
}

static gateway_status call_the_gateway(gateway_tx *tx, void *context) {
    (void)context;
    kept = tx;
    gateway *const both[] = {own_gateway, other_gateway};
    for (int i = 0; i < 2; i++) {
        gateway *gw = both[i];
        uint64_t number;
        gateway_lease *lease;
        gateway_watch *watch = NULL;
        gateway_watch_event event;
        STATUS(gateway_cancel(gw, START, id_of(1)), GATEWAY_REENTERED);
        STATUS(gateway_changes(gw, &number), GATEWAY_REENTERED);
        STATUS(gateway_wait_dispatch(gw, GATEWAY_FOREVER, &lease), GATEWAY_REENTERED);
        STATUS(gateway_transaction(gw, START, call_the_gateway, NULL), GATEWAY_REENTERED);
        STATUS(gateway_free(gw), GATEWAY_REENTERED);
        STATUS(gateway_wake(gw), GATEWAY_REENTERED);
        OK(gateway_watch_new(id_of(1), &watch));
        STATUS(gateway_watch_poll(watch, gw, &event), GATEWAY_REENTERED);
        OK(gateway_watch_free(watch));
    }
    // What stands alone may be used, and another gateway made.
    gateway_rate rate = {GATEWAY_SECOND, 1, 1};
    gateway_limiter *limiter = NULL;
    OK(gateway_limiter_new(&rate, START, &limiter));
    OK(gateway_limiter_try_acquire(limiter, 1, START, NULL));
    STATUS(gateway_limiter_try_acquire(limiter, 1, START, NULL), GATEWAY_DENIED);
    OK(gateway_limiter_free(limiter));
    return GATEWAY_OK;
}

static void no_gateway_can_be_called_from_inside_and_no_tx_outlives_its_call(void) {
    own_gateway = flux_gateway(1);
    other_gateway = flux_gateway(1);
    OK(gateway_transaction(own_gateway, START, call_the_gateway, NULL));
    uint64_t now;
    STATUS(gateway_tx_now(kept, &now), GATEWAY_INVALID_HANDLE);
    STATUS(gateway_tx_cancel(kept, id_of(1)), GATEWAY_INVALID_HANDLE);
    STATUS(gateway_tx_now(NULL, &now), GATEWAY_BAD_POINTER);
    STATUS(gateway_tx_now((gateway_tx *)&now, &now), GATEWAY_INVALID_HANDLE);
    STATUS(gateway_tx_now((gateway_tx *)own_gateway, &now), GATEWAY_INVALID_HANDLE);
    STATUS(gateway_transaction(own_gateway, START, NULL, NULL), GATEWAY_BAD_POINTER);
    // And afterwards everything is as usual.
    submit(own_gateway, START, 1);
    OK(gateway_free(own_gateway));
    OK(gateway_free(other_gateway));
}

int main(void) {
    both_steps_happen_or_neither();
    every_step_is_there();
    an_urgent_job_gets_the_slot_of_a_preempted_one_or_nothing_happens();
    a_job_is_put_off_within_a_transaction();
    an_attempt_that_fails_takes_only_itself_back();
    no_gateway_can_be_called_from_inside_and_no_tx_outlives_its_call();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
