/* Many threads on the same handles: calls take turns, waiters are woken, and freeing hurts nobody.
   Uses the library with its feature `testing`, which tells how many callers wait: no test has to guess by the clock. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <time.h>

#define THREADS 4

static void until_waiting(gateway *gw, uint32_t callers) {
    while (gateway_testing_waiting(gw) != callers) sched_yield();
}

static pthread_t start(void *(*body)(void *), void *context) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, context) == 0);
    return thread;
}

static void join_all(pthread_t *threads, int count) {
    for (int i = 0; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

/* A gateway at the system's time, as calls that wait need it. */
static gateway *gateway_now_flux(uint32_t slots) {
    gateway *gw = NULL;
    OK(gateway_new(NULL, gateway_now(), &gw));
    put_flux(gw, gateway_now(), slots);
    return gw;
}

/* --- One limiter --- */

typedef struct {
    gateway_limiter *limiter;
    int allowed;
} taker;

static void *take(void *context) {
    taker *own = (taker *)context;
    for (int i = 0; i < 1000; i++) own->allowed += gateway_limiter_try_acquire(own->limiter, 1, START, NULL) == GATEWAY_OK;
    return NULL;
}

static void a_limit_holds_over_all_threads(void) {
    gateway_rate rate = {GATEWAY_SECOND, 0, 1234};
    gateway_limiter *limiter = NULL;
    OK(gateway_limiter_new(&rate, START, &limiter));
    taker takers[THREADS];
    pthread_t threads[THREADS];
    int allowed = 0;
    for (int i = 0; i < THREADS; i++) {
        takers[i].limiter = limiter, takers[i].allowed = 0;
        threads[i] = start(take, &takers[i]);
    }
    join_all(threads, THREADS);
    for (int i = 0; i < THREADS; i++) allowed += takers[i].allowed;
    NUMBER(allowed, 1234);
    OK(gateway_limiter_free(limiter));
}

/* --- One gateway --- */

typedef struct {
    gateway *gw;
    uint64_t first;
    int completed;
} host;

static void *work(void *context) {
    host *own = (host *)context;
    for (uint64_t n = 0; n < 200; n++) {
        submit(own->gw, START, own->first + n);
        gateway_lease *lease = NULL;
        gateway_status status = gateway_dispatch(own->gw, START, &lease, NULL);
        if (status == GATEWAY_WAIT) continue;
        CHECK(status == GATEWAY_OK);
        gateway_lease_info info;
        OK(gateway_lease_read(lease, &info));
        OK(gateway_lease_free(lease));
        gateway_output output = GATEWAY_OUTPUT_DATA("png", 3);
        OK(gateway_heartbeat(own->gw, START, info.id, NULL));
        OK(gateway_complete(own->gw, START, info.id, &output, NULL, 0, NULL));
        own->completed++;
    }
    return NULL;
}

static void every_job_is_completed_once(void) {
    gateway *gw = flux_gateway(64);
    host hosts[THREADS];
    pthread_t threads[THREADS];
    int completed = 0;
    for (int i = 0; i < THREADS; i++) {
        hosts[i].gw = gw, hosts[i].first = (uint64_t)i * 1000 + 1, hosts[i].completed = 0;
        threads[i] = start(work, &hosts[i]);
    }
    join_all(threads, THREADS);
    for (int i = 0; i < THREADS; i++) completed += hosts[i].completed;
    NUMBER(completed, THREADS * 200);
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    NUMBER(stats.completed_total, THREADS * 200);
    NUMBER(stats.queued + stats.running, 0);
    OK(gateway_free(gw));
}

/* --- Waiting --- */

typedef struct {
    gateway *gw;
    uint64_t until;
    gateway_status status;
    gateway_job_id job;
    size_t count;
    uint32_t state;
    uint64_t changes;
    gateway_lease *leases[4];
} waiter;

static waiter waiter_on(gateway *gw, uint64_t until) {
    waiter own;
    memset(&own, 0, sizeof own);
    own.gw = gw;
    own.until = until;
    return own;
}

static void *wait_dispatch(void *context) {
    waiter *own = (waiter *)context;
    own->status = gateway_wait_dispatch(own->gw, own->until, &own->leases[0]);
    if (own->status == GATEWAY_OK) {
        gateway_lease_info info;
        OK(gateway_lease_read(own->leases[0], &info));
        OK(gateway_lease_free(own->leases[0]));
        own->job = info.job;
    }
    return NULL;
}

