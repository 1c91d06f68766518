//! Followers: subscribers that the node knows by name, also when they are away.

use super::error::ReadError;
use super::feed::{Feed, FeedError};
use super::hosting::ShardHandle;
use super::namespace::Namespace;
use super::pins::{Pin, Pins};
use super::shard::{now, wall_micros};
use crate::model::namespace::{BadName, check_name};
use crate::model::request::FailureClass;
use crate::model::{Budget, Change, FollowerOptions, FollowerState, Lsn, ShardId, Since, Token};
use crate::state::{self, ChangeSet, FollowerEntry, RocksStore, RocksWriter, Store as _, StoreError};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Followers of one shard at the most: each is remembered for ever, and may keep log.
const FOLLOWERS_MAX: usize = if cfg!(test) { 8 } else { 1000 };

/// The followers of one shard.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    entry: FollowerEntry,
    /// Up to where it is certainly done, also after a crash: as far as the state on the disk says so.
    confirmed: Lsn,
    /// At `confirmed`: what is behind it may be asked for again.
    pin: Pin,
    budget: Budget,
    /// Which of those who came by this name is here; none: nobody.
    here: Option<u64>,
    /// It went back, and the state on the disk may still say where it was before.
    is_rewinding: bool,
}

/// Why nobody follows by this name now.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5511 | fix the request | see [`BadName`] |
/// | TW-6211 | retry | somebody follows by this name: when that one is gone, this one may |
/// | TW-6213 | operator | as many followers are known as may be: forget those that never come back |
/// | TW-6212 | fix the request | it does not follow any more, its connection was lost: follow again |
/// | TW-620x, TW-610x, TW-52xx | | see [`FeedError`] |
///
/// ```
/// use towline::model::{Since, request::FailureClass};
/// use towline::node::{FollowError, FollowerOptions};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let orders = node.default_namespace();
/// let options = FollowerOptions::since(Since::Beginning);
/// let first = orders.follow("mailer", &options)?;
/// // A second one stands by until the first is gone.
/// let error = orders.follow("mailer", &options).unwrap_err();
/// assert!(matches!(&error, FollowError::InUse(name) if name == "mailer"));
/// assert_eq!((error.code(), error.class()), (6211, FailureClass::Retry));
/// drop(first);
/// assert!(orders.follow("mailer", &options).is_ok());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Somebody follows by this name already.
    #[error("somebody follows as {0:?} already")]
    InUse(String),
    /// As many are known as may be.
    #[error("{FOLLOWERS_MAX} followers are known already: forget those that never come back")]
    TooMany,
    /// Whoever says so does not follow by this name any more.
    #[error("who says that it is done does not follow as {0:?} any more")]
    Left(String),
    /// The feed does not begin.
    #[error(transparent)]
    Feed(#[from] FeedError),
}

impl From<ReadError> for FollowError {
    fn from(error: ReadError) -> Self {
        Self::Feed(error.into())
    }
}

impl FollowError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Name(_) => BadName::CODE,
            Self::InUse(_) => 6211,
            Self::Left(_) => 6212,
            Self::TooMany => 6213,
            Self::Feed(feed) => feed.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Name(_) | Self::Left(_) => FailureClass::FixRequest,
            Self::InUse(_) => FailureClass::Retry,
            Self::TooMany => FailureClass::Operator,
            Self::Feed(feed) => feed.class(),
        }
    }
}

/// A feed whose position the node keeps, and within a budget the log behind it: a subscriber that comes back finds
/// everything that it was not done with.
///
/// What it was done with just before a crash may come once more. Who must see everything exactly once stores
/// [`Follower::token`] together with what it made of the changes, and begins by [`Follower::seek`].
///
/// ```
/// use towline::model::Since;
/// use towline::node::FollowerOptions;
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let orders = node.namespace("default")?;
/// orders.put("order-42", "placed")?.wait()?;
///
/// let mut mailer = orders.follow("mailer", &FollowerOptions::since(Since::Beginning))?;
/// let change = mailer.wait()?;
/// // A mail is sent; from here on the change does not come again.
/// mailer.acknowledge()?;
/// drop(mailer);
///
/// let mut mailer = orders.follow("mailer", &FollowerOptions::since(Since::Beginning))?;
/// assert!(mailer.wait_for(std::time::Duration::ZERO)?.is_none());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    feed: Feed,
    seat: Seat,
}

