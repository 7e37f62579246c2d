//! The report: one page that needs nothing but itself. Floats are for drawing; nothing computed here goes back.
#![expect(clippy::float_arithmetic, reason = "pixels are no decisions")]

mod axis;
mod charts;
mod html;
mod page;
mod series;
mod shares;
mod svg;
mod words;

pub(crate) use page::page;
pub(crate) use series::{Series, Tick};
pub(crate) use shares::Shares;
