/* The life of jobs through the C interface, and what every function tells of it. */
#include "check.h"

static void a_job_runs_and_is_settled(void) {
    gateway *gw = flux_gateway(2);
    gateway_price prices[] = {{"*", "*", 1200, 0}, {"flux/dev", "standard", 3600000, GATEWAY_HOUR}};
    OK(gateway_put_prices(gw, START, 1, "USD", prices, 2));
    STATUS(gateway_put_prices(gw, START, 1, "USD", prices, 2), GATEWAY_OUT_OF_RANGE);

    const char payload[] = {'a', 0, 'b', (char)0xff};
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.payload = payload;
    options.payload_len = sizeof payload;
    options.idempotency_key = "order-1";
    options.affinity = "lora-7";
    options.priority = GATEWAY_PRIORITY_HIGH;
    gateway_job_id job;
    OK(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, &job));
    CHECK(same_id(job, id_of(1)));
    OK(gateway_submit(gw, START, id_of(2), "acme", "image/flux/dev/t2i", &options, &job));
    CHECK(same_id(job, id_of(1)));
    options.payload_len = 1;
    STATUS(gateway_submit(gw, START, id_of(2), "acme", "image/flux/dev/t2i", &options, &job),
           GATEWAY_IDEMPOTENCY_CONFLICT);
    OK(gateway_job_by_key(gw, "acme", "order-1", &job));
    CHECK(same_id(job, id_of(1)));
    STATUS(gateway_job_by_key(gw, "acme", "order-2", &job), GATEWAY_NONE);

    uint32_t position = 9;
    OK(gateway_position(gw, id_of(1), &position));
    NUMBER(position, 0);
    gateway_reason reason;
    OK(gateway_explain(gw, id_of(1), &reason));
    NUMBER(reason.kind, GATEWAY_REASON_NEXT);

    gateway_lease *lease = NULL;
    uint64_t until = 7;
    OK(gateway_dispatch(gw, START, &lease, &until));
    NUMBER(until, 7);
    gateway_lease_info info;
    OK(gateway_lease_read(lease, &info));
    uint64_t epoch = 0;
    OK(gateway_epoch(gw, &epoch));
    NUMBER(info.id, epoch + 1);
    NUMBER(info.deadline, START + 300 * GATEWAY_SECOND);
    NUMBER(info.task, GATEWAY_TASK_T2I);
    NUMBER(info.attempt, 1);
    TEXT(info.customer, "acme");
    TEXT(info.backend, "flux-1");
    TEXT(info.route, "image/flux/dev");
    NUMBER(info.payload_len, sizeof payload);
    char copy[8] = "zzzzzzz";
    size_t needed = 0;
    OK(gateway_lease_payload(lease, NULL, 0, &needed));
    NUMBER(needed, sizeof payload);
    needed = 0;
    STATUS(gateway_lease_payload(lease, copy, 3, &needed), GATEWAY_BUFFER_TOO_SMALL);
    NUMBER(needed, sizeof payload);
    TEXT(copy, "zzzzzzz");
    OK(gateway_lease_payload(lease, copy, 4, NULL));
    CHECK(memcmp(copy, payload, sizeof payload) == 0 && copy[4] == 'z');
    OK(gateway_lease_free(lease));

    STATUS(gateway_dispatch(gw, START, &lease, &until), GATEWAY_WAIT);
    NUMBER(until, info.deadline);
    OK(gateway_heartbeat(gw, START + GATEWAY_SECOND, info.id, &until));
    NUMBER(until, START + 301 * GATEWAY_SECOND);
    OK(gateway_progress(gw, START + GATEWAY_SECOND, info.id, 400000, NULL));
    STATUS(gateway_progress(gw, START + GATEWAY_SECOND, info.id, 1000001, NULL), GATEWAY_OUT_OF_RANGE);
    gateway_job view;
    OK(gateway_read_job(gw, id_of(1), &view));
    NUMBER(view.state, GATEWAY_STATE_RUNNING);
    NUMBER(view.progress_ppm, 400000);
    NUMBER(view.position, UINT32_MAX);
    NUMBER(view.lease, info.id);
    NUMBER(view.priority, GATEWAY_PRIORITY_HIGH);
    TEXT(view.backend, "flux-1");

    STATUS(gateway_job_outcome(gw, id_of(1), NULL, NULL, 0, NULL), GATEWAY_WAIT);
    gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
    gateway_usage usage[] = {{"GPU-8f2c", 1700 * GATEWAY_MILLISECOND}, {"GPU-8f2c", 1}};
    STATUS(gateway_complete(gw, START + 2 * GATEWAY_SECOND, info.id, &output, usage, 2, NULL), GATEWAY_REPEATED);
    gateway_settled settled;
    OK(gateway_complete(gw, START + 2 * GATEWAY_SECOND, info.id, &output, usage, 1, &settled));
    CHECK(same_id(settled.job, id_of(1)));
    NUMBER(settled.usage, 1700 * GATEWAY_MILLISECOND);
    NUMBER(settled.charge, 1700);
    STATUS(gateway_complete(gw, START + 2 * GATEWAY_SECOND, info.id, &output, NULL, 0, &settled), GATEWAY_SUPERSEDED);
    STATUS(gateway_heartbeat(gw, START, UINT64_MAX, NULL), GATEWAY_UNKNOWN_LEASE);

    gateway_outcome outcome;
    char url[64];
    OK(gateway_job_outcome(gw, id_of(1), &outcome, url, sizeof url, &needed));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_URL);
    NUMBER(needed, 26);
    CHECK(memcmp(url, "https://cdn.example/1.webp", 26) == 0);

    gateway_settlements *taken = NULL;
    OK(gateway_take_settlements(gw, START + 2 * GATEWAY_SECOND, 10, &taken));
    gateway_batch batch;
    OK(gateway_settlements_batch(taken, &batch));
    NUMBER(batch.len, 1);
    gateway_settlement settlement;
    OK(gateway_settlements_read(taken, 0, &settlement));
    STATUS(gateway_settlements_read(taken, 1, &settlement), GATEWAY_NONE);
    NUMBER(settlement.charge, 1700);
    NUMBER(settlement.price, 3600000);
    NUMBER(settlement.price_per, GATEWAY_HOUR);
    NUMBER(settlement.corrects, 0);
    NUMBER(settlement.capped, 0);
    NUMBER(settlement.priced, 1);
    NUMBER(settlement.measured, 1);
    NUMBER(settlement.devices, 1);
    TEXT(settlement.tier, "standard");
    uint64_t gpu_ns = 0;
    char device[16];
    OK(gateway_settlements_device(taken, 0, 0, &gpu_ns, device, sizeof device, NULL));
    TEXT(device, "GPU-8f2c");
    NUMBER(gpu_ns, 1700 * GATEWAY_MILLISECOND);
    STATUS(gateway_settlements_device(taken, 0, 1, &gpu_ns, device, sizeof device, NULL), GATEWAY_NONE);
    char json[2048];
    OK(gateway_settlements_json(taken, json, sizeof json, NULL));
    CHECK(strstr(json, "\"charge\":1700") != NULL);
    uint32_t count = 0;
    OK(gateway_return_settlements(gw, START + 3 * GATEWAY_SECOND, &batch, &count));
    NUMBER(count, 1);
    STATUS(gateway_confirm_settlements(gw, START + 3 * GATEWAY_SECOND, &batch, &count), GATEWAY_BATCH_SUPERSEDED);
    OK(gateway_settlements_free(taken));
    OK(gateway_take_settlements(gw, START + 3 * GATEWAY_SECOND, 10, &taken));
    OK(gateway_settlements_batch(taken, &batch));
    OK(gateway_confirm_settlements(gw, START + 3 * GATEWAY_SECOND, &batch, &count));
    NUMBER(count, 1);
    OK(gateway_settlements_free(taken));
    STATUS(gateway_take_settlements(gw, START + 3 * GATEWAY_SECOND, 10, &taken), GATEWAY_NONE);

    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    NUMBER(stats.complete, 1);
    NUMBER(stats.charged_micros, 1700);
    NUMBER(stats.completed_total, 1);
    NUMBER(stats.backends, 1);
    OK(gateway_delete(gw, START + 3 * GATEWAY_SECOND, id_of(1)));
    STATUS(gateway_delete(gw, START + 3 * GATEWAY_SECOND, id_of(1)), GATEWAY_UNKNOWN_JOB);
    STATUS(gateway_read_job(gw, id_of(1), &view), GATEWAY_NONE);
    STATUS(gateway_job_outcome(gw, id_of(1), &outcome, NULL, 0, NULL), GATEWAY_NONE);
    STATUS(gateway_job_json(gw, id_of(1), NULL, 0, NULL), GATEWAY_NONE);
    OK(gateway_free(gw));
}

