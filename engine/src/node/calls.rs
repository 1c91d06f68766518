//! What clients ask of namespaces, asked of the node as the embedding program asks it.

use super::failure;
use super::{Error, Namespace, Node};
use crate::model::call::{Answer, Call};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::Failure;
use crate::model::{NamespaceOptions, Read, SessionState};
use std::collections::BTreeMap;
use std::time::Duration;

/// Events, entries or keys of one answer at the most, whatever the client asks.
pub(super) const ITEMS_MAX: usize = 10_000;
/// Bytes of events or entries of one answer at the most (one is always sent whole).
pub(super) const ITEMS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// Who is asked: the node, and a namespace of it by name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) node: &'a Node,
    pub(super) name: &'a str,
    /// How long a read waits for a position that it must show.
    pub(super) within: Duration,
}

impl Asked<'_> {
    fn space(&self) -> Result<Namespace, Failure> {
        Ok(self.node.namespace(self.name).map_err(of)?.reading_within(self.within))
    }

    /// Everything but writes, which wait in a queue first. It reads the disk, and waits.
    pub(super) fn answer(self, call: Call) -> Result<Answer, Failure> {
        match call {
            Call::Write { .. } => Err(failure::bad_request("a write is answered in its turn")),
            Call::MultiGet { keys, read } => self.multi_get(&keys, at(read)?),
            Call::Scan { scan, read } => {
                let scan = scan.clamped(ITEMS_MAX, ITEMS_BYTES_MAX);
                let page = self.space()?.scan(&scan, at(read)?).map_err(of)?;
                let entries =
                    page.entries.into_iter().map(|entry| (entry.key.into(), entry.version, entry.value.into()));
                Ok(Answer::Page { entries: entries.collect(), next: page.next })
            }
            Call::ReadStream { stream, from, direction, events_max, bytes_max, read } => {
                let bounds = ((events_max as usize).min(ITEMS_MAX), (bytes_max as usize).min(ITEMS_BYTES_MAX));
                let read = self.space()?.read_stream(&stream, from, direction, bounds, at(read)?).map_err(of)?;
                Ok(Answer::Events { events: read.events, head: read.head, more: read.more })
            }
            Call::Token => {
                let token = self.space()?.token().encode();
                token.map(|bytes| Answer::Token(bytes.into())).map_err(|error| failure::bad_request(&error.to_string()))
            }
            Call::OpenSession | Call::CloseSession { .. } if !self.node.is_serving() => {
                Err(failure::not_serving(self.node, self.node.shared.host.leader))
            }
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
            Call::Describe => Ok(Answer::Namespace(self.space()?.descriptor())),
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

    fn multi_get(self, keys: &[Vec<u8>], read: Read) -> Result<Answer, Failure> {
        if keys.len() > ITEMS_MAX {
            let sentence = format!("one request may ask for {ITEMS_MAX} keys, this asks for {}", keys.len());
            return Err(failure::bad_request(&sentence));
        }
        let found = self.space()?.multi_get_within(keys, read, ITEMS_BYTES_MAX).map_err(of)?;
        let too_much = || format!("one answer may hold {ITEMS_BYTES_MAX} bytes of values: ask for fewer keys");
        let found = found.ok_or_else(|| failure::bad_request(&too_much()))?;
        let values = found.into_iter().map(|found| found.map(|found| (found.version, found.value.into())));
        Ok(Answer::Values(values.collect()))
    }
}

fn at(read: crate::model::call::ReadAt) -> Result<Read, Failure> {
    Read::try_from(read).map_err(|error| failure::bad_request(&error.to_string()))
}

/// As the embedding program hears it: the same code, the same class.
pub(super) fn of(error: impl Into<Error>) -> Failure {
    failure::of(&error.into())
}
