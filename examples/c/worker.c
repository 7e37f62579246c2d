/* A render worker: several threads that take leases in batches, one that keeps them alive, and a dead-man switch.
 *
 *     worker [jobs] [cut]
 *
 * Here the gateway lives in the same process, and the worker reaches it through `link_...` below; a worker elsewhere puts its
 * network there and leaves the rest as it is. With `cut` the link breaks after so many jobs, for good: nobody can tell the
 * worker any more that its leases have ended, so it stops by itself when they have. That is what makes it safe for the
 * gateway to give the jobs to somebody else.
 *
 * GPU time is read from CUPTI where its library is there, else from the monotonic clock; the first line says which.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <gateway.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RENDERERS 3
#define BATCH 4
#define BACKEND "render-1"
#define LEASE_FOR (300 * GATEWAY_MILLISECOND)
#define RENDER_TIME (3 * GATEWAY_MILLISECOND)

static void die(const char *what) {
    char message[256] = "";
    gateway_last_error_message(message, sizeof message, NULL);
    fprintf(stderr, "worker: %s: %s\n", what, message);
    exit(1);
}

/* --- Clocks --- */

static uint64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * GATEWAY_SECOND + (uint64_t)now.tv_nsec;
}

/* The GPU's own clock, where there is one. Its type is `CUptiResult cuptiGetTimestamp(uint64_t *)`; 0 is success. */
static int (*cupti_timestamp)(uint64_t *);

static const char *gpu_clock_open(void) {
    static const char *const names[] = {"libcupti.so", "libcupti.so.13", "libcupti.so.12", "libcupti.so.11.8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) continue;
        void *symbol = dlsym(library, "cuptiGetTimestamp");
        uint64_t now = 0;
        // ISO C knows no way from an object pointer to a function; POSIX does.
        if (symbol != NULL) memcpy(&cupti_timestamp, &symbol, sizeof symbol);
        if (cupti_timestamp != NULL && cupti_timestamp(&now) == 0 && now > 0) return "CUPTI";
        cupti_timestamp = NULL;
        dlclose(library);
    }
    return "monotonic, no CUPTI here";
}

static uint64_t gpu_now(void) {
    uint64_t now = 0;
    return cupti_timestamp != NULL && cupti_timestamp(&now) == 0 ? now : monotonic();
}

/* --- The link to the gateway --- */

static gateway *gw;
static atomic_bool link_up = true;

/* What a broken network would say; not one of the library's. */
enum { UNREACHABLE = 1000 };

static gateway_status link_heartbeat(uint64_t lease, uint64_t *deadline) {
    return atomic_load(&link_up) ? gateway_heartbeat(gw, gateway_now(), lease, deadline) : UNREACHABLE;
}

static gateway_status link_complete(uint64_t lease, const gateway_output *output, const gateway_usage *usage) {
    return atomic_load(&link_up) ? gateway_complete(gw, gateway_now(), lease, output, usage, 1, NULL) : UNREACHABLE;
}

/* --- Leases this worker holds --- */

typedef struct {
    uint64_t id;
    /* When it ends if nothing is heard, on the worker's own monotonic clock. */
    uint64_t until;
    /* Whether to stop working for it. */
    atomic_bool lost;
    bool used;
} held;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    held leases[RENDERERS * BATCH];
    bool stopping;
    unsigned completed, cut_after;
} worker = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void stop(void) {
    pthread_mutex_lock(&worker.lock);
    worker.stopping = true;
    pthread_cond_broadcast(&worker.changed);
    pthread_mutex_unlock(&worker.lock);
    // Whoever waits for work stops waiting.
    gateway_wake(gw);
}

static bool is_stopping(void) {
    pthread_mutex_lock(&worker.lock);
    const bool stopping = worker.stopping;
    pthread_mutex_unlock(&worker.lock);
    return stopping;
}

/* Notes a lease. Its deadline is an instant of the gateway's clock; `asked` and `asked_wall` are the same moment on both. */
static held *hold(const gateway_lease_info *info, uint64_t asked, uint64_t asked_wall) {
    held *own = NULL;
    pthread_mutex_lock(&worker.lock);
    for (size_t i = 0; own == NULL; i++) {
        if (!worker.leases[i].used) own = &worker.leases[i];
    }
    own->id = info->id;
    own->until = asked + (info->deadline - asked_wall);
    own->used = true;
    atomic_store(&own->lost, false);
    pthread_mutex_unlock(&worker.lock);
    return own;
}

static void let_go(held *own) {
    pthread_mutex_lock(&worker.lock);
    own->used = false;
    pthread_mutex_unlock(&worker.lock);
}

/* Keeps all leases alive, and ends those that were not heard in time. */
static void *heartbeats(void *context) {
    (void)context;
    pthread_mutex_lock(&worker.lock);
    while (!worker.stopping) {
        for (size_t i = 0; i < RENDERERS * BATCH; i++) {
            held *own = &worker.leases[i];
            if (!own->used || atomic_load(&own->lost)) continue;
            uint64_t deadline, asked = monotonic(), wall = gateway_now();
            const gateway_status status = link_heartbeat(own->id, &deadline);
            if (status == GATEWAY_OK) {
                own->until = asked + (deadline - wall);
            } else if (status == GATEWAY_SUPERSEDED || status == GATEWAY_UNKNOWN_LEASE) {
                atomic_store(&own->lost, true);
            } else if (asked >= own->until) {
                // The dead-man switch: by now the gateway has given the job to somebody else.
                atomic_store(&own->lost, true);
                printf("a lease ran out unheard\n");
            }
        }
        pthread_cond_broadcast(&worker.changed);
        const uint64_t next = monotonic() + LEASE_FOR / 10;
        struct timespec when = {(time_t)(next / GATEWAY_SECOND), (long)(next % GATEWAY_SECOND)};
        pthread_cond_timedwait(&worker.changed, &worker.lock, &when);
    }
    pthread_mutex_unlock(&worker.lock);
    return NULL;
}

