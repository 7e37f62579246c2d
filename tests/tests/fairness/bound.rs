//! How far two customers that wait can drift apart, in what they were really given: start-time fair queueing states a bound.
//!
//! While both always have a job that waits, what one was given by its weight and what the other was differ by at most
//! `l_f / w_f + l_m / w_m`, the longest job of each by its weight. With several slots what has begun is not known yet, which
//! adds as much for each of them.

#![allow(clippy::float_arithmetic, reason = "how far apart two customers are is a quotient; nothing is decided by it")]

use std::collections::{BTreeMap, BTreeSet};

use libgateway::{
    CustomerPolicy, Failure, FailureClass, FairQueue, FairQueueConfig, GatewayConfig, GpuNanos, JobId, Lease, Output,
    Submit, Usage,
};
use libgateway_tests::kit::{DEV, Rig, flux, id, route};
use libgateway_tests::rng::{self, Rng};

/// What is offered to the queue.
#[derive(Clone, Debug)]
struct Load {
    weights: Vec<u32>,
    slots: u32,
    /// Jobs that each customer keeps waiting while it asks.
    depth: u64,
    says: Says,
    /// Of a hundred jobs so many take a hundred times as long.
    tail_percent: u64,
    /// Whether customers pause now and then until nothing of theirs waits.
    on_and_off: bool,
    /// Of a hundred steps so many cancel a job that waits, at the head, in the middle or at the tail.
    cancel_percent: u64,
    /// Of a hundred attempts so many fail.
    fail_percent: u64,
}

/// What a customer says of how long its jobs will take.
#[derive(Clone, Copy, Debug)]
enum Says {
    Right,
    Nothing,
    /// Up to a hundred times too much or too little.
    Wrong,
    /// Every second customer always a hundred times too much, the others a hundred times too little.
    Biased,
}

impl Load {
    fn new(dice: &mut Rng) -> Self {
        let customers = *dice.pick(&[2, 2, 3, 5, 12, 50]);
        Self {
            weights: (0..customers).map(|_| dice.within(1, 10) as u32).collect(),
            slots: *dice.pick(&[1, 1, 4]),
            depth: *dice.pick(&[1, 2, 10, 100]),
            says: *dice.pick(&[Says::Right, Says::Nothing, Says::Wrong, Says::Biased]),
            tail_percent: *dice.pick(&[0, 1, 5]),
            on_and_off: dice.one_in(3),
            cancel_percent: *dice.pick(&[0, 0, 20, 50]),
            fail_percent: *dice.pick(&[0, 0, 10, 90]),
        }
    }

    /// Milliseconds that a job really takes.
    fn cost(&self, dice: &mut Rng) -> u64 {
        let long = if dice.percent(self.tail_percent) { 100 } else { 1 };
        dice.within(500, 1_500) * long
    }

    fn estimate(&self, customer: usize, cost: u64, dice: &mut Rng) -> Option<GpuNanos> {
        let millis = match self.says {
            Says::Right => cost,
            Says::Nothing => return None,
            Says::Wrong => (cost * dice.within(1, 100) / dice.within(1, 100)).max(1),
            Says::Biased if customer % 2 == 0 => cost * 100,
            Says::Biased => (cost / 100).max(1),
        };
        Some(GpuNanos::from_millis(millis))
    }
}

/// Follows what each customer was given, and how far any two of them were apart while both waited.
struct Meter {
    weights: Vec<u32>,
    given: Vec<f64>,
    longest: Vec<f64>,
    /// By pair that waits: least and greatest difference since both do.
    apart: BTreeMap<(usize, usize), (f64, f64)>,
    worst: f64,
}

#[expect(clippy::float_arithmetic, reason = "a measurement, not what is measured")]
impl Meter {
    fn new(weights: &[u32]) -> Self {
        let none = vec![0.0; weights.len()];
        Self { weights: weights.to_vec(), given: none.clone(), longest: none, apart: BTreeMap::new(), worst: 0.0 }
    }

