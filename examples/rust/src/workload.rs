//! The built-in trace: two hours of a service that makes images, as its seed decides.
//!
//! Some 3 000 customers with a heavy tail of demand, in three tiers; demand that swells beyond what the GPUs can do and
//! ebbs again; two customers that send everything at once; models of unequal fame; overloaded backends, timeouts, lost
//! workers and workers that answer too late; customers that lose patience, and clients that ask twice.

use libgateway::{BackendKind, CustomerPolicy, FailureClass, GpuNanos, Priority, Route, Span, Timestamp, error};

use crate::random::Random;
use crate::ticket::{FATES, Fate};
use crate::trace::{Request, Served};

/// Requests made up as they are asked for.
#[derive(Debug)]
pub(crate) struct Workload {
    random: Random,
    at: Timestamp,
    customers: Vec<Customer>,
    /// Sums of the shares of demand up to each customer.
    demand: Vec<u64>,
    /// And up to each model.
    fame: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Customer {
    name: String,
    tier: Tier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Free,
    Team,
    Pro,
}

/// A model: its name, milliseconds of GPU time for one image, and its share of the requests.
struct Model {
    name: &'static str,
    millis: u64,
    fame: u64,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let customers = (0..CUSTOMERS).map(|number| {
            let tier = match number % 20 {
                2 => Tier::Pro,
                1 | 7 | 11 | 16 => Tier::Team,
                _ => Tier::Free,
            };
            Customer { name: format!("customer-{number:04}"), tier }
        });
        let customers = customers.collect();
        Self {
            customers,
            demand: sums((0..CUSTOMERS).map(|rank| 1_000_000_000 / (rank + 8))),
            fame: sums(MODELS.iter().map(|model| model.fame)),
            at: START,
            random: Random::new(seed),
        }
    }

    pub(crate) fn served(&self) -> Served {
        Served { modality: "image", family: "sd", kind: BackendKind::Torch }
    }

    /// Customers that pay for more than one share.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (&str, CustomerPolicy)> {
        self.customers.iter().filter_map(|customer| match customer.tier {
            Tier::Free => None,
            Tier::Team => Some((customer.name.as_str(), CustomerPolicy::default().weight(2).tier("team"))),
            Tier::Pro => Some((customer.name.as_str(), CustomerPolicy::default().weight(4).tier("pro"))),
        })
    }

    /// What a GPU, counted from 0, answers to anything while it is broken.
    pub(crate) fn broken(&self, gpu: usize, now: Timestamp) -> Option<FailureClass> {
        let since = now.since(START);
        (gpu == 2 && since >= minutes(50) && since < minutes(56)).then_some(FailureClass::Connection)
    }

    /// How far it is, in parts per million.
    pub(crate) fn progress_ppm(&self) -> u64 {
        let done = u128::from(self.at.since(START).as_nanos()) * 1_000_000 / u128::from(LENGTH.as_nanos());
        done.min(1_000_000) as u64
    }

    /// The next request, or `None` when the two hours are over.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, error::InputError> {
        loop {
            self.at += STEP;
            let since = self.at.since(START);
            if since >= LENGTH {
                return Ok(None);
            }
            let burst = BURSTS.iter().find(|burst| burst.lasts(since));
            if let Some(burst) = burst.filter(|burst| self.random.chance(burst.chance_ppm)) {
                return self.request(burst.customer).map(Some);
            }
            if self.random.chance(chance_ppm(since)) {
                let customer = pick(&self.demand, &mut self.random);
                return self.request(customer).map(Some);
            }
        }
    }

    fn request(&mut self, customer: usize) -> Result<Request, error::InputError> {
        let random = &mut self.random;
        let model = &MODELS[pick(&self.fame, random)];
        let customer = &self.customers[customer];
        let task = match random.below(100) {
            0..=79 => "t2i",
            80..=94 => "i2i",
            _ => "edit",
        };
        let priority = match (customer.tier, random.below(100)) {
            (Tier::Pro, 0..=39) | (Tier::Team, 0..=9) => Priority::High,
            (Tier::Free, 0..=24) | (Tier::Team, 10..=19) => Priority::Low,
            _ => Priority::Normal,
        };
        let images = [1, 1, 1, 2, 2, 4][random.below(6) as usize];
        // Nine in ten are near the mean; of the rest some take very long.
        let stretch = if random.chance(100_000) { random.between(1_500, 6_000) } else { random.between(700, 1_200) };
        let expected = GpuNanos::from_millis(model.millis * images);
        let route = Route::parse(&format!("image/sd/{}/{task}", model.name))?.into_owned();
        Ok(Request {
            at: self.at + Span::from_nanos(random.below(STEP.as_nanos())),
            customer: customer.name.clone(),
            affinity: Some(model.name.to_owned()),
            route,
            priority,
            estimate: expected,
            gpu: GpuNanos::from_nanos(expected.as_nanos() / 1_000 * stretch),
            fates: fates(random),
            cancel_after: random.chance(20_000).then(|| Span::from_millis(random.between(500, 60_000))),
            resend_after: random.chance(10_000).then(|| Span::from_millis(random.between(200, 3_000))),
        })
    }
}

