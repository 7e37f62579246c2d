//! The queue: lanes, fair shares, exact ranks.

mod fair;
mod places;
mod rank;
mod shares;

pub use fair::{FairQueue, FairQueueConfig, Ticket};
pub(crate) use places::{Entrant, LANES, Places, Removed, SEQUENCE_MAX, TAG_MAX, stride};
pub use places::{Key, Ordering};
pub use rank::{RankIter, RankTree, TreeId};
pub(crate) use shares::Share;