static void failures_are_retried_or_end_the_job(void) {
    gateway *gw = flux_gateway(4);
    uint64_t now = START;
    submit(gw, now, 1);
    submit(gw, now, 2);
    gateway_lease_info one = lease_next(gw, now), two = lease_next(gw, now);
    gateway_failure failure = GATEWAY_FAILURE_INIT;
    failure.failure_class = GATEWAY_FAILURE_HTTP;
    failure.http_status = 503;
    failure.message = "model is loading";
    failure.retry_after = 5 * GATEWAY_SECOND;
    gateway_after_failure after;
    OK(gateway_fail(gw, now, one.id, &failure, NULL, 0, &after));
    NUMBER(after.retried, 1);
    // What the backend asked for, and up to a tenth more.
    const uint64_t backoff_end = after.at;
    CHECK(backoff_end >= now + 5 * GATEWAY_SECOND && backoff_end <= now + 5500 * GATEWAY_MILLISECOND);
    failure.retriable = GATEWAY_RETRIABLE_NO;
    OK(gateway_fail(gw, now, two.id, &failure, NULL, 0, &after));
    NUMBER(after.retried, 0);
    NUMBER(after.at, GATEWAY_FOREVER);
    gateway_outcome outcome;
    char words[32] = {0};
    size_t needed = 0;
    OK(gateway_job_outcome(gw, id_of(2), &outcome, words, sizeof words, &needed));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_FAILURE);
    NUMBER(outcome.failure_class, GATEWAY_FAILURE_HTTP);
    NUMBER(outcome.http_status, 503);
    TEXT(words, "model is loading");

    gateway_reason reason;
    OK(gateway_explain(gw, id_of(1), &reason));
    NUMBER(reason.kind, GATEWAY_REASON_NOT_BEFORE);
    NUMBER(reason.until, backoff_end);
    NUMBER(reason.count, 1);
    char json[2048];
    OK(gateway_job_json(gw, id_of(1), json, sizeof json, NULL));
    CHECK(strstr(json, "\"failed_on\":[\"flux-1\"]") != NULL);
    uint64_t deadline = 0;
    OK(gateway_next_deadline(gw, &deadline));
    NUMBER(deadline, backoff_end);
    gateway_advanced advanced;
    OK(gateway_advance(gw, deadline - 1, &advanced));
    NUMBER(advanced.handled, 0);
    OK(gateway_advance(gw, deadline, &advanced));
    NUMBER(advanced.handled, 1);
    NUMBER(advanced.now, deadline);
    gateway_lease_info again = lease_next(gw, deadline);
    NUMBER(again.attempt, 2);
    gateway_job_id job;
    OK(gateway_release(gw, deadline, again.id, &job));
    CHECK(same_id(job, id_of(1)));

    STATUS(gateway_delete(gw, deadline, id_of(1)), GATEWAY_NOT_ENDED);
    OK(gateway_cancel(gw, deadline, id_of(1)));
    STATUS(gateway_cancel(gw, deadline, id_of(1)), GATEWAY_ENDED);
    memset(words, 0, sizeof words);
    OK(gateway_job_outcome(gw, id_of(1), &outcome, words, sizeof words, NULL));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_CANCELLED);
    TEXT(words, "requested");
    OK(gateway_free(gw));
}

