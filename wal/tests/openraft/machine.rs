//! A state machine in memory, for openraft's suite and for a node.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StoredMembership,
};
use parking_lot::Mutex;

use super::{Failed, Types};

#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    pub(crate) applied: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, BasicNode>,
    pub(crate) texts: Vec<String>,
}

/// A snapshot: what it is of, and its bytes.
type Taken = (SnapshotMeta<u64, BasicNode>, Vec<u8>);

/// The state machine: all texts in their order, in memory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Machine {
    pub(crate) content: Arc<Mutex<Content>>,
    snapshot: Arc<Mutex<Option<Taken>>>,
}

fn snapshot(meta: SnapshotMeta<u64, BasicNode>, bytes: Vec<u8>) -> Snapshot<Types> {
    Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failed> {
        let Content { applied, membership, texts } = self.content.lock().clone();
        let snapshot_id = format!("{applied:?}");
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id };
        let bytes = texts.join("\n").into_bytes();
        *self.snapshot.lock() = Some((meta.clone(), bytes.clone()));
        Ok(snapshot(meta, bytes))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Failed> {
        let content = self.content.lock();
        Ok((content.applied, content.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<u64>, Failed>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut content = self.content.lock();
        let mut answers = Vec::new();
        for entry in entries {
            content.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(text) => content.texts.push(text),
                EntryPayload::Membership(membership) => {
                    content.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(entry.log_id.index);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failed> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        from: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failed> {
        let bytes = from.into_inner();
        let texts = String::from_utf8(bytes.clone()).unwrap().lines().map(str::to_owned).collect();
        let membership = meta.last_membership.clone();
        *self.content.lock() = Content { applied: meta.last_log_id, membership, texts };
        *self.snapshot.lock() = Some((meta.clone(), bytes));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failed> {
        Ok(self.snapshot.lock().clone().map(|(meta, bytes)| snapshot(meta, bytes)))
    }
}
