/* Part of gateway.hpp: what stands alone. */
#ifndef GATEWAY_PARTS_HPP
#define GATEWAY_PARTS_HPP

#include <gateway/base.hpp>

namespace libgateway {

/// What a limiter says: true where tokens were taken.
struct acquired {
    gateway_status status = GATEWAY_OK;
    /// Whole tokens left.
    std::uint64_t remaining = 0;
    /// Of a denial when the same call is allowed; none: never.
    std::optional<instant> until{};
    /// Whether they are of the bucket that new keys share while a keyed limiter has no room for them.
    bool shared = false;
    explicit operator bool() const { return status == GATEWAY_OK; }
    /// How long to wait, as `Retry-After` wants it: whole seconds, rounded up.
    std::chrono::seconds retry_after(instant at = now()) const {
        return until && *until > at ? std::chrono::ceil<std::chrono::seconds>(*until - at) : std::chrono::seconds(0);
    }
};

/// So many tokens per span, and so many kept; 100 a second and 1 000 kept where nothing is said.
struct rate {
    std::uint64_t amount = 100;
    span per = std::chrono::seconds(1);
    std::uint64_t burst = 1000;
    gateway_rate c() const { return {detail::count(per), amount, burst}; }
};

namespace detail {
inline acquired told(gateway_status status, const gateway_acquired &own) {
    return {status, own.remaining, status == GATEWAY_OK ? std::nullopt : maybe(own.until), own.shared != 0};
}

/// What the parts have in common: a handle, and how they are made.
template <class Errors, class Self, class Handle, gateway_status (*Free)(Handle *)> class part {
protected:
    template <class T> using answer = typename Errors::template answer<T>;
    explicit part(Handle *handle) : handle_(handle) {}

    // By reference: it is read after the call that sets it, whose place among the arguments nobody promises.
    static answer<Self> made(gateway_status status, Handle *const &handle) {
        return Errors::template give<Self>(status, [&] { return Self(handle); });
    }
    answer<void> done(gateway_status status) {
        return Errors::template give<void>(status, [] {});
    }
    answer<bool> yes(gateway_status status) {
        return Errors::template give<bool>(status, [&] { return status == GATEWAY_OK; });
    }
    template <class T> answer<T> value(gateway_status status, const T &of) const {
        return Errors::template give<T>(status, [&] { return of; });
    }
    template <class T> answer<std::optional<T>> maybe(gateway_status status, const T &of) const {
        return Errors::template give<std::optional<T>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(of) : std::nullopt; });
    }
    answer<std::optional<instant>> deadline(gateway_status status, const std::uint64_t &at) const {
        return Errors::template give<std::optional<instant>>(status, [&] { return detail::maybe(at); });
    }

public:
    Handle *get() const { return handle_.get(); }

private:
    owner<Handle, Free> handle_;
};
} // namespace detail

/// A rate limit.
template <class Errors>
class basic_limiter : public detail::part<Errors, basic_limiter<Errors>, gateway_limiter, gateway_limiter_free> {
    using base = detail::part<Errors, basic_limiter, gateway_limiter, gateway_limiter_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_limiter(rate own, instant at = now()) : basic_limiter(make(own, at)) {}
    static answer<basic_limiter> make(rate own, instant at = now()) {
        gateway_limiter *handle = nullptr;
        const gateway_rate c = own.c();
        return base::made(gateway_limiter_new(&c, detail::count(at), &handle), handle);
    }
    answer<acquired> try_acquire(std::uint64_t cost = 1, instant at = now()) {
        gateway_acquired own{};
        const auto status = gateway_limiter_try_acquire(base::get(), cost, detail::count(at), &own);
        return base::value(status, detail::told(status, own));
    }
    answer<void> refund(std::uint64_t cost = 1) { return base::done(gateway_limiter_refund(base::get(), cost)); }
    answer<gateway_rate_headers> headers(instant at = now()) const {
        gateway_rate_headers own{};
        const auto status = gateway_limiter_headers(base::get(), detail::count(at), &own);
        return base::value(status, own);
    }
    answer<void> set_rate(rate own, instant at = now()) {
        const gateway_rate c = own.c();
        return base::done(gateway_limiter_set_rate(base::get(), &c, detail::count(at)));
    }
};

/// At most so many tokens in any stretch of time of that length.
struct window_limit {
    std::uint32_t amount;
    span per;
    gateway_window_limit c() const { return {detail::count(per), amount, 0}; }
};