static void a_batch_goes_to_the_backend_that_asks(void) {
    gateway *gw = flux_gateway(8);
    for (uint64_t n = 1; n <= 5; n++) submit(gw, START, n);
    gateway_lease *leases[4];
    size_t count = 9;
    OK(gateway_dispatch_to(gw, START, "flux-1", leases, 4, &count));
    NUMBER(count, 4);
    for (size_t i = 0; i < count; i++) {
        gateway_lease_info info;
        OK(gateway_lease_read(leases[i], &info));
        CHECK(same_id(info.job, id_of(i + 1)));
        gateway_output output = GATEWAY_OUTPUT_DATA("png", 3);
        OK(gateway_complete(gw, START, info.id, &output, NULL, 0, NULL));
        OK(gateway_lease_free(leases[i]));
    }
    OK(gateway_dispatch_to(gw, START, "flux-1", leases, 4, &count));
    NUMBER(count, 1);
    OK(gateway_lease_free(leases[0]));
    STATUS(gateway_dispatch_to(gw, START, "flux-1", leases, 4, &count), GATEWAY_WAIT);
    NUMBER(count, 0);
    STATUS(gateway_dispatch_to(gw, START, "flux-1", NULL, 0, &count), GATEWAY_WAIT);
    STATUS(gateway_dispatch_to(gw, START, "flux-9", leases, 4, &count), GATEWAY_UNKNOWN_BACKEND);
    gateway_lease *lease = NULL;
    STATUS(gateway_dispatch_route(gw, START, "image/flux/dev/t2i", &lease, NULL), GATEWAY_WAIT);
    STATUS(gateway_dispatch_route(gw, START, "image/wan/dev/t2i", &lease, NULL), GATEWAY_ROUTE_NOT_SERVED);
    OK(gateway_submit(gw, START, id_of(7), "acme", "image/flux/dev/i2i", NULL, NULL));
    OK(gateway_dispatch_route(gw, START, "image/flux/dev/t2i", &lease, NULL));
    OK(gateway_lease_free(lease));
    gateway_outcome outcome;
    char data[3];
    OK(gateway_job_outcome(gw, id_of(1), &outcome, data, sizeof data, NULL));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_DATA);
    CHECK(memcmp(data, "png", 3) == 0);
    OK(gateway_free(gw));
}

