//! Answers in words of our own, so that the model can make them and the gateway's can be held against them.

use libgateway::error::ErrorReply;
use libgateway::{AfterFailure, JobState, Lease, Reply, Settlement, TakenSettlements, Task};

use super::clock::HostClock;

/// What a command was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Submitted(u128),
    Leased(Box<Grant>),
    Wait(Option<u64>),
    Leases(Vec<Grant>),
    Extended(u64),
    Completed { job: u128, reported: u64, usage: u64, capped: bool, charge: Option<u64> },
    Cancelled(u128),
    Corrected { job: u128, number: Option<u64>, reported: u64, billed: u64, capped: bool },
    Retry(u64),
    Failed,
    Released(u128),
    Preempted(u64),
    Evicted(Vec<(u64, u128)>),
    Done,
    Advanced { handled: u32, now: u64, more: bool, leapt: Option<u64>, next: Option<u64> },
    Settlements(Option<((u64, u64, u32), Vec<Bill>)>),
    Counted(u32),
    All(Vec<Answer>),
    First(u32, Box<Answer>),
    Error(u16, Option<String>),
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: u64,
    pub(crate) job: u128,
    pub(crate) customer: String,
    pub(crate) backend: String,
    pub(crate) route: String,
    pub(crate) task: Task,
    pub(crate) payload: Vec<u8>,
    pub(crate) attempt: u32,
    pub(crate) deadline: u64,
    pub(crate) warm: bool,
    pub(crate) probe: bool,
}

/// A settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bill {
    pub(crate) number: u64,
    pub(crate) job: u128,
    pub(crate) customer: String,
    pub(crate) route: String,
    pub(crate) task: Task,
    pub(crate) state: JobState,
    pub(crate) backend: Option<String>,
    pub(crate) reported: u64,
    pub(crate) usage: u64,
    pub(crate) absorbed: u64,
    pub(crate) capped: bool,
    pub(crate) measured: bool,
    pub(crate) devices: Vec<(String, u64)>,
    pub(crate) tier: String,
    pub(crate) price: Option<(u64, u64)>,
    pub(crate) price_version: u32,
    pub(crate) charge: Option<u64>,
    pub(crate) created: u64,
    pub(crate) started: Option<u64>,
    pub(crate) finished: u64,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) corrects: Option<Corrects>,
}

/// What a correction takes back, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrects {
    pub(crate) number: u64,
    pub(crate) lease: u64,
    pub(crate) revision: u32,
    pub(crate) at: u64,
    pub(crate) usage: u64,
    pub(crate) absorbed: u64,
    pub(crate) charge: u64,
}

impl Answer {
    /// The answer of a machine in instants of the host's clock.
    pub(crate) fn shown(mut self, clock: &HostClock) -> Self {
        let show = |at: &mut u64| *at = clock.shown(*at);
        match &mut self {
            Self::Leased(grant) => show(&mut grant.deadline),
            Self::Leases(grants) => grants.iter_mut().for_each(|grant| show(&mut grant.deadline)),
            Self::Wait(Some(at)) | Self::Extended(at) | Self::Retry(at) => show(at),
            Self::Advanced { now, next, .. } => {
                show(now);
                next.iter_mut().for_each(show);
            }
            Self::Settlements(Some((_, bills))) => {
                for bill in bills {
                    let corrected = bill.corrects.as_mut().map(|own| &mut own.at);
                    let times = [&mut bill.created, &mut bill.finished].into_iter().chain(&mut bill.started);
                    times.chain(corrected).for_each(show);
                }
            }
            Self::All(answers) => return Self::All(answers.drain(..).map(|answer| answer.shown(clock)).collect()),
            Self::First(index, answer) => return Self::First(*index, Box::new(answer.clone().shown(clock))),
            _ => {}
        }
        self
    }
}