/// What becomes of the first attempts: once something went wrong, it is more likely to go wrong again.
fn fates(random: &mut Random) -> [Fate; FATES] {
    let mut fates = [Fate::Deliver; FATES];
    for (attempt, fate) in fates.iter_mut().enumerate() {
        let trouble = if attempt == 0 { 28_000 } else { 200_000 };
        if !random.chance(trouble) {
            break;
        }
        *fate = match random.below(100) {
            0..=54 => Fate::Busy,
            55..=69 => Fate::Timeout,
            70..=79 => Fate::Vanish,
            80..=84 => Fate::Late,
            _ => Fate::Fail,
        };
    }
    fates
}

/// How likely a request is within one step: it swells and ebbs evenly, three times in two hours.
fn chance_ppm(since: Span) -> u64 {
    let period = minutes(40).as_nanos();
    let phase = since.as_nanos() % period;
    let away = phase.min(period - phase);
    CHANCE_LOW + (CHANCE_HIGH - CHANCE_LOW) * (away / 1_000_000) / (period / 2_000_000)
}

/// The running sums of shares.
fn sums(shares: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sum = 0;
    shares
        .map(|share| {
            sum += share;
            sum
        })
        .collect()
}

/// An index, each as likely as its share.
fn pick(sums: &[u64], random: &mut Random) -> usize {
    let total = sums.last().copied().unwrap_or(0);
    let at = random.below(total);
    sums.partition_point(|sum| *sum <= at)
}

const fn minutes(minutes: u64) -> Span {
    Span::from_secs(minutes * 60)
}

struct Burst {
    customer: usize,
    from: Span,
    length: Span,
    chance_ppm: u64,
}

impl Burst {
    fn lasts(&self, since: Span) -> bool {
        since >= self.from && since < self.from.saturating_add(self.length)
    }
}

/// 2026-01-01 00:00:00 UTC.
const START: Timestamp = Timestamp::from_secs(1_767_225_600);
const LENGTH: Span = minutes(120);
const STEP: Span = Span::from_millis(10);
const CUSTOMERS: u64 = 3_000;
const CHANCE_LOW: u64 = 18_000;
const CHANCE_HIGH: u64 = 50_000;
const BURSTS: [Burst; 2] = [
    Burst { customer: 4, from: minutes(33), length: Span::from_secs(40), chance_ppm: 120_000 },
    Burst { customer: 11, from: minutes(86), length: Span::from_secs(60), chance_ppm: 100_000 },
];
const MODELS: [Model; 9] = [
    Model { name: "sdxl", millis: 2_400, fame: 400 },
    Model { name: "sd15", millis: 1_000, fame: 240 },
    Model { name: "dreamlike", millis: 1_200, fame: 150 },
    Model { name: "anime-v4", millis: 1_300, fame: 100 },
    Model { name: "photoreal", millis: 2_800, fame: 70 },
    Model { name: "sdxl-turbo", millis: 500, fame: 60 },
    Model { name: "logo", millis: 1_500, fame: 30 },
    Model { name: "architecture", millis: 3_200, fame: 20 },
    Model { name: "pixel-art", millis: 900, fame: 10 },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64) -> Vec<Request> {
        let mut workload = Workload::new(seed);
        std::iter::from_fn(|| workload.next().unwrap()).collect()
    }

    #[test]
    fn the_seed_decides_and_requests_come_in_order() {
        let (one, again, two) = (all(1), all(1), all(2));
        let shape =
            |requests: &[Request]| requests.iter().map(|r| (r.at, r.customer.clone(), r.gpu)).collect::<Vec<_>>();
        assert_eq!(shape(&one), shape(&again));
        assert_ne!(shape(&one), shape(&two));
        assert!(one.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn it_has_a_heavy_tail_and_every_kind_of_trouble() {
        let requests = all(1);
        let mut by_customer = std::collections::BTreeMap::<_, u64>::new();
        for request in &requests {
            *by_customer.entry(request.customer.as_str()).or_default() += 1;
        }
        let mut counts: Vec<u64> = by_customer.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: u64 = counts.iter().take(counts.len() / 100).sum();
        assert!(counts.len() > 2_000, "{} customers", counts.len());
        assert!(
            top * 4 > requests.len() as u64,
            "one in a hundred customers sends a quarter: {top} of {}",
            requests.len()
        );
        for fate in [Fate::Fail, Fate::Busy, Fate::Timeout, Fate::Vanish, Fate::Late] {
            assert!(requests.iter().any(|request| request.fates[0] == fate), "{fate:?}");
        }
        assert!(requests.iter().any(|request| request.cancel_after.is_some()));
        assert!(requests.iter().any(|request| request.resend_after.is_some()));
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            assert!(requests.iter().any(|request| request.priority == priority), "{priority:?}");
        }
    }
}
