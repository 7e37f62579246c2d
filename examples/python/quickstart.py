"""A gateway in thirty lines: a backend, a price, a job, and what it cost."""

from decimal import Decimal

from libgateway import Backend, Gateway, PriceBook


def main() -> None:
    prices = PriceBook(1, prices={("flux/dev", "*"): Decimal("0.0012")})  # for a GPU-second
    backend = Backend("flux-1", kind="torch", modality="image", family="flux", models=["dev"], slots=4)
    gateway = Gateway(backends=[backend], prices=prices)

    job = gateway.submit("acme", "image/flux/dev/t2i", b"a red fox")
    print(f"{job} waits at position {gateway.position(job)}")

    while lease := gateway.dispatch():  # None: nothing can run now
        with lease:  # left by an exception: failed, and tried again if it may be
            print(f"{lease.backend} renders {lease.payload!r}")
            settled = lease.complete("https://cdn/1.webp", gpu_seconds=Decimal("0.05"), device="GPU-8f2c")
            print(f"{settled.gpu_seconds} GPU-seconds for {settled.charge} USD")

    with gateway.take_settlements() as settlements:  # confirmed when the block ends well
        for settlement in settlements:
            print(f"{settlement.customer} pays {settlement.charge} for {settlement.job}")

    view = gateway.job(job)
    assert view is not None
    print(f"{job} is {view.state}")


if __name__ == "__main__":
    main()
