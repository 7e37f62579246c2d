//! The queue: lanes, fair shares, exact ranks.

mod accounts;
mod fair;
mod places;
mod rank;

pub(crate) use accounts::Precision;
pub use fair::{FairQueue, FairQueueConfig, Ticket};
pub(crate) use places::{Entrant, LANES, Places, SEQUENCE_MAX, TAG_MAX};
pub use places::{Key, Ordering};
pub use rank::{RankIter, RankTree, TreeId};
