/* Part of gateway.hpp: the gateway itself. */
#ifndef GATEWAY_MACHINE_HPP
#define GATEWAY_MACHINE_HPP

#include <gateway/base.hpp>

namespace libgateway {

/// A gateway. Its methods are the functions of gateway.h of the same name, where each is told.
template <class Errors> class basic_gateway {
    template <class T> using answer = typename Errors::template answer<T>;

public:
    /// Makes one; throws where that cannot be. With errors as results, `make` does.
    template <class E = Errors, std::enable_if_t<E::throws, int> = 0>
    explicit basic_gateway(const gateway_config &config = GATEWAY_CONFIG_INIT, instant at = now())
        : basic_gateway(make(config, at)) {}

    static answer<basic_gateway> make(const gateway_config &config = GATEWAY_CONFIG_INIT, instant at = now()) {
        ::gateway *handle = nullptr;
        return made(gateway_new(&config, detail::count(at), &handle), handle);
    }
    static answer<basic_gateway> restore(std::string_view snapshot, instant at = now(), std::uint64_t entropy = 0) {
        ::gateway *handle = nullptr;
        return made(gateway_restore(snapshot.data(), snapshot.size(), detail::count(at), entropy, &handle), handle);
    }
    static answer<basic_gateway> replica(std::string_view snapshot) {
        ::gateway *handle = nullptr;
        return made(gateway_replica(snapshot.data(), snapshot.size(), &handle), handle);
    }
    ::gateway *get() const { return handle_.get(); }

    /* Backends, customers, routes, prices. */

    answer<void> put_backend(std::string_view name, const backend_options &own, instant at = now()) {
        std::vector<detail::c_text> texts;
        texts.reserve(own.models.size() + 2 * own.labels.size());
        auto keep = [&](std::string_view text) { return texts.emplace_back(text).get(); };
        std::vector<const char *> models;
        std::vector<gateway_label> labels;
        for (auto model : own.models) models.push_back(keep(model));
        for (auto &[key, value] : own.labels) {
            const char *k = keep(key);
            labels.push_back({k, keep(value)});
        }
        const detail::c_text n(name), modality(own.modality), family(own.family);
        gateway_backend_options c = GATEWAY_BACKEND_OPTIONS_INIT;
        c.modality = modality.get(), c.family = family.get();
        c.models = models.data(), c.models_len = models.size();
        c.labels = labels.data(), c.labels_len = labels.size();
        c.slots = own.slots, c.kind = own.kind, c.devices = own.devices, c.warm_max = own.warm_max;
        c.lease_for = detail::count(own.lease_for);
        return done(gateway_put_backend(get(), detail::count(at), n.get(), &c));
    }
    answer<void> remove_backend(std::string_view name, instant at = now()) {
        return done(gateway_remove_backend(get(), detail::count(at), detail::c_text(name).get()));
    }
    answer<void> drain_backend(std::string_view name, bool draining, instant at = now()) {
        return done(gateway_drain_backend(get(), detail::count(at), detail::c_text(name).get(), draining));
    }
    /// Ends all leases of a backend, which are the answer: its machine has gone, or has to.
    answer<std::vector<gateway_evicted>> evict_backend(std::string_view name, std::uint32_t to = GATEWAY_EVICT_TO_QUEUE,
                                                       instant at = now()) {
        const detail::c_text n(name);
        gateway_backend known{};
        gateway_read_backend(get(), n.get(), &known);
        std::vector<gateway_evicted> evicted;
        std::size_t size = known.live;
        gateway_status status = GATEWAY_BUFFER_TOO_SMALL;
        // Nothing has happened where the list is too short: others may have leased meanwhile.
        while (status == GATEWAY_BUFFER_TOO_SMALL) {
            evicted.resize(size);
            status = gateway_evict_backend(get(), detail::count(at), n.get(), to, evicted.data(), evicted.size(), &size);
        }
        evicted.resize(status == GATEWAY_OK ? size : 0);
        return Errors::template give<std::vector<gateway_evicted>>(status, [&] { return std::move(evicted); });
    }
    answer<void> force_breaker(std::string_view name, std::uint32_t state, std::optional<instant> until = {},
                               instant at = now()) {
        return done(gateway_force_breaker(get(), detail::count(at), detail::c_text(name).get(), state, detail::until(until)));
    }
    answer<void> put_customer(std::string_view name, const gateway_customer_policy &policy, instant at = now()) {
        return done(gateway_put_customer(get(), detail::count(at), detail::c_text(name).get(), &policy));
    }
    answer<void> remove_customer(std::string_view name, instant at = now()) {
        return done(gateway_remove_customer(get(), detail::count(at), detail::c_text(name).get()));
    }
    answer<void> pause(std::string_view route, instant at = now()) {
        return done(gateway_pause(get(), detail::count(at), detail::c_text(route).get()));
    }
    answer<void> resume(std::string_view route, instant at = now()) {
        return done(gateway_resume(get(), detail::count(at), detail::c_text(route).get()));
    }
    answer<void> put_prices(std::uint32_t version, std::string_view currency, const std::vector<gateway_price> &prices,
                            instant at = now()) {
        return done(gateway_put_prices(get(), detail::count(at), version, detail::c_text(currency).get(), prices.data(),
                                       prices.size()));
    }

    /* Jobs. */

    answer<job_id> submit(job_id id, std::string_view customer, std::string_view route, const submit_options &options = {},
                          instant at = now()) {
        const detail::c_text c(customer), r(route);
        const auto status =
            gateway_submit(get(), detail::count(at), id, c.get(), r.get(), detail::c_submit(options).get(), &id);
        return Errors::template give<job_id>(status, [&] { return id; });
    }
    answer<void> cancel(job_id job, instant at = now()) { return done(gateway_cancel(get(), detail::count(at), job)); }
    answer<void> cancel(job_id job, const usage &used, instant at = now()) {
        const detail::c_usage u(used);
        return done(gateway_cancel_with(get(), detail::count(at), job, u.get(), u.size()));
    }
    answer<void> erase(job_id job, instant at = now()) { return done(gateway_delete(get(), detail::count(at), job)); }

    /// The next lease; none where nothing can run now.
    answer<std::optional<lease>> dispatch(instant at = now()) {
        gateway_lease *handle = nullptr;
        return leased(gateway_dispatch(get(), detail::count(at), &handle, nullptr), handle);
    }
    answer<std::optional<lease>> dispatch_route(std::string_view route, instant at = now()) {
        gateway_lease *handle = nullptr;
        return leased(gateway_dispatch_route(get(), detail::count(at), detail::c_text(route).get(), &handle, nullptr), handle);
    }
    answer<std::vector<lease>> dispatch_to(std::string_view backend, std::size_t max, instant at = now()) {
        std::vector<gateway_lease *> handles(max);
        std::size_t count = 0;
        const auto status = gateway_dispatch_to(get(), detail::count(at), detail::c_text(backend).get(), handles.data(), max,
                                                &count);
        return Errors::template give<std::vector<lease>>(status, [&] { return detail::leases(handles, count); });
    }

    /// Waits for a lease until an instant, or without end; none where there was none by then.
    answer<std::optional<lease>> wait_dispatch(std::optional<instant> until = {}) {
        gateway_lease *handle = nullptr;
        return leased(gateway_wait_dispatch(get(), detail::until(until), &handle), handle);
    }
    answer<std::vector<lease>> wait_dispatch_to(std::string_view backend, std::size_t max,
                                                std::optional<instant> until = {}) {
        std::vector<gateway_lease *> handles(max);
        std::size_t count = 0;
        const auto status = gateway_wait_dispatch_to(get(), detail::c_text(backend).get(), detail::until(until),
                                                     handles.data(), max, &count);
        return Errors::template give<std::vector<lease>>(status, [&] { return detail::leases(handles, count); });
    }
    /// Waits for the end of a job; none where it had not come by then, or the job is not known.
    answer<std::optional<std::uint32_t>> wait_ended(job_id job, std::optional<instant> until = {}) {
        std::uint32_t state = 0;
        const auto status = gateway_wait_ended(get(), job, detail::until(until), &state);
        return Errors::template give<std::optional<std::uint32_t>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(state) : std::nullopt; });
    }
    /// Waits until `changes` is no longer the gateway's; false where it still was.
    answer<bool> wait_change(std::uint64_t &changes, std::optional<instant> until = {}) {
        const auto status = gateway_wait_change(get(), detail::until(until), &changes);
        return Errors::template give<bool>(status, [&] { return status == GATEWAY_OK; });
    }
    answer<void> wake() { return done(gateway_wake(get())); }
    /// `wake` for a signal handler; the only function of this class that one may call.
    gateway_status wake_from_signal() noexcept { return gateway_wake_from_signal(get()); }

    /// Tells that a lease's worker lives; its new deadline.
    answer<instant> heartbeat(const lease &own, instant at = now()) {
        std::uint64_t deadline = 0;
        const auto status = gateway_heartbeat(get(), detail::count(at), own.id(), &deadline);
        return Errors::template give<instant>(status, [&] { return detail::at(deadline); });
    }
    answer<instant> progress(const lease &own, std::uint32_t ppm, instant at = now()) {
        std::uint64_t deadline = 0;
        const auto status = gateway_progress(get(), detail::count(at), own.id(), ppm, &deadline);
        return Errors::template give<instant>(status, [&] { return detail::at(deadline); });
    }
    answer<gateway_settled> complete(const lease &own, const output &out, const usage &used = {}, instant at = now()) {
        gateway_settled settled{};
        const detail::c_usage u(used);
        const auto status = gateway_complete(get(), detail::count(at), own.id(), detail::c_output(out).get(), u.get(),
                                             u.size(), &settled);
        return Errors::template give<gateway_settled>(status, [&] { return settled; });
    }
    answer<gateway_after_failure> fail(const lease &own, const attempt_failure &why = {}, const usage &used = {},
                                       instant at = now()) {
        gateway_after_failure after{};
        const detail::c_usage u(used);
        const auto status = gateway_fail(get(), detail::count(at), own.id(), detail::c_failure(why).get(), u.get(), u.size(),
                                         &after);
        return Errors::template give<gateway_after_failure>(status, [&] { return after; });
    }
    answer<void> release(const lease &own, instant at = now()) {
        return done(gateway_release(get(), detail::count(at), own.id(), nullptr));
    }
    answer<void> release(const lease &own, const usage &used, instant at = now()) {
        const detail::c_usage u(used);
        return done(gateway_release_with(get(), detail::count(at), own.id(), u.get(), u.size(), nullptr));
    }
    /// Gives a lease back whose job may not run before an instant: its worker cannot go on now, but later.
    answer<void> release_until(const lease &own, instant not_before, const usage &used = {}, instant at = now()) {
        const detail::c_usage u(used);
        return done(gateway_release_until(get(), detail::count(at), own.id(), detail::count(not_before), u.get(), u.size(),
                                          nullptr));
    }
    /// Takes the lease of a job that runs back, to make room for another one. The answer is the lease that ended.
    answer<std::uint64_t> preempt(job_id job, const usage &used = {}, instant at = now()) {
        std::uint64_t ended = 0;
        const detail::c_usage u(used);
        const auto status = gateway_preempt(get(), detail::count(at), job, u.get(), u.size(), &ended);
        return Errors::template give<std::uint64_t>(status, [&] { return ended; });
    }
    /// Gives the lease's job up, as long as it is its live lease.
    answer<void> cancel(const lease &own, const usage &used = {}, instant at = now()) {
        const detail::c_usage u(used);
        return done(gateway_cancel_lease(get(), detail::count(at), own.id(), u.get(), u.size(), nullptr));
    }
    /// What a lease used that has ended: a correcting settlement where its job is settled.
    answer<gateway_corrected> correct_usage(std::uint64_t lease, const usage &used, instant at = now()) {
        gateway_corrected corrected{};
        const detail::c_usage u(used);
        const auto status = gateway_correct_usage(get(), detail::count(at), lease, u.get(), u.size(), &corrected);
        return Errors::template give<gateway_corrected>(status, [&] { return corrected; });
    }

    /// Runs several steps as one. `body` takes a `basic_transaction<Errors> &` and returns a bool, or a gateway_status: true and
    /// 0 keep the steps, all else takes them back. So does an exception, which comes out here. The answer is `GATEWAY_OK`,
    /// `GATEWAY_WAIT` for false, or what the body returned.
    template <class Body> answer<gateway_status> transaction(Body &&body, instant at = now()) {
        detail::tx_call<Errors, std::remove_reference_t<Body>> call(body);
        const auto status = gateway_transaction(get(), detail::count(at), call.run, &call);
        call.rethrow();
        return Errors::template give<gateway_status>(status, [&] { return status; });
    }

    /* Time. */

    answer<gateway_advanced> advance(instant at = now()) {
        gateway_advanced advanced{};
        const auto status = gateway_advance(get(), detail::count(at), &advanced);
        return Errors::template give<gateway_advanced>(status, [&] { return advanced; });
    }
    answer<gateway_advanced> accept_clock(instant at = now()) {
        gateway_advanced advanced{};
        const auto status = gateway_accept_clock(get(), detail::count(at), &advanced);
        return Errors::template give<gateway_advanced>(status, [&] { return advanced; });
    }
    answer<std::optional<instant>> next_deadline() const {
        std::uint64_t deadline = 0;
        const auto status = gateway_next_deadline(get(), &deadline);
        return Errors::template give<std::optional<instant>>(status, [&] { return detail::maybe(deadline); });
    }

    /* Money. */

    answer<std::optional<settlements>> take_settlements(std::uint32_t max, instant at = now()) {
        gateway_settlements *handle = nullptr;
        const auto status = gateway_take_settlements(get(), detail::count(at), max, &handle);
        return Errors::template give<std::optional<settlements>>(status, [&] {
            return status == GATEWAY_OK ? std::optional<settlements>(std::in_place, handle) : std::nullopt;
        });
    }
    answer<std::uint32_t> confirm(const gateway_batch &batch, instant at = now()) {
        std::uint32_t count = 0;
        const auto status = gateway_confirm_settlements(get(), detail::count(at), &batch, &count);
        return Errors::template give<std::uint32_t>(status, [&] { return count; });
    }
    answer<std::uint32_t> give_back(const gateway_batch &batch, instant at = now()) {
        std::uint32_t count = 0;
        const auto status = gateway_return_settlements(get(), detail::count(at), &batch, &count);
        return Errors::template give<std::uint32_t>(status, [&] { return count; });
    }

    /* What it tells of itself. */

    answer<std::optional<gateway_job>> read(job_id job) const { return ask<gateway_job>(gateway_read_job, job); }
    answer<std::optional<std::uint32_t>> position(job_id job) const { return ask<std::uint32_t>(gateway_position, job); }
    answer<std::optional<gateway_reason>> explain(job_id job) const { return ask<gateway_reason>(gateway_explain, job); }
    answer<std::optional<gateway_backend>> backend(std::string_view name) const {
        return ask<gateway_backend>(gateway_read_backend, detail::c_text(name).get());
    }
    answer<std::optional<gateway_customer>> customer(std::string_view name) const {
        return ask<gateway_customer>(gateway_read_customer, detail::c_text(name).get());
    }
    /// A job as it stands, as JSON, with the names of the backends that failed it.
    answer<std::optional<std::string>> json(job_id job) const {
        std::string text;
        const auto status = detail::fill_text(text, [&](char *buf, std::size_t cap, std::size_t *needed) {
            return gateway_job_json(get(), job, buf, cap, needed);
        });
        return Errors::template give<std::optional<std::string>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(std::move(text)) : std::nullopt; });
    }
    /// The bytes of how a job ended: where the result lies, the result, or the words of its failure.
    answer<std::optional<std::pair<gateway_outcome, std::string>>> outcome(job_id job) const {
        std::pair<gateway_outcome, std::string> told{};
        const auto status = detail::fill(told.second, [&](char *buf, std::size_t cap, std::size_t *needed) {
            return gateway_job_outcome(get(), job, &told.first, buf, cap, needed);
        });
        return Errors::template give<std::optional<std::pair<gateway_outcome, std::string>>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(std::move(told)) : std::nullopt; });
    }
    answer<gateway_stats> stats() const {
        gateway_stats told{};
        return Errors::template give<gateway_stats>(gateway_read_stats(get(), &told), [&] { return told; });
    }
    answer<std::optional<gateway_event>> poll_event() {
        gateway_event event{};
        const auto status = gateway_poll_event(get(), &event);
        return Errors::template give<std::optional<gateway_event>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(event) : std::nullopt; });
    }
    answer<std::uint64_t> changes() const {
        std::uint64_t number = 0;
        return Errors::template give<std::uint64_t>(gateway_changes(get(), &number), [&] { return number; });
    }
    answer<std::uint64_t> begin_epoch(std::uint64_t entropy = 0, instant at = now()) {
        std::uint64_t number = 0;
        const auto status = gateway_begin_epoch(get(), detail::count(at), entropy, &number);
        return Errors::template give<std::uint64_t>(status, [&] { return number; });
    }
    answer<std::uint64_t> epoch() const {
        std::uint64_t number = 0;
        return Errors::template give<std::uint64_t>(gateway_epoch(get(), &number), [&] { return number; });
    }
    answer<std::uint64_t> commands() const {
        std::uint64_t number = 0;
        return Errors::template give<std::uint64_t>(gateway_commands(get(), &number), [&] { return number; });
    }
    answer<std::array<std::uint8_t, GATEWAY_DIGEST_LEN>> digest() const {
        std::array<std::uint8_t, GATEWAY_DIGEST_LEN> bytes{};
        return Errors::template give<decltype(bytes)>(gateway_digest(get(), bytes.data()), [&] { return bytes; });
    }

    /* As bytes and as data. */

    answer<std::string> snapshot() const {
        gateway_bytes *bytes = nullptr;
        return taken(gateway_snapshot(get(), &bytes), bytes);
    }
    /// Applies a command as JSON; the reply is JSON too, also where it is an error.
    answer<std::string> apply(std::string_view entry) {
        gateway_bytes *bytes = nullptr;
        return taken(gateway_apply_json(get(), entry.data(), entry.size(), &bytes), bytes);
    }

