//! The place of an item as one number, and what orders such numbers.

/// How customers of one lane follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ordering {
    /// Start-time fair queueing by weight and cost.
    #[default]
    Fair,
    /// Arrival order, whoever it is.
    Fifo,
}

/// What an item brings when it enters the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrant {
    pub(crate) customer: u32,
    pub(crate) route: u32,
    pub(crate) lane: u8,
    /// Unique, rising in order of arrival.
    pub(crate) sequence: u64,
    /// Expected cost, for the gateway in nanoseconds of GPU time.
    pub(crate) cost: u64,
    /// Share of the customer, at least 1.
    pub(crate) weight: u32,
    /// Whether it stands on its own. Else it stands in its flow's line.
    pub(crate) alone: bool,
    /// Whether it comes for the first time, so that nothing that waits is younger.
    pub(crate) fresh: bool,
    /// Whether it may be served.
    pub(crate) ready: bool,
}

/// A place in service order: lane, virtual start time, sequence number. The lower is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u128);

impl Key {
    /// A key of its parts; each is clamped to its width.
    pub(crate) fn new(lane: u8, tag: u128, sequence: u64) -> Self {
        let lane = u128::from(lane).min(LANE_MAX);
        Self(
            lane << (TAG_BITS + SEQUENCE_BITS)
                | tag.min(TAG_MAX) << SEQUENCE_BITS
                | u128::from(sequence & SEQUENCE_MAX),
        )
    }

    pub(crate) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    /// The lane, 0 is served first.
    pub fn lane(self) -> u8 {
        (self.0 >> (TAG_BITS + SEQUENCE_BITS)) as u8
    }

    /// The sequence number of arrival.
    pub fn sequence(self) -> u64 {
        self.0 as u64 & SEQUENCE_MAX
    }

    pub(crate) fn tag(self) -> u128 {
        self.0 >> SEQUENCE_BITS & TAG_MAX
    }
}

/// Lanes of a queue.
pub(crate) const LANES: usize = 3;
/// 82 bits: ten thousand GPUs that work without a pause for one customer of weight 1 fill them in 15 years, at a scale of 10.
/// Beyond that tags saturate and order of arrival decides.
const TAG_BITS: u32 = 82;
pub(crate) const TAG_MAX: u128 = (1 << TAG_BITS) - 1;
/// 44 bits of sequence: at ten thousand items a second, some 55 years.
const SEQUENCE_BITS: u32 = 44;
pub(crate) const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const LANE_MAX: u128 = 3;
