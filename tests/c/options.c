/* Option structs: what their macros set, and what an older and a newer header may bring. */
#include "check.h"

/* What a program that was compiled against a longer struct hands over. */
typedef struct {
    gateway_config known;
    uint64_t later[2];
} newer_config;

static void compare(const gateway_config *given, const char *words) {
    gateway *one = NULL, *other = NULL;
    OK(gateway_new(given, START, &one));
    OK(gateway_new(NULL, START, &other));
    char a[4096], b[4096];
    OK(gateway_config_json(one, a, sizeof a, NULL));
    OK(gateway_config_json(other, b, sizeof b, NULL));
    if (words == NULL) TEXT(a, b);
    else CHECK(strstr(a, words) != NULL);
    OK(gateway_free(one));
    OK(gateway_free(other));
}

static void the_macros_set_the_defaults(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    gateway_customer_policy customer = GATEWAY_CUSTOMER_POLICY_INIT;
    gateway_backoff_config backoff = GATEWAY_BACKOFF_CONFIG_INIT;
    gateway_breaker_config breaker = GATEWAY_BREAKER_CONFIG_INIT;
    compare(&config, NULL);
    config.customer = &customer;
    config.backoff = &backoff;
    config.breaker = &breaker;
    compare(&config, NULL);
}

static void each_field_is_read(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    gateway_customer_policy customer = GATEWAY_CUSTOMER_POLICY_INIT;
    gateway_backoff_config backoff = GATEWAY_BACKOFF_CONFIG_INIT;
    gateway_breaker_config breaker = GATEWAY_BREAKER_CONFIG_INIT;
    customer.tier = "gold", customer.rate_per = 11, customer.rate_amount = 12, customer.rate_burst = 13;
    customer.weight = 14, customer.running_max = 15, customer.queued_max = 16;
    backoff.base = 21, backoff.max = 22, backoff.total = 23, backoff.seed = 24, backoff.factor_ppm = 1000025;
    backoff.retries = 26, backoff.jitter_ppm = 27, backoff.retry_after_max = 28;
    breaker.window = 31, breaker.open_for = 32, breaker.open_for_max = 33, breaker.probe_timeout = 34;
    breaker.buckets = 3, breaker.failure_rate_ppm = 36, breaker.failure_rate_rule = GATEWAY_RATE_ABOVE;
    breaker.calls_min = 37, breaker.consecutive_failures = 38, breaker.open_for_factor = 39, breaker.probes_to_close = 40;
    config.customer = &customer, config.backoff = &backoff, config.breaker = &breaker;
    config.seed = 41, config.age_after = 42, config.estimate = 43, config.lease_for = 44;
    config.timeout_queue = 45, config.timeout_start = 46, config.timeout_run = 47, config.timeout_total = 48;
    config.billing_slack = 49, config.retain_for = 50, config.customer_idle = 51, config.settle_within = 52;
    config.clock_jump_max = 53, config.ordering = GATEWAY_ORDERING_FIFO, config.losses_max = 54;
    config.billing_failed = GATEWAY_PAYER_CUSTOMER, config.billing_lost = GATEWAY_PAYER_CUSTOMER;
    config.billing_cancelled = GATEWAY_PAYER_HOUSE, config.billing_tolerance_ppm = 55;
    config.jobs_max = 56, config.payload_len_max = 57, config.output_len_max = 58, config.retained_max = 59;
    config.customers_max = 60, config.routes_max = 61, config.families_max = 62, config.backends_max = 63;
    config.events_max = 64, config.due_max = 65, config.late_usage_for = 66, config.late_usage_max = 67;
    config.billing_released = GATEWAY_PAYER_CUSTOMER, config.billing_excess = GATEWAY_EXCESS_REFUSE;
    config.unmeasured_devices = 0, config.settlements = 0, config.steps_max = 68;
    config.retained_bytes_max = 69, config.idempotency_for = 70, config.idempotency_keys_max = 71;
    config.idempotency_free = GATEWAY_FREE_CANCELLED, config.entropy = 72;
    config.releases_max = 73, config.preemptions_max = 74, config.billing_preempted = GATEWAY_PAYER_CUSTOMER;
    gateway *gw = NULL;
    OK(gateway_new(&config, START, &gw));
    char json[4096];
    OK(gateway_config_json(gw, json, sizeof json, NULL));
    TEXT(json,
         "{\"seed\":41,\"ordering\":\"fifo\",\"age_after\":42,\"customer\":{\"weight\":14,\"rate\":{\"amount\":12,\"per\":11,"
         "\"burst\":13},\"running_max\":15,\"queued_max\":16,\"tier\":\"gold\"},\"estimate\":43,\"lease_for\":44,"
         "\"timeouts\":{\"queue\":45,\"start\":46,\"run\":47,\"total\":48},\"backoff\":{\"base\":21,\"factor_ppm\":1000025,"
         "\"max\":22,\"retries\":26,\"jitter_ppm\":27,\"total\":23,\"retry_after_max\":28,\"seed\":24},\"losses_max\":54,"
         "\"releases_max\":73,\"preemptions_max\":74,\"breaker\":{\"window\":31,"
         "\"buckets\":3,\"failure_rate_ppm\":36,\"failure_rate_rule\":\"above\",\"calls_min\":37,"
         "\"consecutive_failures\":38,\"open_for\":32,\"open_for_factor\":39,\"open_for_max\":33,\"probes_to_close\":40,"
         "\"probe_timeout\":34},\"billing\":{\"failed\":\"customer\",\"lost\":\"customer\",\"cancelled\":\"house\","
         "\"released\":\"customer\",\"preempted\":\"customer\",\"tolerance_ppm\":55,\"slack\":49,\"excess\":\"refuse\",\"unmeasured_devices\":false,"
         "\"late_usage_for\":66,\"late_usage_max\":67,\"settlements\":false},\"jobs_max\":56,"
         "\"payload_len_max\":57,\"output_len_max\":58,\"retain_for\":50,"
         "\"retained_max\":59,\"retained_bytes_max\":69,\"idempotency_for\":70,\"idempotency_keys_max\":71,"
         "\"idempotency_free_failed\":false,\"idempotency_free_cancelled\":true,"
         "\"customers_max\":60,\"customer_idle\":51,\"routes_max\":61,\"families_max\":62,"
         "\"backends_max\":63,\"events_max\":64,\"settle_within\":52,\"clock_jump_max\":53,\"due_max\":65,\"steps_max\":68}");
    OK(gateway_free(gw));
}

