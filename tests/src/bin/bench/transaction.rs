//! Transactions, against software transactional memory, and against the same steps without one.

use std::hint::black_box;

use fast_stm::{TVar as FastVar, abort, atomically_with_err};
use libgateway::error::Error;
use libgateway::{Abort, GpuNanos, LeaseId, Output, Route, Span, Submit, Usage};
use stm::TVar;

use crate::harness::{Budget, Built, Row, Subject};
use crate::rng::Rng;
use crate::scene::{Load, STEP, Scene};

pub(crate) fn rows() -> Vec<Row> {
    let row = |name: &str, build: fn() -> Built| Row {
        name: name.to_owned(),
        n: Load::BUDGET.queued as u64,
        budget: Budget::None,
        build: Box::new(build),
    };
    vec![
        row("transaction/three-changes", || Ok(vec![heartbeats(true)?, stm(true), fast_stm(true)])),
        row("transaction/three-changes-aborted", || Ok(vec![heartbeats(false)?, stm(false), fast_stm(false)])),
        row("transaction/three-changes-without", || Ok(vec![plain_heartbeats()?])),
        row("transaction/cycle", || Ok(vec![cycle()?, plain_cycle("the same without one")?])),
        row("transaction/cycle-aborted", || Ok(vec![aborted_cycle()?, plain_cycle("the same, done")?])),
        row("transaction/empty", || {
            let mut scene = Scene::steady(Load::BUDGET)?;
            Ok(vec![Subject::each("libgateway", move || {
                scene.gateway.transaction::<_, Error>(scene.now, |tx| Ok(tx.now())).is_ok()
            })])
        }),
    ]
}

/// Three leases move their deadlines, all or none of them.
fn heartbeats(commit: bool) -> Result<Subject, Error> {
    let mut scene = Scene::steady(Load::BUDGET)?;
    Ok(Subject::each("libgateway", move || {
        let leases: [LeaseId; 3] = std::array::from_fn(|_| scene.any_running());
        scene.now += Span::from_nanos(1_000);
        let result = scene.gateway.transaction::<_, Error>(scene.now, |tx| {
            for lease in leases {
                tx.heartbeat(lease)?;
            }
            if commit { Ok(()) } else { Err(Abort::Retry { until: None }) }
        });
        debug_assert_eq!(result.is_ok(), commit);
        result.is_ok()
    }))
}

fn plain_heartbeats() -> Result<Subject, Error> {
    let mut scene = Scene::steady(Load::BUDGET)?;
    Ok(Subject::each("libgateway", move || {
        let leases: [LeaseId; 3] = std::array::from_fn(|_| scene.any_running());
        scene.now += Span::from_nanos(1_000);
        leases.map(|lease| scene.gateway.heartbeat(scene.now, lease).is_ok())
    }))
}

/// Three of as many variables as there are leases, each read and written.
fn stm(commit: bool) -> Subject {
    let variables: Vec<TVar<u64>> = (0..VARIABLES).map(|_| TVar::new(0)).collect();
    let mut rng = Rng::new(3);
    Subject::each("stm", move || {
        let some: [&TVar<u64>; 3] = std::array::from_fn(|_| &variables[rng.below(VARIABLES)]);
        stm::atomically(|tx| {
            tx.or(
                |tx| {
                    for variable in some {
                        let value = variable.read(tx)?;
                        variable.write(tx, value + 1)?;
                    }
                    if commit { Ok(true) } else { stm::retry() }
                },
                // It has no other way out of a transaction that is not to be.
                |_| Ok(false),
            )
        })
    })
}

fn fast_stm(commit: bool) -> Subject {
    let variables: Vec<FastVar<u64>> = (0..VARIABLES).map(|_| FastVar::new(0)).collect();
    let mut rng = Rng::new(3);
    Subject::each("fast-stm", move || {
        let some: [&FastVar<u64>; 3] = std::array::from_fn(|_| &variables[rng.below(VARIABLES)]);
        let result: Result<(), ()> = atomically_with_err(|tx| {
            for variable in some {
                let value = variable.read(tx)?;
                variable.write(tx, value + 1)?;
            }
            if commit { Ok(()) } else { abort(()) }
        });
        result.is_ok()
    })
}

/// The life of a job as one change: it comes, gets a lease (or another does), and that is completed.
fn cycle() -> Result<Subject, Error> {
    let mut scene = Scene::steady(Load::BUDGET)?;
    let mut calls = 0;
    Ok(Subject::each("libgateway", move || {
        let done = life(&mut scene, true);
        debug_assert!(done);
        drain_now_and_then(&mut scene, &mut calls);
        done
    }))
}

fn aborted_cycle() -> Result<Subject, Error> {
    let mut scene = Scene::steady(Load::BUDGET)?;
    Ok(Subject::each("libgateway", move || life(&mut scene, false)))
}

fn life(scene: &mut Scene, commit: bool) -> bool {
    let now = scene.now + STEP;
    scene.now = now;
    let (id, customer, route) = scene.draw();
    let (gateway, customers, routes) = scene.apart();
    let result = gateway.transaction::<_, Error>(now, |tx| {
        let route = Route::parse(&routes[route])?;
        tx.submit(Submit::new(id, &*customers[customer], route))?;
        let lease = tx.dispatch().or_retry()?;
        let usage = Usage::gpu(GpuNanos::from_millis(50), "GPU-8f2c01");
        tx.complete(lease.id, Output::url("https://cdn.example.com/out/0123456789abcdef.webp"), usage)?;
        if commit { Ok(()) } else { Err(Abort::Retry { until: None }) }
    });
    black_box(result).is_ok()
}

fn plain_cycle(name: &'static str) -> Result<Subject, Error> {
    let mut scene = Scene::steady(Load::BUDGET)?;
    let mut calls = 0;
    Ok(Subject::each(name, move || {
        scene.submit();
        scene.dispatch();
        let lease = scene.last_running();
        scene.complete(lease);
        drain_now_and_then(&mut scene, &mut calls);
    }))
}

fn drain_now_and_then(scene: &mut Scene, calls: &mut u32) {
    *calls += 1;
    if *calls == 1_000 {
        *calls = 0;
        scene.drain();
    }
}

const VARIABLES: usize = 256;
