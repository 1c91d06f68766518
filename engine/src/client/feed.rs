//! [`Feed`]: what took effect, delivered by a server, through its restarts.

use super::error::ClientError;
use super::handle::Client;
use super::link::{Link, SendFailure};
use super::namespace::Namespace;
use super::pauses::Pauses;
use crate::model::codec;
use crate::model::request::FailureClass;
use crate::model::subscription::{Delivery, Subscribe};
use crate::model::{Change, Filter, Since, Token};
use bytes::Bytes;
use std::collections::VecDeque;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};
use towline_net::StreamId;

/// What took effect in a namespace, each write once, in the order of each shard: what [`crate::node::Feed`] is to the embedding
/// program. If the connection ends, it goes on with another, where it was. The server sends no more than is taken: what lies between
/// is bounded by the transport's window. Each feed has a connection of its own, so that one which nobody takes holds up nothing else.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Filter, Since};
/// # use towline::model::Token;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// let orders = client.namespace("default");
/// orders.put("order-42", "placed").await?.await?;
/// let mut feed = orders.subscribe(Since::Beginning, Filter::Prefix("order-".into())).await?;
/// let change = feed.next().await?;
/// assert_eq!(change.operations[0].key(), "order-42");
/// // Kept with what was made of the changes, the token takes the feed up again, here or in another program.
/// let saved = feed.token().to_string();
/// # drop(feed);
/// let mut resumed = orders.subscribe(Since::Token(saved.parse()?), Filter::All).await?;
/// orders.delete("order-42").await?.await?;
/// assert!(resumed.next().await?.lsn > change.lsn);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Feed {
    client: Client,
    name: String,
    filter: Filter,
    /// Behind what was returned.
    token: Token,
    /// Of the last delivery, not returned yet.
    ready: VecDeque<Change>,
    /// Behind that delivery.
    behind: Option<Token>,
    subscription: Option<Subscription>,
    /// When the last subscription was asked for.
    opened: Option<Instant>,
    /// Since when it does not go on, and the pauses between the attempts.
    trying: Option<(Instant, Pauses)>,
}

/// A feed's stream, on a connection that nobody shares: it ends with this, and what still comes on it.
#[derive(Debug)]
struct Subscription {
    link: Link,
    stream: StreamId,
    deliveries: UnboundedReceiver<(Bytes, usize)>,
    /// What the delivery costs of the window that is being returned.
    charge: usize,
}

impl Subscription {
    fn give_back(&mut self) {
        match std::mem::take(&mut self.charge) {
            0 => {}
            charge => self.link.consumed(self.stream, charge),
        }
    }
}

impl Namespace {
    /// Delivers what takes effect, from there on. It is at its place when this returns.
    ///
    /// Cancellation: without effect.
    ///
    /// # Errors
    /// No answer in time, or the server's: what lies there is released, or of a history that was lost; there is no such namespace
    /// or shard.
    pub async fn subscribe(&self, since: Since, filter: Filter) -> Result<Feed, ClientError> {
        let mut feed = Feed {
            client: self.client().clone(),
            name: self.name().to_owned(),
            filter,
            token: Token::default(),
            ready: VecDeque::new(),
            behind: None,
            subscription: None,
            opened: None,
            trying: None,
        };
        let waited = feed.client.request_timeout();
        let beginning = async {
            feed.open(&since).await?;
            feed.receive().await
        };
        // Whether it was told where it begins; a lost connection is not tried again here.
        match tokio::time::timeout(waited, beginning).await {
            Ok(Ok(true)) => Ok(feed),
            Ok(Ok(false)) => Err(ClientError::ConnectionLost),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ClientError::Deadline { waited }),
        }
    }
}

