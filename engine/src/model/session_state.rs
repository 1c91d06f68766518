//! [`SessionState`]: what a client keeps of a session, and its form as text.

use super::codec::{self, CodecError, Decode, Encode, Enveloped};
use super::ids::ShardId;
use super::limits::{REQUESTS_WAITING_MAX, SHARDS_MAX};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// All that is needed to go on with a session. As text it can be kept in a file or a row, with the requests that wait.
///
/// Two must not go on from one state: they would use the same numbers. Of two different requests by one number in one shard
/// the second is refused ([`Rejection::NumberReused`](crate::model::Rejection::NumberReused)); of two that are alike, or in two
/// shards, nobody can tell.
///
/// ```
/// use towline::model::{Expect, Write};
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let bank = node.default_namespace();
/// let (session, write) = (bank.open_session()?, Write::new().append("account", Expect::Any, "+10"));
/// let number = session.next_number()?;
/// let kept = session.state().to_string();
/// let first = session.retry(number, &write)?.wait()?;
/// // After a crash of this program, that kept the text and the write somewhere:
/// let again = bank.resume_session(kept.parse()?).retry(number, &write)?.wait()?;
/// assert_eq!(again, first, "executed once");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// What each shard calls it.
    pub ids: BTreeMap<ShardId, u128>,
    /// The first number that was never used; none: no number is left.
    pub next: Option<u64>,
    /// The requests that have no answer yet: they can be tried again. With each, where it was submitted; none: nowhere yet.
    pub waiting: BTreeMap<u64, Option<Sent>>,
    /// The newest request of each shard.
    pub last: BTreeMap<ShardId, u64>,
}

/// Where a request was submitted: each further try goes there, behind the same one.
///
/// ```
/// use towline::model::{Expect, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let bank = node.default_namespace();
/// let session = bank.open_session()?;
/// let paid_in = session.write(Write::new().append("account-7", Expect::Any, "+10"))?;
/// let paid_out = session.write(Write::new().append("account-7", Expect::Any, "-10"))?;
/// // Whoever goes on from this state tries each again in the shard where it was, and never the second before the first.
/// let waiting = session.state().waiting;
/// let sent = waiting[&paid_out.number()].expect("it was submitted");
/// assert_eq!(sent.after, paid_in.number());
/// assert_eq!(paid_out.wait()?.shard, sent.shard);
/// # paid_in.wait()?;
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The shard.
    pub shard: ShardId,
    /// The request of the session that comes before it there; 0: none.
    pub after: u64,
}

/// What the text of a state begins with.
const PREFIX: &str = "towline-session-";

/// A text that is no session's state (TW-5522): hand on the whole text of one, as it is.
///
/// ```
/// use std::collections::BTreeMap;
/// use towline::node::{SessionState, SessionStateError};
/// let state = SessionState { ids: BTreeMap::new(), next: Some(1), waiting: BTreeMap::new(), last: BTreeMap::new() };
/// let text = state.to_string();
/// assert_eq!(text.parse(), Ok(state));
/// assert_eq!("session=1".parse::<SessionState>(), Err(SessionStateError::Text));
/// let cut = &text[..text.len() - 2];
/// assert!(matches!(cut.parse::<SessionState>(), Err(SessionStateError::Bytes(_))), "the envelope notices");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionStateError {
    /// It is no text of one.
    #[error("a session's state is `{PREFIX}` and an even number of hexadecimal digits")]
    Text,
    /// Its bytes are none of one.
    #[error("the session's state can't be read: {0}")]
    Bytes(#[from] CodecError),
    /// A shard or a number twice, or not ascending.
    #[error("the session's state names its shards or its requests out of order")]
    Order,
}

impl SessionStateError {
    /// Its stable code: `TW-` and these four digits.
    pub const CODE: u16 = 5522;
}

/// The layout, version 1. Ids: shard, its name of the session. Waiting: number, shard and request before it. Last: shard,
/// number. All ascend by what comes first.
#[derive(Encode, Decode)]
struct SessionStateV1 {
    ids: Vec<(ShardId, u128)>,
    next: Option<u64>,
    waiting: Vec<(u64, Option<(ShardId, u64)>)>,
    last: Vec<(ShardId, u64)>,
}

impl Enveloped for SessionStateV1 {
    const KIND: u16 = 0x0702;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64 + 64 * SHARDS_MAX + 32 * REQUESTS_WAITING_MAX as usize;
}

/// Fails for a state that no session can have: of more shards or waiting requests than there may be.
impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.iter().map(|(number, sent)| (*number, sent.map(|sent| (sent.shard, sent.after))));
        let state = SessionStateV1 {
            ids: self.ids.iter().map(|(shard, id)| (*shard, *id)).collect(),
            next: self.next,
            waiting: waiting.collect(),
            last: self.last.iter().map(|(shard, number)| (*shard, *number)).collect(),
        };
        codec::write_text(f, PREFIX, &state)
    }
}

