//! What each customer got of the GPUs, against what its weight would give it.
//!
//! The yardstick is the ideal that fair queueing approaches: at an instant, the GPUs that work for a lane are shared by
//! weight among the customers that have jobs in it, and nobody gets more GPUs than it has jobs; what one leaves is
//! shared among the others. It is worked out for samples: as often as things happen, but not so often that it would cost
//! more than a step for each of them.

use std::collections::HashMap;

use libgateway::{Span, Timestamp};

#[derive(Debug)]
pub(crate) struct Shares {
    at: Timestamp,
    sampled: Timestamp,
    /// Things that happened since.
    happened: usize,
    index: HashMap<Box<str>, u32>,
    accounts: Vec<Account>,
    lanes: [Lane; LANES],
}

/// One customer.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: Box<str>,
    pub(super) weight: u32,
    /// GPU-seconds it had.
    pub(super) got: f64,
    /// GPU-seconds that were its due.
    pub(super) due: f64,
    flows: [Flow; LANES],
}

/// A customer's jobs in one lane.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    jobs: u32,
    /// Where it stands among the lane's customers, while it has jobs.
    place: usize,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    /// Customers that have jobs in it, in any order.
    present: Vec<u32>,
    running: u32,
}

/// What a customer asks of a lane.
struct Claim {
    account: u32,
    weight: f64,
    jobs: f64,
}

impl Shares {
    pub(crate) fn new(start: Timestamp) -> Self {
        let lanes = std::array::from_fn(|_| Lane::default());
        Self { at: start, sampled: start, happened: 0, index: HashMap::new(), accounts: Vec::new(), lanes }
    }

    /// The number of a customer's account.
    pub(crate) fn account(&mut self, name: &str, weight: impl FnOnce() -> u32) -> u32 {
        if let Some(account) = self.index.get(name) {
            return *account;
        }
        let account = self.accounts.len() as u32;
        self.index.insert(name.into(), account);
        let flows = [Flow::default(); LANES];
        self.accounts.push(Account { name: name.into(), weight: weight(), got: 0.0, due: 0.0, flows });
        account
    }

    /// Time passes until `at`, when something happens.
    pub(crate) fn pass(&mut self, at: Timestamp) {
        self.at = at;
        self.happened += 1;
        let present: usize = self.lanes.iter().map(|lane| lane.present.len()).sum();
        if self.happened < present || at == self.sampled {
            return;
        }
        let passed = seconds(at.since(self.sampled));
        (self.sampled, self.happened) = (at, 0);
        for (number, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.running > 0) {
            let claims = lane.present.iter().map(|number_of| {
                let account = &self.accounts[*number_of as usize];
                Claim { account: *number_of, weight: account.weight.into(), jobs: account.flows[number].jobs.into() }
            });
            for (account, gpus) in ideal(claims.collect(), lane.running.into()) {
                self.accounts[account as usize].due += gpus * passed;
            }
        }
    }

    /// A job of the customer came into a lane.
    pub(crate) fn came(&mut self, account: u32, lane: u8) {
        let flow = &mut self.accounts[account as usize].flows[usize::from(lane)];
        if flow.jobs == 0 {
            let present = &mut self.lanes[usize::from(lane)].present;
            flow.place = present.len();
            present.push(account);
        }
        flow.jobs += 1;
    }

    /// A job of the customer ended.
    pub(crate) fn left(&mut self, account: u32, lane: u8) {
        let lane = usize::from(lane);
        let flow = &mut self.accounts[account as usize].flows[lane];
        flow.jobs = flow.jobs.saturating_sub(1);
        if flow.jobs == 0 {
            let place = flow.place;
            let present = &mut self.lanes[lane].present;
            present.swap_remove(place);
            if let Some(moved) = present.get(place) {
                self.accounts[*moved as usize].flows[lane].place = place;
            }
        }
    }

    /// A GPU began to work for a lane.
    pub(crate) fn started(&mut self, lane: u8) {
        self.lanes[usize::from(lane)].running += 1;
    }

    /// A GPU ended its work of so long for a customer.
    pub(crate) fn stopped(&mut self, account: u32, lane: u8, worked: Span) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.running = lane.running.saturating_sub(1);
        self.accounts[account as usize].got += seconds(worked);
    }

    /// The customers that had most, most first.
    pub(super) fn top(&self, max: usize) -> Vec<&Account> {
        let mut accounts: Vec<&Account> = self.accounts.iter().collect();
        accounts.sort_by(|one, other| other.got.total_cmp(&one.got).then_with(|| one.name.cmp(&other.name)));
        accounts.truncate(max);
        accounts
    }

    pub(super) fn accounts(&self) -> &[Account] {
        &self.accounts
    }
}

/// GPUs for each: by weight, and nobody more than it has jobs for. Whoever is content earliest is served first, so that
/// what it leaves is shared among those after it.
fn ideal(mut claims: Vec<Claim>, gpus: f64) -> impl Iterator<Item = (u32, f64)> {
    claims.sort_by(|one, other| (one.jobs / one.weight).total_cmp(&(other.jobs / other.weight)));
    let mut weights: f64 = claims.iter().map(|claim| claim.weight).sum();
    let mut left = gpus;
    claims.into_iter().map(move |claim| {
        let given = claim.jobs.min(left * claim.weight / weights);
        left -= given;
        weights -= claim.weight;
        (claim.account, given)
    })
}

fn seconds(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e9
}

const LANES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_shared_by_weight_and_none_beyond_what_is_asked() {
        let claim = |account, weight, jobs| Claim { account, weight, jobs };
        let shared = |claims| ideal(claims, 12.0).collect::<Vec<_>>();
        assert_eq!(shared(vec![claim(0, 1.0, 50.0), claim(1, 3.0, 50.0)]), [(1, 9.0), (0, 3.0)]);
        assert_eq!(shared(vec![claim(0, 1.0, 50.0), claim(1, 3.0, 2.0)]), [(1, 2.0), (0, 10.0)]);
    }

    #[test]
    fn what_is_due_adds_up_to_what_was_worked() {
        let at = Timestamp::from_secs;
        let mut shares = Shares::new(at(0));
        let (light, heavy) = (shares.account("light", || 1), shares.account("heavy", || 3));
        assert_eq!(shares.account("light", || 9), light);
        for account in [light, light, heavy, heavy, heavy] {
            shares.came(account, 1);
        }
        (0..4).for_each(|_| shares.started(1));
        // Something happens often enough that a sample is taken.
        (0..2).for_each(|_| shares.pass(at(10)));
        for account in [light, heavy, heavy, heavy] {
            shares.stopped(account, 1, Span::from_secs(10));
            shares.left(account, 1);
        }
        let due: Vec<_> = shares.accounts().iter().map(|account| account.due).collect();
        assert_eq!(due, [10.0, 30.0]);
        assert_eq!(shares.top(1)[0].name, "heavy".into());
        assert_eq!(shares.lanes[1].present, [light]);
        shares.left(light, 1);
        assert!(shares.lanes[1].present.is_empty());
    }
}
