//! What a client is told when something fails: a stable code, what it can do, a sentence.
//!
//! | code | class | meaning |
//! |---|---|---|
//! | TW-8001 | re-route | another node leads |
//! | TW-8002 | retry | this node leads, and does not take writes yet |
//! | TW-8003 | retry | the queue is full |
//! | TW-8004 | retry | the outcome of a write is unknown: it may or may not have taken effect |
//! | TW-8005 | retry | the node is closing |
//! | TW-8006 | retry | there are too many feeds |
//! | TW-8007 | fix the request | the client is not allowed to do that |
//! | TW-8008 | fix the request | the request is of a newer release: it is not understood here |
//! | TW-8009 | retry | the request was cancelled before it began |
//! | TW-8020 | retry | too many snapshots are held |
//! | TW-8021 | fix the request | the snapshot is not held, or not any more: open another one |
//! | TW-8030 to TW-8034 | | of an assignment by hand: the table of `AssignError` in `node/assigning.rs` |
//! | TW-8035 | fix the request | what is asked is of several shards, and several nodes lead them: ask for each by itself |
//! | TW-8101 | fix the request | the request is not legal |
//! | TW-8102 | fix the request | there is no such namespace |
//! | TW-8201 | operator | the state can't be read |
//! | TW-8202 | operator | the disk of the log or of the state is full: writes wait for room |

#[cfg(feature = "cluster")]
use super::access::Action;
use super::assigning::AssignError;
use super::held::{SNAPSHOT_IDLE_MAX, SNAPSHOTS_MAX, SNAPSHOTS_OF_A_CLIENT};
use super::hosting::ShardHandle;
use super::{Error, FeedError, NamespaceError, Node, ReadError, SessionError, WriteRefused};
use crate::model::NodeId;
use crate::model::request::{Failure, FailureClass, code};
use crate::pipeline::{SubmitError, WriteError};
use std::collections::BTreeSet;

/// Feeds of all clients: each keeps log, and a megabyte on its way.
#[cfg(feature = "cluster")]
pub(super) const FEEDS_MAX: usize = 1024;

fn failure(code: u16, class: FailureClass, message: String) -> Failure {
    Failure { code, class, no_side_effects: true, message, leader: None }
}

pub(crate) fn unknown_namespace(name: &str) -> Failure {
    let message = format!("there is no namespace {name:?}");
    failure(8102, FailureClass::FixRequest, message)
}

pub(super) fn bad_request(what: &str) -> Failure {
    failure(8101, FailureClass::FixRequest, what.to_owned())
}

/// Nothing of what there is: the sentence is the same for a namespace that does not exist.
pub(super) fn not_allowed(action: &Action<'_>) -> Failure {
    failure(8007, FailureClass::FixRequest, format!("this client is not allowed to {action}"))
}

pub(super) fn not_understood() -> Failure {
    let message =
        format!("release {} does not understand this request: it is of a newer one", env!("CARGO_PKG_VERSION"));
    failure(8008, FailureClass::FixRequest, message)
}

pub(super) fn cancelled() -> Failure {
    failure(8009, FailureClass::Retry, "the request was cancelled before it began".into())
}

pub(super) fn too_many_feeds() -> Failure {
    let message = format!("the server has {FEEDS_MAX} feeds already: try again later, or at another server");
    failure(8006, FailureClass::Retry, message)
}

pub(super) fn too_many_snapshots() -> Failure {
    let message = format!(
        "{SNAPSHOTS_MAX} snapshots are held already, or {SNAPSHOTS_OF_A_CLIENT} by this client: close some, or try again later"
    );
    failure(8020, FailureClass::Retry, message)
}

pub(super) fn no_such_snapshot() -> Failure {
    let message = format!(
        "the snapshot is not held any more: it was closed, the node closes, or nobody looked for {} s",
        SNAPSHOT_IDLE_MAX.as_secs()
    );
    failure(8021, FailureClass::FixRequest, message)
}

/// It may have been done.
pub(crate) fn unknown() -> Failure {
    let message = "there was no end to it: it may have been done, or not".into();
    Failure { no_side_effects: false, ..failure(8004, FailureClass::Retry, message) }
}

pub(super) fn closing() -> Failure {
    failure(code::CLOSING, FailureClass::Retry, "the node is closing".into())
}

pub(super) fn read(error: &ReadError) -> Failure {
    match error {
        ReadError::Closed => closing(),
        ReadError::Key { .. } => bad_request(&error.to_string()),
        _ => failure(8201, FailureClass::Operator, error.to_string()),
    }
}

