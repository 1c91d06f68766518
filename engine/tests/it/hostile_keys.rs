//! U6: keys of any bytes, in namespaces and shards that lie beside one another, hold what a map would hold.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use towline::model::limits::KEY_BYTES_MAX;
use towline::model::request::Direction;
use towline::model::{Expect, Filter, Operation, Outcome, Read, Scan, Since, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions};

const STEPS: usize = 600;
const SEEDS: [u64; 3] = [1, 2, 3];
const NAMES: [&str; 2] = ["one", "other"];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn of<'a, T>(&mut self, many: &'a [T]) -> &'a T {
        &many[self.below(many.len())]
    }
}

#[derive(Default)]
struct Stream {
    version: u64,
    events: BTreeMap<u64, Bytes>,
}

#[derive(Default)]
struct Model {
    values: BTreeMap<Bytes, (u64, Bytes)>,
    streams: BTreeMap<Bytes, Stream>,
    /// Every operation that took effect, shard by shard.
    operations: [Vec<Operation>; 2],
}

impl Model {
    /// Does it, and says what the write's outcome is.
    fn apply(&mut self, shard: usize, lsn: u64, operation: &Operation) -> Outcome {
        self.operations[shard].push(operation.clone());
        let version = match operation {
            Operation::Put { key, value } => {
                self.values.insert(key.clone(), (lsn, value.clone()));
                lsn
            }
            Operation::Delete { key } => {
                self.values.remove(key);
                0
            }
            Operation::DeleteRange { start, end } => {
                self.values.retain(|key, _| key < start || key >= end);
                0
            }
            Operation::Append { stream, value, .. } => {
                let stream = self.streams.entry(stream.clone()).or_default();
                stream.version += 1;
                stream.events.insert(stream.version, value.clone());
                stream.version
            }
            Operation::TrimStream { stream, before } => self.streams.get_mut(stream).map_or(0, |stream| {
                stream.events.retain(|version, _| version >= before);
                stream.version
            }),
            Operation::DeleteStream { stream } => {
                self.streams.remove(stream);
                0
            }
            other => panic!("{other:?} has no model"),
        };
        Outcome::Applied { version }
    }
}

/// Bytes that an encoding may take for its own: terminators, escapes, ids of both namespaces in both orders.
fn atoms(ids: [u32; 2]) -> Vec<Vec<u8>> {
    let mut atoms: Vec<Vec<u8>> = [&[0][..], &[0xff], &[0, 0], &[0, 0xff], &[0xff, 0], &[1], b"a", b"ab"]
        .iter()
        .map(|atom| atom.to_vec())
        .collect();
    for id in ids {
        let least_first = (0..4).map(|byte| (id >> (8 * byte)).to_le_bytes()[0]).collect::<Vec<u8>>();
        atoms.push(least_first.iter().rev().copied().collect());
        atoms.push(least_first);
    }
    // As the version of a first event.
    atoms.push(vec![0, 0, 0, 0, 0, 0, 0, 1]);
    atoms
}

/// A small set, so that keys meet: one long in sixteen, else a few atoms.
fn pool(chance: &mut Chance, ids: [u32; 2]) -> Vec<Bytes> {
    let atoms = atoms(ids);
    let mut keys: BTreeSet<Bytes> = atoms.iter().cloned().map(Bytes::from).collect();
    for byte in [0, 0xff] {
        for length in [KEY_BYTES_MAX - 1, KEY_BYTES_MAX] {
            keys.insert(vec![byte; length].into());
        }
    }
    while keys.len() < 64 {
        let parts = 1 + chance.below(3);
        keys.insert((0..parts).flat_map(|_| chance.of(&atoms).clone()).collect());
    }
    keys.into_iter().collect()
}

fn operation(chance: &mut Chance, keys: &[Bytes], split: &Bytes, number: usize) -> Operation {
    let (key, value) = (chance.of(keys).clone(), Bytes::from(number.to_string()));
    match chance.below(16) {
        0..6 => Operation::Put { key, value },
        6..8 => Operation::Delete { key },
        8 => {
            let other = chance.of(keys).clone();
            let (start, end) = if key <= other { (key, other) } else { (other, key) };
            // Within one shard.
            let end = if start < *split && end > *split { split.clone() } else { end };
            Operation::DeleteRange { start, end }
        }
        9..14 => Operation::Append { stream: key, expect: Expect::Any, metadata: Bytes::new(), value },
        14 => Operation::TrimStream { stream: key, before: 1 + chance.below(4) as u64 },
        _ => Operation::DeleteStream { stream: key },
    }
}

fn scanned(space: &Namespace, scan: Scan) -> Vec<(Bytes, (u64, Bytes))> {
    let (mut found, mut next) = (Vec::new(), Some(scan.limit(7)));
    while let Some(scan) = next {
        let page = space.scan(&scan, Read::Linearizable).unwrap();
        found.extend(page.entries.into_iter().map(|entry| (entry.key, (entry.version, entry.value))));
        next = page.next;
    }
    found
}