/// A strict limit: so many in any window of time.
template <class Errors>
class basic_window : public detail::part<Errors, basic_window<Errors>, gateway_window, gateway_window_free> {
    using base = detail::part<Errors, basic_window, gateway_window, gateway_window_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_window(window_limit own, instant at = now()) : basic_window(make(own, at)) {}
    static answer<basic_window> make(window_limit own, instant at = now()) {
        gateway_window *handle = nullptr;
        const gateway_window_limit c = own.c();
        return base::made(gateway_window_new(&c, detail::count(at), &handle), handle);
    }
    answer<acquired> try_acquire(std::uint64_t cost = 1, instant at = now()) {
        gateway_acquired own{};
        const auto status = gateway_window_try_acquire(base::get(), cost, detail::count(at), &own);
        return base::value(status, detail::told(status, own));
    }
    answer<void> refund(std::uint64_t cost = 1, instant at = now()) {
        return base::done(gateway_window_refund(base::get(), cost, detail::count(at)));
    }
    answer<gateway_rate_headers> headers(instant at = now()) const {
        gateway_rate_headers own{};
        const auto status = gateway_window_headers(base::get(), detail::count(at), &own);
        return base::value(status, own);
    }
    answer<void> set_limit(window_limit own, instant at = now()) {
        const gateway_window_limit c = own.c();
        return base::done(gateway_window_set_limit(base::get(), &c, detail::count(at)));
    }
    answer<std::optional<instant>> next_deadline() const {
        std::uint64_t at = 0;
        const auto status = gateway_window_next_deadline(base::get(), &at);
        return base::deadline(status, at);
    }
};

/// Rate limits by key.
template <class Errors>
class basic_keyed_limiter
    : public detail::part<Errors, basic_keyed_limiter<Errors>, gateway_keyed_limiter, gateway_keyed_limiter_free> {
    using base = detail::part<Errors, basic_keyed_limiter, gateway_keyed_limiter, gateway_keyed_limiter_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_keyed_limiter(rate own, std::uint32_t keys_max = 100000, std::uint64_t seed = 0, instant at = now())
        : basic_keyed_limiter(make(own, keys_max, seed, at)) {}
    static answer<basic_keyed_limiter> make(rate own, std::uint32_t keys_max = 100000, std::uint64_t seed = 0,
                                            instant at = now()) {
        gateway_keyed_limiter *handle = nullptr;
        gateway_keyed_limiter_config c = GATEWAY_KEYED_LIMITER_CONFIG_INIT;
        c.per = detail::count(own.per), c.amount = own.amount, c.burst = own.burst, c.keys_max = keys_max, c.seed = seed;
        return base::made(gateway_keyed_limiter_new(&c, detail::count(at), &handle), handle);
    }
    answer<acquired> try_acquire(std::string_view key, std::uint64_t cost = 1, instant at = now()) {
        gateway_acquired own{};
        const auto status =
            gateway_keyed_limiter_try_acquire(base::get(), key.data(), key.size(), cost, detail::count(at), &own);
        return base::value(status, detail::told(status, own));
    }
    answer<void> refund(std::string_view key, std::uint64_t cost = 1) {
        return base::done(gateway_keyed_limiter_refund(base::get(), key.data(), key.size(), cost));
    }
    answer<gateway_rate_headers> headers(std::string_view key, instant at = now()) const {
        gateway_rate_headers own{};
        const auto status = gateway_keyed_limiter_headers(base::get(), key.data(), key.size(), detail::count(at), &own);
        return base::value(status, own);
    }
    answer<bool> remove(std::string_view key) {
        return base::yes(gateway_keyed_limiter_remove(base::get(), key.data(), key.size()));
    }
};

