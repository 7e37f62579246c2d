// gateway.hpp: the same in C++, with errors as exceptions and as results.
#include "check.h"
#include <gateway.hpp>

#include <memory>
#include <sstream>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

namespace lg = libgateway;
using namespace std::chrono_literals;

static const lg::instant start{lg::span(static_cast<std::int64_t>(START))};

static lg::gateway flux() {
    lg::gateway gw(GATEWAY_CONFIG_INIT, start);
    gw.put_backend("flux-1", {"image", "flux", {"schnell", "dev"}, 4, GATEWAY_KIND_TORCH, 2, 1, 60s, {{"zone", "a"}}}, start);
    return gw;
}

template <class Call> static gateway_status thrown(Call call) {
    try {
        call();
    } catch (const lg::error &error) {
        CHECK(!std::string_view(error.what()).empty());
        TEXT(std::string(error.name()).c_str(), gateway_status_name(error.status()));
        return error.status();
    }
    return GATEWAY_OK;
}

static void a_job_runs() {
    lg::gateway gw = flux();
    gw.put_prices(1, "USD", {{"*", "*", 1000, 0}}, start);
    lg::submit_options options;
    options.payload = std::string_view("a\0b", 3);
    options.idempotency_key = "k";
    options.affinity = "lora";
    options.timeout_total = 10min;
    const auto job = gw.submit(lg::parse_id("j_00000000000000000000000001"), "acme", "image/flux/dev/t2i", options, start);
    CHECK(job == id_of(1) && job != id_of(2));
    TEXT(lg::to_string(job).c_str(), "j_00000000000000000000000001");
    CHECK(gw.submit(id_of(2), "acme", "image/flux/dev/t2i", options, start) == job);
    NUMBER(*gw.position(job), 0);
    NUMBER(gw.explain(job)->kind, GATEWAY_REASON_NEXT);
    auto lease = gw.dispatch(start);
    CHECK(lease.has_value());
    CHECK(lease->payload() == std::string_view("a\0b", 3) && lease->customer() == "acme" && lease->backend() == "flux-1");
    CHECK(lease->deadline() == start + 60s && lease->attempt() == 1 && !lease->warm() && !lease->probe());
    CHECK(!gw.dispatch(start).has_value());
    CHECK(gw.heartbeat(*lease, start + 1s) == start + 61s);
    CHECK(gw.progress(*lease, 500000, start + 2s) == start + 62s);
    CHECK(!gw.position(job).has_value() && !gw.outcome(job).has_value());
    const auto settled = gw.complete(*lease, lg::data("png"), {{"GPU-1", 1s}, {"GPU-2", 500ms}}, start + 3s);
    NUMBER(settled.charge, 1500);
    const auto outcome = gw.outcome(job);
    CHECK(outcome->first.kind == GATEWAY_OUTCOME_DATA && outcome->second == "png");
    NUMBER(gw.read(job)->state, GATEWAY_STATE_COMPLETE);
    const auto taken = gw.take_settlements(10, start + 3s);
    CHECK(taken->size() == 1 && (*taken)[0].charge == 1500 && taken->json().find("GPU-2") != std::string::npos);
    NUMBER(gw.confirm(taken->batch(), start + 3s), 1);
    CHECK(!gw.take_settlements(10, start + 3s).has_value());
    NUMBER(gw.stats().complete, 1);
    NUMBER(gw.poll_event()->kind, GATEWAY_EVENT_QUEUED);
    gw.erase(job, start + 3s);
    CHECK(!gw.read(job).has_value());
}

static void errors_are_exceptions_and_nothing_has_happened() {
    lg::gateway gw = flux();
    const auto before = gw.digest();
    STATUS(thrown([&] { gw.submit(id_of(1), "", "image/flux/dev/t2i", {}, start); }), GATEWAY_EMPTY);
    STATUS(thrown([&] { gw.submit(id_of(1), std::string_view("a\0b", 3), "image/flux/dev/t2i", {}, start); }),
           GATEWAY_NOT_UTF8);
    STATUS(thrown([&] { gw.submit(id_of(1), "acme", "image/flux/dev", {}, start); }), GATEWAY_MALFORMED);
    STATUS(thrown([&] { gw.cancel(id_of(1), start); }), GATEWAY_UNKNOWN_JOB);
    STATUS(thrown([&] { lg::parse_id("j_"); }), GATEWAY_MALFORMED);
    STATUS(thrown([&] { lg::gateway::restore("no"); }), GATEWAY_TRUNCATED);
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.jobs_max = 0;
    STATUS(thrown([&] { lg::gateway other(config); }), GATEWAY_OUT_OF_RANGE);
    try {
        gw.put_backend("flux-2", {"image", "flux", {"dev"}, 0}, start);
    } catch (const lg::error &error) {
        TEXT(error.field().c_str(), "slots");
    }
    CHECK(gw.digest() == before);
}

