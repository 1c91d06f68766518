//! A client made by hand: what it sends is what a test says, byte by byte.

use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpSocket;
use towline::model::codec;
use towline::model::limits::MESSAGE_BYTES_MAX;
use towline::model::request::{Request, RequestBody, Response, ResponseBody};
use towline_net::driver::{self, ConnectionHandle, EventReceiver, EventSink};
use towline_net::{ConnectionConfig, Event, Identity, Lane, Limits, Role, SendFlags, Side, StreamId, StreamKind};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Raw {
    pub(crate) handle: ConnectionHandle,
    events: EventReceiver,
}

/// What comes on a stream.
#[derive(Debug)]
pub(crate) enum Came {
    Message(Bytes),
    Reset,
    Finished,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_from(1, address, Limits::for_messages(MESSAGE_BYTES_MAX as u64)).await
    }

    /// From an address of its own: the whole of 127.0.0.0/8 is this machine.
    pub(crate) async fn connect_from(last: u8, address: SocketAddr, limits: Limits) -> Self {
        let identity = Identity { cluster: [0; 16], node: 0, directory: [0; 16], incarnation: 1, role: Role::Client };
        let mut config = ConnectionConfig::new(identity, [9; 16]);
        config.limits = limits;
        let (sink, events) = EventSink::channel(64);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let socket = socket.connect(address).await.unwrap();
        let handle = driver::spawn(socket, Side::Dialer, config, sink).unwrap();
        handle.ready().await.unwrap();
        Self { handle, events }
    }

    pub(crate) fn open(&self, kind: StreamKind) -> StreamId {
        let lane = if kind == StreamKind::Feed { Lane::Bulk } else { Lane::Request };
        self.handle.open(kind, lane).unwrap()
    }

    pub(crate) async fn send(&self, stream: StreamId, bytes: impl Into<Bytes>) {
        self.handle.send(stream, bytes.into(), SendFlags::default()).await.unwrap();
    }

    pub(crate) async fn ask(&self, stream: StreamId, id: u64, body: RequestBody) {
        let request = Request { id, deadline_ms: 0, namespace: "default".into(), body };
        self.send(stream, codec::encode(&request).unwrap()).await;
    }

    pub(crate) async fn next(&mut self) -> (StreamId, Came) {
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap() {
                Event::Message { stream, bytes, charge, .. } => {
                    self.handle.consumed(stream, charge);
                    return (stream, Came::Message(bytes));
                }
                Event::Reset { stream, .. } => return (stream, Came::Reset),
                Event::Finished { stream } => return (stream, Came::Finished),
                Event::Closed { reason } => panic!("the connection ended: {reason}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn response(&mut self) -> (u64, ResponseBody) {
        match self.next().await {
            (_, Came::Message(bytes)) => {
                let Response { id, body } = codec::decode(&bytes).unwrap();
                (id, body)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whatever stands in an envelope.
pub(crate) fn envelope(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let head = [&kind.to_le_bytes()[..], &1_u16.to_le_bytes(), &length.to_le_bytes()].concat();
    let crc = crc32fast::hash(&[&head[..], body].concat());
    [&head[..], &crc.to_le_bytes(), body].concat()
}
