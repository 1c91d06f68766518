//! What is asked of namespaces from elsewhere, asked of the node as the embedding program asks it.

use super::failure;
use super::held::Snapshots;
use super::hosting::ShardHandle;
use super::{Error, Feed, Follower, Namespace, Node, ReadError, Snapshot};
use crate::model::call::{Answer, Call, Look, ReadAt, ShardPlace};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::{Failure, RequestBody, ResponseBody};
use crate::model::subscription::{Follow, FollowAt, Subscribe};
use crate::model::{
    Budget, Change, Filter, NamespaceOptions, Page, Read, SessionState, Since, StreamRead, Token, Value, Written,
};
use crate::pipeline::WriteError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Events, entries or keys of one answer at the most, whatever the client asks.
pub(super) const ITEMS_MAX: usize = 10_000;
/// Bytes of events or entries of one answer at the most (one is always sent whole).
pub(super) const ITEMS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// Records from this size on, which may be compressed, are prepared away from the threads that others wait for.
pub(crate) const LARGE_RECORD_BYTES: usize = 16 * 1024;
/// Between two looks whether a position is applied.
const SHOWN_PAUSE_MIN: Duration = Duration::from_millis(1);
const SHOWN_PAUSE_MAX: Duration = Duration::from_millis(16);

/// A read that may be so and so old, of what is known to be younger, waits for nobody, and not behind those who do.
#[cfg(feature = "cluster")]
pub(super) fn settle_shown(node: &Node, name: &str, body: &mut RequestBody) {
    let RequestBody::Call(call) = body else { return };
    let Some(ReadAt::MaxStaleness { micros }) = call.read() else { return };
    let staleness = Duration::from_micros(*micros);
    let Ok(space) = node.namespace(name) else { return };
    let touched = space.touched(call);
    let is_shown = touched.has_others() && touched.is_fresh(staleness);
    if let Some(read) = call.read_mut().filter(|_| is_shown) {
        *read = ReadAt::Eventual;
    }
}

/// Who is asked: the node, and a namespace of it by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) node: &'a Node,
    pub(crate) name: &'a str,
    /// Until when a read waits for a position that it must show.
    pub(crate) end: Instant,
    /// The moments that whoever asks has held.
    pub(crate) snapshots: &'a Snapshots,
}