static void errors_are_results_by_choice() {
    namespace r = lg::results;
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.jobs_max = 0;
    auto refused = r::gateway::make(config);
    CHECK(!refused);
    STATUS(refused.why().status, GATEWAY_OUT_OF_RANGE);
    TEXT(refused.why().field.c_str(), "jobs_max");
    CHECK(refused.why().name() == "out_of_range");
    auto made = r::gateway::make();
    CHECK(bool(made));
    r::gateway gw = *std::move(made);
    CHECK(bool(gw.put_backend("flux-1", {"image", "flux", {"*"}})));
    const auto job = gw.submit(*r::random_id(), "acme", "image/flux/dev/t2i");
    CHECK(bool(job));
    STATUS(gw.submit(id_of(1), "acme", "audio/flux/dev/t2i").why().status, GATEWAY_UNKNOWN_ROUTE);
    auto leased = gw.dispatch();
    CHECK(bool(leased) && leased->has_value());
    CHECK(bool(gw.complete(**leased, lg::url("https://x"))));
    CHECK(!gw.complete(**leased, lg::url("https://x")));
    auto none = gw.dispatch();
    CHECK(bool(none) && !none->has_value());
    auto bad = r::histogram::make(99);
    CHECK(!bad);
    const auto status = gw.transaction([](r::transaction &tx) {
        CHECK(bool(tx.submit(id_of(7), "acme", "image/flux/dev/t2i")));
        return tx.cancel(id_of(8)) ? GATEWAY_OK : GATEWAY_UNKNOWN_JOB;
    });
    CHECK(!status);
    STATUS(status.why().status, GATEWAY_UNKNOWN_JOB);
    CHECK(!gw.position(id_of(7))->has_value());
}

static void transactions_are_callables() {
    lg::gateway gw = flux();
    gw.submit(id_of(1), "acme", "image/flux/dev/t2i", {}, start);
    const auto before = gw.digest();
    std::vector<lg::lease> leases;
    const auto both = [&](lg::transaction &tx) {
        for (auto route : {"image/flux/dev/t2i", "image/flux/schnell/t2i"}) {
            auto lease = tx.dispatch_route(route);
            if (!lease) return false;
            leases.push_back(std::move(*lease));
        }
        return true;
    };
    STATUS(gw.transaction(both, start), GATEWAY_WAIT);
    CHECK(gw.digest() == before);
    leases.clear();
    gw.submit(id_of(2), "acme", "image/flux/schnell/t2i", {}, start);
    STATUS(gw.transaction(both, start), GATEWAY_OK);
    NUMBER(leases.size(), 2);
    NUMBER(gw.stats().running, 2);

    // An exception takes everything back and comes out; so does one of the library's.
    const auto then = gw.digest();
    try {
        gw.transaction([](lg::transaction &tx) -> bool {
            tx.submit(id_of(3), "acme", "image/flux/dev/t2i");
            throw std::runtime_error("changed my mind");
        }, start);
        CHECK(false);
    } catch (const std::runtime_error &error) {
        TEXT(error.what(), "changed my mind");
    }
    STATUS(thrown([&] {
        gw.transaction([](lg::transaction &tx) {
            tx.submit(id_of(3), "acme", "image/flux/dev/t2i");
            tx.cancel(id_of(77));
            return true;
        }, start);
    }), GATEWAY_UNKNOWN_JOB);
    STATUS(thrown([&] {
        gw.transaction([&](lg::transaction &) {
            gw.stats();
            return true;
        }, start);
    }), GATEWAY_REENTERED);
    CHECK(gw.digest() == then);
    STATUS(gw.transaction([&](lg::transaction &tx) {
        tx.fail(leases[0], {GATEWAY_FAILURE_HTTP, "busy", 503, 5s, true});
        tx.release(leases[1]);
        return true;
    }, start), GATEWAY_OK);
    // As long as was asked, and up to a tenth more.
    const uint64_t until = gw.explain(id_of(1))->until;
    CHECK(until >= START + 5 * GATEWAY_SECOND && until <= START + 5500 * GATEWAY_MILLISECOND);
}

