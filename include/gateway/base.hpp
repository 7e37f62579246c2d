/* Part of gateway.hpp: time, errors, handles, values. */
#ifndef GATEWAY_BASE_HPP
#define GATEWAY_BASE_HPP

#include <gateway.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define GATEWAY_HAS_EXCEPTIONS 1
#include <exception>
#endif

/* Where its type is, so that it is found from everywhere. */
inline bool operator==(gateway_job_id one, gateway_job_id other) { return one.high == other.high && one.low == other.low; }
inline bool operator!=(gateway_job_id one, gateway_job_id other) { return !(one == other); }

namespace libgateway {

/* ---- Time ---- */

/// A span; every std::chrono duration that is not a fraction of a nanosecond converts to it.
using span = std::chrono::nanoseconds;
/// An instant of the system's clock, to the nanosecond. It ends in the year 2262, three hundred years before the library's.
using instant = std::chrono::time_point<std::chrono::system_clock, span>;

/// The system's clock.
inline instant now() { return instant(span(static_cast<std::int64_t>(gateway_now()))); }

namespace detail {

inline std::uint64_t count(span of) { return of.count() < 0 ? 0 : static_cast<std::uint64_t>(of.count()); }
inline std::uint64_t count(instant at) { return count(at.time_since_epoch()); }

/// `GATEWAY_FOREVER` and all else beyond what an `instant` can tell is its last one.
inline instant at(std::uint64_t nanos) {
    const auto last = static_cast<std::uint64_t>(instant::max().time_since_epoch().count());
    return nanos > last ? instant::max() : instant(span(static_cast<std::int64_t>(nanos)));
}
inline std::uint64_t until(std::optional<instant> at) { return at ? count(*at) : GATEWAY_FOREVER; }
inline std::optional<instant> maybe(std::uint64_t nanos) {
    return nanos == GATEWAY_FOREVER ? std::nullopt : std::optional<instant>(at(nanos));
}

/// A text as C wants it. A NUL within it becomes a byte that is no UTF-8, so that the library refuses it and nothing is cut.
class c_text {
public:
    explicit c_text(std::string_view text) : text_(text) {
        for (char &c : text_)
            if (c == '\0') c = '\xff';
    }
    const char *get() const { return text_.c_str(); }

private:
    std::string text_;
};

/// The same where an empty text means that there is none.
class c_optional {
public:
    explicit c_optional(std::string_view text) : text_(text), empty_(text.empty()) {}
    const char *get() const { return empty_ ? nullptr : text_.get(); }

private:
    c_text text_;
    bool empty_;
};

/// Reads what goes into a buffer of unknown length, again if it grew meanwhile.
template <class Call> gateway_status fill(std::string &out, Call call) {
    std::size_t needed = 0;
    gateway_status status = call(nullptr, 0, &needed);
    while (status == GATEWAY_OK) {
        out.resize(needed);
        status = call(out.data(), out.size(), &needed);
        if (status != GATEWAY_BUFFER_TOO_SMALL) break;
        status = GATEWAY_OK;
    }
    if (status == GATEWAY_OK) out.resize(needed);
    return status;
}

/// The same of a text, whose NUL std::string has already.
template <class Call> gateway_status fill_text(std::string &out, Call call) {
    const gateway_status status = fill(out, call);
    if (status == GATEWAY_OK && !out.empty()) out.pop_back();
    return status;
}

inline std::string last(gateway_status (*part)(char *, std::size_t, std::size_t *)) {
    std::string text;
    fill_text(text, [&](char *buf, std::size_t cap, std::size_t *needed) { return part(buf, cap, needed); });
    return text;
}

} // namespace detail

/* ---- Errors ---- */

/// What a call answered in place of a result.
struct failure {
    /// The number, below 0: `GATEWAY_TOO_LONG`.
    gateway_status status = GATEWAY_OK;
    /// For people.
    std::string message;
    /// The field or parameter it is about, where there is one.
    std::string field;
    /// The limit that is reached, where the status is `GATEWAY_FULL`; `field` is its name.
    std::optional<gateway_full> limit{};
    /// The fixed name: "too_long".
    std::string_view name() const { return gateway_status_name(status); }

