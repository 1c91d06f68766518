//! Connections to the other nodes: who dials, who greets, and what replication streams deliver.
//!
//! The node with the lower number dials, for ever, with full jitter. There is one connection to each node, and on it a stream
//! for each shard: whoever was dialled opens and greets them, since it is the dialer alone that lets so many be opened to it (a
//! client may open few). Everything here is tokio's; it hands events to the shards' threads and never waits for them.

use super::shard::{Event, PeerLink, Sending, now};
use super::transport::{Transport, TransportError, resolve};
use super::{Identity, Inbox};
use crate::model::from_client::CANCEL;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::{
    DirectoryId, Epoch, LogId, Lsn, Message, NodeId, Received, ReplicationStream, ShardId, StreamError,
};
use crate::state::check_batch;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use towline_net::driver::{ConnectionHandle, EventReceiver, EventSink};
use towline_net::{
    ConnectionConfig, Event as NetEvent, GoAwayCode, Lane, Limits, ResetCode, Role, SendError, SendFlags, StreamId,
    StreamKind,
};

/// Events of one connection that wait for its task; the connection's credits bound their bytes.
pub(super) const EVENTS_WAITING: usize = 256;

/// What every connection of a node has in common.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) identity: Identity,
    pub(super) incarnation: u64,
    pub(super) shards: Arc<BTreeMap<ShardId, Replicated>>,
    pub(super) sessions: Arc<AtomicU64>,
    pub(super) transport: Transport,
}

/// A shard that other nodes have as well.
#[derive(Debug, Clone)]
pub(super) struct Replicated {
    /// What both ends of a stream call its log ([`ConfigMaster::named_log`](crate::control::ConfigMaster::named_log)).
    pub(super) named: LogId,
    pub(super) events: Inbox,
}

impl Network {
    /// The transport's configuration of one connection.
    pub(super) fn config(&self) -> ConnectionConfig {
        let identity = towline_net::Identity {
            cluster: *self.identity.cluster.as_bytes(),
            node: self.identity.node.get(),
            directory: self.identity.directory,
            incarnation: self.incarnation,
            role: Role::Node,
        };
        let nonce = *uuid::Uuid::now_v7().as_bytes();
        let mut config = ConnectionConfig::new(identity, nonce);
        config.expect_cluster = Some(*self.identity.cluster.as_bytes());
        config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
        config.features.offered = CANCEL;
        config
    }

    /// Keeps a connection to a peer, for ever.
    pub(super) async fn dial(self, peer: NodeId, address: String) {
        let mut told = String::new();
        let mut pauses = redial_pauses();
        loop {
            let (handle, events) = loop {
                let mut config = self.config();
                config.expect_node = Some(peer.get());
                let streams = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
                config.limits.streams_max = config.limits.streams_max.max(streams);
                let (sink, events) = EventSink::channel(EVENTS_WAITING);
                match self.connect(&address, config, sink).await {
                    Ok(handle) => break (handle, events),
                    Err(error) => {
                        // What a person has to mend is told once, not at every attempt.
                        if error.needs_operator() && std::mem::replace(&mut told, error.to_string()) != told {
                            tracing::warn!(%peer, %address, "no connection: {told}");
                        }
                        tracing::debug!(%peer, %address, %error, "no connection yet");
                        tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1))).await;
                    }
                }
            };
            let begun = now();
            self.clone().session(peer, handle, events, Greets::Back).await;
            // A peer that refuses us at once must not be asked in a tight loop; nor do all shards begin anew as often as one of
            // them, which is fed the same again, makes an end to the connection.
            if now().saturating_duration_since(begun) >= STANDS {
                pauses = redial_pauses();
            }
            tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    /// Connects by name: each attempt asks anew what address it has (N16).
    async fn connect(
        &self,
        address: &str,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Result<ConnectionHandle, DialError> {
        let found = resolve(address).await.map_err(|_| DialError::Unresolved)?;
        Ok(self.transport.dial(found, config, sink).await?)
    }

    /// One connection, until it ends.
    pub(super) async fn session(
        self,
        peer: NodeId,
        handle: ConnectionHandle,
        mut events: EventReceiver,
        greets: Greets,
    ) {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = handle.ready().await {
            tracing::warn!(%peer, %error, "the connection was refused");
            return;
        }
        let mut streams = Streams {
            network: &self,
            peer,
            session,
            handle: &handle,
            links: BTreeMap::new(),
            unknown: BTreeSet::new(),
            ungreeted: BTreeMap::new(),
        };
        if greets == Greets::First {
            streams.open_all();
        }
        while let Some(event) = events.recv().await {
            let sound = match event {
                NetEvent::Opened { stream, kind: StreamKind::Replication, .. } if greets == Greets::Back => {
                    streams.unknown.insert(stream);
                    true
                }
                NetEvent::Opened { stream, .. } => {
                    handle.reset(stream, ResetCode::REFUSED);
                    true
                }
                NetEvent::Message { stream, bytes, charge, .. } => streams.message(stream, &bytes, charge),
                NetEvent::Reset { stream, .. } | NetEvent::Finished { stream } => {
                    streams.ended(stream);
                    true
                }
                NetEvent::Writable { stream } => streams.writable(stream),
                NetEvent::Closed { reason } => {
                    tracing::info!(%peer, %reason, "the connection ended");
                    break;
                }
                _ => true,
            };
            if !sound {
                handle.close();
            }
        }
        streams.all_ended();
    }
}