static void jobs_run_later_and_make_room() {
    lg::gateway gw = flux();
    lg::submit_options later;
    later.not_before = start + 5s;
    gw.submit(id_of(1), "acme", "image/flux/dev/t2i", later, start);
    CHECK(gw.explain(id_of(1))->kind == GATEWAY_REASON_NOT_BEFORE && !gw.dispatch(start + 5s - 1ns));
    auto lease = gw.dispatch(start + 5s);
    CHECK(lease->job() == id_of(1));
    gw.release_until(*lease, start + 9s, {{"GPU-1", 1s}}, start + 7s);
    CHECK(!gw.dispatch(start + 9s - 1ns));
    lease = gw.dispatch(start + 9s);
    CHECK(lease->attempt() == 2 && gw.read(id_of(1))->attempts == 0);
    CHECK(gw.preempt(id_of(1), {}, start + 9s) == lease->id() && gw.read(id_of(1))->preemptions == 1);
    STATUS(thrown([&] { gw.preempt(id_of(1), {}, start + 9s); }), GATEWAY_NOT_ALLOWED);
    lease = gw.dispatch(start + 9s);

    gw.submit(id_of(2), "acme", "image/flux/schnell/t2i", {}, start + 9s);
    gw.put_backend("flux-1", {"image", "flux", {"schnell", "dev"}, 1}, start + 9s);
    std::optional<lg::lease> urgent;
    STATUS(gw.transaction([&](lg::transaction &tx) {
        CHECK(tx.preempt(id_of(1)) == lease->id());
        urgent = tx.dispatch_route("image/flux/schnell/t2i");
        return urgent.has_value();
    }, start + 9s), GATEWAY_OK);
    CHECK(urgent->job() == id_of(2));
    STATUS(gw.transaction([&](lg::transaction &tx) {
        tx.release_until(*urgent, start + 20s);
        return true;
    }, start + 9s), GATEWAY_OK);
    CHECK(gw.explain(id_of(2))->until == START + 20 * GATEWAY_SECOND);

    lease = gw.dispatch(start + 9s);
    const auto evicted = gw.evict_backend("flux-1", GATEWAY_EVICT_TO_ERROR, start + 9s);
    gw.remove_backend("flux-1", start + 9s);
    CHECK(evicted.size() == 1 && evicted[0].lease == lease->id() && evicted[0].job == id_of(1));
    CHECK(!gw.backend("flux-1") && gw.json(id_of(1))->find("\"failed_on\":[]") != std::string::npos);
    CHECK(!gw.json(id_of(3)).has_value());
    STATUS(thrown([&] { gw.evict_backend("flux-1", GATEWAY_EVICT_TO_QUEUE, start + 9s); }), GATEWAY_UNKNOWN_BACKEND);

    lg::results::gateway other = *lg::results::gateway::make(GATEWAY_CONFIG_INIT, start);
    CHECK(bool(other.put_backend("flux-1", {"image", "flux", {"*"}}, start)));
    CHECK(other.evict_backend("flux-1", GATEWAY_EVICT_TO_QUEUE, start)->empty());
    STATUS(other.evict_backend("flux-2").why().status, GATEWAY_UNKNOWN_BACKEND);
    STATUS(other.preempt(id_of(1)).why().status, GATEWAY_UNKNOWN_JOB);
}

static void gateways_move_and_waiters_wait() {
    lg::gateway gw = flux();
    gw.submit(id_of(1), "acme", "image/flux/dev/t2i", {}, start);
    lg::gateway copy = lg::gateway::replica(gw.snapshot());
    lg::gateway goes_on = lg::gateway::restore(gw.snapshot(), start, 7);
    CHECK(goes_on.epoch() != gw.epoch() && goes_on.commands() == gw.commands() + 1);
    CHECK(copy.digest() == gw.digest());
    lg::gateway moved = std::move(copy);
    CHECK(copy.get() == nullptr && moved.digest() == gw.digest());
    STATUS(thrown([&] { copy.stats(); }), GATEWAY_BAD_POINTER);
    const auto reply = moved.apply("{\"now\":1700000000000000000,\"command\":{\"delete\":{\"job\":\"j_00000000000000000000000001\"}}}");
    TEXT(reply.c_str(), "{\"error\":{\"number\":603,\"name\":\"not_ended\",\"field\":\"job\",\"message\":\"job "
                        "j_00000000000000000000000001 has not ended: queued\"}}");
    lg::gateway live;
    live.put_backend("flux-1", {"image", "flux", {"*"}, 2});
    std::thread host([&] { live.submit(lg::random_id(), "acme", "image/flux/dev/t2i"); });
    const auto lease = live.wait_dispatch();
    host.join();
    CHECK(lease.has_value() && !live.wait_dispatch(lg::now() - 1s).has_value());
    CHECK(live.wait_dispatch_to("flux-1", 4, lg::now() - 1s).empty());
    live.complete(*lease, lg::url("https://x"));
    CHECK(live.wait_ended(lease->job()) == GATEWAY_STATE_COMPLETE && !live.wait_ended(id_of(9)).has_value());
    auto changes = live.changes();
    CHECK(!live.wait_change(changes, lg::now() - 1s));
    CHECK(live.next_deadline().has_value());
    CHECK(!gw.customer("nobody").has_value() && gw.backend("flux-1")->slots == 4);
}

