//! What is handed out once, whoever restarts, comes late or was taken for dead.

use std::collections::BTreeSet;

use libgateway::error::LeaseError;
use libgateway::{
    Dispatch, FailureClass, Gateway, GatewayConfig, JobState, Outcome, Output, Timeouts, Timestamp, Usage,
};
use libgateway_tests::kit::{DEV, Rig, at, before, flux, id, job, secs};

fn one_slot(config: GatewayConfig) -> Rig {
    Rig::with_slots(config, 1)
}

fn restart(rig: &mut Rig, entropy: u64) {
    rig.gateway = Gateway::restore(&rig.gateway.snapshot(), rig.now, entropy).unwrap();
    rig.check();
}

fn delivers(rig: &mut Rig, lease: libgateway::LeaseId) -> bool {
    let output = Output::url("https://cdn/late.webp");
    let late = rig.gateway.complete(rig.now, lease, output, Usage::unmeasured());
    assert!(matches!(late, Ok(_) | Err(LeaseError::Superseded { .. })), "{late:?}");
    rig.check();
    late.is_ok()
}

#[test]
fn a_job_of_tomorrow_is_leased_once_however_often_its_gateway_restarts_until_then() {
    // Longer than any lease, time-out and hold there is.
    let timeouts = Timeouts { queue: Some(secs(60)), ..Timeouts::NONE };
    let mut rig = one_slot(GatewayConfig::default().lease_for(secs(30)).timeouts(timeouts));
    rig.submit(job(1, "acme", DEV).not_before(at(86_400)));
    for night in 1..=40 {
        rig.to(at(2_160 * night - 1));
        assert_eq!(rig.dispatch(), Dispatch::Wait { until: Some(at(86_400)) });
        restart(&mut rig, night);
    }
    rig.to(at(86_400));
    let lease = rig.lease();
    assert_eq!((lease.job, lease.attempt), (id(1), 1));
    restart(&mut rig, 41);
    assert!(rig.leases().is_empty(), "it runs");
    assert!(delivers(&mut rig, lease.id));
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn a_job_that_takes_hours_is_nobody_elses_while_its_worker_is_heard() {
    let mut rig = Rig::new(GatewayConfig::default().lease_for(secs(60)));
    rig.put(flux("gpu-1"));
    rig.put(flux("gpu-2"));
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    for word in 1..=720 {
        // The last instant at which it still counts.
        rig.to(before(rig.gateway.next_deadline().unwrap()));
        assert_eq!(rig.gateway.heartbeat(rig.now, lease.id), Ok(rig.now + secs(60)), "word {word}");
        assert!(rig.leases().is_empty(), "gpu-2 has nothing to do");
    }
    assert!(delivers(&mut rig, lease.id));
    let view = rig.job(id(1));
    assert_eq!((view.state, view.attempts, view.requeues), (JobState::Complete, 0, 0));
}

#[test]
fn a_job_whose_record_was_removed_at_its_end_is_not_taken_for_one_whose_worker_vanished() {
    let mut rig = one_slot(GatewayConfig::default().lease_for(secs(60)));
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.to(at(59));
    rig.complete(&lease);
    rig.gateway.delete(rig.now, id(1)).unwrap();
    for now in [60, 61, 119, 300, 3_600] {
        rig.to(at(now));
        assert!(rig.leases().is_empty() && !rig.gateway.is_known(id(1)));
    }
    let counters = rig.gateway.stats().counters;
    assert_eq!((counters.lost, counters.requeues, rig.gateway.backend("gpu-1").unwrap().live), (0, 0, 0));
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn a_lease_that_ended_ends_nothing_though_its_job_still_waits_for_the_next() {
    // Nobody else has it yet: also then the first worker's word is too late, and stays too late.
    let mut rig = one_slot(GatewayConfig::default().lease_for(secs(30)));
    rig.submit(job(1, "acme", DEV));
    let first = rig.lease();
    rig.to(at(30));
    assert_eq!(rig.state(id(1)), JobState::Queued);
    assert!(!delivers(&mut rig, first.id));
    assert!(rig.gateway.heartbeat(rig.now, first.id).is_err());
    assert!(rig.gateway.release(rig.now, first.id).is_err());
    assert!(rig.gateway.cancel_lease(rig.now, first.id, Usage::unmeasured()).is_err());
    assert_eq!(rig.state(id(1)), JobState::Queued);
    let second = rig.lease();
    assert_eq!((second.job, second.attempt), (id(1), 2));
    assert!(!delivers(&mut rig, first.id));
    assert!(delivers(&mut rig, second.id));
    assert!(!delivers(&mut rig, second.id), "nor twice");
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn a_dead_workers_lease_ends_although_its_gateway_restarts_again_and_again() {
    // A crash loop: each life is over before the lease's time is, and each gives the worker time to be heard.
    let mut rig = one_slot(GatewayConfig::default().lease_for(secs(60)));
    rig.submit(job(1, "acme", DEV));
    let dead = rig.lease();
    let mut ended = None;
    for life in 1..=100 {
        rig.pass(secs(30));
        if rig.state(id(1)) == JobState::Queued {
            ended = Some(rig.now);
            break;
        }
        restart(&mut rig, life);
    }
    assert!(ended.is_some_and(|ended| ended <= at(300)), "{ended:?}");
    let second = rig.lease();
    assert_eq!((second.job, second.attempt), (id(1), 2));
    assert!(!delivers(&mut rig, dead.id) && delivers(&mut rig, second.id));
}

#[test]
fn two_thousand_lives_give_no_lease_and_no_settlement_a_name_that_was_given_before() {
    let mut rig = one_slot(GatewayConfig::default());
    let (mut leases, mut entries) = (BTreeSet::new(), BTreeSet::new());
    for life in 0..2_000_u64 {
        // The worst entropy there is: none. The instants tell the lives apart.
        rig.now = Timestamp::from_nanos(rig.now.as_nanos() + 1);
        rig.gateway.begin_epoch(rig.now, 0);
        rig.gateway.submit(rig.now, job(u128::from(life), "acme", DEV)).unwrap();
        let lease = rig.gateway.dispatch(rig.now).lease().unwrap();
        assert!(leases.insert(lease.id) && lease.id.as_u64() < 1 << 53);
        rig.gateway.complete(rig.now, lease.id, Output::url("x"), Usage::unmeasured()).unwrap();
        let taken = rig.gateway.take_settlements(rig.now, 9).unwrap();
        assert!(entries.insert((taken.batch.id, 0)) && taken.batch.id < 1 << 53);
        for own in &taken.settlements {
            assert!(entries.insert((own.epoch.as_u64(), own.number)));
        }
        rig.gateway.confirm_settlements(rig.now, taken.batch).unwrap();
    }
    assert_eq!((leases.len(), entries.len()), (2_000, 4_000));
    rig.check();
}

#[test]
fn a_job_that_kills_its_workers_ends_and_holds_nobody_up_meanwhile() {
    // Each worker that gets it is gone without a word. It is not first again before everything else for ever.
    let mut rig = Rig::new(GatewayConfig::default().lease_for(secs(60)).losses_max(3));
    for number in 0..6 {
        rig.put(flux(&format!("gpu-{number}")));
    }
    rig.submit(job(0, "acme", DEV));
    for number in 1..=20 {
        rig.submit(job(number, "bolt", DEV));
    }
    let mut done = Vec::new();
    let mut lost = 0;
    while rig.state(id(0)) != JobState::Error {
        for lease in rig.leases() {
            if lease.job == id(0) {
                lost += 1;
            } else {
                rig.complete(&lease);
                done.push(lease.job);
            }
        }
        assert!(lost < 2 || done.len() == 20, "others were served while it was tried");
        rig.pass(secs(1));
    }
    assert_eq!((lost, rig.now), (4, at(240)));
    let Some(Outcome::Error(failure)) = rig.job(id(0)).outcome else { panic!("it is in error") };
    assert_eq!(failure.class, FailureClass::Lost);
    assert!(rig.leases().is_empty());
    assert_eq!((rig.gateway.stats().running, rig.gateway.customer("acme").unwrap().running), (0, 0));
}
