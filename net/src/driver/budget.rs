//! [`MemoryBudget`]: what many connections may hold together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::handle::{ConnectionHandle, Shared};

/// Changes below this are not worth a lock that all connections share: so much of each is not counted.
const GRAIN: u64 = 64 << 10;

/// A bound for the memory of many connections together. Each has its own bounds ([`Limits`](crate::Limits)), which
/// let a fast peer have much; a thousand peers that take nothing must not have that a thousand times.
///
/// Counted is what waits to be sent, what came and is not consumed, and what the program itself
/// [holds](ConnectionHandle::hold) for a connection. When it is more than the budget, connections end
/// ([`ConnectionError::MemoryExceeded`](crate::ConnectionError::MemoryExceeded)) until it fits: of the owner who has most, the
/// one that has most. So an owner who holds no more than his share, the budget divided by how many they are, loses nothing, whatever
/// the others do and however many connections they open. Nothing waits for the bound, which is passed for the moment that it takes to
/// end them. Of each connection up to 64 KiB, and what the kernel holds, are not counted. The rule is that of Redis 7
/// (`maxmemory-clients`), by owners.
///
/// ```
/// use towline_net::driver::{self, EventSink, MemoryBudget};
/// use towline_net::{ConnectionError, Lane, SendFlags, Side, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let budget = MemoryBudget::new(1 << 20);
/// # let (one, other) = tokio::io::duplex(1 << 16);
/// # let (sink, _untaken) = EventSink::channel(16);
/// # let _peer = driver::spawn(other, Side::Acceptor, config(2), sink)?;
/// let connection = driver::spawn(one, Side::Dialer, config(1), EventSink::callback(|_| ()))?;
/// budget.enroll(&connection, "10.0.0.7");
/// connection.ready().await?;
/// // Its peer takes little of this: the byte stream between them holds 64 KiB.
/// let stream = connection.open(StreamKind::Request, Lane::Request)?;
/// connection.send(stream, vec![0; 2 << 20].into(), SendFlags::default()).await?;
/// assert_eq!(connection.closed().await, ConnectionError::MemoryExceeded);
/// assert_eq!((budget.held(), budget.ended()), (0, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryBudget {
    books: Arc<Books>,
}

/// Lock order: `ledger` alone; nothing else is locked or called while it is held, and it is taken while nothing else is.
struct Books {
    bytes_max: u64,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    accounts: BTreeMap<u64, Entry>,
    /// The sum of what the accounts hold.
    held: u64,
    next: u64,
    ended: u64,
}

struct Entry {
    owner: Arc<str>,
    connection: Weak<Shared>,
    /// In the connection itself, as its task said last.
    inside: u64,
    /// What the program holds for it.
    outside: u64,
    /// It was told to end: what it holds is about to be free.
    is_ending: bool,
}

impl Entry {
    const fn held(&self) -> u64 {
        self.inside.saturating_add(self.outside)
    }
}

impl MemoryBudget {
    /// Of so many bytes, for connections that [`enroll`](Self::enroll).
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { books: Arc::new(Books { bytes_max, ledger: Mutex::default() }) }
    }

    /// Counts a connection from now to its end, as one of this owner: a name of the peer that it can't choose, its certificate's or its
    /// address. A connection is of one budget: of the first that it is enrolled in.
    pub fn enroll(&self, connection: &ConnectionHandle, owner: &str) {
        let shared = connection.shared();
        let number = {
            let mut ledger = self.books.ledger.lock();
            ledger.next += 1;
            let number = ledger.next;
            let connection = Arc::downgrade(shared);
            let entry = Entry { owner: owner.into(), connection, inside: 0, outside: 0, is_ending: false };
            ledger.accounts.insert(number, entry);
            number
        };
        let account = Account { books: Arc::clone(&self.books), number, told: AtomicU64::new(0) };
        // The task looks for the account behind its end, and this looks for the end behind the account: one of them sees the other.
        if shared.account.set(account).is_err() || shared.has_ended() {
            self.books.forget(number);
        }
        shared.wake.notify_one();
    }

    /// Bytes that all of them hold, as far as they are counted.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.books.ledger.lock().held
    }

    /// How many connections ended because of it.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.books.ledger.lock().ended
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("bytes_max", &self.books.bytes_max)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl Books {
    /// Changes what an account holds. Where that makes all of it too much, somebody ends.
    fn change(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        let ending = {
            let mut ledger = self.ledger.lock();
            let Some(entry) = ledger.accounts.get_mut(&number) else { return };
            let before = entry.held();
            change(entry);
            let now = entry.held();
            ledger.held = ledger.held.saturating_sub(before).saturating_add(now);
            if now > before { ledger.choose(self.bytes_max) } else { Vec::new() }
        };
        for connection in ending.iter().filter_map(Weak::upgrade) {
            connection.core.lock().memory_exceeded();
            connection.wake.notify_one();
        }
    }

    fn forget(&self, number: u64) {
        let mut ledger = self.ledger.lock();
        if let Some(entry) = ledger.accounts.remove(&number) {
            ledger.held = ledger.held.saturating_sub(entry.held());
        }
    }
}

