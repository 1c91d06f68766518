//! No peer but the bar: four bytes of length before each message, and nothing else. No streams, no checksums, no bounds,
//! no heartbeat. Each side reads as much as there is, and writes all that is waiting by one call.

use super::Caller;
use crate::wire::{End, Ends, Security};
use anyhow::{Context as _, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

const READ_BYTES: usize = 64 << 10;

/// What waits to be written.
#[derive(Default)]
struct Queue {
    bytes: Mutex<(BytesMut, VecDeque<oneshot::Sender<Bytes>>)>,
    wake: Notify,
}

impl Queue {
    fn push(&self, message: &[u8], answer: Option<oneshot::Sender<Bytes>>) {
        let mut queue = self.bytes.lock();
        queue.0.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
        queue.0.extend_from_slice(message);
        queue.1.extend(answer);
        drop(queue);
        self.wake.notify_one();
    }
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Frames {
    queue: Arc<Queue>,
}

impl Frames {
    pub(crate) fn open(ends: &Ends) -> Result<Self> {
        let (client, server) = ends.connect(Security::Plain)?;
        let (asked, answered) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        let (answering, waiting) = (Arc::clone(&answered), Arc::clone(&asked));
        run(&ends.server, server, answered, move |message| answering.push(&message, None));
        run(&ends.client, client, Arc::clone(&asked), move |message| {
            let answer = waiting.bytes.lock().1.pop_front();
            drop(answer.map(|answer| answer.send(message)));
        });
        Ok(Self { queue: asked })
    }
}

/// Reads and writes until the other side goes away.
fn run(runtime: &tokio::runtime::Runtime, end: End, queue: Arc<Queue>, mut on: impl FnMut(Bytes) + Send + 'static) {
    let (mut reader, mut writer) = tokio::io::split(end);
    runtime.spawn(async move {
        loop {
            queue.wake.notified().await;
            // As the transport does: whoever else is about to ask goes first.
            tokio::task::yield_now().await;
            let bytes = queue.bytes.lock().0.split();
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    runtime.spawn(async move {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        while matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
            while let Some(message) = next(&mut buffer) {
                on(message);
            }
            buffer.reserve(READ_BYTES);
        }
    });
}

/// The first message, if all of it is there.
fn next(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(buffer.get(..4)?.get_u32_le()).ok()?;
    if buffer.len() < 4 + length {
        return None;
    }
    buffer.advance(4);
    Some(buffer.split_to(length).freeze())
}

impl Caller for Frames {
    async fn call(&self, request: Bytes) -> Result<Bytes> {
        let (sender, answer) = oneshot::channel();
        self.queue.push(&request, Some(sender));
        answer.await.context("the connection has ended")
    }
}
