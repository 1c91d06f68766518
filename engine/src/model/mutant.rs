//! Planted bugs: rules of the protocol that a test can remove, to see that something notices.
//!
//! A rule without a mutant that dies is a rule without a test. The switch exists only with the feature
//! `mutants` (never in a release); without it [`planted`] is a constant `false` and costs nothing.

/// A rule that can be removed. Its text says what the code then does.
///
/// ```
/// use towline::model::mutant::{Mutant, planted};
/// let named = |name: &str| Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
/// assert_eq!(named("skip-chain-check"), Some(Mutant::SkipChainCheck));
/// assert!(Mutant::ALL.into_iter().all(|mutant| !planted(mutant)), "unless a test plants one");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mutant {
    /// I2: a follower takes batches whose predecessor is not the one in its own log.
    SkipChainCheck,
    /// I1: a leader commits what its own disk alone holds.
    CommitWithoutMajority,
    /// I1: a follower acknowledges what it received, before its sync returned.
    AcknowledgeBeforeSync,
    /// I1: a new leader keeps its own log instead of the best one among the promises.
    SkipAdoption,
    /// I4: a restarted replica applies its log from the start over the state it finds.
    ApplyTwice,
    /// I3: a replica accepts batches of an epoch older than its promise.
    IgnorePromise,
    /// I1: a leader commits before its activation was accepted.
    CommitBeforeActivation,
    /// I5: a request that was executed is executed again when it is tried again.
    ExecuteAgain,
    /// I6: a request is executed before the one of its session that comes before it.
    Overtake,
    /// Linearizability: a leader serves a read before a majority has confirmed that it promised nothing newer.
    ReadUnconfirmed,
    /// I3: a follower says its promise before it is durable.
    SkipPromiseSync,
    /// I1, I3: a new leader waits for no promise but its own.
    SkipFence,
    /// I1: a new leader counts the promises of its own voters, not of the last activated ones.
    FenceNewVoters,
    /// I1: the master has the voters of the last assignment fenced, though it was never activated.
    FenceAssigned,
    /// I1, I3: the master accepts the activation of an assignment that is not the newest.
    AcceptSuperseded,
    /// I1: a new leader takes over the longest log instead of the newest epoch's.
    LongestLog,
    /// I1: a new leader starts its epoch before it has fetched what it lacks.
    StartBeforeAdoption,
    /// I1, I3: a leader commits an older epoch's batch by its count, before its own epoch is activated.
    CommitOldEpoch,
    /// I1: a follower acknowledges what is durable, whether or not it equals the leader's log.
    AcknowledgeUnmatched,
    /// I2: a follower takes the leader's commit position for its own log, whether or not that equals the leader's.
    CommitUnmatched,
    /// I1: a follower takes what equalled an older epoch's log for what equals the new one's.
    KeepMatched,
    /// I1: a new leader counts the promise of a voter that may have lost the end of its log like any other.
    TrustDoubt,
    /// I1: a voter that may have lost the end of its log says no more so after its first promise.
    SettleEarly,
    /// I1, I3: what a node says counts though it has another disk than the one that has the vote.
    VoteAfterAmnesia,
    /// I1: where each node is its own master, a new leader counts promises by what its own log says of the votes, whatever others' say.
    CountByOwnLog,
    /// I1: a voter's disk is replaced by another at once, in one epoch.
    SwapVotes,
    /// Liveness: a leader that can't reach a majority goes on leading.
    NeverStepDown,
    /// I1: a leader that said that it leads no more goes on.
    LeadAfterSteppingDown,
    /// Liveness: who waits to read of a leader that leads no more hears nothing.
    ForgetReads,
    /// I7: a read that comes while a majority is asked counts what it said to those before.
    JoinRound,
    /// I7: what a follower knows is as new as the moment at which it heard of it.
    FreshWhenHeard,
    /// I5: a snapshot is taken without its sessions.
    ForgetSessions,
    /// I4: a snapshot is installed though nobody looked whether it is what was offered.
    TrustStaged,
    /// I1: a log is reset behind a snapshot before the state is durable.
    ResetEarly,
    /// I1: a log that is damaged at rest is cut off before the damage, as if that had never been there.
    TruncateDamage,
    /// I2: what comes for a damaged range is taken without a look at its chain, and given by who has another history.
    TrustMend,
    /// I1: a follower acknowledges past what it can't read.
    AcknowledgeDamaged,
    /// Liveness: a new leader starts its epoch on a log that it can't read.
    LeadDamaged,
    /// I1: a new leader cuts off what may be in the best log as well, where that is damaged and does not know itself what it held.
    CutOffUntold,
    /// I12: plain text is listened for, and spoken, beyond loopback, though nobody asked for it. The simulator has no sockets:
    /// tests of the client and of the node plant it.
    PlainTextAnywhere,
}

