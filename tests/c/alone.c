/* Each part that stands alone. */
#include "check.h"

static void a_limiter_says_when(void) {
    gateway_rate rate = {GATEWAY_SECOND, 10, 2};
    gateway_limiter *limiter = NULL;
    OK(gateway_limiter_new(&rate, START, &limiter));
    gateway_acquired acquired;
    OK(gateway_limiter_try_acquire(limiter, 2, START, &acquired));
    NUMBER(acquired.remaining, 0);
    STATUS(gateway_limiter_try_acquire(limiter, 1, START, &acquired), GATEWAY_DENIED);
    NUMBER(acquired.until, START + 100 * GATEWAY_MILLISECOND);
    STATUS(gateway_limiter_peek(limiter, 1, acquired.until - 1, NULL), GATEWAY_DENIED);
    OK(gateway_limiter_peek(limiter, 1, acquired.until, NULL));
    STATUS(gateway_limiter_try_acquire(limiter, 3, START, &acquired), GATEWAY_NEVER);
    NUMBER(acquired.until, GATEWAY_FOREVER);
    OK(gateway_limiter_refund(limiter, 1));
    OK(gateway_limiter_try_acquire(limiter, 1, START, NULL));
    gateway_rate_headers headers;
    OK(gateway_limiter_headers(limiter, START, &headers));
    NUMBER(headers.limit, 2);
    NUMBER(headers.remaining, 0);
    NUMBER(headers.reset, 200 * GATEWAY_MILLISECOND);
    rate.burst = 5;
    OK(gateway_limiter_set_rate(limiter, &rate, START));
    OK(gateway_limiter_headers(limiter, START, &headers));
    NUMBER(headers.limit, 5);
    rate.per = 0;
    STATUS(gateway_limiter_set_rate(limiter, &rate, START), GATEWAY_OUT_OF_RANGE);
    rate.per = UINT64_MAX;
    rate.amount = UINT64_MAX - 2;
    rate.burst = UINT64_MAX;
    STATUS(gateway_limiter_set_rate(limiter, &rate, START), GATEWAY_OVERFLOW);
    rate.burst = 1000000;
    OK(gateway_limiter_set_rate(limiter, &rate, START));
    OK(gateway_limiter_free(limiter));
}

static void any_amount_and_period_is_exact(void) {
    const uint64_t day = 24 * GATEWAY_HOUR;
    const gateway_rate rates[] = {{30 * day, 9973, 9973}, {day, 5000000000u, 5000000000u}, {500 * 365 * day, 1, 1}};
    const uint64_t waits[] = {260 * GATEWAY_SECOND, 17280, 500 * 365 * day};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        gateway_limiter *limiter = NULL;
        gateway_acquired acquired;
        OK(gateway_limiter_new(&rates[i], START, &limiter));
        OK(gateway_limiter_try_acquire(limiter, rates[i].burst, START, &acquired));
        NUMBER(acquired.remaining, 0);
        STATUS(gateway_limiter_try_acquire(limiter, 1, START, &acquired), GATEWAY_DENIED);
        CHECK(acquired.until - START <= waits[i] && acquired.until - START + GATEWAY_SECOND > waits[i]);
        STATUS(gateway_limiter_peek(limiter, 1, acquired.until - 1, NULL), GATEWAY_DENIED);
        if (i < 2) OK(gateway_limiter_peek(limiter, 1, acquired.until, NULL));
        OK(gateway_limiter_free(limiter));
    }
    const gateway_rate founding = GATEWAY_RATE_INIT;
    gateway_limiter *limiter = NULL;
    gateway_rate_headers headers;
    OK(gateway_limiter_new(&founding, START, &limiter));
    OK(gateway_limiter_try_acquire(limiter, 1000, START, NULL));
    OK(gateway_limiter_headers(limiter, START, &headers));
    NUMBER(headers.limit, 1000);
    NUMBER(headers.reset, 10 * GATEWAY_SECOND);
    OK(gateway_limiter_free(limiter));
}