static void *wait_batch(void *context) {
    waiter *own = (waiter *)context;
    own->status = gateway_wait_dispatch_to(own->gw, "flux-1", own->until, own->leases, 4, &own->count);
    for (size_t i = 0; i < own->count; i++) OK(gateway_lease_free(own->leases[i]));
    return NULL;
}

static void *wait_ended(void *context) {
    waiter *own = (waiter *)context;
    own->status = gateway_wait_ended(own->gw, own->job, own->until, &own->state);
    return NULL;
}

static void *wait_change(void *context) {
    waiter *own = (waiter *)context;
    own->status = gateway_wait_change(own->gw, own->until, &own->changes);
    return NULL;
}

static gateway_status two_jobs(gateway_tx *tx, void *context) {
    waiter *own = (waiter *)context;
    for (size_t i = 0; i < 2; i++) {
        gateway_status status = gateway_tx_dispatch(tx, &own->leases[i], NULL);
        if (status != GATEWAY_OK) {
            // What was leased so far goes back.
            while (i > 0) OK(gateway_lease_free(own->leases[--i]));
            return status;
        }
    }
    return GATEWAY_OK;
}

static void *wait_transaction(void *context) {
    waiter *own = (waiter *)context;
    own->status = gateway_wait_transaction(own->gw, own->until, two_jobs, own);
    if (own->status == GATEWAY_OK) {
        OK(gateway_lease_free(own->leases[0]));
        OK(gateway_lease_free(own->leases[1]));
    }
    return NULL;
}

static void each_waiter_gets_a_job_when_one_comes(void) {
    gateway *gw = gateway_now_flux(16);
    waiter waiters[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        waiters[i] = waiter_on(gw, GATEWAY_FOREVER);
        threads[i] = start(wait_dispatch, &waiters[i]);
    }
    until_waiting(gw, THREADS);
    for (uint64_t n = 1; n <= THREADS; n++) submit(gw, gateway_now(), n);
    join_all(threads, THREADS);
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        STATUS(waiters[i].status, GATEWAY_OK);
        sum += waiters[i].job.low;
    }
    NUMBER(sum, THREADS * (THREADS + 1) / 2);
    NUMBER(gateway_testing_waiting(gw), 0);
    OK(gateway_free(gw));
}

static void a_waiting_backend_gets_a_batch(void) {
    gateway *gw = gateway_now_flux(16);
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    pthread_t thread = start(wait_batch, &own);
    until_waiting(gw, 1);
    submit(gw, gateway_now(), 1);
    join_all(&thread, 1);
    STATUS(own.status, GATEWAY_OK);
    NUMBER(own.count, 1);
    // What is there already is not waited for.
    for (uint64_t n = 2; n <= 4; n++) submit(gw, gateway_now(), n);
    wait_batch(&own);
    NUMBER(own.count, 3);
    own.until = 0;
    wait_batch(&own);
    STATUS(own.status, GATEWAY_WAIT);
    NUMBER(own.count, 0);
    OK(gateway_free(gw));
}

static void the_end_of_a_job_is_waited_for(void) {
    gateway *gw = gateway_now_flux(16);
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    own.job = submit(gw, gateway_now(), 1);
    pthread_t thread = start(wait_ended, &own);
    until_waiting(gw, 1);
    OK(gateway_cancel(gw, gateway_now(), own.job));
    join_all(&thread, 1);
    STATUS(own.status, GATEWAY_OK);
    NUMBER(own.state, GATEWAY_STATE_CANCELLED);
    STATUS(gateway_wait_ended(gw, id_of(9), GATEWAY_FOREVER, NULL), GATEWAY_NONE);
    STATUS(gateway_wait_ended(gw, submit(gw, gateway_now(), 2), 0, NULL), GATEWAY_WAIT);
    OK(gateway_free(gw));
}

static void a_transaction_waits_until_all_of_it_can_happen(void) {
    gateway *gw = gateway_now_flux(16);
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    pthread_t thread = start(wait_transaction, &own);
    until_waiting(gw, 1);
    submit(gw, gateway_now(), 1);
    until_waiting(gw, 1);
    submit(gw, gateway_now(), 2);
    join_all(&thread, 1);
    STATUS(own.status, GATEWAY_OK);
    own.until = 0;
    wait_transaction(&own);
    STATUS(own.status, GATEWAY_WAIT);
    OK(gateway_free(gw));
}

