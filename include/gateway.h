/*
 * libgateway: the brain of a GPU gateway, for C and C++.
 *
 * It decides who may enter, who runs next and on which backend, what happens when that fails, and what it costs. It opens
 * no socket and starts no thread. The host brings time, ids and I/O; the same calls give the same answers everywhere.
 *
 *     #include <gateway.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         const char *models[] = {"dev"};
 *         gateway *gw = NULL;
 *         if (gateway_new(NULL, gateway_now(), &gw) != GATEWAY_OK) return 1;
 *
 *         gateway_backend_options flux = GATEWAY_BACKEND_OPTIONS_INIT;
 *         flux.modality = "image";
 *         flux.family = "flux";
 *         flux.models = models;
 *         flux.models_len = 1;
 *         gateway_put_backend(gw, gateway_now(), "flux-1", &flux);
 *
 *         gateway_job_id id;
 *         gateway_job_id_random(&id);
 *         gateway_submit(gw, gateway_now(), id, "acme", "image/flux/dev/t2i", NULL, NULL);
 *
 *         gateway_lease *lease = NULL;
 *         while (gateway_dispatch(gw, gateway_now(), &lease, NULL) == GATEWAY_OK) {
 *             gateway_lease_info info;
 *             gateway_lease_read(lease, &info);
 *             // render here, then say what came of it:
 *             gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
 *             gateway_complete(gw, gateway_now(), info.id, &output, NULL, 0, NULL);
 *             gateway_lease_free(lease);
 *         }
 *         gateway_free(gw);
 *     }
 *
 * Build: cc main.c $(pkg-config --cflags --libs libgateway)
 *
 * What holds for every function
 *
 * Statuses. Functions return a gateway_status: 0 done; above 0 not done, and no error; below 0 an error, and nothing has
 *   changed. What went wrong is told by gateway_last_error_message and its like, for each thread apart. Outputs are
 *   written only where the answer is not an error; how much it takes where the answer is GATEWAY_BUFFER_TOO_SMALL is the
 *   exception.
 * Time. Every instant is nanoseconds since 1970-01-01 00:00 UTC, every span nanoseconds. `now` is the caller's clock,
 *   gateway_now() for most. What counts is the time between two readings, however that clock steps, and every
 *   instant that is answered is of that clock as it was read last. The functions gateway_wait_... read the system's clock
 *   themselves.
 * Texts. `const char *` points to UTF-8 that ends in a NUL; names have at most 128 bytes and no control characters. Bytes
 *   come with their length. The library keeps no pointer of the caller's beyond the call, and hands none of its own out,
 *   except static strings where a function says so.
 * Buffers. `(buf, cap, needed)` gets a copy: of a text with its NUL, of bytes without. `*needed`, which may be NULL, is how
 *   many bytes it takes, the NUL included. Where `cap` is less, the answer is GATEWAY_BUFFER_TOO_SMALL and `buf` is as it
 *   was. With `buf` NULL and `cap` 0 only `*needed` is told. No function that changes something has such a buffer for its
 *   answer: what it did would have to be done again. The one list that is told once, that of gateway_evict_backend, has to
 *   fit before anything is done.
 * Option structs begin with their size. Begin with the struct's _INIT macro, which sets it and all defaults, then set what
 *   should differ. So a program keeps working with a newer library whose structs are longer; and a newer program with an
 *   older library, as long as it leaves what that does not know at zero.
 * Handles are opaque: they look like pointers and are none. A handle that was freed, is of another kind, or was never given
 *   out is answered GATEWAY_INVALID_HANDLE, always, and at once, also inside of a transaction's callback; nothing behind it
 *   is touched. Freeing NULL does nothing. Where there can be no more handles a command whose answer is one is not done.
 * Threads. Every function may be called from any thread at any time, also on the same handle: calls on one handle take
 *   turns. Freeing waits until no other thread is inside. Each thread has its own last error.
 * Forks. What a process made stays its own: in a child made by fork() every handle it inherited is answered GATEWAY_FORKED,
 *   at once, whatever the threads of the parent were doing; freeing it does nothing and answers the same. A transaction in
 *   whose callback the child was made answers so, too, when the callback returns. The child may make new handles, and its
 *   gateway_handles_live() counts those alone. To go on with a gateway in a child, take a snapshot before, and restore it
 *   there. A child made by vfork(), _Fork() or clone() may call nothing before it execs.
 *
 *     pid_t child = fork();
 *     if (child == 0 && gateway_advance(gw, gateway_now(), NULL) == GATEWAY_FORKED) gw = NULL; // the parent's
 *
 * Signals. A signal handler may call gateway_wake_from_signal, gateway_abi_version and gateway_version, and
 *   gateway_now once the program has called it before. Nothing else: any other function may wait for a lock that the
 *   thread holds that was interrupted.
 * Defects. Should the library panic, the call returns GATEWAY_PANIC, and its handle GATEWAY_POISONED from then on, until it is
 *   freed. Other handles are not touched.
 *
 * Made from the sources in bindings-c by cbindgen; do not change it by hand: `make header`.
 */

#ifndef GATEWAY_H
#define GATEWAY_H

#include <stddef.h>
#include <stdint.h>

/** The version of the library, as it is published: breaking changes raise the first number that is not zero. */
#define GATEWAY_VERSION_MAJOR 0

/** See `GATEWAY_VERSION_MAJOR`. */
#define GATEWAY_VERSION_MINOR 1

/** See `GATEWAY_VERSION_MAJOR`. */
#define GATEWAY_VERSION_PATCH 0

/**
 * The version of the binary interface: the number in `libgateway.so.N`. It rises when a program that was compiled
 * before would no longer work; new functions and new fields at the end of option structs do not raise it.
 */
#define GATEWAY_ABI_VERSION 1

/** The instant that never comes: as a deadline "never", as an end of waiting "without end". */
#define GATEWAY_FOREVER 18446744073709551615ull

/** Done. */
#define GATEWAY_OK 0

/**
 * Nothing can run now, or what was waited for has not come. Ask again after the next change or at the instant told.
 */
#define GATEWAY_WAIT 1

/** There is no such thing: no event, no position, no job of that id, an empty queue. */
#define GATEWAY_NONE 2

/** The limiter or breaker says no, until the instant told. */
#define GATEWAY_DENIED 3

/** The limiter says no for ever: the cost is above the burst, or the tokens never come. */
#define GATEWAY_NEVER 4

/** The keyed limiter has no room for a new key until the instant told. */
#define GATEWAY_NO_ROOM 5

/** A pointer that has to be there is NULL, or is not aligned for what it points to. */
#define GATEWAY_BAD_POINTER (-1)

/** Not a live handle of this kind: freed, of another kind, or never given out by this library. */
#define GATEWAY_INVALID_HANDLE (-2)

/** The buffer is too small. Nothing was written to it; `*needed` tells how much it takes. */
#define GATEWAY_BUFFER_TOO_SMALL (-3)

/** A text is not UTF-8. */
#define GATEWAY_NOT_UTF8 (-4)

/**
 * A struct's `size` cannot be: not set by its `_INIT` macro, or of a newer header that sets what this library does not
 * know.
 */
#define GATEWAY_BAD_SIZE (-5)

/**
 * The library has a defect and caught itself. The handle answers `GATEWAY_POISONED` from now on. Please report the
 * message.
 */
#define GATEWAY_PANIC (-6)

/**
 * The call came from inside a transaction's callback, where only its `gateway_tx` and the parts that stand alone may be
 * used.
 */
#define GATEWAY_REENTERED (-7)

/** The system gives no random bytes. */
#define GATEWAY_NO_ENTROPY (-8)

/**
 * There are as many handles as there can be (4 194 304): somebody does not free them. A command whose answer is a handle
 * was not done.
 */
#define GATEWAY_TOO_MANY_HANDLES (-9)

/**
 * The handle was made before this process was forked from another one, where it lives on. See "Forks" at the top of this
 * header.
 */
#define GATEWAY_FORKED (-10)

/** A value is empty. */
#define GATEWAY_EMPTY (-201)

/** A value is longer than its limit. */
#define GATEWAY_TOO_LONG (-202)

/** A text has a character that is not allowed in it. */
#define GATEWAY_CHARACTER (-203)

/** A number is outside its range. */
#define GATEWAY_OUT_OF_RANGE (-204)

/** A sum or product does not fit into 64 bits. */
#define GATEWAY_OVERFLOW (-205)

/** A text does not have the form it must have. */
#define GATEWAY_MALFORMED (-206)

/** Two values contradict each other. */
#define GATEWAY_CONTRADICTION (-207)

/** The same value stands twice in a list. */
#define GATEWAY_REPEATED (-208)

/** A bounded table is full; the error's field tells which. */
#define GATEWAY_FULL (-301)

/** The idempotency key stands for another payload, route or priority. */
#define GATEWAY_IDEMPOTENCY_CONFLICT (-401)

/** No backend was ever declared for the route of a submission. */
#define GATEWAY_UNKNOWN_ROUTE (-402)

/** The id stands for another job. */
#define GATEWAY_DUPLICATE_JOB (-403)

/** The lease has ended: stop working for it. */
#define GATEWAY_SUPERSEDED (-501)

/** This gateway never granted such a lease. */
#define GATEWAY_UNKNOWN_LEASE (-502)

/** The lease is live: what it used comes with its result. */
#define GATEWAY_STILL_LIVE (-511)

/** The lease ended too long ago for its usage to be told. */
#define GATEWAY_TOO_LATE (-512)

/** No job of that id is known, or it is no longer. */
#define GATEWAY_UNKNOWN_JOB (-601)

/** The job has ended. */
#define GATEWAY_ENDED (-602)

/** The job has not ended. */
#define GATEWAY_NOT_ENDED (-603)

/** The job's state does not allow it. */
#define GATEWAY_NOT_ALLOWED (-604)

/** The attempt is no longer the present one. */
#define GATEWAY_STALE_ATTEMPT (-605)

/** The job was preempted as often as it may be, and runs on. */
#define GATEWAY_PREEMPTED_TOO_OFTEN (-606)

/** No backend of that name is known. */
#define GATEWAY_UNKNOWN_BACKEND (-701)

/** The customer has no policy of its own. */
#define GATEWAY_UNKNOWN_CUSTOMER (-702)

/** No backend serves the route, and no job waits for one. */
#define GATEWAY_ROUTE_NOT_SERVED (-703)

/** The call was never started, or has ended already. */
#define GATEWAY_NO_START (-1101)

/** The call is open already. */
#define GATEWAY_ALREADY_STARTED (-1102)

/** A device worked longer than the call lasted. */
#define GATEWAY_USAGE_EXCEEDS_ELAPSED (-1103)

/** Usage times price does not fit into 64 bits. */
#define GATEWAY_CHARGE_OVERFLOW (-1104)

/** No such batch was ever handed out. */
#define GATEWAY_UNKNOWN_BATCH (-1111)

/** The batch was given back; its entries are handed out again. */
#define GATEWAY_BATCH_SUPERSEDED (-1112)

/** An entry that somebody may have seen cannot be taken back. */
#define GATEWAY_HANDED_OUT (-1113)

/** The snapshot ends too early. */
#define GATEWAY_TRUNCATED (-1201)

/** The bytes are no snapshot. */
#define GATEWAY_NOT_A_SNAPSHOT (-1202)

/** A newer library made the snapshot. */
#define GATEWAY_NEWER_VERSION (-1203)

/** The snapshot was altered: its digest does not fit. */
#define GATEWAY_ALTERED (-1204)

/** The snapshot contradicts itself. */
#define GATEWAY_CORRUPT (-1205)

/** The gateway was given a command while its snapshot was taken in slices. */
#define GATEWAY_CHANGED (-1206)

/** The text is no command. */
#define GATEWAY_NOT_A_COMMAND (-1301)

/** The bytes are no command. */
#define GATEWAY_BAD_BYTES (-1302)

/** The entry is not the next one of the log: it was applied before, or one before it was not. */
#define GATEWAY_OUT_OF_SEQUENCE (-1303)

/**
 * Something a transaction as data needs is not there now. The functions of this header answer `GATEWAY_WAIT` instead.
 */
#define GATEWAY_NOT_NOW (-1401)

/** There is no step in the transaction. */
#define GATEWAY_NO_STEP (-1402)

/** The transaction has more steps than the gateway's `steps_max`. */
#define GATEWAY_TOO_MANY_STEPS (-1403)

/**
 * A call on this handle panicked before: its state is not to be trusted. Free it, and restore from a snapshot or log.
 */
#define GATEWAY_POISONED (-1501)

/** The limit is one of the customer: others may go on. */
#define GATEWAY_SCOPE_CUSTOMER 0

/** The limit is one of the whole gateway. */
#define GATEWAY_SCOPE_GATEWAY 1

/** The limit is one of a part that stands alone. */
#define GATEWAY_SCOPE_PART 2

/** Bytes an id takes as text, with its NUL. */
#define GATEWAY_JOB_ID_CAP 29

/** The job waits, for a backend or for the instant before which it may not run. */
#define GATEWAY_STATE_QUEUED 0

/** The job is on a backend under a lease. */
#define GATEWAY_STATE_RUNNING 1

/** The job ended with an output. */
#define GATEWAY_STATE_COMPLETE 2

/** The job ended with a failure. */
#define GATEWAY_STATE_ERROR 3

/** The job was given up, on request or by a deadline. */
#define GATEWAY_STATE_CANCELLED 4

/** Served first. */
#define GATEWAY_PRIORITY_HIGH 0

/** The default. */
#define GATEWAY_PRIORITY_NORMAL 1

/** Served when nothing higher can run. */
#define GATEWAY_PRIORITY_LOW 2

/** Text to image, "t2i". */
#define GATEWAY_TASK_T2I 0

/** Image to image, "i2i". */
#define GATEWAY_TASK_I2I 1

/** Edit an image within a mask, "edit". */
#define GATEWAY_TASK_EDIT 2

/** Text to video, "t2v". */
#define GATEWAY_TASK_T2V 3

/** Image to video, "i2v". */
#define GATEWAY_TASK_I2V 4

/** Complete a text, "complete". */
#define GATEWAY_TASK_COMPLETE 5

/** Answer a chat, "chat". */
#define GATEWAY_TASK_CHAT 6

/** Fill a gap in a text, "infill". */
#define GATEWAY_TASK_INFILL 7

/** Embed a text, "embed". */
#define GATEWAY_TASK_EMBED 8

/** The engine Nunchaku. */
#define GATEWAY_KIND_NUNCHAKU 0

/** The engine PyTorch. */
#define GATEWAY_KIND_TORCH 1

/** The engines TensorRT and TensorRT-LLM. */
#define GATEWAY_KIND_TENSORRT 2

/** The engine vLLM. */
#define GATEWAY_KIND_VLLM 3

/** The engine SGLang. */
#define GATEWAY_KIND_SGLANG 4

/** Any other engine. */
#define GATEWAY_KIND_OTHER 5

/** No answer within the time allowed. Tried again, and counts against the backend. */
#define GATEWAY_FAILURE_TIMEOUT 0

/** No connection could be made. Tried again, and counts against the backend. */
#define GATEWAY_FAILURE_CONNECTION 1

/** The connection broke before the answer was complete. Tried again, and counts against the backend. */
#define GATEWAY_FAILURE_NETWORK 2

/**
 * An answer with an HTTP status that is no success; the status decides. 500, 502, 503, 504, and 429 with a
 * `retry_after`, are tried again; 500 and up count against the backend.
 */
#define GATEWAY_FAILURE_HTTP 3

/** The backend took the job and says that it failed. Final, and counts against the backend. */
#define GATEWAY_FAILURE_BACKEND 4

/** We refused the job ourselves. Final, and says nothing about the backend. */
#define GATEWAY_FAILURE_REJECTED 5

/** The worker vanished. The job returns to the queue without counting as an attempt. */
#define GATEWAY_FAILURE_LOST 6

/** All calls pass. */
#define GATEWAY_BREAKER_CLOSED 0

/** No call passes. */
#define GATEWAY_BREAKER_OPEN 1

/** One probe at a time passes. */
#define GATEWAY_BREAKER_HALF_OPEN 2

/** The longest name in a struct, with its NUL, and a little room so that fields stay aligned. */
#define GATEWAY_NAME_CAP 136

/** The longest route in a struct: modality, family, model and the engine wanted, with the NUL. */
#define GATEWAY_ROUTE_CAP 216

/** Customers of one lane follow each other by weight and cost. */
#define GATEWAY_ORDERING_FAIR 0

/** Customers of one lane follow each other by arrival. */
#define GATEWAY_ORDERING_FIFO 1

/** The customer pays. */
#define GATEWAY_PAYER_CUSTOMER 0

/** Nobody pays: the settlement tells the GPU time as absorbed. */
#define GATEWAY_PAYER_HOUSE 1

/** The result is taken; what was possible is billed, and what was reported is told beside it. */
#define GATEWAY_EXCESS_CAP 0

/** The result is refused, and may be told again with another figure. */
#define GATEWAY_EXCESS_REFUSE 1

/** The idempotency key of a job that ended in error is free again at once. */
#define GATEWAY_FREE_FAILED 1

/** The idempotency key of a cancelled job is free again at once. */
#define GATEWAY_FREE_CANCELLED 2

/** The threshold itself opens the breaker. */
#define GATEWAY_RATE_AT_LEAST 0

/** Only more than the threshold opens the breaker. */
#define GATEWAY_RATE_ABOVE 1

/** A microsecond, a millisecond, a second, a minute and an hour in nanoseconds. */
#define GATEWAY_MICROSECOND 1000ull

/** See `GATEWAY_MICROSECOND`. */
#define GATEWAY_MILLISECOND 1000000ull

/** See `GATEWAY_MICROSECOND`. */
#define GATEWAY_SECOND 1000000000ull

/** See `GATEWAY_MICROSECOND`. */
#define GATEWAY_MINUTE 60000000000ull

/** See `GATEWAY_MICROSECOND`. */
#define GATEWAY_HOUR 3600000000000ull

/** The jobs of an evicted backend wait again at once. */
#define GATEWAY_EVICT_TO_QUEUE 0

/** The jobs of an evicted backend end in error. */
#define GATEWAY_EVICT_TO_ERROR 1

/** No override: lets go of it. */
#define GATEWAY_FORCED_NONE 0

/** All calls pass, whatever their results. */
#define GATEWAY_FORCED_CLOSED 1

/** No call passes. */
#define GATEWAY_FORCED_OPEN 2

/** The class decides whether a failed attempt is tried again. */
#define GATEWAY_RETRIABLE_BY_CLASS 0

/** It is tried again, whatever the class says. */
#define GATEWAY_RETRIABLE_YES 1

/** It is not tried again, whatever the class says. */
#define GATEWAY_RETRIABLE_NO 2

/**
 * It may not run before `until`: its submission or its worker said so, or an attempt failed. `count` backends failed it so
 * far, and another one is preferred; `failed_on` of `gateway_job_json` names them.
 */
#define GATEWAY_REASON_NOT_BEFORE 0

/** Its route is paused. */
#define GATEWAY_REASON_PAUSED 1

/** No backend serves its route. */
#define GATEWAY_REASON_NO_BACKEND 2

