//! Virtual links: ordered bytes with latency, that break, are cut, and change a byte now and then.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::node::Peer;
use super::world::World;
use crate::model::{DirectoryId, Message, NodeId, Received, ReplicationStream};
use crate::replica::Input;
use bytes::Bytes;
use std::time::Duration;
use towline_net::{Connection, ConnectionConfig, Event as NetEvent, Identity, Lane, Role, SendFlags, Side, StreamKind};

/// Bytes handed to a link at a time.
const TRANSMIT_BYTES: usize = 256 * 1024;

impl World {
    fn connection(&mut self, id: NodeId, side: Side) -> Connection {
        let mut nonce = [0; 16];
        nonce.fill_with(|| u8::try_from(self.chance.below(256)).unwrap_or(0));
        let node = &self.nodes[&id];
        let identity = Identity {
            cluster: *self.cluster.as_bytes(),
            node: id.get(),
            directory: *node.directory().as_bytes(),
            incarnation: node.life,
            role: Role::Node,
        };
        let mut config = ConnectionConfig::new(identity, nonce);
        config.limits = towline_net::Limits::for_messages(crate::model::limits::MESSAGE_BYTES_MAX as u64);
        config.expect_cluster = Some(*self.cluster.as_bytes());
        match Connection::new(side, config, self.agenda.now()) {
            Ok(connection) => connection,
            Err(error) => unreachable!("the default configuration is legal: {error}"),
        }
    }

    /// Until when nothing gets from one node to the other, or back.
    fn cut_between(&self, one: NodeId, other: NodeId) -> Option<Duration> {
        let ends = [(one, other), (other, one)].into_iter().filter_map(|way| self.cuts.get(&way).copied());
        ends.max().filter(|until| *until > self.agenda.now())
    }

    /// Whether two nodes can talk: their link stands, and nothing holds it up.
    pub(super) fn can_talk(&self, one: NodeId, other: NodeId) -> bool {
        let link = self.links.get(&(one.min(other), one.max(other)));
        let moves = |link: &u64| self.stalls.get(link).is_none_or(|until| *until <= self.agenda.now());
        link.is_some_and(moves) && self.cut_between(one, other).is_none()
    }

    /// Two nodes connect, if both run and nothing lies between them; else they try again later.
    pub(super) fn dial(&mut self, low: NodeId, high: NodeId) -> Result<(), Violation> {
        let running = |id: &NodeId| self.nodes[id].running.is_some();
        if self.links.contains_key(&(low, high)) || !running(&low) || !running(&high) {
            return Ok(()); // A node that starts dials by itself.
        }
        if let Some(paused) = [low, high].into_iter().find(|id| self.nodes[id].paused) {
            self.put_off(paused, Event::Dial { low, high });
            return Ok(());
        }
        if let Some(until) = self.cut_between(low, high) {
            let after = until.saturating_sub(self.agenda.now()) + Duration::from_millis(1);
            self.agenda.schedule(after, Event::Dial { low, high });
            return Ok(());
        }
        // Who still holds an older link learns by the new one that it is gone.
        for (id, peer) in [(low, high), (high, low)] {
            let older = self.nodes[&id].running.as_ref().and_then(|running| running.peers.get(&peer));
            if let Some(link) = older.map(|older| older.link) {
                self.lose_peer(id, peer, link)?;
            }
        }
        let link = self.next_link;
        self.next_link += 1;
        self.links.insert((low, high), link);
        for (id, other, side) in [(low, high, Side::Dialer), (high, low, Side::Acceptor)] {
            let connection = self.connection(id, side);
            let replication = ReplicationStream::new(self.shard.shard, self.log);
            let peer = Peer { link, connection, stream: None, replication, up: false };
            if let Some(running) = &mut self.node(id).running {
                running.peers.insert(other, peer);
            }
            self.touched.insert(id);
        }
        self.tell(|| format!("link {link} joins nodes {low} and {high}"));
        Ok(())
    }

