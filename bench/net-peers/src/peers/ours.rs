//! The transport: each call on a stream of its own, as gRPC has it, or all on one, whose order tells which answer is whose.

use super::Caller;
use crate::wire::{Ends, Security};
use anyhow::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;
use towline_net::driver::{ConnectionHandle, EventSink};
use towline_net::{Event, Lane, SendFlags, StreamId, StreamKind};

type Answers<T> = Arc<Mutex<T>>;

/// Answers each message by itself; `ends_streams` after the first.
fn echo(ends_streams: bool) -> EventSink {
    EventSink::callback_with_handle(move |handle, event| {
        if let Event::Message { stream, bytes, charge, .. } = event {
            // What can't be sent any more is of a connection that has ended.
            let _ended = handle.try_send(stream, bytes, SendFlags::default());
            if ends_streams {
                handle.finish(stream);
            }
            handle.consumed(stream, charge);
        }
    })
}

/// Each call has a stream.
#[derive(Clone)]
pub(crate) struct StreamEach {
    client: ConnectionHandle,
    /// Keeps the other end open.
    _server: ConnectionHandle,
    waiting: Answers<BTreeMap<StreamId, oneshot::Sender<Bytes>>>,
}

impl StreamEach {
    pub(crate) fn open(ends: &Ends) -> Result<Self> {
        let waiting: Answers<BTreeMap<StreamId, oneshot::Sender<Bytes>>> = Answers::default();
        let answers = Arc::clone(&waiting);
        let sink = EventSink::callback_with_handle(move |handle, event| {
            if let Event::Message { stream, bytes, charge, .. } = event {
                handle.consumed(stream, charge);
                let answer = answers.lock().remove(&stream);
                drop(answer.map(|answer| answer.send(bytes)));
            }
        });
        let (client, server) = ends.run(ends.connect(Security::Plain)?, sink, echo(true))?;
        Ok(Self { client, _server: server, waiting })
    }
}

impl Caller for StreamEach {
    async fn call(&self, request: Bytes) -> Result<Bytes> {
        let (sender, answer) = oneshot::channel();
        let stream = self.client.open(StreamKind::Request, Lane::Request)?;
        self.waiting.lock().insert(stream, sender);
        self.client.try_send(stream, request, SendFlags::default())?;
        self.client.finish(stream);
        Ok(answer.await?)
    }
}

/// All calls share a stream.
#[derive(Clone)]
pub(crate) struct OneStream {
    client: ConnectionHandle,
    /// Keeps the other end open.
    _server: ConnectionHandle,
    stream: StreamId,
    waiting: Answers<VecDeque<oneshot::Sender<Bytes>>>,
}

impl OneStream {
    pub(crate) fn open(ends: &Ends) -> Result<Self> {
        let waiting: Answers<VecDeque<oneshot::Sender<Bytes>>> = Answers::default();
        let answers = Arc::clone(&waiting);
        let sink = EventSink::callback_with_handle(move |handle, event| {
            if let Event::Message { stream, bytes, charge, .. } = event {
                handle.consumed(stream, charge);
                let answer = answers.lock().pop_front();
                drop(answer.map(|answer| answer.send(bytes)));
            }
        });
        let (client, server) = ends.run(ends.connect(Security::Plain)?, sink, echo(false))?;
        let stream = client.open(StreamKind::Request, Lane::Request)?;
        Ok(Self { client, _server: server, stream, waiting })
    }
}

impl Caller for OneStream {
    async fn call(&self, request: Bytes) -> Result<Bytes> {
        let (sender, answer) = oneshot::channel();
        {
            // Under one lock: the order of those who wait is that of the requests.
            let mut waiting = self.waiting.lock();
            self.client.try_send(self.stream, request, SendFlags::default())?;
            waiting.push_back(sender);
        }
        Ok(answer.await?)
    }
}