/** Its customer runs as many jobs as it may: `count`. */
#define GATEWAY_REASON_CUSTOMER_RUNNING 3

/** Its customer has used its rate until `until`. */
#define GATEWAY_REASON_CUSTOMER_RATE 4

/** Every backend of its route is full, draining, or shut off by its breaker. */
#define GATEWAY_REASON_BACKENDS_BUSY 5

/** Others are served first: `count` of its route. */
#define GATEWAY_REASON_BEHIND 6

/** Nothing: the next dispatch takes it. */
#define GATEWAY_REASON_NEXT 7

/** Something this header does not know yet. */
#define GATEWAY_REASON_OTHER 4294967295

/** The result is `url`: the bytes are where it lies. */
#define GATEWAY_OUTCOME_URL 0

/** The bytes are the result itself. */
#define GATEWAY_OUTCOME_DATA 1

/** The job failed: the bytes are the message. */
#define GATEWAY_OUTCOME_FAILURE 2

/** The job was given up: the bytes say why, "requested" or "queue_timeout". */
#define GATEWAY_OUTCOME_CANCELLED 3

/** Bytes of a digest. */
#define GATEWAY_DIGEST_LEN 32

/** A job was accepted. */
#define GATEWAY_EVENT_QUEUED 0

/** A job got a lease. */
#define GATEWAY_EVENT_STARTED 1

/** A job's worker told how far it is. */
#define GATEWAY_EVENT_PROGRESS 2

/** A job's attempt failed and will be tried again. */
#define GATEWAY_EVENT_RETRIED 3

/** A job went back to the queue through no fault of its own. */
#define GATEWAY_EVENT_REQUEUED 4

/** A waiting job was lifted a lane. */
#define GATEWAY_EVENT_AGED 5

/** A job ended; `state` tells how. */
#define GATEWAY_EVENT_ENDED 6

/** An ended job's record left. */
#define GATEWAY_EVENT_FORGOTTEN 7

/** A reading of the clock was so far ahead that it was put on trial; `leapt` tells how far. */
#define GATEWAY_EVENT_CLOCK_LEAPT 8

/** More was reported of an attempt than its devices can have worked: `reported`; `billed` is what was possible. */
#define GATEWAY_EVENT_USAGE_CAPPED 9

/** A settled job comes to something else: the usage of one of its leases was told late. */
#define GATEWAY_EVENT_CORRECTED 10

/** Something this header does not know yet. */
#define GATEWAY_EVENT_OTHER 4294967295

/** The job waits; `position` tells how many jobs of its route stand before it. */
#define GATEWAY_WATCH_QUEUED 0

/** The job runs; `progress_ppm` tells how far it is. */
#define GATEWAY_WATCH_RUNNING 1

/** The job ended; `state` tells how. Nothing comes after it. */
#define GATEWAY_WATCH_ENDED 2

/** The job's record is gone. Nothing comes after it. */
#define GATEWAY_WATCH_GONE 3

/** The caller told the usage. */
#define GATEWAY_CALL_ENDED 0

/** The caller gave it up. Nothing is charged. */
#define GATEWAY_CALL_ABANDONED 1

/** Nobody ended it in time. Nothing is charged. */
#define GATEWAY_CALL_SWEPT 2

/** There is another attempt. */
#define GATEWAY_RETRY_AT 0

/** All retries are used up. */
#define GATEWAY_RETRY_EXHAUSTED 1

/** The next attempt would begin after the total time allowed. */
#define GATEWAY_RETRY_OUT_OF_TIME 2

/**
 * A gateway: queue, limits, backends, jobs and money behind one door.
 *
 * May be used from any number of threads at once; calls take turns. Made by `gateway_new` and its like, freed by
 * `gateway_free`.
 */
typedef struct gateway gateway;

/**
 * A retry schedule.
 *
 * May be used from any number of threads at once.
 */
typedef struct gateway_backoff gateway_backoff;

/**
 * A billing collector: the start and the end of each call, its charge, and the record until it is confirmed.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_billing gateway_billing;

/**
 * A circuit breaker round one callee.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_breaker gateway_breaker;

/**
 * Bytes that a command answered, of a length nobody knew before: a reply, a snapshot. See `gateway_bytes_copy`.
 *
 * May be used from any number of threads at once.
 */
typedef struct gateway_bytes gateway_bytes;

/**
 * A histogram over all 64-bit values in fixed memory.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_histogram gateway_histogram;

/**
 * Rate limits by key: a bucket for each of a bounded number of keys.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_keyed_limiter gateway_keyed_limiter;

/**
 * A job on a backend, with its payload: what a worker works by. Freeing it does not end the lease, see
 * `gateway_lease_free`.
 *
 * May be used from any number of threads at once.
 */
typedef struct gateway_lease gateway_lease;

/**
 * A rate limit: one bucket of tokens.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_limiter gateway_limiter;

/**
 * A fair queue of 64-bit items.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_queue gateway_queue;

/**
 * Settlements that were handed out together, see `gateway_take_settlements`.
 *
 * May be used from any number of threads at once.
 */
typedef struct gateway_settlements gateway_settlements;

/**
 * A snapshot in slices, see `gateway_slices_new`.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_slices gateway_slices;

/**
 * Jobs by id, each with one state that only moves as the lifecycle allows.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_store gateway_store;

/**
 * A transaction under way. Lives as long as its callback runs, and in that thread alone; afterwards, and elsewhere, it
 * is answered `GATEWAY_INVALID_HANDLE`.
 */
typedef struct gateway_tx gateway_tx;

/**
 * The watch of one job, see `gateway_watch_new`.
 *
 * May be used from any number of threads at once.
 */
typedef struct gateway_watch gateway_watch;

/**
 * A strict limit: at most so many tokens in any window of time.
 *
 * May be used from any number of threads at once; calls take turns.
 */
typedef struct gateway_window gateway_window;

/**
 * What a function returns. 0: done. Positive: not done, and that is no error (nothing there, not yet, denied).
 * Negative: an error, nothing has changed; `gateway_last_error_message` tells more. From -201 down the numbers are the
 * library's fixed error numbers with a minus, the same in every language.
 */
typedef int32_t gateway_status;

/** What a limit of the library says of itself that is reached: see `gateway_last_error_limit`. */
typedef struct gateway_full {
    /**
     * What is in the table. Of `jobs` of a gateway: jobs that have not ended, and settlements that are not confirmed.
     */
    uint64_t measured;
    /** The most that may be. */
    uint64_t max;
    /**
     * The first instant at which there will be room by itself; `GATEWAY_FOREVER` where that is not known. There may be
     * earlier: a job ends, or a batch of settlements is confirmed.
     */
    uint64_t retry_at;
    /** Whose limit it is: `GATEWAY_SCOPE_CUSTOMER`, `GATEWAY_SCOPE_GATEWAY` or `GATEWAY_SCOPE_PART`. */
    uint32_t scope;
    /** 0. */
    uint32_t reserved;
} gateway_full;

/** The id of a job: 128 random bits, shown as "j_" and 26 characters. */
typedef struct gateway_job_id {
    /** The upper 64 bits. */
    uint64_t high;
    /** The lower 64 bits. */
    uint64_t low;
} gateway_job_id;

/**
 * What a customer may do and what it is worth. Begin with `GATEWAY_CUSTOMER_POLICY_INIT`, which limits nobody: so does a
 * gateway without a policy. Set a rate, `running_max` and `queued_max` where strangers submit.
 */
typedef struct gateway_customer_policy {
    /** `sizeof(gateway_customer_policy)`. */
    size_t size;
    /** Its price tier; NULL is "standard". */
    const char *tier;
    /** The time in which `rate_amount` tokens flow in, in nanoseconds; 0: its rate is not limited. */
    uint64_t rate_per;
    /** Tokens that flow in per `rate_per`. */
    uint64_t rate_amount;
    /** Tokens kept at most. */
    uint64_t rate_burst;
    /** Its share against others of the same lane, 1 to 1 000 000. Default 1. */
    uint32_t weight;
    /** Jobs it may have running. Default: any number. */
    uint32_t running_max;
    /** Jobs it may have waiting. Default: any number. */
    uint32_t queued_max;
    /** Must be 0. */
    uint32_t reserved;
} gateway_customer_policy;

/**
 * When and how often failed attempts are tried again: `base`, then times `factor_ppm`, at most `max`. Begin with
 * `GATEWAY_BACKOFF_CONFIG_INIT`, which waits 1, 2 and 4 seconds and then gives up.
 */
typedef struct gateway_backoff_config {
    /** `sizeof(gateway_backoff_config)`. */
    size_t size;
    /** The wait after the first failure in nanoseconds. Default 1 s. */
    uint64_t base;
    /** The longest wait. Default 60 s. */
    uint64_t max;
    /** The longest time from the start of the first attempt to the start of the last; 0: no end. Default 0. */
    uint64_t total;
    /** The longest wait that a backend may ask for. Default 15 min. */
    uint64_t retry_after_max;
    /** What the jitter is drawn from. Default 0. */
    uint64_t seed;
    /**
     * What each further wait is multiplied by, in parts per million, 1 000 000 to 1 000 000 000. Default 2 000 000.
     */
    uint32_t factor_ppm;
    /** How many failures may be followed by another attempt, at most 1 000 000. Default 3. */
    uint32_t retries;
    /** How much of each wait is left to chance, in parts per million, at most 1 000 000. Default 100 000. */
    uint32_t jitter_ppm;
    /** Must be 0. */
    uint32_t reserved;
} gateway_backoff_config;

/** When a breaker opens, for how long, and what closes it again. Begin with `GATEWAY_BREAKER_CONFIG_INIT`. */
typedef struct gateway_breaker_config {
    /** `sizeof(gateway_breaker_config)`. */
    size_t size;
    /** How far back results are counted, in nanoseconds. Default 100 s. */
    uint64_t window;
    /** How long it stays open the first time; `GATEWAY_FOREVER`: until it is forced. Default 60 s. */
    uint64_t open_for;
    /** What the open time grows to at most. Default 10 min. */
    uint64_t open_for_max;
    /** After this time a probe without an answer counts as failed; 0: never. Default 120 s. */
    uint64_t probe_timeout;
    /** Into how many buckets the window is cut, 1 to 64. Default 10. */
    uint32_t buckets;
    /** The share of failures in the window that opens it, in parts per million. Default 500 000. */
    uint32_t failure_rate_ppm;
    /** Whether reaching the share opens, or only exceeding it: `GATEWAY_RATE_AT_LEAST` or `GATEWAY_RATE_ABOVE`. */
    uint32_t failure_rate_rule;
    /** The share says nothing before this many results, at least 1. Default 10. */
    uint32_t calls_min;
    /** This many failures in a row open it; 0: never. Default 5. */
    uint32_t consecutive_failures;
    /** What the open time is multiplied by each time a probe fails, at least 1. Default 2. */
    uint32_t open_for_factor;
    /** How many probes must succeed, one after the other, to close it, at least 1. Default 2. */
    uint32_t probes_to_close;
    /** Must be 0. */
    uint32_t reserved;
} gateway_breaker_config;

/**
 * Limits and policies of a gateway. Begin with `GATEWAY_CONFIG_INIT`, then set what should differ. Spans are in
 * nanoseconds.
 */
typedef struct gateway_config {
    /** `sizeof(gateway_config)`. */
    size_t size;
    /**
     * Keys every hash table and draws the jitter. Take it from a random source and keep it with the log. Default 0.
     */
    uint64_t seed;
    /**
     * What the numbers of the gateway's life are drawn from; 0: from the system's random source. Give one where there is a
     * log: a `begin_epoch` with it is the gateway's first command. Default 0.
     */
    uint64_t entropy;
    /** Customers without a policy of their own get this one; NULL: the default one. */
    const gateway_customer_policy *customer;
    /** When and how often failed attempts are tried again; NULL: as by default. */
    const gateway_backoff_config *backoff;
    /**
     * The breaker of each backend, without its `probe_timeout`: a probe is a lease and ends as one. NULL: as by default.
     */
    const gateway_breaker_config *breaker;
    /** A waiting job is lifted one lane each time it has waited so long; 0: never. Default 0. */
    uint64_t age_after;
    /** GPU time a job is expected to take when its submission does not say. Default 1 s. */
    uint64_t estimate;
    /** A lease ends when nothing was heard of it for so long. Backends may have their own. Default 300 s. */
    uint64_t lease_for;
    /** Longest single stay of a job in the queue, for jobs that do not bring their own; 0: no end. Default 0. */
    uint64_t timeout_queue;
    /** Longest time from submission to the first start. 0: no end. Default 0. */
    uint64_t timeout_start;
    /** Longest time of one attempt. 0: no end. Default 0. */
    uint64_t timeout_run;
    /** Longest time from submission to the end. 0: no end. Default 0. */
    uint64_t timeout_total;
    /** How much more than the lease's time a device may report, beyond `billing_tolerance_ppm`. Default 100 ms. */
    uint64_t billing_slack;
    /** How long after its end a lease may be told what it used; 0: not at all. Default 1 h. */
    uint64_t late_usage_for;
    /** Ended jobs are kept so long. Default 1 h. */
    uint64_t retain_for;
    /** Bytes of outputs and failure messages that are kept at most, together. Default 1 GiB. */
    uint64_t retained_bytes_max;
    /**
     * An idempotency key stands for its job until so long after the job's end, whether the job's record is still kept or
     * not; above zero. Default 24 h.
     */
    uint64_t idempotency_for;
    /** A customer without jobs is forgotten after so long. Default 600 s. */
    uint64_t customer_idle;
    /**
     * A batch of settlements that is neither confirmed nor given back returns to the outbox after so long. Default 60 s.
     */
    uint64_t settle_within;
    /**
     * A reading of the clock further ahead is on trial for a minute before it is time that passed, while there are jobs or
     * results that it could hurt. Default 1 h.
     */
    uint64_t clock_jump_max;
    /** How customers of one lane follow each other: `GATEWAY_ORDERING_FAIR` or `GATEWAY_ORDERING_FIFO`. */
    uint32_t ordering;
    /** How often a job may lose its worker before it is in error, at most 1 000 000. Default 5. */
    uint32_t losses_max;
    /** How often its workers may give a job back before it is in error, at most 1 000 000. Default 1 000. */
    uint32_t releases_max;
    /**
     * How often a job may be preempted, at most 1 000 000; after that `gateway_preempt` is refused and it runs on.
     * Default 1 000.
     */
    uint32_t preemptions_max;
    /** Who pays for an attempt that failed. Default `GATEWAY_PAYER_HOUSE`. */
    uint32_t billing_failed;
    /** Who pays for an attempt whose worker vanished. Default `GATEWAY_PAYER_HOUSE`. */
    uint32_t billing_lost;
    /** Who pays for an attempt that ran when its job was cancelled. Default `GATEWAY_PAYER_CUSTOMER`. */
    uint32_t billing_cancelled;
    /** Who pays for an attempt whose worker gave its lease back. Default `GATEWAY_PAYER_HOUSE`. */
    uint32_t billing_released;
    /**
     * Who pays for an attempt that the host ended by preempting its job or evicting its backend. Default
     * `GATEWAY_PAYER_HOUSE`.
     */
    uint32_t billing_preempted;
    /** How much more than the lease's time a device may report, in parts per million. Default 10 000. */
    uint32_t billing_tolerance_ppm;
    /** What becomes of a usage beyond that. Default `GATEWAY_EXCESS_CAP`. */
    uint32_t billing_excess;
    /** 1: an attempt that was not measured counts all devices of its backend; 0: one. Default 1. */
    uint32_t unmeasured_devices;
    /** Leases that may be told late at most; beyond that the oldest can no longer be. Default 100 000. */
    uint32_t late_usage_max;
    /**
     * 1: settlements are kept until they are confirmed; 0: there are none, and nothing counts against `jobs_max`.
     * Default 1.
     */
    uint32_t settlements;
    /** Jobs that have not ended and settlements not confirmed, together. Default 2 000 000. */
    uint32_t jobs_max;
    /** Longest payload in bytes. Default 10 MiB. */
    uint32_t payload_len_max;
    /** Longest output and longest failure message in bytes. Default 1 MiB. */
    uint32_t output_len_max;
    /** Ended jobs that are kept at most. Default 100 000. */
    uint32_t retained_max;
    /** Idempotency keys of ended jobs at most; the one whose job ended first leaves first. Default 1 000 000. */
    uint32_t idempotency_keys_max;
    /**
     * Whose keys are free again at once: `GATEWAY_FREE_FAILED`, `GATEWAY_FREE_CANCELLED` or both. Default 0: nobody's.
     */
    uint32_t idempotency_free;
    /** Customers known at once. Default 1 000 000. */
    uint32_t customers_max;
    /** Routes known at once. Default 10 000. */
    uint32_t routes_max;
    /** Modality and family pairs known at once. Default 1 000. */
    uint32_t families_max;
    /** Backends known at once. Default 10 000. */
    uint32_t backends_max;
    /** Events kept for a host that does not fetch them. Default 16 384. */
    uint32_t events_max;
    /** Deadlines one call handles at most. Default 1 024. */
    uint32_t due_max;
    /** Steps a transaction as data has at most, those within steps counted each. Default 64. */
    uint32_t steps_max;
    /** Must be 0. */
    uint32_t reserved;
} gateway_config;

/** A free word about a backend, for the host: endpoint, region, driver. */
typedef struct gateway_label {
    /** What it says. */
    const char *key;
    /** How it says it. */
    const char *value;
} gateway_label;

/**
 * A backend: one worker or pool of workers that serves models of one family. Begin with `GATEWAY_BACKEND_OPTIONS_INIT`,
 * then say at least `modality`, `family` and `models`.
 */
typedef struct gateway_backend_options {
    /** `sizeof(gateway_backend_options)`. */
    size_t size;
    /** The modality it serves: "image". */
    const char *modality;
    /** The family it serves: "flux". */
    const char *family;
    /** The models it serves, in any order; the one name "*" means all, also ones nobody has named yet. */
    const char *const *models;
    /** How many names `models` has. */
    size_t models_len;
    /** Free words about it; NULL: none. At most 16. */
    const gateway_label *labels;
    /** How many `labels` there are. */
    size_t labels_len;
    /** A lease ends when nothing was heard for this long, in nanoseconds; 0: as the gateway is configured. */
    uint64_t lease_for;
    /** The engine it runs, `GATEWAY_KIND_OTHER` by default. */
    uint32_t kind;
    /** Leases it takes at once, 1 to 65 536. Default 1. */
    uint32_t slots;
    /** GPUs that work for one lease, 1 to 64. Default 1. */
    uint32_t devices;
    /** Affinity keys it keeps warm at once, at most 64. Default 1. */
    uint32_t warm_max;
} gateway_backend_options;

/** A lease that ended because its backend was taken from it. */
typedef struct gateway_evicted {
    /** The lease: its worker's result is refused from now on. */
    uint64_t lease;
    /** The job. */
    gateway_job_id job;
} gateway_evicted;

/**
 * What a submission may say beyond who asks and what for. Begin with `GATEWAY_SUBMIT_OPTIONS_INIT`. Spans are in
 * nanoseconds.
 */