static void no_change_is_missed(void) {
    gateway *gw = gateway_now_flux(16);
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    OK(gateway_changes(gw, &own.changes));
    const uint64_t before = own.changes;
    pthread_t thread = start(wait_change, &own);
    until_waiting(gw, 1);
    submit(gw, gateway_now(), 1);
    join_all(&thread, 1);
    STATUS(own.status, GATEWAY_OK);
    CHECK(own.changes != before);
    own.changes = before;
    wait_change(&own);
    STATUS(own.status, GATEWAY_OK);
    own.until = 0;
    wait_change(&own);
    STATUS(own.status, GATEWAY_WAIT);
    OK(gateway_free(gw));
}

static void a_retry_that_falls_due_wakes_a_waiter(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    gateway_backoff_config backoff = GATEWAY_BACKOFF_CONFIG_INIT;
    backoff.base = 20 * GATEWAY_MILLISECOND;
    config.backoff = &backoff;
    gateway *gw = NULL;
    OK(gateway_new(&config, gateway_now(), &gw));
    put_flux(gw, gateway_now(), 1);
    submit(gw, gateway_now(), 1);
    gateway_lease_info info = lease_next(gw, gateway_now());
    gateway_failure failure = GATEWAY_FAILURE_INIT;
    failure.failure_class = GATEWAY_FAILURE_TIMEOUT;
    gateway_after_failure after;
    OK(gateway_fail(gw, gateway_now(), info.id, &failure, NULL, 0, &after));
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    wait_dispatch(&own);
    STATUS(own.status, GATEWAY_OK);
    CHECK(gateway_now() >= after.at);
    OK(gateway_free(gw));
}

static void a_delayed_job_wakes_a_waiter_at_its_instant(void) {
    gateway *gw = gateway_now_flux(1);
    waiter own = waiter_on(gw, GATEWAY_FOREVER);
    pthread_t thread = start(wait_dispatch, &own);
    until_waiting(gw, 1);
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.not_before = gateway_now() + 20 * GATEWAY_MILLISECOND;
    OK(gateway_submit(gw, gateway_now(), id_of(1), "acme", "image/flux/dev/t2i", &options, NULL));
    join_all(&thread, 1);
    STATUS(own.status, GATEWAY_OK);
    CHECK(same_id(own.job, id_of(1)));
    CHECK(gateway_now() >= options.not_before);
    OK(gateway_free(gw));
}

static void room_that_is_made_wakes_a_waiter(void) {
    gateway *gw = gateway_now_flux(1);
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.priority = GATEWAY_PRIORITY_HIGH;
    submit(gw, gateway_now(), 1);
    lease_next(gw, gateway_now());
    for (uint64_t n = 2; n <= 3; n++) {
        waiter own = waiter_on(gw, GATEWAY_FOREVER);
        OK(gateway_submit(gw, gateway_now(), id_of(n), "acme", "image/flux/dev/t2i", &options, NULL));
        pthread_t thread = start(wait_dispatch, &own);
        until_waiting(gw, 1);
        gateway_evicted evicted[1];
        size_t count = 0;
        if (n == 2) OK(gateway_preempt(gw, gateway_now(), id_of(1), NULL, 0, NULL));
        else OK(gateway_evict_backend(gw, gateway_now(), "flux-1", GATEWAY_EVICT_TO_ERROR, evicted, 1, &count));
        join_all(&thread, 1);
        STATUS(own.status, GATEWAY_OK);
        CHECK(same_id(own.job, id_of(n)));
    }
    OK(gateway_free(gw));
}

/* --- A backend that is evicted while others lease from it: each lease is told to somebody --- */

typedef struct {
    gateway *gw;
    uint64_t leases;
} lessee;

static void *lease_on(void *context) {
    lessee *own = (lessee *)context;
    for (int i = 0; i < 200; i++) {
        gateway_lease *lease = NULL;
        gateway_status status = gateway_dispatch(own->gw, START, &lease, NULL);
        CHECK(status == GATEWAY_OK || status == GATEWAY_WAIT);
        own->leases += status == GATEWAY_OK;
        OK(gateway_lease_free(lease));
    }
    return NULL;
}

