//! A small world in which each node is its own master: assignments come from the real [`ConfigMaster`](crate::control::ConfigMaster) of
//! each node alone, and disks are emptied, and put back in the place of their successors.
//!
//! The nodes are those of the search beside it (`node`, `steps`), with three voters, and with what is decided about them as `node`
//! decides it: by hand, at a start, and by steps to the votes of the disks that are here. What is written is durable at once, an
//! activation is accepted in the same moment, and an operator's node knows what its peers have promised: it would hear it by their
//! refusals. Everything that is durable stays on a disk, in its place or on the shelf, so that nothing that was committed is ever
//! gone: I1 says that whoever leads from then on has it.
//!
//! Open these in order: `world` (a state and its choices, and what must hold), `search`.

mod search;
mod world;

pub(super) use search::explore_masters;

/// What is searched: how often each thing may happen among three nodes that are their own masters. As text it begins with `masters`.
///
/// ```
/// use towline::sim::{Masters, Search};
/// let masters: Masters = "masters hands 1 writes 1".parse()?;
/// let found = Search::Masters(masters).explore(100_000);
/// assert_eq!(found.violation, None);
/// assert!(found.complete && found.states > 100, "{found:?}");
///
/// let text = "masters emptied hands 2 writes 1 empties 1 returns 1 crashes 1 breaks 1 ends 1 rots 1";
/// assert_eq!(text.parse::<Masters>()?.to_string(), text);
/// assert!("masters wonders 1".parse::<Masters>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Masters {
    /// It begins with an empty disk in the place of the last node's, which lies on the shelf; it was fed, and has no vote yet.
    pub(super) emptied: bool,
    /// How often a node assigns itself: as an operator wants it, or as whoever led last.
    pub(super) hands: u8,
    /// How many batches are written.
    pub(super) writes: u8,
    /// How often a node comes back with an empty disk. The one before lies on the shelf.
    pub(super) empties: u8,
    /// How often a disk from the shelf is put back in the place of its successor, which goes there.
    pub(super) returns: u8,
    /// How often a node starts again.
    pub(super) crashes: u8,
    /// How often a connection breaks.
    pub(super) breaks: u8,
    /// How often a leader that waits for a majority gives up waiting.
    pub(super) ends: u8,
    /// How often a batch that is durable rots where it lies, while another node has it.
    pub(super) rots: u8,
}

impl Masters {
    fn counts(&mut self) -> [(&'static str, &mut u8); 8] {
        [
            ("hands", &mut self.hands),
            ("writes", &mut self.writes),
            ("empties", &mut self.empties),
            ("returns", &mut self.returns),
            ("crashes", &mut self.crashes),
            ("breaks", &mut self.breaks),
            ("ends", &mut self.ends),
            ("rots", &mut self.rots),
        ]
    }
}

impl std::str::FromStr for Masters {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        if words.next() != Some("masters") {
            return Err(format!("{text:?} does not begin with masters"));
        }
        let mut masters = Self::default();
        while let Some(word) = words.next() {
            if word == "emptied" {
                masters.emptied = true;
                continue;
            }
            let count = words.next().and_then(|count| count.parse().ok());
            let count = count.ok_or_else(|| format!("behind {word:?} stands how often, up to 255"))?;
            let mut counts = masters.counts().into_iter();
            let (_, named) =
                counts.find(|(name, _)| *name == word).ok_or_else(|| format!("nothing is called {word:?}"))?;
            *named = count;
        }
        Ok(masters)
    }
}

impl std::fmt::Display for Masters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.emptied { "masters emptied" } else { "masters" })?;
        let mut masters = self.clone();
        let mut named = masters.counts().into_iter().filter(|(_, count)| **count > 0);
        named.try_for_each(|(name, count)| write!(f, " {name} {count}"))
    }
}
