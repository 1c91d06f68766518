//! [`Namespace`]: the calls of the embedded engine's namespace, asked of a server.

use super::error::{ClientError, WriteError};
use super::handle::{Client, misunderstood};
use super::receipt::{WriteReceipt, outcome_of};
use super::servers::About;
use crate::model::call::{Answer, Call, Reach, ReadAt, ShardPlace};
use crate::model::request::{Direction, RequestBody, ResponseBody};
use crate::model::{
    Epoch, Expect, KeyValue, NamespaceDescriptor, NamespaceOptions, NodeId, Page, Policy, Position, Read, Record, Scan,
    ShardId, StreamRead, Token, Value, Write, Written,
};
use bytes::Bytes;
use std::time::Duration;

/// Longer no server waits.
const ASSIGN_WITHIN_MAX: Duration = Duration::from_secs(60);

/// A namespace of the cluster, by its name: what [`crate::node::Namespace`] is to the embedding program. Clones share the client's
/// connection. Whether there is such a namespace shows with the first call.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::request::Direction;
/// use towline::model::{Expect, NamespaceOptions, Read, Scan};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let client = Client::connect([address], ClientOptions::default()).await?;
/// let shop = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await?;
/// let placed = shop.append("order-42", Expect::Absent, "placed").await?.await?;
/// shop.put("stock/apple", "7").await?.await?;
/// let read = Read::AtLeast(placed.token());
/// assert_eq!(shop.read_stream("order-42", 1, Direction::Forward, (10, 1 << 20), read).await?.head, 1);
/// assert_eq!(shop.scan(&Scan::prefix("stock/"), Read::Linearizable).await?.entries[0].value, "7");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Namespace {
    client: Client,
    name: String,
}

/// A leader that was assigned by hand, and leads.
///
/// ```
/// use std::time::Duration;
/// use towline::client::{Client, ClientOptions, Route};
/// use towline::model::NodeId;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // Nobody may lead by now: any server does.
/// let client = Client::connect([address], ClientOptions { route: Route::Any, ..ClientOptions::default() }).await?;
/// let default = client.namespace("default");
/// let assigned = default.assign_leader(None, NodeId::new(1), Duration::from_secs(30)).await?;
/// assert_eq!(assigned.leader, NodeId::new(1));
/// assert_eq!(default.put("a", "1").await?.await?.epoch, assigned.epoch);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Assigned {
    /// The shard.
    pub shard: ShardId,
    /// The node.
    pub leader: NodeId,
    /// The epoch that began with it.
    pub epoch: Epoch,
}

/// Whether the same may be asked again when the connection ends before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It changes nothing.
    Yes,
    /// It may have been done, and would be refused a second time.
    No,
}

impl Client {
    /// A namespace by its name.
    #[must_use]
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { client: self.clone(), name: name.into() }
    }

    /// Makes a namespace. It is durable when this returns.
    ///
    /// Cancellation: it may or may not have been made; as well if the connection is lost.
    ///
    /// # Errors
    /// No answer in time, or the server's: the name is none or taken, the split points do not ascend, there is no room.
    pub async fn create_namespace(&self, name: &str, options: &NamespaceOptions) -> Result<Namespace, ClientError> {
        let space = self.namespace(name);
        let call = Call::CreateNamespace { policy: options.policy, split_points: options.split_points.clone() };
        match space.ask(call, Again::No).await? {
            Answer::Namespace(_) => Ok(space),
            other => Err(misunderstood(&other)),
        }
    }

    /// All namespaces, in the order of their ids.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceDescriptor>, ClientError> {
        match self.namespace("").ask(Call::Namespaces, Again::Yes).await? {
            Answer::Namespaces(found) => Ok(found),
            other => Err(misunderstood(&other)),
        }
    }

    /// Calls a namespace otherwise. Handles by the old name find it no more.
    ///
    /// Cancellation, and a lost connection: it may or may not have been done.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn rename_namespace(&self, from: &str, to: &str) -> Result<(), ClientError> {
        done(self.namespace(from).ask(Call::RenameNamespace { to: to.to_owned() }, Again::No).await?)
    }

    /// Sets a namespace's policy.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn set_policy(&self, name: &str, policy: Policy) -> Result<(), ClientError> {
        done(self.namespace(name).ask(Call::SetPolicy { policy }, Again::Yes).await?)
    }

    /// Removes a namespace and all that it holds.
    ///
    /// Cancellation, and a lost connection: it may or may not have been done.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn drop_namespace(&self, name: &str) -> Result<(), ClientError> {
        done(self.namespace(name).ask(Call::DropNamespace, Again::No).await?)
    }
}

