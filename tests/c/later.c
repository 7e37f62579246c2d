/* Jobs that run later: put off by whoever submits or works, or because somebody else needs their place. */
#include "check.h"

static gateway *priced_gateway(const gateway_config *config, uint32_t slots) {
    gateway *gw = NULL;
    gateway_price price = {"*", "*", 1000, GATEWAY_SECOND};
    OK(gateway_new(config, START, &gw));
    put_flux(gw, START, slots);
    OK(gateway_put_prices(gw, START, 1, "USD", &price, 1));
    return gw;
}

static gateway_job job_of(gateway *gw, uint64_t n) {
    gateway_job job;
    OK(gateway_read_job(gw, id_of(n), &job));
    return job;
}

static gateway_reason reason_of(gateway *gw, uint64_t n) {
    gateway_reason reason;
    OK(gateway_explain(gw, id_of(n), &reason));
    return reason;
}

static gateway_stats stats_of(gateway *gw) {
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    return stats;
}

/* The worker's checkpoint is still being copied. */
static void a_job_given_back_until_an_instant_runs_then_and_not_before(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, START, 1);
    gateway_lease_info first = lease_next(gw, START);
    const uint64_t ready = START + 10 * GATEWAY_SECOND;
    gateway_usage usage = {"GPU,1", GATEWAY_SECOND};
    gateway_job_id job;
    STATUS(gateway_release_until(gw, START, first.id, ready, &usage, 1, &job), GATEWAY_CHARACTER);
    usage.device = "GPU-1";
    OK(gateway_release_until(gw, START + GATEWAY_SECOND, first.id, ready, &usage, 1, &job));
    CHECK(same_id(job, id_of(1)));
    STATUS(gateway_release_until(gw, START + GATEWAY_SECOND, first.id, ready, NULL, 0, NULL), GATEWAY_SUPERSEDED);
    STATUS(gateway_release_until(gw, START + GATEWAY_SECOND, UINT64_MAX, ready, NULL, 0, NULL), GATEWAY_UNKNOWN_LEASE);

    NUMBER(reason_of(gw, 1).kind, GATEWAY_REASON_NOT_BEFORE);
    NUMBER(reason_of(gw, 1).until, ready);
    NUMBER(reason_of(gw, 1).count, 0);
    uint64_t deadline = 0, until = 0;
    OK(gateway_next_deadline(gw, &deadline));
    NUMBER(deadline, ready);
    gateway_lease *lease = NULL;
    STATUS(gateway_dispatch(gw, ready - 1, &lease, &until), GATEWAY_WAIT);
    NUMBER(until, ready);
    gateway_lease_info second = lease_next(gw, ready);
    NUMBER(second.attempt, 2);
    NUMBER(job_of(gw, 1).attempts, 0);
    NUMBER(job_of(gw, 1).requeues, 1);
    NUMBER(job_of(gw, 1).preemptions, 0);

    // An instant that has passed is now, and one that never comes is never.
    OK(gateway_release_until(gw, ready, second.id, START, NULL, 0, NULL));
    gateway_lease_info third = lease_next(gw, ready);
    NUMBER(third.attempt, 3);
    OK(gateway_release_until(gw, ready, third.id, GATEWAY_FOREVER, NULL, 0, NULL));
    STATUS(gateway_dispatch(gw, ready + GATEWAY_HOUR, &lease, &until), GATEWAY_WAIT);
    NUMBER(until, GATEWAY_FOREVER);
    NUMBER(stats_of(gw).released_total, 3);
    NUMBER(stats_of(gw).requeues_total, 3);
    NUMBER(stats_of(gw).retries_total, 0);
    OK(gateway_free(gw));
}

static void a_job_given_back_too_often_is_in_error(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.releases_max = 1;
    gateway *gw = priced_gateway(&config, 1);
    submit(gw, START, 1);
    OK(gateway_release_until(gw, START, lease_next(gw, START).id, 0, NULL, 0, NULL));
    NUMBER(job_of(gw, 1).state, GATEWAY_STATE_QUEUED);
    OK(gateway_release(gw, START, lease_next(gw, START).id, NULL));
    NUMBER(job_of(gw, 1).state, GATEWAY_STATE_ERROR);
    OK(gateway_free(gw));
}