static void no_step_of_the_clock_freezes_a_limiter(void) {
    const uint64_t day = 24 * GATEWAY_HOUR;
    const gateway_rate rate = {GATEWAY_SECOND, 10, 1};
    gateway_limiter *limiter = NULL;
    gateway_acquired acquired;
    OK(gateway_limiter_new(&rate, START, &limiter));
    OK(gateway_limiter_try_acquire(limiter, 1, START + day, NULL));
    STATUS(gateway_limiter_try_acquire(limiter, 1, START, &acquired), GATEWAY_DENIED);
    NUMBER(acquired.until, START + 100 * GATEWAY_MILLISECOND);
    OK(gateway_limiter_try_acquire(limiter, 1, acquired.until, NULL));
    OK(gateway_limiter_free(limiter));

    gateway_keyed_limiter_config config = GATEWAY_KEYED_LIMITER_CONFIG_INIT;
    config.amount = 10, config.burst = 1;
    gateway_keyed_limiter *keyed = NULL;
    OK(gateway_keyed_limiter_new(&config, START, &keyed));
    OK(gateway_keyed_limiter_try_acquire(keyed, "wild", 4, 1, START + day, NULL));
    OK(gateway_keyed_limiter_try_acquire(keyed, "acme", 4, 1, START, NULL));
    STATUS(gateway_keyed_limiter_try_acquire(keyed, "acme", 4, 1, START, &acquired), GATEWAY_DENIED);
    NUMBER(acquired.until, START + 100 * GATEWAY_MILLISECOND);
    OK(gateway_keyed_limiter_free(keyed));
}

static void no_window_has_too_many(void) {
    gateway_window_limit limit = {GATEWAY_MINUTE, 6, 0};
    gateway_window *window = NULL;
    gateway_acquired acquired;
    gateway_rate_headers headers;
    uint64_t deadline = 0;
    OK(gateway_window_new(&limit, START, &window));
    OK(gateway_window_next_deadline(window, &deadline));
    NUMBER(deadline, GATEWAY_FOREVER);
    OK(gateway_window_try_acquire(window, 6, START + 59 * GATEWAY_SECOND, &acquired));
    NUMBER(acquired.remaining, 0);
    STATUS(gateway_window_try_acquire(window, 1, START + GATEWAY_MINUTE, &acquired), GATEWAY_DENIED);
    NUMBER(acquired.until, START + 119 * GATEWAY_SECOND);
    OK(gateway_window_next_deadline(window, &deadline));
    NUMBER(deadline, acquired.until);
    STATUS(gateway_window_peek(window, 1, acquired.until - 1, NULL), GATEWAY_DENIED);
    OK(gateway_window_peek(window, 6, acquired.until, NULL));
    STATUS(gateway_window_peek(window, 7, acquired.until, NULL), GATEWAY_NEVER);
    OK(gateway_window_refund(window, 2, START + GATEWAY_MINUTE));
    OK(gateway_window_headers(window, START + GATEWAY_MINUTE, &headers));
    NUMBER(headers.remaining, 2);
    NUMBER(headers.reset, 59 * GATEWAY_SECOND);
    limit.amount = 3;
    OK(gateway_window_set_limit(window, &limit, START + GATEWAY_MINUTE));
    STATUS(gateway_window_try_acquire(window, 1, START + GATEWAY_MINUTE, NULL), GATEWAY_DENIED);
    limit.amount = 65537;
    STATUS(gateway_window_set_limit(window, &limit, START), GATEWAY_OUT_OF_RANGE);
    limit.amount = 1, limit.per = 0;
    STATUS(gateway_window_set_limit(window, &limit, START), GATEWAY_OUT_OF_RANGE);
    OK(gateway_window_free(window));
    OK(gateway_window_free(NULL));
}

