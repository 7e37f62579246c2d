//! Vectors of prices and settlements, and long ones of chance.

use libgateway::{
    BillingPolicy, Command, CustomerPolicy, Excess, Failure, FailureClass, GatewayConfig, GpuNanos, Leaf, Payer,
    PriceBook, Reply, Span, Step, Usage,
};
use libgateway_tests::kit;
use libgateway_tests::model::{self, Mix, Op, Ops};
use libgateway_tests::rng::Rng;

use crate::log::Log;

pub(crate) fn settlements() -> Log {
    let billing = BillingPolicy::default().failed(Payer::Customer).lost(Payer::House).cancelled(Payer::Customer);
    let config =
        GatewayConfig::default().billing(billing).settle_within(Span::from_secs(20)).lease_for(Span::from_secs(9));
    let mut log = Log::new(config);
    log.give(Command::PutBackend(kit::flux("flux-1").slots(4).devices(2)));
    log.give(Command::PutCustomer { customer: "gold".into(), policy: CustomerPolicy::default().tier("gold") });
    let book = |version: u32| PriceBook::new(version, "USD").unwrap();
    for number in 1..=6 {
        log.submit(kit::job(number, if number % 2 == 0 { "acme" } else { "gold" }, kit::DEV));
    }
    let leases = log.dispatch_all();
    log.wait(2_000);
    // Without a price, at a price, at the price of a tier; half a micro-unit goes to the even one.
    log.complete(leases[0], Usage::unmeasured());
    log.give(Command::PutPrices(book(3).price("flux/dev", "*", 1_000).unwrap().price("*", "gold", 7).unwrap()));
    log.complete(leases[1], Usage::gpu(GpuNanos::from_nanos(2_500_000), "GPU-1"));
    log.fail(leases[2], Failure::new(FailureClass::Timeout, "slow"));
    log.give(Command::PutPrices(book(4).price("flux/dev", "gold", 1_000).unwrap().price("*", "*", 3).unwrap()));
    log.give(Command::PutPrices(book(4)));
    log.wait(1_100);
    let more = log.dispatch_all();
    let usage = Usage::gpu(GpuNanos::from_nanos(3_500_000), "GPU-1").and_gpu(GpuNanos::from_millis(1), "GPU-2");
    log.complete(more[0], usage);
    log.cancel(4);
    log.wait_until_due(0);
    log.wait_until_due(0);
    log.wait(1_000);
    // Batches that are lost, returned, confirmed late and twice.
    let Reply::Settlements(Some(first)) = log.give(Command::TakeSettlements { max: 2 }) else { panic!("settlements") };
    let Reply::Settlements(Some(second)) = log.give(Command::TakeSettlements { max: 9 }) else { panic!("settlements") };
    log.give(Command::TakeSettlements { max: 9 });
    log.give(Command::ConfirmSettlements { batch: second.batch });
    log.give(Command::ConfirmSettlements { batch: second.batch });
    log.wait_until_due(1);
    log.wait_until_due(0);
    log.wait(25_000);
    log.give(Command::ConfirmSettlements { batch: first.batch });
    let Reply::Settlements(Some(again)) = log.give(Command::TakeSettlements { max: 1 }) else { panic!("settlements") };
    log.give(Command::ReturnSettlements { batch: again.batch });
    log.give(Command::ReturnSettlements { batch: again.batch });
    log.settle_all();
    log.dispatch_all();
    log
}

/// Usage with every end of a lease, beyond the possible, and told when the lease has ended.
pub(crate) fn late_usage() -> Log {
    let billing = BillingPolicy::default().excess(Excess::Refuse).released(Payer::Customer).late_usage_max(4);
    let mut log = Log::new(GatewayConfig::default().billing(billing.late_usage_for(Span::from_secs(30))));
    log.give(Command::PutBackend(kit::flux("flux-1").slots(4).devices(2)));
    let prices = PriceBook::new(1, "USD").unwrap().price_at("*", "*", "0.0084/h".parse().unwrap()).unwrap();
    log.give(Command::PutPrices(prices));
    for number in 1..=4 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    let leases = log.dispatch_all();
    log.wait(2_000);
    let gpu = |millis: u64| Usage::gpu(GpuNanos::from_millis(millis), "GPU-1");
    // Refused, and told again with a figure that can be.
    log.complete(leases[0], gpu(9_000));
    log.complete(leases[0], gpu(1).and_gpu(GpuNanos::ZERO, "GPU-2").and_gpu(GpuNanos::ZERO, "GPU-3"));
    log.give(Command::CorrectUsage { lease: leases[0], usage: gpu(1_900) });
    log.complete(leases[0], Usage::unmeasured());
    log.give(Command::Release { lease: leases[1], not_before: None, usage: gpu(1_500) });
    log.give(Command::CancelLease { lease: leases[2], usage: gpu(1_000) });
    log.give(Command::CancelLease { lease: leases[2], usage: gpu(1_000) });
    log.give(Command::All(vec![
        Step::CancelLease { lease: leases[3], usage: gpu(5) },
        Step::All(vec![Leaf::CorrectUsage { lease: leases[3], usage: gpu(7) }]),
        Step::CorrectUsage { lease: leases[3], usage: gpu(8) },
        Step::FirstOf(vec![Leaf::CancelLease { lease: leases[3], usage: gpu(7) }]),
        Step::Release { lease: leases[3], not_before: None, usage: gpu(9) },
    ]));
    log.give(Command::Cancel { job: kit::id(4), usage: gpu(9_000) });
    log.give(Command::Cancel { job: kit::id(4), usage: gpu(1_200) });
    // Less, more, the same again, and of a job that has not ended.
    log.give(Command::CorrectUsage { lease: leases[0], usage: gpu(1_900) });
    log.give(Command::CorrectUsage { lease: leases[0], usage: gpu(1_900) });
    log.give(Command::CorrectUsage {
        lease: leases[0],
        usage: gpu(1_950).and_gpu(GpuNanos::from_millis(900), "GPU-2"),
    });
    log.give(Command::CorrectUsage { lease: leases[0], usage: gpu(9_000) });
    log.give(Command::CorrectUsage { lease: leases[1], usage: gpu(1_400) });
    log.give(Command::CorrectUsage { lease: leases[1], usage: Usage::unmeasured() });
    let again = log.dispatch_all();
    log.wait(1_000);
    log.complete(again[0], gpu(800));
    // Five leases have ended, four may be told of.
    log.give(Command::CorrectUsage { lease: leases[0], usage: gpu(1) });
    log.wait(29_000);
    log.give(Command::CorrectUsage { lease: leases[1], usage: gpu(1) });
    log.give(Command::CorrectUsage { lease: again[0], usage: gpu(900) });
    log.settle_all();
    log
}

/// Some hundred commands of all kinds, with a taste for the edges. The seed decides the limits and policies, too; all
/// times are multiples of so many nanoseconds.
pub(crate) fn random(seed: u64, grain: u64) -> Log {
    let mut rng = Rng::new(seed);
    let mut log = Log::new(model::config(&mut rng, grain));
    let mut ops = Ops::new(rng, Mix::usual().commands_only(), grain);
    let opening = ops.opening(kit::START.as_nanos());
    for turn in 0..COMMANDS {
        let op = match opening.get(turn) {
            Some(op) => op.clone(),
            None => {
                let (now, next) = log.times();
                ops.next_op(now, next)
            }
        };
        if let Op::Command(now, command) = op {
            let reply = log.give_at(now, command);
            ops.learn(&reply);
        }
    }
    log
}

const COMMANDS: usize = 350;
