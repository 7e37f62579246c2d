//! The store against what it promises, and against a map that does the same slowly.

use std::collections::BTreeMap;
use std::string::ToString;

use proptest::prelude::*;

use super::*;
use crate::coded::Coded;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn store(config: JobStoreConfig) -> JobStore {
    JobStore::new(config, at(0))
}

fn id(n: u128) -> JobId {
    JobId::from_entropy(n)
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u8),
    Start(u8),
    Complete(u8, u32),
    Fail(u8, u32),
    Requeue(u8, u32),
    Cancel(u8),
    Delete(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let (job, attempt) = (0..6_u8, 0..4_u32);
    prop_oneof![
        2 => job.clone().prop_map(Op::Insert),
        3 => job.clone().prop_map(Op::Start),
        2 => (job.clone(), attempt.clone()).prop_map(|(job, attempt)| Op::Complete(job, attempt)),
        1 => (job.clone(), attempt.clone()).prop_map(|(job, attempt)| Op::Fail(job, attempt)),
        2 => (job.clone(), attempt).prop_map(|(job, attempt)| Op::Requeue(job, attempt)),
        1 => job.clone().prop_map(Op::Cancel),
        1 => job.prop_map(Op::Delete),
    ]
}

proptest! {
    #[test]
    fn a_job_moves_only_as_its_table_says_and_only_by_its_present_attempt(ops in prop::collection::vec(op(), 1..200)) {
        let mut store = store(JobStoreConfig::default());
        let mut model: BTreeMap<u8, (JobState, u32)> = BTreeMap::new();
        let failure = || JobFailure { class: FailureClass::Backend, message: "x".into(), retriable: false };
        for op in ops {
            let (job, event, attempt) = match op {
                Op::Insert(job) => {
                    let known = model.contains_key(&job);
                    prop_assert_eq!(store.insert(at(1), NewJob::new(id(job.into()), "acme")).is_err(), known);
                    model.entry(job).or_insert((JobState::Queued, 0));
                    continue;
                }
                Op::Start(job) => (job, JobEvent::Lease, None),
                Op::Complete(job, attempt) => (job, JobEvent::Succeed, Some(attempt)),
                Op::Fail(job, attempt) => (job, JobEvent::Fail, Some(attempt)),
                Op::Requeue(job, attempt) => (job, JobEvent::Requeue, Some(attempt)),
                Op::Cancel(job) => (job, JobEvent::Cancel, None),
                Op::Delete(job) => (job, JobEvent::Forget, None),
            };
            let before = model.get(&job).copied();
            let allowed = before.and_then(|(state, present)| {
                state.after(event).filter(|_| attempt.is_none_or(|attempt| attempt == present))
            });
            let (name, number) = (id(job.into()), attempt.unwrap_or(0));
            let result = match event {
                JobEvent::Lease => store.start(at(1), name).map(|_| ()),
                JobEvent::Succeed => store.complete(at(1), name, number, Output::url("x")),
                JobEvent::Fail => store.fail(at(1), name, number, failure()),
                JobEvent::Requeue => store.requeue(at(1), name, number),
                JobEvent::Cancel => store.cancel(at(1), name),
                JobEvent::Forget => store.delete(at(1), name),
            };
            prop_assert_eq!(result.is_ok(), allowed.is_some(), "{:?} of {:?}", event, before);
            match (allowed, before) {
                (Some(_), _) if event == JobEvent::Forget => _ = model.remove(&job),
                (Some(state), Some((_, present))) => {
                    _ = model.insert(job, (state, present + u32::from(event == JobEvent::Lease)));
                }
                _ => {}
            }
            store.check_invariants();
            for job in 0..6 {
                let told = store.get(id(job.into())).map(|job| (job.state, job.attempt));
                prop_assert_eq!(told, model.get(&job).copied());
            }
        }
    }
}

