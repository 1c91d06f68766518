//! Feeds of clients: each on a stream of its own, at the pace at which its client consumes it.

use super::access::Access;
use super::calls::{self, bad, of};
use super::failure;
use super::feed::Feed;
use super::follower::Seat;
use super::server::Server;
use crate::model::codec::{self, CodecError, Enveloped};
use crate::model::request::Failure;
use crate::model::subscription::{Delivery, Follow, Subscribe};
use crate::model::{Change, Token};
use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use towline_net::driver::ConnectionHandle;
use towline_net::{ResetCode, SendError, SendFlags, StreamId};

/// Changes of one delivery at the most, and about so many bytes: one change is always delivered whole.
const CHANGES_MAX: usize = 1000;
const CHANGES_BYTES: usize = 1 << 20;
/// Batches that are looked at before others have a turn.
const BATCHES_LOOKED_AT: usize = 256;
/// Where the feed is, is told so often though nothing came: whoever waits for something seldom must not fall behind what is kept.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Bytes that wait to be sent to a subscriber before the log is looked at again, and how often that is looked at.
const QUEUED_BYTES_MAX: u64 = 2 << 20;
const TAKEN_PAUSE_MIN: Duration = Duration::from_millis(1);
const TAKEN_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Where the deliveries go.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) handle: ConnectionHandle,
    pub(super) stream: StreamId,
}

/// A feed, and what was taken of it and did not fit into the delivery before.
struct Deliveries {
    feed: Feed,
    /// Of a follower: nobody else takes it meanwhile.
    seat: Option<Seat>,
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
        let Ok(place) = Arc::clone(&self.scanning).acquire_owned().await else { return };
        let scanning = Arc::clone(&self.scanning);
        let subscribing = spawn_blocking(move || {
            let subscribed = self.subscribe(&access, &request);
            (subscribed, place)
        });
        let subscribed = subscribing.await.map(|(subscribed, _place)| subscribed);
        let mut deliveries = match subscribed {
            Ok(Ok((feed, seat))) => Deliveries { token: feed.token(), feed, seat, held: None, failed: None },
            Ok(Err(failure)) => return subscriber.fail(failure).await,
            Err(_) => return subscriber.handle.reset(subscriber.stream, ResetCode::INTERNAL),
        };
        if let Some(seat) = &deliveries.seat
            && !subscriber.send(Delivery::Seated { seat: seat.who() }).await
        {
            return;
        }
        // The first says where it begins.
        let (mut changes, mut told) = (Vec::new(), None);
        let bell = Arc::new(Bell::default());
        loop {
            let is_news = !changes.is_empty() || told.as_ref() != Some(&deliveries.token);
            if is_news && !subscriber.tell(std::mem::take(&mut changes), &deliveries.token).await {
                return;
            }
            told = Some(deliveries.token.clone());
            subscriber.until_taken().await;
            (deliveries, changes) = match deliveries.next(&scanning, &bell).await {
                Ok((deliveries, Ok(changes))) => (deliveries, changes),
                Ok((_, Err(failure))) => return subscriber.fail(failure).await,
                Err(_) => return subscriber.handle.reset(subscriber.stream, ResetCode::INTERNAL),
            };
        }
    }

    fn subscribe(&self, access: &Access, request: &[u8]) -> Result<(Feed, Option<Seat>), Failure> {
        if codec::kind_of(request) == Some(Follow::KIND) {
            let wanted = access.admit_feed(understood::<Follow>(request)?, |wanted| &wanted.namespace)?;
            let (feed, seat) = calls::follow(&self.node, wanted.into_inner())?.into_parts();
            return Ok((feed, Some(seat)));
        }
        let wanted = access.admit_feed(understood::<Subscribe>(request)?, |wanted| &wanted.namespace)?;
        Ok((calls::subscribe(&self.node, wanted.into_inner())?, None))
    }
}