    /// The last error of this thread.
    static failure last(gateway_status status) {
        gateway_full full{};
        const bool is_full = gateway_last_error_limit(&full) == GATEWAY_OK;
        return {status, detail::last(gateway_last_error_message), detail::last(gateway_last_error_field),
                is_full ? std::optional(full) : std::nullopt};
    }
};

#ifdef GATEWAY_HAS_EXCEPTIONS
/// A failure as an exception.
class error : public std::runtime_error {
public:
    explicit error(failure what) : std::runtime_error(what.message), failure_(std::move(what)) {}
    gateway_status status() const { return failure_.status; }
    std::string_view name() const { return failure_.name(); }
    const std::string &field() const { return failure_.field; }
    const std::optional<gateway_full> &limit() const { return failure_.limit; }

private:
    failure failure_;
};
#endif

/// A value, or why there is none.
template <class T> class [[nodiscard]] result {
public:
    result(T value) : value_(std::move(value)) {}
    result(failure why) : failure_(std::move(why)) {}
    explicit operator bool() const { return value_.has_value(); }
    /// The value; only where there is one.
    T &operator*() & { return *value_; }
    const T &operator*() const & { return *value_; }
    T &&operator*() && { return *std::move(value_); }
    T *operator->() { return &*value_; }
    const T *operator->() const { return &*value_; }
    /// Why there is none; only where there is none.
    const failure &why() const { return failure_; }

private:
    std::optional<T> value_;
    failure failure_;
};

/// Whether a call was done, or why not.
template <> class [[nodiscard]] result<void> {
public:
    result() = default;
    result(failure why) : failure_(std::move(why)) {}
    explicit operator bool() const { return failure_.status == GATEWAY_OK; }
    const failure &why() const { return failure_; }

private:
    failure failure_;
};

/// Errors as results.
struct returning {
    template <class T> using answer = result<T>;
    static constexpr bool throws = false;
    template <class T, class Make> static result<T> give(gateway_status status, Make make) {
        if (status < 0) return failure::last(status);
        if constexpr (std::is_void_v<T>) return (make(), result<void>());
        else return make();
    }
};

#ifdef GATEWAY_HAS_EXCEPTIONS
/// Errors as exceptions.
struct throwing {
    template <class T> using answer = T;
    static constexpr bool throws = true;
    template <class T, class Make> static T give(gateway_status status, Make make) {
        if (status < 0) throw error(failure::last(status));
        return make();
    }
};
#endif

/* ---- Handles ---- */

/// Owns a handle, and frees it. Moves, and does not copy.
template <class Handle, gateway_status (*Free)(Handle *)> class owner {
public:
    owner() = default;
    explicit owner(Handle *handle) : handle_(handle) {}
    /// The handle, for the functions of gateway.h.
    Handle *get() const { return handle_.get(); }
    /// Gives the handle away, to be freed by somebody else.
    Handle *release() { return handle_.release(); }

private:
    struct deleter {
        void operator()(Handle *handle) const { Free(handle); }
    };
    std::unique_ptr<Handle, deleter> handle_;
};

/* ---- Values ---- */

using job_id = gateway_job_id;

inline std::string to_string(job_id id) {
    std::array<char, GATEWAY_JOB_ID_CAP> text{};
    gateway_job_id_format(id, text.data(), text.size(), nullptr);
    return text.data();
}

/// An id from the system's random source.
template <class Errors> typename Errors::template answer<job_id> random_id_as() {
    job_id id{};
    return Errors::template give<job_id>(gateway_job_id_random(&id), [&] { return id; });
}

/// An id from its text.
template <class Errors> typename Errors::template answer<job_id> parse_id_as(std::string_view text) {
    job_id id{};
    return Errors::template give<job_id>(gateway_job_id_parse(detail::c_text(text).get(), &id), [&] { return id; });
}

/// What a submission may say beyond who asks and what for.
struct submit_options {
    std::string_view payload{};
    std::string_view idempotency_key{};
    std::string_view affinity{};
    std::uint32_t priority = GATEWAY_PRIORITY_NORMAL;
    std::uint64_t tokens = 1;
    span estimate{};
    span timeout_queue{}, timeout_start{}, timeout_run{}, timeout_total{};
    /// It may not run before this instant, and its timeouts count from then on.
    std::optional<instant> not_before{};
};

/// A backend.
struct backend_options {
    std::string_view modality;
    std::string_view family;
    std::vector<std::string_view> models;
    std::uint32_t slots = 1;
    std::uint32_t kind = GATEWAY_KIND_OTHER;
    std::uint32_t devices = 1;
    std::uint32_t warm_max = 1;
    span lease_for{};
    std::vector<std::pair<std::string_view, std::string_view>> labels{};
};

/// What a job produced.
struct output {
    std::string_view url{};
    std::string_view data{};
};
/// The result lies there.
inline output url(std::string_view where) { return {where, {}}; }
/// The result itself.
inline output data(std::string_view bytes) { return {{}, bytes}; }

/// What one device worked.
struct device_time {
    std::string_view device;
    span gpu;
};
using usage = std::vector<device_time>;

/// How an attempt failed.
struct attempt_failure {
    std::uint32_t failure_class = GATEWAY_FAILURE_BACKEND;
    std::string_view message{};
    std::uint32_t http_status = 0;
    span retry_after{};
    std::optional<bool> retriable{};
};

/// A job on a backend, with its payload. That it goes out of scope does not end the lease: `complete`, `fail` or `release` do.
class lease {
public:
    explicit lease(gateway_lease *handle) : handle_(handle) { gateway_lease_read(handle, &info_); }
    std::uint64_t id() const { return info_.id; }
    job_id job() const { return info_.job; }
    instant deadline() const { return detail::at(info_.deadline); }
    std::uint32_t task() const { return info_.task; }
    std::uint32_t attempt() const { return info_.attempt; }
    bool warm() const { return info_.warm != 0; }
    bool probe() const { return info_.probe != 0; }
    std::string_view customer() const { return info_.customer; }
    std::string_view backend() const { return info_.backend; }
    std::string_view route() const { return info_.route; }
    /// The body as it was submitted.
    std::string payload() const {
        std::string bytes(info_.payload_len, '\0');
        gateway_lease_payload(handle_.get(), bytes.data(), bytes.size(), nullptr);
        return bytes;
    }
    gateway_lease *get() const { return handle_.get(); }

private:
    owner<gateway_lease, gateway_lease_free> handle_;
    gateway_lease_info info_{};
};

namespace detail {

/// Options as C wants them; alive as long as this is.
class c_submit {
public:
    explicit c_submit(const submit_options &own) : key_(own.idempotency_key), affinity_(own.affinity) {
        c_.payload = own.payload.data(), c_.payload_len = own.payload.size();
        c_.idempotency_key = key_.get(), c_.affinity = affinity_.get();
        c_.priority = own.priority, c_.tokens = own.tokens, c_.estimate = count(own.estimate);
        c_.timeout_queue = count(own.timeout_queue), c_.timeout_start = count(own.timeout_start);
        c_.timeout_run = count(own.timeout_run), c_.timeout_total = count(own.timeout_total);
        if (own.not_before) c_.not_before = count(*own.not_before);
    }
    const gateway_submit_options *get() const { return &c_; }

private:
    c_optional key_, affinity_;
    gateway_submit_options c_ = GATEWAY_SUBMIT_OPTIONS_INIT;
};

class c_output {
public:
    explicit c_output(const output &own) : url_(own.url) {
        c_ = {url_.get(), own.data.data(), own.data.size()};
    }
    const gateway_output *get() const { return &c_; }

private:
    c_optional url_;
    gateway_output c_{};
};

class c_usage {
public:
    explicit c_usage(const usage &own) {
        names_.reserve(own.size());
        for (const device_time &device : own) {
            names_.emplace_back(device.device);
            c_.push_back({names_.back().get(), count(device.gpu)});
        }
    }
    const gateway_usage *get() const { return c_.data(); }
    std::size_t size() const { return c_.size(); }

private:
    std::vector<c_text> names_;
    std::vector<gateway_usage> c_;
};

class c_failure {
public:
    explicit c_failure(const attempt_failure &own) : message_(own.message) {
        c_.message = message_.get(), c_.retry_after = count(own.retry_after);
        c_.failure_class = own.failure_class, c_.http_status = own.http_status;
        if (own.retriable) c_.retriable = *own.retriable ? GATEWAY_RETRIABLE_YES : GATEWAY_RETRIABLE_NO;
    }
    const gateway_failure *get() const { return &c_; }

private:
    c_optional message_;
    gateway_failure c_ = GATEWAY_FAILURE_INIT;
};

inline std::vector<lease> leases(const std::vector<gateway_lease *> &handles, std::size_t count) {
    std::vector<lease> all;
    all.reserve(count);
    for (std::size_t i = 0; i < count; i++) all.emplace_back(handles[i]);
    return all;
}

inline std::optional<lease> leased(gateway_status status, gateway_lease *handle) {
    return status == GATEWAY_OK ? std::optional<lease>(std::in_place, handle) : std::nullopt;
}

} // namespace detail

/* ---- Transactions ---- */

/// Steps under way; see `gateway::transaction`. Lives within its callback.
template <class Errors> class basic_transaction {
    template <class T> using answer = typename Errors::template answer<T>;

public:
    explicit basic_transaction(gateway_tx *tx) : tx_(tx) {}
    basic_transaction(const basic_transaction &) = delete;
    basic_transaction &operator=(const basic_transaction &) = delete;
    gateway_tx *get() const { return tx_; }

    answer<job_id> submit(job_id id, std::string_view customer, std::string_view route, const submit_options &options = {}) {
        const detail::c_text c(customer), r(route);
        const auto status = gateway_tx_submit(tx_, id, c.get(), r.get(), detail::c_submit(options).get(), &id);
        return Errors::template give<job_id>(status, [&] { return id; });
    }
    answer<std::optional<lease>> dispatch() {
        gateway_lease *handle = nullptr;
        return leased(gateway_tx_dispatch(tx_, &handle, nullptr), handle);
    }
    answer<std::optional<lease>> dispatch_route(std::string_view route) {
        gateway_lease *handle = nullptr;
        return leased(gateway_tx_dispatch_route(tx_, detail::c_text(route).get(), &handle, nullptr), handle);
    }
    answer<std::vector<lease>> dispatch_to(std::string_view backend, std::size_t max) {
        std::vector<gateway_lease *> handles(max);
        std::size_t count = 0;
        const auto status = gateway_tx_dispatch_to(tx_, detail::c_text(backend).get(), handles.data(), max, &count);
        return Errors::template give<std::vector<lease>>(status, [&] { return detail::leases(handles, count); });
    }
    answer<instant> heartbeat(const lease &own) {
        std::uint64_t deadline = 0;
        const auto status = gateway_tx_heartbeat(tx_, own.id(), &deadline);
        return Errors::template give<instant>(status, [&] { return detail::at(deadline); });
    }
    answer<gateway_settled> complete(const lease &own, const output &out, const usage &used = {}) {
        gateway_settled settled{};
        const detail::c_usage u(used);
        const auto status =
            gateway_tx_complete(tx_, own.id(), detail::c_output(out).get(), u.get(), u.size(), &settled);
        return Errors::template give<gateway_settled>(status, [&] { return settled; });
    }
    answer<gateway_after_failure> fail(const lease &own, const attempt_failure &why = {}, const usage &used = {}) {
        gateway_after_failure after{};
        const detail::c_usage u(used);
        const auto status = gateway_tx_fail(tx_, own.id(), detail::c_failure(why).get(), u.get(), u.size(), &after);
        return Errors::template give<gateway_after_failure>(status, [&] { return after; });
    }
    answer<void> release(const lease &own, const usage &used = {}) {
        const detail::c_usage u(used);
        return done(gateway_tx_release_with(tx_, own.id(), u.get(), u.size(), nullptr));
    }
    answer<void> release_until(const lease &own, instant not_before, const usage &used = {}) {
        const detail::c_usage u(used);
        return done(gateway_tx_release_until(tx_, own.id(), detail::count(not_before), u.get(), u.size(), nullptr));
    }
    answer<std::uint64_t> preempt(job_id job, const usage &used = {}) {
        std::uint64_t ended = 0;
        const detail::c_usage u(used);
        const auto status = gateway_tx_preempt(tx_, job, u.get(), u.size(), &ended);
        return Errors::template give<std::uint64_t>(status, [&] { return ended; });
    }
    answer<void> cancel(job_id job, const usage &used = {}) {
        const detail::c_usage u(used);
        return done(gateway_tx_cancel_with(tx_, job, u.get(), u.size()));
    }
    answer<void> cancel(const lease &own, const usage &used = {}) {
        const detail::c_usage u(used);
        return done(gateway_tx_cancel_lease(tx_, own.id(), u.get(), u.size(), nullptr));
    }
    answer<gateway_corrected> correct_usage(std::uint64_t lease, const usage &used) {
        gateway_corrected corrected{};
        const detail::c_usage u(used);
        const auto status = gateway_tx_correct_usage(tx_, lease, u.get(), u.size(), &corrected);
        return Errors::template give<gateway_corrected>(status, [&] { return corrected; });
    }
    answer<void> erase(job_id job) { return done(gateway_tx_delete(tx_, job)); }

private:
    answer<void> done(gateway_status status) {
        return Errors::template give<void>(status, [] {});
    }
    // By reference: it is read after the call that sets it, whose place among the arguments nobody promises.
    answer<std::optional<lease>> leased(gateway_status status, gateway_lease *const &handle) {
        return Errors::template give<std::optional<lease>>(status, [&] { return detail::leased(status, handle); });
    }
    gateway_tx *tx_;
};

namespace detail {

/// Takes a body over to C and back. No exception passes through the library: it is kept on this side until it is out.
template <class Errors, class Body> class tx_call {
public:
    explicit tx_call(Body &body) : body_(body) {}
    static gateway_status run(gateway_tx *tx, void *context) {
        auto &own = *static_cast<tx_call *>(context);
#ifdef GATEWAY_HAS_EXCEPTIONS
        try {
            return own.step(tx);
        } catch (...) {
            own.thrown_ = std::current_exception();
            return GATEWAY_WAIT;
        }
#else
        return own.step(tx);
#endif
    }
    void rethrow() const {
#ifdef GATEWAY_HAS_EXCEPTIONS
        if (thrown_) std::rethrow_exception(thrown_);
#endif
    }

private:
    gateway_status step(gateway_tx *tx) {
        basic_transaction<Errors> steps(tx);
        if constexpr (std::is_same_v<decltype(body_(steps)), bool>) return body_(steps) ? GATEWAY_OK : GATEWAY_WAIT;
        else return body_(steps);
    }
    Body &body_;
#ifdef GATEWAY_HAS_EXCEPTIONS
    std::exception_ptr thrown_;
#endif
};

} // namespace detail

/* ---- Settlements ---- */

/// Settlements that were handed out together. They stay in the gateway until it is told to `confirm` them.
class settlements {
public:
    explicit settlements(gateway_settlements *handle) : handle_(handle) { gateway_settlements_batch(handle, &batch_); }
    const gateway_batch &batch() const { return batch_; }
    std::size_t size() const { return static_cast<std::size_t>(batch_.len); }
    gateway_settlement operator[](std::size_t index) const {
        gateway_settlement own{};
        gateway_settlements_read(handle_.get(), index, &own);
        return own;
    }
    std::string json() const {
        std::string text;
        detail::fill_text(text, [&](char *buf, std::size_t cap, std::size_t *needed) {
            return gateway_settlements_json(handle_.get(), buf, cap, needed);
        });
        return text;
    }
    gateway_settlements *get() const { return handle_.get(); }

private:
    owner<gateway_settlements, gateway_settlements_free> handle_;
    gateway_batch batch_{};
};

} // namespace libgateway

#endif
