//! Sessions: each request takes effect once, and is answered as it was the first time (I5).
//!
//! A shard knows a session from its `OpenSession` on, and names it by that record's place: an id that expired can't be
//! given again, so a late try of an old request never finds a session that would execute it once more. Of each request
//! that was executed it keeps what came of it, until the client says that it does not wait for it any more (*ack-low*);
//! so of a session it keeps no more than a client may wait for. What is too old goes by a `Trim` that lies in the log, on
//! every replica alike.
//!
//! | the request | answer |
//! |---|---|
//! | of a session that is not known | `SessionExpired` |
//! | below ack-low | `Retired` |
//! | executed before | what came of it then, and where |
//! | another than the one that was executed by this number | `NumberReused` |
//! | behind one that was not executed | `OutOfOrder`, unless the record gives up the order |
//! | otherwise | it is executed; what came of it is kept |
//!
//! All but the last leave no trace but that the record had no effect.

use super::effects::Effects;
use super::key;
use super::store::{Family, Order, StoreError, View};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, Lsn, Outcome, Record, Rejection, session_id};
use std::ops::ControlFlow;

/// What a shard keeps of a session, beside what came of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    /// The LSN at which it was opened.
    pub(super) opened: Lsn,
    /// The LSN of the last request that was executed.
    pub(super) used: Lsn,
    /// The lowest number that its client waits for.
    pub(super) ack_low: u64,
}

/// What came of a request, and where it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Executed {
    pub(super) epoch: Epoch,
    pub(super) lsn: Lsn,
    pub(super) outcome: Outcome,
    /// Which request it was: another one by the same number is not it.
    pub(super) fingerprint: u64,
}

/// Results up to which each is deleted by itself: a range leaves a mark that every read has to look at.
const SINGLE_DELETES_MAX: usize = 64;
/// Sessions that one [`Trim`](crate::model::ControlRecord) looks at: others have their turn in between, and memory is bounded.
pub(super) const SESSIONS_OF_A_TRIM: usize = 10_000;

