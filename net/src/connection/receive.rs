//! From bytes to frames. Each length is compared with its limit before a byte is kept, and a payload is kept only as
//! its bytes arrive.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Duration;

use crc32fast::Hasher;

use crate::error::ConnectionError;
use crate::frame::{FrameFlags, FrameHeader, FrameKind, StreamId};
use crate::lane::Lane;
use crate::limits::{HEADER_BYTES, HELLO_BYTES_MAX};
use crate::mutant::{Mutant, planted};

use super::{Connection, Phase};

/// Where the receiver stands within the byte stream.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    sequence: u32,
    pub(super) reading: Reading,
    /// The bytes of a message are with whoever drives the connection; see [`Connection::landing`].
    pub(super) is_lent: bool,
}

#[derive(Debug)]
pub(super) enum Reading {
    Header { bytes: [u8; HEADER_BYTES], filled: usize },
    Payload { header: FrameHeader, missing: usize, crc: Hasher, sink: Sink },
}

/// Where a payload's bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    /// A control frame, or a Hello: kept here, a few bytes (a Hello: at most 4 KiB).
    Control(FrameKind, Vec<u8>),
    /// Part of a message: kept in the stream's assembly.
    Data(StreamId),
    /// An unknown kind that may be skipped: kept nowhere.
    Skip,
}

impl Default for Reading {
    fn default() -> Self {
        Self::Header { bytes: [0; HEADER_BYTES], filled: 0 }
    }
}

impl Connection {
    /// Takes bytes of the peer, in pieces of any size. An input in two pieces has the effect of one.
    ///
    /// # Errors
    /// Why the connection ended; it stays so. Events that were complete before remain to be taken, and
    /// [`Self::poll_transmit`] may hold a last word to the peer.
    ///
    /// # Panics
    /// While a [`Landing`](super::Landing) is lent: its bytes come first.
    pub fn receive(&mut self, now: Duration, mut input: &[u8]) -> Result<(), ConnectionError> {
        assert!(!self.inbound.is_lent, "what was lent is given back before more is received");
        if !input.is_empty() {
            self.liveness.heard(now);
        }
        while !input.is_empty() {
            if let Phase::Closed(reason) = &self.phase {
                return Err(reason.clone());
            }
            let before = input.len();
            let result = self.receive_some(now, &mut input);
            let taken = before.saturating_sub(input.len());
            self.stats.bytes_received = self.stats.bytes_received.saturating_add(taken as u64);
            if let Err(error) = result {
                self.fail(error);
            }
        }
        self.closed_reason().map_or(Ok(()), |reason| Err(reason.clone()))
    }

    /// Takes input up to the end of a header or a payload.
    fn receive_some(&mut self, now: Duration, input: &mut &[u8]) -> Result<(), ConnectionError> {
        match &mut self.inbound.reading {
            Reading::Header { bytes, filled } => {
                let space = bytes.get_mut(*filled..).unwrap_or_default();
                let (piece, rest) = input.split_at(space.len().min(input.len()));
                for (to, from) in space.iter_mut().zip(piece) {
                    *to = *from;
                }
                *filled = filled.saturating_add(piece.len());
                *input = rest;
                if *filled < HEADER_BYTES {
                    return Ok(());
                }
                let bytes = *bytes;
                self.begin_frame(&bytes)?;
            }
            Reading::Payload { missing, crc, sink, header } => {
                let (piece, rest) = input.split_at((*missing).min(input.len()));
                *input = rest;
                let expected = *missing;
                *missing = missing.saturating_sub(piece.len());
                if !(header.flags.contains(FrameFlags::CHECKSUMMED) && matches!(sink, Sink::Data(_))) {
                    crc.update(piece);
                }
                match sink {
                    Sink::Control(_, kept) => kept.extend_from_slice(piece),
                    Sink::Data(id) => {
                        let id = *id;
                        self.keep_data(id, piece, expected);
                    }
                    Sink::Skip => {}
                }
            }
        }
        if let Reading::Payload { missing: 0, .. } = &self.inbound.reading {
            self.end_frame(now)?;
        }
        Ok(())
    }

    /// Whether the peer's last words, too few for a header, are of TLS: the alert with which a server of TLS answers a Hello
    /// has seven bytes.
    pub(super) fn heard_tls(&self) -> bool {
        match &self.inbound.reading {
            Reading::Header { bytes, filled } => {
                self.phase == Phase::Greeting && begins_like_tls(bytes.get(..*filled).unwrap_or_default())
            }
            Reading::Payload { .. } => false,
        }
    }

