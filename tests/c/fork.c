/* Forked children: what they inherited is answered at once, whatever the threads of their parent were doing, and what they
   make works. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that hangs is ended by this, and the test fails: no more than that. */
#define HANGS 300
#define THREADS 3
#define FORKS 60

/* One of each kind. */
typedef struct {
    gateway *gw;
    gateway_lease *lease;
    gateway_settlements *settlements;
    gateway_watch *watch;
    gateway_slices *slices;
    gateway_bytes *bytes;
    gateway_limiter *limiter;
    gateway_keyed_limiter *keyed;
    gateway_window *window;
    gateway_breaker *breaker;
    gateway_queue *queue;
    gateway_store *store;
    gateway_billing *billing;
    gateway_histogram *histogram;
    gateway_backoff *backoff;
} all;
#define KINDS 15

static all make_all(void) {
    all own;
    const gateway_rate rate = {GATEWAY_SECOND, 1, 1};
    const gateway_window_limit limit = {GATEWAY_SECOND, 1, 0};
    own.gw = flux_gateway(8);
    submit(own.gw, START, 1);
    OK(gateway_dispatch(own.gw, START, &own.lease, NULL));
    submit(own.gw, START, 2);
    OK(gateway_cancel(own.gw, START, id_of(2)));
    OK(gateway_take_settlements(own.gw, START, 1, &own.settlements));
    OK(gateway_watch_new(id_of(1), &own.watch));
    OK(gateway_slices_new(own.gw, &own.slices));
    OK(gateway_snapshot(own.gw, &own.bytes));
    OK(gateway_limiter_new(&rate, START, &own.limiter));
    OK(gateway_keyed_limiter_new(NULL, START, &own.keyed));
    OK(gateway_window_new(&limit, START, &own.window));
    OK(gateway_breaker_new(NULL, START, &own.breaker));
    OK(gateway_queue_new(NULL, &own.queue));
    OK(gateway_store_new(NULL, START, &own.store));
    OK(gateway_billing_new(NULL, 1, "USD", NULL, 0, &own.billing));
    OK(gateway_histogram_new(3, &own.histogram));
    OK(gateway_backoff_new(NULL, &own.backoff));
    return own;
}

/* A call on each of them, that takes its lock. */
static void ask_all(const all *own, gateway_status answers[KINDS]) {
    gateway_lease_info info;
    gateway_batch batch;
    gateway_watch_event event;
    gateway_bytes *slice = NULL;
    gateway_admitted admitted;
    gateway_distribution distribution;
    uint64_t number;
    uint32_t count;
    size_t len;
    answers[0] = gateway_commands(own->gw, &number);
    answers[1] = gateway_lease_read(own->lease, &info);
    answers[2] = gateway_settlements_batch(own->settlements, &batch);
    answers[3] = gateway_watch_poll(own->watch, own->gw, &event);
    answers[4] = gateway_slices_next(own->slices, own->gw, &slice);
    answers[5] = gateway_bytes_len(own->bytes, &len);
    answers[6] = gateway_limiter_try_acquire(own->limiter, 1, START, NULL);
    answers[7] = gateway_keyed_limiter_len(own->keyed, &len);
    answers[8] = gateway_window_next_deadline(own->window, &number);
    answers[9] = gateway_breaker_admit(own->breaker, START, &admitted);
    answers[10] = gateway_queue_len(own->queue, &len);
    answers[11] = gateway_store_count(own->store, 0, &count);
    answers[12] = gateway_billing_next_deadline(own->billing, &number);
    answers[13] = gateway_histogram_read(own->histogram, &distribution);
    answers[14] = gateway_backoff_delay(own->backoff, id_of(1), 1, 0, &number);
    if (answers[4] == GATEWAY_OK) OK(gateway_bytes_free(slice));
}

static void free_all(const all *own, gateway_status want) {
    STATUS(gateway_free(own->gw), want);
    STATUS(gateway_lease_free(own->lease), want);
    STATUS(gateway_settlements_free(own->settlements), want);
    STATUS(gateway_watch_free(own->watch), want);
    STATUS(gateway_slices_free(own->slices), want);
    STATUS(gateway_bytes_free(own->bytes), want);
    STATUS(gateway_limiter_free(own->limiter), want);
    STATUS(gateway_keyed_limiter_free(own->keyed), want);
    STATUS(gateway_window_free(own->window), want);
    STATUS(gateway_breaker_free(own->breaker), want);
    STATUS(gateway_queue_free(own->queue), want);
    STATUS(gateway_store_free(own->store), want);
    STATUS(gateway_billing_free(own->billing), want);
    STATUS(gateway_histogram_free(own->histogram), want);
    STATUS(gateway_backoff_free(own->backoff), want);
}