impl Namespace {
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is: its policy, its shards.
    ///
    /// # Errors
    /// No answer in time, or the server's: there is none of that name.
    pub async fn descriptor(&self) -> Result<NamespaceDescriptor, ClientError> {
        match self.ask(Call::Describe, Again::Yes).await? {
            Answer::Namespace(found) => Ok(found),
            other => Err(misunderstood(&other)),
        }
    }

    /// Sends a [`Write`] (or a [`Record`]): done when it is sent, not when it is answered. The receipt says when it is committed
    /// and applied on the server. Writes reach the server in the order in which these calls end, as long as the connection is
    /// the same.
    ///
    /// Cancellation: it was not sent, and has no effect.
    ///
    /// # Errors
    /// It was not sent and has no effect.
    pub async fn write(&self, write: impl AsRef<Record>) -> Result<WriteReceipt<Written>, ClientError> {
        self.send(write.as_ref(), Reach::Applied, |answer| outcome_of(answer, |body| answer_of(body)?.written())).await
    }

    /// As [`Namespace::write`], of a write that can't be rejected; answered as soon as it is durable on the server.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn write_durable(&self, write: impl AsRef<Record>) -> Result<WriteReceipt<Position>, ClientError> {
        self.send(write.as_ref(), Reach::Durable, |answer| outcome_of(answer, |body| answer_of(body)?.placed())).await
    }

    /// As [`Namespace::write_durable`]; answered as soon as it has its place in the log, before it is durable.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn write_buffered(&self, write: impl AsRef<Record>) -> Result<WriteReceipt<Position>, ClientError> {
        self.send(write.as_ref(), Reach::Buffered, |answer| outcome_of(answer, |body| answer_of(body)?.placed())).await
    }

    async fn send<T>(
        &self,
        record: &Record,
        reach: Reach,
        read: fn(super::link::Answer) -> Result<T, WriteError>,
    ) -> Result<WriteReceipt<T>, ClientError> {
        self.client.send_write(&self.name, record, Some(reach), About::record(record), read).await
    }

    /// As [`Namespace::send`], of a session: in the order of its shard.
    pub(super) async fn send_in_order(
        &self,
        record: &Record,
        shard: ShardId,
        read: fn(super::link::Answer) -> Result<Written, WriteError>,
    ) -> Result<WriteReceipt<Written>, ClientError> {
        self.client.send_write(&self.name, record, Some(Reach::Applied), About::Shard(shard), read).await
    }

    /// Appends one event to a stream: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn append(
        &self,
        stream: impl Into<Bytes>,
        expect: Expect,
        event: impl Into<Bytes>,
    ) -> Result<WriteReceipt<Written>, ClientError> {
        self.write(Write::new().append(stream, expect, event)).await
    }

    /// Sets one key: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<WriteReceipt<Written>, ClientError> {
        self.write(Write::new().put(key, value)).await
    }

    /// Removes one key: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<WriteReceipt<Written>, ClientError> {
        self.write(Write::new().delete(key)).await
    }

    /// What a key holds, and its version.
    ///
    /// Cancellation: without effect, as for every read.
    ///
    /// # Errors
    /// No answer in time, or the server's: the key is none, the position is not reached in time.
    pub async fn get(&self, key: impl AsRef<[u8]>, read: Read) -> Result<Option<Value>, ClientError> {
        Ok(self.multi_get([key], read).await?.pop().flatten())
    }

    /// What each of these keys holds, all at one moment, in the order in which they are asked for. One request may ask for 10,000
    /// keys, whose values must fit into one answer, of 20 MiB about.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        read: Read,
    ) -> Result<Vec<Option<Value>>, ClientError> {
        let keys: Vec<_> = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        let (count, about) = (keys.len(), keys.first().map_or(About::Nothing, |key| About::Key(key.clone())));
        let call = Call::MultiGet { keys, read: ReadAt::try_from(&read)? };
        values_of(self.ask_by(&about, call, Again::Yes).await?, count)
    }

    /// One page of keys and values, all of one moment. The page says how to go on; the next one is of a later moment.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    pub async fn scan(&self, scan: &Scan, read: Read) -> Result<Page, ClientError> {
        page_of(self.ask(Call::Scan { scan: scan.clone(), read: ReadAt::try_from(&read)? }, Again::Yes).await?)
    }

    /// Events of a stream, forward from version `from`, or backward from it (0: from the end): its version and its events are of
    /// one moment. At most `events_max` events, and about `bytes_max` bytes; the server may send less, and says that there is more.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    pub async fn read_stream(
        &self,
        stream: impl AsRef<[u8]>,
        from: u64,
        direction: Direction,
        (events_max, bytes_max): (usize, usize),
        read: Read,
    ) -> Result<StreamRead, ClientError> {
        let call = Call::ReadStream {
            stream: stream.as_ref().to_vec(),
            from,
            direction,
            events_max: within_u32(events_max),
            bytes_max: within_u32(bytes_max),
            read: ReadAt::try_from(&read)?,
        };
        events_of(self.ask_by(&About::Key(stream.as_ref().to_vec()), call, Again::Yes).await?)
    }

    /// What a reader shows to see everything that is applied on the server now.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn token(&self) -> Result<Token, ClientError> {
        match self.ask(Call::Token, Again::Yes).await? {
            Answer::Token(bytes) => token_of(&bytes),
            other => Err(misunderstood(&other)),
        }
    }

    /// The namespace's shards, in the order of their keys, and who leads each, as the server knows that answers.
    ///
    /// # Errors
    /// As [`Namespace::descriptor`].
    pub async fn shards(&self) -> Result<Vec<ShardPlace>, ClientError> {
        match self.ask(Call::Shards, Again::Yes).await? {
            Answer::Shards(found) => Ok(found),
            other => Err(misunderstood(&other)),
        }
    }

    pub(super) async fn ask(&self, call: Call, again: Again) -> Result<Answer, ClientError> {
        self.ask_by(&About::call(&call), call, again).await
    }

    async fn ask_by(&self, about: &About, call: Call, again: Again) -> Result<Answer, ClientError> {
        match self.client.ask_of(&self.name, RequestBody::Call(call), about, again == Again::Yes).await? {
            ResponseBody::Answer(answer) => Ok(answer),
            other => Err(misunderstood(&other)),
        }
    }

    /// Makes a node the leader of a shard (none: of the only one), whoever leads it now, alive or not, and waits until it takes writes,
    /// a minute at the most. The node is asked itself: it is looked for among the client's addresses, and where a server says it is.
    ///
    /// Cancellation: it may or may not be done; as well if the connection is lost. To ask again does no harm.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: TW-8030, where the node reached no majority, and nothing was changed; TW-8031, where it does not serve
    /// yet, and does when a majority answers; TW-8032, where a newer assignment was made. No answer in time.
    pub async fn assign_leader(
        &self,
        shard: Option<ShardId>,
        leader: NodeId,
        within: Duration,
    ) -> Result<Assigned, ClientError> {
        let within = within.min(ASSIGN_WITHIN_MAX);
        match self.client.ask_node(leader, &self.name, Call::AssignLeader { shard, leader }, within).await? {
            ResponseBody::Answer(Answer::Assigned { shard, leader, epoch: (version, term) }) => {
                Ok(Assigned { shard, leader, epoch: Epoch { version, term } })
            }
            ResponseBody::Failed(failure) => Err(ClientError::Refused(failure)),
            other => Err(misunderstood(&other)),
        }
    }
}