static void a_keyed_limiter_knows_so_many_keys(void) {
    gateway_keyed_limiter_config config = GATEWAY_KEYED_LIMITER_CONFIG_INIT;
    config.amount = 1;
    config.burst = 3;
    config.keys_max = 2;
    gateway_keyed_limiter *limiter = NULL;
    OK(gateway_keyed_limiter_new(&config, START, &limiter));
    gateway_acquired acquired;
    OK(gateway_keyed_limiter_try_acquire(limiter, "acme", 4, 2, START, &acquired));
    NUMBER(acquired.remaining, 1);
    STATUS(gateway_keyed_limiter_try_acquire(limiter, "acme", 4, 2, START, &acquired), GATEWAY_DENIED);
    NUMBER(acquired.until, START + GATEWAY_SECOND);
    OK(gateway_keyed_limiter_try_acquire(limiter, "a\0me", 4, 1, START, NULL));
    /* No room: new keys share a bucket, and are told so. */
    OK(gateway_keyed_limiter_try_acquire(limiter, "new", 3, 1, START, &acquired));
    NUMBER(acquired.shared, 1);
    NUMBER(acquired.remaining, 2);
    OK(gateway_keyed_limiter_try_acquire(limiter, "old", 3, 2, START, &acquired));
    NUMBER(acquired.shared, 1);
    STATUS(gateway_keyed_limiter_try_acquire(limiter, "zoo", 3, 1, START, &acquired), GATEWAY_NO_ROOM);
    NUMBER(acquired.until, START + GATEWAY_SECOND);
    STATUS(gateway_keyed_limiter_peek(limiter, "zoo", 3, 1, START, NULL), GATEWAY_NO_ROOM);
    STATUS(gateway_keyed_limiter_peek(limiter, "zoo", 3, 4, START, NULL), GATEWAY_NEVER);
    size_t len = 0;
    OK(gateway_keyed_limiter_len(limiter, &len));
    NUMBER(len, 2);
    OK(gateway_keyed_limiter_refund(limiter, "acme", 4, 1));
    gateway_rate_headers headers;
    OK(gateway_keyed_limiter_headers(limiter, "acme", 4, START, &headers));
    NUMBER(headers.remaining, 2);
    OK(gateway_keyed_limiter_remove(limiter, "acme", 4));
    STATUS(gateway_keyed_limiter_remove(limiter, "acme", 4), GATEWAY_NONE);
    OK(gateway_keyed_limiter_evict_full(limiter, START + GATEWAY_SECOND, 10, &len)); /* it came once: not known */
    NUMBER(len, 1);
    gateway_rate rate = {GATEWAY_SECOND, 1, 7};
    OK(gateway_keyed_limiter_set_rate(limiter, &rate, START));
    OK(gateway_keyed_limiter_headers(limiter, NULL, 0, START, &headers));
    NUMBER(headers.limit, 7);
    STATUS(gateway_keyed_limiter_try_acquire(limiter, NULL, 1, 1, START, NULL), GATEWAY_BAD_POINTER);
    OK(gateway_keyed_limiter_free(limiter));
    config.keys_max = 0;
    STATUS(gateway_keyed_limiter_new(&config, START, &limiter), GATEWAY_OUT_OF_RANGE);
}

