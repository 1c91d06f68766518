//! Feeds of clients: each on a stream of its own, at the pace at which its client consumes it.

use super::FeedError;
use super::access::Access;
use super::failure;
use super::feed::Feed;
use super::server::Server;
use crate::model::codec::{self, CodecError};
use crate::model::request::Failure;
use crate::model::subscription::{Delivery, Subscribe};
use crate::model::{Change, Filter, Since, Token};
use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use towline_net::driver::ConnectionHandle;
use towline_net::{ResetCode, SendError, SendFlags, StreamId};

/// Changes of one delivery at the most, and about so many bytes: one change is always delivered whole.
const CHANGES_MAX: usize = 1000;
const CHANGES_BYTES: usize = 1 << 20;
/// Batches that are looked at before others have a turn.
const BATCHES_LOOKED_AT: usize = 256;
/// Where the feed is, is told so often though nothing came: whoever waits for something seldom must not fall behind what is kept.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Where the deliveries go.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) handle: ConnectionHandle,
    pub(super) stream: StreamId,
}

/// A feed, and what was taken of it and did not fit into the delivery before.
struct Deliveries {
    feed: Feed,
    held: Option<Change>,
    /// Why nothing comes behind what was taken.
    failed: Option<Failure>,
    /// Behind everything that was delivered.
    token: Token,
}

impl Server {
    /// Delivers until the feed fails, or nobody takes any more: then this future is dropped, and the feed with it.
    pub(super) async fn deliver(self, access: Access, subscriber: Subscriber, request: Bytes) {
        let Ok(_place) = Arc::clone(&self.feeds).try_acquire_owned() else {
            return subscriber.fail(failure::too_many_feeds()).await;
        };
        let mut deliveries = match tokio::task::block_in_place(|| self.subscribe(&access, &request)) {
            Ok(feed) => Deliveries { token: feed.token(), feed, held: None, failed: None },
            Err(failure) => return subscriber.fail(failure).await,
        };
        // The first says where it begins.
        let (mut changes, mut told) = (Vec::new(), None);
        loop {
            let is_news = !changes.is_empty() || told.as_ref() != Some(&deliveries.token);
            if is_news && !subscriber.tell(&changes, &deliveries.token).await {
                return;
            }
            told = Some(deliveries.token.clone());
            changes = match deliveries.next().await {
                Ok(changes) => changes,
                Err(failure) => return subscriber.fail(failure).await,
            };
        }
    }

    fn subscribe(&self, access: &Access, request: &[u8]) -> Result<Feed, Failure> {
        let bad = |error: &dyn std::error::Error| failure::bad_request(&error.to_string());
        let subscribe = codec::decode(request).map_err(|error| match error {
            CodecError::Body { .. } => failure::not_understood(),
            error => bad(&error),
        })?;
        let Subscribe { namespace, since, filter } = access.admit_feed(subscribe)?.into_inner();
        let since = Since::try_from(since).map_err(|error| bad(&error))?;
        let space = self.node.namespace(&namespace).map_err(|error| failure::of(&error.into()))?;
        space.subscribe(since, Filter::from(filter)).map_err(|error| failure::of(&error.into()))
    }
}

impl Deliveries {
    /// What is there next, or nothing after a while. A feed reads the log, which may wait for the disk: not on a thread that others
    /// wait for.
    async fn next(&mut self) -> Result<Vec<Change>, Failure> {
        let some = std::future::poll_fn(|context| tokio::task::block_in_place(|| self.poll(context)));
        let found = tokio::time::timeout(TOLD_EVERY, some).await;
        found.unwrap_or_else(|_| {
            // Nothing is held then: what was passed over counts as delivered.
            self.token = self.feed.token();
            Ok(Vec::new())
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Change>, Failure>> {
        let failed = |error: FeedError| failure::of(&error.into());
        let mut batches = BATCHES_LOOKED_AT;
        let first = match self.held.take() {
            Some(held) => held,
            None if self.failed.is_some() => {
                return Poll::Ready(Err(self.failed.take().unwrap_or_else(failure::closing)));
            }
            None => match self.feed.poll_within(context, &mut batches) {
                Poll::Ready(first) => first.map_err(failed)?,
                Poll::Pending => return Poll::Pending,
            },
        };
        let (mut bytes, mut changes) = (size(&first), vec![first]);
        while changes.len() < CHANGES_MAX && bytes < CHANGES_BYTES {
            let change = match self.feed.advance_within(&mut batches) {
                Ok(Some(change)) => change,
                Ok(None) => break,
                Err(error) => {
                    // What lies before it is delivered first.
                    self.failed = Some(failed(error));
                    break;
                }
            };
            bytes += size(&change);
            if bytes > CHANGES_BYTES {
                // Together they might be more than a message may be.
                self.held = Some(change);
                break;
            }
            changes.push(change);
        }
        if self.held.is_some() || self.failed.is_some() {
            changes.iter().for_each(|change| self.token.extend(&change.token()));
        } else {
            self.token = self.feed.token();
        }
        Poll::Ready(Ok(changes))
    }
}

fn size(change: &Change) -> usize {
    use crate::model::Operation as Op;
    let of = |operation: &Op| match operation {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Append { stream, metadata, value, .. } => stream.len() + metadata.len() + value.len(),
        other => other.key().len(),
    };
    change.operations.iter().map(of).sum()
}

impl Subscriber {
    /// False: nobody hears it.
    async fn tell(&self, changes: &[Change], token: &Token) -> bool {
        match Delivery::of(changes, token) {
            Ok(delivery) => self.send(&delivery).await,
            Err(error) => {
                tracing::error!(%error, "a change can't be delivered: its feed ends");
                self.handle.reset(self.stream, ResetCode::INTERNAL);
                false
            }
        }
    }

    async fn fail(&self, failure: Failure) {
        if self.send(&Delivery::Failed(failure)).await {
            self.handle.finish(self.stream);
        }
    }

    async fn send(&self, delivery: &Delivery) -> bool {
        let Ok(bytes) = codec::encode(delivery) else {
            self.handle.reset(self.stream, ResetCode::INTERNAL);
            return false;
        };
        let sent = self.handle.send(self.stream, bytes, SendFlags::default()).await;
        if matches!(sent, Err(SendError::TooLong { .. })) {
            // Its client takes no message of this length, and would wait for ever.
            self.handle.reset(self.stream, ResetCode::INTERNAL);
        }
        sent.is_ok()
    }
}
