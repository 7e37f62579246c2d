//! Runs: the same steps for the gateway and the model, compared after each.

use std::panic::{self, AssertUnwindSafe};

use libgateway::{
    Abort, Command, Counters, Entry, Gateway, GatewayConfig, JobId, Leaf, Plant, Reply, Timestamp, Transaction, Watch,
    WatchEvent, WatchStep,
};

use super::answer::{Answer, told};
use super::ops::{Mix, Op, Ops, config};
use super::parts::Model;
use crate::difference;
use crate::rng::{Rng, replayed};

/// A gateway and its model.
pub struct Twin {
    /// The real one.
    pub gateway: Gateway,
    model: Model,
    watches: Vec<(Watch, Option<WatchEvent>)>,
    loud: bool,
    /// Whether the gateway also looks at itself after each step.
    checked: bool,
}

impl Twin {
    /// Both, new.
    pub fn new(mut config: GatewayConfig, now: u64) -> Self {
        // The model throws no dice.
        config.backoff.jitter_ppm = 0;
        let gateway = Gateway::new(config.clone(), Timestamp::from_nanos(now)).unwrap();
        let (model, loud) = (Model::new(config, now), replayed().is_some());
        Self { gateway, model, watches: Vec::new(), loud, checked: true }
    }

    /// Takes a step with both and compares all they say. Returns the gateway's reply, if the step was a command.
    ///
    /// # Panics
    /// Where they differ.
    pub fn step(&mut self, op: Op) -> Option<Reply> {
        if self.loud {
            println!("{op:?}");
        }
        let reply = match op {
            Op::Command(now, command) => {
                let answer = self.model.apply(now, &command);
                let reply = self.gateway.apply(Entry::new(Timestamp::from_nanos(now), command));
                if self.loud {
                    println!("  -> {reply:?}");
                }
                assert_eq!(told(&reply), answer, "reply (left) and model (right)");
                Some(reply)
            }
            Op::Abort(now, leaves) => {
                self.abort(now, &leaves);
                None
            }
            Op::Restore => {
                let copy = Gateway::replica(&self.gateway.snapshot()).unwrap();
                assert_eq!(copy.digest(), self.gateway.digest(), "a restored gateway has the same state");
                self.gateway = copy;
                self.model.events.clear();
                None
            }
            Op::Events(count) => {
                for _ in 0..count {
                    let seen = self.gateway.poll_event().map(|event| (event.number, event.at.as_nanos(), event.kind));
                    let told = self.model.events.pop_front();
                    let told = told.map(|(number, at, kind)| (number, self.model.clock.shown(at), kind));
                    assert_eq!(seen, told, "event (left) and model (right)");
                }
                None
            }
        };
        if self.checked {
            self.gateway.check_invariants();
        }
        self.model.check(&self.gateway, &["acme", "bolt", "core", "dune", "echo", "zoe"]);
        self.watch(reply.as_ref());
        reply
    }

    /// Runs steps as a transaction in code that gives up at its end.
    fn abort(&mut self, now: u64, leaves: &[Leaf<'static>]) {
        // What is due happens before, and stays.
        let answer = self.model.apply(now, &Command::Advance {});
        let reply = self.gateway.apply(Entry::new(Timestamp::from_nanos(now), Command::Advance {}));
        assert_eq!(told(&reply), answer, "reply (left) and model (right)");
        let more = matches!(answer, Answer::Advanced { more: true, .. });
        let before = self.gateway.snapshot_json();
        let time = self.model.clock;
        self.model.tick(now);
        // What was on trial is believed at last.
        let more = more || time != self.model.clock;
        let mut copy = self.model.clone();
        let result = self.gateway.transaction(Timestamp::from_nanos(now), |tx| {
            for leaf in leaves {
                let (reply, answer) = (told(&in_transaction(tx, leaf.clone())), copy.leaf(leaf).shown(&copy.clock));
                // Records deleted by an earlier step are let go when the transaction ends: until then they may still
                // ask for a call at the instant at which they would have left.
                let early = |seen: Option<u64>, own: Option<u64>| seen.is_some_and(|at| own.is_none_or(|own| at < own));
                match (&reply, &answer) {
                    (Answer::Wait(seen), Answer::Wait(own)) if early(*seen, *own) => {}
                    _ => assert_eq!(reply, answer, "reply of a step (left) and model (right)"),
                }
            }
            Err::<(), _>(Abort::<&str>::Error("enough"))
        });
        assert_eq!(result, Err(Abort::Error("enough")));
        let after = self.gateway.snapshot_json();
        assert!(more || after == before, "an aborted transaction changed something: {}", difference(&before, &after));
        self.model.tidy();
    }

    fn play(&mut self, mut ops: Ops, steps: u32) {
        for op in ops.opening(START) {
            self.step(op);
        }
        for _ in 0..steps {
            let clock = &self.model.clock;
            let (now, next) = (clock.reading, self.model.next_deadline().map(|at| clock.shown(at)));
            if let Some(reply) = self.step(ops.next_op(now, next)) {
                ops.learn(&reply);
            }
        }
    }

    /// Watches some jobs: what was told last must be what is so now.
    fn watch(&mut self, reply: Option<&Reply>) {
        if let Some(Reply::Submitted { job }) = reply {
            if self.watches.len() < 4 {
                self.watches.push((Watch::new(*job), None));
            }
        }
        let gateway = &self.gateway;
        for (watch, last) in &mut self.watches {
            loop {
                match watch.poll(gateway) {
                    WatchStep::Event(event) => *last = Some(event),
                    WatchStep::Wait => {
                        let view = gateway.job(watch.job()).unwrap();
                        let truth = match view.position {
                            Some(position) => WatchEvent::Queued { position },
                            None => WatchEvent::Running { progress_ppm: view.progress_ppm },
                        };
                        assert_eq!(last.as_ref(), Some(&truth), "what the watch of {} told last", watch.job());
                        break;
                    }
                    WatchStep::Done => {
                        let ended = matches!(last, Some(WatchEvent::Ended(_) | WatchEvent::Gone));
                        assert!(ended, "the watch of {} ended with {last:?}", watch.job());
                        break;
                    }
                }
            }
        }
        self.watches.retain(|(_, last)| !matches!(last, Some(WatchEvent::Ended(_) | WatchEvent::Gone)));
    }
}

/// A run of `steps` steps by a seed. Returns what has happened in it.
///
/// # Panics
/// Where gateway and model differ.
pub fn run(seed: u64, steps: u32) -> Counters {
    let Run { mut rng, config, grain } = Run::new(seed);
    let mix = Mix::random(&mut rng);
    let mut twin = Twin::new(config, START);
    if twin.loud {
        println!("{:?}\n{mix:?}", twin.gateway.config());
    }
    twin.play(Ops::new(rng.fork(), mix, grain), steps);
    twin.gateway.stats().counters
}

/// Whether a gateway with something wrong in it is told from the model of one without, within a run of `steps` steps
/// after which only the model looks. `wrong` may change its configuration or the gateway that was made with it.
pub fn tells(seed: u64, steps: u32, wrong: Wrong) -> bool {
    let Run { mut rng, config, grain } = Run::new(seed);
    let mut twin = Twin::new(config.clone(), START);
    twin.checked = false;
    match wrong {
        Wrong::Config(change) => {
            let mut config = config;
            change(&mut config);
            twin.gateway = Gateway::new(config, Timestamp::from_nanos(START)).unwrap();
        }
        Wrong::Planted(plant) => twin.gateway.plant(plant),
    }
    // A restart would heal a planted bug, or be refused.
    let ops = Ops::new(rng.fork(), Mix::usual().commands_only(), grain);
    panic::catch_unwind(AssertUnwindSafe(|| twin.play(ops, steps))).is_err()
}

/// What may be wrong with a gateway.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    /// One of its numbers.
    Config(fn(&mut GatewayConfig)),
    /// Its code.
    Planted(Plant),
}