/// Who follows by a name, as long as it lives: nobody else does meanwhile.
#[derive(Debug)]
pub(crate) struct Seat {
    name: String,
    who: u64,
    namespace: Namespace,
    budget: Budget,
    shards: Vec<Arc<ShardHandle>>,
}

impl Known {
    const fn is_unconfirmed(&self) -> bool {
        !self.is_rewinding && self.confirmed.get() < self.entry.lsn.get()
    }
}

impl Followers {
    /// What an earlier life knew.
    pub(super) fn load(pins: &Arc<Pins>, store: &RocksStore, shard: ShardId) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        for (name, entry) in state::followers(store, shard)? {
            let budget = Budget { bytes: entry.budget_bytes, age: Duration::from_secs(entry.budget_seconds) };
            let away = Duration::from_micros(wall_micros().saturating_sub(entry.micros));
            let since = now().checked_sub(away).unwrap_or_else(now);
            let pin = pins.pin_since(entry.lsn, budget, since);
            known.insert(name, Known { entry, confirmed: entry.lsn, pin, budget, here: None, is_rewinding: false });
        }
        Ok(Self(Mutex::new(known)))
    }

    /// What is known of a name, by which somebody comes now.
    fn come(&self, name: &str, who: u64) -> Result<Option<FollowerEntry>, FollowError> {
        match self.0.lock().get_mut(name) {
            Some(known) if known.here.is_some() => Err(FollowError::InUse(name.to_owned())),
            Some(known) => {
                known.here = Some(who);
                Ok(Some(known.entry))
            }
            None => Ok(None),
        }
    }

    /// What this one is done with, and what is kept for it; none: it is not here.
    #[cfg(any(feature = "cluster", feature = "client"))]
    fn who_is_here(&self, name: &str, who: u64) -> Option<(Lsn, Budget)> {
        let known = self.0.lock();
        known.get(name).filter(|known| known.here == Some(who)).map(|known| (known.entry.lsn, known.budget))
    }

    fn leave(&self, name: &str, who: u64) {
        if let Some(known) = self.0.lock().get_mut(name).filter(|known| known.here == Some(who)) {
            known.here = None;
        }
    }

    /// Whoever is here by this name is done up to there; false if somebody else is, or the name was forgotten.
    fn note(&self, pins: &Arc<Pins>, name: &str, who: u64, entry: FollowerEntry, budget: Budget, is_new: bool) -> bool {
        let mut known = self.0.lock();
        match known.get_mut(name) {
            Some(known) if known.here == Some(who) => {
                known.is_rewinding |= entry.lsn < known.entry.lsn;
                known.entry = entry;
                known.pin.touch();
                if known.budget != budget || entry.lsn < known.confirmed {
                    known.confirmed = known.confirmed.min(entry.lsn);
                    (known.pin, known.budget) = (pins.pin(known.confirmed, budget), budget);
                }
                true
            }
            Some(_) => false,
            None if is_new => {
                let pin = pins.pin(entry.lsn, budget);
                let fresh = Known { entry, confirmed: entry.lsn, pin, budget, here: Some(who), is_rewinding: false };
                known.insert(name.to_owned(), fresh);
                true
            }
            None => false,
        }
    }

    /// Asks the state on the disk how far each is.
    pub(super) fn confirm(
        &self,
        persisted: impl Fn(&str) -> Result<Option<FollowerEntry>, StoreError>,
    ) -> Result<(), StoreError> {
        for (name, known) in self.0.lock().iter_mut().filter(|(_, known)| known.is_unconfirmed()) {
            if let Some(entry) = persisted(name)?.filter(|entry| entry.lsn > known.confirmed) {
                known.confirmed = entry.lsn;
                known.pin.move_to(entry.lsn);
            }
        }
        Ok(())
    }

    /// Whether one has said more than is on the disk.
    pub(super) fn has_unconfirmed(&self) -> bool {
        self.0.lock().values().any(Known::is_unconfirmed)
    }

    /// The state on the disk says where it went back to.
    fn has_rewound(&self, name: &str, who: u64) {
        if let Some(known) = self.0.lock().get_mut(name).filter(|known| known.here == Some(who)) {
            known.is_rewinding = false;
        }
    }
}

/// A number for one who comes by a name: no other process gives the same, so that whoever shows one after a restart is not
/// taken for another who came by then.
fn who_comes() -> u64 {
    let (_, random) = uuid::Uuid::now_v7().as_u64_pair();
    random
}

impl Namespace {
    /// Follows by a name: goes on behind what it was done with the last time, or begins as the options say.
    ///
    /// # Errors
    /// The name is none, somebody follows by it already, what it needs is released, or the node is closed.
    pub fn follow(&self, name: &str, options: &FollowerOptions) -> Result<Follower, FollowError> {
        self.follow_from(name, options, None)
    }

