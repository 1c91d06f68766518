//! The floors and what each may use: the table of docs/src/architecture.md, as data.

use crate::paths::{NamedPath, paths};
use crate::source::{Repository, Source};

/// A floor of the engine.
struct Floor {
    /// Its folder below `engine/src` (the program's also lies in `engine/bin`).
    name: &'static str,
    /// The floors it may name, itself always included.
    uses: &'static [&'static str],
    /// What it may name of `towline_wal`.
    wal: &'static [&'static str],
    /// Whether it may name `towline_net`.
    net: bool,
    /// Time, chance and bytes come in as arguments, but in these files and folders of it.
    sans_io: Option<&'static [&'static str]>,
}

/// The batch format and the words of a log: vocabulary, like `Lsn`, and free of behaviour.
const WORDS: &[&str] = &[
    "format",
    "limits",
    "Batch",
    "BatchBuilder",
    "BatchError",
    "BatchHeader",
    "BatchKind",
    "Block",
    "BlockError",
    "Chain",
    "Compression",
    "Epoch",
    "LogId",
    "LogPosition",
    "Lsn",
];
/// Reading a directory, for the program's `wal inspect`, `verify` and `dump`.
const INSPECT: &[&str] = &["inspect", "Chain", "Epoch", "LogId", "LogPosition", "Lsn"];
/// And repairing one.
const OFFLINE: &[&str] = &[
    "inspect",
    "io",
    "repair",
    "Batch",
    "BatchKind",
    "Chain",
    "DamagedRange",
    "Epoch",
    "LogId",
    "LogPosition",
    "Lsn",
    "OpenError",
    "ReadError",
];
const ALL: &[&str] = &["*"];

const FLOORS: &[Floor] = &[
    Floor { name: "model", uses: &[], wal: WORDS, net: false, sans_io: Some(&[]) },
    // In the queue callers' threads wait, each to its own deadline; in the list of who is ready, the thread that serves them.
    // What they sleep on, and in models the clock, is in `sync`.
    Floor {
        name: "pipeline",
        uses: &["model"],
        wal: WORDS,
        net: false,
        sans_io: Some(&["queue.rs", "ready.rs", "sync.rs"]),
    },
    Floor {
        name: "state",
        uses: &["model"],
        wal: WORDS,
        net: false,
        sans_io: Some(&["rocks", "rocks.rs", "rocks_store.rs"]),
    },
    Floor { name: "replica", uses: &["model"], wal: WORDS, net: false, sans_io: Some(&[]) },
    Floor { name: "shard", uses: &["model"], wal: WORDS, net: false, sans_io: Some(&[]) },
    Floor {
        name: "control",
        uses: &["model", "shard"],
        wal: WORDS,
        net: false,
        sans_io: Some(&["adapter", "adapter.rs"]),
    },
    Floor { name: "geo", uses: &["model", "replica", "shard", "control"], wal: WORDS, net: false, sans_io: Some(&[]) },
    Floor {
        name: "node",
        uses: &["model", "pipeline", "state", "replica", "shard", "control", "geo"],
        wal: ALL,
        net: true,
        sans_io: None,
    },
    Floor { name: "client", uses: &["model", "pipeline", "node"], wal: WORDS, net: true, sans_io: None },
    Floor { name: "admin", uses: &["model", "node", "client"], wal: INSPECT, net: false, sans_io: None },
    Floor {
        name: "sim",
        uses: &["model", "pipeline", "state", "replica", "shard", "control", "geo"],
        wal: ALL,
        net: true,
        sans_io: Some(&[]),
    },
    Floor { name: "bin", uses: &["model", "node", "client", "admin", "sim"], wal: OFFLINE, net: false, sans_io: None },
];

/// What a sans-IO module never names.
const IO: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net"],
    &["std", "thread"],
    &["std", "env"],
    &["std", "process", "Command"],
    &["std", "process", "exit"],
    &["std", "process", "id"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["tokio"],
    &["rand"],
    &["getrandom"],
    &["fastrand"],
    &["rustix"],
    &["socket2"],
    &["rocksdb"],
];