pub(super) fn within_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn token_of(bytes: &[u8]) -> Result<Token, ClientError> {
    Token::decode(bytes).map_err(|error| ClientError::Answer(error.to_string()))
}

/// What so many keys hold.
pub(super) fn values_of(answer: Answer, count: usize) -> Result<Vec<Option<Value>>, ClientError> {
    match answer {
        Answer::Values(found) if found.len() == count => {
            let value = |(version, value): (u64, Vec<u8>)| Value { version, value: value.into() };
            Ok(found.into_iter().map(|found| found.map(value)).collect())
        }
        other => Err(misunderstood(&other)),
    }
}

pub(super) fn page_of(answer: Answer) -> Result<Page, ClientError> {
    match answer {
        Answer::Page { entries, next } => {
            let entry = |(key, version, value): (Vec<u8>, u64, Vec<u8>)| KeyValue {
                key: key.into(),
                version,
                value: value.into(),
            };
            Ok(Page { entries: entries.into_iter().map(entry).collect(), next })
        }
        other => Err(misunderstood(&other)),
    }
}

pub(super) fn events_of(answer: Answer) -> Result<StreamRead, ClientError> {
    match answer {
        Answer::Events { events, head, more } => Ok(StreamRead { events, head, more }),
        other => Err(misunderstood(&other)),
    }
}

pub(super) const fn answer_of(body: &ResponseBody) -> Option<&Answer> {
    match body {
        ResponseBody::Answer(answer) => Some(answer),
        _ => None,
    }
}

pub(super) fn done(answer: Answer) -> Result<(), ClientError> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(misunderstood(&other)),
    }
}