typedef struct gateway_submit_options {
    /** `sizeof(gateway_submit_options)`. */
    size_t size;
    /** The body: bytes that the backend gets unread. May be NULL where `payload_len` is 0. */
    const void *payload;
    /** How many bytes the body has. */
    size_t payload_len;
    /** What a backend should have loaded: a LoRA, a checkpoint, a prefix. NULL: nothing. */
    const char *affinity;
    /** A second submission of the customer under the same key is the same job. NULL: each is another. */
    const char *idempotency_key;
    /** GPU time it will probably take; counts for the fair share until the real time is known. 0: as configured. */
    uint64_t estimate;
    /** Longest single stay in the queue; 0: as configured. */
    uint64_t timeout_queue;
    /** Longest time from submission to the first start; 0: as configured. */
    uint64_t timeout_start;
    /** Longest time of one attempt; 0: as configured. */
    uint64_t timeout_run;
    /** Longest time from submission to the end; 0: as configured. */
    uint64_t timeout_total;
    /**
     * It may not run before this instant of the caller's clock, and its timeouts count from then on. One that has passed
     * is now; 0: at once.
     */
    uint64_t not_before;
    /** Tokens its start takes from the customer's rate. Default 1. */
    uint64_t tokens;
    /** The lane it waits in, `GATEWAY_PRIORITY_NORMAL` by default. */
    uint32_t priority;
    /** Must be 0. */
    uint32_t reserved;
} gateway_submit_options;

/** What one device worked for a lease: a difference on the GPU's own clock, never a reading of it. */
typedef struct gateway_usage {
    /** The device, as the driver names it: "GPU-8f2c...". Visible ASCII without comma. */
    const char *device;
    /** Nanoseconds it was busy. */
    uint64_t gpu_ns;
} gateway_usage;

/** What a lease says, but for its payload. Texts end in a NUL. */
typedef struct gateway_lease_info {
    /** Its id: every result carries it. Never used twice within one gateway. */
    uint64_t id;
    /** The job. */
    gateway_job_id job;
    /** When the lease ends if nothing is heard. */
    uint64_t deadline;
    /** How many bytes the payload has; `gateway_lease_payload` copies it. */
    size_t payload_len;
    /** What to do: `GATEWAY_TASK_T2I` and its like. */
    uint32_t task;
    /** Which attempt this is, from 1. */
    uint32_t attempt;
    /** 1 where the backend was warm for the job's affinity key. */
    uint32_t warm;
    /** 1 where this is the probe of a half-open breaker. */
    uint32_t probe;
    /** Who asked. */
    char customer[GATEWAY_NAME_CAP];
    /** The backend. */
    char backend[GATEWAY_NAME_CAP];
    /** Modality, family and model, and the engine where one was wanted: "image/flux/dev". */
    char route[GATEWAY_ROUTE_CAP];
} gateway_lease_info;

/**
 * What a job produced: either where it lies (`url`) or the result itself (`data`). See `GATEWAY_OUTPUT_URL` and
 * `GATEWAY_OUTPUT_DATA`.
 */
typedef struct gateway_output {
    /** Where the result lies; NULL where it is `data`. */
    const char *url;
    /** The result itself; NULL where it is `url`. */
    const void *data;
    /** How many bytes `data` has. */
    size_t data_len;
} gateway_output;

/** What a completed job came to. */
typedef struct gateway_settled {
    /** The job. */
    gateway_job_id job;
    /** GPU time that was reported of the attempts the customer pays for, in nanoseconds. */
    uint64_t reported;
    /** GPU time the customer pays for, in nanoseconds. */
    uint64_t usage;
    /** What it costs, in millionths of the currency, where `priced` is 1. */
    uint64_t charge;
    /** 1 where the book has a price. Where it is 0 it is not known what the job costs. */
    uint32_t priced;
    /** 1 where less was billed or absorbed than was reported. */
    uint32_t capped;
} gateway_settled;

/** How an attempt failed. Begin with `GATEWAY_FAILURE_INIT`. */
typedef struct gateway_failure {
    /** `sizeof(gateway_failure)`. */
    size_t size;
    /** Words for people; NULL: none. */
    const char *message;
    /** The backend's own wish in nanoseconds: the next attempt comes no earlier. 0: none. */
    uint64_t retry_after;
    /** The kind of failure, `GATEWAY_FAILURE_BACKEND` by default. */
    uint32_t failure_class;
    /** The HTTP status where the class is `GATEWAY_FAILURE_HTTP`. */
    uint32_t http_status;
    /** Overrides what the class says of trying again: `GATEWAY_RETRIABLE_BY_CLASS` by default. */
    uint32_t retriable;
    /** Must be 0. */
    uint32_t reserved;
} gateway_failure;

/** What becomes of a job whose attempt failed. */
typedef struct gateway_after_failure {
    /** 1: it is tried again. 0: it ended in error. */
    uint64_t retried;
    /** When it is tried again, not before; `GATEWAY_FOREVER` where it is not. */
    uint64_t at;
} gateway_after_failure;

/** What a call of `gateway_advance` did. */
typedef struct gateway_advanced {
    /** The machine's time after it. */
    uint64_t now;
    /** When to call again; `GATEWAY_FOREVER`: no deadline is armed. */
    uint64_t next_deadline;
    /** How far the clock is ahead by steps that are on trial, if this reading was one; else 0. */
    uint64_t leapt;
    /** Deadlines handled. */
    uint32_t handled;
    /** 1 where more is due already: call again at once. */
    uint32_t more;
} gateway_advanced;

/** How a job ended, but for the bytes. */
typedef struct gateway_outcome {
    /** `GATEWAY_OUTCOME_URL` and its like. */
    uint32_t kind;
    /** Of a failure its class, `GATEWAY_FAILURE_TIMEOUT` and its like; else 0. */
    uint32_t failure_class;
    /** Of a failure by HTTP its status; else 0. */
    uint32_t http_status;
    /** Of a failure: 1 where another submission might succeed. */
    uint32_t retriable;
} gateway_outcome;

/**
 * The steps of a transaction. Returns 0 to keep them; anything else takes all of them back and is what
 * `gateway_transaction` answers. `tx` must not be kept. No exception and no `longjmp` may leave it.
 */
typedef gateway_status (*gateway_tx_body)(gateway_tx *tx, void *context);

/** What a usage that was told late came to. */
typedef struct gateway_corrected {
    /** The job of the lease. */
    gateway_job_id job;
    /**
     * The number of the correcting settlement; 0: nothing changed, the job has not ended and will be settled with this
     * figure, or no settlements are kept.
     */
    uint64_t settlement;
    /** GPU time that was reported, in nanoseconds. */
    uint64_t reported;
    /** GPU time that stands for the lease now, in nanoseconds. */
    uint64_t billed;
    /** 1 where that is less than was reported. */
    uint64_t capped;
} gateway_corrected;

/**
 * What GPU time of a model costs in a tier: `micros` for each `per` nanoseconds, exactly. {"*", "*", 8400, GATEWAY_HOUR} is
 * 0.0084 an hour. A charge is usage times price, rounded once, to the nearest millionth and a tie to the even one. The
 * most telling entry wins: both named, model named, tier named, neither.
 */
typedef struct gateway_price {
    /** Family and model, "flux/dev", or "*" for any. */
    const char *model;
    /** The tier, or "*" for any. */
    const char *tier;
    /** Millionths of the currency. */
    uint64_t micros;
    /** Nanoseconds of GPU time they are for; 0: a second. */
    uint64_t per;
} gateway_price;

/** A run of entries that were handed out together. It says which. */
typedef struct gateway_batch {
    /** Its id, from 1 on. Each handing-out has a new one. */
    uint64_t id;
    /** The number of its first entry. */
    uint64_t first_seq;
    /** How many entries it has, without gaps. */
    uint64_t len;
} gateway_batch;

/**
 * What one job cost. Each job that ended has exactly one first entry, also one that never ran, and a correction for each
 * usage that was told late. What a customer owes is the sum of `charge` less the sum of `charge_credit`. Spans are in
 * nanoseconds, money in millionths of the currency. Texts end in a NUL.
 */
typedef struct gateway_settlement {
    /**
     * Its number, without gaps within the gateway's life. A host drops an entry whose epoch and number it has, a first entry
     * of a job that it has a first entry of from another epoch, and a correction of an entry that it dropped. A correction
     * whose lease and revision it has from another epoch takes the place of that one and of those of the lease that
     * followed it there.
     */
    uint64_t number;
    /**
     * The life of the gateway that its number belongs to: in which the job ended, in a correction in which it was told.
     */
    uint64_t epoch;
    /** The job. */
    gateway_job_id job;
    /** GPU time that was reported of the attempts the customer pays for; in a correction, of its lease. */
    uint64_t reported;
    /** GPU time the customer pays for; in a correction, what is added. */
    uint64_t usage;
    /** GPU time nobody pays for, by policy; in a correction, what is added. */
    uint64_t absorbed;
    /** Price for each `price_per` of GPU time, where `priced` is 1. */
    uint64_t price;
    /** Nanoseconds that `price` is for, where `priced` is 1. */
    uint64_t price_per;
    /** Usage times price, rounded once, where `priced` is 1. Where it is 0 it is not known what the job costs. */
    uint64_t charge;
    /** The number of the entry it corrects; 0: it is the first one of its job. */
    uint64_t corrects;
    /** The life of the gateway that `corrects` belongs to: in which the job ended. */
    uint64_t corrects_epoch;
    /** The lease whose usage was told late, in a correction. */
    uint64_t lease;
    /** When it was told, in a correction; else `GATEWAY_FOREVER`. */
    uint64_t corrected;
    /** GPU time the customer no longer pays for; 0 but in a correction. */
    uint64_t usage_credit;
    /** GPU time that is no longer absorbed; 0 but in a correction. */
    uint64_t absorbed_credit;
    /** What is given back; 0 but in a correction. */
    uint64_t charge_credit;
    /** When the job was submitted. */
    uint64_t created;
    /** When its last attempt began; `GATEWAY_FOREVER` where it never ran. */
    uint64_t started;
    /** When it ended. */
    uint64_t finished;
    /** Version of the price book. */
    uint32_t price_version;
    /** 1 where the book has a price. */
    uint32_t priced;
    /** 1 where every attempt the customer pays for was measured; otherwise some of `usage` is lease time. */
    uint32_t measured;
    /** 1 where less was billed or absorbed than was reported. */
    uint32_t capped;
    /** Which of its lease's corrections it is, from 1 on; 0: it is none. */
    uint32_t revision;
    /** What it was: `GATEWAY_TASK_T2I` and its like. */
    uint32_t task;
    /** How it ended: `GATEWAY_STATE_COMPLETE` and its like. */
    uint32_t state;
    /** Attempts that failed. */
    uint32_t attempts;
    /** Returns to the queue that were not the job's fault. */
    uint32_t requeues;
    /** Devices of all attempts the customer pays for; `gateway_settlements_device` tells each. */
    uint32_t devices;
    /** Who pays. */
    char customer[GATEWAY_NAME_CAP];
    /** The backend of its last attempt; empty where it never ran. */
    char backend[GATEWAY_NAME_CAP];
    /** Price tier. */
    char tier[GATEWAY_NAME_CAP];
    /** Where it waited: modality, family and model, and the engine where one was wanted. */
    char route[GATEWAY_ROUTE_CAP];
} gateway_settlement;

/** A job as it stands. Texts end in a NUL. */
typedef struct gateway_job {
    /** Its id. */
    gateway_job_id id;
    /** When it was submitted. */
    uint64_t created;
    /** When its latest attempt began; `GATEWAY_FOREVER`: none has. */
    uint64_t started;
    /** When it ended; `GATEWAY_FOREVER`: it has not. */
    uint64_t finished;
    /** How long it will probably wait, in nanoseconds; `GATEWAY_FOREVER` where nothing is known. */
    uint64_t eta;
    /** The live lease; 0: none. */
    uint64_t lease;
    /** Where it is in its life: `GATEWAY_STATE_QUEUED` and its like. */
    uint32_t state;
    /** What it asks for: `GATEWAY_TASK_T2I` and its like. */
    uint32_t task;
    /** The lane it was submitted to: `GATEWAY_PRIORITY_NORMAL` and its like. */
    uint32_t priority;
    /** Jobs of its route before it, while it waits; else 4 294 967 295. */
    uint32_t position;
    /** How far it is, in parts per million. */
    uint32_t progress_ppm;
    /** Attempts that failed. */
    uint32_t attempts;
    /** Returns to the queue that were not its fault: lost, given back or preempted. */
    uint32_t requeues;
    /** How many of those the host asked for: `gateway_preempt` and `gateway_evict_backend`. */
    uint32_t preemptions;
    /** Rises with each change. */
    uint32_t version;
    /** Who asked. */
    char customer[GATEWAY_NAME_CAP];
    /** The backend it runs on; empty where it does not run. */
    char backend[GATEWAY_NAME_CAP];
    /** Modality, family and model, and the engine where one was wanted. */
    char route[GATEWAY_ROUTE_CAP];
} gateway_job;

/** Why a job waits. */
typedef struct gateway_reason {
    /** Until when, where the kind says so; else `GATEWAY_FOREVER`. */
    uint64_t until;
    /** `GATEWAY_REASON_NOT_BEFORE` and its like. */
    uint32_t kind;
    /** How many, where the kind says so; else 0. */
    uint32_t count;
} gateway_reason;

/** A backend as it stands. */
typedef struct gateway_backend {
    /** Leases that delivered. */
    uint64_t completed;
    /** Leases that failed through its fault. */
    uint64_t failed;
    /** Leases of which nothing was heard any more. */
    uint64_t lost;
    /** When the breaker's state ends by itself; `GATEWAY_FOREVER` where it does not. */
    uint64_t breaker_until;
    /** Live leases. */
    uint32_t live;
    /** Leases it takes at once. */
    uint32_t slots;
    /** The engine it runs: `GATEWAY_KIND_TORCH` and its like. */
    uint32_t kind;
    /** 1 where it gets no new leases. */
    uint32_t draining;
    /** The state of its breaker: `GATEWAY_BREAKER_CLOSED` and its like. */
    uint32_t breaker;
    /** 1 where that state was forced. */
    uint32_t breaker_forced;
} gateway_backend;

/** A customer as it stands. */
typedef struct gateway_customer {
    /** Whole tokens left, where `limited` is 1. */
    uint64_t tokens;
    /** Its share. */
    uint32_t weight;
    /** Its jobs that run. */
    uint32_t running;
    /** Its jobs that wait. */
    uint32_t queued;
    /** 1 where it has a rate limit. */
    uint32_t limited;
    /** 1 where it has a policy of its own. */
    uint32_t own_policy;
    /** Its price tier. */
    char tier[GATEWAY_NAME_CAP];
} gateway_customer;

/** Numbers of the whole gateway. Each gauge is a count of what there is. */
typedef struct gateway_stats {
    /** Jobs that wait. */
    uint64_t queued;
    /** Jobs that run; as many leases live. */
    uint64_t running;
    /** Jobs that delivered and are still known. */
    uint64_t complete;
    /** Jobs in error that are still known. */
    uint64_t error;
    /** Cancelled jobs that are still known. */
    uint64_t cancelled;
    /** Customers known. */
    uint64_t customers;
    /** Routes known. */
    uint64_t routes;
    /** Backends known. */
    uint64_t backends;
    /** Settlements the host has not confirmed. */
    uint64_t unconfirmed;
    /** Events that wait to be fetched. */
    uint64_t events;
    /** All charges so far, in millionths of the currency: the lower 64 bits. */
    uint64_t charged_micros;
    /** The upper 64 bits of the same sum. */
    uint64_t charged_micros_high;
    /** How far the host's clock is ahead by steps that are on trial, in nanoseconds. */
    uint64_t clock_offset;
    /** Jobs accepted, ever. */
    uint64_t submitted_total;
    /** Leases granted, ever. */
    uint64_t leases_total;
    /** Leases on a backend that was warm for the job, ever. */
    uint64_t warm_hits_total;
    /** Probes of half-open breakers, ever. */
    uint64_t probes_total;
    /** Jobs that delivered, ever. */
    uint64_t completed_total;
    /** Jobs that ended in error, ever. */
    uint64_t errors_total;
    /** Jobs that were cancelled, ever. */
    uint64_t cancelled_total;
    /** Attempts tried again, ever. */
    uint64_t retries_total;
    /** Returns to the queue that were not the job's fault, ever. */
    uint64_t requeues_total;
    /** Leases that ended because nothing was heard any more, ever. */
    uint64_t lost_total;
    /** Leases that their workers gave back, ever. */
    uint64_t released_total;
    /** Leases that the host took back, ever. */
    uint64_t preempted_total;
    /** Times a job was stepped over because its customer could not run, ever. */
    uint64_t parked_total;
    /** Lanes climbed by waiting, ever. */
    uint64_t aged_total;
    /** Ended jobs whose record left, ever. */
    uint64_t forgotten_total;
    /** Steps of the clock that were put on trial, ever. */
    uint64_t clock_leaps_total;
    /** Attempts billed or absorbed for less than was reported, ever. */
    uint64_t capped_total;
    /** Jobs settled without a price, ever: what they cost is not known. */
    uint64_t unpriced_total;
    /** Usages told late that changed what a settled job comes to, ever. */
    uint64_t corrections_total;
    /** All charges given back by corrections, in millionths of the currency: the lower 64 bits. */
    uint64_t credited_micros;
    /** The upper 64 bits of the same sum. */
    uint64_t credited_micros_high;
    /** GPU time that customers pay for without a price, in nanoseconds: the lower 64 bits. */
    uint64_t unpriced_ns;
    /** The upper 64 bits of the same sum. */
    uint64_t unpriced_ns_high;
} gateway_stats;

/**
 * One thing that happened. Events are numbered from 1 without gaps; a host that fetches them too late finds the number
 * of the first it gets higher than it expected. Numbers go on after a restore, in another epoch: a host that kept its
 * place by number has to look again where the epoch is not the one it knew.
 */
typedef struct gateway_event {
    /** The life of the gateway it belongs to. */
    uint64_t epoch;
    /** Its number. */
    uint64_t number;
    /** When it happened. */
    uint64_t at;
    /** The job it is about; zero where it is about none. */
    gateway_job_id job;
    /** How far the clock stepped, of `GATEWAY_EVENT_CLOCK_LEAPT`; else 0. */
    uint64_t leapt;
    /** GPU time reported, of `GATEWAY_EVENT_USAGE_CAPPED`; else 0. */
    uint64_t reported;
    /** GPU time billed or absorbed, of `GATEWAY_EVENT_USAGE_CAPPED`; else 0. */
    uint64_t billed;
    /** What happened: `GATEWAY_EVENT_QUEUED` and its like. */
    uint32_t kind;
    /** How the job ended, of `GATEWAY_EVENT_ENDED`; else 0. */
    uint32_t state;
} gateway_event;

/** What the watcher of a job is told. */
typedef struct gateway_watch_event {
    /** `GATEWAY_WATCH_QUEUED` and its like. */
    uint32_t kind;
    /** Jobs before it, of `GATEWAY_WATCH_QUEUED`. */
    uint32_t position;
    /** Parts per million, of `GATEWAY_WATCH_RUNNING`. */
    uint32_t progress_ppm;
    /** How it ended, of `GATEWAY_WATCH_ENDED`: `GATEWAY_STATE_COMPLETE` and its like. */
    uint32_t state;
} gateway_watch_event;