/// The streams of one connection.
struct Streams<'a> {
    network: &'a Network,
    peer: NodeId,
    session: u64,
    handle: &'a ConnectionHandle,
    links: BTreeMap<StreamId, Arc<NetPeer>>,
    /// Opened by the peer, which has not said about which shard.
    unknown: BTreeSet<StreamId>,
    /// Those on which the own greeting finds no room, as the buffer is one and full of what others send; with the peer's greeting. Until
    /// it is sent nobody hears of the peer, so that nothing else goes first.
    ungreeted: BTreeMap<StreamId, Option<(Bytes, usize)>>,
}

impl Streams<'_> {
    fn open_all(&mut self) {
        for (shard, replicated) in &*self.network.shards {
            match self.handle.open(StreamKind::Replication, Lane::Replication) {
                Ok(stream) => self.greet(*shard, replicated, stream),
                Err(error) => {
                    // It has fewer shards, by an older configuration: those that it has are among the first.
                    tracing::warn!(peer = %self.peer, %shard, %error, "no replication stream for this shard and those behind it");
                    return;
                }
            }
        }
    }

    fn greet(&mut self, shard: ShardId, replicated: &Replicated, stream: StreamId) {
        let replication = ReplicationStream::new(shard, replicated.named);
        // One that can't be put into bytes is one that was not sent.
        let greeting = replication.greeting().ok();
        match greeting.map(|greeting| self.handle.try_send(stream, greeting, SendFlags::default())) {
            Some(Ok(())) => {}
            Some(Err(SendError::Full)) => drop(self.ungreeted.insert(stream, None)),
            _ => {
                tracing::error!(peer = %self.peer, %shard, "the greeting of a shard was not sent: the connection is closed");
                self.handle.close();
                return;
            }
        }
        let (handle, replication) = (self.handle.clone(), Mutex::new(replication));
        let events = replicated.events.clone();
        self.links.insert(stream, Arc::new(NetPeer { session: self.session, handle, stream, replication, events }));
    }

    /// One message of a stream; false closes the connection.
    fn message(&mut self, stream: StreamId, bytes: &Bytes, charge: usize) -> bool {
        if self.unknown.remove(&stream) {
            match ReplicationStream::greeted_shard(bytes) {
                Ok(shard) => match self.network.shards.get(&shard) {
                    Some(replicated) => self.greet(shard, replicated, stream),
                    None => {
                        let peer = self.peer;
                        tracing::warn!(%peer, %shard, "a peer has a shard that this node's configuration does not name");
                        self.handle.reset(stream, ResetCode::REFUSED);
                    }
                },
                Err(error) => {
                    tracing::error!(peer = %self.peer, %error, "a replication stream has no greeting");
                    return false;
                }
            }
        }
        match self.ungreeted.get_mut(&stream) {
            Some(theirs @ None) => {
                *theirs = Some((bytes.clone(), charge));
                true
            }
            Some(Some(_)) => {
                tracing::error!(peer = %self.peer, "a peer says more on a stream than its greeting, which was not answered");
                false
            }
            None => self.received(stream, bytes, charge),
        }
    }

    /// One of a stream on which the own greeting is sent.
    fn received(&mut self, stream: StreamId, bytes: &Bytes, charge: usize) -> bool {
        let Some(link) = self.links.get(&stream).map(Arc::clone) else {
            self.handle.consumed(stream, charge);
            return true;
        };
        let received = link.replication.lock().receive(bytes);
        let taken = match received {
            Ok(Received::Greeting) => {
                self.handle.consumed(stream, charge);
                // The greeting comes behind the handshake.
                let directory = self.handle.peer().map(|hello| DirectoryId::new(hello.identity.directory));
                let link_up = Arc::clone(&link) as Arc<dyn PeerLink>;
                link.events.deliver(Event::PeerUp(self.peer, directory.unwrap_or_default(), link_up))
            }
            Ok(Received::Message(message)) => {
                // N11: what apply could not execute is refused before it reaches the log, so it can't commit. Of this shard nothing
                // more is taken on this connection: on the next one it would be sent the same. The others go on.
                let checked = check_batches(&message);
                if let Err(error) = &checked {
                    let peer = self.peer;
                    tracing::error!(%peer, %error, "a batch can't be applied by this release: its shard is not replicated until the nodes connect anew");
                    link.down(peer);
                }
                let taken =
                    checked.is_ok() && link.events.deliver(Event::Message(self.peer, self.session, message, charge));
                if !taken {
                    self.handle.consumed(stream, charge);
                }
                taken
            }
            // Of one shard: the others go on.
            Err(error @ StreamError::WrongLog { .. }) => {
                self.handle.consumed(stream, charge);
                tracing::error!(peer = %self.peer, %error, "a shard is not replicated between the two");
                false
            }
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "the replication stream can't go on");
                return false;
            }
        };
        if !taken {
            // The shard has ended on this node, or is another one there: otherwise what comes for it would take the others' credit.
            self.links.remove(&stream);
            self.handle.reset(stream, ResetCode::REFUSED);
        }
        true
    }

    /// A message of this stream found no room, and would find some now. False closes the connection.
    fn writable(&mut self, stream: StreamId) -> bool {
        let Some(link) = self.links.get(&stream).map(Arc::clone) else { return true };
        let Some(theirs) = self.ungreeted.remove(&stream) else {
            link.events.send(Event::PeerWritable(self.peer, self.session));
            return true;
        };
        // One that can't be put into bytes is one that was not sent: the connection is closed for that.
        let greeting = link.replication.lock().greeting().ok();
        match greeting.map(|greeting| link.send(greeting)) {
            Some(Sending::Queued) => theirs.is_none_or(|(bytes, charge)| self.received(stream, &bytes, charge)),
            Some(Sending::Full) => {
                self.ungreeted.insert(stream, theirs);
                true
            }
            Some(Sending::Refused) | None => false,
        }
    }

    /// The peer's shard has ended, or it has no such shard.
    fn ended(&mut self, stream: StreamId) {
        self.unknown.remove(&stream);
        self.ungreeted.remove(&stream);
        if let Some(link) = self.links.remove(&stream) {
            link.down(self.peer);
        }
    }

    fn all_ended(&mut self) {
        std::mem::take(&mut self.links).into_values().for_each(|link| link.down(self.peer));
    }
}