/* Does something in a child, and wants it to end well. */
static void in_a_child(void (*body)(void *), void *context) {
    fflush(NULL);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(HANGS);
        body(context);
        CHILD_IS_WELL();
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) fprintf(stderr, "the child was ended by signal %d\n", WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void inherited_is_forked(const all *own) {
    gateway_status answers[KINDS];
    char name[32];
    ask_all(own, answers);
    for (int kind = 0; kind < KINDS; kind++) NUMBER(answers[kind], GATEWAY_FORKED);
    free_all(own, GATEWAY_FORKED);
    OK(gateway_last_error_name(name, sizeof name, NULL));
    TEXT(name, "forked");
    TEXT(gateway_status_name(GATEWAY_FORKED), "forked");
    CHECK(gateway_now() > 0);
}

/* What a child makes is a whole library of its own. */
static void a_life_of_its_own(void *context) {
    const all *parents = (const all *)context;
    inherited_is_forked(parents);
    NUMBER(gateway_handles_live(), 0);
    all own = make_all();
    NUMBER(gateway_handles_live(), KINDS);
    gateway_status answers[KINDS];
    ask_all(&own, answers);
    for (int kind = 0; kind < KINDS; kind++) CHECK(answers[kind] >= 0);
    CHECK(own.gw != parents->gw && own.lease != parents->lease);
    gateway_lease *lease = NULL;
    STATUS(gateway_wait_dispatch(own.gw, 0, &lease), GATEWAY_WAIT);
    inherited_is_forked(parents);
    free_all(&own, GATEWAY_OK);
    free_all(&own, GATEWAY_INVALID_HANDLE);
    NUMBER(gateway_handles_live(), 0);
}

/* --- A busy parent --- */

typedef struct {
    all own;
    int stop;
} parent;

static inline int is_over(parent *own) { return __atomic_load_n(&own->stop, __ATOMIC_RELAXED); }

/* Holds any lock at any time, and makes and frees handles. */
static inline void *be_busy(void *context) {
    parent *own = (parent *)context;
    while (!is_over(own)) {
        gateway_status answers[KINDS];
        gateway_bytes *bytes = NULL;
        ask_all(&own->own, answers);
        for (int kind = 0; kind < KINDS; kind++) {
            CHECK(answers[kind] >= 0 || answers[kind] == GATEWAY_CHANGED);
        }
        OK(gateway_snapshot(own->own.gw, &bytes));
        OK(gateway_bytes_free(bytes));
    }
    return NULL;
}

static inline void *be_waiting(void *context) {
    parent *own = (parent *)context;
    gateway_lease *lease = NULL;
    while (!is_over(own)) {
        // An end, as gateway_wake wakes nobody who is only about to wait.
        STATUS(gateway_wait_dispatch(own->own.gw, gateway_now() + GATEWAY_MILLISECOND, &lease), GATEWAY_WAIT);
    }
    return NULL;
}

static inline void *be_forking(void *context) {
    parent *own = (parent *)context;
    for (int i = 0; i < FORKS; i++) in_a_child(a_life_of_its_own, &own->own);
    return NULL;
}

static inline void children_of_a_busy_parent_are_answered_at_once(void) {
    parent own = {make_all(), 0};
    pthread_t busy[THREADS + 1], forking[2];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&busy[i], NULL, be_busy, &own) == 0);
    CHECK(pthread_create(&busy[THREADS], NULL, be_waiting, &own) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&forking[i], NULL, be_forking, &own) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(forking[i], NULL) == 0);
    __atomic_store_n(&own.stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS + 1; i++) CHECK(pthread_join(busy[i], NULL) == 0);
    // Nothing that they did is seen here.
    NUMBER(gateway_handles_live(), KINDS);
    free_all(&own.own, GATEWAY_OK);
}

/* --- Children of children --- */

static void a_child_of_its_own(void *context) {
    all own = make_all();
    in_a_child(a_life_of_its_own, context);
    in_a_child(a_life_of_its_own, &own);
    free_all(&own, GATEWAY_OK);
}

