//! The plain log thread, each record waited for.

use super::{Append, DurableLog};
use crate::plain::PlainLog;
use anyhow::Result;

impl DurableLog for PlainLog {
    fn producer(&self, _number: u64) -> Result<Box<dyn Append + '_>> {
        Ok(Box::new(self))
    }
}

impl Append for &PlainLog {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        PlainLog::append(self, record)?.wait()
    }
}
