//! [`Snapshot`]: one moment of a namespace, held by a server or by the node in this process.

use super::error::ClientError;
use super::feed::Feed;
use super::handle::misunderstood;
use super::link::Link;
use super::namespace::{Namespace, events_of, page_of, token_of, values_of, within_u32};
use crate::model::call::{Answer, Call, Look, ReadAt};
use crate::model::request::{Direction, ResponseBody};
use crate::model::{Filter, Page, Read, Scan, Since, StreamRead, Token, Value};
use std::sync::Arc;

/// One moment of a namespace: everything that is read of it belongs together, however much is written meanwhile.
///
/// It is held until this is dropped, and while it is held keeps old versions on the server's disk: a server holds a bounded number of
/// them, and each no longer than a minute after the last look. It is gone when the connection is lost.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Read, Scan};
/// # use towline::node::NodeOptions;
/// # let directory = tempfile::tempdir()?;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::open(NodeOptions::alone(directory.path()), ClientOptions::default()).await?;
/// # let shop = client.namespace("default");
/// shop.put("stock/apple", "7").await?.await?;
/// let snapshot = shop.snapshot(Read::Linearizable).await?;
/// // Somebody buys an apple meanwhile.
/// shop.put("stock/apple", "6").await?.await?;
/// assert_eq!(snapshot.get("stock/apple").await?.map(|found| found.value), Some("7".into()));
/// assert_eq!(snapshot.scan(&Scan::prefix("stock/")).await?.entries[0].value, "7");
/// assert_eq!(shop.get("stock/apple", Read::Linearizable).await?.map(|found| found.value), Some("6".into()));
/// # drop(snapshot);
/// # client.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    namespace: Namespace,
    number: u64,
    token: Token,
    holder: Holder,
}

/// Where a moment is held.
#[derive(Debug)]
pub(super) enum Holder {
    /// At the other end of this connection, and only as long as it is there.
    Server(Arc<Link>),
    #[cfg(feature = "node")]
    Node,
}

impl Namespace {
    /// Holds this moment: on the node that leads all shards, if one does. It is asked again as a read is, but where as many
    /// are held as may be.
    ///
    /// Cancellation: a moment that nobody looks at may be held for a minute.
    ///
    /// # Errors
    /// No answer in time, or the server's: the position is not reached in time, as many are held as may be.
    pub async fn snapshot(&self, read: Read) -> Result<Snapshot, ClientError> {
        let call = Call::OpenSnapshot { read: ReadAt::try_from(&read)? };
        match self.client().hold(self.name(), call).await? {
            (ResponseBody::Answer(Answer::Snapshot { snapshot: number, token }), holder) => {
                let token = token_of(&token)?;
                Ok(Snapshot { namespace: self.clone(), number, token, holder })
            }
            (other, _) => Err(misunderstood(&other)),
        }
    }

    /// Holds this moment, and subscribes to everything that comes behind it: nothing is missed, and nothing comes twice.
    ///
    /// ```
    /// use towline::client::{Client, ClientOptions};
    /// use towline::model::{Filter, Read, Scan};
    /// # use towline::node::NodeOptions;
    /// # let directory = tempfile::tempdir()?;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let client = Client::open(NodeOptions::alone(directory.path()), ClientOptions::default()).await?;
    /// # let stock = client.namespace("default");
    /// stock.put("apple", "7").await?.await?;
    /// let (snapshot, mut feed) = stock.snapshot_and_feed(Read::Linearizable, Filter::All).await?;
    /// let (mut known, mut next) = (std::collections::BTreeMap::new(), Some(Scan::all()));
    /// while let Some(scan) = next {
    ///     let page = snapshot.scan(&scan).await?;
    ///     known.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
    ///     next = page.next;
    /// }
    /// drop(snapshot);
    /// stock.put("pear", "3").await?.await?;
    /// assert_eq!((known.len(), feed.next().await?.operations[0].key()), (1, &"pear".into()));
    /// # client.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Namespace::snapshot`] and [`Namespace::subscribe`].
    pub async fn snapshot_and_feed(&self, read: Read, filter: Filter) -> Result<(Snapshot, Feed), ClientError> {
        let snapshot = self.snapshot(read).await?;
        let feed = self.subscribe(Since::Token(snapshot.token.clone()), filter).await?;
        Ok((snapshot, feed))
    }
}

impl Snapshot {
    /// What a key holds, and its version.
    ///
    /// # Errors
    /// No answer in time, or the server's: the key is none, the moment is not held any more.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, ClientError> {
        Ok(self.multi_get([key]).await?.pop().flatten())
    }

    /// What each of these keys holds, in the order in which they are asked for, as [`Namespace::multi_get`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>, ClientError> {
        let keys: Vec<_> = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        let count = keys.len();
        values_of(self.look(Look::MultiGet { keys }).await?, count)
    }

    /// One page of keys and values: all pages of one snapshot belong together.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub async fn scan(&self, scan: &Scan) -> Result<Page, ClientError> {
        page_of(self.look(Look::Scan { scan: scan.clone() }).await?)
    }

    /// Events of a stream, as [`Namespace::read_stream`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub async fn read_stream(
        &self,
        stream: impl AsRef<[u8]>,
        from: u64,
        direction: Direction,
        (events_max, bytes_max): (usize, usize),
    ) -> Result<StreamRead, ClientError> {
        let (events_max, bytes_max) = (within_u32(events_max), within_u32(bytes_max));
        let stream = stream.as_ref().to_vec();
        events_of(self.look(Look::ReadStream { stream, from, direction, events_max, bytes_max }).await?)
    }

    /// The position that it is of, in each shard.
    #[must_use]
    pub const fn token(&self) -> &Token {
        &self.token
    }

    async fn look(&self, look: Look) -> Result<Answer, ClientError> {
        let call = Call::Look { snapshot: self.number, look };
        match self.namespace.client().ask_holder(&self.holder, self.namespace.name(), call).await? {
            ResponseBody::Answer(answer) => Ok(answer),
            other => Err(misunderstood(&other)),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.namespace.client().let_go(&self.holder, self.namespace.name(), self.number);
    }
}
