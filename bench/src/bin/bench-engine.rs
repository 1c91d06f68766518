//! `bench-engine`: the embedded engine beside bare RocksDB and the bare log, in one run, as ratios.

use anyhow::Result;
use clap::{Parser, Subcommand};
use comfy_table::{CellAlignment, Table};
use std::path::{Path, PathBuf};
use std::time::Duration;
#[cfg(target_os = "linux")]
use towline_bench::cold;
use towline_bench::engine::{Bare, Engine, Measured, Store, buffered, durable, gets, scans};
use towline_bench::producers::log_appends;
use towline_bench::reopen::{CHILD, Load};
use towline_bench::{
    amplification, idle_cluster, idle_shards, neighbours, overload, remote, reopen, session_load, year,
};

/// Measures the embedded engine and prints a table. Without a mode: the table of rates, then what is quick of the modes.
#[derive(Debug, Parser)]
struct Args {
    /// How much of the table of rates is done, of the full measure: 0.1 is a quick look.
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    /// Where the files are put, and removed again; it decides which disk is measured.
    #[arg(long, default_value = ".", global = true)]
    directory: PathBuf,
    /// Measure only the lines of the table of rates whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(subcommand)]
    mode: Option<Mode>,
}

/// One month, of the project's own.
const MONTH: &str = "bench/data/flights-2013-01.csv.zst";
/// Sessions of a quick look.
const SESSIONS_QUICK: u64 = 100_000;

