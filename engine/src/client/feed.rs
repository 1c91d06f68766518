//! [`Feed`]: what took effect, delivered by a server through its restarts, or by the node in this process.

use super::error::ClientError;
use super::handle::Client;
use super::link::Link;
#[cfg(feature = "node")]
use super::local::LocalFeed;
use super::namespace::{Namespace, token_of};
use super::pauses::Pauses;
use crate::model::codec::{self, CodecError};
use crate::model::subscription::{Delivery, Follow, FollowAt, Subscribe};
use crate::model::{Change, Filter, FollowerOptions, Since, Token};
use bytes::Bytes;
use std::collections::VecDeque;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
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
    closed: watch::Receiver<bool>,
    wanted: Wanted,
    /// Behind what was returned.
    token: Token,
    /// Of the last delivery, not returned yet.
    ready: VecDeque<Change>,
    /// Behind that delivery.
    behind: Option<Token>,
    source: Option<Source>,
    /// Whether the source said where it is.
    is_placed: bool,
    /// When the last source was asked for.
    opened: Option<Instant>,
    /// Since when it does not go on, and the pauses between the attempts.
    trying: Option<(Instant, Pauses)>,
}

/// What is asked for, each time that the feed begins.
#[derive(Debug)]
struct Wanted {
    namespace: String,
    filter: Filter,
    /// Of a follower.
    follows: Option<Follows>,
}

#[derive(Debug)]
struct Follows {
    name: String,
    options: FollowerOptions,
    /// What it shows to acknowledge; none: it does not follow at the moment.
    seat: Option<u64>,
}

/// From where on a feed is asked for.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// For the first time: from there, or for a follower where it is known to be.
    First(Since),
    /// Where it was.
    Again,
    /// For a follower, which is done with everything before.
    Seek(Token),
}

/// What begins a feed.
#[derive(Debug)]
pub(super) enum Begin {
    Subscribe(Subscribe),
    Follow(Follow),
}

impl Begin {
    pub(super) fn encode(&self) -> Result<Bytes, CodecError> {
        match self {
            Self::Subscribe(wanted) => codec::encode(wanted),
            Self::Follow(wanted) => codec::encode(wanted),
        }
    }
}

/// Where the changes come from.
#[derive(Debug)]
pub(super) enum Source {
    Server(Subscription),
    #[cfg(feature = "node")]
    Node(LocalFeed),
}

/// A feed's stream, on a connection that nobody shares: it ends with this, and what still comes on it.
#[derive(Debug)]
pub(super) struct Subscription {
    link: Link,
    stream: StreamId,
    deliveries: UnboundedReceiver<(Bytes, usize)>,
    /// What the delivery costs of the window that is being returned.
    charge: usize,
}

impl Subscription {
    pub(super) const fn new(link: Link, stream: StreamId, deliveries: UnboundedReceiver<(Bytes, usize)>) -> Self {
        Self { link, stream, deliveries, charge: 0 }
    }

    fn give_back(&mut self) {
        match std::mem::take(&mut self.charge) {
            0 => {}
            charge => self.link.consumed(self.stream, charge),
        }
    }
}

impl Wanted {
    fn begin(&self, start: &Start, token: &Token) -> Result<Begin, CodecError> {
        let namespace = self.namespace.clone();
        let Some(Follows { name, options, .. }) = &self.follows else {
            let behind = match start {
                Start::First(since) => since.clone(),
                Start::Again => Since::Token(token.clone()),
                Start::Seek(token) => Since::Token(token.clone()),
            };
            return Ok(Begin::Subscribe(Subscribe::new(namespace, &behind, &self.filter)?));
        };
        let at = match start {
            Start::First(_) => FollowAt::Known,
            Start::Again => FollowAt::Behind { token: token.encode()?.to_vec() },
            Start::Seek(token) => FollowAt::Seek { token: token.encode()?.to_vec() },
        };
        Ok(Begin::Follow(Follow::new(namespace, name.clone(), options, at)?))
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
        self.feed(filter, None, since).await
    }