impl<S: View> Effects<'_, S> {
    /// One record of a session: executed at most once.
    pub(super) fn request(
        &mut self,
        epoch: Epoch,
        lsn: Lsn,
        record: &Record,
        fingerprint: u64,
    ) -> Result<Executed, StoreError> {
        let here = |outcome| Executed { epoch, lsn, outcome, fingerprint };
        let request = &record.request;
        let Some(mut session) = self.session(request.session)? else {
            return Ok(here(self.reject(lsn, Rejection::SessionExpired)));
        };
        if request.number < session.ack_low {
            return Ok(here(self.reject(lsn, Rejection::Retired)));
        }
        if let Some(executed) = self.executed(request.session, request.number)?
            && !planted(Mutant::ExecuteAgain)
        {
            // That this record had no effect is all that is noted of it.
            let reused = self.reject(lsn, Rejection::NumberReused);
            return Ok(if executed.fingerprint == fingerprint { executed } else { here(reused) });
        }
        let after = request.after;
        let is_next = record.unordered
            || planted(Mutant::Overtake)
            || after < session.ack_low.max(request.ack_low)
            || self.executed(request.session, after)?.is_some();
        if !is_next {
            return Ok(here(self.reject(lsn, Rejection::OutOfOrder { after })));
        }
        let executed = here(self.operations(lsn, record)?);
        let (namespace, log) = (self.shard.namespace, self.log);
        let retired = session.ack_low..request.ack_low.max(session.ack_low);
        self.forget_results(request.session, retired.clone());
        (session.used, session.ack_low) = (lsn, retired.end);
        self.changes.put(
            Family::Sessions,
            key::session_key(namespace, log, request.session),
            key::session_entry(&session),
        );
        let result = key::result_key(namespace, log, request.session, request.number);
        self.changes.put(Family::Sessions, result, key::result_entry(&executed));
        Ok(executed)
    }

    /// A session begins; its id is made of its place.
    pub(super) fn open_session(&mut self, epoch: Epoch, lsn: Lsn, sessions_max: u64) -> Result<Outcome, StoreError> {
        let session = session_id(self.shard.shard, epoch, lsn);
        let open = self.open_sessions()?;
        if open >= sessions_max {
            return Ok(Outcome::Rejected(Rejection::TooManySessions { limit: sessions_max }));
        }
        let entry = key::session_entry(&Session { opened: lsn, used: lsn, ack_low: 1 });
        self.changes.put(Family::Sessions, key::session_key(self.shard.namespace, self.log, session), entry);
        self.count_sessions(open.saturating_add(1));
        Ok(Outcome::Applied { version: lsn.get() })
    }

    /// A session ends.
    pub(super) fn close_session(&mut self, session: u128) -> Result<Outcome, StoreError> {
        if self.session(session)?.is_none() {
            return Ok(Outcome::Rejected(Rejection::SessionExpired));
        }
        let open = self.open_sessions()?;
        self.forget_session(session)?;
        self.count_sessions(open.saturating_sub(1));
        Ok(Outcome::Applied { version: 0 })
    }

    /// Sessions that were not used since, and which records before were rejected, are forgotten. Of the sessions the next
    /// [`SESSIONS_OF_A_TRIM`] are looked at, in the order of their ids: the state knows where the last one ended. The outcome's
    /// version is 1 while others are left to look at, and 0 at their end; then it begins anew.
    /// A bound of 0 is that of no session: none is looked at.
    pub(super) fn trim(&mut self, sessions_before: Lsn, rejected_before: Lsn) -> Result<Outcome, StoreError> {
        self.trim_rejected(rejected_before)?;
        if sessions_before == Lsn::ZERO {
            return Ok(Outcome::Applied { version: 0 });
        }
        let next = self.next_sessions()?;
        let (looked_at, behind) = next.split_at(next.len().min(SESSIONS_OF_A_TRIM));
        let mut gone = 0;
        for (session, used) in looked_at {
            if *used < sessions_before {
                self.forget_session(*session)?;
                gone += 1;
            }
        }
        if gone > 0 {
            let open = self.open_sessions()?;
            self.count_sessions(open.saturating_sub(gone));
        }
        let at = key::trim_key(self.shard.namespace, self.log);
        match behind.first() {
            Some((session, _)) => self.changes.put(Family::Sessions, at, key::trim_entry(*session)),
            None => self.changes.delete(Family::Sessions, at),
        }
        Ok(Outcome::Applied { version: u64::from(!behind.is_empty()) })
    }

    /// The sessions that a trim looks at, with their last use, and the one behind them. What they are must not hang on what is
    /// stored already and what is in these changes still: they are the first of both together.
    fn next_sessions(&self) -> Result<Vec<(u128, Lsn)>, StoreError> {
        let (namespace, log) = (self.shard.namespace, self.log);
        let from = self.look(Family::Sessions, &key::trim_key(namespace, log), key::read_trim)?.unwrap_or(0);
        let first = key::session_key(namespace, log, from);
        let of_log = first.len() - size_of::<u128>();
        let (mut found, mut failed) = (Vec::new(), None);
        let mut note = |at: &[u8], entry: &[u8], found: &mut Vec<(u128, Lsn)>| {
            let session =
                key::session_in(at).filter(|_| at >= first.as_slice() && at.get(..of_log) == first.get(..of_log));
            let noted = session.map(|session| key::read_session(entry).map(|known| found.push((session, known.used))));
            match noted {
                Some(Ok(())) => true,
                Some(Err(error)) => {
                    failed = Some(error);
                    false
                }
                None => false,
            }
        };
        let changes = &*self.changes;
        self.store.scan(Family::Sessions, &first, Order::Ascending, &mut |at, entry| {
            let goes_on = changes.get(Family::Sessions, at).is_some() || note(at, entry, &mut found);
            if goes_on && found.len() <= SESSIONS_OF_A_TRIM {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        for (at, entry) in changes.values(Family::Sessions) {
            note(at, entry, &mut found);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        found.sort_unstable();
        found.truncate(SESSIONS_OF_A_TRIM + 1);
        Ok(found)
    }

    fn trim_rejected(&mut self, before: Lsn) -> Result<(), StoreError> {
        let (namespace, log) = (self.shard.namespace, self.log);
        if before > self.trimmed()? {
            let (from, to) = (key::rejected_key(namespace, log, Lsn::ZERO), key::rejected_key(namespace, log, before));
            self.changes.delete_range(Family::Rejected, from, to);
            self.changes.put(Family::Sessions, key::trimmed_key(namespace, log), key::number_entry(before.get()));
        }
        Ok(())
    }

    fn session(&self, session: u128) -> Result<Option<Session>, StoreError> {
        self.look(Family::Sessions, &key::session_key(self.shard.namespace, self.log, session), key::read_session)
    }

    fn executed(&self, session: u128, number: u64) -> Result<Option<Executed>, StoreError> {
        self.look(Family::Sessions, &key::result_key(self.shard.namespace, self.log, session, number), key::read_result)
    }

    fn open_sessions(&self) -> Result<u64, StoreError> {
        let key = key::session_count_key(self.shard.namespace, self.log);
        Ok(self.look(Family::Sessions, &key, key::read_number)?.unwrap_or(0))
    }

    fn trimmed(&self) -> Result<Lsn, StoreError> {
        let key = key::trimmed_key(self.shard.namespace, self.log);
        Ok(self.look(Family::Sessions, &key, key::read_number)?.map_or(Lsn::ZERO, Lsn::new))
    }

    fn count_sessions(&mut self, open: u64) {
        let entry = key::number_entry(open);
        self.changes.put(Family::Sessions, key::session_count_key(self.shard.namespace, self.log), entry);
    }

    fn forget_session(&mut self, session: u128) -> Result<(), StoreError> {
        let (namespace, log) = (self.shard.namespace, self.log);
        let at = key::session_key(namespace, log, session);
        // Its results lie where its entry does: if that was not changed, all of them are stored.
        let is_stored = self.changes.get(Family::Sessions, &at).is_none();
        self.changes.delete(Family::Sessions, at);
        let all = |number| key::result_key(namespace, log, session, number);
        let mut behind = all(u64::MAX);
        behind.push(0);
        let mut results = Vec::new();
        if is_stored {
            self.store.scan(Family::Sessions, &all(0), Order::Ascending, &mut |at, _| {
                if at >= &behind[..] || results.len() > SINGLE_DELETES_MAX {
                    return ControlFlow::Break(());
                }
                results.push(at.to_vec());
                ControlFlow::Continue(())
            })?;
        }
        if is_stored && results.len() <= SINGLE_DELETES_MAX {
            results.iter().for_each(|at| self.changes.delete(Family::Sessions, at));
        } else {
            self.changes.delete_range(Family::Sessions, all(0), behind);
        }
        Ok(())
    }

    /// The client does not wait for these any more.
    fn forget_results(&mut self, session: u128, numbers: std::ops::Range<u64>) {
        let (namespace, log) = (self.shard.namespace, self.log);
        let result = |number| key::result_key(namespace, log, session, number);
        if numbers.end.saturating_sub(numbers.start) <= SINGLE_DELETES_MAX as u64 {
            numbers.for_each(|number| self.changes.delete(Family::Sessions, result(number)));
        } else {
            self.changes.delete_range(Family::Sessions, result(numbers.start), result(numbers.end));
        }
    }
}
