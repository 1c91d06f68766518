//! What a client is told when something fails: a stable code, what it can do, a sentence.
//!
//! | code | class | meaning |
//! |---|---|---|
//! | TW-1001 | re-route | another node leads |
//! | TW-1002 | retry | this node leads, and does not take writes yet |
//! | TW-1003 | retry | the queue is full |
//! | TW-1004 | retry | the outcome of a write is unknown: it may or may not have taken effect |
//! | TW-1005 | retry | the node is closing |
//! | TW-2001 | fix the request | the request is not legal |
//! | TW-2002 | fix the request | there is no such namespace |
//! | TW-4001 | operator | the state can't be read |

use super::{NAMESPACE_NAME, Node, WriteRefused};
use crate::model::NodeId;
use crate::model::request::{Failure, FailureClass};
use crate::pipeline::{SubmitError, WriteError};
use crate::state::StoreError;

fn failure(code: u16, class: FailureClass, message: String) -> Failure {
    Failure { code, class, no_side_effects: true, message, leader: None }
}

pub(super) fn unknown_namespace(name: &str) -> Failure {
    let message = format!("there is no namespace {name:?}; this release has one, {NAMESPACE_NAME:?}");
    failure(2002, FailureClass::FixRequest, message)
}

pub(super) fn bad_request(what: &str) -> Failure {
    failure(2001, FailureClass::FixRequest, what.to_owned())
}

pub(super) fn closing() -> Failure {
    failure(1005, FailureClass::Retry, "the node is closing".into())
}

pub(super) fn storage(error: &StoreError) -> Failure {
    failure(4001, FailureClass::Operator, error.to_string())
}

pub(super) fn not_serving(node: &Node, leader: NodeId) -> Failure {
    if leader == node.identity().node {
        let message = format!("node {leader} leads, and does not take writes yet: it waits for a majority");
        return failure(1002, FailureClass::Retry, message);
    }
    let message = format!("node {} follows; node {leader} leads", node.identity().node);
    Failure { leader: Some(leader), ..failure(1001, FailureClass::ReRoute, message) }
}

pub(super) fn refused(refused: &WriteRefused) -> Failure {
    match refused {
        WriteRefused::Submit(SubmitError::Closed) => closing(),
        WriteRefused::Submit(error) => failure(1003, FailureClass::Retry, error.to_string()),
        other => bad_request(&other.to_string()),
    }
}

pub(super) fn write(error: &WriteError) -> Failure {
    match error {
        WriteError::Closed => closing(),
        error => Failure { no_side_effects: false, ..failure(1004, FailureClass::Retry, error.to_string()) },
    }
}
