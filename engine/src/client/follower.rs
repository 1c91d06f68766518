//! [`Follower`]: a feed whose position the server keeps, by a name.

use super::error::ClientError;
use super::feed::{Feed, Start};
use super::handle::misunderstood;
use super::namespace::{Again, Namespace, done};
use super::pauses::Pauses;
use crate::model::call::{Answer, Call};
use crate::model::{Change, FollowerOptions, FollowerState, Lsn, Token};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Somebody follows by this name; whoever acknowledges does not follow any more: `FollowError` has the same.
const IN_USE: u16 = 6211;
const LEFT: u16 = 6212;
/// How long the server may take to see that one who followed by this name has gone.
const LEAVING_MAX: Duration = Duration::from_secs(1);

/// A subscriber that is known by name: what [`crate::node::Follower`] is to the embedding program. The server keeps how far it is, and
/// within a budget the log behind that. When the connection is lost it goes on where it was.
///
/// What it was done with just before a crash may come once more. Who must see everything exactly once stores [`Follower::token`]
/// together with what it made of the changes, and begins by [`Follower::seek`].
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{FollowerOptions, Since};
/// # use towline::node::NodeOptions;
/// # let directory = tempfile::tempdir()?;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::open(NodeOptions::alone(directory.path()), ClientOptions::default()).await?;
/// let orders = client.namespace("default");
/// orders.put("order-42", "placed").await?.await?;
///
/// let mut mailer = orders.follow("mailer", &FollowerOptions::since(Since::Beginning)).await?;
/// let change = mailer.next().await?;
/// // A mail is sent; from here on the change does not come again.
/// mailer.acknowledge().await?;
/// assert_eq!(orders.followers().await?[0].done, change.lsn);
/// # drop(mailer);
/// # client.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    namespace: Namespace,
    name: String,
    feed: Feed,
}

impl Namespace {
    /// Follows by a name: goes on behind what it was done with the last time, or begins as the options say.
    ///
    /// Cancellation: the server may know the name from then on.
    ///
    /// # Errors
    /// No answer in time, or the server's: the name is none, somebody follows by it already (one who left a moment ago is waited
    /// for), what it needs is released.
    pub async fn follow(&self, name: &str, options: &FollowerOptions) -> Result<Follower, ClientError> {
        let end = Instant::now() + LEAVING_MAX.min(self.client().request_timeout());
        let mut pauses = Pauses::new();
        loop {
            let follows = Some((name.to_owned(), options.clone()));
            match self.feed(options.filter.clone(), follows, options.first.clone()).await {
                Ok(feed) => return Ok(Follower { namespace: self.clone(), name: name.to_owned(), feed }),
                Err(ClientError::Refused(failure)) if failure.code == IN_USE && Instant::now() < end => {
                    sleep(pauses.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Who follows, and how far each is in each shard.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn followers(&self) -> Result<Vec<FollowerState>, ClientError> {
        match self.ask(Call::Followers, Again::Yes).await? {
            Answer::Followers(found) => Ok(found
                .into_iter()
                .map(|(name, shard, done, applied, is_here)| FollowerState {
                    name,
                    shard,
                    done: Lsn::new(done),
                    applied: Lsn::new(applied),
                    is_here,
                })
                .collect()),
            other => Err(misunderstood(&other)),
        }
    }

    /// Forgets a follower: nothing is kept for it any more. Let it end before: one that still follows from elsewhere begins anew by
    /// that name when it acknowledges, or comes back after a lost connection.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn forget_follower(&self, name: &str) -> Result<(), ClientError> {
        done(self.ask(Call::ForgetFollower { name: name.to_owned() }, Again::Yes).await?)
    }
}

impl Follower {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Feed::next`]; safe to cancel.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn next(&mut self) -> Result<Change, ClientError> {
        self.feed.next().await
    }

    /// As [`Feed::token`].
    #[must_use]
    pub fn token(&self) -> Token {
        self.feed.token()
    }

    /// It is done with everything that was returned: that does not come again, but for what was said just before a crash of the
    /// server (it is written to the state without a sync).
    ///
    /// Cancellation: it may or may not be known; the next one tells it as well.
    ///
    /// # Errors
    /// No answer in time, or the server's: the name was forgotten, and somebody else has it by now.
    pub async fn acknowledge(&mut self) -> Result<(), ClientError> {
        let token = self.feed.token().encode()?.to_vec();
        let (end, mut pauses) = (Instant::now() + self.namespace.client().request_timeout(), Pauses::new());
        loop {
            let told = match self.feed.seat().await {
                Ok(seat) => {
                    let call = Call::Acknowledge { follower: self.name.clone(), seat, token: token.clone() };
                    self.namespace.ask(call, Again::Yes).await.and_then(done)
                }
                Err(error) => Err(error),
            };
            match told {
                // The server has seen that the connection ended before this program did, or not yet.
                Err(ClientError::Refused(failure)) if matches!(failure.code, LEFT | IN_USE) && Instant::now() < end => {
                    self.feed.forget();
                }
                Err(ClientError::ConnectionLost) if Instant::now() < end => {}
                told => return told,
            }
            sleep(pauses.next()).await;
        }
    }

    /// Goes on behind a position that the subscriber kept by itself: it is done with everything before.
    ///
    /// Cancellation: it is where it was, or there.
    ///
    /// # Errors
    /// As [`Namespace::subscribe`], and then it is where it was.
    pub async fn seek(&mut self, token: &Token) -> Result<(), ClientError> {
        let (end, mut pauses) = (Instant::now() + self.namespace.client().request_timeout(), Pauses::new());
        loop {
            self.feed.forget();
            match self.feed.begin(&Start::Seek(token.clone())).await {
                Ok(()) => {
                    self.feed.set_token(token.clone());
                    return Ok(());
                }
                // It is this one itself, on the connection before.
                Err(ClientError::Refused(failure)) if failure.code == IN_USE && Instant::now() < end => {
                    sleep(pauses.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
