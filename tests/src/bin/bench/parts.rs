//! The small mechanisms, each alone.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hint::black_box;

use foldhash::fast::FixedState;
use hdrhistogram::Histogram as HdrHistogram;
use libgateway::{Histogram, IndexedHeap, JobId, Outbox, OutboxConfig, Route, Span, Timers, Timestamp};
use priority_queue::PriorityQueue;

use crate::harness::{Budget, Built, Row, Subject};
use crate::rng::Rng;

pub(crate) fn rows() -> Vec<Row> {
    let row = |name: &str, n: usize, build: fn() -> Built| Row {
        name: name.to_owned(),
        n: n as u64,
        budget: Budget::None,
        build: Box::new(build),
    };
    vec![
        row("heap/update", TIMERS, || Ok(vec![heap_update(), priority_update()])),
        row("timers/fire+arm", TIMERS, || Ok(vec![timers_turn(), priority_turn()])),
        row("histogram/record", 1, || Ok(vec![histogram()?, hdr()?])),
        row("outbox/push+take+confirm", 1_000, || Ok(vec![outbox()?, deque()])),
        row("route/parse", 1, || {
            let text = "image/family-07/model-003/t2i?backend=torch";
            Ok(vec![Subject::each("libgateway", move || Route::parse(black_box(text)).is_ok())])
        }),
        row("id/print+parse", 1, || {
            let mut rng = Rng::new(9);
            Ok(vec![Subject::each("libgateway", move || {
                let id = JobId::from_entropy(rng.wide());
                assert_eq!(black_box(id.to_string()).parse(), Ok(id));
            })])
        }),
    ]
}

/// Any entry moves to any key.
fn heap_update() -> Subject {
    let mut rng = Rng::new(4);
    let mut heap = IndexedHeap::new();
    (0..TIMERS as u32).for_each(|id| assert!(heap.insert(id, rng.wide())));
    Subject::each("libgateway", move || {
        let (id, key) = (rng.below(TIMERS) as u32, rng.wide());
        heap.update(id, key)
    })
}

fn priority_update() -> Subject {
    let mut rng = Rng::new(4);
    let mut queue = priorities(&mut rng);
    Subject::each("priority-queue", move || {
        let (id, key) = (rng.below(TIMERS) as u32, rng.wide());
        queue.change_priority(&id, Reverse(key))
    })
}

/// The first timer fires and is armed again, anywhere within an hour.
fn timers_turn() -> Subject {
    let mut rng = Rng::new(5);
    let mut timers = Timers::new();
    let within_an_hour = |rng: &mut Rng| Span::from_nanos(rng.below_u64(3_600_000_000_000));
    for id in 0..TIMERS as u32 {
        timers.arm(id, Timestamp::EPOCH + within_an_hour(&mut rng), u64::from(id));
    }
    Subject::each("libgateway", move || {
        let due = timers.next_deadline().and_then(|now| timers.pop_due(now));
        if let Some((id, at)) = due {
            timers.arm(id, at + within_an_hour(&mut rng), u64::from(id));
        }
        due
    })
}

fn priority_turn() -> Subject {
    let mut rng = Rng::new(5);
    let mut queue = priorities(&mut rng);
    Subject::each("priority-queue", move || {
        let first = queue.pop();
        if let Some((id, Reverse(key))) = first {
            queue.push(id, Reverse(key.saturating_add(rng.wide() >> 8)));
        }
        first
    })
}

fn priorities(rng: &mut Rng) -> PriorityQueue<u32, Reverse<u128>, FixedState> {
    let mut queue = PriorityQueue::with_hasher(FixedState::default());
    (0..TIMERS as u32).for_each(|id| assert!(queue.push(id, Reverse(rng.wide() >> 8)).is_none()));
    queue
}

/// Values of all magnitudes up to some minutes in nanoseconds.
fn values() -> Vec<u64> {
    let mut rng = Rng::new(6);
    (0..4_096).map(|_| rng.next() >> (24 + rng.below(40))).collect()
}

/// Both are within one per cent.
fn histogram() -> Result<Subject, libgateway::error::InputError> {
    let values = values();
    let (mut histogram, mut at) = (Histogram::new(7)?, 0);
    Ok(Subject::each("libgateway", move || {
        at = (at + 1) % values.len();
        histogram.record(values[at]);
    }))
}

fn hdr() -> Result<Subject, hdrhistogram::CreationError> {
    let values = values();
    let (mut histogram, mut at) = (HdrHistogram::<u64>::new_with_bounds(1, u64::MAX / 2, 2)?, 0);
    Ok(Subject::each("hdrhistogram", move || {
        at = (at + 1) % values.len();
        let recorded = histogram.record(values[at]);
        assert!(recorded.is_ok());
    }))
}

/// Entries of 64 bytes go out by the thousand and are confirmed.
fn outbox() -> Result<Subject, libgateway::error::InputError> {
    let mut outbox = Outbox::new(OutboxConfig::default())?;
    let now = Timestamp::from_secs(1);
    Ok(Subject::new("libgateway", move |meter, operations| {
        let batches = operations.div_ceil(1_000);
        let confirmed: u32 = meter.measure(batches * 1_000, || {
            let mut confirmed = 0;
            for _ in 0..batches {
                for number in 0..1_000_u64 {
                    assert!(outbox.push([number; 8]).is_ok());
                }
                if let Some(batch) = outbox.take(1_000, now) {
                    if let Ok(entries) = outbox.entries(batch) {
                        entries.for_each(read);
                    }
                    confirmed += outbox.confirm(batch).unwrap_or(0);
                }
            }
            confirmed
        });
        assert_eq!(u64::from(confirmed), batches * 1_000);
    }))
}

/// What the least of it would be: nothing kept until it is confirmed.
fn deque() -> Subject {
    let mut deque = VecDeque::new();
    Subject::new("VecDeque, unconfirmed", move |meter, operations| {
        let batches = operations.div_ceil(1_000);
        meter.measure(batches * 1_000, || {
            for _ in 0..batches {
                for number in 0..1_000_u64 {
                    deque.push_back([number; 8]);
                }
                deque.drain(..).for_each(read);
            }
        });
    })
}

fn read<T>(entry: T) {
    black_box(&entry);
}

const TIMERS: usize = 100_000;