impl FromStr for SessionState {
    type Err = SessionStateError;

    fn from_str(text: &str) -> Result<Self, SessionStateError> {
        let bytes = codec::bytes_of_text(PREFIX, text).ok_or(SessionStateError::Text)?;
        let SessionStateV1 { ids, next, waiting, last } = codec::decode(&bytes)?;
        let are_in_order = ids.is_sorted_by(|(one, _), (other, _)| one < other)
            && waiting.is_sorted_by(|(one, _), (other, _)| one < other)
            && last.is_sorted_by(|(one, _), (other, _)| one < other);
        if !are_in_order {
            return Err(SessionStateError::Order);
        }
        let sent = |sent: Option<(ShardId, u64)>| sent.map(|(shard, after)| Sent { shard, after });
        let waiting = waiting.into_iter().map(|(number, found)| (number, sent(found)));
        Ok(Self { ids: ids.into_iter().collect(), next, waiting: waiting.collect(), last: last.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> SessionState {
        let (one, two) = (ShardId::new(1024), ShardId::new(2048));
        SessionState {
            ids: BTreeMap::from([(one, 7 << 64 | 1), (two, 9)]),
            next: Some(6),
            waiting: BTreeMap::from([(3, Some(Sent { shard: one, after: 1 })), (5, None)]),
            last: BTreeMap::from([(one, 3), (two, 4)]),
        }
    }

    prop_compose! {
        fn any_state()(
            ids in prop::collection::btree_map(any::<u64>().prop_map(ShardId::new), any::<u128>(), 0..8),
            next in any::<Option<u64>>(),
            waiting in prop::collection::btree_map(any::<u64>(), any::<Option<(u64, u64)>>(), 0..40),
            last in prop::collection::btree_map(any::<u64>().prop_map(ShardId::new), any::<u64>(), 0..8),
        ) -> SessionState {
            let sent = |(shard, after)| Sent { shard: ShardId::new(shard), after };
            let waiting = waiting.into_iter().map(|(number, found)| (number, found.map(sent))).collect();
            SessionState { ids, next, waiting, last }
        }
    }

    #[test]
    fn a_sessions_text_is_written_and_read_as_the_golden_file_says() {
        let file = crate::golden::check("session.txt", state().to_string().as_bytes());
        let text = String::from_utf8(file).unwrap();
        assert_eq!(text.parse(), Ok(state()));
        let token = crate::model::Token::default().to_string();
        for wrong in [&text[1..], &text[..text.len() - 1], &format!("{PREFIX}\u{e9}"), &token, ""] {
            assert_eq!(wrong.parse::<SessionState>(), Err(SessionStateError::Text), "{wrong}");
        }
        for wrong in [PREFIX, &text[..text.len() - 2], &text.replace("09", "08"), &format!("{text}00")] {
            assert!(matches!(wrong.parse::<SessionState>(), Err(SessionStateError::Bytes(_))), "{wrong}");
        }
    }

    #[test]
    fn a_text_that_names_a_number_twice_is_refused() {
        let twice =
            SessionStateV1 { ids: Vec::new(), next: None, waiting: vec![(1, None), (1, None)], last: Vec::new() };
        let digits: String = codec::encode(&twice).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("{PREFIX}{digits}").parse::<SessionState>(), Err(SessionStateError::Order));
    }

    #[test]
    fn the_largest_state_that_a_session_can_have_has_a_text() {
        let shards = || (0..SHARDS_MAX as u64).map(ShardId::new);
        let sent = Some(Sent { shard: ShardId::new(1), after: u64::MAX });
        let state = SessionState {
            ids: shards().map(|shard| (shard, u128::MAX)).collect(),
            next: None,
            waiting: (0..REQUESTS_WAITING_MAX).map(|number| (u64::MAX - number, sent)).collect(),
            last: shards().map(|shard| (shard, u64::MAX)).collect(),
        };
        assert_eq!(state.to_string().parse(), Ok(state));
    }

    proptest! {
        #[test]
        fn any_state_reads_back_as_it_was_written(state in any_state()) {
            prop_assert_eq!(state.to_string().parse::<SessionState>(), Ok(state));
        }

        #[test]
        fn any_text_is_a_state_or_refused(text in "(towline-session-)?[0-9a-f]{0,200}", flipped in 0..160_usize) {
            prop_assert!(text.parse::<SessionState>().is_err(), "no checksum fits by chance");
            let mut bytes = state().to_string().into_bytes();
            let at = PREFIX.len() + flipped;
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            prop_assert!(String::from_utf8(bytes).unwrap().parse::<SessionState>().is_err());
        }
    }
}