static void a_delayed_submission_says_so_and_runs_at_its_instant(void) {
    gateway *gw = flux_gateway(1);
    const uint64_t begins = START + 5 * GATEWAY_SECOND;
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.not_before = begins;
    options.timeout_start = 2 * GATEWAY_SECOND;
    for (uint64_t n = 1; n <= 2; n++) {
        OK(gateway_submit(gw, START, id_of(n), "acme", "image/flux/dev/t2i", &options, NULL));
        NUMBER(reason_of(gw, n).kind, GATEWAY_REASON_NOT_BEFORE);
        NUMBER(reason_of(gw, n).until, begins);
        NUMBER(reason_of(gw, n).count, 0);
    }
    gateway_lease *lease = NULL;
    uint64_t until = 0;
    STATUS(gateway_dispatch(gw, begins - 1, &lease, &until), GATEWAY_WAIT);
    NUMBER(until, begins);
    gateway_lease_info info = lease_next(gw, begins);
    CHECK(same_id(info.job, id_of(1)));
    NUMBER(info.attempt, 1);

    // Its clocks count from then on, and an instant that has passed is now.
    OK(gateway_advance(gw, begins + 2 * GATEWAY_SECOND - 1, NULL));
    NUMBER(job_of(gw, 2).state, GATEWAY_STATE_QUEUED);
    OK(gateway_advance(gw, begins + 2 * GATEWAY_SECOND, NULL));
    NUMBER(job_of(gw, 2).state, GATEWAY_STATE_CANCELLED);
    OK(gateway_submit(gw, begins + 2 * GATEWAY_SECOND, id_of(3), "acme", "image/flux/dev/t2i", &options, NULL));
    NUMBER(reason_of(gw, 3).kind, GATEWAY_REASON_BACKENDS_BUSY);
    OK(gateway_free(gw));
}

static void a_preempted_job_waits_again_and_its_worker_is_refused(void) {
    gateway *gw = priced_gateway(NULL, 1);
    const uint64_t later = START + 2 * GATEWAY_SECOND;
    submit(gw, START, 1);
    submit(gw, START, 2);
    gateway_lease_info first = lease_next(gw, START);
    uint64_t ended = 7;
    STATUS(gateway_preempt(gw, START, id_of(9), NULL, 0, &ended), GATEWAY_UNKNOWN_JOB);
    STATUS(gateway_preempt(gw, START, id_of(2), NULL, 0, &ended), GATEWAY_NOT_ALLOWED);
    gateway_usage usage = {"GPU,1", 1500 * GATEWAY_MILLISECOND};
    STATUS(gateway_preempt(gw, START, id_of(1), &usage, 1, &ended), GATEWAY_CHARACTER);
    NUMBER(ended, 7);
    usage.device = "GPU-1";
    OK(gateway_preempt(gw, later, id_of(1), &usage, 1, &ended));
    NUMBER(ended, first.id);
    gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
    STATUS(gateway_complete(gw, later, first.id, &output, NULL, 0, NULL), GATEWAY_SUPERSEDED);

    // Before what its customer submitted later, with a new attempt that is nobody's fault.
    NUMBER(job_of(gw, 1).position, 0);
    NUMBER(job_of(gw, 1).preemptions, 1);
    NUMBER(job_of(gw, 1).requeues, 1);
    NUMBER(job_of(gw, 1).attempts, 0);
    NUMBER(stats_of(gw).preempted_total, 1);
    NUMBER(stats_of(gw).released_total, 0);
    gateway_lease_info second = lease_next(gw, later);
    CHECK(same_id(second.job, id_of(1)));
    NUMBER(second.attempt, 2);
    // The house pays for what was preempted.
    gateway_settled settled;
    usage.gpu_ns = GATEWAY_SECOND;
    OK(gateway_complete(gw, later + GATEWAY_SECOND, second.id, &output, &usage, 1, &settled));
    NUMBER(settled.usage, GATEWAY_SECOND);
    NUMBER(settled.charge, 1000);
    STATUS(gateway_preempt(gw, later + GATEWAY_SECOND, id_of(1), NULL, 0, NULL), GATEWAY_ENDED);
    OK(gateway_free(gw));
}