/// A circuit breaker.
template <class Errors>
class basic_breaker : public detail::part<Errors, basic_breaker<Errors>, gateway_breaker, gateway_breaker_free> {
    using base = detail::part<Errors, basic_breaker, gateway_breaker, gateway_breaker_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_breaker(const gateway_breaker_config &config = GATEWAY_BREAKER_CONFIG_INIT, instant at = now())
        : basic_breaker(make(config, at)) {}
    static answer<basic_breaker> make(const gateway_breaker_config &config = GATEWAY_BREAKER_CONFIG_INIT,
                                      instant at = now()) {
        gateway_breaker *handle = nullptr;
        return base::made(gateway_breaker_new(&config, detail::count(at), &handle), handle);
    }
    /// A permit, or none where the call must not be made.
    answer<std::optional<gateway_admitted>> admit(instant at = now()) {
        gateway_admitted own{};
        const auto status = gateway_breaker_admit(base::get(), detail::count(at), &own);
        return base::maybe(status, own);
    }
    answer<bool> success(const gateway_admitted &own, instant at = now()) {
        return base::yes(gateway_breaker_success(base::get(), own.permit, detail::count(at)));
    }
    answer<bool> failure(const gateway_admitted &own, instant at = now()) {
        return base::yes(gateway_breaker_failure(base::get(), own.permit, detail::count(at)));
    }
    answer<bool> cancelled(const gateway_admitted &own, instant at = now()) {
        return base::yes(gateway_breaker_cancelled(base::get(), own.permit, detail::count(at)));
    }
    answer<bool> force(std::uint32_t state, std::optional<instant> until = {}, instant at = now()) {
        return base::yes(gateway_breaker_force(base::get(), state, detail::until(until), detail::count(at)));
    }
    answer<gateway_breaker_status> read(instant at = now()) const {
        gateway_breaker_status own{};
        const auto status = gateway_breaker_read(base::get(), detail::count(at), &own);
        return base::value(status, own);
    }
    answer<std::optional<instant>> next_deadline() const {
        std::uint64_t at = 0;
        const auto status = gateway_breaker_next_deadline(base::get(), &at);
        return base::deadline(status, at);
    }
};

/// A fair queue of 64-bit items.
template <class Errors>
class basic_queue : public detail::part<Errors, basic_queue<Errors>, gateway_queue, gateway_queue_free> {
    using base = detail::part<Errors, basic_queue, gateway_queue, gateway_queue_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_queue(const gateway_queue_config &config = GATEWAY_QUEUE_CONFIG_INIT) : basic_queue(make(config)) {}
    static answer<basic_queue> make(const gateway_queue_config &config = GATEWAY_QUEUE_CONFIG_INIT) {
        gateway_queue *handle = nullptr;
        return base::made(gateway_queue_new(&config, &handle), handle);
    }
    answer<gateway_ticket> push(std::string_view customer, std::uint64_t item, std::uint64_t cost = 1,
                                std::uint32_t lane = GATEWAY_PRIORITY_NORMAL) {
        gateway_ticket ticket{};
        const auto status = gateway_queue_push(base::get(), detail::c_text(customer).get(), lane, cost, item, &ticket);
        return base::value(status, ticket);
    }
    answer<std::optional<std::uint64_t>> pop() {
        std::uint64_t item = 0;
        const auto status = gateway_queue_pop(base::get(), &item, nullptr);
        return base::maybe(status, item);
    }
    answer<std::optional<std::uint64_t>> remove(gateway_ticket ticket) {
        std::uint64_t item = 0;
        const auto status = gateway_queue_remove(base::get(), ticket, &item);
        return base::maybe(status, item);
    }
    answer<std::optional<std::uint32_t>> position(gateway_ticket ticket) const {
        std::uint32_t rank = 0;
        const auto status = gateway_queue_position(base::get(), ticket, &rank);
        return base::maybe(status, rank);
    }
    answer<void> set_weight(std::string_view customer, std::uint32_t weight) {
        return base::done(gateway_queue_set_weight(base::get(), detail::c_text(customer).get(), weight));
    }
    answer<void> pause(std::string_view customer) {
        return base::done(gateway_queue_pause(base::get(), detail::c_text(customer).get()));
    }
    answer<void> resume(std::string_view customer) {
        return base::done(gateway_queue_resume(base::get(), detail::c_text(customer).get()));
    }
    answer<std::size_t> size() const {
        std::size_t len = 0;
        const auto status = gateway_queue_len(base::get(), &len);
        return base::value(status, len);
    }
};