static void a_grandchild_has_neither(void) {
    all own = make_all();
    in_a_child(a_child_of_its_own, &own);
    free_all(&own, GATEWAY_OK);
}

/* Without handles of their own they use nothing up: 4 096 of them in a row would else leave no room. */
static void a_chain_of_children(void *context) {
    int *left = (int *)context;
    if (*left == 0) {
        all own = make_all();
        free_all(&own, GATEWAY_OK);
        return;
    }
    *left -= 1;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        a_chain_of_children(context);
        CHILD_IS_WELL();
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_long_line_of_children_uses_nothing_up(void) {
    all own = make_all();
    int children = 30;
    in_a_child(a_chain_of_children, &children);
    free_all(&own, GATEWAY_OK);
}

/* --- Inside of a transaction --- */

typedef struct {
    gateway *gw;
    int is_child;
} caller;

static gateway_status fork_inside(gateway_tx *tx, void *context) {
    caller *own = (caller *)context;
    uint64_t now = 0;
    OK(gateway_tx_submit(tx, id_of(7), "acme", "image/flux/dev/t2i", NULL, NULL));
    fflush(NULL);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(HANGS);
        own->is_child = 1;
        STATUS(gateway_tx_now(tx, &now), GATEWAY_FORKED);
        STATUS(gateway_tx_cancel(tx, id_of(7)), GATEWAY_FORKED);
        STATUS(gateway_commands(own->gw, &now), GATEWAY_FORKED);
        return GATEWAY_WAIT;
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return GATEWAY_OK;
}

/* The callback's answer was to wait; in the child nobody would ever wake it. */
static void a_child_made_inside_of_a_transaction_leaves_it_forked(void) {
    for (int waits = 0; waits < 2; waits++) {
        gateway *gw = flux_gateway(1);
        caller own = {gw, 0};
        gateway_status status = waits ? gateway_wait_transaction(gw, GATEWAY_FOREVER, fork_inside, &own)
                                      : gateway_transaction(gw, START, fork_inside, &own);
        if (own.is_child) {
            STATUS(status, GATEWAY_FORKED);
            all made = make_all();
            free_all(&made, GATEWAY_OK);
            CHILD_IS_WELL();
        }
        STATUS(status, GATEWAY_OK);
        OK(gateway_cancel(gw, START, id_of(7)));
        OK(gateway_free(gw));
    }
}

/* --- A snapshot is how a gateway gets there --- */

typedef struct {
    gateway *gw;
    char *snapshot;
    size_t len;
} saved;

static void restore(void *context) {
    saved *own = (saved *)context;
    gateway *gw = NULL;
    STATUS(gateway_commands(own->gw, NULL), GATEWAY_BAD_POINTER);
    OK(gateway_restore(own->snapshot, own->len, START, 0, &gw));
    NUMBER(lease_next(gw, START).job.low, 1);
    OK(gateway_free(gw));
}

static void a_snapshot_of_the_parent_goes_on_in_the_child(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, START, 1);
    gateway_bytes *bytes = NULL;
    OK(gateway_snapshot(gw, &bytes));
    saved own = {gw, NULL, 0};
    OK(gateway_bytes_len(bytes, &own.len));
    own.snapshot = (char *)malloc(own.len);
    OK(gateway_bytes_copy(bytes, own.snapshot, own.len, NULL));
    OK(gateway_bytes_free(bytes));
    in_a_child(restore, &own);
    NUMBER(lease_next(gw, START).job.low, 1);
    free(own.snapshot);
    OK(gateway_free(gw));
}

/* Before anything was made there is nothing to inherit. */
static void an_early_child(void *context) {
    (void)context;
    NUMBER(gateway_handles_live(), 0);
    all own = make_all();
    free_all(&own, GATEWAY_OK);
}

int main(void) {
    in_a_child(an_early_child, NULL);
    a_grandchild_has_neither();
    a_long_line_of_children_uses_nothing_up();
    a_child_made_inside_of_a_transaction_leaves_it_forked();
    a_snapshot_of_the_parent_goes_on_in_the_child();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // The memory of older sanitizers has locks that are closed for ever in a child: it hangs there, and not here.
    children_of_a_busy_parent_are_answered_at_once();
#endif
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
