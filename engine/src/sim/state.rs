//! The state of a simulated node: in memory, or in a real RocksDB beside that, which must never say anything else.

use crate::state::{ChangeSet, Family, MemStore, Order, Store, StoreError, View, Visitor};
#[cfg(feature = "node")]
use {crate::state::CrashingStore, std::ops::ControlFlow};

/// Where simulated nodes keep their states.
///
/// ```
/// use towline::sim::{StateKind, run_seed_with};
/// assert_eq!(StateKind::default(), StateKind::Memory);
/// let run = run_seed_with(7, StateKind::Memory, false)?;
/// assert_eq!(run.violation, None);
/// // Both leave the same trace; a program without RocksDB says that it has none.
/// assert_eq!(StateKind::Rocksdb.is_here(), cfg!(feature = "node"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
#[non_exhaustive]
pub enum StateKind {
    /// In memory.
    #[default]
    Memory,
    /// In RocksDB, in temporary directories; in memory as well, and each read is compared.
    Rocksdb,
}

impl StateKind {
    /// Whether this build has it.
    #[must_use]
    pub const fn is_here(self) -> bool {
        matches!(self, Self::Memory) || cfg!(feature = "node")
    }

    /// Nothing but a sentence, if this build does not have it.
    pub(super) fn check(self) -> Result<(), String> {
        if self.is_here() {
            return Ok(());
        }
        Err("this program was built without RocksDB: `towline sim` has it, `towline-sim` alone does not".to_owned())
    }
}

/// A state that may be in RocksDB, too. Memory is the measure: what RocksDB shows, also after a crash, is what it shows.
#[derive(Debug, Default)]
pub(super) struct SimStore {
    memory: MemStore,
    #[cfg(feature = "node")]
    rocks: Option<CrashingStore>,
}

impl SimStore {
    /// An empty one. RocksDB that can't make one is no finding about the node: a broken promise of this machine, and the seed ends.
    pub(super) fn new(kind: StateKind) -> Self {
        let memory = MemStore::new();
        #[cfg(feature = "node")]
        return Self { memory, rocks: (kind == StateKind::Rocksdb).then(|| made(CrashingStore::new())) };
        #[cfg(not(feature = "node"))]
        {
            assert!(kind.is_here(), "it was asked for by nobody who was told");
            Self { memory }
        }
    }

    /// An empty one, in the same place.
    pub(super) fn emptied(&self) -> Self {
        #[cfg(feature = "node")]
        if self.rocks.is_some() {
            return Self::new(StateKind::Rocksdb);
        }
        Self::default()
    }

    /// Of what is in memory: what RocksDB shows is compared with that.
    pub(super) const fn running_digest(&self) -> u128 {
        self.memory.running_digest()
    }

    /// Makes everything so far survive a crash.
    pub(super) fn flush(&mut self) {
        self.memory.flush();
        #[cfg(feature = "node")]
        if let Some(rocks) = &self.rocks {
            made(rocks.flush());
        }
    }

    /// Goes back to the last flush.
    pub(super) fn crash(&mut self) {
        self.memory.crash();
        #[cfg(feature = "node")]
        if let Some(rocks) = &mut self.rocks {
            made(rocks.crash());
            for family in Family::ALL {
                made(self.scan(family, b"", Order::Ascending, &mut |_, _| ControlFlow::Continue(())));
            }
        }
    }
}

#[cfg(feature = "node")]
fn made<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| match error {
        StoreError::Open { .. } | StoreError::DiskFull { .. } => {
            panic!("this machine has no room for a state of RocksDB, or does not let it be opened: {error}")
        }
        error => panic!("I4: RocksDB fails on a disk without faults: {error}"),
    })
}

impl View for SimStore {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        #[cfg(feature = "node")]
        if let Some(rocks) = &self.rocks {
            let (found, known) = (rocks.get(family, key)?, self.memory.get(family, key)?);
            assert!(found == known, "I4: of {family:?} {key:?} RocksDB shows {found:?}, and {known:?} is there");
            return Ok(found.map(|value| look(&value)).is_some());
        }
        self.memory.show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        #[cfg(feature = "node")]
        if let Some(rocks) = &self.rocks {
            let (mut shown, mut is_broken_off) = (Vec::new(), false);
            rocks.scan(family, from, order, &mut |key, value| {
                shown.push((key.to_vec(), value.to_vec()));
                let goes_on = visit(key, value);
                is_broken_off = goes_on.is_break();
                goes_on
            })?;
            let (mut shown, mut last) = (shown.into_iter(), None);
            self.memory.scan(family, from, order, &mut |key, value| {
                last = shown.next();
                if last.is_none() && is_broken_off {
                    return ControlFlow::Break(());
                }
                let is_the_same = last.as_ref().is_some_and(|(k, v)| k == key && v == value);
                assert!(is_the_same, "I4: of {family:?} RocksDB shows {last:?}, and {key:?} is next");
                ControlFlow::Continue(())
            })?;
            assert_eq!(shown.next(), None, "I4: RocksDB shows more of {family:?}");
            return Ok(());
        }
        self.memory.scan(family, from, order, visit)
    }
}

impl Store for SimStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        #[cfg(feature = "node")]
        if let Some(rocks) = &mut self.rocks {
            rocks.commit(changes)?;
        }
        self.memory.commit(changes)
    }
}
