//! Vectors of the host's clock.

use libgateway::{Command, CustomerPolicy, GatewayConfig, RateLimit, Reply, Span, Timeouts, Usage};
use libgateway_tests::kit;

use crate::log::Log;

/// Steps both ways, wild readings, a suspended host, an operator's word: with a lease that is heard and one that is not.
pub(crate) fn clock() -> Log {
    const SECOND: u64 = 1_000_000_000;
    let start = kit::START.as_nanos();
    let rate = RateLimit::new(1, Span::from_secs(10), 1).unwrap();
    let config = GatewayConfig::default().lease_for(Span::from_secs(60));
    let mut log = Log::new(config);
    log.give(Command::PutBackend(kit::flux("flux-1").slots(3)));
    log.give(Command::PutCustomer { customer: "slow".into(), policy: CustomerPolicy::default().rate(rate) });
    log.submit(kit::job(1, "acme", kit::DEV));
    log.submit(kit::job(2, "acme", kit::DEV));
    for number in 3..=4 {
        log.submit(kit::job(number, "slow", kit::DEV));
    }
    let timeouts = Timeouts { queue: Some(Span::from_secs(30)), ..Timeouts::NONE };
    let leases = log.dispatch_all();
    log.submit(kit::job(5, "acme", kit::DEV).timeouts(timeouts));
    let heard = |log: &mut Log, now: u64| log.give_at(now, Command::Heartbeat { lease: leases[0] });
    heard(&mut log, start + 5 * SECOND);
    // Back by a day, and on from there.
    let back = start - 86_400 * SECOND;
    heard(&mut log, back);
    heard(&mut log, back + 15 * SECOND);
    log.wait_until_due(1);
    log.wait_until_due(0);
    // Readings that are wild, each taken back.
    for wild in [u64::MAX, 0, back + 315_360_000 * SECOND] {
        log.give_at(wild, Command::Advance {});
        heard(&mut log, back + 40 * SECOND);
    }
    // Ahead by 45 s, by ten minutes, and beyond what is believed at once.
    let mut now = back + 45 * SECOND;
    for step in [45, 600, 3_700] {
        now += step * SECOND;
        log.give_at(now, Command::Advance {});
        for _ in 0..4 {
            now += 20 * SECOND;
            heard(&mut log, now);
        }
    }
    // The host was suspended for two hours, and an operator says that this is so.
    now += 7_200 * SECOND;
    log.give_at(now, Command::Advance {});
    log.give(Command::AcceptClock {});
    heard(&mut log, now + 20 * SECOND);
    log.complete(leases[0], Usage::unmeasured());
    // The others, of which nobody heard, were lost on the way.
    log.dispatch_all();
    log.settle_all();
    let reply = log.give(Command::Advance {});
    assert!(matches!(reply, Reply::Advanced(_)));
    log
}