/// What a seed decides first.
struct Run {
    rng: Rng,
    config: GatewayConfig,
    grain: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let grain = if rng.percent(30) { 1_000_000_000 } else { 1 };
        let config = config(&mut rng, grain);
        Self { rng, config, grain }
    }
}

/// A command as a call of the transaction's own method.
fn in_transaction(tx: &mut Transaction<'_>, leaf: Leaf<'static>) -> Reply {
    use libgateway::error::ErrorReply;
    fn reply<T, E: libgateway::error::Coded + std::fmt::Display>(
        result: Result<T, E>,
        tell: impl FnOnce(T) -> Reply,
    ) -> Reply {
        result.map_or_else(|error| Reply::Error(ErrorReply::from(&error)), tell)
    }
    let submitted = |job: JobId| Reply::Submitted { job };
    let extended = |deadline: Timestamp| Reply::Extended { deadline };
    match leaf {
        Leaf::Submit(submit) => reply(tx.submit(submit), submitted),
        Leaf::Dispatch {} => tx.dispatch().into(),
        Leaf::DispatchRoute { route } => reply(tx.dispatch_route(&route), Reply::from),
        Leaf::DispatchTo { backend, max } => reply(tx.dispatch_to(&backend, max), Reply::Leases),
        Leaf::Heartbeat { lease } => reply(tx.heartbeat(lease), extended),
        Leaf::Progress { lease, progress_ppm } => reply(tx.progress(lease, progress_ppm), extended),
        Leaf::Complete { lease, output, usage } => reply(tx.complete(lease, output, usage), Reply::Completed),
        Leaf::Fail { lease, failure, usage } => reply(tx.fail(lease, failure, usage), Reply::Failed),
        Leaf::Release { lease, not_before: Some(at), usage } => {
            reply(tx.release_until(lease, at, usage), |job| Reply::Released { job })
        }
        Leaf::Release { lease, usage, .. } if !usage.is_measured() => {
            reply(tx.release(lease), |job| Reply::Released { job })
        }
        Leaf::Release { lease, usage, .. } => reply(tx.release_with(lease, usage), |job| Reply::Released { job }),
        Leaf::Preempt { job, usage } => reply(tx.preempt(job, usage), |lease| Reply::Preempted { lease }),
        Leaf::Cancel { job, usage } if !usage.is_measured() => reply(tx.cancel(job), |()| Reply::Done {}),
        Leaf::Cancel { job, usage } => reply(tx.cancel_with(job, usage), |()| Reply::Done {}),
        Leaf::CancelLease { lease, usage } => reply(tx.cancel_lease(lease, usage), |job| Reply::Cancelled { job }),
        Leaf::CorrectUsage { lease, usage } => reply(tx.correct_usage(lease, usage), Reply::Corrected),
        Leaf::Delete { job } => reply(tx.delete(job), |()| Reply::Done {}),
        other => panic!("there is no method for {other:?}"),
    }
}

/// When every run begins.
const START: u64 = 1_000 * 1_000_000_000;