    /// A header is complete: may this frame be, here and now?
    fn begin_frame(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<(), ConnectionError> {
        let expected = self.inbound.sequence;
        let seed = match self.phase {
            Phase::Greeting => 0,
            _ => self.session_seed.unwrap_or(0),
        };
        let header = FrameHeader::decode(bytes, seed).map_err(|_| {
            if self.phase == Phase::Greeting && begins_like_tls(bytes) {
                return ConnectionError::SpeaksTls;
            }
            ConnectionError::HeaderChecksum { sequence: expected }
        })?;
        if header.sequence != expected {
            return Err(ConnectionError::Sequence { expected, found: header.sequence });
        }
        self.inbound.sequence = expected.wrapping_add(1);
        let sink = self.admit(&header)?;
        let missing = usize::try_from(header.length)
            .map_err(|_| ConnectionError::FrameTooLong { length: header.length, max: self.frame_bytes_max() })?;
        self.inbound.reading = Reading::Payload { header, missing, crc: Hasher::new(), sink };
        Ok(())
    }

    fn admit(&mut self, header: &FrameHeader) -> Result<Sink, ConnectionError> {
        let malformed = |what| ConnectionError::Malformed { kind: header.kind, what };
        let too_long = |max| ConnectionError::FrameTooLong { length: header.length, max };
        let kind = FrameKind::from_wire(header.kind);
        if self.phase == Phase::Greeting {
            let Some(kind) = kind.filter(|kind| *kind == self.awaited_greeting()) else {
                return Err(malformed("only a hello may come first"));
            };
            // I12: before anybody is known, no more than this is kept.
            if header.length > HELLO_BYTES_MAX && !planted(Mutant::LongHello) {
                return Err(too_long(HELLO_BYTES_MAX));
            }
            return self.admit_control(header, kind);
        }
        if header.length > self.frame_bytes_max() {
            return Err(too_long(self.frame_bytes_max()));
        }
        match kind {
            Some(FrameKind::Hello | FrameKind::HelloAck) => Err(malformed("a second hello")),
            Some(FrameKind::Data) => {
                self.admit_data(header)?;
                Ok(Sink::Data(StreamId::new(header.stream)))
            }
            Some(kind) => self.admit_control(header, kind),
            None if FrameKind::is_skippable(header.kind) => Ok(Sink::Skip),
            None => Err(ConnectionError::UnknownKind { kind: header.kind }),
        }
    }

    /// The fixed fields of a control frame.
    fn admit_control(&self, header: &FrameHeader, kind: FrameKind) -> Result<Sink, ConnectionError> {
        let malformed = |what| ConnectionError::Malformed { kind: header.kind, what };
        let length = match kind {
            FrameKind::Hello | FrameKind::HelloAck => header.length,
            FrameKind::Open | FrameKind::Reset => 4,
            FrameKind::Credit | FrameKind::Ping | FrameKind::Pong | FrameKind::GoAway => 8,
            FrameKind::Data => return Err(malformed("data is no control frame")),
        };
        if header.length != length {
            return Err(malformed("wrong length"));
        }
        let flags = if kind == FrameKind::Credit { FrameFlags::STREAMS } else { FrameFlags::NONE };
        if !header.flags.is_within(flags) {
            return Err(malformed("unknown flags"));
        }
        if kind != FrameKind::Open && header.lane != Lane::Control.to_wire() {
            return Err(malformed("a lane where there is none"));
        }
        let has_stream = header.stream != 0;
        let fits = match kind {
            FrameKind::Open | FrameKind::Reset => has_stream,
            FrameKind::Credit => !(has_stream && header.flags.contains(FrameFlags::STREAMS)),
            _ => !has_stream,
        };
        if !fits {
            return Err(malformed("a stream where there is none, or none where there is one"));
        }
        Ok(Sink::Control(kind, Vec::new()))
    }

    /// A payload is complete.
    pub(super) fn end_frame(&mut self, now: Duration) -> Result<(), ConnectionError> {
        let reading = std::mem::take(&mut self.inbound.reading);
        let Reading::Payload { header, crc, sink, .. } = reading else {
            return Ok(());
        };
        self.stats.frames_received = self.stats.frames_received.saturating_add(1);
        let crc = if header.flags.contains(FrameFlags::CHECKSUMMED) && matches!(sink, Sink::Data(_)) {
            0
        } else {
            crc.finalize()
        };
        if header.payload_crc != crc {
            return Err(ConnectionError::PayloadChecksum { sequence: header.sequence });
        }
        match sink {
            Sink::Control(kind, payload) => self.on_control(now, &header, kind, &payload),
            Sink::Data(id) => {
                self.on_data(id, header.flags);
                Ok(())
            }
            Sink::Skip => {
                self.stats.frames_skipped = self.stats.frames_skipped.saturating_add(1);
                Ok(())
            }
        }
    }
}

/// Whether these bytes begin as a record of TLS does (RFC 8446, 5.1): a type, a version 3.x, a length within its bound. Asked
/// only of bytes that are no frame of ours.
fn begins_like_tls(bytes: &[u8]) -> bool {
    match bytes {
        [0x14..=0x17, 3, 0..=4, high, low, ..] => {
            // The network's order, not ours.
            (1..=RECORD_BYTES_MAX).contains(&u16::from_le_bytes([*low, *high]))
        }
        _ => false,
    }
}

/// A record's payload, with what encryption may add.
const RECORD_BYTES_MAX: u16 = (1 << 14) + 256;
