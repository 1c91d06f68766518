//! The way from the wire into a message without a copy: whoever drives the connection reads the rest of a large payload
//! straight into the buffer of its message.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Duration;

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};

use crate::error::ConnectionError;
use crate::frame::FrameFlags;

use super::receive::{Reading, Sink};
use super::{Connection, Phase};

/// Room for the rest of a payload, lent by [`Connection::landing`] until [`Connection::landed`] gives it back.
///
/// ```
/// use bytes::BufMut;
/// use towline_net::{Lane, SendFlags, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// let stream = dialer.open(StreamKind::Snapshot, Lane::Bulk)?;
/// dialer.send(stream, vec![7; 50_000].into(), SendFlags::default())?;
/// let wire = dialer.poll_transmit(now, 1 << 20).unwrap_or_default().concat();
/// // A read brought the headers and some of the payload.
/// let (first, mut rest) = wire.split_at(1000);
/// acceptor.receive(now, first)?;
/// while let Some(mut landing) = acceptor.landing(16 << 10) {
///     let piece = rest.split_off(..landing.room().min(20_000)).ok_or("there is more")?;
///     landing.buffer().put_slice(piece); // A read of a socket would go here.
///     acceptor.landed(now, landing)?;
/// }
/// acceptor.receive(now, rest)?;
/// assert_eq!(messages(&mut acceptor), [vec![7; 50_000]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Landing {
    bytes: BytesMut,
    /// Bytes of the message that came before.
    before: usize,
    /// Bytes that are missing of the payload, without those that landed.
    missing: usize,
}

impl Landing {
    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.missing.saturating_sub(self.landed().len())
    }

    /// Where they go; it takes no more than [`Self::room`].
    pub fn buffer(&mut self) -> Limit<&mut BytesMut> {
        let room = self.room();
        (&mut self.bytes).limit(room)
    }

    fn landed(&self) -> &[u8] {
        self.bytes.get(self.before..).unwrap_or_default()
    }
}

impl Connection {
    /// Where the peer's next bytes may be read to, if they are the rest of a message's payload of at least so many. It is to
    /// be given back by [`Self::landed`], with as many of them as came, before anything else is received.
    pub fn landing(&mut self, least: usize) -> Option<Landing> {
        let Reading::Payload { missing, sink: Sink::Data(id), .. } = &self.inbound.reading else {
            return None;
        };
        if *missing < least.max(1) || self.phase != Phase::Ready || self.inbound.is_lent {
            return None;
        }
        let assembly = self.streams.get_mut(id)?.receive.assembly.as_mut()?;
        let mut bytes = std::mem::take(&mut assembly.bytes);
        // At most a frame, which was checked against the limits and the credit.
        bytes.reserve(*missing);
        self.inbound.is_lent = true;
        Some(Landing { before: bytes.len(), bytes, missing: *missing })
    }

    /// Takes back what [`Self::landing`] lent, with the bytes that came: as [`Self::receive`] takes them.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn landed(&mut self, now: Duration, landing: Landing) -> Result<(), ConnectionError> {
        self.inbound.is_lent = false;
        let count = landing.landed().len();
        if count > 0 {
            self.liveness.heard(now);
        }
        if let Phase::Closed(reason) = &self.phase {
            return Err(reason.clone());
        }
        self.stats.bytes_received = self.stats.bytes_received.saturating_add(count as u64);
        if let Reading::Payload { missing, crc, sink: Sink::Data(id), header } = &mut self.inbound.reading {
            *missing = missing.saturating_sub(count);
            if !header.flags.contains(FrameFlags::CHECKSUMMED) {
                crc.update(landing.landed());
            }
            match self.streams.get_mut(id).and_then(|stream| stream.receive.assembly.as_mut()) {
                Some(assembly) => assembly.bytes = landing.bytes,
                // The stream was reset meanwhile.
                None => self.stats.bytes_discarded = self.stats.bytes_discarded.saturating_add(count as u64),
            }
        }
        if let Reading::Payload { missing: 0, .. } = &self.inbound.reading
            && let Err(error) = self.end_frame(now)
        {
            self.fail(error);
        }
        self.closed_reason().map_or(Ok(()), |reason| Err(reason.clone()))
    }
}