impl Feed {
    /// The next change; waits for it.
    ///
    /// Cancellation: nothing is lost; the next call goes on.
    ///
    /// # Errors
    /// The server's: what comes next is released, or lost; there is no such namespace any more. Or what may pass did not pass in
    /// [`connect_timeout`](super::ClientOptions::connect_timeout), or no server was found in it: the next call tries again.
    pub async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            if let Some(change) = self.take() {
                return Ok(change);
            }
            let received = match &self.subscription {
                None => self.open(&Since::Token(self.token.clone())).await.map(|()| true),
                Some(_) => self.receive().await,
            };
            match received {
                Ok(true) => {}
                Ok(false) | Err(ClientError::ConnectionLost) => self.rest(ClientError::ConnectionLost).await?,
                Err(error @ ClientError::Refused(_))
                    if matches!(error.class(), FailureClass::Retry | FailureClass::ReRoute) =>
                {
                    self.rest(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Behind the last change that was returned: whoever subscribes with it misses nothing, and sees nothing twice.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token.clone()
    }

    fn take(&mut self) -> Option<Change> {
        let change = self.ready.pop_front();
        if let Some(change) = &change {
            self.token.extend(&change.token());
            self.trying = None;
        }
        if self.ready.is_empty()
            && let Some(behind) = self.behind.take()
        {
            self.token.extend(&behind);
            if let Some(subscription) = &mut self.subscription {
                subscription.give_back();
            }
        }
        change
    }

    async fn open(&mut self, since: &Since) -> Result<(), ClientError> {
        let request = codec::encode(&Subscribe::new(self.name.clone(), since, &self.filter)?)?;
        let link = self.client.own_link().await?;
        let (stream, deliveries) = link.open_feed(request).await.map_err(|failure| match failure {
            SendFailure::ConnectionLost | SendFailure::NoRoom => ClientError::ConnectionLost,
            other => ClientError::TooLarge(format!("{other:?}")),
        })?;
        self.subscription = Some(Subscription { link, stream, deliveries, charge: 0 });
        self.opened = Some(Instant::now());
        Ok(())
    }

    /// Takes one delivery in; false: the stream has ended, and nobody said why.
    async fn receive(&mut self) -> Result<bool, ClientError> {
        let Some(subscription) = &mut self.subscription else { return Ok(false) };
        let Some((bytes, charge)) = subscription.deliveries.recv().await else {
            self.subscription = None;
            return Ok(false);
        };
        subscription.charge = charge;
        match codec::decode::<Delivery>(&bytes) {
            Ok(Delivery::Changes { changes, token }) => {
                let changes = changes.into_iter().map(Change::try_from).collect::<Result<_, _>>();
                let (ready, behind) = match (changes, Token::decode(&token)) {
                    (Ok(ready), Ok(behind)) => (ready, behind),
                    (Err(error), _) => return Err(self.unreadable(&error)),
                    (_, Err(error)) => return Err(self.unreadable(&error)),
                };
                (self.ready, self.behind) = (ready, Some(behind));
                if self.ready.is_empty() {
                    // Only where it is.
                    drop(self.take());
                }
                Ok(true)
            }
            Ok(Delivery::Failed(failure)) => {
                self.subscription = None;
                Err(ClientError::Refused(failure))
            }
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// What can't be read is not passed over: the next attempt begins before it.
    fn unreadable(&mut self, error: &dyn std::error::Error) -> ClientError {
        self.subscription = None;
        ClientError::Answer(error.to_string())
    }

    /// Waits a moment after something that may pass; an error if it does not pass.
    async fn rest(&mut self, error: ClientError) -> Result<(), ClientError> {
        let (now, enough) = (Instant::now(), self.client.connect_timeout());
        // A subscription that was taken, and fails again at once, is no end of the trouble.
        if self.opened.take().is_some_and(|opened| now.saturating_duration_since(opened) >= enough) {
            self.trying = None;
        }
        let (since, pauses) = self.trying.get_or_insert_with(|| (now, Pauses::new()));
        let pause = pauses.next();
        if now + pause >= *since + enough {
            self.trying = None;
            return Err(error);
        }
        sleep(pause).await;
        Ok(())
    }
}