static void the_customer_pays_for_what_was_preempted_where_the_policy_says_so(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.billing_preempted = GATEWAY_PAYER_CUSTOMER;
    gateway *gw = priced_gateway(&config, 1);
    const uint64_t later = START + 2 * GATEWAY_SECOND;
    submit(gw, START, 1);
    lease_next(gw, START);
    gateway_usage usage = {"GPU-1", 1500 * GATEWAY_MILLISECOND};
    OK(gateway_preempt(gw, later, id_of(1), &usage, 1, NULL));
    gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
    gateway_settled settled;
    usage.gpu_ns = GATEWAY_SECOND;
    OK(gateway_complete(gw, later + GATEWAY_SECOND, lease_next(gw, later).id, &output, &usage, 1, &settled));
    NUMBER(settled.usage, 2500 * GATEWAY_MILLISECOND);
    NUMBER(settled.charge, 2500);
    OK(gateway_free(gw));
}

static void a_job_that_may_not_be_preempted_runs_on_until_its_backend_is_evicted(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.preemptions_max = 0;
    gateway *gw = priced_gateway(&config, 1);
    submit(gw, START, 1);
    gateway_lease_info info = lease_next(gw, START);
    uint64_t ended = 7;
    STATUS(gateway_preempt(gw, START, id_of(1), NULL, 0, &ended), GATEWAY_PREEMPTED_TOO_OFTEN);
    NUMBER(ended, 7);
    char name[32];
    OK(gateway_last_error_name(name, sizeof name, NULL));
    TEXT(name, "preempted_too_often");
    OK(gateway_heartbeat(gw, START, info.id, NULL));
    NUMBER(stats_of(gw).preempted_total, 0);
    gateway_evicted evicted[1];
    size_t count = 0;
    OK(gateway_evict_backend(gw, START, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, 1, &count));
    NUMBER(count, 1);
    NUMBER(job_of(gw, 1).state, GATEWAY_STATE_QUEUED);
    NUMBER(job_of(gw, 1).preemptions, 1);
    OK(gateway_free(gw));
}

static void a_list_that_is_too_short_changes_nothing(void) {
    gateway *gw = flux_gateway(4);
    uint64_t leases[3];
    for (uint64_t n = 1; n <= 3; n++) {
        submit(gw, START, n);
        leases[n - 1] = lease_next(gw, START + n).id;
    }
    uint8_t before[GATEWAY_DIGEST_LEN], after[GATEWAY_DIGEST_LEN];
    uint64_t commands = 0, commands_after = 0;
    OK(gateway_digest(gw, before));
    OK(gateway_commands(gw, &commands));
    gateway_evicted evicted[4];
    memset(evicted, 0x5a, sizeof evicted);
    for (size_t cap = 0; cap < 3; cap++) {
        size_t count = 99;
        STATUS(gateway_evict_backend(gw, START + 4, "flux-1", GATEWAY_EVICT_TO_QUEUE, cap == 0 ? NULL : evicted, cap, &count),
               GATEWAY_BUFFER_TOO_SMALL);
        NUMBER(count, 3);
    }
    char field[16];
    OK(gateway_last_error_field(field, sizeof field, NULL));
    TEXT(field, "evicted");
    OK(gateway_digest(gw, after));
    CHECK(memcmp(before, after, sizeof before) == 0);
    OK(gateway_commands(gw, &commands_after));
    NUMBER(commands_after, commands);
    const unsigned char *bytes = (const unsigned char *)evicted;
    for (size_t i = 0; i < sizeof evicted; i++) NUMBER(bytes[i], 0x5a);

    size_t count = 0;
    OK(gateway_evict_backend(gw, START + 4, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, 3, &count));
    NUMBER(count, 3);
    for (size_t i = 0; i < 3; i++) {
        NUMBER(evicted[i].lease, leases[i]);
        CHECK(same_id(evicted[i].job, id_of(i + 1)));
        NUMBER(job_of(gw, i + 1).state, GATEWAY_STATE_QUEUED);
        STATUS(gateway_heartbeat(gw, START + 4, leases[i], NULL), GATEWAY_SUPERSEDED);
    }
    for (size_t i = 3 * sizeof evicted[0]; i < sizeof evicted; i++) NUMBER(bytes[i], 0x5a);
    // Nothing is left, which fits anywhere; and the backend takes new leases.
    OK(gateway_evict_backend(gw, START + 4, "flux-1", GATEWAY_EVICT_TO_QUEUE, NULL, 0, &count));
    NUMBER(count, 0);
    NUMBER(lease_next(gw, START + 4).attempt, 2);
    NUMBER(stats_of(gw).preempted_total, 3);

    // A lease that ends by itself in the same call is not among them.
    count = 9;
    const uint64_t due = START + 4 + 300 * GATEWAY_SECOND;
    OK(gateway_evict_backend(gw, due, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, 1, &count));
    NUMBER(count, 0);
    NUMBER(stats_of(gw).lost_total, 1);
    STATUS(gateway_evict_backend(gw, due, "flux-9", GATEWAY_EVICT_TO_QUEUE, evicted, 4, &count), GATEWAY_UNKNOWN_BACKEND);
    STATUS(gateway_evict_backend(gw, due, "", GATEWAY_EVICT_TO_QUEUE, evicted, 4, &count), GATEWAY_EMPTY);
    STATUS(gateway_evict_backend(gw, due, "flux-1", GATEWAY_EVICT_TO_QUEUE, NULL, 1, &count), GATEWAY_BAD_POINTER);
    NUMBER(count, 0);
    OK(gateway_free(gw));
}