/// The parts of wal and net that are drivers, by folder or file.
const DRIVERS: &[&str] = &[
    "ahead.rs",
    "driver",
    "driver.rs",
    "direct.rs",
    "directory.rs",
    "inspect",
    "inspect.rs",
    "page_cache.rs",
    "real.rs",
    "tls",
    "tls.rs",
];

/// Libraries with one home.
const HOMES: &[(&str, &[&str])] = &[
    ("bincode", &["engine/src/model/codec"]),
    ("rocksdb", &["engine/src/state/"]),
    ("openraft", &["engine/src/control/adapter", "wal/src/openraft"]),
];

/// Modules at the engine's root that exist in tests only.
const TEST_ONLY: &[&str] = &["golden"];

/// The floor that a file of the engine belongs to; `None` for its `lib.rs`, its tests, and other crates.
fn floor_of(path: &str) -> Option<&str> {
    let parts: Vec<_> = path.split('/').collect();
    match parts.as_slice() {
        ["engine", "bin", ..] => Some("bin"),
        ["engine", "src", file] => file.strip_suffix(".rs").filter(|name| *name != "lib" && !TEST_ONLY.contains(name)),
        ["engine", "src", folder, ..] => Some(folder),
        _ => None,
    }
}

fn row(name: &str) -> Option<&'static Floor> {
    FLOORS.iter().find(|floor| floor.name == name)
}

/// Folders of the engine that the table does not know.
pub(crate) fn unknown_floors(repository: &Repository) -> Vec<String> {
    let mut unknown: Vec<_> = repository
        .sources
        .iter()
        .filter_map(|source| floor_of(&source.path).filter(|name| row(name).is_none()))
        .map(|name| format!("engine/src/{name}"))
        .collect();
    unknown.dedup();
    unknown
}

/// Names of a floor that the naming floor may not use.
pub(crate) fn forbidden_arrows(repository: &Repository) -> Vec<String> {
    let mut offences = Vec::new();
    for source in &repository.sources {
        let Some(floor) = floor_of(&source.path).and_then(row) else {
            continue;
        };
        for path in paths(&source.code) {
            if let Some(complaint) = complaint(repository, source, floor, &path) {
                offences.push(format!("{}:{}: {} {complaint}", source.path, path.line, path.text()));
            }
        }
    }
    offences
}

fn complaint(repository: &Repository, source: &Source, floor: &Floor, path: &NamedPath) -> Option<String> {
    let first = path.segments.first()?.as_str();
    let second = path.segments.get(1).map(String::as_str);
    let in_test = source.is_test_line(path.line);
    match first {
        "towline_wal" => {
            let word = second.unwrap_or("*");
            let may = floor.wal == ALL || floor.wal.contains(&word);
            (!may).then(|| format!("is not for {}: of the log it may use {}", floor.name, floor.wal.join(", ")))
        }
        "towline_net" => (!floor.net).then(|| format!("is not for {}: it knows no transport", floor.name)),
        "crate" if floor.name != "bin" => to_floor(floor, second?, in_test),
        "towline" => to_floor(floor, second?, in_test),
        "super" => {
            let up = path.segments.iter().take_while(|segment| *segment == "super").count();
            let named = path.segments.get(up)?;
            // `engine/src/replica/fence.rs` is at depth 2: `super::super::x` is `crate::x`, unless a module of
            // tests stands between, and the floor itself has a module of that name.
            let depth = source.parts().len() - 2 - usize::from(source.path.ends_with("/mod.rs"));
            let own = ["", "/mod"].iter().any(|form| {
                let file = format!("engine/src/{}/{named}{form}.rs", floor.name);
                repository.sources.iter().any(|source| source.path == file)
            });
            (up >= depth && row(named).is_some() && !own).then(|| to_floor(floor, named, in_test)).flatten()
        }
        _ => None,
    }
}