/// A connection that stood so long was one: if it ends, the next one is tried at once.
const STANDS: Duration = Duration::from_secs(2);

/// How long to wait until a peer is dialled again, each time longer.
fn redial_pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Why a peer was not reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("the address does not resolve")]
    Unresolved,
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl DialError {
    fn needs_operator(&self) -> bool {
        matches!(self, Self::Transport(error) if error.needs_operator())
    }
}

fn check_batches(message: &Message) -> Result<(), crate::state::ApplyError> {
    match message {
        Message::Append { batches, .. } | Message::Fetched { batches, .. } | Message::Mend { batches, .. } => {
            batches.iter().try_for_each(check_batch)
        }
        _ => Ok(()),
    }
}

/// Who opens the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greets {
    /// The acceptor.
    First,
    /// The dialer, on the streams that the acceptor opened.
    Back,
}

/// A replication stream that stands.
struct NetPeer {
    session: u64,
    handle: ConnectionHandle,
    stream: StreamId,
    replication: Mutex<ReplicationStream>,
    events: Inbox,
}

impl NetPeer {
    fn down(&self, peer: NodeId) {
        self.events.send(Event::PeerDown(peer, self.session));
    }
}

impl PeerLink for NetPeer {
    fn session(&self) -> u64 {
        self.session
    }

    fn send(&self, message: Bytes) -> Sending {
        match self.handle.try_send(self.stream, message, SendFlags::default()) {
            Ok(()) => Sending::Queued,
            Err(SendError::Full) => Sending::Full,
            Err(_) => Sending::Refused,
        }
    }

    fn charge(&self, taken: Option<(Epoch, Lsn)>, charge: usize) {
        let settled = self.replication.lock().charge(taken, charge);
        if settled > 0 {
            self.handle.consumed(self.stream, settled);
        }
    }

    fn settle(&self, promised: Epoch, durable: Lsn) {
        let settled = self.replication.lock().settle(promised, durable);
        if settled > 0 {
            self.handle.consumed(self.stream, settled);
        }
    }

    fn disconnect(&self, reason: &str) {
        tracing::debug!(session = self.session, reason, "disconnecting");
        self.handle.go_away(GoAwayCode::SHUTDOWN);
        self.handle.close();
    }

    fn bytes_sent(&self) -> u64 {
        self.handle.stats().bytes_sent
    }
}

#[cfg(test)]
#[path = "peers_test.rs"]
mod tests;