static void an_older_struct_has_defaults_for_what_it_lacks(void) {
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.seed = 41;
    config.lease_for = 44;
    config.jobs_max = 56;
    // As short as a struct that ended after lease_for: jobs_max lies beyond it.
    config.size = offsetof(gateway_config, lease_for) + sizeof config.lease_for;
    compare(&config, "\"seed\":41,");
    compare(&config, "\"lease_for\":44,");
    compare(&config, "\"jobs_max\":2000000,");
    // And one that had nothing but its size.
    config.size = sizeof config.size;
    compare(&config, NULL);
}

static void a_newer_struct_is_read_while_its_new_fields_are_zero(void) {
    newer_config newer = {GATEWAY_CONFIG_INIT, {0, 0}};
    newer.known.size = sizeof newer;
    newer.known.seed = 41;
    compare(&newer.known, "\"seed\":41,");
    newer.later[1] = 1;
    gateway *gw = NULL;
    STATUS(gateway_new(&newer.known, START, &gw), GATEWAY_BAD_SIZE);
    CHECK(gw == NULL);
}

static void a_size_that_cannot_be_is_refused(void) {
    const size_t sizes[] = {0, 1, 7, 9, 12, sizeof(gateway_config) - 4, 4104, SIZE_MAX, SIZE_MAX - 7};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        gateway_config config = GATEWAY_CONFIG_INIT;
        config.size = sizes[i];
        gateway *gw = NULL;
        STATUS(gateway_new(&config, START, &gw), GATEWAY_BAD_SIZE);
        CHECK(gw == NULL);
    }
    // So are inner structs, and those of calls.
    gateway_config config = GATEWAY_CONFIG_INIT;
    gateway_backoff_config backoff = GATEWAY_BACKOFF_CONFIG_INIT;
    backoff.size = 0;
    config.backoff = &backoff;
    gateway *gw = NULL;
    STATUS(gateway_new(&config, START, &gw), GATEWAY_BAD_SIZE);
    gw = flux_gateway(1);
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.size = 0;
    STATUS(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL), GATEWAY_BAD_SIZE);
    options.size = sizeof options;
    OK(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL));
    gateway_failure failure = GATEWAY_FAILURE_INIT;
    failure.size = 3;
    STATUS(gateway_fail(gw, START, 1, &failure, NULL, 0, NULL), GATEWAY_BAD_SIZE);
    OK(gateway_free(gw));
}