impl Deliveries {
    /// What is there next, or nothing after a while. A feed reads the log, which may wait for the disk: not on a thread that others
    /// wait for, and a few feeds at a time: each takes a thread from those that reads need.
    ///
    /// # Errors
    /// It panicked.
    async fn next(
        mut self,
        scanning: &Arc<Semaphore>,
        bell: &Arc<Bell>,
    ) -> Result<(Self, Result<Vec<Change>, Failure>), JoinError> {
        let end = Instant::now() + TOLD_EVERY;
        while let Ok(Ok(place)) = timeout_at(end, Arc::clone(scanning).acquire_owned()).await {
            let waker = Waker::from(Arc::clone(bell));
            let looking = spawn_blocking(move || {
                let polled = self.poll(&mut Context::from_waker(&waker));
                (self, polled, place)
            });
            // The place comes back with what was found, also where nobody waits for that any more: until then a thread is busy.
            let (back, polled, place) = looking.await?;
            drop(place);
            self = back;
            if let Poll::Ready(found) = polled {
                return Ok((self, found));
            }
            if timeout_at(end, bell.rung.notified()).await.is_err() {
                break;
            }
        }
        // What was passed over counts as delivered; what is held was taken, and was not.
        if self.held.is_none() && self.failed.is_none() {
            self.token = self.feed.token();
        }
        Ok((self, Ok(Vec::new())))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Change>, Failure>> {
        let mut batches = BATCHES_LOOKED_AT;
        let first = match self.held.take() {
            Some(held) => held,
            None if self.failed.is_some() => {
                return Poll::Ready(Err(self.failed.take().unwrap_or_else(failure::closing)));
            }
            None => match self.feed.poll_within(context, &mut batches) {
                Poll::Ready(first) => first.map_err(of)?,
                Poll::Pending => return Poll::Pending,
            },
        };
        let (mut bytes, mut changes) = (calls::size(&first), vec![first]);
        while changes.len() < CHANGES_MAX && bytes < CHANGES_BYTES {
            let change = match self.feed.advance_within(&mut batches) {
                Ok(Some(change)) => change,
                Ok(None) => break,
                Err(error) => {
                    // What lies before it is delivered first.
                    self.failed = Some(of(error));
                    break;
                }
            };
            bytes += calls::size(&change);
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

/// Called when there may be more; it remembers one call that came while nobody waited.
#[derive(Default)]
struct Bell {
    rung: Notify,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.notify_one();
    }
}

/// What begins a feed, if this release knows it.
fn understood<T: Enveloped>(request: &[u8]) -> Result<T, Failure> {
    codec::decode(request).map_err(|error| match error {
        CodecError::Body { .. } => failure::not_understood(),
        error => bad(error),
    })
}

impl Subscriber {
    /// Waits until little is on its way. The send buffer has room for the largest message, which is more than a feed that nobody
    /// takes may hold.
    async fn until_taken(&self) {
        let mut pause = TAKEN_PAUSE_MIN;
        while self.handle.queued_bytes() > QUEUED_BYTES_MAX && !self.handle.is_closed() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(TAKEN_PAUSE_MAX);
        }
    }

    /// False: nobody hears it.
    async fn tell(&self, changes: Vec<Change>, token: &Token) -> bool {
        let delivery = Delivery::of(&changes, token);
        drop(changes);
        match delivery {
            Ok(delivery) => self.send(delivery).await,
            Err(error) => {
                tracing::error!(%error, "a change can't be delivered: its feed ends");
                self.handle.reset(self.stream, ResetCode::INTERNAL);
                false
            }
        }
    }

    async fn fail(&self, failure: Failure) {
        if self.send(Delivery::Failed(failure)).await {
            self.handle.finish(self.stream);
        }
    }

    async fn send(&self, delivery: Delivery) -> bool {
        let Ok(bytes) = codec::encode(&delivery) else {
            self.handle.reset(self.stream, ResetCode::INTERNAL);
            return false;
        };
        // While it waits for room, once and counted.
        drop(delivery);
        let _held = self.handle.hold(bytes.len());
        let sent = self.handle.send(self.stream, bytes, SendFlags::default()).await;
        if matches!(sent, Err(SendError::TooLong { .. })) {
            // Its client takes no message of this length, and would wait for ever.
            self.handle.reset(self.stream, ResetCode::INTERNAL);
        }
        sent.is_ok()
    }
}

#[cfg(test)]
#[path = "deliveries_test.rs"]
mod tests;