/**
 * The rule of a bucket: `amount` tokens flow in per `per` nanoseconds, evenly, and at most `burst` are kept, whatever the
 * numbers: `{30 * 24 * GATEWAY_HOUR, 9973, 9973}` is exact. An `amount` of 0 never refills. Begin with `GATEWAY_RATE_INIT`
 * for 100 a second, 1 000 kept.
 */
typedef struct gateway_rate {
    /** The time in which `amount` tokens flow in, in nanoseconds; not 0. `GATEWAY_SECOND` for a rate per second. */
    uint64_t per;
    /** Tokens that flow in per `per`. */
    uint64_t amount;
    /** Tokens of a full bucket. */
    uint64_t burst;
} gateway_rate;

/** What a limiter says to a call. */
typedef struct gateway_acquired {
    /**
     * Of a denial the first nanosecond at which the same call is allowed if nobody takes tokens before,
     * `GATEWAY_FOREVER` if it never is; 0 where tokens were taken.
     */
    uint64_t until;
    /** Whole tokens left, where tokens were taken; else 0. */
    uint64_t remaining;
    /**
     * 1 where a keyed limiter had no room for a new key and took the tokens of the bucket that such keys share; else 0.
     */
    uint32_t shared;
    /** 0. */
    uint32_t reserved;
} gateway_acquired;

/** What the headers `X-RateLimit-Limit`, `-Remaining` and `-Reset` say. */
typedef struct gateway_rate_headers {
    /** Time until the bucket is full again, in nanoseconds; `GATEWAY_FOREVER` if it never will be. */
    uint64_t reset;
    /** Tokens of a full bucket. */
    uint64_t limit;
    /** Whole tokens left. */
    uint64_t remaining;
} gateway_rate_headers;

/**
 * The settings of a keyed limiter. Begin with `GATEWAY_KEYED_LIMITER_CONFIG_INIT`: 100 a second, 1 000 kept, for up to
 * 100 000 keys.
 */
typedef struct gateway_keyed_limiter_config {
    /** `sizeof(gateway_keyed_limiter_config)`. */
    size_t size;
    /** What keys are hashed with. Give random bits where strangers choose the keys. No answer depends on it. */
    uint64_t seed;
    /** The time in which `amount` tokens flow in, in nanoseconds. Default 1 s. */
    uint64_t per;
    /** Tokens that flow in per `per`. Default 100. */
    uint64_t amount;
    /** Tokens of a full bucket. Default 1 000. */
    uint64_t burst;
    /**
     * The time in which `overflow_amount` tokens flow into the bucket that new keys share while there is no room to
     * remember them. 0, the default: its rate is that of a hundredth of `keys_max` keys.
     */
    uint64_t overflow_per;
    /** Tokens that flow into it per `overflow_per`. */
    uint64_t overflow_amount;
    /** Its burst; 0 refuses new keys while there is no room. */
    uint64_t overflow_burst;
    /**
     * A key that has called again stays remembered for so long after its last call, at least, though its bucket be full.
     * Default 10 minutes. Up to half of `keys_max` stay so.
     */
    uint64_t known_for;
    /**
     * The most keys that are remembered at once, at least 1. Only keys whose bucket is not full need to be.
     * Default 100 000.
     */
    uint32_t keys_max;
    /** Must be 0. */
    uint32_t reserved;
} gateway_keyed_limiter_config;

/**
 * The rule of a strict window: at most `amount` tokens in any stretch of time of `per` nanoseconds, wherever it begins. A
 * bucket lets as many more through as it keeps; this does not, and keeps an instant for each token instead.
 */
typedef struct gateway_window_limit {
    /** The length of the window in nanoseconds; not 0. */
    uint64_t per;
    /** The most tokens of a window, at most 65 536. */
    uint32_t amount;
    /** Must be 0. */
    uint32_t reserved;
} gateway_window_limit;

/** What a breaker says to a call. */
typedef struct gateway_admitted {
    /** Comes back with the call's result; 0 of a denial. */
    uint64_t permit;
    /**
     * Of a denial when it is worth asking again, `GATEWAY_FOREVER` where no instant will change the answer; else 0.
     */
    uint64_t until;
    /** 1 where the call is the one probe: its result decides. */
    uint64_t probe;
} gateway_admitted;

/** All there is to know of a breaker at an instant. */
typedef struct gateway_breaker_status {
    /** Since when it is in its state. */
    uint64_t since;
    /** When the state ends by itself; `GATEWAY_FOREVER` where it does not. */
    uint64_t until;
    /** Results in the window. */
    uint64_t calls;
    /** Failures among them. */
    uint64_t failures;
    /** Successes counted, ever. */
    uint64_t successes_total;
    /** Failures counted, ever. */
    uint64_t failures_total;
    /** Calls denied, ever. */
    uint64_t rejected_total;
    /** `GATEWAY_BREAKER_CLOSED` and its like. */
    uint32_t state;
    /** 1 where the state was forced. */
    uint32_t forced;
    /** 1 where a probe is out. */
    uint32_t probe_out;
    /** Probes that succeeded in this half-open state. */
    uint32_t probe_successes;
    /** Failures since the last success. */
    uint32_t consecutive_failures;
    /** How often in a row a probe failed. */
    uint32_t reopens;
} gateway_breaker_status;

/** Limits and order of a queue. Begin with `GATEWAY_QUEUE_CONFIG_INIT`. */
typedef struct gateway_queue_config {
    /** `sizeof(gateway_queue_config)`. */
    size_t size;
    /** Keys the hash tables. Default 0. */
    uint64_t seed;
    /** How customers of one lane follow each other, `GATEWAY_ORDERING_FAIR` by default. */
    uint32_t ordering;
    /** Items that may wait. Default 1 000 000. */
    uint32_t items_max;
    /** Customers known at once; beyond that the one longest without items is forgotten. Default 100 000. */
    uint32_t customers_max;
    /** Must be 0. */
    uint32_t reserved;
} gateway_queue_config;

/** Which item of a queue; never used twice by one queue. */
typedef struct gateway_ticket {
    /** Rises with each item. */
    uint64_t sequence;
    /** Where it lies. */
    uint64_t slot;
} gateway_ticket;

/** Limits of a job store. Begin with `GATEWAY_STORE_CONFIG_INIT`. Spans are in nanoseconds. */
typedef struct gateway_store_config {
    /** `sizeof(gateway_store_config)`. */
    size_t size;
    /** Keys the hash tables. Default 0. */
    uint64_t seed;
    /** Ended jobs are kept so long. Default 1 h. */
    uint64_t retain_for;
    /** Bytes of outputs and failure messages that are kept at most, together. Default 1 GiB. */
    uint64_t retained_bytes_max;
    /** An idempotency key stands for its job until so long after the job's end. Default 24 h. */
    uint64_t idempotency_for;
    /** Longest single stay of a job in the queue; 0: no end. Default 0. */
    uint64_t timeout_queue;
    /** Longest time to the first start; 0: no end. Default 0. */
    uint64_t timeout_start;
    /** Longest time of one attempt; 0: no end. Default 0. */
    uint64_t timeout_run;
    /** Longest time to the end; 0: no end. Default 0. */
    uint64_t timeout_total;
    /** Jobs that have not ended. Default 1 000 000. */
    uint32_t jobs_max;
    /** Ended jobs that are kept at most. Default 100 000. */
    uint32_t retained_max;
    /** Longest payload, output and failure message in bytes. Default 10 MiB. */
    uint32_t payload_len_max;
    /** Idempotency keys of ended jobs at most; the one whose job ended first leaves first. Default 1 000 000. */
    uint32_t idempotency_keys_max;
    /**
     * Whose keys are free again at once: `GATEWAY_FREE_FAILED`, `GATEWAY_FREE_CANCELLED` or both. Default 0: nobody's.
     */
    uint32_t idempotency_free;
    /** Must be 0. */
    uint32_t reserved;
} gateway_store_config;

/** What a job may bring beyond its id and customer. Begin with `GATEWAY_STORE_OPTIONS_INIT`. */
typedef struct gateway_store_options {
    /** `sizeof(gateway_store_options)`. */
    size_t size;
    /** The body. May be NULL where `payload_len` is 0. */
    const void *payload;
    /** How many bytes the body has. */
    size_t payload_len;
    /** A second insertion of the customer under the same key is the same job. NULL: each is another. */
    const char *idempotency_key;
    /** Longest single stay in the queue; 0: as configured. */
    uint64_t timeout_queue;
    /** Longest time to the first start; 0: as configured. */
    uint64_t timeout_start;
    /** Longest time of one attempt; 0: as configured. */
    uint64_t timeout_run;
    /** Longest time to the end; 0: as configured. */
    uint64_t timeout_total;
} gateway_store_options;

/** A stored job as it stands. */
typedef struct gateway_stored_job {
    /** Its id. */
    gateway_job_id id;
    /** When it was inserted. */
    uint64_t created;
    /** When its latest attempt began; `GATEWAY_FOREVER`: none has. */
    uint64_t started;
    /** When it ended; `GATEWAY_FOREVER`: it has not. */
    uint64_t finished;
    /** How many bytes its payload has; 0 once it has ended. */
    size_t payload_len;
    /** Where it is in its life: `GATEWAY_STATE_QUEUED` and its like. */
    uint32_t state;
    /** How far it is, in parts per million. */
    uint32_t progress_ppm;
    /** The number of its latest attempt; 0 before the first. */
    uint32_t attempt;
    /** Rises with each change. */
    uint32_t version;
    /** Who asked. */
    char customer[GATEWAY_NAME_CAP];
} gateway_stored_job;

/**
 * How much a billing collector keeps, and what it believes. Begin with `GATEWAY_BILLING_CONFIG_INIT`. Spans are in
 * nanoseconds.
 */
typedef struct gateway_billing_config {
    /** `sizeof(gateway_billing_config)`. */
    size_t size;
    /** Seed of the table of request ids; secret where they come from strangers. Default 0. */
    uint64_t seed;
    /** How long a call may stay open before it is swept. Default 1 h. */
    uint64_t start_age_max;
    /** How long a batch may stay unconfirmed before it is handed out again. Default 60 s. */
    uint64_t hold;
    /** How much longer than the call a device may have worked, beyond `tolerance_ppm`. Default 100 ms. */
    uint64_t slack;
    /** The same in parts per million. Default 10 000. */
    uint32_t tolerance_ppm;
    /** Most calls open at a time. Default 100 000. */
    uint32_t starts_max;
    /** Most records that are not confirmed. Default 1 000 000. */
    uint32_t outbox_max;
    /** What becomes of a usage beyond the possible. Default `GATEWAY_EXCESS_CAP`. */
    uint32_t excess;
} gateway_billing_config;

/** Who calls what. */
typedef struct gateway_call {
    /** The id of the request. */
    const char *request_id;
    /** Who pays; NULL if nobody does. */
    const char *customer;
    /** The model, as the price book names it. */
    const char *model;
    /** The customer's pricing tier; NULL if there is none. */
    const char *tier;
} gateway_call;

/** What a call came to. */
typedef struct gateway_receipt {
    /** The number of its record. */
    uint64_t seq;
    /** Nanoseconds reported. */
    uint64_t reported_ns;
    /** Nanoseconds charged. */
    uint64_t billed_ns;
    /** Millionths of the currency, where `priced` is 1. */
    uint64_t charge;
    /** 1 where there was a price. */
    uint32_t priced;
    /** 1 where less is charged than was reported. */
    uint32_t capped;
} gateway_receipt;

/** The record of a call that has left. Texts end in a NUL. */
typedef struct gateway_record {
    /** Its number, without gaps. A receiver that sees a number again drops it. */
    uint64_t seq;
    /** Nanoseconds reported; 0 unless it ended. */
    uint64_t reported_ns;
    /** Nanoseconds charged: as many, or what was possible where that is less. */
    uint64_t billed_ns;
    /** When it started, by the caller's clock. */
    uint64_t started;
    /** When it left, by the caller's clock. */
    uint64_t ended;
    /** Nanoseconds it took: the time that passed, whatever steps the clock made. */
    uint64_t elapsed;
    /** Price for each `price_per` of GPU time, where `priced` is 1. */
    uint64_t price;
    /** Nanoseconds that `price` is for, where `priced` is 1. */
    uint64_t price_per;
    /** What is charged in millionths of the currency, where `priced` is 1. */
    uint64_t charge;
    /** 1 where there was a price. */
    uint32_t priced;
    /** The version of the price book that gave it. */
    uint32_t price_version;
    /** How it left: `GATEWAY_CALL_ENDED` and its like. */
    uint32_t outcome;
    /** 1 where `reported_ns` was measured. */
    uint32_t measured;
    /** 1 where less is charged than was reported. */
    uint32_t capped;
    /** 1 where `ended` lies before `started`: the clock was set back in between. */
    uint32_t clock_back;
    /** 1 where it has a customer. */
    uint32_t has_customer;
    /** 1 where it has a tier. */
    uint32_t has_tier;
    /** The currency: three letters. */
    char currency[8];
    /** The id of the request. */
    char request_id[GATEWAY_NAME_CAP];
    /** Who pays, where `has_customer` is 1. */
    char customer[GATEWAY_NAME_CAP];
    /** The model. */
    char model[GATEWAY_NAME_CAP];
    /** The customer's pricing tier, where `has_tier` is 1. */
    char tier[GATEWAY_NAME_CAP];
} gateway_record;

/** Sums over the whole life of a collector. */
typedef struct gateway_billing_totals {
    /** Calls open now. */
    uint64_t open;
    /** Records that are not confirmed. */
    uint64_t unconfirmed;
    /** Calls started. */
    uint64_t started;
    /** Calls ended. */
    uint64_t ended;
    /** Calls abandoned. */
    uint64_t abandoned;
    /** Calls swept. */
    uint64_t swept;
    /** Ended calls that had no price. */
    uint64_t unpriced;
    /** Nanoseconds of calls that had no price; part of `usage_ns`. The lower 64 bits. */
    uint64_t unpriced_ns;
    /** The upper 64 bits of the same sum. */
    uint64_t unpriced_ns_high;
    /** Ended calls charged for less than they reported. */
    uint64_t capped;
    /** Ended calls without a measurement. */
    uint64_t unmeasured;
    /** Nanoseconds charged: the lower 64 bits. */
    uint64_t usage_ns;
    /** The upper 64 bits of the same sum. */
    uint64_t usage_ns_high;
    /** Millionths of the currency charged: the lower 64 bits. */
    uint64_t charge_micros;
    /** The upper 64 bits of the same sum. */
    uint64_t charge_micros_high;
} gateway_billing_totals;

/** A distribution in numbers. */
typedef struct gateway_distribution {
    /** How many values were recorded. */
    uint64_t count;
    /** The least value; 0 while there is none. */
    uint64_t min;
    /** The greatest value; 0 while there is none. */
    uint64_t max;
    /** The mean, rounded down; 0 while there is no value. */
    uint64_t mean;
    /** The sum of the values: the lower 64 bits. */
    uint64_t sum;
    /** The upper 64 bits of the same sum. */
    uint64_t sum_high;
    /** What quantiles may be too great by, in parts per million. */
    uint64_t relative_error_ppm;
} gateway_distribution;

/** A part of a distribution. */
typedef struct gateway_bucket {
    /** The greatest value that counts into it. */
    uint64_t upper;
    /** How many values did. */
    uint64_t count;
} gateway_bucket;

/** What follows a failed attempt. */
typedef struct gateway_retry {
    /** When to try again, not before; `GATEWAY_FOREVER` where there is no further attempt. */
    uint64_t at;
    /** `GATEWAY_RETRY_AT`, or why there is none. */
    uint32_t kind;
    /** Always 0. */
    uint32_t reserved;
} gateway_retry;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ---- The library and its clock --------------------------------------------------------------------------------------- */

/**
 * The ABI of the library that is loaded. A program that loads it by hand compares it with `GATEWAY_ABI_VERSION`.
 *
 * Cannot fail. May be called from any thread, and from a signal handler.
 */
uint32_t gateway_abi_version(void);

/**
 * The version of the library that is loaded, as text: "0.1.0". A static string: do not free it.
 *
 * Cannot fail. May be called from any thread, and from a signal handler.
 */
const char *gateway_version(void);

/**
 * The system's clock: nanoseconds since 1970-01-01 00:00 UTC. What every `now` of this header is counted in.
 *
 * It never steps: it reads the wall's time once in a process, and goes on with the machine's time since boot, which counts
 * the time the machine was suspended. A process that is forked goes on with it.
 *
 * The library itself reads it only in the functions that wait. Everywhere else the caller passes `now`, from this
 * clock, from another one, or from a test that makes time up.
 *
 * Cannot fail. May be called from any thread; from a signal handler, once it was called outside of one.
 */
uint64_t gateway_now(void);

/* ---- What went wrong ------------------------------------------------------------------------------------------------- */

/**
 * The name of a status in lower case, "invalid_handle" for `GATEWAY_INVALID_HANDLE`; "unknown" for a number that is
 * none. A static string: do not free it.
 *
 * Cannot fail. May be called from any thread.
 */
const char *gateway_status_name(gateway_status status);

/**
 * The status of the last error of this thread; `GATEWAY_OK` where there was none. A call that succeeds does not
 * clear it.
 *
 * Cannot fail. May be called from any thread; each thread has its own last error.
 */
gateway_status gateway_last_error_status(void);

/**
 * Forgets the last error of this thread.
 *
 * Cannot fail. May be called from any thread.
 */
void gateway_last_error_clear(void);

/**
 * The message of the last error of this thread, for people: lower case, no full stop. An empty text where there was no
 * error. Buffers work as told at the top of this header.
 *
 * Errors: `GATEWAY_BUFFER_TOO_SMALL`; the last error stays the one that is asked for.
 * May be called from any thread; each thread has its own last error.
 */
gateway_status gateway_last_error_message(char *buf, size_t cap, size_t *needed);

/**
 * The name of the last error of this thread: "too_long". An empty text where there was no error.
 *
 * Errors and threads: as `gateway_last_error_message`.
 */
gateway_status gateway_last_error_name(char *buf, size_t cap, size_t *needed);

/**
 * The field or parameter the last error of this thread is about: "customer". An empty text where there is none.
 *
 * Errors and threads: as `gateway_last_error_message`.
 */
gateway_status gateway_last_error_field(char *buf, size_t cap, size_t *needed);

/**
 * The limit that the last error of this thread is about, where it is `GATEWAY_FULL`; `gateway_last_error_field` is its
 * name.
 *
 * `GATEWAY_NONE`: the last error is another, or there was none. Errors: `GATEWAY_BAD_POINTER`. May be called from any
 * thread; each thread has its own last error.
 */
gateway_status gateway_last_error_limit(gateway_full *full);

/**
 * The whole last error of this thread as JSON, as it stands in replies to commands:
 * `{"number":202,"name":"too_long","field":"customer","message":"..."}`. An empty text where there was no error.
 *
 * Errors and threads: as `gateway_last_error_message`.
 */
gateway_status gateway_last_error_json(char *buf, size_t cap, size_t *needed);

/* ---- Ids ------------------------------------------------------------------------------------------------------------- */