#[derive(Debug, Subcommand)]
enum Mode {
    /// Opening after kill -9 with much in the log that no flush of the state holds: where the time goes.
    Open {
        /// Gibibytes of log before the kill.
        #[arg(long, default_value_t = 1.0)]
        gib: f64,
        /// Bytes of a value.
        #[arg(long, default_value_t = 1024)]
        bytes: usize,
    },
    /// Bytes written and kept on the disk under a mixed load, beside bare RocksDB, which then gets the same operations.
    Amplification {
        /// Seconds that the engine is loaded.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// All rows of a file of flights, one append and one receipt each; with the whole year, as bench/data tells to make it.
    Year {
        /// CSV with a header line, packed with zstd.
        #[arg(default_value = MONTH)]
        file: PathBuf,
    },
    /// Very many sessions in one shard: memory, disk, pace, and how they go again.
    Sessions {
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        sessions: u64,
    },
    /// Three times as much is asked as it can do, and then 0.7 of it: what is done, refused, and how long it takes
    Overload {
        /// How long too much is asked, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// What those of one namespace wait for while somebody is loud in another: one hot key, scans of everything, a feed unread
    Neighbours {
        /// How long each is measured, in seconds.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// The remote client over loopback beside the embedding program: 64 callers, each waiting for its durable write
    Remote {
        /// How many writes for each.
        #[arg(long, default_value_t = 200_000)]
        writes: u64,
        /// How often.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
    /// Shards that nobody writes to: time to make and to open them, memory, processor time, and a write to one beside them
    IdleShards {
        /// How many, for each line.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000])]
        shards: Vec<u64>,
        /// How long they are looked at, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// The same among three nodes, each a process of its own: memory, processor time, and what they send one another
    IdleCluster {
        /// How many, for each line.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
        shards: Vec<u64>,
        /// How long they are looked at, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    #[command(name = idle_cluster::CHILD, hide = true)]
    IdleClusterChild {
        place: PathBuf,
        node: u64,
        shards: u64,
        #[arg(long, value_delimiter = ',')]
        ports: Vec<u16>,
        #[arg(long)]
        idle_seconds: u64,
    },
    #[command(name = idle_shards::CHILD, hide = true)]
    IdleShardsChild {
        place: PathBuf,
        shards: u64,
        #[arg(long)]
        idle_seconds: Option<u64>,
    },
    #[command(name = CHILD, hide = true)]
    WriteUntilKilled {
        place: PathBuf,
        #[arg(long)]
        log_bytes: u64,
        #[arg(long)]
        value_bytes: usize,
        #[arg(long)]
        overwrites: bool,
        #[arg(long)]
        unflushed_bytes: Option<usize>,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(mode) = &args.mode {
        return args.run(mode);
    }
    rates(&args)?;
    if args.only.is_some() {
        return Ok(());
    }
    args.run(&Mode::Open { gib: 1.0, bytes: 1024 })?;
    // It is there where the project is.
    if Path::new(MONTH).exists() {
        args.run(&Mode::Year { file: MONTH.into() })?;
    }
    args.run(&Mode::Sessions { sessions: SESSIONS_QUICK })
}

impl Args {
    fn run(&self, mode: &Mode) -> Result<()> {
        let place = || self.place();
        match mode {
            Mode::Open { gib, bytes } => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some gibibytes")]
                let log_bytes = (gib.clamp(0.01, 64.0) * f64::from(1 << 30)) as u64;
                println!("{}", reopen::measure(place, log_bytes, *bytes)?);
            }
            Mode::Amplification { seconds } => {
                println!("{}", amplification::measure(place, Duration::from_secs(*seconds))?);
            }
            Mode::Overload { seconds } => println!("{}", overload::measure(place, *seconds)?),
            Mode::Neighbours { seconds } => println!("{}", neighbours::measure(place, *seconds)?),
            Mode::Remote { writes, rounds } => println!("{}", remote::measure(place, *writes, *rounds)?),
            Mode::Year { file } => println!("{}", year::measure(place, file)?),
            Mode::Sessions { sessions } => {
                session_load::measure(place, *sessions)?.iter().for_each(|table| println!("{table}"));
            }
            Mode::IdleShards { shards, seconds } => {
                let tables = idle_shards::measure(place, shards, Duration::from_secs(*seconds))?;
                tables.iter().for_each(|table| println!("{table}"));
            }
            Mode::IdleCluster { shards, seconds } => {
                println!("{}", idle_cluster::measure(place, shards, Duration::from_secs(*seconds))?);
            }
            Mode::IdleClusterChild { place, node, shards, ports, idle_seconds } => {
                idle_cluster::run_child(place, *node, *shards, ports, Duration::from_secs(*idle_seconds))?;
            }
            Mode::IdleShardsChild { place, shards, idle_seconds } => {
                idle_shards::run_child(place, *shards, idle_seconds.map(Duration::from_secs))?;
            }
            Mode::WriteUntilKilled { place, log_bytes, value_bytes, overwrites, unflushed_bytes } => {
                let (log_bytes, value_bytes) = (*log_bytes, *value_bytes);
                let load = Load { log_bytes, value_bytes, overwrites: *overwrites, unflushed_bytes: *unflushed_bytes };
                reopen::write_until_killed(place, &load)?;
            }
        }
        Ok(())
    }
}

/// The table of rates.
fn rates(args: &Args) -> Result<()> {
    let mut table = Table::new();
    table.set_header(["what", "engine", "bare RocksDB", "ratio", "bare log", "ratio"]);
    for (producers, writes) in [(64, 400_000), (8, 100_000), (1, 20_000)] {
        let line = format!("{producers} producers x 1 KiB, durable");
        if !args.wants(&line) {
            continue;
        }
        let writes = args.some_of(writes);
        let engine = args.engine(|engine| durable(engine, producers, 1024, writes))?;
        let bare = args.bare(|bare| durable(bare, producers, 1024, writes / 2))?;
        let place = args.place()?;
        let log = log_appends(place.path(), producers, 1024)?;
        log.run(writes / 10)?;
        let log = writes as f64 / log.run(writes)?.as_secs_f64();
        add(&mut table, &line, rate(&engine), Some((engine.rate(), bare.rate())), Some((engine.rate(), log)));
    }
    let line = "4 producers x 1,024 receipts x 1 KiB, durable";
    if args.wants(line) {
        let writes = args.some_of(1_000_000);
        let engine = args.engine(|engine| engine.in_flight(4, 1024, 1024, writes))?;
        add(&mut table, line, megabytes(&engine), None, None);
    }
    let (line, writes) = ("1,000,000 x 128 B, buffered", args.some_of(1_000_000));
    let reads = ["get, in no order, 128 B", "scan of 100 x 128 B", "feed from the beginning, 128 B"];
    if args.wants(line) || reads.iter().any(|line| args.wants(line)) {
        let (place, other) = (args.place()?, args.place()?);
        let (engine, bare) = (Engine::open(place.path())?, Bare::open(other.path())?);
        let stores: [&dyn Store; 2] = [&engine, &bare];
        let mut compare = |line: &str, measure: &dyn Fn(&dyn Store) -> Result<Measured>| {
            let [ours, theirs] = stores.map(measure);
            let (ours, theirs) = (ours?, theirs?);
            add(&mut table, line, rate(&ours), Some((ours.rate(), theirs.rate())), None);
            Ok::<_, anyhow::Error>(())
        };
        compare(line, &|store| buffered(store, 128, writes))?;
        let count = args.some_of(300_000);
        compare(reads[0], &|store| {
            gets(store, writes, count / 4)?;
            gets(store, writes, count)
        })?;
        compare(reads[1], &|store| scans(store, writes, count / 30, 100))?;
        let feed = engine.feed(writes)?;
        add(&mut table, reads[2], rate(&feed), None, None);
        engine.close()?;
    }
    #[cfg(target_os = "linux")]
    let line = "feed from the beginning, cold, 1 KiB";
    #[cfg(target_os = "linux")]
    if args.wants(line) {
        let place = args.place()?;
        // Less than the log keeps by default.
        let cold = cold::measure(place.path(), args.some_of(600_000), 1024)?;
        let (feed, files) = (megabytes(&cold.feed), cold.files.megabytes());
        add(&mut table, line, format!("{feed}; its files read cold: {files:.0} MB/s"), None, None);
    }
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    Ok(())
}

impl Args {
    fn wants(&self, line: &str) -> bool {
        self.only.as_ref().is_none_or(|part| line.contains(part.as_str()))
    }

    fn some_of(&self, all: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
        let some = (all as f64 * self.share.clamp(0.001, 100.0)) as u64;
        some.max(1000)
    }

    /// A directory of its own, on the disk asked for.
    fn place(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("bench-engine-").tempdir_in(&self.directory)?)
    }

    fn engine(&self, measure: impl Fn(&Engine) -> Result<Measured>) -> Result<Measured> {
        let place = self.place()?;
        let engine = Engine::open(place.path())?;
        let measured = measure(&engine)?;
        engine.close()?;
        Ok(measured)
    }

    fn bare(&self, measure: impl Fn(&Bare) -> Result<Measured>) -> Result<Measured> {
        let place = self.place()?;
        measure(&Bare::open(place.path())?)
    }
}

fn rate(measured: &Measured) -> String {
    format!("{:.0}/s", measured.rate())
}

fn megabytes(measured: &Measured) -> String {
    format!("{:.0}/s, {:.0} MB/s", measured.rate(), measured.megabytes())
}

fn add(table: &mut Table, line: &str, ours: String, bare: Option<(f64, f64)>, log: Option<(f64, f64)>) {
    let both = |pair: Option<(f64, f64)>| match pair {
        Some((ours, theirs)) => [format!("{theirs:.0}/s"), format!("{:.2}", ours / theirs)],
        None => [String::new(), String::new()],
    };
    let ([bare, of_bare], [log, of_log]) = (both(bare), both(log));
    table.add_row([line.to_owned(), ours, bare, of_bare, log, of_log]);
}