    /// A link breaks at `one`: what is in flight is gone, and the nodes dial again. The other end hears of it, unless
    /// nothing gets there: then it holds half a link until it finds out, or until the cut is over (N5).
    pub(super) fn drop_link(&mut self, one: NodeId, other: NodeId) -> Result<(), Violation> {
        let (low, high) = (one.min(other), one.max(other));
        let Some(link) = self.links.remove(&(low, high)) else {
            let half = self.nodes[&one].running.as_ref().and_then(|running| running.peers.get(&other));
            return half.map(|half| half.link).map_or(Ok(()), |link| self.lose_peer(one, other, link));
        };
        self.tell(|| format!("link {link} between nodes {low} and {high} breaks"));
        self.stalls.remove(&link);
        for way in [low, high] {
            self.arrivals.remove(&(link, way));
        }
        let delay = Duration::from_micros(self.chance.latency(20_000));
        self.agenda.schedule(delay, Event::Dial { low, high });
        let now = self.agenda.now();
        let unheard =
            self.cuts.get(&(one, other)).map(|until| until.saturating_sub(now)).filter(|left| !left.is_zero());
        for (id, peer, later) in [(one, other, None), (other, one, unheard)] {
            if self.nodes[&id].paused || later.is_some() {
                self.agenda.schedule(later.unwrap_or_default(), Event::Broken { node: id, peer, link });
            } else {
                self.lose_peer(id, peer, link)?;
            }
        }
        Ok(())
    }