/// A job store; what is not here is in gateway.h.
template <class Errors>
class basic_store : public detail::part<Errors, basic_store<Errors>, gateway_store, gateway_store_free> {
    using base = detail::part<Errors, basic_store, gateway_store, gateway_store_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_store(const gateway_store_config &config = GATEWAY_STORE_CONFIG_INIT, instant at = now())
        : basic_store(make(config, at)) {}
    static answer<basic_store> make(const gateway_store_config &config = GATEWAY_STORE_CONFIG_INIT, instant at = now()) {
        gateway_store *handle = nullptr;
        return base::made(gateway_store_new(&config, detail::count(at), &handle), handle);
    }
    answer<job_id> insert(job_id id, std::string_view customer, std::string_view payload = {},
                          std::string_view idempotency_key = {}, instant at = now()) {
        const detail::c_text c(customer);
        const detail::c_optional key(idempotency_key);
        gateway_store_options options = GATEWAY_STORE_OPTIONS_INIT;
        options.payload = payload.data(), options.payload_len = payload.size(), options.idempotency_key = key.get();
        const auto status = gateway_store_insert(base::get(), detail::count(at), id, c.get(), &options, &id);
        return base::value(status, id);
    }
    /// The number of the attempt that begins.
    answer<std::uint32_t> start(job_id id, instant at = now()) {
        std::uint32_t attempt = 0;
        const auto status = gateway_store_start(base::get(), detail::count(at), id, &attempt);
        return base::value(status, attempt);
    }
    answer<void> complete(job_id id, std::uint32_t attempt, const output &out, instant at = now()) {
        return base::done(
            gateway_store_complete(base::get(), detail::count(at), id, attempt, detail::c_output(out).get()));
    }
    answer<void> fail(job_id id, std::uint32_t attempt, const attempt_failure &why = {}, instant at = now()) {
        return base::done(gateway_store_fail(base::get(), detail::count(at), id, attempt, detail::c_failure(why).get()));
    }
    answer<void> requeue(job_id id, std::uint32_t attempt, instant at = now()) {
        return base::done(gateway_store_requeue(base::get(), detail::count(at), id, attempt));
    }
    answer<void> cancel(job_id id, instant at = now()) {
        return base::done(gateway_store_cancel(base::get(), detail::count(at), id));
    }
    answer<std::optional<gateway_stored_job>> read(job_id id) const {
        gateway_stored_job own{};
        const auto status = gateway_store_read(base::get(), id, &own);
        return base::maybe(status, own);
    }
    answer<std::optional<instant>> next_deadline() const {
        std::uint64_t at = 0;
        const auto status = gateway_store_next_deadline(base::get(), &at);
        return base::deadline(status, at);
    }
};

/// A billing collector; what is not here is in gateway.h.
template <class Errors>
class basic_billing : public detail::part<Errors, basic_billing<Errors>, gateway_billing, gateway_billing_free> {
    using base = detail::part<Errors, basic_billing, gateway_billing, gateway_billing_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    basic_billing(std::uint32_t version, std::string_view currency, const std::vector<gateway_price> &prices)
        : basic_billing(make(version, currency, prices)) {}
    static answer<basic_billing> make(std::uint32_t version, std::string_view currency,
                                      const std::vector<gateway_price> &prices,
                                      const gateway_billing_config &config = GATEWAY_BILLING_CONFIG_INIT) {
        gateway_billing *handle = nullptr;
        return base::made(gateway_billing_new(&config, version, detail::c_text(currency).get(), prices.data(), prices.size(),
                                              &handle),
                          handle);
    }
    answer<void> start(std::string_view request_id, std::string_view customer, std::string_view model,
                       std::string_view tier = {}, instant at = now()) {
        const detail::c_text r(request_id), c(customer), m(model), t(tier);
        // Empty stands for none.
        const gateway_call call = {r.get(), customer.empty() ? nullptr : c.get(), m.get(), tier.empty() ? nullptr : t.get()};
        return base::done(gateway_billing_start(base::get(), &call, detail::count(at)));
    }
    answer<gateway_receipt> end(std::string_view request_id, const usage &used = {}, instant at = now()) {
        gateway_receipt receipt{};
        const detail::c_usage u(used);
        const auto status = gateway_billing_end(base::get(), detail::c_text(request_id).get(), u.get(), u.size(),
                                                detail::count(at), &receipt);
        return base::value(status, receipt);
    }
    answer<void> abandon(std::string_view request_id, instant at = now()) {
        return base::done(
            gateway_billing_abandon(base::get(), detail::c_text(request_id).get(), detail::count(at), nullptr));
    }
    /// The records of a batch, oldest first; confirm it once they are kept safe.
    answer<std::optional<std::pair<gateway_batch, std::vector<gateway_record>>>> take(std::uint32_t max, instant at = now()) {
        std::pair<gateway_batch, std::vector<gateway_record>> told{};
        const auto status = gateway_billing_take(base::get(), max, detail::count(at), &told.first);
        if (status == GATEWAY_OK) {
            gateway_record record{};
            for (std::size_t i = 0; gateway_billing_entry(base::get(), &told.first, i, &record) == GATEWAY_OK; i++)
                told.second.push_back(record);
        }
        return base::maybe(status, told);
    }
    answer<std::uint32_t> confirm(const gateway_batch &batch) {
        std::uint32_t count = 0;
        const auto status = gateway_billing_confirm(base::get(), &batch, &count);
        return base::value(status, count);
    }
    answer<gateway_billing_totals> totals() const {
        gateway_billing_totals own{};
        const auto status = gateway_billing_read_totals(base::get(), &own);
        return base::value(status, own);
    }
};

