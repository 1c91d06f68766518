//! Clients with sessions: what is in doubt, refused out of order, or only slow, is tried again by the same number.
//!
//! - I5: each request has one answer, however often it was tried; that it has one effect, the checker sees in the end.
//! - I6: requests of one session are executed in the order of their numbers.

use super::chance::Chance;
use super::checker::Violation;
use super::workload;
use super::world::SHARD;
use crate::model::{ControlRecord, Epoch, Lsn, Outcome, Record, Rejection, RequestId, session_id};
use crate::pipeline::Submission;
use std::collections::BTreeMap;

/// Requests of a session without an answer.
const WAITING_MAX: usize = 8;
const SESSIONS_MAX: u64 = 1000;

/// All clients with sessions, and whose each submission is.
#[derive(Debug)]
pub(super) struct Sessions {
    clients: Vec<Client>,
    openings: BTreeMap<u64, usize>,
    requests: BTreeMap<u64, (usize, u64)>,
}

#[derive(Debug, Default)]
struct Client {
    id: Option<u128>,
    is_opening: bool,
    /// The newest number.
    number: u64,
    waiting: BTreeMap<u64, Waiting>,
    answers: BTreeMap<u64, (Lsn, Outcome)>,
}

/// A request without an answer.
#[derive(Debug)]
struct Waiting {
    write: u64,
    record: Record,
    is_under_way: bool,
}

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The write is of no session.
    NotMine,
    /// There is more to come, or nothing new.
    Nothing,
    /// The first answer that is final.
    Answer,
}

impl Sessions {
    pub(super) fn new(clients: usize) -> Self {
        let clients = (0..clients).map(|_| Client::default()).collect();
        Self { clients, openings: BTreeMap::new(), requests: BTreeMap::new() }
    }

    /// What a client submits next, if anything; a new request is that of the write `next`.
    pub(super) fn submit(&mut self, chance: &mut Chance, next: &mut u64, value_max: u64) -> Option<Submission<u64>> {
        let index = usize::try_from(chance.below(self.clients.len() as u64)).unwrap_or(0);
        let client = self.clients.get_mut(index)?;
        let Some(session) = client.id else {
            if std::mem::replace(&mut client.is_opening, true) {
                return None;
            }
            self.openings.insert(*next, index);
            return control(&ControlRecord::OpenSession { sessions_max: SESSIONS_MAX }, take(next));
        };
        // Now and then one is tried again that is only slow.
        let is_impatient = chance.per_mille(100);
        let again = client.waiting.iter().find(|(_, waiting)| is_impatient || !waiting.is_under_way);
        let number = match again.map(|(number, _)| *number) {
            Some(number) if chance.per_mille(600) => number,
            _ if client.waiting.len() >= WAITING_MAX => return None,
            _ => {
                let (after, write) = (client.number, take(next));
                client.number += 1;
                let request = RequestId { session, number: client.number, ack_low: 1, after };
                let record = Record { request, ..workload::record(chance, write, value_max) };
                client.waiting.insert(client.number, Waiting { write, record, is_under_way: false });
                self.requests.insert(write, (index, client.number));
                client.number
            }
        };
        let ack_low = client.waiting.keys().next().copied().unwrap_or(number);
        let waiting = client.waiting.get_mut(&number)?;
        waiting.is_under_way = true;
        waiting.record.request.ack_low = ack_low;
        match waiting.record.encode() {
            Ok(bytes) => Some(Submission::record(bytes, waiting.write)),
            Err(error) => unreachable!("the workload stays within the limits: {error}"),
        }
    }

    /// A client hears what came of one try: `lsn` is where the request was executed.
    pub(super) fn hear(
        &mut self,
        write: u64,
        (epoch, lsn): (Epoch, Lsn),
        outcome: Option<Outcome>,
    ) -> Result<Heard, Violation> {
        if let Some(index) = self.openings.remove(&write) {
            if let Some(client) = self.clients.get_mut(index) {
                client.is_opening = false;
                client.id = outcome.map(|_| session_id(SHARD, epoch, lsn));
            }
            return Ok(Heard::Nothing);
        }
        let Some((index, number)) = self.requests.get(&write).copied() else { return Ok(Heard::NotMine) };
        let Some(client) = self.clients.get_mut(index) else { return Ok(Heard::NotMine) };
        let told = || format!("request {number} of session {index} (write {write})");
        let outcome = match outcome {
            Some(Outcome::Rejected(Rejection::OutOfOrder { .. })) | None => {
                if let Some(waiting) = client.waiting.get_mut(&number) {
                    waiting.is_under_way = false;
                }
                return Ok(Heard::Nothing);
            }
            Some(Outcome::Rejected(Rejection::Retired)) if client.answers.contains_key(&number) => {
                return Ok(Heard::Nothing);
            }
            Some(Outcome::Rejected(rejection)) if !rejection.is_final() => {
                return Err(Violation::new("I5", format!("{} hears: {rejection}", told())));
            }
            Some(outcome) => outcome,
        };
        if let Some(first) = client.answers.get(&number) {
            if *first == (lsn, outcome) {
                return Ok(Heard::Nothing);
            }
            let what = format!("{} hears {outcome:?} at LSN {lsn}, and heard {first:?} before", told());
            return Err(Violation::new("I5", what));
        }
        let before = client.answers.range(..number).next_back().map_or(Lsn::ZERO, |(_, (lsn, _))| *lsn);
        let behind = client.answers.range(number..).next().map_or(Lsn::MAX, |(_, (lsn, _))| *lsn);
        if lsn <= before || lsn >= behind {
            let what = format!("{} was executed at LSN {lsn}, its neighbours at {before} and {behind}", told());
            return Err(Violation::new("I6", what));
        }
        client.answers.insert(number, (lsn, outcome));
        client.waiting.remove(&number);
        Ok(Heard::Answer)
    }
}

fn control(record: &ControlRecord, write: u64) -> Option<Submission<u64>> {
    record.encode().ok().map(|bytes| Submission::control(bytes, write))
}

fn take(next: &mut u64) -> u64 {
    let number = *next;
    *next += 1;
    number
}