/**
 * Makes an id from the system's random source.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NO_ENTROPY`. May be called from any thread.
 */
gateway_status gateway_job_id_random(gateway_job_id *id);

/**
 * Writes an id as text: 28 characters and the NUL, so that `char buf[GATEWAY_JOB_ID_CAP]` always is enough.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_job_id_format(gateway_job_id id, char *buf, size_t cap, size_t *needed);

/**
 * Reads an id from its text.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_MALFORMED`. May be called from any thread.
 */
gateway_status gateway_job_id_parse(const char *given, gateway_job_id *id);

/* ---- Answers of any length ------------------------------------------------------------------------------------------- */

/**
 * How many bytes there are.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_bytes_len(const gateway_bytes *bytes, size_t *len);

/**
 * Copies the bytes, without a NUL after them: a JSON reply is `*needed` characters long.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_bytes_copy(const gateway_bytes *bytes, void *buf, size_t cap, size_t *needed);

/**
 * Frees the bytes. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_bytes_free(gateway_bytes *bytes);

/**
 * How many handles of all kinds live in this process: 0 when everything that was made has been freed. Memory checkers
 * cannot see a forgotten handle, because the library still knows it; this can.
 *
 * Cannot fail. May be called from any thread.
 */
uint64_t gateway_handles_live(void);

/* ---- Names of numbers ------------------------------------------------------------------------------------------------ */

/**
 * The name of a job's state: "queued"; "unknown" for a number that is none. A static string: do not free it.
 *
 * Cannot fail. May be called from any thread.
 */
const char *gateway_state_name(uint32_t state);

/**
 * The name of a task: "t2i"; "unknown" for a number that is none. A static string: do not free it.
 *
 * Cannot fail. May be called from any thread.
 */
const char *gateway_task_name(uint32_t task);

/**
 * The name of an engine: "torch"; "unknown" for a number that is none. A static string: do not free it.
 *
 * Cannot fail. May be called from any thread.
 */
const char *gateway_kind_name(uint32_t kind);

/* ---- The gateway: its making and its end ----------------------------------------------------------------------------- */

/**
 * Makes a gateway that stands at `now`. NULL as `config` takes all defaults. It begins a life of its own, see
 * `gateway_begin_epoch`: with `entropy` of its configuration, or with that of the system where that is 0.
 *
 *     gateway_config config = GATEWAY_CONFIG_INIT;
 *     config.lease_for = 60 * GATEWAY_SECOND;
 *     gateway *gw = NULL;
 *     gateway_status status = gateway_new(&config, gateway_now(), &gw);
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_NOT_UTF8`; `GATEWAY_OUT_OF_RANGE` and others from -201
 * down for the first field that cannot be, which `gateway_last_error_field` names; `GATEWAY_NO_ENTROPY`. May be called
 * from any thread.
 */
gateway_status gateway_new(const gateway_config *config, uint64_t now, gateway **gw);

/**
 * Makes a gateway from a configuration as JSON, as the first line of a log has it: `{"seed":7,"lease_for":60000000000}`.
 * Fields that are missing are as by default. It is in its first life, as a log begins: leases are numbered from 1 on. Where
 * it is no replay, `gateway_begin_epoch` has to be its first command.
 *
 * Errors: as `gateway_new`, and `GATEWAY_NOT_A_COMMAND` for what is no such JSON. May be called from any thread.
 */
gateway_status gateway_new_json(const char *config,
                                size_t config_len,
                                uint64_t now,
                                gateway **gw);

/**
 * Frees a gateway. Waits until no other thread is inside; whoever waits in a `gateway_wait_` function is woken and
 * answered `GATEWAY_INVALID_HANDLE`. Leases, settlements and bytes that came from it stay good until they are freed.
 * NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`; `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_free(gateway *gw);

/**
 * The whole state as bytes, from which `gateway_restore` makes a gateway that goes on. Free them by `gateway_bytes_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`. May be called from
 * any thread.
 */
gateway_status gateway_snapshot(const gateway *gw,
                                gateway_bytes **snapshot);

/**
 * Begins a snapshot in slices: the same bytes as those of `gateway_snapshot`, some 64 KiB at a time, so that all of them
 * are never held at once. Free it by `gateway_slices_free`.
 *
 * Errors: as `gateway_snapshot`. May be called from any thread.
 */
gateway_status gateway_slices_new(const gateway *gw,
                                  gateway_slices **slices);

/**
 * The next slice of the bytes, of the same gateway. That has to stand still meanwhile: a command in between ends the
 * slices. Free each by `gateway_bytes_free`.
 *
 * `GATEWAY_NONE`: that was all. Errors: `GATEWAY_CHANGED`: begin anew; else as `gateway_snapshot`. May be called from any
 * thread.
 */
gateway_status gateway_slices_next(gateway_slices *slices,
                                   const gateway *gw,
                                   gateway_bytes **slice);

/**
 * Frees a snapshot in slices, at its end or before. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_slices_free(gateway_slices *slices);

/**
 * Makes the gateway that goes on where that of a snapshot stopped, or was lost after it: `gateway_replica`, and then
 * `gateway_begin_epoch` with `entropy`, or with that of the system where it is 0. A log has to show that command with the
 * entropy, so give one where there is a log.
 *
 * Workers keep the leases that the snapshot knows. The answer of any other is `GATEWAY_SUPERSEDED`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TRUNCATED`, `GATEWAY_NOT_A_SNAPSHOT`, `GATEWAY_NEWER_VERSION`,
 * `GATEWAY_ALTERED`, `GATEWAY_CORRUPT`; `GATEWAY_NO_ENTROPY`. May be called from any thread.
 */
gateway_status gateway_restore(const void *snapshot,
                               size_t snapshot_len,
                               uint64_t now,
                               uint64_t entropy,
                               gateway **gw);

/**
 * Makes the very gateway that a snapshot was taken of: the same answers to the same calls, the same numbers, the same
 * digest. For replays of a log, for standbys and for checks; one that takes over calls `gateway_begin_epoch` first.
 *
 * Errors: as `gateway_restore`, but `GATEWAY_NO_ENTROPY`. May be called from any thread.
 */
gateway_status gateway_replica(const void *snapshot, size_t snapshot_len, gateway **gw);

/**
 * Begins another life of a gateway: what is done where one goes on in the place of one that is gone. `entropy` is 64 random
 * bits; 0: from the system. `*epoch`, which may be NULL, is the number of the life.
 *
 * Ids of leases and batches, and settlements and events, are told apart from all of the life before, so the answer of a
 * worker that the gateway does not remember to have asked is `GATEWAY_SUPERSEDED`. Leases that it knows live on, and each
 * worker is given time to be heard. Batches that were out are handed out again; events that were not fetched are dropped.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`; `GATEWAY_NO_ENTROPY`.
 * May be called from any thread.
 */
gateway_status gateway_begin_epoch(gateway *gw,
                                   uint64_t now,
                                   uint64_t entropy,
                                   uint64_t *epoch);

/**
 * The number of the life that the gateway's numbers belong to: 0 the first, where it was made without entropy.
 *
 * Errors: as `gateway_snapshot`. May be called from any thread.
 */
gateway_status gateway_epoch(const gateway *gw, uint64_t *epoch);

/**
 * How many commands the gateway was given since the beginning, in this life and those before it. Every call that takes
 * `now`, or reads it to wait, is one, also one that was refused or found nothing to do; no other call is.
 *
 * Errors: as `gateway_snapshot`. May be called from any thread.
 */
gateway_status gateway_commands(const gateway *gw, uint64_t *commands);

/**
 * How many commands are in a snapshot: `gateway_commands` of when it was taken. Only its head is looked at.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TRUNCATED`, `GATEWAY_NOT_A_SNAPSHOT`, `GATEWAY_NEWER_VERSION`. May be called
 * from any thread.
 */
gateway_status gateway_commands_in(const void *snapshot, size_t snapshot_len, uint64_t *commands);

/* ---- The gateway: backends, customers, routes ------------------------------------------------------------------------ */

/**
 * Adds a backend, or changes the one of that name: its leases, breaker and warmth stay, a drain ends.
 *
 *     const char *models[] = {"dev", "schnell"};
 *     gateway_backend_options options = GATEWAY_BACKEND_OPTIONS_INIT;
 *     options.modality = "image";
 *     options.family = "flux";
 *     options.models = models;
 *     options.models_len = 2;
 *     options.slots = 4;
 *     gateway_status status = gateway_put_backend(gw, now, "flux-1", &options);
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
 * `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_put_backend(gateway *gw,
                                   uint64_t now,
                                   const char *name,
                                   const gateway_backend_options *options);

/**
 * Takes a backend out: no new leases, and forgotten when its last one has ended.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name that cannot be;
 * `GATEWAY_UNKNOWN_BACKEND`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
 * thread.
 */
gateway_status gateway_remove_backend(gateway *gw, uint64_t now, const char *name);

/**
 * Stops giving a backend new leases (`draining` is not 0), or starts again (0). Its leases go on.
 *
 * Errors: as `gateway_remove_backend`. May be called from any thread.
 */
gateway_status gateway_drain_backend(gateway *gw, uint64_t now, const char *name, uint32_t draining);

/**
 * Ends all leases of a backend: its machine has gone, or has to. Their jobs wait again at once, whatever `preemptions_max`
 * says, or end in error: `to` is `GATEWAY_EVICT_TO_QUEUE` or `GATEWAY_EVICT_TO_ERROR`. What they took is paid for by
 * `billing_preempted`. The backend goes on taking new leases unless it is drained. One that has gone for good is drained,
 * evicted, and then removed: a removed one has no name any more.
 *
 * `evicted` has room for `cap` leases; `*count` says how many were written, in the order in which they were granted. The
 * list is told once and nowhere else, so it has to fit: with less room than the backend has live leases the answer is
 * `GATEWAY_BUFFER_TOO_SMALL`, `*count` is how many it needs, and nothing has happened; not even a command is counted.
 * `live` of `gateway_read_backend` says it beforehand, and a backend that is drained gets no more meanwhile.
 *
 *     gateway_backend backend;
 *     gateway_drain_backend(gw, now, "flux-1", 1);
 *     if (gateway_read_backend(gw, "flux-1", &backend) == GATEWAY_OK) {
 *         size_t count = backend.live;
 *         gateway_evicted *evicted = malloc(count * sizeof *evicted);
 *         gateway_evict_backend(gw, now, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, count, &count);
 *         for (size_t i = 0; i < count; i++) printf("lease %llu ended\n", (unsigned long long)evicted[i].lease);
 *         gateway_remove_backend(gw, now, "flux-1");
 *         free(evicted);
 *     }
 *
 * Errors: as `gateway_remove_backend`; `GATEWAY_OUT_OF_RANGE` for a `to` that is none; `GATEWAY_BUFFER_TOO_SMALL`. May be
 * called from any thread.
 */
gateway_status gateway_evict_backend(gateway *gw,
                                     uint64_t now,
                                     const char *name,
                                     uint32_t to,
                                     gateway_evicted *evicted,
                                     size_t cap,
                                     size_t *count);

/**
 * Holds a backend's breaker in `state`, `GATEWAY_FORCED_OPEN` or `GATEWAY_FORCED_CLOSED`, until an instant, or with
 * `GATEWAY_FOREVER` until further notice; `GATEWAY_FORCED_NONE` lets go of it.
 *
 * Errors: as `gateway_remove_backend`, and `GATEWAY_OUT_OF_RANGE` for a state that is none and an end that is not in the
 * future. May be called from any thread.
 */
gateway_status gateway_force_breaker(gateway *gw,
                                     uint64_t now,
                                     const char *name,
                                     uint32_t state,
                                     uint64_t until);

/**
 * Gives a customer a policy of its own. Its tokens stay as many as they are, up to the new burst. NULL as `policy` is the
 * default one.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
 * `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_put_customer(gateway *gw,
                                    uint64_t now,
                                    const char *name,
                                    const gateway_customer_policy *policy);

/**
 * Takes a customer's own policy away: the default one holds.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name that cannot be;
 * `GATEWAY_UNKNOWN_CUSTOMER`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
 * thread.
 */
gateway_status gateway_remove_customer(gateway *gw, uint64_t now, const char *name);

/**
 * Stops serving a route. Its jobs keep their order, and their clocks run on.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a route that cannot be;
 * `GATEWAY_ROUTE_NOT_SERVED`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
 * thread.
 */
gateway_status gateway_pause(gateway *gw, uint64_t now, const char *route);

/**
 * Serves a route again.
 *
 * Errors: as `gateway_pause`. May be called from any thread.
 */
gateway_status gateway_resume(gateway *gw, uint64_t now, const char *route);

/* ---- The gateway: jobs come in --------------------------------------------------------------------------------------- */

/**
 * Takes a job in. `route` is `modality/family/model/task`, with `?backend=torch` after it where it wants one engine:
 * "image/flux/dev/t2i". NULL as `options` takes all defaults. `*job` is the job's id: `id`, or that of the job its
 * idempotency key stands for already; it may be NULL.
 *
 * Errors, in this order: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, and from -201 down for a value
 * that cannot be; `GATEWAY_IDEMPOTENCY_CONFLICT`; `GATEWAY_UNKNOWN_ROUTE`; `GATEWAY_DUPLICATE_JOB`; `GATEWAY_FULL`.
 * Nothing has changed then. `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED` and `GATEWAY_REENTERED` are as everywhere.
 * May be called from any thread.
 */
gateway_status gateway_submit(gateway *gw,
                              uint64_t now,
                              gateway_job_id id,
                              const char *customer,
                              const char *route,
                              const gateway_submit_options *options,
                              gateway_job_id *job);

/**
 * Gives a job up, waiting or running. A running one's lease ends: its worker hears so at its next word.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_ENDED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
 * `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_cancel(gateway *gw, uint64_t now, gateway_job_id job);

/**
 * The same with what its lease used, if it has one; 0 items: the lease's time. `billing_cancelled` says who pays for it.
 *
 * Errors: as `gateway_cancel`; `GATEWAY_NOT_UTF8`, from -201 down for a malformed usage, and
 * `GATEWAY_USAGE_EXCEEDS_ELAPSED` where the policy is to refuse. May be called from any thread.
 */
gateway_status gateway_cancel_with(gateway *gw,
                                   uint64_t now,
                                   gateway_job_id job,
                                   const gateway_usage *usage,
                                   size_t usage_len);

/**
 * Removes the record of a job that has ended. Its settlement stays.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ENDED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_delete(gateway *gw, uint64_t now, gateway_job_id job);

/**
 * The job a customer submitted under an idempotency key.
 *
 * `GATEWAY_NONE`: no job is known under it. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_job_by_key(const gateway *gw,
                                  const char *customer,
                                  const char *key,
                                  gateway_job_id *job);

/* ---- The gateway: what a worker works by ----------------------------------------------------------------------------- */

/**
 * Reads all a lease says but its payload.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_lease_read(const gateway_lease *lease, gateway_lease_info *info);

/**
 * Copies the job's payload, as it was submitted, without a NUL after it.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_lease_payload(const gateway_lease *lease, void *buf, size_t cap, size_t *needed);

/**
 * Frees what the worker knows of a lease. The lease itself goes on in the gateway until `gateway_complete`,
 * `gateway_fail` or `gateway_release`, or until its deadline. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_lease_free(gateway_lease *lease);

/* ---- The gateway: who works next, and what became of it -------------------------------------------------------------- */

/**
 * Leases the next job of all routes to the best backend for it. Ask again until it says wait. Free the lease by
 * `gateway_lease_free` once its result was told.
 *
 * `GATEWAY_WAIT`: nothing can run now; `*until` is the next instant at which that may change by itself,
 * `GATEWAY_FOREVER` where only an event can. `until` may be NULL.
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`,
 * `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_dispatch(gateway *gw, uint64_t now, gateway_lease **lease, uint64_t *until);

/**
 * Leases the next job of one route; the task in the route does not matter. Else as `gateway_dispatch`.
 *
 * Errors: as there, and `GATEWAY_NOT_UTF8`, `GATEWAY_MALFORMED` and others from -201 down for the route;
 * `GATEWAY_ROUTE_NOT_SERVED`. May be called from any thread.
 */
gateway_status gateway_dispatch_route(gateway *gw,
                                      uint64_t now,
                                      const char *route,
                                      gateway_lease **lease,
                                      uint64_t *until);

/**
 * Leases up to `max` jobs of one route to a backend that asks for work. `leases` has room for `max` handles; `*count`
 * says how many were written. Free each by `gateway_lease_free`.
 *
 *     gateway_lease *leases[8];
 *     size_t count = 0;
 *     if (gateway_dispatch_to(gw, now, "flux-1", leases, 8, &count) == GATEWAY_OK) render_batch(leases, count);
 *
 * `GATEWAY_WAIT`: nothing for it now; `*count` is 0.
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; from -201 down for a name that cannot be;
 * `GATEWAY_UNKNOWN_BACKEND`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`,
 * `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_dispatch_to(gateway *gw,
                                   uint64_t now,
                                   const char *backend,
                                   gateway_lease **leases,
                                   size_t max,
                                   size_t *count);

/**
 * Tells that a lease's worker lives. `*deadline`, which may be NULL, is when the lease ends if nothing more is heard.
 *
 * Errors: `GATEWAY_SUPERSEDED`: the lease has ended, stop working for it. `GATEWAY_UNKNOWN_LEASE`;
 * `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
 * thread.
 */
gateway_status gateway_heartbeat(gateway *gw, uint64_t now, uint64_t lease, uint64_t *deadline);

/**
 * Tells how far a job is, in parts per million; counts as a heartbeat.
 *
 * Errors: as `gateway_heartbeat`, and `GATEWAY_OUT_OF_RANGE` beyond 1 000 000. May be called from any thread.
 */
gateway_status gateway_progress(gateway *gw,
                                uint64_t now,
                                uint64_t lease,
                                uint32_t progress_ppm,
                                uint64_t *deadline);

/**
 * Takes a job's result: it is complete, settled, and its slot free, in one change. Without any `usage` (0 items) the
 * lease's time is billed and marked as unmeasured. `settled` may be NULL.
 *
 *     gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
 *     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
 *     gateway_status status = gateway_complete(gw, now, info.id, &output, &usage, 1, NULL);
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_CONTRADICTION` for an output that is both;
 * `GATEWAY_SUPERSEDED`; `GATEWAY_UNKNOWN_LEASE`; from -201 down for an empty or over-long output and a malformed usage;
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. A usage beyond what the devices can have worked is
 * taken, and what was possible is billed; only where `billing_excess` is to refuse it is
 * `GATEWAY_USAGE_EXCEEDS_ELAPSED`, and `GATEWAY_TOO_LONG` for more devices than the backend has. May be called from any thread.
 */
gateway_status gateway_complete(gateway *gw,
                                uint64_t now,
                                uint64_t lease,
                                const gateway_output *output,
                                const gateway_usage *usage,
                                size_t usage_len,
                                gateway_settled *settled);

/**
 * Takes a job's failure. The class decides whether it is tried again and whether the breaker hears of it. NULL as
 * `failure` is one of the backend without words. `after` may be NULL.
 *
 * Errors: as `gateway_complete`, and `GATEWAY_BAD_SIZE`. May be called from any thread.
 */