private:
    explicit basic_gateway(::gateway *handle) : handle_(handle) {}

    // By reference: it is read after the call that sets it, whose place among the arguments nobody promises.
    static answer<basic_gateway> made(gateway_status status, ::gateway *const &handle) {
        return Errors::template give<basic_gateway>(status, [&] { return basic_gateway(handle); });
    }
    answer<void> done(gateway_status status) {
        return Errors::template give<void>(status, [] {});
    }
    answer<std::optional<lease>> leased(gateway_status status, gateway_lease *const &handle) {
        return Errors::template give<std::optional<lease>>(status, [&] { return detail::leased(status, handle); });
    }
    template <class T, class Read, class Key> answer<std::optional<T>> ask(Read read, Key key) const {
        T told{};
        const auto status = read(get(), key, &told);
        return Errors::template give<std::optional<T>>(
            status, [&] { return status == GATEWAY_OK ? std::optional(told) : std::nullopt; });
    }
    answer<std::string> taken(gateway_status status, gateway_bytes *const &bytes) const {
        const owner<gateway_bytes, gateway_bytes_free> owned(bytes);
        return Errors::template give<std::string>(status, [&] {
            std::string text;
            detail::fill(text, [&](char *buf, std::size_t cap, std::size_t *needed) {
                return gateway_bytes_copy(bytes, buf, cap, needed);
            });
            return text;
        });
    }

    owner<::gateway, gateway_free> handle_;
};

namespace results {
using gateway = basic_gateway<returning>;
using transaction = basic_transaction<returning>;
inline result<job_id> random_id() { return random_id_as<returning>(); }
inline result<job_id> parse_id(std::string_view text) { return parse_id_as<returning>(text); }
} // namespace results

#ifdef GATEWAY_HAS_EXCEPTIONS
using gateway = basic_gateway<throwing>;
using transaction = basic_transaction<throwing>;
inline job_id random_id() { return random_id_as<throwing>(); }
inline job_id parse_id(std::string_view text) { return parse_id_as<throwing>(text); }
#endif

} // namespace libgateway

#endif
