//! Connections to the other nodes: who dials, who greets, and what a replication stream delivers.
//!
//! The node with the lower number dials, for ever, with full jitter. Everything here is tokio's; it hands events
//! to the shard's thread and never waits for it.

use super::shard::{Event, PeerLink};
use super::transport::{Transport, TransportError, resolve};
use super::{Identity, Inbox, SHARD};
use crate::model::from_client::CANCEL;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::{DirectoryId, Epoch, LogId, Lsn, Message, NodeId, Received, ReplicationStream};
use crate::state::check_batch;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use towline_net::driver::{ConnectionHandle, EventReceiver, EventSink};
use towline_net::{
    ConnectionConfig, Event as NetEvent, GoAwayCode, Lane, Limits, ResetCode, Role, SendFlags, StreamId, StreamKind,
};

/// Events of one connection that wait for its task; the connection's credits bound their bytes.
pub(super) const EVENTS_WAITING: usize = 256;

/// What every connection of a node has in common.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) identity: Identity,
    pub(super) incarnation: u64,
    pub(super) log: LogId,
    pub(super) events: Inbox,
    pub(super) sessions: Arc<AtomicU64>,
    pub(super) transport: Transport,
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
        loop {
            let mut pauses = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(20))
                .with_max_delay(Duration::from_secs(1))
                .with_jitter()
                .without_max_times()
                .build();
            let (handle, events) = loop {
                let mut config = self.config();
                config.expect_node = Some(peer.get());
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
            self.clone().session(peer, handle, events, Greets::First).await;
            // A peer that refuses us at once must not be asked in a tight loop.
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
        let mut link: Option<Arc<NetPeer>> = None;
        if greets == Greets::First {
            match handle.ready().await {
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%peer, %error, "the connection was refused");
                    return;
                }
            }
            match handle.open(StreamKind::Replication, Lane::Replication) {
                Ok(stream) => link = self.greet(session, &handle, stream),
                Err(error) => tracing::warn!(%peer, %error, "no replication stream"),
            }
        }
        while let Some(event) = events.recv().await {
            let sound = match event {
                NetEvent::Opened { stream, kind: StreamKind::Replication, .. } if link.is_none() => {
                    link = self.greet(session, &handle, stream);
                    link.is_some()
                }
                NetEvent::Opened { stream, .. } => {
                    handle.reset(stream, ResetCode::REFUSED);
                    true
                }
                NetEvent::Message { stream, bytes, charge, .. } => match &link {
                    Some(link) if link.stream == stream => self.message(peer, link, &bytes, charge),
                    _ => {
                        handle.consumed(stream, charge);
                        true
                    }
                },
                NetEvent::Reset { .. } | NetEvent::Finished { .. } => false,
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
        self.events.send(Event::PeerDown(peer, session));
    }

    fn greet(&self, session: u64, handle: &ConnectionHandle, stream: StreamId) -> Option<Arc<NetPeer>> {
        let replication = ReplicationStream::new(SHARD, self.log);
        let greeting = replication.greeting().ok()?;
        handle.try_send(stream, greeting, SendFlags::default()).ok()?;
        let replication = Mutex::new(replication);
        Some(Arc::new(NetPeer { session, handle: handle.clone(), stream, replication }))
    }

    /// One message of the stream; false closes the connection.
    fn message(&self, peer: NodeId, link: &Arc<NetPeer>, bytes: &Bytes, charge: usize) -> bool {
        let received = link.replication.lock().receive(bytes);
        match received {
            Ok(Received::Greeting) => {
                link.handle.consumed(link.stream, charge);
                // The greeting comes behind the handshake.
                let directory = link.handle.peer().map(|hello| DirectoryId::new(hello.identity.directory));
                let link = Arc::clone(link) as Arc<dyn PeerLink>;
                self.events.send(Event::PeerUp(peer, directory.unwrap_or_default(), link));
                true
            }
            Ok(Received::Message(message)) => {
                // N11: what apply could not execute is refused before it reaches the log, so it can't commit.
                if let Err(error) = check_batches(&message) {
                    tracing::error!(%peer, %error, "a batch can't be applied by this release: it is refused");
                    return false;
                }
                self.events.send(Event::Message(peer, link.session, message, charge));
                true
            }
            Err(error) => {
                tracing::error!(%peer, %error, "the replication stream can't go on");
                false
            }
        }
    }
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

/// Who opens the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greets {
    /// The dialer.
    First,
    /// The acceptor, on the stream that the dialer opened.
    Back,
}

/// A replication stream that stands.
struct NetPeer {
    session: u64,
    handle: ConnectionHandle,
    stream: StreamId,
    replication: Mutex<ReplicationStream>,
}

impl PeerLink for NetPeer {
    fn session(&self) -> u64 {
        self.session
    }

    fn send(&self, message: Bytes) -> bool {
        self.handle.try_send(self.stream, message, SendFlags::default()).is_ok()
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