gateway_status gateway_fail(gateway *gw,
                            uint64_t now,
                            uint64_t lease,
                            const gateway_failure *failure,
                            const gateway_usage *usage,
                            size_t usage_len,
                            gateway_after_failure *after);

/**
 * Takes a lease back: its worker cannot go on. The job, whose id `*job` is, waits again at once, before what its customer
 * submitted later; or it is in error when that happened more than `releases_max` times. `job` may be NULL.
 *
 * Errors: as `gateway_heartbeat`. May be called from any thread.
 */
gateway_status gateway_release(gateway *gw,
                               uint64_t now,
                               uint64_t lease,
                               gateway_job_id *job);

/**
 * The same with what the lease used; 0 items: the lease's time. `billing_released` says who pays for it.
 *
 *     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
 *     gateway_status status = gateway_release_with(gw, now, info.id, &usage, 1, NULL);
 *
 * Errors: as `gateway_heartbeat`, then as `gateway_complete` for the usage. May be called from any thread.
 */
gateway_status gateway_release_with(gateway *gw,
                                    uint64_t now,
                                    uint64_t lease,
                                    const gateway_usage *usage,
                                    size_t usage_len,
                                    gateway_job_id *job);

/**
 * The same, and the job may not run before `not_before`, an instant of the caller's clock: its worker cannot go on now, but
 * later. That is no failed attempt. An instant that has passed is now. `job` may be NULL.
 *
 *     // The checkpoint is still being copied; it will take ten seconds.
 *     uint64_t ready = now + 10 * GATEWAY_SECOND;
 *     gateway_status status = gateway_release_until(gw, now, info.id, ready, NULL, 0, NULL);
 *
 * Errors: as `gateway_release_with`. May be called from any thread.
 */
gateway_status gateway_release_until(gateway *gw,
                                     uint64_t now,
                                     uint64_t lease,
                                     uint64_t not_before,
                                     const gateway_usage *usage,
                                     size_t usage_len,
                                     gateway_job_id *job);

/**
 * Takes the lease of a job that runs back, to make room for another one. The job waits again at once, for another attempt.
 * `*lease`, which may be NULL, is the lease that ended: its worker is to be stopped, and its result is refused from now on.
 * `usage` is what the lease used; 0 items: the lease's time. `billing_preempted` says who pays for it.
 * `gateway_running_json` lists whom one could preempt; inside of a transaction the job that needs the room gets it at once:
 *
 *     static gateway_status make_room(gateway_tx *tx, void *context) {
 *         room *own = context; // typedef struct { gateway_job_id batch; gateway_lease *urgent; } room;
 *         gateway_status status = gateway_tx_preempt(tx, own->batch, NULL, 0, NULL);
 *         if (status != GATEWAY_OK) return status;
 *         return gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &own->urgent, NULL);
 *     }
 *     room own = {batch, NULL};
 *     gateway_status status = gateway_transaction(gw, now, make_room, &own);
 *
 * Errors, in this order: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_ENDED`; `GATEWAY_NOT_ALLOWED` for a job that waits;
 * `GATEWAY_PREEMPTED_TOO_OFTEN` after `preemptions_max`; then as `gateway_cancel_with` for the usage. `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED` and `GATEWAY_REENTERED` are as everywhere. May be called from any thread.
 */
gateway_status gateway_preempt(gateway *gw,
                               uint64_t now,
                               gateway_job_id job,
                               const gateway_usage *usage,
                               size_t usage_len,
                               uint64_t *lease);

/**
 * Gives up the job of a live lease, whose id `*job` is: its worker says that nobody waits for the result any more. Unlike
 * `gateway_cancel` it does nothing to a job that has gone on to another worker. `usage` is what the lease used; 0 items:
 * the lease's time. `billing_cancelled` says who pays for it. `job` may be NULL.
 *
 * Errors: as `gateway_release_with`. May be called from any thread.
 */
gateway_status gateway_cancel_lease(gateway *gw,
                                    uint64_t now,
                                    uint64_t lease,
                                    const gateway_usage *usage,
                                    size_t usage_len,
                                    gateway_job_id *job);

/**
 * Handles what is due by `now`. Every command does so first; call it at `gateway_next_deadline` when nothing else
 * happens. Safe early, safe twice. `advanced` may be NULL.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
 * any thread.
 */
gateway_status gateway_advance(gateway *gw, uint64_t now, gateway_advanced *advanced);

/**
 * Takes a step of the clock that is on trial for time that passed: an operator says that the clock is right. Else as
 * `gateway_advance`.
 *
 * Errors: as there. May be called from any thread.
 */
gateway_status gateway_accept_clock(gateway *gw, uint64_t now, gateway_advanced *advanced);

/**
 * When something falls due next, so that `gateway_advance` should be called: `*deadline` is `GATEWAY_FOREVER` where
 * there is nothing to wait for.
 *
 * Errors: as `gateway_advance`. May be called from any thread.
 */
gateway_status gateway_next_deadline(const gateway *gw, uint64_t *deadline);

/* ---- The gateway: calls that wait ------------------------------------------------------------------------------------ */

/**
 * Leases the next job, and waits for one until `until`, an instant of `gateway_now`; `GATEWAY_FOREVER` waits without
 * end. Else as `gateway_dispatch`. The clock of the calls before may have been another one: the step to `gateway_now` is
 * one like any other.
 *
 * `GATEWAY_WAIT`: there was none by then, or somebody called `gateway_wake`.
 * Errors: as `gateway_dispatch`; `GATEWAY_INVALID_HANDLE` also where the gateway is freed meanwhile. May be called from
 * any thread.
 */
gateway_status gateway_wait_dispatch(gateway *gw,
                                     uint64_t until,
                                     gateway_lease **lease);

/**
 * Leases up to `max` jobs to a backend, and waits for the first until `until`. Else as `gateway_dispatch_to` and
 * `gateway_wait_dispatch`.
 *
 * Errors: as there. May be called from any thread.
 */
gateway_status gateway_wait_dispatch_to(gateway *gw,
                                        const char *backend,
                                        uint64_t until,
                                        gateway_lease **leases,
                                        size_t max,
                                        size_t *count);

/**
 * Waits until a job has ended, at most until `until`. `*state` is how: `GATEWAY_STATE_COMPLETE` and its like; it may be
 * NULL. Nothing but that end wakes a caller, so that many who wait for other jobs cost nothing. The record may leave before
 * the caller reads it, where few are kept: `gateway_wait_outcome` gets what the job produced in any case.
 *
 * `GATEWAY_WAIT`: it had not by then, or somebody called `gateway_wake`. `GATEWAY_NONE`: the job was not known when the call
 * came. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be
 * called from any thread.
 */
gateway_status gateway_wait_ended(gateway *gw,
                                  gateway_job_id job,
                                  uint64_t until,
                                  uint32_t *state);

/**
 * Waits until a job has ended, at most until `until`, and tells how: `*outcome` as `gateway_job_outcome` does, and the bytes
 * that belong to it. Who waits when the job ends gets them, however soon the record leaves. Free them by
 * `gateway_bytes_free`.
 *
 * Answers and errors: as `gateway_wait_ended`, and `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_wait_outcome(gateway *gw,
                                    gateway_job_id job,
                                    uint64_t until,
                                    gateway_outcome *outcome,
                                    gateway_bytes **bytes);

/**
 * Runs a transaction; while its body returns `GATEWAY_WAIT`, waits for a change and runs it again, at most until
 * `until`. Else as `gateway_transaction`.
 *
 * Errors: as there. May be called from any thread.
 */
gateway_status gateway_wait_transaction(gateway *gw, uint64_t until, gateway_tx_body body, void *context);

/**
 * Waits until something has changed that may help somebody who waits, at most until `until`. `*changes` is the number
 * `gateway_changes` told before, and the new one after; so nothing that happens between two calls is missed. What is due
 * is handled meanwhile.
 *
 * `GATEWAY_WAIT`: nothing had by then, or somebody called `gateway_wake`.
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
 * any thread.
 */
gateway_status gateway_wait_change(gateway *gw,
                                   uint64_t until,
                                   uint64_t *changes);

/**
 * Wakes everybody who waits in a `gateway_wait_` function on this gateway: they answer `GATEWAY_WAIT`. To end a program
 * whose threads wait. Who begins to wait afterwards is not woken, so let threads look at a flag of their own before they
 * wait, and wait with an end: a flag that is set between the two is then seen at that end.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
 * any thread.
 */
gateway_status gateway_wake(gateway *gw);

/**
 * `gateway_wake` for a signal handler: it takes no lock and no memory, and leaves no last error. It may interrupt any
 * function of this library, also inside of a transaction's callback, and a thread that is about to wait is woken, too. Any
 * other thread may call it as well. On systems other than Linux no signal handler may.
 *
 *     static gateway *served; // set before the handler is, and freed after the handler was taken away
 *
 *     static void on_terminate(int signal) {
 *         (void)signal;
 *         gateway_wake_from_signal(served);
 *     }
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread and any signal
 * handler.
 */
gateway_status gateway_wake_from_signal(gateway *gw);

/* ---- The gateway: several steps as one ------------------------------------------------------------------------------- */

/**
 * Runs several steps as one: all of them happen, or none.
 *
 * `body` gets a `gateway_tx` and makes its steps by the functions `gateway_tx_...`. If it returns 0, all of them have
 * happened; if it returns anything else, none of them has, and this function returns what it returned: `GATEWAY_WAIT` for
 * "not now", the status of the step that failed, or a number of its own. A step that fails has changed nothing by itself;
 * going on after it is fine.
 *
 *     static gateway_status both(gateway_tx *tx, void *context) {
 *         gateway_lease **leases = context;
 *         gateway_status status = gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &leases[0], NULL);
 *         if (status != GATEWAY_OK) return status;
 *         return gateway_tx_dispatch_route(tx, "video/wan/default/i2v", &leases[1], NULL);
 *     }
 *     gateway_lease *leases[2] = {NULL, NULL};
 *     gateway_status status = gateway_transaction(gw, now, both, leases);
 *
 * Handles of leases that were made inside have to be freed in any case; of a transaction that did not happen they are
 * leases the gateway does not know.
 *
 * While `body` runs everybody else waits, so keep it short. Inside of it any function on any `gateway`, this one
 * included, answers `GATEWAY_REENTERED`, so that no two threads can wait for each other; all else may be used. There is no
 * begin and commit apart from each other: a transaction cannot be left open.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
 * any thread.
 */
gateway_status gateway_transaction(gateway *gw,
                                   uint64_t now,
                                   gateway_tx_body body,
                                   void *context);

/**
 * Runs steps within a transaction; if `body` returns anything but 0, only they did not happen. So alternatives are
 * tried: attempt the first, and where that answers `GATEWAY_WAIT`, attempt the second. While `body` runs, only the
 * `gateway_tx` it gets may be used; the one outside answers `GATEWAY_REENTERED`.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_REENTERED`. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_attempt(gateway_tx *tx,
                                  gateway_tx_body body,
                                  void *context);

/**
 * The machine's time: that of the whole transaction.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_REENTERED`. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_now(gateway_tx *tx,
                              uint64_t *now);

/**
 * As `gateway_submit`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_submit(gateway_tx *tx,
                                 gateway_job_id id,
                                 const char *customer,
                                 const char *route,
                                 const gateway_submit_options *options,
                                 gateway_job_id *job);

/**
 * As `gateway_dispatch`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_dispatch(gateway_tx *tx, gateway_lease **lease, uint64_t *until);

/**
 * As `gateway_dispatch_route`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_dispatch_route(gateway_tx *tx,
                                         const char *route,
                                         gateway_lease **lease,
                                         uint64_t *until);

/**
 * As `gateway_dispatch_to`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_dispatch_to(gateway_tx *tx,
                                      const char *backend,
                                      gateway_lease **leases,
                                      size_t max,
                                      size_t *count);

/**
 * As `gateway_heartbeat`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_heartbeat(gateway_tx *tx, uint64_t lease, uint64_t *deadline);

/**
 * As `gateway_progress`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_progress(gateway_tx *tx, uint64_t lease, uint32_t progress_ppm, uint64_t *deadline);

/**
 * As `gateway_complete`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_complete(gateway_tx *tx,
                                   uint64_t lease,
                                   const gateway_output *output,
                                   const gateway_usage *usage,
                                   size_t usage_len,
                                   gateway_settled *settled);

/**
 * As `gateway_fail`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_fail(gateway_tx *tx,
                               uint64_t lease,
                               const gateway_failure *failure,
                               const gateway_usage *usage,
                               size_t usage_len,
                               gateway_after_failure *after);

/**
 * As `gateway_release`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_release(gateway_tx *tx, uint64_t lease, gateway_job_id *job);

/**
 * As `gateway_release_with`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_release_with(gateway_tx *tx,
                                       uint64_t lease,
                                       const gateway_usage *usage,
                                       size_t usage_len,
                                       gateway_job_id *job);

/**
 * As `gateway_release_until`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_release_until(gateway_tx *tx,
                                        uint64_t lease,
                                        uint64_t not_before,
                                        const gateway_usage *usage,
                                        size_t usage_len,
                                        gateway_job_id *job);

/**
 * As `gateway_preempt`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_preempt(gateway_tx *tx,
                                  gateway_job_id job,
                                  const gateway_usage *usage,
                                  size_t usage_len,
                                  uint64_t *lease);

/**
 * As `gateway_cancel_lease`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_cancel_lease(gateway_tx *tx,
                                       uint64_t lease,
                                       const gateway_usage *usage,
                                       size_t usage_len,
                                       gateway_job_id *job);

/**
 * As `gateway_cancel_with`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_cancel_with(gateway_tx *tx,
                                      gateway_job_id job,
                                      const gateway_usage *usage,
                                      size_t usage_len);

/**
 * As `gateway_correct_usage`.
 *
 * Errors: as there. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_correct_usage(gateway_tx *tx,
                                        uint64_t lease,
                                        const gateway_usage *usage,
                                        size_t usage_len,
                                        gateway_corrected *corrected);

/**
 * As `gateway_cancel`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_cancel(gateway_tx *tx, gateway_job_id job);

/**
 * As `gateway_delete`.
 *
 * Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
 */
gateway_status gateway_tx_delete(gateway_tx *tx, gateway_job_id job);

/* ---- The gateway: money ---------------------------------------------------------------------------------------------- */

/**
 * Puts a newer price book in force, for jobs that end from now on. `version` is higher than that of the book in force,
 * `currency` three upper-case letters, the same in every book.
 *
 *     gateway_price prices[] = {{"*", "*", 1200, GATEWAY_SECOND}, {"flux/dev", "pro", 2490000, GATEWAY_HOUR}};
 *     gateway_status status = gateway_put_prices(gw, now, 1, "USD", prices, 2);
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be, an older version and
 * another currency; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_put_prices(gateway *gw,
                                  uint64_t now,
                                  uint32_t version,
                                  const char *currency,
                                  const gateway_price *prices,
                                  size_t prices_len);

/**
 * Hands out up to `max` settlements, the oldest first. They stay until they are confirmed: write them where they belong,
 * then call `gateway_confirm_settlements`; where that fails, `gateway_return_settlements`, or `settle_within` does it.
 * Free the handle by `gateway_settlements_free`.
 *
 *     gateway_settlements *taken = NULL;
 *     if (gateway_take_settlements(gw, now, 1000, &taken) == GATEWAY_OK) {
 *         gateway_batch batch;
 *         gateway_settlements_batch(taken, &batch);
 *         for (size_t i = 0; i < batch.len; i++) {
 *             gateway_settlement settlement;
 *             gateway_settlements_read(taken, i, &settlement);
 *             write_down(&settlement);
 *         }
 *         gateway_confirm_settlements(gw, now, &batch, NULL);
 *         gateway_settlements_free(taken);
 *     }
 *
 * `GATEWAY_NONE`: there are none. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
 * `GATEWAY_REENTERED`, `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_take_settlements(gateway *gw,
                                        uint64_t now,
                                        uint32_t max,
                                        gateway_settlements **settlements);

/**
 * Lets go of settlements the host has kept safe. `*count`, which may be NULL, is how many; confirming twice is 0.
 *
 * Errors: `GATEWAY_UNKNOWN_BATCH`; `GATEWAY_BATCH_SUPERSEDED` when the batch had returned to the outbox;
 * `GATEWAY_BAD_POINTER`, `GATEWAY_OUT_OF_RANGE`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May
 * be called from any thread.
 */
gateway_status gateway_confirm_settlements(gateway *gw,
                                           uint64_t now,
                                           const gateway_batch *batch,
                                           uint32_t *count);

/**
 * Takes settlements back that the host could not keep; they are handed out again.
 *
 * Errors: as `gateway_confirm_settlements`. May be called from any thread.
 */
gateway_status gateway_return_settlements(gateway *gw,
                                          uint64_t now,
                                          const gateway_batch *batch,
                                          uint32_t *count);

/**
 * Which batch it is, and how many settlements it has.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_settlements_batch(const gateway_settlements *settlements, gateway_batch *batch);

/**
 * Reads one of the settlements, by its place from 0.
 *
 * `GATEWAY_NONE`: there are not as many. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any
 * thread.
 */
gateway_status gateway_settlements_read(const gateway_settlements *settlements,
                                        size_t index,
                                        gateway_settlement *settlement);

/**
 * Reads what one device worked for one of the settlements: its name, with a NUL, and `*gpu_ns`, which may be NULL. The name
 * is empty where it stands for all devices beyond the first 64.
 *
 * `GATEWAY_NONE`: there is no such settlement or device. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`;
 * `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_settlements_device(const gateway_settlements *settlements,
                                          size_t index,
                                          size_t device,
                                          uint64_t *gpu_ns,
                                          char *buf,
                                          size_t cap,
                                          size_t *needed);

/**
 * Takes what a lease used that has ended: all of it, in the place of what was billed for it before. Where its job is
 * settled, the difference is a settlement of its own; until then it is part of the settlement to come. Who pays stays as
 * it was. Telling the same again changes nothing. `corrected` may be NULL.
 *
 *     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
 *     gateway_status status = gateway_correct_usage(gw, now, lease, &usage, 1, NULL);
 *
 * Errors, in this order: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`; `GATEWAY_STILL_LIVE`; `GATEWAY_UNKNOWN_LEASE`; from
 * -201 down for a malformed usage or none; `GATEWAY_TOO_LATE` from `late_usage_for` on; `GATEWAY_USAGE_EXCEEDS_ELAPSED`
 * where the policy is to refuse; `GATEWAY_FULL` without room for the entry. `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_correct_usage(gateway *gw,
                                     uint64_t now,
                                     uint64_t lease,
                                     const gateway_usage *usage,
                                     size_t usage_len,
                                     gateway_corrected *corrected);

/**
 * All of the settlements as JSON, as the reply to the command `take_settlements` has them.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_settlements_json(const gateway_settlements *settlements,
                                        char *buf,
                                        size_t cap,
                                        size_t *needed);

/**
 * Frees the handle. The settlements stay in the outbox until they are confirmed. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_settlements_free(gateway_settlements *settlements);

/* ---- The gateway: what it tells of itself ---------------------------------------------------------------------------- */