static void numbers_that_stand_for_nothing_are_refused_by_name(void) {
    char field[32];
#define REFUSED(change, name)                                      \
    do {                                                           \
        gateway_config config = GATEWAY_CONFIG_INIT;               \
        gateway_backoff_config backoff = GATEWAY_BACKOFF_CONFIG_INIT; \
        gateway_breaker_config breaker = GATEWAY_BREAKER_CONFIG_INIT; \
        gateway_customer_policy customer = GATEWAY_CUSTOMER_POLICY_INIT; \
        config.backoff = &backoff, config.breaker = &breaker, config.customer = &customer; \
        change;                                                    \
        gateway *gw = NULL;                                        \
        STATUS(gateway_new(&config, START, &gw), GATEWAY_OUT_OF_RANGE); \
        CHECK(gw == NULL);                                         \
        OK(gateway_last_error_field(field, sizeof field, NULL));   \
        TEXT(field, name);                                         \
    } while (0)
    REFUSED(config.ordering = 2, "ordering");
    REFUSED(config.ordering = UINT32_MAX, "ordering");
    REFUSED(config.losses_max = 1000001, "losses_max");
    REFUSED(config.releases_max = 1000001, "releases_max");
    REFUSED(config.preemptions_max = 1000001, "preemptions_max");
    REFUSED(config.billing_lost = 2, "billing_lost");
    REFUSED(config.billing_released = 2, "billing_released");
    REFUSED(config.billing_preempted = 2, "billing_preempted");
    REFUSED(config.billing_excess = 2, "billing_excess");
    REFUSED(config.settlements = 2, "settlements");
    REFUSED(config.jobs_max = 0, "jobs_max");
    REFUSED(config.estimate = 0, "estimate");
    REFUSED(config.reserved = 1, "reserved");
    REFUSED(customer.weight = 0, "weight");
    REFUSED(customer.weight = 1000001, "weight");
    REFUSED(customer.reserved = 1, "reserved");
    REFUSED(backoff.factor_ppm = 1, "factor_ppm");
    REFUSED(backoff.reserved = 1, "reserved");
    REFUSED(breaker.buckets = 0, "buckets");
    REFUSED(breaker.buckets = 256, "buckets");
    REFUSED(breaker.failure_rate_rule = 2, "failure_rate_rule");
    REFUSED(breaker.calls_min = 0, "calls_min");
    REFUSED(breaker.open_for_factor = 0, "open_for_factor");
    REFUSED(breaker.probes_to_close = 0, "probes_to_close");

    gateway *gw = flux_gateway(1);
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.priority = 3;
    STATUS(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL), GATEWAY_OUT_OF_RANGE);
    options.priority = GATEWAY_PRIORITY_LOW;
    options.payload = "x";
    options.payload_len = SIZE_MAX;
    STATUS(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL), GATEWAY_OUT_OF_RANGE);
    options.payload = NULL;
    options.payload_len = 1;
    STATUS(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL), GATEWAY_BAD_POINTER);
    options.payload_len = 0;
    OK(gateway_submit(gw, START, id_of(1), "acme", "image/flux/dev/t2i", &options, NULL));
    gateway_lease_info info = lease_next(gw, START);
    gateway_output output = {"https://x", "y", 1};
    STATUS(gateway_complete(gw, START, info.id, &output, NULL, 0, NULL), GATEWAY_CONTRADICTION);
    output.url = NULL;
    STATUS(gateway_complete(gw, START, info.id, &output, NULL, 1, NULL), GATEWAY_BAD_POINTER);
    gateway_usage usage = {NULL, 1};
    STATUS(gateway_complete(gw, START, info.id, &output, &usage, 1, NULL), GATEWAY_BAD_POINTER);
    usage.device = "GPU,1";
    STATUS(gateway_complete(gw, START, info.id, &output, &usage, 1, NULL), GATEWAY_CHARACTER);
    usage.device = "GPU-1";
    output.url = "", output.data = NULL, output.data_len = 0;
    STATUS(gateway_complete(gw, START, info.id, &output, NULL, 0, NULL), GATEWAY_EMPTY);
    gateway_failure failure = GATEWAY_FAILURE_INIT;
    failure.failure_class = 7;
    STATUS(gateway_fail(gw, START, info.id, &failure, NULL, 0, NULL), GATEWAY_OUT_OF_RANGE);
    failure.failure_class = GATEWAY_FAILURE_HTTP;
    failure.http_status = 65536;
    STATUS(gateway_fail(gw, START, info.id, &failure, NULL, 0, NULL), GATEWAY_OUT_OF_RANGE);
    failure.http_status = 500;
    failure.retriable = 3;
    STATUS(gateway_fail(gw, START, info.id, &failure, NULL, 0, NULL), GATEWAY_OUT_OF_RANGE);
    failure.retriable = 0;
    failure.reserved = 1;
    STATUS(gateway_fail(gw, START, info.id, &failure, NULL, 0, NULL), GATEWAY_OUT_OF_RANGE);
    size_t count = 0;
    STATUS(gateway_evict_backend(gw, START, "flux-1", 2, NULL, 0, &count), GATEWAY_OUT_OF_RANGE);
    gateway_batch batch = {1, 1, (uint64_t)UINT32_MAX + 1};
    STATUS(gateway_confirm_settlements(gw, START, &batch, NULL), GATEWAY_OUT_OF_RANGE);
    OK(gateway_free(gw));
}

