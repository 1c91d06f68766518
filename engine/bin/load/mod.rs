//! The loader: each row of a CSV file is an event, appended once to the stream that its key column names.
//!
//! An event's value is the row's bytes as they stand in the file; its metadata ([`origin`]) says which file and
//! which row. So what a stream holds of a file can be read from the stream itself: the loader keeps no state of its
//! own, may be stopped or killed anywhere, and run again; a load that is complete adds nothing.
//!
//! Every row is appended with the version expected of its stream. That is what makes it take effect once: a row
//! whose receipt is in doubt is looked for in its stream, and appended again at the version found there; should the
//! first attempt arrive after all, it finds another version and is rejected. Others may write to the same streams,
//! also another load of the same file.
//!
//! [`ledger`] decides (no I/O, no clock), [`session`] does.

mod ledger;
mod origin;
mod pace;
mod session;
mod survey;
mod tail;

pub(crate) use origin::Origin;
pub(crate) use session::{Counters, Ended, LoadOptions, Summary, load};
pub(crate) use survey::{Survey, survey};