impl Mutant {
    /// All of them, in the order of the enumeration.
    pub const ALL: [Self; 40] = [
        Self::SkipChainCheck,
        Self::CommitWithoutMajority,
        Self::AcknowledgeBeforeSync,
        Self::SkipAdoption,
        Self::ApplyTwice,
        Self::IgnorePromise,
        Self::CommitBeforeActivation,
        Self::ExecuteAgain,
        Self::Overtake,
        Self::ReadUnconfirmed,
        Self::SkipPromiseSync,
        Self::SkipFence,
        Self::FenceNewVoters,
        Self::FenceAssigned,
        Self::AcceptSuperseded,
        Self::LongestLog,
        Self::StartBeforeAdoption,
        Self::CommitOldEpoch,
        Self::AcknowledgeUnmatched,
        Self::CommitUnmatched,
        Self::KeepMatched,
        Self::TrustDoubt,
        Self::SettleEarly,
        Self::VoteAfterAmnesia,
        Self::CountByOwnLog,
        Self::SwapVotes,
        Self::NeverStepDown,
        Self::LeadAfterSteppingDown,
        Self::ForgetReads,
        Self::JoinRound,
        Self::FreshWhenHeard,
        Self::ForgetSessions,
        Self::TrustStaged,
        Self::ResetEarly,
        Self::TruncateDamage,
        Self::TrustMend,
        Self::AcknowledgeDamaged,
        Self::LeadDamaged,
        Self::CutOffUntold,
        Self::PlainTextAnywhere,
    ];

    /// Whether it is a rule of the replicas' agreement, which exhaustive search looks at, and not of what is applied.
    #[must_use]
    pub const fn is_of_replica(self) -> bool {
        !matches!(
            self,
            Self::ApplyTwice
                | Self::ExecuteAgain
                | Self::Overtake
                | Self::ReadUnconfirmed
                | Self::NeverStepDown
                | Self::ForgetReads
                | Self::JoinRound
                | Self::FreshWhenHeard
                | Self::ForgetSessions
                | Self::TrustStaged
                | Self::ResetEarly
                | Self::PlainTextAnywhere
        )
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipChainCheck => "skip-chain-check",
            Self::CommitWithoutMajority => "commit-without-majority",
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::SkipAdoption => "skip-adoption",
            Self::ApplyTwice => "apply-twice",
            Self::IgnorePromise => "ignore-promise",
            Self::CommitBeforeActivation => "commit-before-activation",
            Self::ExecuteAgain => "execute-again",
            Self::Overtake => "overtake",
            Self::ReadUnconfirmed => "read-unconfirmed",
            Self::SkipPromiseSync => "skip-promise-sync",
            Self::SkipFence => "skip-fence",
            Self::FenceNewVoters => "fence-new-voters",
            Self::FenceAssigned => "fence-assigned",
            Self::AcceptSuperseded => "accept-superseded",
            Self::LongestLog => "longest-log",
            Self::StartBeforeAdoption => "start-before-adoption",
            Self::CommitOldEpoch => "commit-old-epoch",
            Self::AcknowledgeUnmatched => "acknowledge-unmatched",
            Self::CommitUnmatched => "commit-unmatched",
            Self::KeepMatched => "keep-matched",
            Self::TrustDoubt => "trust-doubt",
            Self::SettleEarly => "settle-early",
            Self::VoteAfterAmnesia => "vote-after-amnesia",
            Self::CountByOwnLog => "count-by-own-log",
            Self::SwapVotes => "swap-votes",
            Self::NeverStepDown => "never-step-down",
            Self::LeadAfterSteppingDown => "lead-after-stepping-down",
            Self::ForgetReads => "forget-reads",
            Self::JoinRound => "join-round",
            Self::FreshWhenHeard => "fresh-when-heard",
            Self::ForgetSessions => "forget-sessions",
            Self::TrustStaged => "trust-staged",
            Self::ResetEarly => "reset-early",
            Self::TruncateDamage => "truncate-damage",
            Self::TrustMend => "trust-mend",
            Self::AcknowledgeDamaged => "acknowledge-damaged",
            Self::LeadDamaged => "lead-damaged",
            Self::CutOffUntold => "cut-off-untold",
            Self::PlainTextAnywhere => "plain-text-anywhere",
        }
    }
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