    /// From where it was done, or behind a token, which does not change what it was done with.
    pub(super) fn follow_from(
        &self,
        name: &str,
        options: &FollowerOptions,
        behind: Option<&Token>,
    ) -> Result<Follower, FollowError> {
        check_name(name)?;
        let shards = self.shards_of(&options.filter)?;
        let who = who_comes();
        let one_after_another = self.following();
        let mut came = Vec::new();
        let begun = (|| {
            let mut known = BTreeMap::new();
            for shard in &shards {
                if let Some(entry) = shard.followers.come(name, who)? {
                    known.insert(
                        shard.descriptor.shard,
                        Since::Token(Token::at(shard.descriptor.shard, entry.epoch, entry.lsn)),
                    );
                    came.push(shard);
                }
            }
            // A shard in which it is not known yet: as for one who comes for the first time.
            let since = |shard: &ShardHandle| known.get(&shard.descriptor.shard).unwrap_or(&options.first).clone();
            let done = self.subscribe_each(options.filter.clone(), since, options.budget)?;
            let ahead = match behind {
                Some(token) => {
                    let since = Since::Token(token.clone());
                    Some(self.subscribe_within(since, options.filter.clone(), options.budget)?)
                }
                None => None,
            };
            Ok::<_, FollowError>((done, ahead))
        })();
        let (feed, ahead) = match begun {
            Ok(feeds) => feeds,
            Err(error) => {
                came.iter().for_each(|shard| shard.followers.leave(name, who));
                return Err(error);
            }
        };
        let is_new = came.len() < shards.len();
        if is_new && shards.iter().any(|shard| shard.followers.0.lock().len() >= FOLLOWERS_MAX) {
            came.iter().for_each(|shard| shard.followers.leave(name, who));
            return Err(FollowError::TooMany);
        }
        let (namespace, budget) = (self.clone(), options.budget);
        let seat = Seat { name: name.to_owned(), who, namespace, budget, shards };
        seat.note(&feed.token(), is_new, &one_after_another)?;
        // From here on the log is kept for it, whatever happens: also when an earlier try came only so far as to be known.
        self.with_store(None, |store| Ok(store.flush()?))?;
        Ok(Follower { feed: ahead.unwrap_or(feed), seat })
    }

    /// Whoever has this seat is done with everything up to there; what it said before of later positions stands.
    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(super) fn acknowledge(&self, name: &str, who: u64, token: &Token) -> Result<(), FollowError> {
        let one_after_another = self.following();
        let (mut ahead, mut shards, mut budget) = (Token::default(), Vec::new(), None);
        for shard in self.shards() {
            let Some((done, kept)) = shard.followers.who_is_here(name, who) else { continue };
            budget = Some(kept);
            let id = shard.descriptor.shard;
            let Some((epoch, lsn)) = token.get(id).filter(|(_, lsn)| *lsn > done) else { continue };
            let applied = shard.positions.applied();
            if lsn > applied {
                // Nobody was shown that.
                return Err(ReadError::NotYet { shard: id, wanted: lsn, applied }.into());
            }
            self.check_history(shard, epoch, lsn)?;
            ahead.extend(&Token::at(id, epoch, lsn));
            shards.push(Arc::clone(shard));
        }
        let budget = budget.ok_or_else(|| FollowError::Left(name.to_owned()))?;
        Ok(self.note_follower((name, who), budget, &shards, &ahead, false, &one_after_another)?)
    }

    /// Writes down how far one is. The lock: a namespace that is dropped at this moment is not written to behind its end.
    fn note_follower(
        &self,
        (name, who): (&str, u64),
        budget: Budget,
        shards: &[Arc<ShardHandle>],
        token: &Token,
        is_new: bool,
        _one_after_another: &MutexGuard<'_, ()>,
    ) -> Result<(), ReadError> {
        if self.is_dropped() {
            return Err(ReadError::Dropped);
        }
        let mut changes = ChangeSet::default();
        for shard in shards {
            let id = shard.descriptor.shard;
            let Some((epoch, lsn)) = token.get(id) else { continue };
            let entry = FollowerEntry::new(epoch, lsn, wall_micros(), budget.bytes, budget.age.as_secs());
            // One that was forgotten stays so.
            if shard.followers.note(&shard.pins, name, who, entry, budget, is_new) {
                state::put_follower(&mut changes, id, name, &entry);
            }
        }
        self.with_store(None, |store| Ok(RocksWriter::new(Arc::clone(store)).commit(&changes)?))
    }