static void a_breaker_opens_probes_and_closes(void) {
    gateway_breaker *breaker = NULL;
    OK(gateway_breaker_new(NULL, START, &breaker));
    gateway_admitted admitted;
    for (int i = 0; i < 5; i++) {
        OK(gateway_breaker_admit(breaker, START, &admitted));
        OK(gateway_breaker_failure(breaker, admitted.permit, START));
    }
    const uint64_t until = START + GATEWAY_MINUTE;
    STATUS(gateway_breaker_admit(breaker, until - 1, &admitted), GATEWAY_DENIED);
    NUMBER(admitted.until, until);
    uint64_t deadline = 0;
    OK(gateway_breaker_next_deadline(breaker, &deadline));
    NUMBER(deadline, until);
    STATUS(gateway_breaker_handle_timeout(breaker, until - 1), GATEWAY_NONE);
    OK(gateway_breaker_handle_timeout(breaker, until));
    gateway_breaker_status status;
    OK(gateway_breaker_read(breaker, until, &status));
    NUMBER(status.state, GATEWAY_BREAKER_HALF_OPEN);
    NUMBER(status.failures_total, 5);
    NUMBER(status.rejected_total, 1);
    for (int i = 0; i < 2; i++) {
        OK(gateway_breaker_admit(breaker, until, &admitted));
        NUMBER(admitted.probe, 1);
        OK(gateway_breaker_success(breaker, admitted.permit, until));
        STATUS(gateway_breaker_success(breaker, admitted.permit, until), GATEWAY_NONE);
    }
    OK(gateway_breaker_read(breaker, until, &status));
    NUMBER(status.state, GATEWAY_BREAKER_CLOSED);
    OK(gateway_breaker_force(breaker, GATEWAY_FORCED_OPEN, GATEWAY_FOREVER, until));
    STATUS(gateway_breaker_admit(breaker, until, &admitted), GATEWAY_DENIED);
    NUMBER(admitted.until, GATEWAY_FOREVER);
    OK(gateway_breaker_force(breaker, GATEWAY_FORCED_NONE, 0, until));
    STATUS(gateway_breaker_force(breaker, GATEWAY_FORCED_NONE, 0, until), GATEWAY_NONE);
    STATUS(gateway_breaker_force(breaker, GATEWAY_FORCED_OPEN, until, until), GATEWAY_NONE);
    STATUS(gateway_breaker_force(breaker, 9, until, until), GATEWAY_OUT_OF_RANGE);
    OK(gateway_breaker_admit(breaker, until, &admitted));
    OK(gateway_breaker_cancelled(breaker, admitted.permit, until));
    OK(gateway_breaker_free(breaker));
}

static void a_queue_is_fair_and_knows_positions(void) {
    gateway_queue *queue = NULL;
    OK(gateway_queue_new(NULL, &queue));
    gateway_ticket ticket, single;
    uint64_t item = 0;
    STATUS(gateway_queue_pop(queue, &item, NULL), GATEWAY_NONE);
    for (uint64_t n = 0; n < 100; n++) OK(gateway_queue_push(queue, "flood", 1, 1000, n, &ticket));
    OK(gateway_queue_push(queue, "single", 1, 1000, 7777, &single));
    uint32_t position = 9;
    OK(gateway_queue_position(queue, single, &position));
    NUMBER(position, 1);
    OK(gateway_queue_remove(queue, ticket, &item));
    NUMBER(item, 99);
    STATUS(gateway_queue_remove(queue, ticket, NULL), GATEWAY_NONE);
    ticket.slot = UINT64_MAX;
    STATUS(gateway_queue_position(queue, ticket, &position), GATEWAY_NONE);
    OK(gateway_queue_pop(queue, &item, &ticket));
    NUMBER(item, 0);
    OK(gateway_queue_pause(queue, "single"));
    OK(gateway_queue_pop(queue, &item, NULL));
    NUMBER(item, 1);
    // It goes on as one that comes anew: its time without turns earned nothing.
    OK(gateway_queue_resume(queue, "single"));
    OK(gateway_queue_pop(queue, &item, NULL));
    NUMBER(item, 2);
    OK(gateway_queue_pop(queue, &item, &ticket));
    NUMBER(item, 7777);
    NUMBER(ticket.sequence, single.sequence);
    size_t len = 0;
    uint32_t waiting = 0;
    OK(gateway_queue_len(queue, &len));
    NUMBER(len, 96);
    OK(gateway_queue_waiting(queue, "flood", &waiting));
    NUMBER(waiting, 96);
    OK(gateway_queue_set_weight(queue, "single", 10));
    STATUS(gateway_queue_set_weight(queue, "single", 0), GATEWAY_OUT_OF_RANGE);
    STATUS(gateway_queue_push(queue, "single", 3, 1, 1, NULL), GATEWAY_OUT_OF_RANGE);
    STATUS(gateway_queue_push(queue, "single", 256, 1, 1, NULL), GATEWAY_OUT_OF_RANGE);
    STATUS(gateway_queue_push(queue, "", 1, 1, 1, NULL), GATEWAY_EMPTY);
    OK(gateway_queue_free(queue));
    gateway_queue_config config = GATEWAY_QUEUE_CONFIG_INIT;
    config.items_max = 1;
    config.ordering = GATEWAY_ORDERING_FIFO;
    OK(gateway_queue_new(&config, &queue));
    OK(gateway_queue_push(queue, "a", 1, 1, 1, NULL));
    STATUS(gateway_queue_push(queue, "a", 1, 1, 2, NULL), GATEWAY_FULL);
    OK(gateway_queue_free(queue));
}