    pub(super) async fn feed(
        &self,
        filter: Filter,
        follows: Option<(String, FollowerOptions)>,
        since: Since,
    ) -> Result<Feed, ClientError> {
        let follows = follows.map(|(name, options)| Follows { name, options, seat: None });
        let mut feed = Feed {
            client: self.client().clone(),
            closed: self.client().closed(),
            wanted: Wanted { namespace: self.name().to_owned(), filter, follows },
            token: Token::default(),
            ready: VecDeque::new(),
            behind: None,
            source: None,
            is_placed: false,
            opened: None,
            trying: None,
        };
        feed.begin(&Start::First(since)).await?;
        Ok(feed)
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
            let mut closed = self.closed.clone();
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {
                    self.source = None;
                    return Err(ClientError::Closed);
                }
                gone_on = self.go_on() => gone_on?,
            }
        }
    }

    /// Behind the last change that was returned: whoever subscribes with it misses nothing, and sees nothing twice.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token.clone()
    }

    /// Takes a delivery in, or a step towards one.
    async fn go_on(&mut self) -> Result<(), ClientError> {
        let gone_on = match &self.source {
            None => self.open(&Start::Again).await.map(|()| true),
            Some(_) => self.receive().await,
        };
        match gone_on {
            Ok(true) => Ok(()),
            Ok(false) | Err(ClientError::ConnectionLost) => self.rest(ClientError::ConnectionLost).await,
            Err(ClientError::Refused(failure)) if self.client.is_worth_another(&failure) => {
                self.rest(ClientError::Refused(failure)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Until it is told where it begins; a lost connection is not tried again here.
    pub(super) async fn begin(&mut self, start: &Start) -> Result<(), ClientError> {
        let waited = self.client.request_timeout();
        let beginning = async {
            self.open(start).await?;
            while !self.is_placed {
                if !self.receive().await? {
                    return Err(ClientError::ConnectionLost);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(waited, beginning).await {
            Ok(begun) => begun,
            Err(_) => Err(ClientError::Deadline { waited }),
        }
    }

    /// What a follower shows to acknowledge; begins anew where it was if it has nothing to show at the moment.
    pub(super) async fn seat(&mut self) -> Result<u64, ClientError> {
        if self.source.is_none() || !self.is_placed {
            // What was not returned yet comes again.
            self.forget();
            self.begin(&Start::Again).await?;
        }
        let seat = self.wanted.follows.as_ref().and_then(|follows| follows.seat);
        seat.ok_or_else(|| ClientError::Answer("a follower has no seat".to_owned()))
    }

    /// Lets go of what was delivered and not returned, and of where it comes from.
    pub(super) fn forget(&mut self) {
        self.ready.clear();
        self.behind = None;
        self.source = None;
    }

    /// It is there now.
    pub(super) fn set_token(&mut self, token: Token) {
        self.token = token;
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

    fn take(&mut self) -> Option<Change> {
        let change = self.ready.pop_front();
        if let Some(change) = &change {
            self.trying = None;
            self.token.extend(&change.token());
            self.trying = None;
        }
        if self.ready.is_empty()
            && let Some(behind) = self.behind.take()
        {
            self.token.extend(&behind);
            if let Some(Source::Server(subscription)) = &mut self.source {
                subscription.give_back();
            }
        }
        change
    }

    async fn open(&mut self, start: &Start) -> Result<(), ClientError> {
        let begin = self.wanted.begin(start, &self.token)?;
        self.source = None;
        self.is_placed = false;
        if let Some(follows) = &mut self.wanted.follows {
            follows.seat = None;
        }
        let source = self.client.begin_feed(begin).await?;
        #[cfg(feature = "node")]
        if let Source::Node(feed) = &source {
            // Nothing more is said of it.
            self.token.extend(&feed.token().unwrap_or_default());
            if let Some(follows) = &mut self.wanted.follows {
                follows.seat = feed.seat();
            }
            self.is_placed = true;
        }
        self.source = Some(source);
        self.opened = Some(Instant::now());
        Ok(())
    }

    /// Takes in what comes next; false: the stream has ended, and nobody said why.
    async fn receive(&mut self) -> Result<bool, ClientError> {
        let received = match &mut self.source {
            None => return Ok(false),
            Some(Source::Server(subscription)) => match subscription.deliveries.recv().await {
                Some((bytes, charge)) => {
                    subscription.charge = charge;
                    Received::of(&bytes)
                }
                None => {
                    self.source = None;
                    return Ok(false);
                }
            },
            #[cfg(feature = "node")]
            Some(Source::Node(feed)) => match feed.next().await {
                Ok((changes, behind)) => Ok(Received::Changes(changes, behind)),
                Err(failure) => Err(ClientError::Refused(failure)),
            },
        };
        match received {
            Ok(Received::Changes(changes, behind)) => {
                self.is_placed = true;
                (self.ready, self.behind) = (changes, Some(behind));
                if self.ready.is_empty() {
                    // Only where it is.
                    drop(self.take());
                }
            }
            Ok(Received::Seat(seat)) => {
                if let Some(Source::Server(subscription)) = &mut self.source {
                    subscription.give_back();
                }
                if let Some(follows) = &mut self.wanted.follows {
                    follows.seat = Some(seat);
                }
            }
            Err(error) => {
                // What can't be read is not passed over: the next attempt begins before it.
                self.source = None;
                return Err(error);
            }
        }
        Ok(true)
    }
}

/// What a delivery brings.
enum Received {
    Changes(VecDeque<Change>, Token),
    Seat(u64),
}

impl Received {
    fn of(bytes: &[u8]) -> Result<Self, ClientError> {
        let unreadable = |error: &dyn std::error::Error| ClientError::Answer(error.to_string());
        match codec::decode::<Delivery>(bytes).map_err(|error| unreadable(&error))? {
            Delivery::Changes { changes, token } => {
                let changes = changes.into_iter().map(Change::try_from).collect::<Result<_, _>>();
                Ok(Self::Changes(changes.map_err(|error| unreadable(&error))?, token_of(&token)?))
            }
            Delivery::Seated { seat } => Ok(Self::Seat(seat)),
            Delivery::Failed(failure) => Err(ClientError::Refused(failure)),
        }
    }
}