/// What is wrong with naming that floor. A test may build its world from neighbours, if they do no I/O.
fn to_floor(floor: &Floor, named: &str, in_test: bool) -> Option<String> {
    let for_tests = TEST_ONLY.contains(&named) || row(named).is_some_and(|floor| floor.sans_io.is_some());
    if named == floor.name || floor.uses.contains(&named) || (in_test && for_tests) {
        None
    } else if row(named).is_some() {
        Some(format!("is above {}, or beside it: it may use {}", floor.name, floor.uses.join(", ")))
    } else {
        Some("goes by the crate's root: name the floor".to_owned())
    }
}

/// wal and net, and their manifests, that name another crate of ours.
pub(crate) fn crates_that_lean(repository: &Repository) -> Vec<String> {
    let mut offences = Vec::new();
    for (folder, others) in [("wal", ["towline", "towline_net"]), ("net", ["towline", "towline_wal"])] {
        for source in repository.sources.iter().filter(|source| source.parts().first() == Some(&folder)) {
            for path in paths(&source.code) {
                if others.contains(&path.segments[0].as_str()) {
                    offences.push(format!("{}:{}: {}", source.path, path.line, path.text()));
                }
            }
        }
        let manifest = crate::source::root().join(folder).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap_or_default();
        offences.extend(leaning_manifest(folder, &manifest));
    }
    offences
}

fn leaning_manifest(folder: &str, manifest: &str) -> Vec<String> {
    let own = format!("towline-{folder}");
    let mut in_dependencies = false;
    let mut offences = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if in_dependencies && name.starts_with("towline") && name != own {
            offences.push(format!("{folder}/Cargo.toml:{}: {name}", index + 1));
        }
    }
    offences
}

/// Whether a file must be free of I/O.
fn is_sans_io(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    let drives = |drivers: &[&str]| parts.iter().any(|part| drivers.contains(part));
    match parts.as_slice() {
        ["wal" | "net", "src", ..] => !drives(DRIVERS),
        ["engine", "src", ..] => {
            floor_of(path).and_then(row).and_then(|floor| floor.sans_io).is_some_and(|drivers| !drives(drivers))
        }
        _ => false,
    }
}

/// I/O, clocks, threads and chance in sans-IO modules, their tests left out.
pub(crate) fn io_in_sans_io(repository: &Repository) -> Vec<String> {
    let mut offences = Vec::new();
    for source in repository.sources.iter().filter(|source| is_sans_io(&source.path)) {
        for path in paths(&source.code) {
            if source.is_test_line(path.line) {
                continue;
            }
            let forbidden = IO.iter().any(|io| {
                path.begins_with(io)
                    || (io[0] != "std" && path.segments.windows(io.len()).any(|part| part == *io && io.len() > 1))
            });
            if forbidden {
                offences.push(format!("{}:{}: {}", source.path, path.line, path.text()));
            }
        }
    }
    offences
}

/// Libraries named outside their home.
pub(crate) fn strayed_libraries(repository: &Repository) -> Vec<String> {
    let mut offences = Vec::new();
    for source in &repository.sources {
        let ours = ["engine/src/", "wal/src/", "net/src/"].iter().any(|place| source.path.starts_with(place));
        for path in paths(&source.code) {
            let homeless = HOMES.iter().any(|(library, homes)| {
                path.segments[0] == *library && !homes.iter().any(|home| source.path.starts_with(home))
            });
            if ours && homeless {
                offences.push(format!("{}:{}: {}", source.path, path.line, path.text()));
            }
        }
    }
    offences
}

#[cfg(test)]
fn arrows(path: &str, code: &str) -> usize {
    forbidden_arrows(&Repository::of(&[(path, code), ("engine/src/replica/state.rs", "")])).len()
}

#[test]
fn an_arrow_upwards_is_refused_however_it_is_written() {
    assert_eq!(arrows("engine/src/replica/fence.rs", "use crate::node::Node;"), 1);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use crate::{model::Lsn, state::{Store, digest}};"), 2);
    assert_eq!(arrows("engine/src/replica/fence.rs", "fn f() { crate::pipeline::ring::push() }"), 1);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use super::super::pipeline::Ring;"), 1);
    assert_eq!(arrows("engine/src/replica/mod.rs", "use super::node::Node;"), 1);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use crate::Node; use crate::golden;"), 2);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use towline_wal::LogCore;"), 1);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use towline_net::Connection;"), 1);
    assert_eq!(arrows("engine/bin/towline.rs", "use towline::replica::Replica;"), 1);
    assert_eq!(arrows("engine/src/sim/world.rs", "use crate::node::Node;"), 1);
    assert_eq!(arrows("engine/src/replica/fence_test.rs", "use crate::node::Node;"), 1);
}