/// What the embedding program would hear, with the code and the class that it has there.
///
/// But that the node is closed: its own program opens it again; a client finds it back, or another one that leads.
pub(super) fn of(error: &Error) -> Failure {
    let is_closed = match error {
        Error::Read(read) | Error::Feed(FeedError::Read(read)) => matches!(read, ReadError::Closed),
        Error::Namespace(namespace) => matches!(namespace, NamespaceError::Closed),
        Error::Refused(refused) | Error::Session(SessionError::Refused(refused)) => {
            matches!(refused, WriteRefused::Submit(SubmitError::Closed))
        }
        Error::Write(write) | Error::Session(SessionError::Write(write)) => matches!(write, WriteError::Closed),
        _ => false,
    };
    if is_closed {
        // A namespace may have been made by then.
        return Failure { no_side_effects: !matches!(error, Error::Namespace(_)), ..closing() };
    }
    let leader = match error {
        Error::Refused(WriteRefused::NotLeader(leader)) => Some(*leader),
        Error::Read(ReadError::NotLeader(leader)) | Error::Feed(FeedError::Read(ReadError::NotLeader(leader))) => {
            Some(*leader)
        }
        _ => None,
    };
    let no_side_effects = error.has_no_side_effects();
    Failure { no_side_effects, leader, ..failure(error.code(), error.class(), error.to_string()) }
}

pub(super) fn not_serving(node: &Node, shard: &ShardHandle) -> Failure {
    let this = node.identity().node;
    match shard.positions.leader() {
        Some(leader) if leader == this => {
            let message = format!("node {leader} leads, and does not take writes yet: it waits for a majority");
            failure(code::NOT_SERVING, FailureClass::Retry, message)
        }
        Some(leader) => {
            let message = format!("node {this} follows; node {leader} leads");
            Failure { leader: Some(leader), ..failure(8001, FailureClass::ReRoute, message) }
        }
        None => {
            let message = format!("node {this} does not lead any more, and does not know yet who does");
            failure(code::NOT_SERVING, FailureClass::Retry, message)
        }
    }
}

/// Several nodes lead what it is about.
pub(super) fn led_by_several(namespace: &str, leaders: &BTreeSet<NodeId>) -> Failure {
    let leaders = leaders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!(
        "the shards of {namespace:?} are led by several nodes ({leaders}), and this is asked of them together: ask for keys of one shard, \
         or read at a position, or eventually"
    );
    failure(8035, FailureClass::FixRequest, message)
}

/// It is not done, or not yet.
pub(super) fn not_assigned(error: &AssignError) -> Failure {
    let no_side_effects = error.has_no_side_effects();
    Failure { no_side_effects, ..failure(error.code(), error.class(), error.to_string()) }
}

pub(crate) fn refused(refused: &WriteRefused) -> Failure {
    match refused {
        WriteRefused::Submit(SubmitError::Closed) => closing(),
        WriteRefused::Submit(SubmitError::DiskFull(_)) => failure(8202, FailureClass::Operator, refused.to_string()),
        WriteRefused::Submit(error) => failure(8003, FailureClass::Retry, error.to_string()),
        WriteRefused::NotLeader(leader) => {
            Failure { leader: Some(*leader), ..failure(8001, FailureClass::ReRoute, refused.to_string()) }
        }
        WriteRefused::Stopped { .. } => failure(8201, FailureClass::Operator, refused.to_string()),
        other => bad_request(&other.to_string()),
    }
}

pub(super) fn write(error: &WriteError) -> Failure {
    match error {
        WriteError::Closed => closing(),
        WriteError::NotLeader => failure(8001, FailureClass::ReRoute, error.to_string()),
        error => Failure { no_side_effects: false, ..failure(8004, FailureClass::Retry, error.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeId, ShardId};
    use crate::pipeline::{Ready, SubmissionQueue};

    /// A write at a follower was answered as a bad request, so that its client gave up instead of asking the leader.
    #[test]
    fn a_write_at_a_follower_is_sent_to_the_leader() {
        let failure = refused(&WriteRefused::NotLeader(NodeId::new(2)));
        assert_eq!((failure.code, failure.class, failure.leader), (8001, FailureClass::ReRoute, Some(NodeId::new(2))));
        let queue = SubmissionQueue::<()>::new(1, 1, Ready::new().bell(ShardId::new(1)));
        assert_eq!(refused(&SubmitError::from(queue.busy(7)).into()).code, 8003);
        assert_eq!(refused(&WriteRefused::NeedsOutcome).class, FailureClass::FixRequest);
    }

    /// Without the name a client would ask the same node until its time is over.
    #[test]
    fn whoever_is_sent_on_hears_to_whom() {
        let leader = NodeId::new(2);
        let read = || ReadError::NotLeader(leader);
        let errors = [Error::Refused(WriteRefused::NotLeader(leader)), read().into(), FeedError::Read(read()).into()];
        for error in errors {
            let failure = of(&error);
            assert_eq!((failure.class, failure.leader), (FailureClass::ReRoute, Some(leader)), "{error}");
        }
    }
}