static void no_lease_of_an_evicted_backend_is_lost_on_the_way(void) {
    gateway *gw = flux_gateway(8);
    for (uint64_t n = 1; n <= 16; n++) submit(gw, START, n);
    lessee lessees[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        lessees[i].gw = gw, lessees[i].leases = 0;
        threads[i] = start(lease_on, &lessees[i]);
    }
    uint64_t granted = 0, told = 0;
    for (int i = 0; i < 400; i++) {
        // Some lists are too short: what they would have told stays as it is.
        gateway_evicted evicted[8];
        const size_t cap = (size_t)i % 9;
        size_t count = 0;
        gateway_status status = gateway_evict_backend(gw, START, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, cap, &count);
        CHECK(status == GATEWAY_OK ? count <= cap : status == GATEWAY_BUFFER_TOO_SMALL && count > cap);
        if (status == GATEWAY_OK) told += count;
    }
    join_all(threads, THREADS);
    for (int i = 0; i < THREADS; i++) granted += lessees[i].leases;
    gateway_stats stats;
    OK(gateway_read_stats(gw, &stats));
    CHECK(granted > 0);
    NUMBER(stats.leases_total, granted);
    NUMBER(stats.preempted_total, told);
    NUMBER(stats.running, granted - told);
    OK(gateway_free(gw));
}

static void *(*const waits[])(void *) = {wait_dispatch, wait_batch, wait_ended, wait_change, wait_transaction};
#define WAITS 5

static void all_wait(gateway *gw, waiter *waiters, pthread_t *threads) {
    gateway_job_id job = submit(gw, gateway_now(), 1);
    OK(gateway_pause(gw, gateway_now(), "image/flux/dev/t2i"));
    for (int i = 0; i < WAITS; i++) {
        waiters[i] = waiter_on(gw, GATEWAY_FOREVER);
        waiters[i].job = job;
        OK(gateway_changes(gw, &waiters[i].changes));
        threads[i] = start(waits[i], &waiters[i]);
    }
    until_waiting(gw, WAITS);
}

static void *wait_outcome(void *context) {
    waiter *own = (waiter *)context;
    gateway_outcome outcome;
    gateway_bytes *bytes = NULL;
    own->status = gateway_wait_outcome(own->gw, own->job, own->until, &outcome, &bytes);
    if (own->status == GATEWAY_OK) {
        char url[64] = {0};
        size_t len = 0;
        NUMBER(outcome.kind, GATEWAY_OUTCOME_URL);
        OK(gateway_bytes_copy(bytes, url, sizeof url - 1, &len));
        own->count = (size_t)atoi(url);
        OK(gateway_bytes_free(bytes));
    }
    return NULL;
}

/* One is kept, and each job ends before the next: each of those who wait gets its own outcome all the same. */
static void who_waits_gets_the_outcome_however_few_are_kept(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.retained_max = 1;
    gateway *gw = NULL;
    OK(gateway_new(&config, gateway_now(), &gw));
    put_flux(gw, gateway_now(), THREADS);
    waiter waiters[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        waiters[i] = waiter_on(gw, GATEWAY_FOREVER);
        waiters[i].job = submit(gw, gateway_now(), (uint64_t)i + 1);
        threads[i] = start(wait_outcome, &waiters[i]);
    }
    until_waiting(gw, THREADS);
    for (int i = 0; i < THREADS; i++) {
        gateway_lease_info info = lease_next(gw, gateway_now());
        char url[16];
        snprintf(url, sizeof url, "%llu", (unsigned long long)info.job.low);
        gateway_output output = GATEWAY_OUTPUT_URL(url);
        OK(gateway_complete(gw, gateway_now(), info.id, &output, NULL, 0, NULL));
    }
    join_all(threads, THREADS);
    for (int i = 0; i < THREADS; i++) {
        STATUS(waiters[i].status, GATEWAY_OK);
        NUMBER(waiters[i].count, waiters[i].job.low);
    }
    waiter late = waiters[0];
    wait_outcome(&late);
    STATUS(late.status, GATEWAY_NONE);
    OK(gateway_free(gw));
}

static void the_end_of_a_job_wakes_its_own_watcher_alone(void) {
    gateway *gw = gateway_now_flux(16);
    waiter waiters[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        waiters[i] = waiter_on(gw, GATEWAY_FOREVER);
        waiters[i].job = submit(gw, gateway_now(), (uint64_t)i + 1);
        threads[i] = start(wait_ended, &waiters[i]);
    }
    until_waiting(gw, THREADS);
    const uint64_t before = gateway_testing_attempts(gw);
    for (uint64_t n = 100; n < 150; n++) {
        submit(gw, gateway_now(), n);
        OK(gateway_cancel(gw, gateway_now(), id_of(n)));
    }
    OK(gateway_cancel(gw, gateway_now(), id_of(1)));
    join_all(threads, 1);
    // One ended, and one took over to wake at the deadline, if that.
    CHECK(gateway_testing_attempts(gw) - before <= 4);
    NUMBER(gateway_testing_waiting(gw), THREADS - 1);
    for (int i = 1; i < THREADS; i++) OK(gateway_cancel(gw, gateway_now(), waiters[i].job));
    join_all(threads + 1, THREADS - 1);
    for (int i = 0; i < THREADS; i++) STATUS(waiters[i].status, GATEWAY_OK);
    OK(gateway_free(gw));
}