/* --- Rendering --- */

/* Something for the processor to do, in small pieces so that a lost lease is noticed soon. False: it was lost. */
static bool render(const held *own, uint64_t *gpu_ns) {
    const uint64_t begin = gpu_now();
    volatile double pixel = 0;
    while (gpu_now() - begin < RENDER_TIME) {
        if (atomic_load(&own->lost)) return false;
        for (int i = 0; i < 10000; i++) pixel += 1.0 / (i + 1);
    }
    *gpu_ns = gpu_now() - begin;
    return true;
}

/* Brings a result home: tries until it is taken or the lease is lost. */
static void deliver(held *own, uint64_t gpu_ns) {
    const gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/render.webp");
    const gateway_usage usage = {"GPU-8f2c01", gpu_ns};
    pthread_mutex_lock(&worker.lock);
    while (!atomic_load(&own->lost)) {
        const gateway_status status = link_complete(own->id, &output, &usage);
        if (status == GATEWAY_OK) {
            worker.completed++;
            if (worker.completed == worker.cut_after) {
                printf("the link breaks after %u jobs\n", worker.completed);
                atomic_store(&link_up, false);
            }
            break;
        }
        if (status != UNREACHABLE) break;
        pthread_cond_wait(&worker.changed, &worker.lock);
    }
    pthread_mutex_unlock(&worker.lock);
}

static void *renderer(void *context) {
    (void)context;
    while (!is_stopping() && atomic_load(&link_up)) {
        gateway_lease *leases[BATCH];
        held *holds[BATCH];
        size_t count = 0;
        const uint64_t asked = monotonic(), wall = gateway_now();
        // Not without end: gateway_wake wakes who waits, not who is about to.
        const gateway_status status =
            gateway_wait_dispatch_to(gw, BACKEND, wall + GATEWAY_SECOND / 4, leases, BATCH, &count);
        if (status == GATEWAY_WAIT) continue;
        if (status != GATEWAY_OK) die("dispatch");
        for (size_t i = 0; i < count; i++) {
            gateway_lease_info info;
            if (gateway_lease_read(leases[i], &info) != GATEWAY_OK) die("lease");
            holds[i] = hold(&info, asked, wall);
            gateway_lease_free(leases[i]);
        }
        for (size_t i = 0; i < count; i++) {
            uint64_t gpu_ns = 0;
            if (render(holds[i], &gpu_ns)) deliver(holds[i], gpu_ns);
            let_go(holds[i]);
        }
    }
    return NULL;
}

/* --- The host --- */

static void open_gateway(void) {
    const char *models[] = {"*"};
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.lease_for = LEASE_FOR;
    gateway_backend_options backend = GATEWAY_BACKEND_OPTIONS_INIT;
    backend.modality = "image", backend.family = "flux", backend.models = models, backend.models_len = 1;
    backend.kind = GATEWAY_KIND_TORCH, backend.slots = RENDERERS * BATCH;
    if (gateway_new(&config, gateway_now(), &gw) != GATEWAY_OK) die("gateway");
    if (gateway_put_backend(gw, gateway_now(), BACKEND, &backend) != GATEWAY_OK) die("backend");
}

static gateway_stats stats(void) {
    gateway_stats told;
    if (gateway_read_stats(gw, &told) != GATEWAY_OK) die("stats");
    return told;
}

int main(int count, char **words) {
    const unsigned jobs = count > 1 ? (unsigned)strtoul(words[1], NULL, 10) : 24;
    worker.cut_after = count > 2 ? (unsigned)strtoul(words[2], NULL, 10) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("GPU time: %s\n", gpu_clock_open());
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&worker.changed, &clock);

    open_gateway();
    for (unsigned i = 0; i < jobs; i++) {
        gateway_job_id id;
        if (gateway_job_id_random(&id) != GATEWAY_OK) die("id");
        if (gateway_submit(gw, gateway_now(), id, "acme", "image/flux/dev/t2i", NULL, NULL) != GATEWAY_OK) die("submit");
    }
    pthread_t threads[RENDERERS], keeper;
    pthread_create(&keeper, NULL, heartbeats, NULL);
    for (int i = 0; i < RENDERERS; i++) pthread_create(&threads[i], NULL, renderer, NULL);

    // The host's turn: time passes, until everything is done or the worker is on its own.
    uint64_t changes = 0;
    for (gateway_stats now = stats(); now.queued + now.running > 0 && atomic_load(&link_up); now = stats()) {
        gateway_wait_change(gw, gateway_now() + GATEWAY_SECOND, &changes);
    }
    // On its own it ends when the last lease has; else it is told to.
    if (atomic_load(&link_up)) stop();
    else gateway_wake(gw);
    for (int i = 0; i < RENDERERS; i++) pthread_join(threads[i], NULL);
    stop();
    pthread_join(keeper, NULL);

    // What the worker lost, the gateway takes back: leases nobody was heard of end at their deadlines.
    while (stats().running > 0) gateway_wait_change(gw, GATEWAY_FOREVER, &changes);
    printf("%s: %u of %u jobs rendered, %u queued again\n",
           atomic_load(&link_up) ? "nothing left to do" : "stopped by itself", worker.completed, jobs,
           (unsigned)stats().queued);
    gateway_free(gw);
    pthread_cond_destroy(&worker.changed);
    pthread_condattr_destroy(&clock);
    return 0;
}