static void a_store_lets_only_the_present_attempt_answer(void) {
    gateway_store *store = NULL;
    gateway_store_config config = GATEWAY_STORE_CONFIG_INIT;
    config.timeout_queue = GATEWAY_MINUTE;
    OK(gateway_store_new(&config, START, &store));
    gateway_store_options options = GATEWAY_STORE_OPTIONS_INIT;
    options.payload = "a red fox";
    options.payload_len = 9;
    options.idempotency_key = "k";
    gateway_job_id job;
    OK(gateway_store_insert(store, START, id_of(1), "acme", &options, &job));
    OK(gateway_store_insert(store, START, id_of(2), "acme", &options, &job));
    CHECK(same_id(job, id_of(1)));
    OK(gateway_store_by_key(store, "acme", "k", &job));
    STATUS(gateway_store_by_key(store, "acme", "l", &job), GATEWAY_NONE);
    STATUS(gateway_store_insert(store, START, id_of(1), "acme", NULL, NULL), GATEWAY_DUPLICATE_JOB);
    uint64_t deadline = 0;
    OK(gateway_store_next_deadline(store, &deadline));
    NUMBER(deadline, START + GATEWAY_MINUTE);
    uint32_t lost = 0, attempt = 0;
    OK(gateway_store_start(store, START, id_of(1), &lost));
    OK(gateway_store_requeue(store, START, id_of(1), lost));
    OK(gateway_store_start(store, START, id_of(1), &attempt));
    gateway_output output = GATEWAY_OUTPUT_URL("1.webp");
    STATUS(gateway_store_complete(store, START, id_of(1), lost, &output), GATEWAY_STALE_ATTEMPT);
    OK(gateway_store_progress(store, START, id_of(1), attempt, 500000));
    char payload[16];
    size_t needed = 0;
    OK(gateway_store_payload(store, id_of(1), payload, sizeof payload, &needed));
    NUMBER(needed, 9);
    STATUS(gateway_store_payload(store, id_of(1), payload, 8, &needed), GATEWAY_BUFFER_TOO_SMALL);
    gateway_stored_job view;
    OK(gateway_store_read(store, id_of(1), &view));
    NUMBER(view.state, GATEWAY_STATE_RUNNING);
    NUMBER(view.progress_ppm, 500000);
    NUMBER(view.attempt, 2);
    TEXT(view.customer, "acme");
    STATUS(gateway_store_outcome(store, id_of(1), NULL, NULL, 0, NULL), GATEWAY_WAIT);
    OK(gateway_store_complete(store, START, id_of(1), attempt, &output));
    gateway_outcome outcome;
    OK(gateway_store_outcome(store, id_of(1), &outcome, payload, sizeof payload, &needed));
    NUMBER(outcome.kind, GATEWAY_OUTCOME_URL);
    NUMBER(needed, 6);
    OK(gateway_store_insert(store, START, id_of(3), "acme", NULL, NULL));
    OK(gateway_store_start(store, START, id_of(3), &attempt));
    gateway_failure failure = GATEWAY_FAILURE_INIT;
    failure.message = "no";
    OK(gateway_store_fail(store, START, id_of(3), attempt, &failure));
    OK(gateway_store_insert(store, START, id_of(4), "acme", NULL, NULL));
    OK(gateway_store_cancel(store, START, id_of(4)));
    STATUS(gateway_store_cancel(store, START, id_of(4)), GATEWAY_NOT_ALLOWED);
    OK(gateway_store_insert(store, START, id_of(5), "acme", NULL, NULL));
    uint32_t count = 0;
    OK(gateway_store_handle_timeout(store, START + GATEWAY_MINUTE - 1, &count));
    NUMBER(count, 0);
    OK(gateway_store_handle_timeout(store, START + GATEWAY_MINUTE, &count));
    NUMBER(count, 1);
    OK(gateway_store_count(store, GATEWAY_STATE_CANCELLED, &count));
    NUMBER(count, 2);
    STATUS(gateway_store_count(store, 5, &count), GATEWAY_OUT_OF_RANGE);
    OK(gateway_store_delete(store, START + GATEWAY_MINUTE, id_of(1)));
    STATUS(gateway_store_read(store, id_of(1), &view), GATEWAY_NONE);
    STATUS(gateway_store_outcome(store, id_of(1), NULL, NULL, 0, NULL), GATEWAY_NONE);
    STATUS(gateway_store_payload(store, id_of(1), NULL, 0, NULL), GATEWAY_NONE);
    STATUS(gateway_store_start(store, START, id_of(1), &attempt), GATEWAY_UNKNOWN_JOB);
    OK(gateway_store_free(store));
}

