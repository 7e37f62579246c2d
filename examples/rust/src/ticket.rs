//! What a simulated request carries to the worker that runs it: its body, as far as the gateway knows.
//!
//! The gateway hands a payload on unread, with every lease anew. So the plan of a job travels with the job, and the
//! replay keeps nothing about jobs that wait.

use libgateway::{GpuNanos, Payload, Priority, Timestamp};

/// The plan of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// When the trace has it arrive.
    pub(crate) arrived: Timestamp,
    /// GPU time of an attempt that delivers.
    pub(crate) gpu: GpuNanos,
    /// The lane it waits in.
    pub(crate) priority: Priority,
    /// What becomes of its first attempts; further ones deliver.
    pub(crate) fates: [Fate; FATES],
}

/// What becomes of one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It delivers after its GPU time.
    #[default]
    Deliver,
    /// The backend reports a failure after the GPU time, and that trying again would not help.
    Fail,
    /// The backend is overloaded and says so after a quarter of the GPU time.
    Busy,
    /// No answer comes within the GPU time.
    Timeout,
    /// The worker vanishes at once.
    Vanish,
    /// The worker falls silent, and delivers when its lease has long ended.
    Late,
}

impl Ticket {
    /// What becomes of an attempt, counted from 1.
    pub(crate) fn fate(&self, attempt: u32) -> Fate {
        let index = attempt.saturating_sub(1) as usize;
        self.fates.get(index).copied().unwrap_or_default()
    }

    /// The plan as a job's body.
    pub(crate) fn to_payload(self) -> Payload {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.arrived.as_nanos().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.gpu.as_nanos().to_le_bytes());
        bytes[16] = self.priority.lane();
        for (byte, fate) in bytes[17..].iter_mut().zip(self.fates) {
            *byte = fate as u8;
        }
        Payload::from(&bytes)
    }

    /// The plan back from a lease.
    pub(crate) fn from_payload(payload: &Payload) -> Option<Self> {
        let bytes = <&[u8; LEN]>::try_from(payload.as_bytes()).ok()?;
        let number = |from: usize| bytes[from..from + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let mut fates = [Fate::Deliver; FATES];
        for (fate, byte) in fates.iter_mut().zip(&bytes[17..]) {
            *fate = *ALL.get(usize::from(*byte))?;
        }
        Some(Self {
            arrived: Timestamp::from_nanos(number(0)),
            gpu: GpuNanos::from_nanos(number(8)),
            priority: Priority::from_lane(bytes[16]),
            fates,
        })
    }
}

/// Attempts whose fate a ticket names.
pub(crate) const FATES: usize = 4;
/// By number.
const ALL: [Fate; 6] = [Fate::Deliver, Fate::Fail, Fate::Busy, Fate::Timeout, Fate::Vanish, Fate::Late];
const LEN: usize = 17 + FATES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_comes_back_as_it_was_sent() {
        for (at, fate) in ALL.iter().enumerate() {
            let mut ticket = Ticket {
                arrived: Timestamp::from_nanos(u64::MAX - 7),
                gpu: GpuNanos::from_nanos(1 << 40 | 5),
                priority: Priority::Low,
                fates: [Fate::Deliver; FATES],
            };
            ticket.fates[at % FATES] = *fate;
            assert_eq!(Ticket::from_payload(&ticket.to_payload()), Some(ticket));
            assert_eq!(ticket.fate(at as u32 % FATES as u32 + 1), *fate);
            assert_eq!(ticket.fate(FATES as u32 + 1), Fate::Deliver);
        }
        assert_eq!(Ticket::from_payload(&Payload::from("{}")), None);
    }
}