static void operators_change_the_fleet(void) {
    gateway *gw = flux_gateway(1);
    gateway_label labels[] = {{"zone", "a"}, {"driver", "550"}};
    const char *const all[] = {"*"};
    gateway_backend_options wan = GATEWAY_BACKEND_OPTIONS_INIT;
    wan.modality = "video";
    wan.family = "wan";
    wan.models = all;
    wan.models_len = 1;
    wan.labels = labels;
    wan.labels_len = 2;
    wan.lease_for = 30 * GATEWAY_SECOND;
    wan.devices = 2;
    wan.warm_max = 0;
    OK(gateway_put_backend(gw, START, "wan-1", &wan));
    wan.slots = 0;
    STATUS(gateway_put_backend(gw, START, "wan-2", &wan), GATEWAY_OUT_OF_RANGE);
    char field[16];
    OK(gateway_last_error_field(field, sizeof field, NULL));
    TEXT(field, "slots");

    gateway_backend backend;
    OK(gateway_read_backend(gw, "wan-1", &backend));
    NUMBER(backend.slots, 1);
    NUMBER(backend.kind, GATEWAY_KIND_OTHER);
    NUMBER(backend.breaker, GATEWAY_BREAKER_CLOSED);
    STATUS(gateway_read_backend(gw, "wan-2", &backend), GATEWAY_NONE);
    char json[4096];
    OK(gateway_backends_json(gw, json, sizeof json, NULL));
    CHECK(strstr(json, "[\"driver\",\"550\"]") != NULL);
    OK(gateway_running_json(gw, "wan-1", json, sizeof json, NULL));
    TEXT(json, "[]");
    STATUS(gateway_running_json(gw, "wan-2", json, sizeof json, NULL), GATEWAY_NONE);

    OK(gateway_force_breaker(gw, START, "wan-1", GATEWAY_FORCED_OPEN, START + GATEWAY_SECOND));
    OK(gateway_read_backend(gw, "wan-1", &backend));
    NUMBER(backend.breaker, GATEWAY_BREAKER_OPEN);
    NUMBER(backend.breaker_forced, 1);
    NUMBER(backend.breaker_until, START + GATEWAY_SECOND);
    OK(gateway_force_breaker(gw, START, "wan-1", GATEWAY_FORCED_NONE, GATEWAY_FOREVER));
    STATUS(gateway_force_breaker(gw, START, "wan-1", 3, GATEWAY_FOREVER), GATEWAY_OUT_OF_RANGE);
    STATUS(gateway_force_breaker(gw, START, "wan-1", GATEWAY_FORCED_CLOSED, START), GATEWAY_OUT_OF_RANGE);
    OK(gateway_drain_backend(gw, START, "wan-1", 1));
    OK(gateway_read_backend(gw, "wan-1", &backend));
    NUMBER(backend.draining, 1);
    OK(gateway_drain_backend(gw, START, "wan-1", 0));
    OK(gateway_remove_backend(gw, START, "wan-1"));
    STATUS(gateway_remove_backend(gw, START, "wan-1"), GATEWAY_UNKNOWN_BACKEND);

    gateway_customer_policy policy = GATEWAY_CUSTOMER_POLICY_INIT;
    policy.weight = 3;
    policy.rate_per = GATEWAY_SECOND;
    policy.rate_amount = 1;
    policy.rate_burst = 2;
    policy.tier = "pro";
    OK(gateway_put_customer(gw, START, "birch", &policy));
    gateway_customer customer;
    OK(gateway_read_customer(gw, "birch", &customer));
    NUMBER(customer.weight, 3);
    NUMBER(customer.limited, 1);
    NUMBER(customer.tokens, 2);
    NUMBER(customer.own_policy, 1);
    TEXT(customer.tier, "pro");
    OK(gateway_put_customer(gw, START, "birch", NULL));
    OK(gateway_read_customer(gw, "birch", &customer));
    NUMBER(customer.limited, 0);
    OK(gateway_remove_customer(gw, START, "birch"));
    STATUS(gateway_remove_customer(gw, START, "birch"), GATEWAY_UNKNOWN_CUSTOMER);
    STATUS(gateway_read_customer(gw, "cedar", &customer), GATEWAY_NONE);

    submit(gw, START, 1);
    OK(gateway_pause(gw, START, "image/flux/dev/t2i"));
    gateway_reason reason;
    OK(gateway_explain(gw, id_of(1), &reason));
    NUMBER(reason.kind, GATEWAY_REASON_PAUSED);
    OK(gateway_resume(gw, START, "image/flux/dev/t2i"));
    OK(gateway_explain(gw, id_of(1), &reason));
    NUMBER(reason.kind, GATEWAY_REASON_NEXT);
    STATUS(gateway_pause(gw, START, "image/sd/xl/t2i"), GATEWAY_ROUTE_NOT_SERVED);
    OK(gateway_free(gw));
}

static void events_and_watches_tell_what_happened(void) {
    gateway *gw = flux_gateway(1);
    gateway_watch *watch = NULL;
    gateway_watch_event seen;
    uint64_t before = 0, after = 0, next = 0;
    OK(gateway_changes(gw, &before));
    OK(gateway_next_event(gw, &next));
    submit(gw, START, 1);
    OK(gateway_changes(gw, &after));
    CHECK(after != before);
    OK(gateway_watch_new(id_of(1), &watch));
    OK(gateway_watch_poll(watch, gw, &seen));
    NUMBER(seen.kind, GATEWAY_WATCH_QUEUED);
    NUMBER(seen.position, 0);
    STATUS(gateway_watch_poll(watch, gw, &seen), GATEWAY_WAIT);
    gateway_lease_info info = lease_next(gw, START);
    OK(gateway_progress(gw, START, info.id, 7, NULL));
    OK(gateway_watch_poll(watch, gw, &seen));
    NUMBER(seen.kind, GATEWAY_WATCH_RUNNING);
    NUMBER(seen.progress_ppm, 7);
    OK(gateway_cancel(gw, START, id_of(1)));
    OK(gateway_watch_poll(watch, gw, &seen));
    NUMBER(seen.kind, GATEWAY_WATCH_ENDED);
    NUMBER(seen.state, GATEWAY_STATE_CANCELLED);
    STATUS(gateway_watch_poll(watch, gw, &seen), GATEWAY_NONE);
    OK(gateway_watch_free(watch));
    OK(gateway_watch_new(id_of(9), &watch));
    OK(gateway_watch_poll(watch, gw, &seen));
    NUMBER(seen.kind, GATEWAY_WATCH_GONE);
    OK(gateway_watch_free(watch));

    gateway_event events[8];
    size_t count = 0;
    OK(gateway_events_from(gw, next, events, 8, &count));
    const uint32_t kinds[] = {GATEWAY_EVENT_QUEUED, GATEWAY_EVENT_STARTED, GATEWAY_EVENT_PROGRESS, GATEWAY_EVENT_ENDED};
    NUMBER(count, 4);
    for (size_t i = 0; i < 4; i++) {
        NUMBER(events[i].kind, kinds[i]);
        NUMBER(events[i].number, next + i);
        CHECK(same_id(events[i].job, id_of(1)));
        gateway_event fetched;
        OK(gateway_poll_event(gw, &fetched));
        NUMBER(fetched.number, events[i].number);
    }
    NUMBER(events[3].state, GATEWAY_STATE_CANCELLED);
    STATUS(gateway_poll_event(gw, events), GATEWAY_NONE);
    STATUS(gateway_events_from(gw, next, events, 8, &count), GATEWAY_NONE);
    NUMBER(count, 0);

    // A leap is not believed while a job is live, until an operator says so.
    submit(gw, START, 2);
    gateway_advanced advanced;
    OK(gateway_advance(gw, START + 24 * GATEWAY_HOUR, &advanced));
    NUMBER(advanced.leapt, 24 * GATEWAY_HOUR);
    NUMBER(advanced.now, START + 24 * GATEWAY_HOUR);
    OK(gateway_poll_event(gw, events));
    OK(gateway_poll_event(gw, events));
    NUMBER(events[0].kind, GATEWAY_EVENT_CLOCK_LEAPT);
    NUMBER(events[0].leapt, 24 * GATEWAY_HOUR);
    OK(gateway_accept_clock(gw, START + 24 * GATEWAY_HOUR, &advanced));
    NUMBER(advanced.now, START + 24 * GATEWAY_HOUR);
    uint64_t now = 0;
    OK(gateway_time(gw, &now));
    NUMBER(now, START + 24 * GATEWAY_HOUR);
    OK(gateway_free(gw));
}