#[test]
fn the_four_clocks_run_out_at_their_instant_and_not_before() {
    let span = |secs| Some(Span::from_secs(secs));
    let none = Timeouts::NONE;
    let waiting = [
        (Timeouts { queue: span(5), ..none }, CancelReason::QueueTimeout),
        (Timeouts { start: span(5), ..none }, CancelReason::StartTimeout),
        (Timeouts { total: span(5), ..none }, CancelReason::TotalTimeout),
    ];
    let last = Timestamp::from_nanos(at(5).as_nanos() - 1);
    for (timeouts, reason) in waiting {
        let mut store = store(JobStoreConfig::default());
        store.insert(at(0), NewJob::new(id(1), "acme").timeouts(timeouts)).unwrap();
        assert_eq!(store.next_deadline(), Some(at(5)));
        assert_eq!(store.handle_timeout(last), 0);
        assert_eq!(store.handle_timeout(at(5)), 1);
        assert_eq!(store.get(id(1)).unwrap().outcome, Some(Outcome::Cancelled(reason)));
    }
    let mut store = store(JobStoreConfig::default().timeouts(Timeouts { run: span(5), ..none }));
    store.insert(at(0), NewJob::new(id(1), "acme")).unwrap();
    assert_eq!(store.next_deadline(), None);
    store.start(at(0), id(1)).unwrap();
    assert_eq!(store.handle_timeout(last), 0);
    assert_eq!(store.handle_timeout(at(9)), 1);
    let job = store.get(id(1)).unwrap();
    assert_eq!((job.state, job.finished), (JobState::Error, Some(at(5))));
}

#[test]
fn a_clock_runs_out_when_it_has_lasted_after_any_step_of_the_hosts() {
    let span = |secs| Some(Span::from_secs(secs));
    for (made, stepped) in [(1_000_028_800, 1_000_000_030), (1_000_000_000, 0), (1_000_000_000, 999_999_999)] {
        let mut store = JobStore::new(JobStoreConfig::default(), at(made));
        let timeouts = Timeouts { queue: span(30), ..Timeouts::NONE };
        store.insert(at(made), NewJob::new(id(1), "acme").timeouts(timeouts)).unwrap();
        assert_eq!(store.handle_timeout(at(stepped)), 0);
        assert_eq!(store.next_deadline(), Some(at(stepped + 30)));
        assert_eq!(store.handle_timeout(at(stepped + 29)), 0);
        assert_eq!(store.handle_timeout(at(stepped + 30)), 1);
        assert_eq!(store.get(id(1)).unwrap().finished, Some(at(stepped + 30)));
    }
    let mut store = JobStore::new(JobStoreConfig::default(), Timestamp::MAX);
    let timeouts = Timeouts { queue: span(30), ..Timeouts::NONE };
    store.insert(at(5), NewJob::new(id(1), "acme").timeouts(timeouts)).unwrap();
    assert_eq!((store.handle_timeout(at(34)), store.handle_timeout(at(35))), (0, 1));
}

#[test]
fn ended_jobs_leave_at_their_time_or_when_they_are_too_many() {
    let mut store = store(JobStoreConfig::default().retain_for(Span::from_secs(10)).retained_max(2));
    for n in 1..=3 {
        store.insert(at(n), NewJob::new(id(n.into()), "acme").idempotency_key(&n.to_string())).unwrap();
        store.cancel(at(n), id(n.into())).unwrap();
    }
    assert_eq!((store.get(id(1)), store.count(JobState::Cancelled)), (None, 2));
    assert_eq!(store.by_key("acme", "1"), Some(id(1)), "its key stays");
    assert_eq!(store.next_deadline(), Some(at(12)));
    store.handle_timeout(at(12));
    assert_eq!((store.get(id(2)), store.get(id(3)).is_some()), (None, true));
    store.handle_timeout(at(13));
    store.check_invariants();
    assert_eq!(store.customers.len(), 0);
}

#[test]
fn a_key_stands_for_its_job_until_its_own_time_is_over_whatever_became_of_the_record() {
    let config = JobStoreConfig::default().retained_max(0).idempotency_for(Span::from_secs(10));
    let mut store = store(config);
    let job = |n, payload: &'static str| NewJob::new(id(n), "acme").payload(payload).idempotency_key("k");
    store.insert(at(1), job(1, "a")).unwrap();
    store.cancel(at(5), id(1)).unwrap();
    assert_eq!((store.get(id(1)), store.customers.len()), (None, 0));
    let last = Timestamp::from_nanos(at(15).as_nanos() - 1);
    assert_eq!(store.insert(last, job(2, "a")), Ok(id(1)));
    assert_eq!(store.insert(last, job(2, "b")), Err(SubmitError::IdempotencyConflict { job: id(1) }));
    assert_eq!(store.insert(at(15), job(2, "b")), Ok(id(2)));
    store.check_invariants();
}

