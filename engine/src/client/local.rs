//! [`Local`]: the node in this process, asked as a server is that lies elsewhere, and without a byte in between.

use super::receipt::Coming;
use crate::model::Record;
use crate::model::call::Reach;
use crate::model::request::{Failure, RequestBody, ResponseBody};
use crate::model::subscription::{Follow, Subscribe};
use crate::model::{Change, Token};
use crate::node::calls::{self, Asked, LARGE_RECORD_BYTES};
use crate::node::follower::Seat;
use crate::node::held::{SNAPSHOT_IDLE_MAX, SNAPSHOTS_MAX, Snapshots};
use crate::node::namespace::Taken;
use crate::node::{Error, Feed, FeedError, Node, WriteRefused, failure};
use crate::pipeline::SubmitError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

/// Between two attempts of a write that finds no room in the queue, whatever the queue advises.
const FULL_QUEUE_PAUSE_MIN: Duration = Duration::from_millis(1);
const FULL_QUEUE_PAUSE_MAX: Duration = Duration::from_millis(50);
/// What is read of a feed at a time: changes, about so many bytes, and batches that are looked at.
const CHANGES_MAX: usize = 1000;
const CHANGES_BYTES: usize = 1 << 20;
const BATCHES_MAX: usize = 256;

/// A node, and what its client holds of it.
#[derive(Debug)]
pub(super) struct Local {
    node: Arc<Node>,
    snapshots: Arc<Snapshots>,
}

impl Local {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let places = Arc::new(Semaphore::new(SNAPSHOTS_MAX));
        Self { node, snapshots: Arc::new(Snapshots::new(places, SNAPSHOT_IDLE_MAX)) }
    }

    pub(super) const fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// What a server would answer. Reads touch the disk, and wait: on a thread where that holds up nobody.
    pub(super) async fn ask(&self, name: &str, mut body: RequestBody, end: Instant) -> ResponseBody {
        Asked { node: &self.node, name, end, snapshots: &self.snapshots }.wait_until_shown(&mut body).await;
        let (node, snapshots, name) = (Arc::clone(&self.node), Arc::clone(&self.snapshots), name.to_owned());
        let asked =
            spawn_blocking(move || Asked { node: &node, name: &name, end, snapshots: &snapshots }.respond(body));
        let answered = asked.await.unwrap_or_else(|_| Err(failure::unknown()));
        answered.unwrap_or_else(ResponseBody::Failed)
    }

    /// Waits for room in the queue, until then at the most. What is refused is so by what comes.
    pub(super) async fn write(&self, name: &str, record: &Record, reach: Option<Reach>, deadline: Instant) -> Coming {
        let refused = |failure| Coming::Refused(Some(failure));
        let space = match self.node.namespace(name) {
            Ok(space) => space,
            Err(error) if reach.is_some() => return refused(calls::of(error)),
            Err(_) => return refused(failure::unknown_namespace(name)),
        };
        let refused_by = |error| refused(if reach.is_some() { calls::of(error) } else { failure::refused(&error) });
        let prepared = if record.encoded_len() < LARGE_RECORD_BYTES {
            space.prepare_for(record, reach)
        } else {
            let record = record.clone();
            // Only that: whoever goes away meanwhile must not find it queued afterwards.
            match spawn_blocking(move || space.prepare_for(&record, reach)).await {
                Ok(prepared) => prepared,
                Err(_) => return refused(failure::unknown()),
            }
        };
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return refused_by(error),
        };
        loop {
            // Queued, or not: there is nothing to wait for behind it.
            match prepared.submit() {
                Ok(Taken::Applied(receipt)) if reach.is_none() => return Coming::Plain(receipt),
                Ok(Taken::Applied(receipt)) => return Coming::Written(receipt),
                Ok(Taken::Placed(receipt)) => return Coming::Placed(receipt),
                Err(refused) => match *refused {
                    (WriteRefused::Submit(SubmitError::Busy(busy)), back) if Instant::now() < deadline => {
                        prepared = back;
                        sleep(busy.after.clamp(FULL_QUEUE_PAUSE_MIN, FULL_QUEUE_PAUSE_MAX)).await;
                    }
                    (error, _) => return refused_by(error),
                },
            }
        }
    }

    pub(super) async fn subscribe(&self, wanted: Subscribe) -> Result<LocalFeed, Failure> {
        let node = Arc::clone(&self.node);
        let asked = spawn_blocking(move || calls::subscribe(&node, wanted));
        Ok(LocalFeed::new(asked.await.unwrap_or_else(|_| Err(failure::unknown()))?, None))
    }

    pub(super) async fn follow(&self, wanted: Follow) -> Result<LocalFeed, Failure> {
        let node = Arc::clone(&self.node);
        let asked = spawn_blocking(move || calls::follow(&node, wanted));
        let (feed, seat) = asked.await.unwrap_or_else(|_| Err(failure::unknown()))?.into_parts();
        Ok(LocalFeed::new(feed, Some(seat)))
    }

    /// Holds a moment no more.
    pub(super) fn close_snapshot(&self, number: u64) {
        self.snapshots.close(number);
    }

    /// Closes the node.
    pub(super) async fn close(&self) -> Result<(), Failure> {
        let node = Arc::clone(&self.node);
        let closed = spawn_blocking(move || node.stop()).await;
        closed.map_or_else(|_| Err(failure::unknown()), |closed| closed.map_err(|error| calls::of(Error::from(error))))
    }
}