/**
 * Reads a job as it stands.
 *
 * `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_read_job(const gateway *gw, gateway_job_id id, gateway_job *job);

/**
 * A job as it stands, with its outcome and latest failure, as JSON. `failed_on` are the names of the backends that failed
 * it, the latest last.
 *
 * `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: as `gateway_read_job`, and
 * `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_job_json(const gateway *gw,
                                gateway_job_id id,
                                char *buf,
                                size_t cap,
                                size_t *needed);

/**
 * How a job ended: `*outcome`, which may be NULL, and the bytes that belong to it, without a NUL after them.
 *
 * `GATEWAY_WAIT`: it has not ended. `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: as
 * `gateway_read_job`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_job_outcome(const gateway *gw,
                                   gateway_job_id id,
                                   gateway_outcome *outcome,
                                   void *buf,
                                   size_t cap,
                                   size_t *needed);

/**
 * How many jobs of its route stand before a waiting job. Exact.
 *
 * `GATEWAY_NONE`: it does not wait. Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_position(const gateway *gw, gateway_job_id id, uint32_t *position);

/**
 * Why a job waits: the first reason that holds, from the one nearest to the job.
 *
 * `GATEWAY_NONE`: it does not wait. Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_explain(const gateway *gw, gateway_job_id id, gateway_reason *reason);

/**
 * Reads a backend as it stands.
 *
 * `GATEWAY_NONE`: none of that name is known. Errors: as `gateway_read_job`, and `GATEWAY_NOT_UTF8`. May be called from
 * any thread.
 */
gateway_status gateway_read_backend(const gateway *gw, const char *name, gateway_backend *backend);

/**
 * All backends in order of declaration, with their breakers, as a JSON list.
 *
 * Errors: as `gateway_read_job`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_backends_json(const gateway *gw, char *buf, size_t cap, size_t *needed);

/**
 * The jobs that run on a backend, as a JSON list: the lowest lane first, and within a lane the lease that was granted first.
 * For a host that has to make room by `gateway_preempt`, or wants to know what a machine is at before it is taken away.
 *
 * `GATEWAY_NONE`: there is no such backend. Errors: as `gateway_read_job`, `GATEWAY_NOT_UTF8`, and
 * `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_running_json(const gateway *gw,
                                    const char *name,
                                    char *buf,
                                    size_t cap,
                                    size_t *needed);

/**
 * Reads a customer as it stands.
 *
 * `GATEWAY_NONE`: it is not known, which is as one that has not asked for anything lately. Errors: as
 * `gateway_read_job`, and `GATEWAY_NOT_UTF8`. May be called from any thread.
 */
gateway_status gateway_read_customer(const gateway *gw, const char *name, gateway_customer *customer);

/**
 * Reads numbers of the whole gateway.
 *
 * Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_read_stats(const gateway *gw, gateway_stats *stats);

/**
 * The machine's time: the latest instant a call has brought.
 *
 * Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_time(const gateway *gw, uint64_t *now);

/**
 * The digest of the whole state: 32 bytes into `digest`. Two gateways with the same digest have the same state, in every
 * language and on every machine.
 *
 * Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_digest(const gateway *gw,
                              uint8_t *digest);

/**
 * Bytes held for jobs and places, without what the host gave and without names: for capacity planning.
 *
 * Errors: as `gateway_read_job`. May be called from any thread.
 */
gateway_status gateway_memory_bytes(const gateway *gw, size_t *bytes);

/* ---- The gateway: what happened -------------------------------------------------------------------------------------- */

/**
 * Fetches the next event nobody has fetched. Fetching changes nothing but the list of events.
 *
 * `GATEWAY_NONE`: there is none. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
 * `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_poll_event(gateway *gw, gateway_event *event);

/**
 * Reads up to `max` kept events from number `from` on, without fetching them. `*count` says how many were written. So
 * several readers each follow by a number of their own; `gateway_wait_change` waits for more.
 *
 * `GATEWAY_NONE`: there are none; `*count` is 0. Errors: as `gateway_poll_event`. May be called from any thread.
 */
gateway_status gateway_events_from(const gateway *gw,
                                   uint64_t from,
                                   gateway_event *events,
                                   size_t max,
                                   size_t *count);

/**
 * The number of the next event.
 *
 * Errors: as `gateway_poll_event`. May be called from any thread.
 */
gateway_status gateway_next_event(const gateway *gw, uint64_t *number);

/**
 * Rises whenever something changed that may help somebody who waits: for a job, a backend, a token, an end. A host that
 * waits by itself compares it instead of asking again and again.
 *
 * Errors: as `gateway_poll_event`. May be called from any thread.
 */
gateway_status gateway_changes(const gateway *gw, uint64_t *changes);

/**
 * Makes the watch of one job: its present state first, then only changes, and always an end. Free it by
 * `gateway_watch_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_watch_new(gateway_job_id job, gateway_watch **watch);

/**
 * The next thing to tell of the job. Ask again and again until it says wait, then after each change of the gateway.
 *
 * `GATEWAY_WAIT`: nothing new. `GATEWAY_NONE`: the end was told. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_watch_poll(gateway_watch *watch,
                                  const gateway *gw,
                                  gateway_watch_event *event);

/**
 * Frees a watch. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_watch_free(gateway_watch *watch);

/* ---- The gateway: commands as data ----------------------------------------------------------------------------------- */

/**
 * Applies a command given as JSON, one line of a log: `{"now":1700000000000000000,"command":{"dispatch":{}}}`. Every
 * change there is can be told so, also several as one: `{"all":[...]}` and `{"first_of":[...]}`. `docs/commands.md` has
 * them all, with their replies.
 *
 * The reply is JSON too: as many bytes as `gateway_bytes_len` says. The answer is `GATEWAY_OK` whenever there is a
 * reply, also one that is an error (`{"error":{...}}`): so a log gets the same replies here as in every language. The
 * reply is a handle of its own because the command has been done when its length is known: a buffer that is too small
 * would ask for it to be done again. Free it by `gateway_bytes_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`;
 * `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
 */
gateway_status gateway_apply_json(gateway *gw,
                                  const char *entry,
                                  size_t entry_len,
                                  gateway_bytes **reply);

/**
 * The configuration the gateway was made with, as JSON.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`;
 * `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_config_json(const gateway *gw, char *buf, size_t cap, size_t *needed);

/* ---- Alone: a rate limit --------------------------------------------------------------------------------------------- */

/**
 * Makes a limiter with a full bucket. Any `now` may be given to it, then and later: no wrong reading of the clock, ahead or
 * back, stops the refill, and going back and forth makes no tokens. Free it by `gateway_limiter_free`.
 *
 *     gateway_rate rate = {GATEWAY_SECOND, 100, 1000};
 *     gateway_limiter *limiter = NULL;
 *     gateway_limiter_new(&rate, now, &limiter);
 *     if (gateway_limiter_try_acquire(limiter, 1, now, NULL) != GATEWAY_OK) return 429;
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_OUT_OF_RANGE` for a `per` of 0; `GATEWAY_OVERFLOW` for a burst that cannot be
 * counted exactly in 128 bits, which needs an amount or a period of 2^63 or more. May be called from any thread.
 */
gateway_status gateway_limiter_new(const gateway_rate *rate,
                                   uint64_t now,
                                   gateway_limiter **limiter);

/**
 * Frees a limiter. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_limiter_free(gateway_limiter *limiter);

/**
 * Takes `cost` tokens, or says when. A cost of 0 is always allowed. `acquired` may be NULL.
 *
 * `GATEWAY_DENIED`: not yet; nothing was taken. `GATEWAY_NEVER`: not ever. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_limiter_try_acquire(gateway_limiter *limiter,
                                           uint64_t cost,
                                           uint64_t now,
                                           gateway_acquired *acquired);

/**
 * What `gateway_limiter_try_acquire` would answer.
 *
 * Answers and errors: as there. May be called from any thread.
 */
gateway_status gateway_limiter_peek(const gateway_limiter *limiter,
                                    uint64_t cost,
                                    uint64_t now,
                                    gateway_acquired *acquired);

/**
 * Gives `cost` tokens back, up to the burst.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_limiter_refund(gateway_limiter *limiter, uint64_t cost);

/**
 * What the rate limit headers say at `now`.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_limiter_headers(const gateway_limiter *limiter,
                                       uint64_t now,
                                       gateway_rate_headers *headers);

/**
 * Changes the limit at `now`. The tokens there are stay, up to the new burst.
 *
 * Errors: as `gateway_limiter_new`, and `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_limiter_set_rate(gateway_limiter *limiter, const gateway_rate *rate, uint64_t now);

/* ---- Alone: rate limits by key --------------------------------------------------------------------------------------- */

/**
 * Makes a limiter that knows no key. NULL as `config` takes all defaults. Free it by `gateway_keyed_limiter_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`, `GATEWAY_OVERFLOW`. May be called from any
 * thread.
 */
gateway_status gateway_keyed_limiter_new(const gateway_keyed_limiter_config *config,
                                         uint64_t now,
                                         gateway_keyed_limiter **limiter);

/**
 * Frees a keyed limiter. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_free(gateway_keyed_limiter *limiter);

/**
 * Takes `cost` tokens of a key, or says when. A key is any bytes; how long it may be is for the caller to check. A cost
 * of 0 is always allowed and remembers no key. `acquired` may be NULL.
 *
 * Where the key is new and there is no room to remember it, the tokens come from a bucket that such keys share, and
 * `acquired->shared` is 1. `GATEWAY_DENIED`: not yet. `GATEWAY_NEVER`: not ever. `GATEWAY_NO_ROOM`: not yet, there is neither
 * room nor are there shared tokens. Nothing was taken then. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
 * May be called from any thread.
 */
gateway_status gateway_keyed_limiter_try_acquire(gateway_keyed_limiter *limiter,
                                                 const void *key,
                                                 size_t key_len,
                                                 uint64_t cost,
                                                 uint64_t now,
                                                 gateway_acquired *acquired);

/**
 * What `gateway_keyed_limiter_try_acquire` would answer.
 *
 * Answers and errors: as there. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_peek(const gateway_keyed_limiter *limiter,
                                          const void *key,
                                          size_t key_len,
                                          uint64_t cost,
                                          uint64_t now,
                                          gateway_acquired *acquired);

/**
 * Gives `cost` tokens of a key back, up to the burst. Nothing goes back to the bucket that new keys share.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_refund(gateway_keyed_limiter *limiter,
                                            const void *key,
                                            size_t key_len,
                                            uint64_t cost);

/**
 * What the rate limit headers for a key say at `now`.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_headers(const gateway_keyed_limiter *limiter,
                                             const void *key,
                                             size_t key_len,
                                             uint64_t now,
                                             gateway_rate_headers *headers);

/**
 * Changes the limit of all keys at `now`. A key keeps the tokens it has, up to the new burst; one that is full stays
 * full. Takes time with the number of keys: not a call for every request.
 *
 * Errors: as `gateway_limiter_set_rate`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_set_rate(gateway_keyed_limiter *limiter,
                                              const gateway_rate *rate,
                                              uint64_t now);

/**
 * Forgets a key, which is full from then on.
 *
 * `GATEWAY_NONE`: it was not remembered. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
 * May be called from any thread.
 */
gateway_status gateway_keyed_limiter_remove(gateway_keyed_limiter *limiter, const void *key, size_t key_len);

/**
 * Forgets up to `at_most` keys that may be forgotten at `now`, to give room early. `*count`, which may be NULL, is how
 * many. Nobody needs to call it: room is made when it is needed.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_evict_full(gateway_keyed_limiter *limiter,
                                                uint64_t now,
                                                size_t at_most,
                                                size_t *count);

/**
 * How many keys are remembered. Some may be full already, so nothing should be decided by this number.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_keyed_limiter_len(const gateway_keyed_limiter *limiter, size_t *len);

/**
 * Makes a limiter whose window is empty. Any `now` may be given to it, as to `gateway_limiter_new`. Free it by
 * `gateway_window_free`.
 *
 *     gateway_window_limit limit = {GATEWAY_MINUTE, 6, 0};
 *     gateway_window *window = NULL;
 *     gateway_window_new(&limit, now, &window);
 *     if (gateway_window_try_acquire(window, 1, now, NULL) != GATEWAY_OK) return 429;
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_OUT_OF_RANGE` for an `amount` above 65 536 or a `per` of 0. May be called from any
 * thread.
 */
gateway_status gateway_window_new(const gateway_window_limit *limit,
                                  uint64_t now,
                                  gateway_window **window);

/**
 * Frees a window. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_window_free(gateway_window *window);

/**
 * Takes `cost` tokens, or says when. A cost of 0 is always allowed. `acquired` may be NULL.
 *
 * `GATEWAY_DENIED`: not yet; nothing was taken. `GATEWAY_NEVER`: not ever. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_window_try_acquire(gateway_window *window,
                                          uint64_t cost,
                                          uint64_t now,
                                          gateway_acquired *acquired);

/**
 * What `gateway_window_try_acquire` would answer.
 *
 * Answers and errors: as there. May be called from any thread.
 */
gateway_status gateway_window_peek(const gateway_window *window,
                                   uint64_t cost,
                                   uint64_t now,
                                   gateway_acquired *acquired);

/**
 * Gives `cost` tokens back. The oldest go, so that no window has more than its amount of those that stay.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_window_refund(gateway_window *window, uint64_t cost, uint64_t now);

/**
 * What the rate limit headers say at `now`; the reset is when the window is empty.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_window_headers(const gateway_window *window,
                                      uint64_t now,
                                      gateway_rate_headers *headers);

/**
 * Changes the limit at `now`. What was taken stays taken: under a lower amount nothing is allowed until enough has left.
 *
 * Errors: as `gateway_window_new`, and `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_window_set_limit(gateway_window *window,
                                        const gateway_window_limit *limit,
                                        uint64_t now);

/**
 * The next instant at which more may be taken than before; `GATEWAY_FOREVER` where the window is empty.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_window_next_deadline(const gateway_window *window, uint64_t *deadline);

/* ---- Alone: a circuit breaker ---------------------------------------------------------------------------------------- */

/**
 * Makes a closed breaker that has seen nothing. NULL as `config` takes all defaults. Free it by `gateway_breaker_free`.
 *
 *     gateway_admitted admitted;
 *     if (gateway_breaker_admit(breaker, now, &admitted) == GATEWAY_OK) {
 *         if (call_the_backend()) gateway_breaker_success(breaker, admitted.permit, gateway_now());
 *         else gateway_breaker_failure(breaker, admitted.permit, gateway_now());
 *     }
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE` and others from -201 down for the first field
 * that cannot be. May be called from any thread.
 */
gateway_status gateway_breaker_new(const gateway_breaker_config *config,
                                   uint64_t now,
                                   gateway_breaker **breaker);

/**
 * Frees a breaker. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_breaker_free(gateway_breaker *breaker);

/**
 * Asks for a call. Each call that was allowed is answered once, by its permit.
 *
 * `GATEWAY_DENIED`: the call must not be made. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_breaker_admit(gateway_breaker *breaker, uint64_t now, gateway_admitted *admitted);

/**
 * The call succeeded.
 *
 * `GATEWAY_NONE`: that does not count, because the state in which the call was allowed is over. Errors:
 * `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_breaker_success(gateway_breaker *breaker, uint64_t permit, uint64_t now);

/**
 * The call failed; one that timed out did.
 *
 * Answers and errors: as `gateway_breaker_success`. May be called from any thread.
 */
gateway_status gateway_breaker_failure(gateway_breaker *breaker, uint64_t permit, uint64_t now);

/**
 * The call came to nothing: it says nothing about the callee.
 *
 * Answers and errors: as `gateway_breaker_success`. May be called from any thread.
 */
gateway_status gateway_breaker_cancelled(gateway_breaker *breaker, uint64_t permit, uint64_t now);

/**
 * Makes what is due by `now` so for the record. Nothing depends on it: every answer is already as of its own `now`.
 *
 * `GATEWAY_NONE`: nothing was due. Errors: as `gateway_breaker_success`. May be called from any thread.
 */
gateway_status gateway_breaker_handle_timeout(gateway_breaker *breaker, uint64_t now);

/**
 * When the breaker's state ends by itself; `GATEWAY_FOREVER` where it does not.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_breaker_next_deadline(const gateway_breaker *breaker, uint64_t *deadline);

/**
 * Holds the breaker in `state`, `GATEWAY_FORCED_OPEN` or `GATEWAY_FORCED_CLOSED`, until an instant, or with
 * `GATEWAY_FOREVER` until further notice; `GATEWAY_FORCED_NONE` lets go of it.
 *
 * `GATEWAY_NONE`: nothing was done, because the end is not in the future or nothing was forced. Errors:
 * `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
 * thread.
 */
gateway_status gateway_breaker_force(gateway_breaker *breaker, uint32_t state, uint64_t until, uint64_t now);

/**
 * All there is to know at `now`. Changes nothing.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_breaker_read(const gateway_breaker *breaker,
                                    uint64_t now,
                                    gateway_breaker_status *status);

/* ---- Alone: a fair queue --------------------------------------------------------------------------------------------- */

/**
 * Makes an empty queue. NULL as `config` takes all defaults. Free it by `gateway_queue_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`. May be called from any thread.
 */
gateway_status gateway_queue_new(const gateway_queue_config *config, gateway_queue **queue);

/**
 * Frees a queue with its items. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_queue_free(gateway_queue *queue);

/**
 * Puts an item into a lane (0 is served first, 2 last) at the place its customer's share gives it. `cost` is in units of
 * the caller's choice, the same for all, and fine ones: nanoseconds rather than seconds. `item` is any number: an index,
 * or a pointer as a number. `ticket` may be NULL.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be; `GATEWAY_FULL`;
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_queue_push(gateway_queue *queue,
                                  const char *customer,
                                  uint32_t lane,
                                  uint64_t cost,
                                  uint64_t item,
                                  gateway_ticket *ticket);

/**
 * Takes the next item that may be served. `ticket` may be NULL.
 *
 * `GATEWAY_NONE`: none may. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called
 * from any thread.
 */
gateway_status gateway_queue_pop(gateway_queue *queue, uint64_t *item, gateway_ticket *ticket);

/**
 * Takes an item out wherever it stands, as if it had never come. `item` may be NULL.
 *
 * `GATEWAY_NONE`: it is not in the queue any more. Errors: as `gateway_queue_pop`. May be called from any thread.
 */
gateway_status gateway_queue_remove(gateway_queue *queue, gateway_ticket ticket, uint64_t *item);

/**
 * How many items stand before one, paused or not. Exact.
 *
 * `GATEWAY_NONE`: it is not in the queue any more. Errors: as `gateway_queue_pop`. May be called from any thread.
 */
gateway_status gateway_queue_position(const gateway_queue *queue,
                                      gateway_ticket ticket,
                                      uint32_t *position);

/**
 * Gives a customer a share, 1 to 1 000 000; 1 is the default. It holds from the next item on that is served, also for
 * those that wait.
 *
 * Errors: as `gateway_queue_push`. May be called from any thread.
 */
gateway_status gateway_queue_set_weight(gateway_queue *queue, const char *customer, uint32_t weight);