static void a_collector_charges_each_call_once(void) {
    gateway_price prices[] = {{"flux/dev", "*", 4320000, GATEWAY_HOUR}};
    gateway_billing *billing = NULL;
    OK(gateway_billing_new(NULL, 1, "USD", prices, 1, &billing));
    gateway_call call = {"req_1", "acme", "flux/dev", NULL};
    OK(gateway_billing_start(billing, &call, START));
    STATUS(gateway_billing_start(billing, &call, START), GATEWAY_ALREADY_STARTED);
    uint64_t deadline = 0, seq = 0;
    OK(gateway_billing_next_deadline(billing, &deadline));
    NUMBER(deadline, START + GATEWAY_HOUR);
    gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
    gateway_receipt receipt;
    OK(gateway_billing_end(billing, "req_1", &usage, 1, START + 2 * GATEWAY_SECOND, &receipt));
    NUMBER(receipt.reported_ns, receipt.billed_ns);
    NUMBER(receipt.capped, 0);
    NUMBER(receipt.charge, 2040);
    NUMBER(receipt.priced, 1);
    NUMBER(receipt.seq, 1);
    STATUS(gateway_billing_end(billing, "req_1", &usage, 1, START + 2 * GATEWAY_SECOND, NULL), GATEWAY_NO_START);
    call.request_id = "req_2";
    call.model = "wan/default";
    call.tier = "gold";
    OK(gateway_billing_start(billing, &call, START));
    OK(gateway_billing_abandon(billing, "req_2", START + 3 * GATEWAY_SECOND, &seq));
    NUMBER(seq, 2);
    OK(gateway_billing_start(billing, &call, START + 3 * GATEWAY_SECOND));
    uint32_t count = 9;
    OK(gateway_billing_handle_timeout(billing, 10, START + GATEWAY_HOUR, &count));
    NUMBER(count, 0);
    OK(gateway_billing_handle_timeout(billing, 10, START + GATEWAY_HOUR + 3 * GATEWAY_SECOND, &count));
    NUMBER(count, 1);
    gateway_batch batch;
    OK(gateway_billing_take(billing, 10, START + 2 * GATEWAY_HOUR, &batch));
    NUMBER(batch.len, 3);
    gateway_record record;
    OK(gateway_billing_entry(billing, &batch, 0, &record));
    NUMBER(record.charge, 2040);
    NUMBER(record.measured, 1);
    NUMBER(record.outcome, GATEWAY_CALL_ENDED);
    TEXT(record.currency, "USD");
    TEXT(record.request_id, "req_1");
    OK(gateway_billing_entry(billing, &batch, 1, &record));
    NUMBER(record.outcome, GATEWAY_CALL_ABANDONED);
    NUMBER(record.priced, 0);
    TEXT(record.tier, "gold");
    OK(gateway_billing_entry(billing, &batch, 2, &record));
    NUMBER(record.outcome, GATEWAY_CALL_SWEPT);
    STATUS(gateway_billing_entry(billing, &batch, 3, &record), GATEWAY_NONE);
    char json[1024];
    OK(gateway_billing_entry_json(billing, &batch, 0, json, sizeof json, NULL));
    CHECK(strstr(json, "\"GPU-8f2c\"") != NULL);
    STATUS(gateway_billing_entry_json(billing, &batch, 0, json, 9, NULL), GATEWAY_BUFFER_TOO_SMALL);
    STATUS(gateway_billing_entry_json(billing, &batch, 3, json, 9, NULL), GATEWAY_NONE);
    OK(gateway_billing_give_back(billing, &batch, &count));
    NUMBER(count, 3);
    STATUS(gateway_billing_confirm(billing, &batch, &count), GATEWAY_BATCH_SUPERSEDED);
    OK(gateway_billing_take(billing, 10, START + 2 * GATEWAY_HOUR, &batch));
    OK(gateway_billing_confirm(billing, &batch, &count));
    NUMBER(count, 3);
    STATUS(gateway_billing_take(billing, 10, START + 2 * GATEWAY_HOUR, &batch), GATEWAY_NONE);
    batch.id = 77;
    STATUS(gateway_billing_confirm(billing, &batch, &count), GATEWAY_UNKNOWN_BATCH);
    gateway_billing_totals totals;
    OK(gateway_billing_read_totals(billing, &totals));
    NUMBER(totals.started, 3);
    NUMBER(totals.charge_micros, 2040);
    NUMBER(totals.open, 0);
    NUMBER(totals.unconfirmed, 0);
    /* Nobody's call, and a usage that cannot be: taken, and what was possible is charged. */
    gateway_call free_call = {"req_0", NULL, "flux/dev", NULL};
    OK(gateway_billing_start(billing, &free_call, START + 5 * GATEWAY_SECOND));
    OK(gateway_billing_end(billing, "req_0", &usage, 1, START + 5 * GATEWAY_SECOND, &receipt));
    NUMBER(receipt.reported_ns, 1700 * GATEWAY_MILLISECOND);
    NUMBER(receipt.billed_ns, 100 * GATEWAY_MILLISECOND);
    NUMBER(receipt.capped, 1);
    NUMBER(receipt.charge, 120);
    OK(gateway_billing_take(billing, 10, START + 2 * GATEWAY_HOUR, &batch));
    OK(gateway_billing_entry(billing, &batch, 0, &record));
    NUMBER(record.has_customer, 0);
    NUMBER(record.has_tier, 0);
    NUMBER(record.clock_back, 0);
    NUMBER(record.price, 4320000);
    NUMBER(record.price_per, GATEWAY_HOUR);
    OK(gateway_billing_put_prices(billing, 2, "USD", NULL, 0));
    STATUS(gateway_billing_put_prices(billing, 3, "EUR", NULL, 0), GATEWAY_CONTRADICTION);
    STATUS(gateway_billing_put_prices(billing, 3, "eur", NULL, 0), GATEWAY_MALFORMED);
    OK(gateway_billing_free(billing));
}