impl Asked<'_> {
    fn space(&self) -> Result<Namespace, Failure> {
        let within = self.end.saturating_duration_since(Instant::now());
        Ok(self.node.namespace(self.name).map_err(of)?.reading_within(within))
    }

    /// Waits for what a read must show, so that no thread does. What goes wrong is not told here: the read itself finds it, and
    /// says so.
    pub(crate) async fn wait_until_shown(&self, body: &mut RequestBody) {
        let (RequestBody::Call(call), Ok(space)) = (body, self.node.namespace(self.name)) else { return };
        let touched = space.touched(call);
        let Some(read) = call.read_mut() else { return };
        match read {
            ReadAt::AtLeast { token } => {
                let Ok(token) = Token::decode(token) else { return };
                self.wait_until(|| touched.shows(&token)).await;
            }
            ReadAt::Linearizable => {
                while touched.asks_others() && Instant::now() < self.end {
                    self.wait_until(|| touched.leads() || !touched.asks_others()).await;
                    let Some(positions) = touched.confirmed(self.end).await else {
                        sleep_until((Instant::now() + SHOWN_PAUSE_MIN).min(self.end)).await;
                        continue;
                    };
                    self.wait_until(|| touched.has(&positions)).await;
                    if touched.has(&positions) {
                        // From here on whatever is applied is new enough.
                        *read = ReadAt::Eventual;
                    }
                    return;
                }
            }
            ReadAt::MaxStaleness { micros } if touched.has_others() => {
                let staleness = Duration::from_micros(*micros);
                let mut pause = SHOWN_PAUSE_MIN;
                while !touched.is_fresh(staleness) {
                    if let Some(positions) = touched.refreshed(staleness, self.end).await {
                        self.wait_until(|| touched.has(&positions) || touched.has_ended()).await;
                        if touched.has(&positions) {
                            break;
                        }
                    }
                    if Instant::now() >= self.end || touched.has_ended() {
                        return;
                    }
                    // Nobody leads now, as far as this node knows.
                    sleep_until((Instant::now() + pause).min(self.end)).await;
                    pause = (pause * 2).min(SHOWN_PAUSE_MAX);
                }
                *read = ReadAt::Eventual;
            }
            _ => {}
        }
    }

    async fn wait_until(&self, is_so: impl Fn() -> bool) {
        let mut pause = SHOWN_PAUSE_MIN;
        while !is_so() && Instant::now() < self.end {
            sleep_until((Instant::now() + pause).min(self.end)).await;
            pause = (pause * 2).min(SHOWN_PAUSE_MAX);
        }
    }

    /// Everything but writes, which wait in a queue first. It reads the disk, and waits.
    pub(crate) fn respond(self, body: RequestBody) -> Result<ResponseBody, Failure> {
        let Self { node, name, .. } = self;
        let body = match body {
            RequestBody::Call(call) => return self.answer(call).map(ResponseBody::Answer),
            body => body,
        };
        let space = node.namespace(name).map_err(|_| failure::unknown_namespace(name))?;
        let failed = |error: ReadError| failure::read(&error);
        match body {
            RequestBody::Get { key } => {
                // Before it is read: that much is in what was found.
                let applied = space.applied_of(&key).get();
                let found = space.get(&key, Read::Eventual).map_err(failed)?;
                Ok(ResponseBody::Value { value: found.map(|found| (found.version, found.value.into())), applied })
            }
            RequestBody::ReadStream { stream, from, direction, events_max } => {
                let applied = space.applied_of(&stream).get();
                let bounds = ((events_max as usize).min(ITEMS_MAX), ITEMS_BYTES_MAX);
                let read = space.read_stream(&stream, from, direction, bounds, Read::Eventual);
                let read = read.map_err(failed)?;
                Ok(ResponseBody::Events { events: read.events, head: read.head, more: read.more, applied })
            }
            RequestBody::Digest => {
                let (at, digest) = node.digest().map_err(failed)?;
                let epoch = (at.epoch.version, at.epoch.term);
                Ok(ResponseBody::Digest { epoch, applied: at.lsn.get(), digest })
            }
            RequestBody::Status => node.status().map(ResponseBody::Status).ok_or_else(failure::closing),
            other => Err(failure::bad_request(&format!("{other:?} is not a read"))),
        }
    }

    /// What is asked of several shards as of one thing, only a node that leads them all can do.
    fn check_one_leads(&self, call: &Call) -> Result<(), Failure> {
        let is_of_one_node = matches!(call.read(), Some(ReadAt::Linearizable))
            || matches!(call, Call::OpenSession | Call::CloseSession { .. });
        if !is_of_one_node || self.node.shared.host.is_alone() {
            return Ok(());
        }
        let space = self.space()?;
        let touched = space.touched(call);
        let leaders = touched.leaders();
        if leaders.len() > 1 {
            return Err(failure::led_by_several(self.name, &leaders));
        }
        Ok(())
    }

    fn answer(self, call: Call) -> Result<Answer, Failure> {
        self.check_one_leads(&call)?;
        if let Call::OpenSession | Call::CloseSession { .. } = &call
            && let Some(shard) = self.space()?.touched(&call).without(|shard| self.node.takes_writes_of(shard))
        {
            return Err(failure::not_serving(self.node, shard));
        }
        match call {
            Call::Write { .. } => Err(failure::bad_request("a write is answered in its turn")),
            Call::MultiGet { keys, read } => {
                check_count(&keys)?;
                values(self.space()?.multi_get_within(keys, at(read)?, ITEMS_BYTES_MAX).map_err(of)?)
            }
            Call::Scan { scan, read } => {
                let scan = scan.clamped(ITEMS_MAX, ITEMS_BYTES_MAX);
                Ok(page(self.space()?.scan(&scan, at(read)?).map_err(of)?))
            }
            Call::ReadStream { stream, from, direction, events_max, bytes_max, read } => {
                let bounds = bounds(events_max, bytes_max);
                Ok(events(self.space()?.read_stream(&stream, from, direction, bounds, at(read)?).map_err(of)?))
            }
            Call::Token => Ok(Answer::Token(token_bytes(&self.space()?.token())?)),
            Call::OpenSession => {
                let session = self.space()?.open_session().map_err(of)?;
                Ok(Answer::Session(session.state().ids.into_iter().collect()))
            }
            Call::CloseSession { ids } => {
                let ids = ids.into_iter().collect();
                let state = SessionState { ids, next: None, waiting: BTreeMap::new(), last: BTreeMap::new() };
                self.space()?.resume_session(state).close().map_err(of)?;
                Ok(Answer::Done)
            }
            Call::OpenSnapshot { read } => {
                let (snapshot, token) = self.snapshots.open(self.name, self.space()?, at(read)?)?;
                Ok(Answer::Snapshot { snapshot, token: token_bytes(&token)? })
            }
            Call::Look { snapshot, look } => self.snapshots.look(self.name, snapshot, look),
            Call::CloseSnapshot { snapshot } => {
                self.snapshots.close(snapshot);
                Ok(Answer::Done)
            }
            Call::Followers => {
                let followers = self.space()?.followers().into_iter();
                let parts = followers.map(|it| (it.name, it.shard, it.done.get(), it.applied.get(), it.is_here));
                Ok(Answer::Followers(parts.collect()))
            }
            Call::ForgetFollower { name } => {
                self.space()?.forget_follower(&name).map_err(of)?;
                Ok(Answer::Done)
            }
            Call::Acknowledge { follower, seat, token } => {
                self.space()?.acknowledge(&follower, seat, &token_of_bytes(&token)?).map_err(of)?;
                Ok(Answer::Done)
            }
            Call::Shards => {
                let shards = self.space()?.shards().iter().map(place).collect();
                Ok(Answer::Shards(shards))
            }
            Call::Describe => Ok(Answer::Namespace(self.space()?.descriptor())),
            Call::AssignLeader { shard, leader } => {
                self.node.assign_leader(&self.space()?, shard, leader, self.end.into_std())
            }
            other => self.change(other),
        }
    }

    fn change(self, call: Call) -> Result<Answer, Failure> {
        let Self { node, name, .. } = self;
        match call {
            Call::Namespaces => Ok(Answer::Namespaces(node.namespaces())),
            Call::CreateNamespace { policy, split_points } => {
                let options = NamespaceOptions::default().policy(policy).split_at(split_points);
                Ok(Answer::Namespace(node.create_namespace(name, &options).map_err(of)?.descriptor()))
            }
            Call::RenameNamespace { to } => node.rename_namespace(name, &to).map_err(of).map(|()| Answer::Done),
            Call::SetPolicy { policy } => node.set_policy(name, policy).map_err(of).map(|()| Answer::Done),
            Call::DropNamespace => node.drop_namespace(name).map_err(of).map(|()| Answer::Done),
            // Of a newer client.
            other => Err(failure::bad_request(&format!("{other:?} is not understood here"))),
        }
    }
}

