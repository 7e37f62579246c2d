//! A gateway in thirty lines: one backend, one job, what it costs.

use libgateway::{
    Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, Output, PriceBook, Route, Span, Submit,
    Timestamp, Usage, error::Error,
};

fn main() -> Result<(), Error> {
    // The host brings time and chance: a program that serves takes them from its clock and its system.
    let now = Timestamp::from_secs(1_700_000_000);
    let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]).slots(4))?;
    gateway.put_prices(now, PriceBook::new(1, "USD")?.price("flux/dev", "*", 1_200)?)?;

    let route = Route::parse("image/flux/dev/t2i")?;
    let job = gateway.submit(now, Submit::new(JobId::from_entropy(7), "acme", route).payload("a red fox"))?;
    println!("{job} waits, {} before it", gateway.position(job).unwrap_or_default());

    while let Dispatch::Lease(lease) = gateway.dispatch(now) {
        // Here the host sends lease.payload to lease.backend, and comes back with what it made of it.
        let later = now + Span::from_secs(2);
        let usage = Usage::gpu(GpuNanos::from_millis(1_700), "GPU-8f2c");
        let settled = gateway.complete(later, lease.id, Output::url("https://cdn.example/fox.webp"), usage)?;
        println!(
            "{} used {} GPU-seconds and costs {} USD",
            settled.job,
            settled.usage,
            settled.charge.unwrap_or_default()
        );
    }
    println!("call again at {:?}", gateway.next_deadline());
    Ok(())
}