    /// A node learns that its end of a link is of no use any more.
    pub(super) fn lose_peer(&mut self, id: NodeId, peer: NodeId, link: u64) -> Result<(), Violation> {
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        if running.peers.get(&peer).is_none_or(|held| held.link != link) {
            return Ok(());
        }
        if running.peers.remove(&peer).is_some_and(|removed| removed.up) {
            self.step(id, Input::PeerDown(peer))?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
        let bytes = message
            .encode()
            .map_err(|error| Violation::new("assertion", format!("node {from} can't encode: {error}")))?;
        let Some(running) = &mut self.node(from).running else { return Ok(()) };
        let Some(peer) = running.peers.get_mut(&to) else { return Ok(()) };
        let sent = match peer.stream {
            Some(stream) => peer.connection.send(stream, bytes, SendFlags::default()).is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        // The buffer towards this peer is full, or its stream is gone: begin anew rather than hold more.
        self.drop_link(from, to)
    }

    /// What a node's connections have to say goes on its way.
    pub(super) fn transmit(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let mut outgoing = Vec::new();
        for (to, peer) in &mut running.peers {
            while let Some(bytes) = peer.connection.poll_transmit(now, TRANSMIT_BYTES) {
                outgoing.push((peer.link, *to, bytes));
            }
        }
        for (link, to, bytes) in outgoing {
            let arrives = now + Duration::from_micros(self.chance.latency(self.swarm.link_micros));
            // A cut or a stall holds a stream up; what was sent arrives behind it, if the link still stands then.
            let held_up = self.cuts.get(&(id, to)).into_iter().chain(self.stalls.get(&link)).max();
            let arrives = held_up.map_or(arrives, |until| arrives.max(*until));
            let last = self.arrivals.entry((link, to)).or_default();
            *last = arrives.max(*last);
            let after = last.saturating_sub(now);
            self.agenda.schedule(after, Event::Deliver { link, from: id, to, bytes });
        }
        close_dead(self, id)
    }

    pub(super) fn deliver(&mut self, link: u64, from: NodeId, to: NodeId, bytes: &[Bytes]) -> Result<(), Violation> {
        if self.links.get(&(from.min(to), from.max(to))) != Some(&link) {
            return Ok(()); // Lost with its link.
        }
        let mut joined = bytes.concat();
        if self.corruption_next && !joined.is_empty() {
            self.corruption_next = false;
            self.count(FaultKind::Corruption);
            let at = usize::try_from(self.chance.below(joined.len() as u64)).unwrap_or(0);
            joined[at] ^= 1 << self.chance.below(8);
        }
        let now = self.agenda.now();
        let mut broken = false;
        // In pieces of any size: the stream has no boundaries.
        let mut rest = joined.as_slice();
        while !rest.is_empty() && !broken {
            let piece = usize::try_from(self.chance.between(1, rest.len() as u64)).unwrap_or(1);
            let (head, tail) = rest.split_at(piece);
            rest = tail;
            let Some(running) = &mut self.node(to).running else { return Ok(()) };
            let Some(peer) = running.peers.get_mut(&from) else { return Ok(()) };
            broken = peer.connection.receive(now, head).is_err();
            self.net_events(to, from)?;
        }
        if broken { self.drop_link(from, to) } else { Ok(()) }
    }

    fn net_events(&mut self, id: NodeId, from: NodeId) -> Result<(), Violation> {
        loop {
            let Some(running) = &mut self.node(id).running else { return Ok(()) };
            let Some(peer) = running.peers.get_mut(&from) else { return Ok(()) };
            let Some(event) = peer.connection.poll_event() else { return Ok(()) };
            let sound = match event {
                // The dialer opens the stream and greets; the acceptor greets back on the same one.
                NetEvent::Ready { .. } if id < from => {
                    match peer.connection.open(StreamKind::Replication, Lane::Replication) {
                        Ok(stream) => {
                            peer.stream = Some(stream);
                            greet(peer)
                        }
                        Err(_) => false,
                    }
                }
                NetEvent::Opened { stream, kind: StreamKind::Replication, .. } if peer.stream.is_none() => {
                    peer.stream = Some(stream);
                    greet(peer)
                }
                NetEvent::Message { stream, bytes, charge, .. } => {
                    return self.received(id, from, stream, &bytes, charge).and_then(|()| self.net_events(id, from));
                }
                NetEvent::Closed { .. } | NetEvent::Reset { .. } | NetEvent::Finished { .. } => false,
                _ => true,
            };
            if !sound {
                return self.drop_link(id, from);
            }
        }
    }

    fn received(
        &mut self,
        id: NodeId,
        from: NodeId,
        stream: towline_net::StreamId,
        bytes: &Bytes,
        charge: usize,
    ) -> Result<(), Violation> {
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let Some(peer) = running.peers.get_mut(&from) else { return Ok(()) };
        match peer.replication.receive(bytes) {
            Ok(Received::Greeting) => {
                peer.connection.consumed(stream, charge);
                peer.up = true;
                let hello = peer.connection.peer();
                let directory = hello.map(|hello| DirectoryId::new(hello.identity.directory));
                self.step(id, Input::PeerUp(from, directory.unwrap_or_default()))
            }
            Ok(Received::Message(message)) if Self::decodable(&message) => {
                let link = peer.link;
                let appended = message.appends();
                self.step(id, Input::Message { from, message })?;
                let Some(running) = &mut self.node(id).running else { return Ok(()) };
                let taken = appended.filter(|(epoch, last)| running.replica.took(*epoch, *last));
                if let Some(peer) = running.peers.get_mut(&from).filter(|peer| peer.link == link) {
                    let settled = peer.replication.charge(taken, charge);
                    peer.connection.consumed(stream, settled);
                }
                Ok(())
            }
            Ok(Received::Message(message)) => {
                Err(Violation::new("I2", format!("node {id} got an undecodable batch from node {from}: {message:?}")))
            }
            Err(error) => Err(Violation::new("I2", format!("node {id} can't read node {from}: {error}"))),
        }
    }
}

fn greet(peer: &mut Peer) -> bool {
    let Some(stream) = peer.stream else { return false };
    let greeting = peer.replication.greeting();
    greeting.is_ok_and(|bytes| peer.connection.send(stream, bytes, SendFlags::default()).is_ok())
}

/// Connections that closed themselves (a timer, an error) take their link with them.
pub(super) fn close_dead(world: &mut World, id: NodeId) -> Result<(), Violation> {
    let Some(running) = &mut world.node(id).running else { return Ok(()) };
    let dead: Vec<NodeId> =
        running.peers.iter().filter(|(_, peer)| peer.connection.is_closed()).map(|(to, _)| *to).collect();
    dead.into_iter().try_for_each(|peer| world.drop_link(id, peer))
}