static char *copied(gateway_bytes *from, size_t *len) {
    OK(gateway_bytes_len(from, len));
    char *bytes = (char *)malloc(*len);
    OK(gateway_bytes_copy(from, bytes, *len, NULL));
    OK(gateway_bytes_free(from));
    return bytes;
}

/* A snapshot; a lease to alice; a crash, and the gateway of the snapshot gives bob's job a lease. Alice's worker delivers. */
static void a_worker_that_is_not_remembered_ends_nobody_elses_job(void) {
    gateway *gw = flux_gateway(1), *restored = NULL;
    gateway_bytes *snapshot = NULL;
    OK(gateway_snapshot(gw, &snapshot));
    size_t len = 0;
    char *bytes = copied(snapshot, &len);
    uint64_t inside = 0, commands = 0, epoch = 0, other = 0;
    OK(gateway_commands_in(bytes, len, &inside));
    OK(gateway_commands(gw, &commands));
    NUMBER(inside, commands);
    submit(gw, START, 1);
    gateway_lease_info alice = lease_next(gw, START);
    OK(gateway_commands(gw, &commands));
    NUMBER(commands, inside + 2);
    OK(gateway_free(gw));

    OK(gateway_restore(bytes, len, START, 7, &restored));
    OK(gateway_commands(restored, &commands));
    NUMBER(commands, inside + 1);
    submit(restored, START, 2);
    gateway_lease_info bob = lease_next(restored, START);
    CHECK(bob.id != alice.id);
    gateway_output output = GATEWAY_OUTPUT_URL("alice.webp");
    STATUS(gateway_complete(restored, START, alice.id, &output, NULL, 0, NULL), GATEWAY_SUPERSEDED);
    gateway_job job;
    OK(gateway_read_job(restored, id_of(2), &job));
    NUMBER(job.state, GATEWAY_STATE_RUNNING);
    OK(gateway_complete(restored, START, bob.id, &output, NULL, 0, NULL));
    gateway_settlements *batch = NULL;
    OK(gateway_take_settlements(restored, START, 10, &batch));
    gateway_settlement settlement;
    OK(gateway_settlements_read(batch, 0, &settlement));
    OK(gateway_epoch(restored, &epoch));
    NUMBER(settlement.epoch, epoch);
    CHECK(epoch > 1ull << 52);
    gateway_event event;
    OK(gateway_poll_event(restored, &event));
    NUMBER(event.epoch, epoch);
    OK(gateway_settlements_free(batch));
    OK(gateway_begin_epoch(restored, START, 0, &other));
    CHECK(other != epoch);
    OK(gateway_free(restored));
    free(bytes);
}

static void slices_are_the_snapshot(void) {
    gateway *gw = flux_gateway(1);
    for (uint64_t n = 1; n <= 2000; n++) submit(gw, START, n);
    gateway_bytes *snapshot = NULL, *slice = NULL;
    gateway_slices *slices = NULL;
    OK(gateway_snapshot(gw, &snapshot));
    size_t len = 0, part = 0, at = 0, count = 0;
    char *whole = copied(snapshot, &len);
    OK(gateway_slices_new(gw, &slices));
    gateway_status status;
    while ((status = gateway_slices_next(slices, gw, &slice)) == GATEWAY_OK) {
        char *bytes = copied(slice, &part);
        CHECK(at + part <= len && memcmp(whole + at, bytes, part) == 0);
        at += part, count++;
        free(bytes);
    }
    STATUS(status, GATEWAY_NONE);
    NUMBER(at, len);
    CHECK(count > 1);
    OK(gateway_slices_free(slices));
    OK(gateway_slices_new(gw, &slices));
    OK(gateway_advance(gw, START, NULL));
    STATUS(gateway_slices_next(slices, gw, &slice), GATEWAY_CHANGED);
    OK(gateway_slices_free(slices));
    free(whole);
    OK(gateway_free(gw));
}