    /// At a choice: who waits, and who is served for how long.
    fn serve(&mut self, waits: &BTreeSet<usize>, served: usize, cost: u64) {
        self.apart.retain(|(one, other), _| waits.contains(one) && waits.contains(other));
        for one in waits {
            for other in waits.iter().filter(|other| *other > one) {
                let apart = self.given[*one] - self.given[*other];
                self.apart.entry((*one, *other)).or_insert((apart, apart));
            }
        }
        let given = cost as f64 / f64::from(self.weights[served]);
        self.given[served] += given;
        self.longest[served] = self.longest[served].max(given);
        for ((one, other), (least, most)) in &mut self.apart {
            let apart = self.given[*one] - self.given[*other];
            (*least, *most) = (least.min(apart), most.max(apart));
            let bound = self.longest[*one] + self.longest[*other];
            if bound > 0.0 {
                self.worst = self.worst.max((*most - *least) / bound);
            }
        }
    }
}

/// Jobs that wait, by customer, with what they really take.
#[derive(Default)]
struct Waiting(BTreeMap<usize, Vec<(u64, u64)>>);

impl Waiting {
    fn customers(&self) -> BTreeSet<usize> {
        self.0.iter().filter(|(_, jobs)| !jobs.is_empty()).map(|(customer, _)| *customer).collect()
    }

    fn take(&mut self, customer: usize, number: u64) -> u64 {
        let jobs = self.0.get_mut(&customer).unwrap();
        let at = jobs.iter().position(|(own, _)| *own == number).unwrap();
        jobs.remove(at).1
    }

    /// A job to be cancelled: at the head, in the middle or at the tail.
    fn doomed(&mut self, dice: &mut Rng) -> Option<u64> {
        let customers: Vec<usize> = self.customers().into_iter().collect();
        let customer = *customers.get(dice.below(customers.len() as u64) as usize)?;
        let len = self.0[&customer].len();
        let at = *dice.pick(&[0, len / 2, len - 1]);
        Some(self.0.get_mut(&customer)?.remove(at).0)
    }
}

/// The worst that the gateway does under a load, as a multiple of the bound for one slot.
fn gateway(load: &Load, dice: &mut Rng) -> f64 {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.checked = false;
    rig.put(flux("gpu-1").slots(load.slots));
    for (customer, weight) in load.weights.iter().enumerate() {
        rig.gateway.put_customer(rig.now, &name(customer), CustomerPolicy::default().weight(*weight)).unwrap();
    }
    let (mut meter, mut waiting, mut running) = (Meter::new(&load.weights), Waiting::default(), BTreeMap::new());
    let mut off = BTreeSet::new();
    let mut next = 0;
    for _ in 0..STEPS {
        for customer in 0..load.weights.len() {
            let depth = waiting.0.entry(customer).or_default().len() as u64;
            if load.on_and_off && dice.one_in(200) {
                off.insert(customer);
            }
            if off.contains(&customer) && depth == 0 && dice.one_in(20) {
                off.remove(&customer);
            }
            if off.contains(&customer) {
                continue;
            }
            for _ in depth..load.depth {
                let cost = load.cost(dice);
                let mut own = Submit::new(id(next.into()), name(customer), route(DEV));
                own.estimate = load.estimate(customer, cost, dice);
                rig.submit(own);
                waiting.0.get_mut(&customer).unwrap().push((next, cost));
                next += 1;
            }
        }
        if dice.percent(load.cancel_percent) {
            if let Some(doomed) = waiting.doomed(dice) {
                rig.gateway.cancel(rig.now, id(doomed.into())).unwrap();
            }
        }
        let waits = waiting.customers();
        if running.len() < load.slots as usize {
            if let Some(lease) = rig.dispatch().lease() {
                let customer = number_of(&lease.customer);
                let cost = waiting.take(customer, number(lease.job));
                meter.serve(&waits, customer, cost);
                running.insert((rig.now.as_nanos() + cost * 1_000_000, lease.id.as_u64()), lease);
                continue;
            }
        }
        let Some(((at, _), lease)) = running.pop_first() else { continue };
        rig.to(libgateway::Timestamp::from_nanos(at).max(rig.now));
        end(&mut rig, &lease, load, dice);
    }
    meter.worst
}

