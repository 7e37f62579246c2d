//! Money at the edges: what is billed when the figures are wrong, late, or not there.

#![expect(clippy::unwrap_used, reason = "what a test expects and does not get ends the test")]

mod bugs;
mod late;
mod usage;

use libgateway::{BillingPolicy, GatewayConfig, GpuNanos, Lease, PriceBook, Usage};
use libgateway_tests::kit::{DEV, Rig, flux, job};

/// A gateway with a price of a micro-unit for a GPU-millisecond and one backend of so many GPUs.
fn rig(billing: BillingPolicy, gpus: u32) -> Rig {
    let mut rig = Rig::new(GatewayConfig::default().billing(billing));
    rig.put(flux("gpu-1").slots(4).devices(gpus));
    let prices = PriceBook::new(1, "USD").unwrap().price("*", "*", 1_000).unwrap();
    rig.gateway.put_prices(rig.now, prices).unwrap();
    rig
}

/// The same with job 1 of acme running.
fn running(billing: BillingPolicy, gpus: u32) -> (Rig, Lease) {
    let mut rig = rig(billing, gpus);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    (rig, lease)
}

fn millis(millis: u64) -> GpuNanos {
    GpuNanos::from_millis(millis)
}

fn gpu(milliseconds: u64) -> Usage<'static> {
    Usage::gpu(millis(milliseconds), "GPU-1")
}