/* Nothing here may crash: the largest numbers as instants, spans, sizes. */
static void the_largest_numbers_are_answered(void) {
    gateway *gw = flux_gateway(1);
    submit(gw, UINT64_MAX, 1);
    gateway_lease *lease = NULL;
    uint64_t until = 0;
    OK(gateway_dispatch(gw, UINT64_MAX, &lease, &until));
    OK(gateway_lease_free(lease));
    STATUS(gateway_heartbeat(gw, UINT64_MAX, UINT64_MAX, &until), GATEWAY_UNKNOWN_LEASE);
    gateway_job job;
    OK(gateway_read_job(gw, id_of(1), &job));
    OK(gateway_release_until(gw, UINT64_MAX, job.lease, UINT64_MAX, NULL, 0, NULL));
    gateway_submit_options options = GATEWAY_SUBMIT_OPTIONS_INIT;
    options.not_before = UINT64_MAX;
    OK(gateway_submit(gw, UINT64_MAX, id_of(2), "acme", "image/flux/dev/t2i", &options, NULL));
    gateway_evicted evicted;
    size_t count = 9;
    OK(gateway_evict_backend(gw, UINT64_MAX, "flux-1", GATEWAY_EVICT_TO_ERROR, &evicted, SIZE_MAX, &count));
    NUMBER(count, 0);
    OK(gateway_advance(gw, UINT64_MAX, NULL));
    OK(gateway_accept_clock(gw, UINT64_MAX, NULL));
    gateway_settlements *taken = NULL;
    gateway_status status = gateway_take_settlements(gw, UINT64_MAX, UINT32_MAX, &taken);
    CHECK(status == GATEWAY_OK || status == GATEWAY_NONE);
    OK(gateway_settlements_free(taken));
    OK(gateway_free(gw));
}

int main(void) {
    the_macros_set_the_defaults();
    each_field_is_read();
    an_older_struct_has_defaults_for_what_it_lacks();
    a_newer_struct_is_read_while_its_new_fields_are_zero();
    a_size_that_cannot_be_is_refused();
    numbers_that_stand_for_nothing_are_refused_by_name();
    the_largest_numbers_are_answered();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
    return 0;
}