/// Ends an attempt in one of the ways in which attempts end; what it used is its lease's time.
fn end(rig: &mut Rig, lease: &Lease, load: &Load, dice: &mut Rng) {
    let (now, usage) = (rig.now, Usage::unmeasured());
    if !dice.percent(load.fail_percent) {
        rig.gateway.complete(now, lease.id, Output::url("u"), usage).unwrap();
    } else if dice.one_in(2) {
        let failure = Failure::new(FailureClass::Rejected, "no").retriable(false);
        rig.gateway.fail(now, lease.id, failure, usage).unwrap();
    } else {
        rig.gateway.cancel(now, lease.job).unwrap();
    }
    rig.settlements();
}

/// The same with the queue alone, which knows costs exactly.
fn queue(load: &Load, dice: &mut Rng) -> f64 {
    let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
    for (customer, weight) in load.weights.iter().enumerate() {
        queue.set_weight(&name(customer), *weight).unwrap();
    }
    let (mut meter, mut waiting, mut tickets) = (Meter::new(&load.weights), Waiting::default(), BTreeMap::new());
    let mut next = 0;
    for _ in 0..STEPS {
        for customer in 0..load.weights.len() {
            let depth = waiting.0.entry(customer).or_default().len() as u64;
            if depth > 0 && load.on_and_off && dice.percent(95) {
                continue;
            }
            for _ in depth..load.depth {
                let cost = load.cost(dice);
                tickets.insert(next, queue.push(&name(customer), 1, cost, (customer, next)).unwrap());
                waiting.0.get_mut(&customer).unwrap().push((next, cost));
                next += 1;
            }
        }
        if dice.percent(load.cancel_percent) {
            if let Some(doomed) = waiting.doomed(dice) {
                queue.remove(tickets[&doomed]).unwrap();
            }
        }
        let waits = waiting.customers();
        if let Some((customer, number)) = queue.pop() {
            let cost = waiting.take(customer, number);
            meter.serve(&waits, customer, cost);
        }
    }
    meter.worst
}

fn name(customer: usize) -> String {
    format!("c-{customer}")
}

fn number_of(name: &str) -> usize {
    name.trim_start_matches("c-").parse().unwrap()
}

fn number(job: JobId) -> u64 {
    u64::try_from(job.as_u128()).unwrap()
}

#[test]
fn two_customers_that_wait_never_drift_further_apart_than_their_longest_jobs() {
    let mut worst = BTreeMap::new();
    rng::each_seed(LOADS, |seed| {
        let mut dice = Rng::new(seed);
        let load = Load::new(&mut dice);
        let found = gateway(&load, &mut dice);
        let allowed = if load.slots == 1 { 2.0 } else { f64::from(1 + load.slots) };
        assert!(found <= allowed, "{found} times the bound for {load:?}");
        let entry = worst.entry(load.slots).or_insert(0.0_f64);
        *entry = entry.max(found);
    });
    println!("worst by slots: {worst:?}");
}

#[test]
fn a_queue_that_knows_costs_keeps_the_bound() {
    let mut worst = 0.0_f64;
    rng::each_seed(LOADS, |seed| {
        let mut dice = Rng::new(seed);
        let load = Load::new(&mut dice);
        let found = queue(&load, &mut dice);
        assert!(found <= 1.05, "{found} times the bound for {load:?}");
        worst = worst.max(found);
    });
    println!("worst: {worst}");
}

const LOADS: u64 = 60;
const STEPS: u32 = 3_000;