static void a_key_outlives_its_record(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.retained_max = 0;
    config.idempotency_for = 10 * GATEWAY_SECOND;
    config.idempotency_free = 4;
    gateway *gw = NULL;
    STATUS(gateway_new(&config, START, &gw), GATEWAY_OUT_OF_RANGE);
    config.idempotency_free = GATEWAY_FREE_FAILED;
    OK(gateway_new(&config, START, &gw));
    put_flux(gw, START, 1);
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.idempotency_key = "order-17";
    gateway_job_id job;
    OK(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, &job));
    OK(gateway_cancel(gw, START, id_of(1)));
    const uint64_t last = START + 10 * GATEWAY_SECOND - 1;
    OK(gateway_submit(gw, last, id_of(2), "acme", "image/flux/dev/t2i", &options, &job));
    NUMBER(job.low, 1);
    OK(gateway_submit(gw, last + 1, id_of(2), "acme", "image/flux/dev/t2i", &options, &job));
    NUMBER(job.low, 2);
    OK(gateway_free(gw));
}

static void a_snapshot_is_the_same_gateway(void) {
    gateway *gw = flux_gateway(1), *copy = NULL;
    for (uint64_t n = 1; n <= 3; n++) submit(gw, START, n);
    lease_next(gw, START);
    gateway_bytes *snapshot = NULL;
    OK(gateway_snapshot(gw, &snapshot));
    size_t len = 0;
    OK(gateway_bytes_len(snapshot, &len));
    CHECK(len > 100);
    char *bytes = (char *)malloc(len);
    STATUS(gateway_bytes_copy(snapshot, bytes, len - 1, NULL), GATEWAY_BUFFER_TOO_SMALL);
    OK(gateway_bytes_copy(snapshot, bytes, len, NULL));
    OK(gateway_bytes_free(snapshot));
    OK(gateway_replica(bytes, len, &copy));
    uint8_t one[GATEWAY_DIGEST_LEN], other[GATEWAY_DIGEST_LEN];
    OK(gateway_digest(gw, one));
    OK(gateway_digest(copy, other));
    CHECK(memcmp(one, other, sizeof one) == 0);
    OK(gateway_cancel(copy, START, id_of(3)));
    OK(gateway_digest(copy, other));
    CHECK(memcmp(one, other, sizeof one) != 0);
    OK(gateway_free(copy));
    copy = gw;
    STATUS(gateway_restore(bytes, len - 1, START, 7, &copy), GATEWAY_TRUNCATED);
    STATUS(gateway_replica(bytes, 3, &copy), GATEWAY_TRUNCATED);
    bytes[len / 2] ^= 1;
    STATUS(gateway_restore(bytes, len, START, 0, &copy), GATEWAY_ALTERED);
    bytes[0] ^= 1;
    STATUS(gateway_restore(bytes, len, START, 0, &copy), GATEWAY_NOT_A_SNAPSHOT);
    STATUS(gateway_restore(NULL, 0, START, 0, &copy), GATEWAY_TRUNCATED);
    CHECK(copy == gw);
    size_t memory = 0;
    OK(gateway_memory_bytes(gw, &memory));
    CHECK(memory > 0);
    free(bytes);
    OK(gateway_free(gw));
}

