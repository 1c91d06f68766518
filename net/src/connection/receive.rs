//! From bytes to frames. Each length is compared with its limit before a byte is kept, and a payload is kept only as
//! its bytes arrive.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::time::Duration;

use crc32fast::Hasher;

use crate::error::ConnectionError;
use crate::frame::{FrameFlags, FrameHeader, FrameKind, StreamId};
use crate::lane::Lane;
use crate::limits::{HEADER_BYTES, HELLO_BYTES_MAX};

use super::{Connection, Phase};

/// Where the receiver stands within the byte stream.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    sequence: u32,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
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
    pub fn receive(&mut self, now: Duration, mut input: &[u8]) -> Result<(), ConnectionError> {
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

    /// A header is complete: may this frame be, here and now?
    fn begin_frame(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<(), ConnectionError> {
        let expected = self.inbound.sequence;
        let seed = match self.phase {
            Phase::Greeting => 0,
            _ => self.session_seed.unwrap_or(0),
        };
        let header =
            FrameHeader::decode(bytes, seed).map_err(|_| ConnectionError::HeaderChecksum { sequence: expected })?;
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
            if header.length > HELLO_BYTES_MAX {
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
    fn end_frame(&mut self, now: Duration) -> Result<(), ConnectionError> {
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