/// The gateway's reply in the model's words.
pub(crate) fn told(reply: &Reply) -> Answer {
    match reply {
        Reply::Submitted { job } => Answer::Submitted(job.as_u128()),
        Reply::Leased(lease) => Answer::Leased(Box::new(grant(lease))),
        Reply::Wait { until } => Answer::Wait(until.map(|at| at.as_nanos())),
        Reply::Leases(leases) => Answer::Leases(leases.iter().map(grant).collect()),
        Reply::Extended { deadline } => Answer::Extended(deadline.as_nanos()),
        Reply::Completed(settled) => Answer::Completed {
            job: settled.job.as_u128(),
            reported: settled.reported.as_nanos(),
            usage: settled.usage.as_nanos(),
            capped: settled.capped,
            charge: settled.charge.map(|charge| charge.as_micros()),
        },
        Reply::Cancelled { job } => Answer::Cancelled(job.as_u128()),
        Reply::Corrected(corrected) => Answer::Corrected {
            job: corrected.job.as_u128(),
            number: corrected.settlement,
            reported: corrected.reported.as_nanos(),
            billed: corrected.billed.as_nanos(),
            capped: corrected.capped,
        },
        Reply::Failed(AfterFailure::Retry { at }) => Answer::Retry(at.as_nanos()),
        Reply::Failed(_) => Answer::Failed,
        Reply::Released { job } => Answer::Released(job.as_u128()),
        Reply::Preempted { lease } => Answer::Preempted(lease.as_u64()),
        Reply::Evicted(evicted) => {
            Answer::Evicted(evicted.iter().map(|own| (own.lease.as_u64(), own.job.as_u128())).collect())
        }
        Reply::Done {} => Answer::Done,
        Reply::Advanced(advance) => Answer::Advanced {
            handled: advance.handled,
            now: advance.now.as_nanos(),
            more: advance.more,
            leapt: advance.leapt.map(|span| span.as_nanos()),
            next: advance.next_deadline.map(|at| at.as_nanos()),
        },
        Reply::Settlements(taken) => Answer::Settlements(taken.as_ref().map(settlements)),
        Reply::Counted { count } => Answer::Counted(*count),
        Reply::All(replies) => Answer::All(replies.iter().map(told).collect()),
        Reply::First { index, reply } => Answer::First(*index, Box::new(told(reply))),
        Reply::Error(ErrorReply { number, field, .. }) => Answer::Error(*number, field.clone()),
        other => panic!("the model does not know the reply {other:?}"),
    }
}

fn grant(lease: &Lease) -> Grant {
    Grant {
        id: lease.id.as_u64(),
        job: lease.job.as_u128(),
        customer: lease.customer.to_string(),
        backend: lease.backend.to_string(),
        route: lease.route.to_string(),
        task: lease.task,
        payload: lease.payload.as_bytes().to_vec(),
        attempt: lease.attempt,
        deadline: lease.deadline.as_nanos(),
        warm: lease.warm,
        probe: lease.probe,
    }
}

fn settlements(taken: &TakenSettlements) -> ((u64, u64, u32), Vec<Bill>) {
    let batch = (taken.batch.id, taken.batch.first_seq, taken.batch.len);
    (batch, taken.settlements.iter().map(bill).collect())
}

fn bill(own: &Settlement) -> Bill {
    Bill {
        number: own.number,
        job: own.job.as_u128(),
        customer: own.customer.to_string(),
        route: own.route.to_string(),
        task: own.task,
        state: own.state,
        backend: own.backend.as_ref().map(ToString::to_string),
        reported: own.reported.as_nanos(),
        usage: own.usage.as_nanos(),
        absorbed: own.absorbed.as_nanos(),
        capped: own.capped,
        measured: own.measured,
        devices: own.devices.iter().map(|device| (device.device.to_string(), device.gpu.as_nanos())).collect(),
        tier: own.tier.to_string(),
        price: own.price.map(|price| (price.micros(), price.per().as_nanos())),
        price_version: own.price_version,
        charge: own.charge.map(|charge| charge.as_micros()),
        created: own.created.as_nanos(),
        started: own.started.map(|at| at.as_nanos()),
        finished: own.finished.as_nanos(),
        attempts: own.attempts,
        requeues: own.requeues,
        corrects: own.correction.map(|own| Corrects {
            number: own.corrects,
            lease: own.lease.as_u64(),
            revision: own.revision,
            at: own.at.as_nanos(),
            usage: own.usage_credit.as_nanos(),
            absorbed: own.absorbed_credit.as_nanos(),
            charge: own.charge_credit.as_micros(),
        }),
    }
}

pub(crate) fn error(number: u16, field: &str) -> Answer {
    Answer::Error(number, Some(field.to_owned()))
}
