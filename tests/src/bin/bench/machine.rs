//! The whole gateway: a job's life, and what a host asks in between.

use std::hint::black_box;

use libgateway::{Gateway, JobId, Span};

use crate::harness::{Budget, Row, Subject};
use crate::report::Line;
use crate::scene::{Load, Scene};

pub(crate) fn rows() -> Vec<Row> {
    let budget = Load::BUDGET;
    vec![
        cycle("cycle/100k", budget, Budget::Nanos(1_200.0)),
        cycle("cycle/1k", budget.queued(1_000), Budget::None),
        cycle("cycle/1m", budget.queued(1_000_000), Budget::None),
        cycle("cycle/10-customers", budget.customers(10), Budget::None),
        cycle("cycle/1-route", budget.routes(1, 1), Budget::None),
        cycle("cycle/1k-routes", budget.routes(10, 100), Budget::None),
        cycle("cycle/200-byte-payload", budget.payload_len(200), Budget::None),
        phase("cycle-phase/submit", 0),
        phase("cycle-phase/dispatch", 1),
        phase("cycle-phase/complete", 2),
        phase("cycle-phase/settlements+events", 3),
        steady("submit+cancel", |scene| {
            let id = scene.submit();
            black_box(scene.gateway.cancel(scene.now, id).is_ok())
        }),
        steady("heartbeat", |scene| {
            let lease = scene.any_running();
            scene.now += Span::from_nanos(1_000);
            black_box(scene.gateway.heartbeat(scene.now, lease).is_ok())
        }),
        steady("advance/nothing-due", |scene| {
            scene.now += Span::from_nanos(1);
            black_box(scene.gateway.advance(scene.now).handled == 0)
        }),
        waiting("position", |gateway, id| black_box(gateway.position(id)).is_some()),
        waiting("explain", |gateway, id| black_box(gateway.explain(id)).is_some()),
        waiting("job", |gateway, id| black_box(gateway.job(id)).is_some()),
        whole("digest/per-job", |gateway| black_box(gateway.digest()).as_bytes().len() == 32),
        whole("snapshot/per-job", |gateway| !black_box(gateway.snapshot()).is_empty()),
        Row {
            name: "restore/per-job".to_owned(),
            n: budget.queued as u64,
            budget: Budget::None,
            build: Box::new(move || {
                let bytes = Scene::filled(budget)?.gateway.snapshot();
                Ok(vec![per_job("libgateway", budget.queued, move || Gateway::replica(black_box(&bytes)).is_ok())])
            }),
        },
    ]
}

/// How the cost of a job grows with the queue, once all three were measured.
pub(crate) fn growth(lines: &[Line]) -> Option<Line> {
    let cost = |name: &str| lines.iter().find(|line| line.name == name).map(|line| line.ns_per_op);
    let costs = [cost("cycle/1k")?, cost("cycle/100k")?, cost("cycle/1m")?];
    let most = costs.into_iter().fold(0.0, f64::max);
    let least = costs.into_iter().fold(f64::INFINITY, f64::min);
    Some(Line::growth("cycle/most-of-1k-100k-1m", 1_000_000, most, least, 2.5))
}

/// The life of a job, its settlement and its events included, while the load stays what it is.
fn cycle(name: &str, load: Load, budget: Budget) -> Row {
    Row {
        name: name.to_owned(),
        n: load.queued as u64,
        budget,
        build: Box::new(move || {
            let mut scene = Scene::steady(load)?;
            Ok(vec![Subject::each("libgateway", move || scene.cycle())])
        }),
    }
}

/// A quarter of the cycle: a thousand jobs come, then as many leases are granted, completed, settled, and one of these
/// phases counts.
fn phase(name: &str, which: usize) -> Row {
    Row {
        name: name.to_owned(),
        n: Load::BUDGET.queued as u64,
        budget: Budget::None,
        build: Box::new(move || {
            let mut scene = Scene::steady(Load::BUDGET)?;
            Ok(vec![Subject::new("libgateway", move |meter, operations| {
                for _ in 0..operations.div_ceil(BATCH) {
                    let phases: [fn(&mut Scene); 4] = [
                        |scene| {
                            for _ in 0..BATCH {
                                scene.submit();
                            }
                        },
                        |scene| (0..BATCH).for_each(|_| scene.dispatch()),
                        |scene| (0..BATCH).for_each(|_| scene.complete_any()),
                        Scene::drain,
                    ];
                    for (number, phase) in phases.into_iter().enumerate() {
                        if number == which {
                            meter.measure(BATCH, || phase(&mut scene));
                        } else {
                            phase(&mut scene);
                        }
                    }
                }
            })])
        }),
    }
}

/// One call on a gateway under the load of the budget.
fn steady(name: &str, mut call: impl FnMut(&mut Scene) -> bool + 'static) -> Row {
    Row {
        name: name.to_owned(),
        n: Load::BUDGET.queued as u64,
        budget: Budget::None,
        build: Box::new(move || {
            let mut scene = Scene::steady(Load::BUDGET)?;
            let mut calls = 0_u32;
            Ok(vec![Subject::each("libgateway", move || {
                let done = call(&mut scene);
                debug_assert!(done);
                calls += 1;
                // Cancelled jobs have settlements too.
                if calls == 1_000 {
                    calls = 0;
                    scene.drain();
                }
                done
            })])
        }),
    }
}

/// A question about any of the jobs that wait.
fn waiting(name: &str, ask: impl Fn(&Gateway, JobId) -> bool + 'static) -> Row {
    let load = Load::BUDGET;
    Row {
        name: name.to_owned(),
        n: load.queued as u64,
        budget: Budget::None,
        build: Box::new(move || {
            let mut scene = Scene::filled(load.queued(0))?;
            let ids: Vec<JobId> = (0..load.queued).map(|_| scene.submit()).collect();
            Ok(vec![Subject::each("libgateway", move || {
                let id = ids[scene.rng.below(ids.len())];
                ask(&scene.gateway, id)
            })])
        }),
    }
}

/// Something done with the whole state; told per job that waits.
fn whole(name: &str, mut work: impl FnMut(&Gateway) -> bool + 'static) -> Row {
    let load = Load::BUDGET;
    Row {
        name: name.to_owned(),
        n: load.queued as u64,
        budget: Budget::None,
        build: Box::new(move || {
            let gateway = Scene::filled(load)?.gateway;
            Ok(vec![per_job("libgateway", load.queued, move || work(&gateway))])
        }),
    }
}

/// A subject one of whose runs counts as an operation for each job.
fn per_job(name: &'static str, jobs: usize, mut run: impl FnMut() -> bool + 'static) -> Subject {
    Subject::new(name, move |meter, operations| {
        let runs = operations.div_ceil(jobs as u64);
        let done = meter.measure(runs * jobs as u64, || (0..runs).all(|_| run()));
        assert!(done, "{name} did it");
    })
}

const BATCH: u64 = 1_000;
