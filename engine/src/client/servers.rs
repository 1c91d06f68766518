//! [`Servers`]: the connections of a client, and which of them a request takes.

use super::addresses::Addresses;
use super::connector::{self, Wanted};
use super::error::ClientError;
use super::link::{Heard, Link};
use super::options::{ClientOptions, DEFAULT_NAMESPACE, Route};
use super::routing::{Part, Routing, Ways};
use super::scouts::Scouts;
use super::spares::Spares;
use crate::model::call::Call;
use crate::model::{NodeId, Record, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Connections of one client at the most: servers take a bounded number from one address.
const CONNECTIONS_MAX: usize = 64;
/// From one attempt to reach a node, at whose place another one was found, to the next.
const PASSED_PAUSE: Duration = Duration::from_millis(100);
/// How long it is asked who leads; half of what a request has left, if that is less: it must be asked itself.
const LEARN_WITHIN: Duration = Duration::from_secs(1);

/// The servers of a cluster, by their addresses, and the connections to the one that is asked.
#[derive(Debug)]
pub(super) struct Servers {
    addresses: Arc<Addresses>,
    /// The connections in use. A lock is held while a new one is made, so that one is made and not many.
    links: Vec<Mutex<Current>>,
    /// Those to nodes that lead something: as many nodes as there are addresses, or lead.
    of_nodes: parking_lot::Mutex<BTreeMap<NodeId, Arc<Vec<Mutex<Current>>>>>,
    /// Those that were in use until a server sent on what it was asked: it may lead again.
    spares: Spares,
    /// The one of what any server may be asked, while nobody is found who leads.
    any: Mutex<Current>,
    /// Those by which it is asked who leads what.
    scouts: Arc<Scouts>,
    routing: Routing,
    closed: watch::Sender<bool>,
    /// Connections made beyond the first of each.
    connects: AtomicU64,
    /// Each connection adds to it, also one that is let go and still waits for answers.
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Current {
    link: Option<Arc<Link>>,
    /// Whether the next one is not the first.
    was_connected: bool,
    /// When the last attempt to find a server failed, and how: the answer for all who waited for it.
    failed: Option<(Instant, ClientError)>,
    /// When the last one was made that is not to the node that was wanted.
    passed: Option<Instant>,
}

/// Which of several connections a request takes: those of one route reach the server in the order in which they were sent.
#[derive(Debug, Clone)]
pub(super) struct Path {
    hash: u64,
    /// Any server may be asked; one that leads is only the first to be looked for.
    is_any: bool,
    /// What it is about, and to which node it goes for that; none: to the one that is otherwise asked, whatever that leads.
    pub(super) part: Option<Part>,
}

impl Path {
    /// For what is about no key.
    pub(super) const ANY: Self = Self { hash: 0, is_any: true, part: None };
    /// For what is otherwise asked.
    pub(super) const HOME: Self = Self { hash: 0, is_any: false, part: None };

    /// For what is about this.
    fn of(namespace: &str, about: &About) -> Self {
        let hash = match about {
            About::Nothing | About::All => 0,
            About::Key(key) => xxh3_64_with_seed(key, xxh3_64(namespace.as_bytes())),
            // In whose order it must arrive.
            About::Shard(shard) => xxh3_64(&shard.get().to_le_bytes()),
        };
        Self { hash, is_any: *about == About::Nothing, part: None }
    }
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// No key: any server may be asked.
    Nothing,
    /// All keys: who leads all of them is asked.
    All,
    /// A key, or a stream.
    Key(Vec<u8>),
    /// A shard.
    Shard(ShardId),
}

impl About {
    /// What a write is about.
    pub(super) fn record(record: &Record) -> Self {
        Self::Key(first_key(record).to_vec())
    }

    /// What a call is about that names no keys.
    pub(super) const fn call(call: &Call) -> Self {
        match call {
            Call::Scan { .. } | Call::Token | Call::OpenSession | Call::CloseSession { .. } => Self::All,
            _ => Self::Nothing,
        }
    }
}

impl Servers {
    pub(super) fn new(addresses: Vec<String>, options: &ClientOptions) -> Self {
        let (closed, connects) = (watch::Sender::new(false), AtomicU64::new(0));
        let addresses = Arc::new(Addresses::new(addresses));
        let (links, of_nodes, scouts) =
            (slots(options), parking_lot::Mutex::default(), Arc::new(Scouts::new(Arc::clone(&addresses))));
        let spares = Spares::new(links.len() * addresses.len());
        let (routing, heard) = (Routing::default(), Arc::default());
        Self { addresses, links, of_nodes, spares, any: Mutex::default(), scouts, routing, closed, connects, heard }
    }

    /// Ends all connections, and attempts to make one; no more are made.
    pub(super) async fn close(&self) {
        // Before the locks: whoever has one ends its attempt, or has put its connection where it is found here.
        self.closed.send_replace(true);
        let of_nodes: Vec<_> = self.of_nodes.lock().values().map(Arc::clone).collect();
        for slot in self.links.iter().chain([&self.any]).chain(of_nodes.iter().flat_map(|slots| slots.iter())) {
            if let Some(link) = slot.lock().await.link.take() {
                link.close();
            }
        }
        // Whoever takes one from here on looks first whether it is closed.
        self.spares.close();
        self.scouts.close().await;
    }

    /// The node that is connected now, if one is.
    pub(super) async fn node(&self) -> Option<NodeId> {
        let home = slot(&self.links, &Path::HOME).lock().await.link.as_ref().map(|link| link.node());
        match home {
            None => self.any.lock().await.link.as_ref().map(|link| link.node()),
            home => home,
        }
    }

    /// Connections made beyond the first of each, and bytes received.
    pub(super) fn figures(&self) -> (u64, u64) {
        // Relaxed: figures for people, which order nothing.
        let connects = self.connects.load(Ordering::Relaxed) + self.scouts.reconnects();
        (connects, self.heard.bytes.load(Ordering::Relaxed))
    }

    /// A connection of one's own: whoever does not take what comes on it holds up nobody else.
    pub(super) async fn own_link(&self, options: &ClientOptions) -> Result<Link, ClientError> {
        let link = self.connect(options, Wanted::Routed(None)).await?;
        // What it was asked, if anything, was who leads.
        link.end_requests();
        Ok(link)
    }

    /// A connection to this node, whoever leads; or to any other, if it is at none of the addresses.
    pub(super) async fn link_to(&self, options: &ClientOptions, node: NodeId) -> Result<Link, ClientError> {
        self.connect(options, Wanted::Node(node)).await
    }

    /// As [`Servers::link_to`], at an address that another one of the servers told.
    pub(super) async fn link_at(
        &self,
        address: String,
        options: &ClientOptions,
        node: NodeId,
    ) -> Result<Link, ClientError> {
        self.connect_to(&Addresses::new(vec![address]), options, Wanted::Node(node)).await
    }

    async fn connect(&self, options: &ClientOptions, wanted: Wanted) -> Result<Link, ClientError> {
        self.connect_to(&self.addresses, options, wanted).await
    }

    async fn connect_to(
        &self,
        addresses: &Addresses,
        options: &ClientOptions,
        wanted: Wanted,
    ) -> Result<Link, ClientError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(ClientError::Closed),
            connected = connector::connect(addresses, options, wanted, &self.heard) => connected,
        }
    }

    /// Which way a request takes: to the node that leads what it is about, where that is known to be another one than is
    /// otherwise asked. What servers know of that is asked first where nothing is known, or it is in doubt.
    pub(super) async fn path(
        &self,
        options: &ClientOptions,
        namespace: &str,
        about: &About,
        deadline: Instant,
    ) -> Path {
        let path = Path::of(namespace, about);
        // The default namespace has one shard, whose leader is the one that is otherwise asked.
        let is_routed = options.route == Route::Leader && namespace != DEFAULT_NAMESPACE;
        if *about == About::Nothing || !is_routed {
            return path;
        }
        let ways = self.routing.of(namespace);
        if ways.is_to_be_asked(about) {
            // Seldom, and large: not in every call's future.
            let asked_about = about.clone();
            let still = move |ways: &Ways| ways.is_to_be_asked(&asked_about);
            Box::pin(self.learn(&ways, options, namespace, deadline, still)).await;
        }
        Path { part: Some(ways.part(about)), ..path }
    }

    /// Asks the servers, all of them, or waits for whoever does that already; nothing, if `still` says so when it is its turn.
    ///
    /// Cancellation: they are asked all the same: whoever has little time each time would never learn it.
    async fn learn(
        &self,
        ways: &Arc<Ways>,
        options: &ClientOptions,
        namespace: &str,
        deadline: Instant,
        still: impl Fn(&Ways) -> bool + Send + 'static,
    ) {
        let now = Instant::now();
        let end = now + LEARN_WITHIN.min(deadline.saturating_duration_since(now) / 2);
        let (ways, options, namespace) = (Arc::clone(ways), options.clone(), namespace.to_owned());
        let (scouts, closed, heard) = (Arc::clone(&self.scouts), self.closed.clone(), Arc::clone(&self.heard));
        let asking = tokio::spawn(async move {
            let Ok(_turn) = timeout_at(end, ways.turn()).await else { return };
            if still(&ways) {
                let asked = Instant::now();
                let told =
                    scouts.ask(&namespace, &options, asked + LEARN_WITHIN.min(end - asked), &closed, &heard).await;
                ways.learn(asked, told);
            }
        });
        // If it panicked, nothing was learnt, and what is known goes on to be believed.
        drop(asking.await);
    }

    /// Looks whether another node leads what is about this than the one to which the path goes; from then on that one is asked.
    /// What else is asked meanwhile goes its way, and does not wait for this.
    pub(super) async fn is_led_elsewhere(
        &self,
        options: &ClientOptions,
        namespace: &str,
        about: &About,
        path: &Path,
        deadline: Instant,
    ) -> bool {
        if options.route == Route::Any || *about == About::Nothing {
            return false;
        }
        let ways = self.routing.of(namespace);
        Box::pin(self.learn(&ways, options, namespace, deadline, Ways::may_be_asked)).await;
        let found = ways.part(about).leader;
        if let Some(part) = &path.part {
            return part.leader.is_some() && found != part.leader;
        }
        // Whoever makes a connection there now looks itself who leads.
        let Ok(current) = slot(&self.links, path).try_lock() else { return false };
        match (found, &current.link) {
            (Some(found), Some(link)) if link.node() != found => {
                link.leads_no_more(found);
                true
            }
            _ => false,
        }
    }

    /// The connection in use on this path, or a new one.
    pub(super) async fn link(&self, options: &ClientOptions, path: &Path) -> Result<Arc<Link>, ClientError> {
        match path.part.as_ref().and_then(|part| part.leader) {
            None if path.is_any => {
                if let Some(link) = self.home(path) {
                    return Ok(link);
                }
                self.link_in(&self.any, options, || (Wanted::LeaderOrAny, self.home(path))).await
            }
            None => self.link_in(slot(&self.links, path), options, || self.routed(options)).await,
            Some(node) => {
                let slots = self.slots_of(node, options);
                self.link_in(slot(&slots, path), options, || self.shared(node, path)).await
            }
        }
    }

    /// Which one is looked for where any may be asked, or who leads; and a connection to it that there is already.
    fn routed(&self, options: &ClientOptions) -> (Wanted, Option<Arc<Link>>) {
        let named = self.heard.named().filter(|_| options.route == Route::Leader);
        (Wanted::Routed(named), named.and_then(|named| self.spares.take(named)))
    }

    /// As [`Servers::routed`], where this node is asked. Without a wait for a connection that is being made: then it is another one.
    fn shared(&self, node: NodeId, path: &Path) -> (Wanted, Option<Arc<Link>>) {
        (Wanted::Node(node), self.home(path).filter(|link| link.node() == node))
    }

    /// The connection in use for what has no other one, if it can be used now.
    fn home(&self, path: &Path) -> Option<Arc<Link>> {
        let home = slot(&self.links, path).try_lock().ok()?.link.as_ref().map(Arc::clone);
        home.filter(|link| link.is_usable())
    }

    fn slots_of(&self, node: NodeId, options: &ClientOptions) -> Arc<Vec<Mutex<Current>>> {
        // Lock order: this one, then those of the routing.
        let mut of_nodes = self.of_nodes.lock();
        if !of_nodes.contains_key(&node) && of_nodes.len() >= self.addresses.len() {
            // Who is named no more is let go: otherwise each node that any server ever named would be kept.
            let leaders = self.routing.leaders();
            of_nodes.retain(|node, _| leaders.contains(node));
        }
        Arc::clone(of_nodes.entry(node).or_insert_with(|| Arc::new(slots(options))))
    }

    async fn link_in(
        &self,
        slot: &Mutex<Current>,
        options: &ClientOptions,
        look: impl FnOnce() -> (Wanted, Option<Arc<Link>>),
    ) -> Result<Arc<Link>, ClientError> {
        let asked = Instant::now();
        let mut current = slot.lock().await;
        if let Some(link) = current.link.as_ref().filter(|link| link.is_usable()) {
            return Ok(Arc::clone(link));
        }
        // Otherwise calls that wait for the same attempt would each make one more, one after the other.
        if let Some((_, error)) = current.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        // Before the old one is kept: that one is not the one to ask.
        let (wanted, found) = look();
        if let Some(old) = current.link.take() {
            // If it is not kept, it closes when nobody waits for an answer from it any more.
            self.spares.keep(old);
        }
        if let Some(found) = found.filter(|_| !*self.closed.borrow()) {
            current.was_connected = true;
            current.link = Some(Arc::clone(&found));
            return Ok(found);
        }
        // Whoever was wanted is not there: whoever answers instead refuses what is asked, each time, and would be dialled each time.
        if let Some(passed) = current.passed.take() {
            sleep_until(passed + PASSED_PAUSE).await;
        }
        let link = match self.connect(options, wanted).await {
            Ok(link) => Arc::new(link),
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        if matches!(wanted, Wanted::Node(node) if node != link.node()) {
            current.passed = Some(Instant::now());
        }
        if std::mem::replace(&mut current.was_connected, true) {
            self.connects.fetch_add(1, Ordering::Relaxed);
        }
        current.link = Some(Arc::clone(&link));
        Ok(link)
    }
}

fn slots(options: &ClientOptions) -> Vec<Mutex<Current>> {
    (0..options.connections.clamp(1, CONNECTIONS_MAX)).map(|_| Mutex::default()).collect()
}

fn slot<'a>(slots: &'a [Mutex<Current>], path: &Path) -> &'a Mutex<Current> {
    let index = path.hash % slots.len() as u64;
    let found = usize::try_from(index).ok().and_then(|index| slots.get(index));
    let Some(slot) = found else { unreachable!("there is one connection at the least") };
    slot
}

/// By which a write finds its way: what it names first.
pub(super) fn first_key(record: &Record) -> &[u8] {
    record.operations.first().map_or(&[][..], |operation| operation.key())
}

#[cfg(test)]
#[path = "servers_test.rs"]
mod tests;