/// What a feed of all that was written tells, shard by shard.
fn fed(space: &Namespace, filter: Filter) -> [Vec<Operation>; 2] {
    let mut feed = space.subscribe(Since::Beginning, filter).unwrap();
    let shards = space.descriptor().shards;
    let mut told = [Vec::new(), Vec::new()];
    while let Some(change) = feed.wait_for(std::time::Duration::ZERO).unwrap() {
        let index = shards.iter().position(|shard| shard.shard == change.shard).unwrap();
        told[index].extend(change.operations);
    }
    told
}

fn assert_equal(seed: u64, keys: &[Bytes], space: &Namespace, model: &Model) {
    for key in keys {
        let found = space.get(key, Read::Linearizable).unwrap().map(|found| (found.version, found.value));
        assert_eq!(found.as_ref(), model.values.get(key), "seed {seed}: {key:?}");
        let (version, events) = model.streams.get(key).map_or((0, Vec::new()), |stream| {
            (stream.version, stream.events.iter().map(|(version, event)| (*version, event.to_vec())).collect())
        });
        let bounds = (usize::MAX, usize::MAX);
        for (direction, from) in [(Direction::Forward, 1), (Direction::Backward, 0)] {
            let read = space.read_stream(key, from, direction, bounds, Read::Linearizable).unwrap();
            let mut found: Vec<_> = read.events.into_iter().map(|event| (event.version, event.value)).collect();
            if direction == Direction::Backward {
                found.reverse();
            }
            assert_eq!((read.head, &found), (version, &events), "seed {seed}: {direction:?} {key:?}");
        }
    }
    let owned = |(key, value): (&Bytes, &(u64, Bytes))| (key.clone(), value.clone());
    for is_reverse in [false, true] {
        let turned = |mut found: Vec<_>, scan: Scan| {
            if is_reverse {
                found.reverse();
            }
            let scan = if is_reverse { scan.reverse() } else { scan };
            assert_eq!(scanned(space, scan.clone()), found, "seed {seed}: {scan:?}");
        };
        turned(model.values.iter().map(owned).collect(), Scan::all());
        for prefix in keys {
            let within = model.values.iter().filter(|(key, _)| key.starts_with(prefix)).map(owned).collect();
            turned(within, Scan::prefix(prefix));
            let from = model.values.range(prefix.clone()..).map(owned).collect();
            turned(from, Scan::range(prefix.clone()..));
        }
    }
    assert_eq!(fed(space, Filter::All), model.operations, "seed {seed}");
    for prefix in keys {
        let is_of = |operation: &&Operation| match operation {
            // A range is of interest if it holds any key that begins so, or would: the smallest is one of the two.
            Operation::DeleteRange { start, end } => {
                let first = if start.starts_with(prefix) { start } else { prefix };
                start < end && first >= start && first < end
            }
            other => other.key().starts_with(prefix),
        };
        let wanted = model.operations.each_ref().map(|all| all.iter().filter(is_of).cloned().collect::<Vec<_>>());
        // An empty range may be told or not: it does nothing.
        let is_empty =
            |operation: &Operation| matches!(operation, Operation::DeleteRange { start, end } if start == end);
        let mut told = fed(space, Filter::Prefix(prefix.clone()));
        told.iter_mut().for_each(|told| told.retain(|operation| !is_empty(operation)));
        assert_eq!(told, wanted, "seed {seed}: {prefix:?}");
    }
}

#[test]
fn keys_of_any_bytes_hold_in_neighbouring_namespaces_and_shards_what_maps_would_hold() {
    for seed in SEEDS {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let mut chance = Chance(seed);
        // The ids are those that the next two get.
        let first = node.default_namespace().id().get() + 1;
        let keys = pool(&mut chance, [first, first + 1]);
        let split = keys[keys.len() / 2].clone();
        let spaces = NAMES
            .map(|name| node.create_namespace(name, &NamespaceOptions::default().split_at([split.to_vec()])).unwrap());
        assert_eq!(spaces.each_ref().map(|space| space.id().get()), [first, first + 1]);
        let mut models = [Model::default(), Model::default()];
        for number in 0..STEPS {
            let at = chance.below(2);
            let operation = operation(&mut chance, &keys, &split, number);
            let shard = usize::from(*operation.key() >= split);
            let written = spaces[at].write(Write::from(operation.clone())).unwrap().wait().unwrap();
            let outcome = models[at].apply(shard, written.lsn.get(), &operation);
            assert_eq!(written.outcome, outcome, "seed {seed}, step {number}: {operation:?}");
        }
        for (space, model) in spaces.iter().zip(&models) {
            assert_equal(seed, &keys, space, model);
        }
        // What is removed lies right beside what stays: before it, or behind it.
        let gone = usize::from(seed.is_multiple_of(2));
        node.drop_namespace(NAMES[gone]).unwrap();
        assert_equal(seed, &keys, &spaces[1 - gone], &models[1 - gone]);
        let again = node.create_namespace(NAMES[gone], &NamespaceOptions::default()).unwrap();
        assert_eq!(scanned(&again, Scan::all()), [], "seed {seed}");
        drop((spaces, again));
        node.close().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        assert_equal(seed, &keys, &node.namespace(NAMES[1 - gone]).unwrap(), &models[1 - gone]);
        node.close().unwrap();
    }
}