/* Each took a job, found no second one and gave it back, and each took that for news: they woke each other for ever. */
static void transactions_that_wait_do_not_wake_each_other(void) {
    gateway *gw = gateway_now_flux(16);
    submit(gw, gateway_now(), 1);
    waiter waiters[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        waiters[i] = waiter_on(gw, GATEWAY_FOREVER);
        threads[i] = start(wait_transaction, &waiters[i]);
    }
    until_waiting(gw, 2);
    for (int i = 0; i < 1000; i++) STATUS(gateway_cancel(gw, gateway_now(), id_of(77)), GATEWAY_UNKNOWN_JOB);
    NUMBER(gateway_testing_attempts(gw), 2);
    for (uint64_t n = 2; n <= 4; n++) submit(gw, gateway_now(), n);
    join_all(threads, 2);
    for (int i = 0; i < 2; i++) STATUS(waiters[i].status, GATEWAY_OK);
    CHECK(gateway_testing_attempts(gw) <= 2 + 2 * 3);
    OK(gateway_free(gw));
}

static void a_panic_wakes_everybody_who_waits(void) {
    gateway *gw = gateway_now_flux(1);
    waiter waiters[WAITS];
    pthread_t threads[WAITS];
    all_wait(gw, waiters, threads);
    STATUS(gateway_testing_panic(gw), GATEWAY_PANIC);
    join_all(threads, WAITS);
    for (int i = 0; i < WAITS; i++) STATUS(waiters[i].status, GATEWAY_POISONED);
    OK(gateway_free(gw));
}

static void waking_ends_every_wait(void) {
    gateway *gw = gateway_now_flux(1);
    waiter waiters[WAITS];
    pthread_t threads[WAITS];
    all_wait(gw, waiters, threads);
    OK(gateway_wake(gw));
    join_all(threads, WAITS);
    for (int i = 0; i < WAITS; i++) STATUS(waiters[i].status, GATEWAY_WAIT);
    NUMBER(gateway_testing_waiting(gw), 0);
    OK(gateway_free(gw));
}

static void freeing_ends_every_wait(void) {
    gateway *gw = gateway_now_flux(1);
    waiter waiters[WAITS];
    pthread_t threads[WAITS];
    all_wait(gw, waiters, threads);
    OK(gateway_free(gw));
    join_all(threads, WAITS);
    for (int i = 0; i < WAITS; i++) STATUS(waiters[i].status, GATEWAY_INVALID_HANDLE);
}

static void who_waits_for_a_poisoned_gateway_is_told(void) {
    gateway *gw = gateway_now_flux(1);
    waiter waiters[WAITS];
    pthread_t threads[WAITS];
    uint64_t changes;
    all_wait(gw, waiters, threads);
    STATUS(gateway_testing_panic(gw), GATEWAY_PANIC);
    STATUS(gateway_changes(gw, &changes), GATEWAY_POISONED);
    join_all(threads, WAITS);
    for (int i = 0; i < WAITS; i++) STATUS(waiters[i].status, GATEWAY_POISONED);
    OK(gateway_free(gw));
}

/* --- Freeing --- */

static void *call_until_dead(void *context) {
    host *own = (host *)context;
    for (int n = 0;; n++) {
        uint64_t deadline;
        gateway_status status = gateway_next_deadline(own->gw, &deadline);
        if (status == GATEWAY_INVALID_HANDLE) return NULL;
        STATUS(status, GATEWAY_OK);
        if (n < 500) continue;
        status = gateway_free(own->gw);
        own->completed += status == GATEWAY_OK;
        CHECK(status == GATEWAY_OK || status == GATEWAY_INVALID_HANDLE);
    }
}

