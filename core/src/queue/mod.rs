//! The queue: lanes, fair shares, exact ranks.

mod accounts;
mod fair;
mod key;
mod places;
mod rank;

pub(crate) use accounts::Precision;
pub use fair::{FairQueue, FairQueueConfig, Ticket};
pub(crate) use key::{Entrant, LANES, SEQUENCE_MAX, TAG_MAX};
pub use key::{Key, Ordering};
pub(crate) use places::Places;
pub use rank::{RankIter, RankTree, TreeId};