/// A shard, as this node knows it.
fn place(shard: &Arc<ShardHandle>) -> ShardPlace {
    ShardPlace {
        shard: shard.descriptor.shard,
        start: shard.descriptor.start.clone(),
        leader: shard.positions.leader(),
        serving: shard.positions.serving().is_some(),
        applied: shard.positions.applied().get(),
        failure: shard.health.failure(),
    }
}

/// A feed, as it is asked for.
pub(crate) fn subscribe(node: &Node, wanted: Subscribe) -> Result<Feed, Failure> {
    let since = Since::try_from(wanted.since).map_err(bad)?;
    node.namespace(&wanted.namespace).map_err(of)?.subscribe(since, Filter::from(wanted.filter)).map_err(of)
}

/// A follower, as it is asked for.
pub(crate) fn follow(node: &Node, wanted: Follow) -> Result<Follower, Failure> {
    let mut options = wanted.options().map_err(bad)?;
    // What is kept for one who asks from elsewhere fills a disk that is not its own.
    let most = Budget::default();
    let budget = Budget { bytes: options.budget.bytes.min(most.bytes), age: options.budget.age.min(most.age) };
    options = options.budget(budget);
    let space = node.namespace(&wanted.namespace).map_err(of)?;
    let name = &wanted.follower;
    match wanted.at {
        FollowAt::Known => space.follow(name, &options).map_err(of),
        FollowAt::Behind { token } => space.follow_from(name, &options, Some(&token_of_bytes(&token)?)).map_err(of),
        FollowAt::Seek { token } => {
            let token = token_of_bytes(&token)?;
            let mut follower = space.follow(name, &options).map_err(of)?;
            follower.seek(&token).map_err(of)?;
            Ok(follower)
        }
    }
}