impl Ledger {
    /// Whose connections are to end, so that what the others hold fits.
    fn choose(&mut self, bytes_max: u64) -> Vec<Weak<Shared>> {
        let mut chosen = Vec::new();
        if self.held <= bytes_max {
            return chosen;
        }
        let ending: u64 = self.accounts.values().filter(|entry| entry.is_ending).map(Entry::held).sum();
        let mut left = self.held.saturating_sub(ending);
        while left > bytes_max {
            let Some(entry) = self.largest() else { break };
            entry.is_ending = true;
            left = left.saturating_sub(entry.held());
            chosen.push(Weak::clone(&entry.connection));
            self.ended += 1;
        }
        chosen
    }

    /// Of the owner who has most, the connection that has most.
    fn largest(&mut self) -> Option<&mut Entry> {
        let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
        for entry in self.accounts.values().filter(|entry| !entry.is_ending) {
            *owners.entry(&entry.owner).or_default() += entry.held();
        }
        let (owner, _) = owners.into_iter().max_by_key(|&(_, held)| held)?;
        let owner = Arc::<str>::from(owner);
        let of_owner = self.accounts.values_mut().filter(|entry| !entry.is_ending && entry.owner == owner);
        of_owner.max_by_key(|entry| entry.held())
    }
}

/// What the budget knows of one connection.
pub(super) struct Account {
    books: Arc<Books>,
    number: u64,
    /// What the task said last; it alone changes it.
    told: AtomicU64,
}

impl Account {
    /// For the task: what the connection itself holds now.
    pub(super) fn tell(&self, inside: u64) {
        // Nobody else writes it: it orders nothing.
        let told = self.told.load(Ordering::Relaxed);
        if inside.abs_diff(told) < GRAIN && (inside > 0 || told == 0) {
            return;
        }
        self.told.store(inside, Ordering::Relaxed);
        self.books.change(self.number, |entry| entry.inside = inside);
    }

    /// For the task: it is over.
    pub(super) fn close(&self) {
        self.books.forget(self.number);
    }

    pub(super) fn hold(&self, bytes: usize) -> Held {
        let bytes = bytes as u64;
        if bytes < GRAIN {
            return Held::nothing();
        }
        self.books.change(self.number, |entry| entry.outside = entry.outside.saturating_add(bytes));
        Held(Some((Arc::clone(&self.books), self.number, bytes)))
    }
}

/// Bytes that the program holds for a connection, as long as this lives: see [`ConnectionHandle::hold`].
///
/// ```
/// use towline_net::Side;
/// use towline_net::driver::{self, EventSink, Held};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// /// An answer that waits to be sent.
/// struct Waiting {
///     bytes: Vec<u8>,
///     _held: Held,
/// }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let (io, _peer) = tokio::io::duplex(1 << 16);
/// let connection = driver::spawn(io, Side::Acceptor, config(1), EventSink::callback(|_| ()))?;
/// let bytes = vec![7; 1 << 20];
/// let waiting = Waiting { _held: connection.hold(bytes.len()), bytes };
/// assert_eq!(waiting.bytes.len(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "they count as long as this lives"]
pub struct Held(Option<(Arc<Books>, u64, u64)>);

impl Held {
    pub(super) const fn nothing() -> Self {
        Self(None)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((books, number, bytes)) = self.0.take() {
            books.change(number, |entry| entry.outside = entry.outside.saturating_sub(bytes));
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.as_ref().map_or(0, |(.., bytes)| *bytes)).finish()
    }
}

#[cfg(test)]
#[path = "budget_test.rs"]
mod tests;
