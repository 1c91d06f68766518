//! How much is searched: who leads when, and how often what may go wrong.

use crate::model::NodeId;

/// The nodes of the world; a script names those that it uses.
pub(super) const NODES: usize = 4;
/// The epochs of a script, at the most.
pub(super) const EPOCHS_MAX: usize = 6;

/// One assignment of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) leader: NodeId,
    pub(super) voters: Vec<NodeId>,
}

/// What is searched exhaustively: every order of events, and every place for so many faults.
///
/// As text it has the leader and the voters of each epoch, then what may happen besides. With `=` before the first epochs
/// these are settled. The first epoch's voters are also those that are fenced as long as none is activated.
///
/// ```
/// use towline::sim::{Scope, explore};
/// let scope: Scope = "1:12 2:12 writes 2 crashes 1".parse()?;
/// let found = explore(&scope);
/// assert_eq!(found.violation, None);
/// assert!(found.complete && found.states > 1_000, "{found:?}");
///
/// let text = "=1:123 2:1234 3:234 writes 1 crashes 1 breaks 1 losses 1 repeats 1 overtakes 1 ends 1 releases 1 empties 1 rots 1 hides \
///     forgets prompt reads";
/// assert_eq!(text.parse::<Scope>()?.to_string(), text);
/// assert!("1:23".parse::<Scope>().is_err(), "the leader has no vote");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub(super) turns: Vec<Turn>,
    /// So many epochs, from the first, are over before the search begins: activated, committed and known everywhere.
    pub(super) settled: usize,
    /// In so many epochs, from the first, the leader may write one batch.
    pub(super) writes: u8,
    /// How often a node may crash: what was not synced is lost, or a first part of it survives.
    pub(super) crashes: u8,
    /// How often a connection may break: what is on the way both ways is lost.
    pub(super) breaks: u8,
    /// How often a message may arrive twice: it stays the oldest on its way.
    pub(super) repeats: u8,
    /// How often a message may arrive before the one that was sent before it.
    pub(super) overtakes: u8,
    /// How often a node may lose the end of what it had synced, and know that it may have.
    pub(super) losses: u8,
    /// How often a leader that waits for a majority may give up waiting, and lead no more.
    pub(super) ends: u8,
    /// How often a node may release all of its log that it has applied.
    pub(super) releases: u8,
    /// How often a batch that is durable may rot where it lies, while another node has it.
    pub(super) rots: u8,
    /// What an open finds rotten is not known by name.
    pub(super) hides: bool,
    /// Nor is what a reader finds.
    pub(super) forgets: bool,
    /// Writes are durable at once: for a scope that would be too large otherwise.
    pub(super) prompt: bool,
    /// Reads of the log take time: other things happen before they are done.
    pub(super) reads: bool,
    /// How often a node may come back with an empty disk.
    pub(super) empties: u8,
    /// The search is given up at so many states.
    pub states_max: usize,
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scope = Self {
            turns: Vec::new(),
            settled: 0,
            writes: 0,
            crashes: 0,
            breaks: 0,
            repeats: 0,
            overtakes: 0,
            losses: 0,
            ends: 0,
            releases: 0,
            rots: 0,
            hides: false,
            forgets: false,
            prompt: false,
            reads: false,
            empties: 0,
            states_max: usize::MAX,
        };
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut count = || {
                let count = words.next().and_then(|count| count.parse().ok());
                count.ok_or_else(|| format!("behind {word:?} stands how often, up to 255"))
            };
            match word {
                "writes" => scope.writes = count()?,
                "crashes" => scope.crashes = count()?,
                "breaks" => scope.breaks = count()?,
                "losses" => scope.losses = count()?,
                "repeats" => scope.repeats = count()?,
                "overtakes" => scope.overtakes = count()?,
                "ends" => scope.ends = count()?,
                "releases" => scope.releases = count()?,
                "empties" => scope.empties = count()?,
                "rots" => scope.rots = count()?,
                "hides" => scope.hides = true,
                "forgets" => scope.forgets = true,
                "prompt" => scope.prompt = true,
                "reads" => scope.reads = true,
                epoch => {
                    scope.turns.push(turn(epoch.trim_start_matches('='))?);
                    scope.settled = if epoch.starts_with('=') { scope.turns.len() } else { scope.settled };
                }
            }
        }
        if scope.turns.is_empty() || scope.turns.len() > EPOCHS_MAX {
            return Err(format!("{text:?} has {} epochs; 1 to {EPOCHS_MAX} are possible", scope.turns.len()));
        }
        if scope.releases.max(scope.rots) > 15 {
            return Err("a log is released, and rots, 15 times at the most".into());
        }
        if scope.repeats.max(scope.overtakes) > 3 {
            return Err("messages are repeated, and overtake others, 3 times at the most".into());
        }
        Ok(scope)
    }
}