    /// Forgets a follower: nothing is kept for it any more. One that is here goes on as a feed that nobody knows.
    ///
    /// # Errors
    /// The state can't be written, or the node is closed.
    pub fn forget_follower(&self, name: &str) -> Result<(), ReadError> {
        let _one_after_another = self.following();
        if self.is_dropped() {
            return Err(ReadError::Dropped);
        }
        let mut changes = ChangeSet::default();
        for shard in self.shards() {
            state::forget_follower(&mut changes, shard.descriptor.shard, name);
            drop(shard.followers.0.lock().remove(name));
        }
        self.with_store(None, |store| {
            RocksWriter::new(Arc::clone(store)).commit(&changes)?;
            Ok(store.flush()?)
        })
    }

    /// Who follows, and how far each is in each shard.
    #[must_use]
    pub fn followers(&self) -> Vec<FollowerState> {
        let mut all = Vec::new();
        for shard in self.shards() {
            let applied = shard.positions.applied();
            all.extend(shard.followers.0.lock().iter().map(|(name, known)| FollowerState {
                name: name.clone(),
                shard: shard.descriptor.shard,
                done: known.entry.lsn,
                applied,
                is_here: known.here.is_some(),
            }));
        }
        all
    }
}

impl Follower {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.seat.name
    }

    /// What comes, and who keeps the place.
    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(crate) fn into_parts(self) -> (Feed, Seat) {
        (self.feed, self.seat)
    }

    /// As [`Feed::wait`].
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn wait(&mut self) -> Result<Change, FeedError> {
        self.feed.wait()
    }

    /// As [`Feed::wait_for`].
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn wait_for(&mut self, timeout: Duration) -> Result<Option<Change>, FeedError> {
        self.feed.wait_for(timeout)
    }

    /// As [`Feed::next`]; safe to cancel.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub async fn next(&mut self) -> Result<Change, FeedError> {
        self.feed.next().await
    }

    /// As [`Feed::token`].
    #[must_use]
    pub fn token(&self) -> Token {
        self.feed.token()
    }

    /// It is done with everything that was delivered: that does not come again, but for what was said just before a crash
    /// (it is written to the state without a sync).
    ///
    /// # Errors
    /// The state can't be written, or the node is closed.
    pub fn acknowledge(&mut self) -> Result<(), ReadError> {
        self.seat.note(&self.feed.token(), false, &self.seat.namespace.following())
    }

    /// Goes on behind a position that the subscriber kept by itself.
    ///
    /// # Errors
    /// As [`Namespace::subscribe`], and then it is where it was; or where it went can't be written down.
    pub fn seek(&mut self, token: &Token) -> Result<(), FeedError> {
        let filter = self.feed.filter().clone();
        let seat = &self.seat;
        self.feed = seat.namespace.subscribe_within(Since::Token(token.clone()), filter, seat.budget)?;
        let one_after_another = seat.namespace.following();
        seat.note(&self.feed.token(), false, &one_after_another)?;
        // What is on the disk from before must not be taken for what it said since.
        seat.namespace.with_store(None, |store| Ok(store.flush()?))?;
        seat.shards.iter().for_each(|shard| shard.followers.has_rewound(&seat.name, seat.who));
        Ok(())
    }
}

impl Seat {
    /// What is shown to acknowledge from elsewhere.
    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(crate) const fn who(&self) -> u64 {
        self.who
    }

    fn note(&self, token: &Token, is_new: bool, one_after_another: &MutexGuard<'_, ()>) -> Result<(), ReadError> {
        let who = (self.name.as_str(), self.who);
        self.namespace.note_follower(who, self.budget, &self.shards, token, is_new, one_after_another)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shards.iter().for_each(|shard| shard.followers.leave(&self.name, self.who));
    }
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use super::*;
    use crate::model::Epoch;
    use crate::node::{Node, NodeOptions};

