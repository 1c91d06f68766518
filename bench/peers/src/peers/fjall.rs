//! fjall: an insert, then `persist` with `SyncData`.

use super::{Append, DurableLog};
use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

struct Fjall {
    db: Database,
    keyspace: Keyspace,
}

pub(super) fn open(directory: &Path) -> Result<impl DurableLog + use<>> {
    let db = Database::builder(directory.join("fjall")).manual_journal_persist(true).open()?;
    let keyspace = db.keyspace("log", KeyspaceCreateOptions::default)?;
    Ok(Fjall { db, keyspace })
}

struct Writer<'a> {
    log: &'a Fjall,
    number: u64,
    count: u64,
}

impl DurableLog for Fjall {
    fn producer(&self, number: u64) -> Result<Box<dyn Append + '_>> {
        Ok(Box::new(Writer { log: self, number, count: 0 }))
    }
}

impl Append for Writer<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.count += 1;
        let mut key = [0; 16];
        let (front, back) = key.split_at_mut(8);
        front.copy_from_slice(&self.number.to_le_bytes());
        back.copy_from_slice(&self.count.swap_bytes().to_le_bytes());
        self.log.keyspace.insert(key, record)?;
        self.log.db.persist(PersistMode::SyncData)?;
        Ok(())
    }
}