static void parts_stand_alone() {
    lg::limiter limiter({10, 1s, 2}, start);
    CHECK(bool(limiter.try_acquire(2, start)));
    const auto denied = limiter.try_acquire(1, start);
    CHECK(!denied && denied.status == GATEWAY_DENIED && *denied.until == start + 100ms);
    NUMBER(denied.retry_after(start).count(), 1);
    CHECK(!limiter.try_acquire(3, start).until.has_value());
    limiter.refund(1);
    NUMBER(limiter.headers(start).remaining, 1);
    lg::keyed_limiter keyed({1, 1s, 3}, 10, 7, start);
    CHECK(bool(keyed.try_acquire("acme", 3, start)) && !keyed.try_acquire("acme", 1, start));
    CHECK(keyed.remove("acme") && !keyed.remove("acme"));
    lg::keyed_limiter tiny({1, 1s, 3}, 1, 7, start);
    CHECK(!tiny.try_acquire("acme", 3, start).shared && tiny.try_acquire("zoo", 3, start).shared);
    lg::limiter founding(lg::rate{}, start);
    CHECK(bool(founding.try_acquire(1000, start)) && !founding.try_acquire(1, start));
    lg::window window({6, 60s}, start);
    CHECK(bool(window.try_acquire(6, start)));
    CHECK(*window.try_acquire(1, start).until == start + 60s && *window.next_deadline() == start + 60s);
    window.refund(1, start);
    NUMBER(window.headers(start).remaining, 1);
    lg::breaker breaker(GATEWAY_BREAKER_CONFIG_INIT, start);
    for (int i = 0; i < 5; i++) CHECK(breaker.failure(*breaker.admit(start), start));
    CHECK(!breaker.admit(start).has_value());
    CHECK(*breaker.next_deadline() == start + 60s);
    NUMBER(breaker.read(start).state, GATEWAY_BREAKER_OPEN);
    lg::queue queue;
    const auto ticket = queue.push("acme", 7);
    NUMBER(*queue.position(ticket), 0);
    NUMBER(queue.size(), 1);
    NUMBER(*queue.pop(), 7);
    CHECK(!queue.pop().has_value());
    lg::store store(GATEWAY_STORE_CONFIG_INIT, start);
    store.insert(id_of(1), "acme", "body", "key", start);
    const auto attempt = store.start(id_of(1), start);
    store.complete(id_of(1), attempt, lg::url("u"), start);
    NUMBER(store.read(id_of(1))->state, GATEWAY_STATE_COMPLETE);
    lg::billing billing(1, "USD", {{"flux/dev", "*", 1200, GATEWAY_SECOND}});
    billing.start("req_1", "acme", "flux/dev", "", start);
    NUMBER(billing.end("req_1", {{"GPU-1", 1700ms}}, start + 2s).charge, 2040);
    const auto batch = billing.take(10, start + 2s);
    TEXT(batch->second.at(0).customer, "acme");
    NUMBER(billing.confirm(batch->first), 1);
    lg::histogram histogram, other(5);
    histogram.record(5);
    NUMBER(*histogram.quantile_ppm(500000), 5);
    STATUS(thrown([&] { histogram.merge(other); }), GATEWAY_OUT_OF_RANGE);
    gateway_backoff_config exact = GATEWAY_BACKOFF_CONFIG_INIT;
    exact.jitter_ppm = 0;
    lg::backoff backoff(exact);
    CHECK(backoff.delay(id_of(1), 3) == 4s);
    CHECK(*backoff.next(id_of(1), 1, start, start) == start + 1s && !backoff.next(id_of(1), 4, start, start));
}

/* What belongs to the parent goes as quietly as anything else. */
static void a_child_is_told_what_is_its_parents() {
    lg::gateway gw = flux();
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        {
            lg::gateway inherited = std::move(gw);
            STATUS(thrown([&] { inherited.dispatch(start); }), GATEWAY_FORKED);
            STATUS(inherited.wake_from_signal(), GATEWAY_FORKED);
        }
        lg::gateway own = flux();
        CHECK(!own.dispatch(start).has_value());
        CHILD_IS_WELL();
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(!gw.dispatch(start).has_value());
    OK(gw.wake_from_signal());
}

int main() {
    a_job_runs();
    a_child_is_told_what_is_its_parents();
    errors_are_exceptions_and_nothing_has_happened();
    errors_are_results_by_choice();
    transactions_are_callables();
    jobs_run_later_and_make_room();
    gateways_move_and_waiters_wait();
    parts_stand_alone();
    NUMBER(gateway_handles_live(), 0);
    gateway_last_error_clear();
}