static void one_of_many_frees_and_the_others_are_told(void) {
    host hosts[THREADS];
    pthread_t threads[THREADS];
    gateway *gw = flux_gateway(1);
    int freed = 0;
    for (int i = 0; i < THREADS; i++) {
        hosts[i].gw = gw, hosts[i].completed = 0;
        threads[i] = start(call_until_dead, &hosts[i]);
    }
    join_all(threads, THREADS);
    for (int i = 0; i < THREADS; i++) freed += hosts[i].completed;
    NUMBER(freed, 1);
}

/* --- The rest --- */

static void *fail_otherwise(void *context) {
    (void)context;
    STATUS(gateway_last_error_status(), GATEWAY_OK);
    STATUS(gateway_job_id_parse("j_7", NULL), GATEWAY_BAD_POINTER);
    return NULL;
}

static void each_thread_has_its_own_last_error(void) {
    gateway_job_id id;
    STATUS(gateway_job_id_parse("j_7", &id), GATEWAY_MALFORMED);
    pthread_t thread = start(fail_otherwise, NULL);
    join_all(&thread, 1);
    STATUS(gateway_last_error_status(), GATEWAY_MALFORMED);
}

static gateway_histogram *one, *other;

static void *merge_crosswise(void *context) {
    gateway_histogram *to = context == NULL ? one : other, *from = context == NULL ? other : one;
    for (int i = 0; i < 200; i++) OK(gateway_histogram_merge(to, from));
    return NULL;
}

static void merging_crosswise_ends(void) {
    OK(gateway_histogram_new(3, &one));
    OK(gateway_histogram_new(3, &other));
    pthread_t threads[2] = {start(merge_crosswise, NULL), start(merge_crosswise, &one)};
    join_all(threads, 2);
    OK(gateway_histogram_free(one));
    OK(gateway_histogram_free(other));
}

/* Who waits, waits by the clock that it sleeps by: a gateway made ten hours ago, or by a clock that is ten hours ahead,
   once was asked again and again, as fast as the machine could. */
static void who_waits_does_not_spin(void) {
    const int64_t hours[] = {-10, 0, 10};
    for (int i = 0; i < 3; i++) {
        uint64_t made = (uint64_t)((int64_t)gateway_now() + hours[i] * 3600 * (int64_t)GATEWAY_SECOND);
        gateway *gw = NULL;
        OK(gateway_new(NULL, made, &gw));
        put_flux(gw, made, 1);
        submit(gw, made, 1);
        gateway_lease *lease = NULL;
        STATUS(gateway_dispatch(gw, made, &lease, NULL), GATEWAY_OK);
        clock_t before = clock();
        STATUS(gateway_wait_dispatch(gw, gateway_now() + GATEWAY_SECOND, &lease), GATEWAY_WAIT);
        uint64_t changes;
        OK(gateway_changes(gw, &changes));
        STATUS(gateway_wait_change(gw, gateway_now() + GATEWAY_SECOND, &changes), GATEWAY_WAIT);
        CHECK((double)(clock() - before) / CLOCKS_PER_SEC < 0.5);
        OK(gateway_lease_free(lease));
        OK(gateway_free(gw));
    }
}

static void the_clock_of_the_library_never_goes_back(void) {
    uint64_t last = gateway_now();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = gateway_now();
        CHECK(now >= last);
        last = now;
    }
    int64_t apart = (int64_t)time(NULL) - (int64_t)(last / GATEWAY_SECOND);
    CHECK(-3600 < apart && apart < 3600);
}

int main(void) {
    who_waits_does_not_spin();
    the_clock_of_the_library_never_goes_back();
    a_limit_holds_over_all_threads();
    every_job_is_completed_once();
    each_waiter_gets_a_job_when_one_comes();
    a_waiting_backend_gets_a_batch();
    the_end_of_a_job_is_waited_for();
    a_transaction_waits_until_all_of_it_can_happen();
    no_change_is_missed();
    a_retry_that_falls_due_wakes_a_waiter();
    a_delayed_job_wakes_a_waiter_at_its_instant();
    room_that_is_made_wakes_a_waiter();
    no_lease_of_an_evicted_backend_is_lost_on_the_way();
    who_waits_gets_the_outcome_however_few_are_kept();
    the_end_of_a_job_wakes_its_own_watcher_alone();
    transactions_that_wait_do_not_wake_each_other();
    a_panic_wakes_everybody_who_waits();
    waking_ends_every_wait();
    freeing_ends_every_wait();
    who_waits_for_a_poisoned_gateway_is_told();
    one_of_many_frees_and_the_others_are_told();
    each_thread_has_its_own_last_error();
    merging_crosswise_ends();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
