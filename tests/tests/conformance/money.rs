//! Vectors of prices and settlements, and long ones of chance.

use libgateway::{
    BillingPolicy, Command, CustomerPolicy, Failure, FailureClass, GatewayConfig, GpuNanos, Payer, PriceBook, Reply,
    Span, Usage,
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
