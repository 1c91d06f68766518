//! [`Admission`]: who of those that connect is taken. [`Ticket`]: the place that one of them holds, until it ends.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::ConnectionError;
use crate::mutant::{Mutant, planted};

use super::ListenerOptions;
use super::listener_stats::{Counters, Turned};

/// The places of a listener, and what became of those who held one.
#[derive(Debug)]
pub(super) struct Admission {
    options: ListenerOptions,
    /// Held for a look-up and two additions. Of addresses there are as many as connections at most.
    places: Mutex<Places>,
    pub(super) counters: Counters,
}

#[derive(Debug, Default)]
struct Places {
    all: Held,
    by_source: BTreeMap<Source, Held>,
}

/// Places that are taken now.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Held {
    pub(super) connections: usize,
    /// Of these, strangers: their handshake is not over.
    pub(super) pending: usize,
}

/// Whoever can choose among these addresses counts as one: of IPv6, who has one address has its whole /64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(network_of(address))
    }
}

/// Who can choose among addresses, by one of them: of IPv4 the address itself, of IPv6 its /64.
///
/// ```
/// use towline_net::driver::network_of;
/// assert_eq!(network_of("2001:db8:1:2::7".parse()?), network_of("2001:db8:1:2:ffff::1".parse()?));
/// assert_ne!(network_of("10.0.0.1".parse()?), network_of("10.0.0.2".parse()?));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Admission {
    pub(super) fn new(options: ListenerOptions) -> Arc<Self> {
        Arc::new(Self { options, places: Mutex::default(), counters: Counters::default() })
    }

    /// A place for who connects from there, as a stranger (I12: of whom there are so many at most); or why there is none, which is counted.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let source = Source::of(address);
        let options = &self.options;
        let mut places = self.places.lock();
        let of_source = places.by_source.get(&source).copied().unwrap_or_default();
        let turned = if places.all.connections >= options.connections_max {
            Some(Turned::Connections)
        } else if places.all.pending >= options.pending_max && !planted(Mutant::AnyNumberOfStrangers) {
            Some(Turned::Pending)
        } else if of_source.connections >= options.address_connections_max {
            Some(Turned::AddressConnections)
        } else if of_source.pending >= options.address_pending_max {
            Some(Turned::AddressPending)
        } else {
            None
        };
        if let Some(reason) = turned {
            drop(places);
            self.counters.turned_away(reason);
            return None;
        }
        let Places { all, by_source } = &mut *places;
        for held in [all, by_source.entry(source).or_default()] {
            held.connections += 1;
            held.pending += 1;
        }
        drop(places);
        self.counters.accepted();
        Some(Ticket { admission: Arc::clone(self), source, stage: Stage::Idle, reason: None })
    }

    pub(super) fn held(&self) -> Held {
        self.places.lock().all
    }

    fn release(&self, source: Source, held: Held) {
        let mut places = self.places.lock();
        places.all.give_back(held);
        if let Some(of_source) = places.by_source.get_mut(&source) {
            of_source.give_back(held);
            if of_source.connections == 0 {
                places.by_source.remove(&source);
            }
        }
    }
}

impl Held {
    fn give_back(&mut self, held: Self) {
        self.connections -= held.connections;
        self.pending -= held.pending;
    }
}

/// A connection's place; given back when dropped, and its end counted.
#[derive(Debug)]
pub(super) struct Ticket {
    admission: Arc<Admission>,
    source: Source,
    stage: Stage,
    /// The code of the reason for its end.
    reason: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Accepted, and nothing runs over it yet.
    Idle,
    Handshake,
    Ready,
}

impl Ticket {
    /// A connection runs.
    pub(super) const fn begins(&mut self) {
        self.stage = Stage::Handshake;
    }

    /// It is no stranger any more.
    pub(super) fn handshake_is_over(&mut self) {
        if self.stage == Stage::Handshake {
            self.stage = Stage::Ready;
            self.admission.counters.greeted();
            self.admission.release(self.source, Held { connections: 0, pending: 1 });
        }
    }

    /// Why the connection ended, by its code, for the books. Without it, it counts as the end of its byte stream.
    pub(super) const fn ended(&mut self, code: u16) {
        self.reason = Some(code);
    }

    /// What was to lie below the connection failed, and is counted as a handshake that did.
    #[cfg(feature = "tls")]
    pub(super) const fn failed_below(&mut self, code: u16) {
        self.stage = Stage::Handshake;
        self.reason = Some(code);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counters = &self.admission.counters;
        let reason = self.reason.unwrap_or(ConnectionError::TransportEnded.code());
        match self.stage {
            Stage::Idle => counters.abandoned(),
            Stage::Handshake => counters.handshake_failed(reason),
            Stage::Ready => counters.ended(reason),
        }
        let pending = usize::from(self.stage != Stage::Ready);
        self.admission.release(self.source, Held { connections: 1, pending });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_one_may_choose_among_count_as_one() {
        let source = |text: &str| Source::of(text.parse().unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"), "the same, as an IPv6 socket sees it");
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"), "one /64");
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    }

    #[test]
    fn an_address_without_places_is_forgotten() {
        let admission = Admission::new(ListenerOptions::default());
        let mut ticket = admission.admit(IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(admission.places.lock().by_source.len(), 1);
        if let Some(ticket) = &mut ticket {
            ticket.begins();
            ticket.handshake_is_over();
            // Called at each round of the task: the place of a stranger comes back once.
            ticket.handshake_is_over();
        }
        assert_eq!((admission.held().connections, admission.held().pending), (1, 0));
        drop(ticket);
        assert_eq!((admission.held().connections, admission.held().pending), (0, 0));
        assert!(admission.places.lock().by_source.is_empty());
    }
}