#[test]
fn an_arrow_downwards_is_let_pass() {
    assert_eq!(arrows("engine/src/replica/fence.rs", "use crate::{model::Lsn, replica::commit};"), 0);
    assert_eq!(arrows("engine/src/replica/fence_test.rs", "use super::super::state::X; use super::*;"), 0);
    assert_eq!(arrows("engine/src/replica/fence_test.rs", "use crate::control::ConfigMaster; use crate::golden;"), 0);
    assert_eq!(arrows("engine/src/replica/fence.rs", "use towline_wal::{Batch, Lsn}; // not crate::node::Node"), 0);
    assert_eq!(arrows("engine/src/node/mod.rs", "use towline_wal::Wal; use towline_net::Connection;"), 0);
    assert_eq!(arrows("engine/bin/towline.rs", "mod x; use crate::x::y; use towline::node::Node;"), 0);
    assert_eq!(arrows("engine/src/lib.rs", "pub use crate::node::Node;"), 0);
}

#[test]
fn a_folder_without_a_row_is_found() {
    let repository =
        Repository::of(&[("engine/src/cellar/mod.rs", ""), ("engine/src/model/mod.rs", ""), ("engine/src/lib.rs", "")]);
    assert_eq!(unknown_floors(&repository), ["engine/src/cellar"]);
}

#[test]
fn a_crate_that_leans_on_another_is_found() {
    let repository =
        Repository::of(&[("wal/src/lib.rs", "use towline_net::Frame;"), ("net/src/lib.rs", "use towline_net::x;")]);
    assert_eq!(crates_that_lean(&repository).len(), 1);
    let manifest = "[package]\nname = \"towline-wal\"\n[dev-dependencies]\ntowline-net.workspace = true\n";
    assert_eq!(leaning_manifest("wal", manifest), ["wal/Cargo.toml:4: towline-net"]);
}

#[test]
fn io_is_refused_in_sans_io_modules_only() {
    let io = "use std::{fs, time::Instant}; fn f() { Instant::now(); std::time::Instant::now(); std::thread::park(); }";
    let found = |path| io_in_sans_io(&Repository::of(&[(path, io)])).len();
    assert_eq!(found("engine/src/replica/x.rs"), 4);
    assert_eq!(found("engine/src/pipeline/sequencer.rs"), 4);
    assert_eq!(found("engine/src/pipeline/queue.rs"), 0);
    assert_eq!(found("wal/src/core/x.rs"), 4);
    assert_eq!(found("net/src/connection.rs"), 4);
    assert_eq!(found("wal/src/driver/x.rs"), 0);
    assert_eq!(found("engine/src/node/x.rs"), 0);
    assert_eq!(found("engine/src/state/rocks.rs"), 0);
    assert_eq!(found("engine/src/replica/x_test.rs"), 0);
    let word = |code| io_in_sans_io(&Repository::of(&[("engine/src/sim/x.rs", code)])).len();
    assert_eq!(word("use tokio;"), 1);
    assert_eq!(word("let x = rand::random();"), 1);
    assert_eq!(word("use rand_core::Rng; self.rand.next(); time::Duration::ZERO"), 0);
}

#[test]
fn a_library_outside_its_home_is_found() {
    let repository = Repository::of(&[
        ("engine/src/model/codec.rs", "use bincode::Encode;"),
        ("engine/src/model/ids.rs", "#[derive(bincode::Encode)] struct X;"),
        ("engine/src/state/rocks.rs", "use rocksdb::DB;"),
        ("engine/src/node/mod.rs", "use rocksdb::DB;"),
    ]);
    assert_eq!(strayed_libraries(&repository).len(), 2);
}