static void a_histogram_tells_quantiles(void) {
    gateway_histogram *histogram = NULL, *other = NULL;
    OK(gateway_histogram_new(6, &histogram));
    uint64_t value = 0;
    STATUS(gateway_histogram_quantile(histogram, 500000, &value), GATEWAY_NONE);
    for (uint64_t n = 1; n <= 20; n++) OK(gateway_histogram_record(histogram, n, 1));
    OK(gateway_histogram_quantile(histogram, 950000, &value));
    NUMBER(value, 19);
    OK(gateway_histogram_merge(histogram, histogram));
    gateway_distribution told;
    OK(gateway_histogram_read(histogram, &told));
    NUMBER(told.count, 40);
    NUMBER(told.sum, 420);
    NUMBER(told.mean, 10);
    NUMBER(told.max, 20);
    size_t needed = 0;
    gateway_bucket buckets[20];
    OK(gateway_histogram_buckets(histogram, NULL, 0, &needed));
    NUMBER(needed, 20);
    STATUS(gateway_histogram_buckets(histogram, buckets, 19, &needed), GATEWAY_BUFFER_TOO_SMALL);
    OK(gateway_histogram_buckets(histogram, buckets, 20, NULL));
    NUMBER(buckets[19].upper, 20);
    NUMBER(buckets[19].count, 2);
    OK(gateway_histogram_record(histogram, UINT64_MAX, UINT64_MAX));
    OK(gateway_histogram_read(histogram, &told));
    CHECK(told.sum_high > 0);
    OK(gateway_histogram_new(5, &other));
    STATUS(gateway_histogram_merge(histogram, other), GATEWAY_OUT_OF_RANGE);
    OK(gateway_histogram_clear(histogram));
    OK(gateway_histogram_read(histogram, &told));
    NUMBER(told.count, 0);
    OK(gateway_histogram_free(other));
    OK(gateway_histogram_free(histogram));
    STATUS(gateway_histogram_new(9, &histogram), GATEWAY_OUT_OF_RANGE);
    STATUS(gateway_histogram_new(256 + 6, &histogram), GATEWAY_OUT_OF_RANGE);
}

