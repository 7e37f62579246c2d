/* gateway_wake_from_signal in a real signal handler: it interrupts a thread that holds the gateway's lock, or the allocator's,
   and wakes who waits. Uses the library with its feature `testing`, which tells how many callers wait. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

/* A call that hangs ends the program: no more than that. */
#define HANGS 300

static gateway *served;
static volatile sig_atomic_t answered;
static volatile sig_atomic_t handled;

static void on_signal(int number) {
    (void)number;
    answered = gateway_wake_from_signal(served);
    handled++;
}

static void handle(int number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void until_waiting(gateway *gw, uint32_t callers) {
    while (gateway_testing_waiting(gw) != callers) sched_yield();
}

/* --- Who waits --- */

typedef struct {
    gateway *gw;
    gateway_status dispatch, to, ended, change, transaction;
} answers;

static void *wait_dispatch(void *context) {
    answers *own = (answers *)context;
    gateway_lease *lease = NULL;
    own->dispatch = gateway_wait_dispatch(own->gw, GATEWAY_FOREVER, &lease);
    return NULL;
}

static void *wait_dispatch_to(void *context) {
    answers *own = (answers *)context;
    gateway_lease *lease = NULL;
    size_t count = 0;
    own->to = gateway_wait_dispatch_to(own->gw, "flux-1", GATEWAY_FOREVER, &lease, 1, &count);
    return NULL;
}

static void *wait_ended(void *context) {
    answers *own = (answers *)context;
    own->ended = gateway_wait_ended(own->gw, id_of(1), GATEWAY_FOREVER, NULL);
    return NULL;
}

static void *wait_change(void *context) {
    answers *own = (answers *)context;
    uint64_t changes = 0;
    OK(gateway_changes(own->gw, &changes));
    own->change = gateway_wait_change(own->gw, GATEWAY_FOREVER, &changes);
    return NULL;
}

static gateway_status not_now(gateway_tx *tx, void *context) {
    (void)tx, (void)context;
    return GATEWAY_WAIT;
}

static void *wait_transaction(void *context) {
    answers *own = (answers *)context;
    own->transaction = gateway_wait_transaction(own->gw, GATEWAY_FOREVER, not_now, NULL);
    return NULL;
}

#define WAITERS 5
static void *(*const waits[WAITERS])(void *) = {wait_dispatch, wait_dispatch_to, wait_ended, wait_change,
                                                wait_transaction};

/* A gateway whose only slot works for a job, and everybody waits for something that does not come. */
static gateway *gateway_with_waiters(answers *own, pthread_t threads[WAITERS]) {
    gateway *gw = NULL;
    gateway_lease *lease = NULL;
    OK(gateway_new(NULL, gateway_now(), &gw));
    put_flux(gw, gateway_now(), 1);
    submit(gw, gateway_now(), 1);
    OK(gateway_dispatch(gw, gateway_now(), &lease, NULL));
    OK(gateway_lease_free(lease));
    memset(own, 0x55, sizeof *own);
    own->gw = gw;
    for (int i = 0; i < WAITERS; i++) CHECK(pthread_create(&threads[i], NULL, waits[i], own) == 0);
    until_waiting(gw, WAITERS);
    return gw;
}

static void all_were_woken(const answers *own, pthread_t threads[WAITERS]) {
    for (int i = 0; i < WAITERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    STATUS(own->dispatch, GATEWAY_WAIT);
    STATUS(own->to, GATEWAY_WAIT);
    STATUS(own->ended, GATEWAY_WAIT);
    STATUS(own->change, GATEWAY_WAIT);
    STATUS(own->transaction, GATEWAY_WAIT);
}

static gateway_status raise_inside(gateway_tx *tx, void *context) {
    (void)tx, (void)context;
    raise(SIGUSR1);
    return GATEWAY_OK;
}

/* The thread that is interrupted holds the lock: here nobody could take it. */
static void a_handler_that_interrupts_the_holder_of_the_lock_wakes_everybody(void) {
    answers own;
    pthread_t threads[WAITERS];
    served = gateway_with_waiters(&own, threads);
    handled = 0, answered = -77;
    OK(gateway_transaction(served, gateway_now(), raise_inside, NULL));
    NUMBER(handled, 1);
    STATUS((gateway_status)answered, GATEWAY_OK);
    all_were_woken(&own, threads);
    OK(gateway_free(served));
}

/* --- Interrupted anywhere --- */

typedef struct {
    gateway *gw;
    int stop;
} worker;

static void *work(void *context) {
    worker *own = (worker *)context;
    while (!__atomic_load_n(&own->stop, __ATOMIC_RELAXED)) {
        gateway_bytes *bytes = NULL;
        uint64_t number;
        OK(gateway_snapshot(own->gw, &bytes));
        OK(gateway_bytes_free(bytes));
        STATUS(gateway_heartbeat(own->gw, START, 77, &number), GATEWAY_SUPERSEDED);
    }
    return NULL;
}

/* The lock, the table's and the allocator's are held at most times: a handler that took one would hang soon. */
static void a_handler_may_interrupt_any_call(void) {
    answers own;
    pthread_t threads[WAITERS], busy;
    served = gateway_with_waiters(&own, threads);
    worker works = {served, 0};
    CHECK(pthread_create(&busy, NULL, work, &works) == 0);
    handled = 0;
    for (int i = 0; i < 200; i++) {
        const sig_atomic_t before = handled;
        CHECK(pthread_kill(busy, SIGUSR1) == 0);
        while (handled == before) sched_yield();
    }
    STATUS((gateway_status)answered, GATEWAY_OK);
    __atomic_store_n(&works.stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(busy, NULL) == 0);
    all_were_woken(&own, threads);
    OK(gateway_free(served));
}

/* --- No wake-up is lost --- */

static void *wait_for_a_signal(void *context) {
    gateway_lease *lease = NULL;
    STATUS(gateway_wait_dispatch((gateway *)context, GATEWAY_FOREVER, &lease), GATEWAY_WAIT);
    return NULL;
}

/* A caller that stands in the line is asleep, or about to: in both cases it is woken, also where the handler interrupts its
   own thread before it lies down. */
static void who_is_about_to_sleep_is_woken(void) {
    served = NULL;
    OK(gateway_new(NULL, gateway_now(), &served));
    put_flux(served, gateway_now(), 1);
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, wait_for_a_signal, served) == 0);
        until_waiting(served, 1);
        CHECK(pthread_kill(i % 2 == 0 ? thread : pthread_self(), SIGUSR1) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    OK(gateway_free(served));
}

/* --- What it answers --- */

static gateway_status ask_inside(gateway_tx *tx, void *context) {
    (void)tx;
    OK(gateway_wake_from_signal((gateway *)context));
    STATUS(gateway_wake((gateway *)context), GATEWAY_REENTERED);
    return GATEWAY_OK;
}

static void it_leaves_no_last_error(void) {
    gateway *gw = flux_gateway(1), *other = flux_gateway(1);
    gateway_watch *watch = NULL;
    OK(gateway_watch_new(id_of(1), &watch));
    gateway_last_error_clear();
    OK(gateway_wake_from_signal(gw));
    STATUS(gateway_wake_from_signal(NULL), GATEWAY_BAD_POINTER);
    STATUS(gateway_wake_from_signal((gateway *)watch), GATEWAY_INVALID_HANDLE);
    OK(gateway_transaction(gw, START, ask_inside, other));
    gateway_last_error_clear();
    OK(gateway_free(other));
    STATUS(gateway_wake_from_signal(other), GATEWAY_INVALID_HANDLE);
    STATUS(gateway_last_error_status(), GATEWAY_OK);
    STATUS(gateway_testing_panic(gw), GATEWAY_PANIC);
    STATUS(gateway_wake_from_signal(gw), GATEWAY_POISONED);
    OK(gateway_watch_free(watch));
    OK(gateway_free(gw));
}

/* Of two gateways only the waiters of one are woken: the other's are still there, and wake when it is freed. */
static void only_its_own_waiters_are_woken(void) {
    answers one, other;
    pthread_t ones[WAITERS], others[WAITERS];
    gateway *gw = gateway_with_waiters(&other, others);
    served = gateway_with_waiters(&one, ones);
    raise(SIGUSR1);
    all_were_woken(&one, ones);
    NUMBER(gateway_testing_waiting(gw), WAITERS);
    OK(gateway_free(served));
    served = gw;
    raise(SIGUSR1);
    all_were_woken(&other, others);
    OK(gateway_free(gw));
}

int main(void) {
    alarm(HANGS);
    handle(SIGUSR1);
    it_leaves_no_last_error();
    a_handler_that_interrupts_the_holder_of_the_lock_wakes_everybody();
    only_its_own_waiters_are_woken();
    a_handler_may_interrupt_any_call();
    who_is_about_to_sleep_is_woken();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
