//! A disk with faults under a real server: `bad_disk.c`, compiled and preloaded, and the rules that it goes by.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Both kinds of machine that `bad_disk.c` knows have their lowest byte first.
const RULES: u64 = 8;
const HEADER_BYTES: u64 = 64;
const RULE_BYTES: u64 = 512;
const PATH_BYTES: usize = 464;

/// Of which calls: the bits of `bad_disk.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    Reads = 1,
    Writes = 2,
    Syncs = 4,
    Opens = 8,
    /// A name is given or removed.
    Names = 16,
    WritesAndSyncs = 6,
    All = 31,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The call fails with this number.
    Fails(i32),
    /// It takes so many milliseconds longer.
    Slow(u32),
    /// It does not return while the rule stands.
    Hangs,
    /// What is written to one file is lost; its next sync fails with EIO, and any later one does not.
    Loses,
    /// Half of what is asked for is done, as is said.
    Cuts,
    /// A bit of what is read is another one.
    Flips,
}

impl Effect {
    fn encoded(self) -> (u32, u32) {
        match self {
            Self::Fails(number) => (1, number.cast_unsigned()),
            Self::Slow(ms) => (2, ms),
            Self::Hangs => (3, 0),
            Self::Loses => (4, Self::EIO.cast_unsigned()),
            Self::Cuts => (5, 0),
            Self::Flips => (6, 0),
        }
    }

    pub(crate) const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
    pub(crate) const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
}

/// What happens to which calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'a> {
    calls: Calls,
    effect: Effect,
    /// Below the data directory; `*` stands for anything.
    path: &'a str,
    skip: i32,
    times: i32,
}

impl<'a> Rule<'a> {
    /// Each such call, on a file of this path below the data directory; `*` stands for anything.
    pub(crate) const fn new(calls: Calls, effect: Effect, path: &'a str) -> Self {
        Self { calls, effect, path, skip: 0, times: i32::MAX }
    }

    /// Only behind so many that pass.
    pub(crate) const fn behind(self, skip: i32) -> Self {
        Self { skip, ..self }
    }

    /// Only so often.
    pub(crate) const fn often(self, times: i32) -> Self {
        Self { times, ..self }
    }
}

/// The disk of one server, over all its lives.
#[derive(Debug)]
pub(crate) struct BadDisk {
    library: PathBuf,
    rules: PathBuf,
    file: File,
    data: PathBuf,
}

impl BadDisk {
    /// Compiles what is to be preloaded. RocksDB has taken a compiler as well.
    pub(crate) fn compile(directory: &Path) -> PathBuf {
        let library = directory.join("bad_disk.so");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/bad_disk.c");
        let arguments = ["-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-o"];
        let output = Command::new(compiler).args(arguments).arg(&library).arg(source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }

    /// That of the files below `data`.
    pub(crate) fn new(library: PathBuf, data: PathBuf) -> Self {
        let rules = data.with_extension("rules");
        let file = File::options().read(true).write(true).create_new(true).open(&rules).unwrap();
        file.set_len(HEADER_BYTES + RULES * RULE_BYTES).unwrap();
        // As the system says it behind a descriptor.
        let data = data.parent().map(|above| fs::canonicalize(above).unwrap().join(data.file_name().unwrap()));
        Self { library, rules, file, data: data.unwrap() }
    }

    pub(crate) fn preload(&self, program: &mut Command) {
        program.env("LD_PRELOAD", &self.library).env("TOWLINE_BAD_DISK", &self.rules);
    }

    fn put(&self, at: u64, value: u32) {
        self.file.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    fn get(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Calls of the server that were looked at: none, and nothing is tested.
    pub(crate) fn calls(&self) -> u32 {
        self.get(4)
    }

    /// These rules and no others from here on.
    pub(crate) fn obey(&self, rules: &[Rule<'_>]) {
        self.heal();
        assert!(rules.len() <= usize::try_from(RULES).unwrap());
        for (rule, number) in rules.iter().zip(0..) {
            let at = HEADER_BYTES + number * RULE_BYTES;
            let (effect, value) = rule.effect.encoded();
            let mut bytes = vec![0; usize::try_from(RULE_BYTES).unwrap()];
            let numbers = [0, rule.calls as u32, effect, value, rule.skip.cast_unsigned(), rule.times.cast_unsigned()];
            for (number, place) in numbers.iter().zip(bytes.chunks_exact_mut(4)) {
                place.copy_from_slice(&number.to_le_bytes());
            }
            let path = format!("{}/{}", self.data.display(), rule.path);
            assert!(path.len() < PATH_BYTES);
            bytes[48..][..path.len()].copy_from_slice(path.as_bytes());
            self.file.write_all_at(&bytes, at).unwrap();
            self.put(at, 1);
        }
        self.put(0, 1);
    }

    /// How often the rule of this place came true.
    pub(crate) fn hits(&self, rule: u64) -> u32 {
        self.get(HEADER_BYTES + rule * RULE_BYTES + 24)
    }

    /// All is well from here on; hits stay until other rules come.
    pub(crate) fn heal(&self) {
        (0..RULES).for_each(|number| self.put(HEADER_BYTES + number * RULE_BYTES, 0));
        self.put(0, 0);
    }
}