static void a_backend_that_was_evicted_is_forgotten_as_soon_as_it_is_removed(void) {
    gateway *gw = flux_gateway(2);
    submit(gw, START, 1);
    submit(gw, START, 2);
    lease_next(gw, START);
    lease_next(gw, START);
    OK(gateway_drain_backend(gw, START, "flux-1", 1));
    gateway_backend backend;
    OK(gateway_read_backend(gw, "flux-1", &backend));
    NUMBER(backend.live, 2);
    gateway_evicted evicted[2];
    size_t count = 0;
    OK(gateway_evict_backend(gw, START, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, backend.live, &count));
    NUMBER(count, 2);
    OK(gateway_read_backend(gw, "flux-1", &backend));
    NUMBER(backend.live, 0);
    NUMBER(reason_of(gw, 1).kind, GATEWAY_REASON_BACKENDS_BUSY);
    NUMBER(stats_of(gw).backends, 1);
    OK(gateway_remove_backend(gw, START, "flux-1"));
    NUMBER(stats_of(gw).backends, 0);
    NUMBER(reason_of(gw, 1).kind, GATEWAY_REASON_NO_BACKEND);
    STATUS(gateway_evict_backend(gw, START, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, 2, &count), GATEWAY_UNKNOWN_BACKEND);
    OK(gateway_free(gw));
}

static void evicted_jobs_end_in_error_where_that_is_asked(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, START, 1);
    lease_next(gw, START);
    gateway_evicted evicted[1];
    size_t count = 0;
    OK(gateway_evict_backend(gw, START, "flux-1", GATEWAY_EVICT_TO_ERROR, evicted, 1, &count));
    NUMBER(count, 1);
    gateway_outcome outcome;
    char words[64] = {0};
    OK(gateway_job_outcome(gw, id_of(1), &outcome, words, sizeof words, NULL));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_FAILURE);
    NUMBER(outcome.failure_class, GATEWAY_FAILURE_LOST);
    NUMBER(outcome.retriable, 1);
    TEXT(words, "its backend was taken away");
    OK(gateway_free(gw));
}

int main(void) {
    a_job_given_back_until_an_instant_runs_then_and_not_before();
    a_job_given_back_too_often_is_in_error();
    a_delayed_submission_says_so_and_runs_at_its_instant();
    a_preempted_job_waits_again_and_its_worker_is_refused();
    the_customer_pays_for_what_was_preempted_where_the_policy_says_so();
    a_job_that_may_not_be_preempted_runs_on_until_its_backend_is_evicted();
    a_list_that_is_too_short_changes_nothing();
    a_backend_that_was_evicted_is_forgotten_as_soon_as_it_is_removed();
    evicted_jobs_end_in_error_where_that_is_asked();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