/// The node's feed. It reads the log, which may wait for the disk: on a thread where that holds up nobody.
#[derive(Debug)]
pub(super) struct LocalFeed {
    state: State,
    /// Of a follower: nobody else takes it meanwhile.
    seat: Option<Seat>,
}

#[derive(Debug)]
enum State {
    Idle(Box<Feed>),
    /// It comes back with what it found; whoever waits for that may go away and come again.
    Reading(JoinHandle<(Box<Feed>, Found)>),
    Lost,
}

/// Changes, and perhaps why there are no more behind them.
type Found = (VecDeque<Change>, Option<FeedError>);

impl LocalFeed {
    fn new(feed: Feed, seat: Option<Seat>) -> Self {
        Self { state: State::Idle(Box::new(feed)), seat }
    }

    pub(super) fn seat(&self) -> Option<u64> {
        self.seat.as_ref().map(Seat::who)
    }

    /// Where it is; none while it reads.
    pub(super) fn token(&self) -> Option<Token> {
        match &self.state {
            State::Idle(feed) => Some(feed.token()),
            _ => None,
        }
    }

    /// What is there, waiting until something is; and where the feed is behind it.
    ///
    /// Cancellation: nothing is lost; the next call goes on.
    pub(super) async fn next(&mut self) -> Result<(VecDeque<Change>, Token), Failure> {
        if let State::Idle(feed) = &mut self.state {
            std::future::poll_fn(|context| feed.poll_there(context)).await;
        }
        if let State::Idle(feed) = std::mem::replace(&mut self.state, State::Lost) {
            self.state = State::Reading(spawn_blocking(move || read(feed)));
        }
        let State::Reading(reading) = &mut self.state else { return Err(failure::unknown()) };
        let read = reading.await;
        let Ok((feed, (changes, failed))) = read else {
            self.state = State::Lost;
            return Err(failure::unknown());
        };
        let token = feed.token();
        self.state = State::Idle(feed);
        match failed {
            // The next call hears it again.
            Some(error) if changes.is_empty() => Err(calls::of(error)),
            _ => Ok((changes, token)),
        }
    }
}

fn read(mut feed: Box<Feed>) -> (Box<Feed>, Found) {
    let (mut changes, mut bytes, mut batches) = (VecDeque::new(), 0, BATCHES_MAX);
    let failed = loop {
        if changes.len() >= CHANGES_MAX || bytes >= CHANGES_BYTES {
            break None;
        }
        match feed.advance_within(&mut batches) {
            Ok(Some(change)) => {
                bytes += calls::size(&change);
                changes.push_back(change);
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    (feed, (changes, failed))
}
