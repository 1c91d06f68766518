//! Who answers calls: the transport, what others have published, and the bar for both.

mod frames;
mod grpc;
mod nats;
mod ours;

use crate::wire::Ends;
use anyhow::Result;
use bytes::Bytes;
use std::future::Future;

pub(crate) use frames::Frames;
pub(crate) use grpc::Grpc;
pub(crate) use nats::Nats;
pub(crate) use ours::{OneStream, StreamEach};

/// A connection by which calls are made; each clone may make some at the same time.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Sends a request, and waits for its answer.
    fn call(&self, request: Bytes) -> impl Future<Output = Result<Bytes>> + Send;
}

/// Somebody with whom calls can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    StreamEach,
    OneStream,
    Frames,
    Grpc,
    Nats,
}

impl Peer {
    /// Ours first, then the bar, then the published ones.
    pub(crate) const ALL: [Self; 5] = [Self::StreamEach, Self::OneStream, Self::Frames, Self::Grpc, Self::Nats];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::StreamEach => "towline-net, a stream for each call",
            Self::OneStream => "towline-net, one stream",
            Self::Frames => "bare frames",
            Self::Grpc => "tonic 0.14.9 (gRPC, unary)",
            Self::Nats => "async-nats 0.51.0 (request)",
        }
    }
}

/// The open connections of all peers that there are.
pub(crate) struct Open {
    pub(crate) stream_each: StreamEach,
    pub(crate) one_stream: OneStream,
    pub(crate) frames: Frames,
    pub(crate) grpc: Grpc,
    /// Or why there is none.
    pub(crate) nats: Result<Nats>,
}

impl Open {
    pub(crate) fn new(ends: &Ends, nats_server: &std::path::Path) -> Result<Self> {
        Ok(Self {
            stream_each: StreamEach::open(ends)?,
            one_stream: OneStream::open(ends)?,
            frames: Frames::open(ends)?,
            grpc: Grpc::open(ends)?,
            nats: Nats::open(ends, nats_server),
        })
    }
}
