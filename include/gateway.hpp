/*
 * libgateway for C++17: gateway.h with handles that free themselves, std::string_view, std::chrono, and errors as
 * exceptions or, by choice, as results.
 *
 *     #include <gateway.hpp>
 *     #include <iostream>
 *
 *     int main() {
 *         libgateway::gateway gw;
 *         gw.put_backend("flux-1", {"image", "flux", {"dev"}});
 *         auto job = gw.submit(libgateway::random_id(), "acme", "image/flux/dev/t2i", {"a red fox"});
 *         while (auto lease = gw.dispatch()) {
 *             // render lease->payload() here, then say what came of it:
 *             gw.complete(*lease, libgateway::url("https://cdn.example/1.webp"));
 *         }
 *         std::cout << gateway_state_name(gw.read(job)->state) << '\n';
 *     }
 *
 * Build: c++ -std=c++17 main.cpp $(pkg-config --cflags --libs libgateway)
 *
 * Errors. `libgateway::gateway` and the other classes of this name throw `libgateway::error`. Those in
 *   `libgateway::results`, of the same names, throw nothing: what would be a T is a `libgateway::result<T>`. So does a
 *   program without exceptions, for which only those are there. What is no error is a value in both: no job to lease now is
 *   an empty std::optional.
 * Time. `now` is the last argument everywhere and the system's clock by default.
 * Threads. As in gateway.h: any object may be used from any thread at any time, but for moving and destroying it.
 * All that is not here is in gateway.h: `get()` gives the handle its functions take.
 */
#ifndef GATEWAY_HPP
#define GATEWAY_HPP

#include <gateway/base.hpp>
#include <gateway/machine.hpp>
#include <gateway/parts.hpp>

#endif