impl Scope {
    pub(super) const fn epochs(&self) -> usize {
        self.turns.len()
    }

    pub(super) fn voters(&self, epoch: usize) -> &[NodeId] {
        self.turns.get(epoch).map_or(&[], |turn| &turn.voters)
    }

    /// Whether two nodes have anything to say to one another: one leads, and the other votes then or did before.
    pub(super) fn talk(&self, low: usize, high: usize) -> bool {
        let votes = |node: usize, until: usize| {
            self.turns.iter().take(until + 1).any(|turn| turn.voters.contains(&node_id(node)))
        };
        let hears = |leader: usize, other: usize| {
            let led = self.turns.iter().enumerate().filter(|(_, turn)| turn.leader == node_id(leader));
            led.map(|(at, _)| at).any(|at| votes(other, at))
        };
        hears(low, high) || hears(high, low)
    }
}

fn turn(text: &str) -> Result<Turn, String> {
    let node = |digit: char| {
        let number = digit.to_digit(10).and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (1..=NODES).contains(number));
        number.map(|number| node_id(number - 1)).ok_or_else(|| format!("{digit:?} is no node from 1 to {NODES}"))
    };
    let (leader, voters) = text.split_once(':').ok_or_else(|| format!("{text:?} is not like 1:123"))?;
    let mut voters = voters.chars().map(node).collect::<Result<Vec<_>, _>>()?;
    voters.sort_unstable();
    voters.dedup();
    match leader.chars().map(node).collect::<Result<Vec<_>, _>>()?[..] {
        [leader] if voters.contains(&leader) => Ok(Turn { leader, voters }),
        _ => Err(format!("{text:?} has not one leader, who is a voter")),
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, Turn { leader, voters }) in self.turns.iter().enumerate() {
            let space = if at > 0 { " " } else { "" };
            let settled = if at < self.settled { "=" } else { "" };
            write!(f, "{space}{settled}{}:", leader.get())?;
            voters.iter().try_for_each(|voter| write!(f, "{}", voter.get()))?;
        }
        let counts = [
            (self.writes, "writes"),
            (self.crashes, "crashes"),
            (self.breaks, "breaks"),
            (self.losses, "losses"),
            (self.repeats, "repeats"),
            (self.overtakes, "overtakes"),
            (self.ends, "ends"),
            (self.releases, "releases"),
            (self.empties, "empties"),
            (self.rots, "rots"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, " {what} {count}")?;
        }
        f.write_str(if self.hides { " hides" } else { "" })?;
        f.write_str(if self.forgets { " forgets" } else { "" })?;
        f.write_str(if self.prompt { " prompt" } else { "" })?;
        f.write_str(if self.reads { " reads" } else { "" })
    }
}

/// The node's id by its place in the world.
pub(super) const fn node_id(place: usize) -> NodeId {
    NodeId::new(place as u64 + 1)
}

/// Its place by its id.
pub(super) fn place(node: NodeId) -> usize {
    usize::try_from(node.get()).unwrap_or(1).saturating_sub(1)
}