#[test]
fn the_key_whose_job_ended_first_leaves_first_and_that_of_a_live_job_never() {
    let mut store = store(JobStoreConfig::default().idempotency_keys_max(2));
    let keys = ["1", "2", "3", "4", "5"];
    for (n, key) in keys.iter().enumerate() {
        store.insert(at(1), NewJob::new(id(n as u128), "acme").idempotency_key(key)).unwrap();
    }
    for n in [3, 1, 2] {
        store.cancel(at(2), id(n)).unwrap();
    }
    let known = |store: &JobStore| keys.map(|key| store.by_key("acme", key).is_some());
    assert_eq!(known(&store), [true, true, true, false, true]);
    store.check_invariants();
    let mut none = self::store(JobStoreConfig::default().idempotency_keys_max(0));
    none.insert(at(1), NewJob::new(id(1), "acme").idempotency_key("1")).unwrap();
    assert_eq!(none.by_key("acme", "1"), Some(id(1)), "it lives");
    none.cancel(at(1), id(1)).unwrap();
    assert_eq!(none.by_key("acme", "1"), None);
}

#[test]
fn keys_of_failed_and_cancelled_jobs_are_free_again_where_that_is_the_policy() {
    for (failed, cancelled) in [(false, false), (true, false), (false, true), (true, true)] {
        let config = JobStoreConfig::default().idempotency_free_failed(failed).idempotency_free_cancelled(cancelled);
        let mut store = store(config);
        for (n, key) in ["failed", "cancelled", "complete"].into_iter().enumerate() {
            store.insert(at(1), NewJob::new(id(n as u128), "acme").idempotency_key(key)).unwrap();
        }
        let attempt = store.start(at(1), id(0)).unwrap();
        let failure = JobFailure { class: FailureClass::Backend, message: "x".into(), retriable: false };
        store.fail(at(1), id(0), attempt, failure).unwrap();
        store.cancel(at(1), id(1)).unwrap();
        let attempt = store.start(at(1), id(2)).unwrap();
        store.complete(at(1), id(2), attempt, Output::url("x")).unwrap();
        let free = ["failed", "cancelled", "complete"].map(|key| store.by_key("acme", key).is_none());
        assert_eq!(free, [failed, cancelled, false]);
        store.check_invariants();
    }
}

#[test]
fn outputs_and_messages_that_are_too_many_bytes_leave_the_oldest_first() {
    let mut store = store(JobStoreConfig::default().retained_bytes_max(10));
    for (n, output) in ["12345", "1234", "12", "12345678901"].into_iter().enumerate() {
        let n = n as u128;
        store.insert(at(1), NewJob::new(id(n), "acme")).unwrap();
        let attempt = store.start(at(1), id(n)).unwrap();
        store.complete(at(1), id(n), attempt, Output::url(output)).unwrap();
        store.check_invariants();
        let kept = (0..4).map(|n| store.get(id(n)).is_some());
        let kept: std::vec::Vec<bool> = kept.collect();
        let expected = match n {
            0 => [true, false, false, false],
            1 => [true, true, false, false],
            2 => [false, true, true, false],
            _ => [false; 4],
        };
        assert_eq!(kept, expected, "after {output}");
    }
}

#[test]
fn equal_keys_are_one_job_and_another_payload_is_a_conflict() {
    let mut store = store(JobStoreConfig::default().jobs_max(1));
    let job = |n, payload: &'static str| NewJob::new(id(n), "acme").payload(payload).idempotency_key("k");
    assert_eq!(store.insert(at(0), job(1, "a")), Ok(id(1)));
    assert_eq!(store.insert(at(0), job(2, "a")), Ok(id(1)));
    assert_eq!(store.insert(at(0), job(2, "b")), Err(SubmitError::IdempotencyConflict { job: id(1) }));
    let full = store.insert(at(0), NewJob::new(id(3), "other")).unwrap_err();
    assert_eq!((full.number(), full.field()), (301, Some("jobs")));
    assert_eq!(store.customers.len(), 1);
}
