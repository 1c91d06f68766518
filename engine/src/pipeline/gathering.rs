//! What those sleep on whose writes are answered together: however many they are, one call to the system wakes them.
//!
//! Rules, by number; comments in the code name them:
//!
//! 1. Who waits counts itself among the sleepers *before* it reads the number, looks for its answer *after* that, and sleeps only
//!    while the number is still the one that it read.
//! 2. Who answers sets the answer *before* it raises the number, and looks for sleepers *after* that. All of these steps are in
//!    one order (SeqCst): so either the look finds the answer, or the sleeper is counted, and then the number is another one,
//!    or the sleeper is woken.
//! 3. A place says who is woken together, never whose answer is there: each looks for its own. So it may be any place, and one
//!    that is used again too early costs a look, and nothing else.
//!
//! (An event count: D. Reed, R. Kanodia, *Synchronization with eventcounts and sequencers*, 1979.)

use super::receipt::{Completer, Receipt};
use super::sync::{AtomicUsize, CachePadded, Futex, Ordering};
use std::fmt;
use std::sync::Arc;

/// A number that rises with each answer, and that threads sleep on meanwhile.
#[derive(Debug, Default)]
pub(super) struct EventCount {
    number: Futex,
    sleepers: AtomicUsize,
}

impl EventCount {
    /// Looks until there is something, and sleeps in between until the next [`EventCount::call`].
    pub(super) fn wait_for<R>(&self, mut look: impl FnMut() -> Option<R>) -> R {
        // Rule 1.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            let number = self.number.number().load(Ordering::SeqCst);
            if let Some(found) = look() {
                break found;
            }
            self.number.wait(number);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }

    /// Wakes all who sleep: there may be something for them now.
    pub(super) fn call(&self) {
        // Rule 2.
        self.number.number().fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.number.wake_all();
        }
    }
}

/// Batches on their way, until a place is used again.
const PLACES: usize = 16;

/// Gives those who submit between two turns of the consumer one place to wait at: they are likely to be in one batch, which is
/// answered at one time.
///
/// ```
/// use towline::pipeline::{Completer, Gathering};
/// let gathering = Gathering::new();
/// let (receipts, completers): (Vec<_>, Vec<_>) = (0..3).map(|_| gathering.pair()).unzip();
/// gathering.turn();
/// let waiting = std::thread::spawn(|| receipts.into_iter().map(|receipt| receipt.wait()).collect::<Result<Vec<_>, _>>());
/// Completer::complete_all(completers.into_iter().zip([Ok(1), Ok(2), Ok(3)]));
/// assert_eq!(waiting.join().unwrap(), Ok(vec![1, 2, 3]));
/// ```
pub struct Gathering {
    /// Relaxed: a producer that reads the one before shares it with those (rule 3).
    turn: CachePadded<AtomicUsize>,
    places: [Arc<EventCount>; PLACES],
}

impl Gathering {
    /// With nobody in it.
    #[must_use]
    pub fn new() -> Self {
        Self { turn: CachePadded::new(AtomicUsize::new(0)), places: std::array::from_fn(|_| Arc::default()) }
    }

    /// A receipt and its completer, for a write that is submitted now.
    pub fn pair<T: Copy>(&self) -> (Receipt<T>, Completer<T>) {
        let turn = self.turn.load(Ordering::Relaxed);
        Receipt::pair_at(Arc::clone(&self.places[turn % PLACES]))
    }

    /// Whoever submits from here on is in another batch than those before. For the consumer.
    pub fn turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Gathering {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").field("turn", &self.turn).finish_non_exhaustive()
    }
}