static void a_backoff_waits_one_two_and_four_seconds(void) {
    gateway_backoff *backoff = NULL;
    gateway_backoff_config exact = GATEWAY_BACKOFF_CONFIG_INIT;
    exact.jitter_ppm = 0;
    OK(gateway_backoff_new(&exact, &backoff));
    gateway_retry retry;
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        uint64_t delay = 0;
        OK(gateway_backoff_delay(backoff, id_of(7), attempt, 0, &delay));
        NUMBER(delay, GATEWAY_SECOND << (attempt - 1));
        OK(gateway_backoff_next(backoff, id_of(7), attempt, START, START, 0, &retry));
        NUMBER(retry.at, START + delay);
        NUMBER(retry.kind, GATEWAY_RETRY_AT);
    }
    STATUS(gateway_backoff_next(backoff, id_of(7), 4, START, START, 0, &retry), GATEWAY_NONE);
    NUMBER(retry.kind, GATEWAY_RETRY_EXHAUSTED);
    OK(gateway_backoff_next(backoff, id_of(7), 1, START, START, 9 * GATEWAY_SECOND, &retry));
    NUMBER(retry.at, START + 9 * GATEWAY_SECOND);
    OK(gateway_backoff_free(backoff));
    gateway_backoff_config config = GATEWAY_BACKOFF_CONFIG_INIT;
    config.total = 1;
    OK(gateway_backoff_new(&config, &backoff));
    STATUS(gateway_backoff_next(backoff, id_of(7), 1, START, START, 0, &retry), GATEWAY_NONE);
    NUMBER(retry.kind, GATEWAY_RETRY_OUT_OF_TIME);
    OK(gateway_backoff_free(backoff));
    config.max = 1;
    STATUS(gateway_backoff_new(&config, &backoff), GATEWAY_CONTRADICTION);
}

int main(void) {
    a_limiter_says_when();
    a_keyed_limiter_knows_so_many_keys();
    any_amount_and_period_is_exact();
    no_step_of_the_clock_freezes_a_limiter();
    no_window_has_too_many();
    a_breaker_opens_probes_and_closes();
    a_queue_is_fair_and_knows_positions();
    a_store_lets_only_the_present_attempt_answer();
    a_collector_charges_each_call_once();
    a_histogram_tells_quantiles();
    a_backoff_waits_one_two_and_four_seconds();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