/// A histogram.
template <class Errors>
class basic_histogram
    : public detail::part<Errors, basic_histogram<Errors>, gateway_histogram, gateway_histogram_free> {
    using base = detail::part<Errors, basic_histogram, gateway_histogram, gateway_histogram_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_histogram(std::uint32_t precision_bits = 6) : basic_histogram(make(precision_bits)) {}
    static answer<basic_histogram> make(std::uint32_t precision_bits = 6) {
        gateway_histogram *handle = nullptr;
        return base::made(gateway_histogram_new(precision_bits, &handle), handle);
    }
    answer<void> record(std::uint64_t value, std::uint64_t count = 1) {
        return base::done(gateway_histogram_record(base::get(), value, count));
    }
    answer<void> merge(const basic_histogram &other) {
        return base::done(gateway_histogram_merge(base::get(), other.get()));
    }
    answer<std::optional<std::uint64_t>> quantile_ppm(std::uint32_t ppm) const {
        std::uint64_t own = 0;
        const auto status = gateway_histogram_quantile(base::get(), ppm, &own);
        return base::maybe(status, own);
    }
    answer<gateway_distribution> read() const {
        gateway_distribution own{};
        const auto status = gateway_histogram_read(base::get(), &own);
        return base::value(status, own);
    }
};

/// A retry schedule.
template <class Errors>
class basic_backoff : public detail::part<Errors, basic_backoff<Errors>, gateway_backoff, gateway_backoff_free> {
    using base = detail::part<Errors, basic_backoff, gateway_backoff, gateway_backoff_free>;
    template <class T> using answer = typename Errors::template answer<T>;
    friend base;
    using base::base;

public:
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_backoff(const gateway_backoff_config &config = GATEWAY_BACKOFF_CONFIG_INIT)
        : basic_backoff(make(config)) {}
    static answer<basic_backoff> make(const gateway_backoff_config &config = GATEWAY_BACKOFF_CONFIG_INIT) {
        gateway_backoff *handle = nullptr;
        return base::made(gateway_backoff_new(&config, &handle), handle);
    }
    answer<span> delay(job_id key, std::uint32_t attempt, span retry_after = {}) const {
        std::uint64_t nanos = 0;
        const auto status = gateway_backoff_delay(base::get(), key, attempt, detail::count(retry_after), &nanos);
        return base::value(status, span(static_cast<std::int64_t>(nanos)));
    }
    /// When to try again; none where there is no further attempt.
    answer<std::optional<instant>> next(job_id key, std::uint32_t attempt, instant first_at, instant at = now(),
                                        span retry_after = {}) const {
        gateway_retry retry{};
        const auto status = gateway_backoff_next(base::get(), key, attempt, detail::count(first_at), detail::count(at),
                                                 detail::count(retry_after), &retry);
        return base::maybe(status, detail::at(retry.at));
    }
};

namespace results {
using limiter = basic_limiter<returning>;
using keyed_limiter = basic_keyed_limiter<returning>;
using window = basic_window<returning>;
using breaker = basic_breaker<returning>;
using queue = basic_queue<returning>;
using store = basic_store<returning>;
using billing = basic_billing<returning>;
using histogram = basic_histogram<returning>;
using backoff = basic_backoff<returning>;
} // namespace results

#ifdef GATEWAY_HAS_EXCEPTIONS
using limiter = basic_limiter<throwing>;
using keyed_limiter = basic_keyed_limiter<throwing>;
using window = basic_window<throwing>;
using breaker = basic_breaker<throwing>;
using queue = basic_queue<throwing>;
using store = basic_store<throwing>;
using billing = basic_billing<throwing>;
using histogram = basic_histogram<throwing>;
using backoff = basic_backoff<throwing>;
#endif

} // namespace libgateway

#endif