static void commands_are_data(void) {
    gateway *gw = NULL;
    const char config[] = "{\"seed\":7,\"lease_for\":60000000000}";
    OK(gateway_new_json(config, sizeof config - 1, START, &gw));
    put_flux(gw, START, 2);
    char json[4096];
    size_t needed = 0;
    OK(gateway_config_json(gw, json, sizeof json, &needed));
    NUMBER(needed, strlen(json) + 1);
    CHECK(strstr(json, "\"lease_for\":60000000000") != NULL);
    gateway *none = NULL;
    STATUS(gateway_new_json("{\"sed\":7}", 9, START, &none), GATEWAY_NOT_A_COMMAND);
    STATUS(gateway_new_json("{\"jobs_max\":0}", 14, START, &none), GATEWAY_OUT_OF_RANGE);

    const char *const lines[][2] = {
        {"{\"now\":1700000000000000000,\"command\":{\"submit\":{\"id\":\"j_00000000000000000000000001\","
         "\"customer\":\"acme\",\"route\":\"image/flux/dev/t2i\"}}}",
         "{\"submitted\":{\"job\":\"j_00000000000000000000000001\"}}"},
        {"{\"now\":1700000000000000000,\"command\":{\"all\":[{\"dispatch\":{}},{\"dispatch\":{}}]}}",
         "{\"error\":{\"number\":1401,\"name\":\"not_now\",\"field\":null,\"message\":\"not now: something the "
         "transaction needs is not there\"}}"},
        {"{\"now\":1700000000000000000,\"command\":{\"cancel\":{\"job\":\"j_00000000000000000000000001\"}}}",
         "{\"done\":{}}"},
        {"dispatch, please", "{\"error\":{\"number\":1301,\"name\":\"not_a_command\",\"field\":null,\"message\":\"not a "
                             "command: expected value at line 1 column 1\"}}"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        gateway_bytes *reply = NULL;
        OK(gateway_apply_json(gw, lines[i][0], strlen(lines[i][0]), &reply));
        OK(gateway_bytes_copy(reply, json, sizeof json, &needed));
        json[needed] = 0;
        TEXT(json, lines[i][1]);
        OK(gateway_bytes_free(reply));
    }
    OK(gateway_job_json(gw, id_of(1), json, sizeof json, NULL));
    CHECK(strstr(json, "\"outcome\":{\"cancelled\":\"requested\"}") != NULL);
    STATUS(gateway_job_json(gw, id_of(1), json, 10, &needed), GATEWAY_BUFFER_TOO_SMALL);
    CHECK(needed > 100);
    OK(gateway_free(gw));
}

static void ids_and_names_have_texts(void) {
    gateway_job_id id = {1, 2}, other;
    char text[GATEWAY_JOB_ID_CAP];
    OK(gateway_job_id_format(id_of(7), text, sizeof text, NULL));
    TEXT(text, "j_00000000000000000000000007");
    STATUS(gateway_job_id_format(id, text, sizeof text - 1, NULL), GATEWAY_BUFFER_TOO_SMALL);
    OK(gateway_job_id_format(id, text, sizeof text, NULL));
    OK(gateway_job_id_parse(text, &other));
    CHECK(same_id(id, other));
    STATUS(gateway_job_id_parse("j_7", &other), GATEWAY_MALFORMED);
    OK(gateway_job_id_random(&id));
    OK(gateway_job_id_random(&other));
    CHECK(!same_id(id, other));
    TEXT(gateway_state_name(GATEWAY_STATE_QUEUED), "queued");
    TEXT(gateway_task_name(GATEWAY_TASK_EMBED), "embed");
    TEXT(gateway_kind_name(GATEWAY_KIND_TORCH), "torch");
    TEXT(gateway_kind_name(77), "unknown");
    TEXT(gateway_status_name(GATEWAY_UNKNOWN_BACKEND), "unknown_backend");
    NUMBER(gateway_abi_version(), GATEWAY_ABI_VERSION);
    TEXT(gateway_version(), "0.1.0");
    CHECK(gateway_now() > START);
}

static void the_last_error_is_told_whole_and_stays(void) {
    gateway_last_error_clear();
    STATUS(gateway_last_error_status(), GATEWAY_OK);
    char text[512] = "?";
    OK(gateway_last_error_message(text, sizeof text, NULL));
    TEXT(text, "");
    gateway *gw = flux_gateway(1);
    char name[200];
    memset(name, 'x', sizeof name);
    name[129] = 0;
    STATUS(gateway_submit(gw, START, id_of(1), name, "image/flux/dev/t2i", NULL, NULL), GATEWAY_TOO_LONG);
    submit(gw, START, 1);
    STATUS(gateway_last_error_status(), GATEWAY_TOO_LONG);
    size_t needed = 0;
    STATUS(gateway_last_error_message(text, 4, &needed), GATEWAY_BUFFER_TOO_SMALL);
    OK(gateway_last_error_message(text, needed, NULL));
    TEXT(text, "customer is 129 long, at most 128 is allowed");
    OK(gateway_last_error_name(text, sizeof text, NULL));
    TEXT(text, "too_long");
    OK(gateway_last_error_field(text, sizeof text, NULL));
    TEXT(text, "customer");
    OK(gateway_last_error_json(text, sizeof text, NULL));
    TEXT(text, "{\"number\":202,\"name\":\"too_long\",\"field\":\"customer\",\"message\":\"customer is 129 long, at most "
               "128 is allowed\"}");
    gateway_full full;
    STATUS(gateway_last_error_limit(&full), GATEWAY_NONE);
    gateway_customer_policy policy = GATEWAY_CUSTOMER_POLICY_INIT;
    policy.queued_max = 1;
    OK(gateway_put_customer(gw, START, "zoo", &policy));
    OK(gateway_submit(gw, START, id_of(7), "zoo", "image/flux/dev/t2i", NULL, NULL));
    STATUS(gateway_submit(gw, START, id_of(8), "zoo", "image/flux/dev/t2i", NULL, NULL), GATEWAY_FULL);
    OK(gateway_last_error_limit(&full));
    NUMBER(full.scope, GATEWAY_SCOPE_CUSTOMER);
    NUMBER(full.measured, 1);
    NUMBER(full.max, 1);
    NUMBER(full.retry_at, GATEWAY_FOREVER);
    OK(gateway_last_error_field(text, sizeof text, NULL));
    TEXT(text, "queued");
    STATUS(gateway_submit(gw, START, id_of(2), "a\xff", "image/flux/dev/t2i", NULL, NULL), GATEWAY_NOT_UTF8);
    OK(gateway_last_error_message(text, sizeof text, NULL));
    TEXT(text, "customer is not UTF-8 at byte 1");
    OK(gateway_free(gw));
}

/* A client leaves in the middle of its stream, a worker gives its lease back, and the figures come late. */
static void usage_is_told_with_every_end_of_a_lease_and_after_it(void) {
    gateway *gw = flux_gateway(4);
    gateway_price price = {"*", "*", 1000, GATEWAY_SECOND};
    OK(gateway_put_prices(gw, START, 1, "USD", &price, 1));
    for (uint64_t n = 1; n <= 3; n++) {
        OK(gateway_submit(gw, START, id_of(n), "acme", "image/flux/dev/t2i", NULL, NULL));
    }
    uint64_t first = lease_next(gw, START).id, second = lease_next(gw, START).id, third = lease_next(gw, START).id;
    uint64_t later = START + 3 * GATEWAY_SECOND;
    gateway_usage usage = {"GPU-1", 2800 * GATEWAY_MILLISECOND};
    gateway_job_id job;
    OK(gateway_cancel_lease(gw, later, first, &usage, 1, &job));
    CHECK(same_id(job, id_of(1)));
    STATUS(gateway_cancel_lease(gw, later, first, &usage, 1, NULL), GATEWAY_SUPERSEDED);
    OK(gateway_cancel_with(gw, later, id_of(2), &usage, 1));
    OK(gateway_release_with(gw, later, third, &usage, 1, &job));
    CHECK(same_id(job, id_of(3)));
    STATUS(gateway_release_with(gw, later, second, NULL, 1, NULL), GATEWAY_BAD_POINTER);

    gateway_corrected corrected;
    usage.gpu_ns = 2500 * GATEWAY_MILLISECOND;
    OK(gateway_correct_usage(gw, later, first, &usage, 1, &corrected));
    NUMBER(corrected.settlement, 3);
    NUMBER(corrected.billed, 2500 * GATEWAY_MILLISECOND);
    OK(gateway_correct_usage(gw, later, first, &usage, 1, &corrected));
    NUMBER(corrected.settlement, 0);
    STATUS(gateway_correct_usage(gw, later, first, NULL, 0, &corrected), GATEWAY_EMPTY);
    STATUS(gateway_correct_usage(gw, later, UINT64_MAX, &usage, 1, &corrected), GATEWAY_UNKNOWN_LEASE);

    uint64_t fourth = lease_next(gw, later).id;
    STATUS(gateway_correct_usage(gw, later, fourth, &usage, 1, &corrected), GATEWAY_STILL_LIVE);
    usage.gpu_ns = 9 * GATEWAY_SECOND;
    gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
    gateway_settled settled;
    OK(gateway_complete(gw, later + GATEWAY_SECOND, fourth, &output, &usage, 1, &settled));
    NUMBER(settled.reported, 9 * GATEWAY_SECOND);
    NUMBER(settled.usage, 1110 * GATEWAY_MILLISECOND);
    NUMBER(settled.capped, 1);
    NUMBER(settled.charge, 1110);
    NUMBER(settled.priced, 1);

    gateway_settlements *taken = NULL;
    OK(gateway_take_settlements(gw, later + GATEWAY_SECOND, 10, &taken));
    gateway_settlement own;
    OK(gateway_settlements_read(taken, 0, &own));
    NUMBER(own.charge, 2800);
    OK(gateway_settlements_read(taken, 2, &own));
    NUMBER(own.corrects, 1);
    NUMBER(own.lease, first);
    NUMBER(own.corrected, later);
    NUMBER(own.charge, 0);
    NUMBER(own.usage_credit, 300 * GATEWAY_MILLISECOND);
    NUMBER(own.charge_credit, 300);
    OK(gateway_settlements_read(taken, 3, &own));
    NUMBER(own.capped, 1);
    NUMBER(own.absorbed, 2800 * GATEWAY_MILLISECOND);
    OK(gateway_settlements_free(taken));
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    NUMBER(stats.credited_micros, 300);
    NUMBER(stats.capped_total, 1);
    NUMBER(stats.corrections_total, 1);
    OK(gateway_free(gw));
}

/* A host without billing: nothing waits to be confirmed. */
static void without_settlements_nothing_has_to_be_confirmed(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.jobs_max = 1;
    config.settlements = 0;
    gateway *gw = NULL;
    OK(gateway_new(&config, START, &gw));
    put_flux(gw, START, 1);
    gateway_settled settled;
    memset(&settled, 1, sizeof settled);
    for (uint64_t n = 1; n <= 5; n++) {
        OK(gateway_submit(gw, START, id_of(n), "acme", "image/flux/dev/t2i", NULL, NULL));
        gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
        OK(gateway_complete(gw, START, lease_next(gw, START).id, &output, NULL, 0, &settled));
    }
    NUMBER(settled.priced, 0);
    gateway_settlements *taken = NULL;
    STATUS(gateway_take_settlements(gw, START, 10, &taken), GATEWAY_NONE);
    OK(gateway_free(gw));
}

int main(void) {
    a_job_runs_and_is_settled();
    usage_is_told_with_every_end_of_a_lease_and_after_it();
    without_settlements_nothing_has_to_be_confirmed();
    failures_are_retried_or_end_the_job();
    a_batch_goes_to_the_backend_that_asks();
    operators_change_the_fleet();
    events_and_watches_tell_what_happened();
    a_snapshot_is_the_same_gateway();
    a_worker_that_is_not_remembered_ends_nobody_elses_job();
    slices_are_the_snapshot();
    a_key_outlives_its_record();
    commands_are_data();
    ids_and_names_have_texts();
    the_last_error_is_told_whole_and_stays();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