/**
 * Steps over a customer's items until it is resumed. They keep their order; the time they stand still earns their
 * customer nothing: it goes on where one that comes anew would begin, or behind that if it was given more.
 *
 * Errors: as `gateway_queue_push`. May be called from any thread.
 */
gateway_status gateway_queue_pause(gateway_queue *queue, const char *customer);

/**
 * Serves a customer's items again.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
 * thread.
 */
gateway_status gateway_queue_resume(gateway_queue *queue,
                                    const char *customer);

/**
 * How many items wait.
 *
 * Errors: as `gateway_queue_pop`. May be called from any thread.
 */
gateway_status gateway_queue_len(const gateway_queue *queue, size_t *len);

/**
 * How many of a customer's items wait.
 *
 * Errors: as `gateway_queue_resume`. May be called from any thread.
 */
gateway_status gateway_queue_waiting(const gateway_queue *queue, const char *customer, uint32_t *waiting);

/* ---- Alone: a job store ---------------------------------------------------------------------------------------------- */

/**
 * Makes an empty store. NULL as `config` takes all defaults. Free it by `gateway_store_free`.
 *
 * The order of calls: `gateway_store_insert`; `gateway_store_start`, which numbers the attempt; then one of
 * `gateway_store_complete`, `gateway_store_fail`, `gateway_store_requeue` with that number: an answer of an attempt that
 * is no longer the present one is refused. `gateway_store_handle_timeout` at `gateway_store_next_deadline`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`. May be called from any thread.
 */
gateway_status gateway_store_new(const gateway_store_config *config,
                                 uint64_t now,
                                 gateway_store **store);

/**
 * Frees a store with its jobs. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_store_free(gateway_store *store);

/**
 * Stores a job. NULL as `options` takes all defaults. `*job`, which may be NULL, is `id`, or that of the job its
 * idempotency key stands for already.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
 * `GATEWAY_IDEMPOTENCY_CONFLICT`; `GATEWAY_DUPLICATE_JOB`; `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_insert(gateway_store *store,
                                    uint64_t now,
                                    gateway_job_id id,
                                    const char *customer,
                                    const gateway_store_options *options,
                                    gateway_job_id *job);

/**
 * Lets a queued job run. `*attempt` is the number of the attempt, from 1.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_start(gateway_store *store,
                                   uint64_t now,
                                   gateway_job_id id,
                                   uint32_t *attempt);

/**
 * Takes an attempt's result.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_STALE_ATTEMPT`; from -201 down for an empty or
 * over-long output; `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be
 * called from any thread.
 */
gateway_status gateway_store_complete(gateway_store *store,
                                      uint64_t now,
                                      gateway_job_id id,
                                      uint32_t attempt,
                                      const gateway_output *output);

/**
 * Takes an attempt's failure, for good. Of `failure`, the class, the words and `retriable` are kept; NULL is one of the
 * backend without words.
 *
 * Errors: as `gateway_store_complete`, and `GATEWAY_BAD_SIZE`. May be called from any thread.
 */
gateway_status gateway_store_fail(gateway_store *store,
                                  uint64_t now,
                                  gateway_job_id id,
                                  uint32_t attempt,
                                  const gateway_failure *failure);

/**
 * Ends an attempt without a verdict: the job waits again.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_STALE_ATTEMPT`; `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_requeue(gateway_store *store,
                                     uint64_t now,
                                     gateway_job_id id,
                                     uint32_t attempt);

/**
 * Tells how far an attempt is, in parts per million.
 *
 * Errors: as `gateway_store_requeue`, and `GATEWAY_OUT_OF_RANGE` beyond 1 000 000. May be called from any thread.
 */
gateway_status gateway_store_progress(gateway_store *store,
                                      uint64_t now,
                                      gateway_job_id id,
                                      uint32_t attempt,
                                      uint32_t progress_ppm);

/**
 * Gives a job up, waiting or running.
 *
 * Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ALLOWED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_cancel(gateway_store *store, uint64_t now, gateway_job_id id);

/**
 * Removes the record of a job that has ended.
 *
 * Errors: as `gateway_store_cancel`. May be called from any thread.
 */
gateway_status gateway_store_delete(gateway_store *store, uint64_t now, gateway_job_id id);

/**
 * Reads a job as it stands.
 *
 * `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_read(const gateway_store *store,
                                  gateway_job_id id,
                                  gateway_stored_job *job);

/**
 * Copies a job's payload, without a NUL after it. It is empty once the job has ended.
 *
 * `GATEWAY_NONE`: no job of that id is known. Errors: as `gateway_store_read`, and `GATEWAY_BUFFER_TOO_SMALL`. May be
 * called from any thread.
 */
gateway_status gateway_store_payload(const gateway_store *store,
                                     gateway_job_id id,
                                     void *buf,
                                     size_t cap,
                                     size_t *needed);

/**
 * How a job ended, as `gateway_job_outcome` tells it.
 *
 * `GATEWAY_WAIT`: it has not ended. `GATEWAY_NONE`: no job of that id is known. Errors: as `gateway_store_payload`. May
 * be called from any thread.
 */
gateway_status gateway_store_outcome(const gateway_store *store,
                                     gateway_job_id id,
                                     gateway_outcome *outcome,
                                     void *buf,
                                     size_t cap,
                                     size_t *needed);

/**
 * The job a customer inserted under an idempotency key.
 *
 * `GATEWAY_NONE`: no job is known under it. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_by_key(const gateway_store *store,
                                    const char *customer,
                                    const char *key,
                                    gateway_job_id *job);

/**
 * How many known jobs are in a state, `GATEWAY_STATE_QUEUED` and its like.
 *
 * Errors: `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called
 * from any thread.
 */
gateway_status gateway_store_count(const gateway_store *store, uint32_t state, uint32_t *count);

/**
 * When something falls due next; `GATEWAY_FOREVER` where nothing does.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_store_next_deadline(const gateway_store *store, uint64_t *deadline);

/**
 * Handles what is due by `now`, each at its own instant. `*handled`, which may be NULL, is how much. Safe early, safe
 * twice; every call that changes something does it first.
 *
 * Errors: as `gateway_store_next_deadline`. May be called from any thread.
 */
gateway_status gateway_store_handle_timeout(gateway_store *store, uint64_t now, uint32_t *handled);

/* ---- Alone: a billing collector -------------------------------------------------------------------------------------- */

/**
 * Makes a collector without calls and with a price book, as `gateway_put_prices` has it. NULL as `config` takes all
 * defaults. Free it by `gateway_billing_free`.
 *
 * The order of calls: `gateway_billing_start`, then `gateway_billing_end` or `gateway_billing_abandon`;
 * `gateway_billing_handle_timeout` at `gateway_billing_next_deadline`; and to empty the outbox `gateway_billing_take`,
 * `gateway_billing_entry` for each, `gateway_billing_confirm`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_NOT_UTF8`; from -201 down for a value that cannot be. May
 * be called from any thread.
 */
gateway_status gateway_billing_new(const gateway_billing_config *config,
                                   uint32_t version,
                                   const char *currency,
                                   const gateway_price *prices,
                                   size_t prices_len,
                                   gateway_billing **billing);

/**
 * Frees a collector; what it still has is lost. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_billing_free(gateway_billing *billing);

/**
 * Puts another price book in force, for calls that start from now on.
 *
 * Errors: as `gateway_put_prices`, without `GATEWAY_REENTERED`. May be called from any thread.
 */
gateway_status gateway_billing_put_prices(gateway_billing *billing,
                                          uint32_t version,
                                          const char *currency,
                                          const gateway_price *prices,
                                          size_t prices_len);

/**
 * Opens a call, and sets room aside for its record.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name; `GATEWAY_ALREADY_STARTED`;
 * `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_billing_start(gateway_billing *billing, const gateway_call *call, uint64_t now);

/**
 * Closes a call and charges what it used; without any `usage` (0 items) the time it took. `receipt` may be NULL.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for the shape of the usage; `GATEWAY_NO_START`;
 * `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`; and where `excess` is to refuse, `GATEWAY_USAGE_EXCEEDS_ELAPSED`. The call
 * stays open then. Otherwise a usage beyond what a device can have worked is taken, and what was possible is charged. May be called from any thread.
 */
gateway_status gateway_billing_end(gateway_billing *billing,
                                   const char *request_id,
                                   const gateway_usage *usage,
                                   size_t usage_len,
                                   uint64_t now,
                                   gateway_receipt *receipt);

/**
 * Closes a call that came to nothing: its record says so and charges nothing. `*seq`, which may be NULL, is the record's
 * number.
 *
 * Errors: `GATEWAY_NO_START`; `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
 * May be called from any thread.
 */
gateway_status gateway_billing_abandon(gateway_billing *billing,
                                       const char *request_id,
                                       uint64_t now,
                                       uint64_t *seq);

/**
 * Sweeps up to `max` calls whose age has come, and gives back the batches whose hold has ended. `*swept`, which may be
 * NULL, is how many calls; as long as it is `max`, call again.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_billing_handle_timeout(gateway_billing *billing,
                                              uint32_t max,
                                              uint64_t now,
                                              uint32_t *swept);

/**
 * When a call is swept or a batch given back next; `GATEWAY_FOREVER` where none is.
 *
 * Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
 */
gateway_status gateway_billing_next_deadline(const gateway_billing *billing, uint64_t *deadline);

/**
 * Hands out up to `max` records, the oldest first. They stay until they are confirmed; read each by
 * `gateway_billing_entry`.
 *
 * `GATEWAY_NONE`: there are none. Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
 */
gateway_status gateway_billing_take(gateway_billing *billing,
                                    uint32_t max,
                                    uint64_t now,
                                    gateway_batch *batch);

/**
 * Reads one record of a batch that is out, by its place from 0.
 *
 * `GATEWAY_NONE`: there are not as many. Errors: `GATEWAY_UNKNOWN_BATCH`; `GATEWAY_BATCH_SUPERSEDED`;
 * `GATEWAY_BAD_POINTER`, `GATEWAY_OUT_OF_RANGE`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
 * thread.
 */
gateway_status gateway_billing_entry(const gateway_billing *billing,
                                     const gateway_batch *batch,
                                     size_t index,
                                     gateway_record *record);

/**
 * One record of a batch that is out as JSON, with the usage of each device.
 *
 * Answers and errors: as `gateway_billing_entry`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
 */
gateway_status gateway_billing_entry_json(const gateway_billing *billing,
                                          const gateway_batch *batch,
                                          size_t index,
                                          char *buf,
                                          size_t cap,
                                          size_t *needed);

/**
 * Removes the records of a batch for good. `*count`, which may be NULL, is how many; confirming twice is 0.
 *
 * Errors: as `gateway_billing_entry`. May be called from any thread.
 */
gateway_status gateway_billing_confirm(gateway_billing *billing,
                                       const gateway_batch *batch,
                                       uint32_t *count);

/**
 * Frees the records of a batch to be handed out again. `*count`, which may be NULL, is how many.
 *
 * Errors: as `gateway_billing_entry`. May be called from any thread.
 */
gateway_status gateway_billing_give_back(gateway_billing *billing,
                                         const gateway_batch *batch,
                                         uint32_t *count);

/**
 * The sums so far.
 *
 * Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
 */
gateway_status gateway_billing_read_totals(const gateway_billing *billing,
                                           gateway_billing_totals *totals);

/* ---- Alone: a histogram ---------------------------------------------------------------------------------------------- */

/**
 * Makes an empty histogram. `precision_bits` is 3 (errors below 12.5 %, 4 KiB) to 8 (below 0.4 %, 114 KiB); 6 is a good
 * choice. Free it by `gateway_histogram_free`.
 *
 * Errors: `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`. May be called from any thread.
 */
gateway_status gateway_histogram_new(uint32_t precision_bits, gateway_histogram **histogram);

/**
 * Frees a histogram. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_histogram_free(gateway_histogram *histogram);

/**
 * Records a value `count` times.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_histogram_record(gateway_histogram *histogram, uint64_t value, uint64_t count);

/**
 * Adds everything `other` has recorded.
 *
 * Errors: `GATEWAY_OUT_OF_RANGE` if the precisions differ; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
 * `GATEWAY_POISONED`. May be called from any thread.
 */
gateway_status gateway_histogram_merge(gateway_histogram *histogram, const gateway_histogram *other);

/**
 * Forgets everything recorded.
 *
 * Errors: as `gateway_histogram_record`. May be called from any thread.
 */
gateway_status gateway_histogram_clear(gateway_histogram *histogram);

/**
 * A quantile by nearest rank, in parts per million: 950 000 is the 95 % quantile. Never below the true one, and above it
 * by less than `relative_error_ppm`.
 *
 * `GATEWAY_NONE`: nothing was recorded. Errors: as `gateway_histogram_record`. May be called from any thread.
 */
gateway_status gateway_histogram_quantile(const gateway_histogram *histogram,
                                          uint32_t ppm,
                                          uint64_t *value);

/**
 * Reads the distribution in numbers.
 *
 * Errors: as `gateway_histogram_record`. May be called from any thread.
 */
gateway_status gateway_histogram_read(const gateway_histogram *histogram,
                                      gateway_distribution *distribution);

/**
 * Reads up to `max` of the buckets in use, ascending. `*needed`, which may be NULL, is how many there are.
 *
 * Errors: `GATEWAY_BUFFER_TOO_SMALL` where there are more than `max`, and nothing was written; with `buckets` NULL and
 * `max` 0 only `*needed` is told. Else as `gateway_histogram_record`. May be called from any thread.
 */
gateway_status gateway_histogram_buckets(const gateway_histogram *histogram,
                                         gateway_bucket *buckets,
                                         size_t max,
                                         size_t *needed);

/* ---- Alone: a retry schedule ----------------------------------------------------------------------------------------- */

/**
 * Makes a schedule. NULL as `config` takes all defaults: 1, 2 and 4 seconds, then no more. Free it by
 * `gateway_backoff_free`.
 *
 * Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`; `GATEWAY_CONTRADICTION`. May be called from
 * any thread.
 */
gateway_status gateway_backoff_new(const gateway_backoff_config *config,
                                   gateway_backoff **backoff);

/**
 * Frees a schedule. NULL is fine.
 *
 * Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_backoff_free(gateway_backoff *backoff);

/**
 * The wait after the `attempt`-th failure (from 1) of the thing called `key`, in nanoseconds. `retry_after` is a floor; 0:
 * there is none. The same question has the same answer on every machine.
 *
 * Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_backoff_delay(const gateway_backoff *backoff,
                                     gateway_job_id key,
                                     uint32_t attempt,
                                     uint64_t retry_after,
                                     uint64_t *delay);

/**
 * What follows the `attempt`-th failure, seen at `now`, of a thing first tried at `first_at`.
 *
 * `GATEWAY_NONE`: there is no further attempt; `retry->kind` tells why. Errors: `GATEWAY_BAD_POINTER`,
 * `GATEWAY_INVALID_HANDLE`. May be called from any thread.
 */
gateway_status gateway_backoff_next(const gateway_backoff *backoff,
                                    gateway_job_id key,
                                    uint32_t attempt,
                                    uint64_t first_at,
                                    uint64_t now,
                                    uint64_t retry_after,
                                    gateway_retry *retry);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GATEWAY_H */

/* What the option structs begin with: their size and their defaults, the same as for NULL. */

#define GATEWAY_CUSTOMER_POLICY_INIT \
    {sizeof(gateway_customer_policy), NULL, 0, 0, 0, 1, 4294967295u, 4294967295u, 0}
#define GATEWAY_BACKOFF_CONFIG_INIT \
    {sizeof(gateway_backoff_config), GATEWAY_SECOND, GATEWAY_MINUTE, 0, 15 * GATEWAY_MINUTE, 0, 2000000, 3, 100000, 0}
#define GATEWAY_BREAKER_CONFIG_INIT \
    {sizeof(gateway_breaker_config), 100 * GATEWAY_SECOND, GATEWAY_MINUTE, 10 * GATEWAY_MINUTE, 2 * GATEWAY_MINUTE, \
     10, 500000, GATEWAY_RATE_AT_LEAST, 10, 5, 2, 2, 0}
#define GATEWAY_CONFIG_INIT \
    {sizeof(gateway_config), 0, 0, NULL, NULL, NULL, 0, GATEWAY_SECOND, 300 * GATEWAY_SECOND, 0, 0, 0, 0, \
     100 * GATEWAY_MILLISECOND, GATEWAY_HOUR, GATEWAY_HOUR, 1073741824, 24 * GATEWAY_HOUR, 10 * GATEWAY_MINUTE, \
     GATEWAY_MINUTE, GATEWAY_HOUR, GATEWAY_ORDERING_FAIR, 5, 1000, 1000, GATEWAY_PAYER_HOUSE, \
     GATEWAY_PAYER_HOUSE, GATEWAY_PAYER_CUSTOMER, GATEWAY_PAYER_HOUSE, GATEWAY_PAYER_HOUSE, 10000, GATEWAY_EXCESS_CAP, 1, \
     100000, 1, 2000000, 10485760, 1048576, 100000, 1000000, 0, 1000000, 10000, 1000, 10000, 16384, 1024, 64, 0}
#define GATEWAY_SUBMIT_OPTIONS_INIT \
    {sizeof(gateway_submit_options), NULL, 0, NULL, NULL, 0, 0, 0, 0, 0, 0, 1, GATEWAY_PRIORITY_NORMAL, 0}
#define GATEWAY_BACKEND_OPTIONS_INIT \
    {sizeof(gateway_backend_options), NULL, NULL, NULL, 0, NULL, 0, 0, GATEWAY_KIND_OTHER, 1, 1, 1}
#define GATEWAY_FAILURE_INIT \
    {sizeof(gateway_failure), NULL, 0, GATEWAY_FAILURE_BACKEND, 0, GATEWAY_RETRIABLE_BY_CLASS, 0}
#define GATEWAY_KEYED_LIMITER_CONFIG_INIT \
    {sizeof(gateway_keyed_limiter_config), 0, GATEWAY_SECOND, 100, 1000, 0, 0, 0, 10 * GATEWAY_MINUTE, 100000, 0}
#define GATEWAY_RATE_INIT {GATEWAY_SECOND, 100, 1000}
#define GATEWAY_QUEUE_CONFIG_INIT \
    {sizeof(gateway_queue_config), 0, GATEWAY_ORDERING_FAIR, 1000000, 100000, 0}
#define GATEWAY_STORE_CONFIG_INIT \
    {sizeof(gateway_store_config), 0, GATEWAY_HOUR, 1073741824, 24 * GATEWAY_HOUR, 0, 0, 0, 0, 1000000, 100000, 10485760, \
     1000000, 0, 0}
#define GATEWAY_STORE_OPTIONS_INIT \
    {sizeof(gateway_store_options), NULL, 0, NULL, 0, 0, 0, 0}
#define GATEWAY_BILLING_CONFIG_INIT \
    {sizeof(gateway_billing_config), 0, GATEWAY_HOUR, GATEWAY_MINUTE, 100 * GATEWAY_MILLISECOND, 10000, 100000, \
     1000000, GATEWAY_EXCESS_CAP}

/* What a job produced, as a struct: where it lies, or the bytes themselves. */

#define GATEWAY_OUTPUT_URL(text) {(text), NULL, 0}
#define GATEWAY_OUTPUT_DATA(bytes, len) {NULL, (bytes), (len)}
