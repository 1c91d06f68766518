//! [`Line`]: what one client has asked and nobody has begun, in order. Each can be taken out again.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use towline_net::StreamId;

/// A request of a client: its stream, and the client's number for it. A client that gives a number twice hears two answers, and
/// cancels the later.
pub(super) type Key = (StreamId, u64);

/// Lock order: `places` alone, never while somebody is waited for.
#[derive(Debug)]
pub(super) struct Line<T> {
    places: Mutex<Places<T>>,
    news: Notify,
}

#[derive(Debug)]
struct Places<T> {
    next: u64,
    waiting: BTreeMap<u64, (Key, T)>,
    /// Begun, and could still be stopped.
    begun: BTreeMap<u64, Arc<Stop>>,
    /// Where each is: the later, where a client has given a number twice.
    of: BTreeMap<Key, u64>,
    is_closed: bool,
}

/// Says that nobody wants it any more.
#[derive(Debug, Default)]
struct Stop {
    is_set: AtomicBool,
    told: Notify,
}

/// Whose turn it is. While somebody has this, what was begun can be stopped.
#[derive(Debug)]
pub(super) struct Turn<T> {
    line: Arc<Line<T>>,
    place: u64,
    key: Key,
    stop: Arc<Stop>,
}

impl<T> Line<T> {
    pub(super) fn new() -> Arc<Self> {
        let places =
            Places { next: 0, waiting: BTreeMap::new(), begun: BTreeMap::new(), of: BTreeMap::new(), is_closed: false };
        Arc::new(Self { places: Mutex::new(places), news: Notify::new() })
    }

    pub(super) fn push(&self, key: Key, asked: T) {
        let mut places = self.places.lock();
        let place = places.next;
        places.next += 1;
        places.waiting.insert(place, (key, asked));
        places.of.insert(key, place);
        drop(places);
        self.news.notify_one();
    }

    /// Whether nothing waits, nor is begun and not over: what comes now overtakes nobody.
    pub(super) fn is_idle(&self) -> bool {
        let places = self.places.lock();
        places.waiting.is_empty() && places.begun.is_empty()
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.places.lock().is_closed = true;
        self.news.notify_one();
    }

    /// The next one; none: nothing more comes. One at a time asks.
    pub(super) async fn next(self: &Arc<Self>) -> Option<(Turn<T>, T)> {
        loop {
            {
                let mut places = self.places.lock();
                if let Some((place, (key, asked))) = places.waiting.pop_first() {
                    let stop = Arc::<Stop>::default();
                    places.begun.insert(place, Arc::clone(&stop));
                    return Some((Turn { line: Arc::clone(self), place, key, stop }, asked));
                }
                if places.is_closed {
                    return None;
                }
            }
            // It remembers one that came in between.
            self.news.notified().await;
        }
    }

    /// Takes out what waits, for its caller to answer; stops what has begun. What is not here is over, or never came.
    pub(super) fn cancel(&self, key: Key) -> Option<T> {
        let mut places = self.places.lock();
        let place = *places.of.get(&key)?;
        if let Some((_, asked)) = places.waiting.remove(&place) {
            places.of.remove(&key);
            return Some(asked);
        }
        if let Some(stop) = places.begun.get(&place) {
            // Release: whoever sees it has nothing else to see; the lock orders the rest.
            stop.is_set.store(true, Ordering::Release);
            stop.told.notify_one();
        }
        None
    }
}

impl<T> Turn<T> {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_set.load(Ordering::Acquire)
    }

    /// Ends when nobody wants it any more.
    pub(super) async fn stopped(&self) {
        if !self.is_stopped() {
            self.stop.told.notified().await;
        }
        if !self.is_stopped() {
            pending().await
        }
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        let mut places = self.line.places.lock();
        places.begun.remove(&self.place);
        if places.of.get(&self.key) == Some(&self.place) {
            places.of.remove(&self.key);
        }
    }
}

#[cfg(test)]
#[path = "line_test.rs"]
mod tests;
