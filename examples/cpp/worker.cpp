// The render worker of examples/c/worker.c in C++: batches, heartbeats, GPU time, and a dead-man switch.
//
//     worker [jobs] [cut]
//
// Here the gateway lives in the same process and is reached through `link`; a worker elsewhere puts its network there. With
// `cut` the link breaks after so many jobs, for good, and the worker stops by itself when its leases have run out.
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <dlfcn.h>
#include <gateway.hpp>
#include <iostream>
#include <list>
#include <mutex>
#include <thread>

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;
namespace lg = libgateway;

constexpr auto lease_for = 300ms, render_time = 3ms;
constexpr int renderers = 3;
constexpr std::size_t batch = 4;

// The GPU's own clock by CUPTI where its library is there at run time, else the monotonic one.
class gpu_clock {
public:
    gpu_clock() {
        for (auto name : {"libcupti.so", "libcupti.so.13", "libcupti.so.12", "libcupti.so.11.8"}) {
            if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
                timestamp_ = reinterpret_cast<int (*)(std::uint64_t *)>(dlsym(library, "cuptiGetTimestamp"));
                std::uint64_t now = 0;
                if (timestamp_ && timestamp_(&now) == 0 && now > 0) return;
                timestamp_ = nullptr;
                dlclose(library);
            }
        }
    }
    const char *name() const { return timestamp_ ? "CUPTI" : "monotonic, no CUPTI here"; }
    lg::span now() const {
        std::uint64_t now = 0;
        if (timestamp_ && timestamp_(&now) == 0) return lg::span(static_cast<std::int64_t>(now));
        return steady::now().time_since_epoch();
    }

private:
    int (*timestamp_)(std::uint64_t *) = nullptr;
};

struct unreachable {};

// The gateway as the worker reaches it.
struct link {
    lg::gateway &gateway;
    std::atomic<bool> up{true};
    template <class Call> auto operator()(Call call) {
        if (!up) throw unreachable();
        return call(gateway);
    }
};

// A lease this worker holds: when it ends on the worker's own clock, and whether to stop working for it.
struct held {
    held(lg::lease own, steady::time_point end) : lease(std::move(own)), until(end) {}
    lg::lease lease;
    steady::time_point until;
    std::atomic<bool> lost{false};
};

class worker {
public:
    worker(lg::gateway &gateway, unsigned cut_after) : link_{gateway}, cut_after_(cut_after) {}

    void run() {
        keeper_ = std::thread([this] { keep_alive(); });
        for (auto &renderer : renderers_) renderer = std::thread([this] { work(); });
    }
    void stop() {
        if (link_.up) {
            stopping_ = true;
            link_.gateway.wake();
        }
        for (auto &renderer : renderers_) renderer.join();
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_all();
        keeper_.join();
    }
    bool is_cut() const { return !link_.up; }
    unsigned completed = 0;
    gpu_clock clock;

private:
    void work() {
        while (!stopping_ && link_.up) {
            const auto asked = steady::now();
            const auto wall = lg::now();
            // Not without end: a wake-up wakes who waits, not who is about to.
            auto leases = link_.gateway.wait_dispatch_to("render-1", batch, wall + 250ms);
            std::list<held> mine;
            {
                std::lock_guard lock(mutex_);
                for (auto &lease : leases) {
                    const auto until = asked + (lease.deadline() - wall);
                    held_.push_back(&mine.emplace_back(std::move(lease), until));
                }
            }
            for (auto &own : mine) {
                if (auto gpu = render(own)) deliver(own, *gpu);
                std::lock_guard lock(mutex_);
                held_.remove(&own);
            }
        }
    }

    // Something for the processor to do, in small pieces. Nothing where the lease was lost.
    std::optional<lg::span> render(const held &own) {
        const auto begin = clock.now();
        for (volatile double pixel = 0; clock.now() - begin < render_time;) {
            if (own.lost) return {};
            for (int i = 0; i < 10000; i++) pixel = pixel + 1.0 / (i + 1);
        }
        return clock.now() - begin;
    }

    // Brings a result home: tries until it is taken or the lease is lost.
    void deliver(held &own, lg::span gpu) {
        std::unique_lock lock(mutex_);
        while (!own.lost) {
            try {
                link_([&](auto &gateway) { gateway.complete(own.lease, lg::url("https://cdn.example/1.webp"), {{"GPU-8f2c01", gpu}}); });
                if (++completed == cut_after_) {
                    std::cout << "the link breaks after " << completed << " jobs\n";
                    link_.up = false;
                }
                return;
            } catch (const unreachable &) {
                changed_.wait(lock);
            } catch (const lg::error &) {
                return;
            }
        }
    }

    // Keeps all leases alive, and ends those that were not heard in time.
    void keep_alive() {
        for (std::unique_lock lock(mutex_); !stopping_; changed_.wait_for(lock, lease_for / 10)) {
            for (held *own : held_) {
                if (own->lost) continue;
                const auto asked = steady::now();
                const auto wall = lg::now();
                try {
                    own->until = asked + (link_([&](auto &gateway) { return gateway.heartbeat(own->lease); }) - wall);
                } catch (const lg::error &) {
                    own->lost = true;
                } catch (const unreachable &) {
                    if (asked < own->until) continue;
                    // The dead-man switch: by now the gateway has given the job to somebody else.
                    own->lost = true;
                    std::cout << "a lease ran out unheard\n";
                }
            }
            changed_.notify_all();
        }
    }

    link link_;
    unsigned cut_after_;
    std::atomic<bool> stopping_{false};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::list<held *> held_;
    std::thread renderers_[renderers], keeper_;
};

int main(int count, char **words) try {
    const unsigned jobs = count > 1 ? static_cast<unsigned>(std::atoi(words[1])) : 24;
    gateway_config config = GATEWAY_CONFIG_INIT;
    config.lease_for = static_cast<std::uint64_t>(lg::span(lease_for).count());
    lg::gateway gateway(config);
    gateway.put_backend("render-1", {"image", "flux", {"*"}, renderers * batch, GATEWAY_KIND_TORCH});
    for (unsigned i = 0; i < jobs; i++) gateway.submit(lg::random_id(), "acme", "image/flux/dev/t2i");

    worker worker(gateway, count > 2 ? static_cast<unsigned>(std::atoi(words[2])) : 0);
    std::cout << "GPU time: " << worker.clock.name() << '\n';
    worker.run();
    std::uint64_t changes = 0;
    const auto open = [&] { return gateway.stats().queued + gateway.stats().running > 0; };
    while (open() && !worker.is_cut()) gateway.wait_change(changes, lg::now() + 1s);
    worker.stop();

    // What the worker lost, the gateway takes back: leases nobody was heard of end at their deadlines.
    while (gateway.stats().running > 0) gateway.wait_change(changes);
    std::cout << (worker.is_cut() ? "stopped by itself: " : "nothing left to do: ") << worker.completed << " of " << jobs
              << " jobs rendered, " << gateway.stats().queued << " queued again\n";
} catch (const lg::error &error) {
    std::cerr << "worker: " << error.what() << '\n';
    return 1;
}
