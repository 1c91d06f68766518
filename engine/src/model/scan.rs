//! Which keys a reader wants to see, and how it goes on.

use super::codec::{Decode, Encode};
use bytes::Bytes;
use std::ops::{Bound, RangeBounds};

/// A stretch of keys, in one direction, a page at a time.
///
/// ```
/// use towline::model::Scan;
/// let users = Scan::prefix("user-").limit(100);
/// let newest = Scan::range("2013-01"..="2013-06").reverse().limit(10);
/// # let _ = (users, newest, Scan::all());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[must_use = "a scan reads nothing until it is asked of a namespace"]
pub struct Scan {
    /// The first key wanted.
    pub(crate) start: Vec<u8>,
    /// The first key beyond; none: to the end.
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) reverse: bool,
    pub(crate) entries_max: usize,
    pub(crate) bytes_max: usize,
}

/// Entries of one page, unless it is asked otherwise.
pub const SCAN_ENTRIES_DEFAULT: usize = 1000;
/// Bytes of one page, unless it is asked otherwise: one entry is always returned whole.
pub const SCAN_BYTES_DEFAULT: usize = 4 * 1024 * 1024;

/// One key with what it holds.
///
/// ```
/// use towline::model::Scan;
/// use towline::state::scan_values;
/// # use towline::model::{Outcome, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// # for key in ["user-1", "user-2", "user-3", "visitor-1"] {
/// #     apply(&mut applier, Write::new().put(key, "x"))?;
/// # }
/// # let view = applier.store();
/// let page = scan_values(view, namespace, &Scan::prefix("user-").reverse().limit(1))?;
/// let last = &page.entries[0];
/// assert_eq!((last.key.as_ref(), last.value.as_ref()), (&b"user-3"[..], &b"x"[..]));
/// assert_eq!(last.version, 3, "set by the third write");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its version: the LSN of the write that set it.
    pub version: u64,
    /// Its value.
    pub value: Bytes,
}

/// Some entries of a scan. They share one piece of memory: whoever keeps a few of many copies them.
///
/// ```
/// use towline::model::Scan;
/// use towline::state::scan_values;
/// # use towline::model::{Outcome, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// # for key in ["user-1", "user-2", "user-3", "visitor-1"] {
/// #     apply(&mut applier, Write::new().put(key, "x"))?;
/// # }
/// # let view = applier.store();
/// let (mut scan, mut keys, mut pages) = (Some(Scan::prefix("user-").limit(2)), vec![], 0);
/// while let Some(wanted) = scan {
///     let page = scan_values(view, namespace, &wanted)?;
///     keys.extend(page.entries.into_iter().map(|entry| entry.key));
///     (scan, pages) = (page.next, pages + 1);
/// }
/// assert_eq!((keys.len(), pages), (3, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The entries, in the direction asked.
    pub entries: Vec<KeyValue>,
    /// The scan that goes on behind them; none: that was all.
    pub next: Option<Scan>,
}

impl Scan {
    /// All keys.
    pub const fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
            reverse: false,
            entries_max: SCAN_ENTRIES_DEFAULT,
            bytes_max: SCAN_BYTES_DEFAULT,
        }
    }

    /// The keys that begin with this.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let start = prefix.as_ref().to_vec();
        Self { end: after_prefix(&start), start, ..Self::all() }
    }

    /// The keys within these bounds.
    pub fn range<K: AsRef<[u8]>>(range: impl RangeBounds<K>) -> Self {
        // Nothing lies between a key and the same with a zero behind it.
        let next = |key: &K| [key.as_ref(), &[0]].concat();
        let start = match range.start_bound() {
            Bound::Included(key) => key.as_ref().to_vec(),
            Bound::Excluded(key) => next(key),
            Bound::Unbounded => Vec::new(),
        };
        let end = match range.end_bound() {
            Bound::Included(key) => Some(next(key)),
            Bound::Excluded(key) => Some(key.as_ref().to_vec()),
            Bound::Unbounded => None,
        };
        Self { start, end, ..Self::all() }
    }

    /// From the last key to the first.
    pub const fn reverse(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }

    /// At most so many entries a page, one at the least.
    pub const fn limit(mut self, entries_max: usize) -> Self {
        self.entries_max = if entries_max == 0 { 1 } else { entries_max };
        self
    }

    /// At most about so many bytes a page; one entry is always returned whole.
    pub const fn bytes(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// The same, of no more than this.
    #[cfg(feature = "cluster")]
    pub(crate) fn clamped(mut self, entries_max: usize, bytes_max: usize) -> Self {
        self.entries_max = self.entries_max.clamp(1, entries_max);
        self.bytes_max = self.bytes_max.min(bytes_max);
        self
    }

    /// The same, behind a key that was seen.
    pub(crate) fn behind(&self, key: &[u8]) -> Self {
        let mut rest = self.clone();
        if self.reverse {
            rest.end = Some(key.to_vec());
        } else {
            rest.start = [key, &[0]].concat();
        }
        rest
    }
}

/// The first key behind all that begin with this; none: there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_the_keys_with_the_prefix_lie_between_it_and_its_end(
            prefix in prop::collection::vec(prop_oneof![Just(0xff_u8), Just(0), any::<u8>()], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0xff_u8), Just(0), any::<u8>()], 0..6),
        ) {
            let within = key >= prefix && after_prefix(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(within, key.starts_with(&prefix));
        }
    }

    #[test]
    fn bounds_of_any_kind_say_the_first_key_and_the_first_beyond() {
        let bounds = |scan: Scan| (scan.start, scan.end);
        assert_eq!(bounds(Scan::range("a".."c")), (b"a".to_vec(), Some(b"c".to_vec())));
        assert_eq!(bounds(Scan::range("a"..="c")), (b"a".to_vec(), Some(b"c\0".to_vec())));
        let behind = (Bound::Excluded("a"), Bound::<&str>::Unbounded);
        assert_eq!(bounds(Scan::range::<&str>(behind)), (b"a\0".to_vec(), None));
        assert_eq!(bounds(Scan::range::<&str>(..)), (Vec::new(), None));
    }
}
