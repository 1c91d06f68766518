//! Planted bugs: what keeps strangers out, removed by a test one rule at a time, to see that something notices.
//!
//! A rule without a mutant that dies is a rule without a test. The switch exists only with the feature
//! `mutants` (never in a release); without it [`planted`] is a constant `false` and costs nothing.

/// A rule that can be removed. Its text says what the code then does.
///
/// ```
/// use towline_net::mutant::{Mutant, planted};
/// assert!(Mutant::ALL.into_iter().all(|mutant| !planted(mutant)), "unless a test plants one");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mutant {
    /// I12: a Hello may say another identity than the certificate behind it.
    AnyHello,
    /// I12: certificates are of whatever authority.
    AnyAuthority,
    /// I12: an authority that is believed by two clusters lets those of one into the other.
    AnyCluster,
    /// I12: certificates are judged by a clock that stood still, on the first of January 2000: those that ended since hold.
    StoppedClock,
    /// I12: who is revoked is let in.
    IgnoreRevoked,
    /// I12: who was let in before it was revoked stays.
    KeepRevoked,
    /// I12: the first frame may be as long as those of a peer that is known.
    LongHello,
    /// I12: who says nothing is waited for without end.
    PatientGreeting,
    /// I12: of strangers there may be any number.
    AnyNumberOfStrangers,
}

impl Mutant {
    /// All of them, in the order of the enumeration.
    pub const ALL: [Self; 9] = [
        Self::AnyHello,
        Self::AnyAuthority,
        Self::AnyCluster,
        Self::StoppedClock,
        Self::IgnoreRevoked,
        Self::KeepRevoked,
        Self::LongHello,
        Self::PatientGreeting,
        Self::AnyNumberOfStrangers,
    ];
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Plants one bug in this thread, or none.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    /// Whether this bug is planted in this thread.
    #[must_use]
    pub fn planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(not(feature = "mutants"))]
mod switch {
    use super::Mutant;

    /// Whether this bug is planted: never, in this build.
    #[must_use]
    #[inline]
    pub const fn planted(_mutant: Mutant) -> bool {
        false
    }
}

pub use switch::*;