    #[test]
    fn who_acknowledges_must_sit_there_and_have_been_shown_what_it_is_done_with() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.default_namespace();
        let written: Vec<_> = (0..3).map(|_| space.put("k", "v").unwrap().wait().unwrap()).collect();
        let follower = space.follow("f", &FollowerOptions::since(Since::Beginning)).unwrap();
        let (feed, seat) = follower.into_parts();
        let done = || space.followers()[0].done;
        let at = |epoch, lsn| Token::at(written[0].shard, epoch, lsn);
        let (epoch, last) = (written[2].epoch, written[2].lsn);
        let nobody = space.acknowledge("f", seat.who().wrapping_add(1), &at(epoch, last)).unwrap_err();
        assert_eq!((nobody.code(), done()), (6212, Lsn::ZERO));
        assert_eq!(space.acknowledge("g", seat.who(), &at(epoch, last)).unwrap_err().code(), 6212);
        let ahead = space.acknowledge("f", seat.who(), &at(epoch, last.next())).unwrap_err();
        assert_eq!((ahead.code(), done()), (6102, Lsn::ZERO));
        let elsewhere = space.acknowledge("f", seat.who(), &at(Epoch::new(1, 1), last)).unwrap_err();
        assert_eq!((elsewhere.code(), done()), (6202, Lsn::ZERO));
        space.acknowledge("f", seat.who(), &at(epoch, last)).unwrap();
        // One that was late on its way takes nothing back.
        space.acknowledge("f", seat.who(), &at(epoch, written[0].lsn)).unwrap();
        assert_eq!((done(), space.followers()[0].is_here), (last, true));
        let who = seat.who();
        drop((feed, seat));
        assert_eq!(space.acknowledge("f", who, &at(epoch, last)).unwrap_err().code(), 6212, "it has left");
        let again = space.follow("f", &FollowerOptions::since(Since::Beginning)).unwrap();
        assert_ne!(again.into_parts().1.who(), who);
        node.close().unwrap();
    }

    /// Each is a row for ever, and may keep log: names that are made up must come to an end.
    #[test]
    fn there_are_as_many_followers_as_may_be_and_those_who_are_known_come_back_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let (space, options) = (node.default_namespace(), FollowerOptions::since(Since::Now));
        for number in 0..FOLLOWERS_MAX {
            drop(space.follow(&format!("f{number}"), &options).unwrap());
        }
        assert_eq!(space.follow("one-too-many", &options).map(drop).unwrap_err().code(), 6213);
        drop(space.follow("f0", &options).unwrap());
        space.forget_follower("f0").unwrap();
        drop(space.follow("one-too-many", &options).unwrap());
        node.close().unwrap();
    }

    /// A lost connection: it goes on where it was, and is done with no more than it has said.
    #[test]
    fn who_comes_back_behind_a_token_has_not_acknowledged_it() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.default_namespace();
        let written: Vec<_> = (0..3).map(|_| space.put("k", "v").unwrap().wait().unwrap()).collect();
        let options = FollowerOptions::since(Since::Beginning);
        drop(space.follow("f", &options).unwrap());
        let mut behind = space.follow_from("f", &options, Some(&written[1].token())).unwrap();
        assert_eq!(behind.wait().unwrap().lsn, written[2].lsn);
        drop(behind);
        assert_eq!(space.followers()[0].done, Lsn::ZERO);
        let mut known = space.follow("f", &options).unwrap();
        assert_eq!(known.wait().unwrap().lsn, written[0].lsn);
        node.close().unwrap();
    }

    /// Whoever may subscribe would fill the disk of a server with what is kept for a name that it made up.
    #[test]
    fn who_asks_from_elsewhere_has_no_more_kept_than_the_default_and_less_if_it_wants_less() {
        use crate::model::subscription::{Follow, FollowAt};
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let most = Budget::default();
        let (more, less) = (Budget { bytes: u64::MAX, age: most.age * 10 }, Budget { bytes: 7, age: most.age / 2 });
        let cases = [
            (more, most),
            (less, less),
            (Budget { age: less.age, ..more }, Budget { age: less.age, ..most }),
            (Budget { bytes: less.bytes, ..more }, Budget { bytes: less.bytes, ..most }),
        ];
        for (wanted, kept) in cases {
            let options = FollowerOptions::since(Since::Beginning).budget(wanted);
            let token = || Token::default().encode().unwrap().to_vec();
            for at in [FollowAt::Known, FollowAt::Behind { token: token() }, FollowAt::Seek { token: token() }] {
                let follow = Follow::new("default", "f", &options, at).unwrap();
                let follower = crate::node::calls::follow(&node, follow).unwrap();
                assert_eq!(follower.seat.budget, kept);
                let shard = &follower.seat.shards[0];
                let known = shard.followers.0.lock().get("f").map(|known| (known.budget, known.entry.budget_bytes));
                assert_eq!(known, Some((kept, kept.bytes)), "also when it is away");
            }
        }
        node.close().unwrap();
    }
}