/// What is found at a moment that is held.
pub(super) fn look(snapshot: &Snapshot<'_>, look: Look) -> Result<Answer, Failure> {
    match look {
        Look::MultiGet { keys } => {
            check_count(&keys)?;
            values(snapshot.multi_get_within(&keys, ITEMS_BYTES_MAX).map_err(of)?)
        }
        Look::Scan { scan } => Ok(page(snapshot.scan(&scan.clamped(ITEMS_MAX, ITEMS_BYTES_MAX)).map_err(of)?)),
        Look::ReadStream { stream, from, direction, events_max, bytes_max } => {
            let bounds = bounds(events_max, bytes_max);
            Ok(events(snapshot.read_stream(&stream, from, direction, bounds).map_err(of)?))
        }
    }
}

fn check_count(keys: &[Vec<u8>]) -> Result<(), Failure> {
    if keys.len() > ITEMS_MAX {
        let sentence = format!("one request may ask for {ITEMS_MAX} keys, this asks for {}", keys.len());
        return Err(failure::bad_request(&sentence));
    }
    Ok(())
}

fn values(found: Option<Vec<Option<Value>>>) -> Result<Answer, Failure> {
    let too_much = || format!("one answer may hold {ITEMS_BYTES_MAX} bytes of values: ask for fewer keys");
    let found = found.ok_or_else(|| failure::bad_request(&too_much()))?;
    let values = found.into_iter().map(|found| found.map(|found| (found.version, found.value.into())));
    Ok(Answer::Values(values.collect()))
}

fn page(page: Page) -> Answer {
    let entries = page.entries.into_iter().map(|entry| (entry.key.into(), entry.version, entry.value.into()));
    Answer::Page { entries: entries.collect(), next: page.next }
}

fn events(read: StreamRead) -> Answer {
    Answer::Events { events: read.events, head: read.head, more: read.more }
}

fn bounds(events_max: u32, bytes_max: u32) -> (usize, usize) {
    ((events_max as usize).min(ITEMS_MAX), (bytes_max as usize).min(ITEMS_BYTES_MAX))
}

fn at(read: ReadAt) -> Result<Read, Failure> {
    Read::try_from(read).map_err(bad)
}

fn token_bytes(token: &Token) -> Result<Vec<u8>, Failure> {
    token.encode().map(Into::into).map_err(bad)
}

fn token_of_bytes(bytes: &[u8]) -> Result<Token, Failure> {
    Token::decode(bytes).map_err(bad)
}

/// What can't be meant.
pub(super) fn bad(error: impl std::error::Error) -> Failure {
    failure::bad_request(&error.to_string())
}

/// What a call to write is answered.
pub(crate) fn answered<T: Into<Answer>>(result: Result<T, WriteError>) -> ResponseBody {
    match result {
        Ok(found) => ResponseBody::Answer(found.into()),
        Err(error) => ResponseBody::Failed(of(error)),
    }
}

/// What a plain write is answered.
pub(crate) fn written(result: Result<Written, WriteError>) -> ResponseBody {
    match result {
        Ok(written) => ResponseBody::Written {
            epoch: (written.epoch.version, written.epoch.term),
            lsn: written.lsn.get(),
            outcome: written.outcome,
        },
        Err(error) => ResponseBody::Failed(failure::write(&error)),
    }
}

/// As the embedding program hears it: the same code, the same class.
pub(crate) fn of(error: impl Into<Error>) -> Failure {
    failure::of(&error.into())
}

/// The bytes of a change, about.
pub(crate) fn size(change: &Change) -> usize {
    use crate::model::Operation as Op;
    let of = |operation: &Op| match operation {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Append { stream, metadata, value, .. } => stream.len() + metadata.len() + value.len(),
        other => other.key().len(),
    };
    change.operations.iter().map(of).sum()
}
