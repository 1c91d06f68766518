//! `towline-bench`: durable writes, measured in one run and printed as ratios: the disk's own sync, the bare log,
//! one node end to end, and three nodes on this machine.

use anyhow::Result;
use clap::Parser;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_bench::idle::idle;
use towline_bench::producers::{Producers, engine_writes, log_appends};
use towline_bench::{cluster, device};

/// Measures durable writes and prints a table.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds for each line.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the files are put, and removed again; it decides which disk is measured.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Measure only the lines whose name contains this, as in `--only "log: 64"`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON, a line each.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
struct Line {
    what: String,
    per_second: f64,
    ratio: Option<(f64, String)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds);
    let mut lines = Vec::new();
    let sync = "disk: 4 KiB overwrite and fdatasync, one after the other";
    if args.wants(sync) {
        let rate = measure(&device::syncs(place(&args)?.path())?, time)?;
        push(&mut lines, &args, sync.into(), rate, None);
    }
    let median = |of: &Histogram<u64>| of.value_at_quantile(0.5) as f64 / 1e9;
    let idle_line = |what| format!("idle, {what}: 1 producer x 1024 B");
    let idle_lines = ["disk", "log", "one node, applied"].map(idle_line);
    if idle_lines.iter().any(|line| args.wants(line)) {
        let found = idle(place(&args)?.path(), 1024, time * 2)?;
        for (line, of) in idle_lines.into_iter().zip([&found.sync, &found.log, &found.node]) {
            let ratio = (median(of) / median(&found.sync), "syncs of latency, median".to_owned());
            push(&mut lines, &args, line, 1.0 / median(of), Some(ratio));
        }
    }
    for bytes in [128, 1024] {
        series(&mut lines, &args, "log", bytes, |directory, producers| log_appends(directory, producers, bytes))?;
    }
    let node = |directory: &Path, producers| engine_writes(directory, producers, 1024);
    let many = series(&mut lines, &args, "one node, applied", 1024, node)?;
    let three = "three nodes on this disk: 64 producers x 1024 B";
    if args.wants(three) {
        let rate = measure(&cluster::writes(place(&args)?.path(), 64, 1024)?, time)?;
        let ratio = many.map(|many| (rate / many, "of one node".to_owned()));
        push(&mut lines, &args, three.into(), rate, ratio);
    }
    if !args.json {
        print(&lines);
    }
    Ok(())
}

impl Args {
    fn wants(&self, line: &str) -> bool {
        self.only.as_ref().is_none_or(|part| line.contains(part.as_str()))
    }
}

/// One, eight and 64 producers; the rate of the last.
fn series(
    lines: &mut Vec<Line>,
    args: &Args,
    of: &str,
    bytes: usize,
    make: impl Fn(&Path, u64) -> Result<Producers>,
) -> Result<Option<f64>> {
    let time = Duration::from_secs(args.seconds);
    let (mut one, mut last) = (None, None);
    for producers in [1, 8, 64] {
        let line = format!("{of}: {producers} producers x {bytes} B");
        if !args.wants(&line) {
            continue;
        }
        let rate = measure(&make(place(args)?.path(), producers)?, time)?;
        if producers == 1 {
            one = Some(rate);
        }
        last = Some(rate);
        let ratio = one.map(|one| (rate / one, "of 1 producer".to_owned()));
        push(lines, args, line, rate, ratio);
    }
    Ok(last)
}

/// A directory of its own for each line, on the disk asked for.
fn place(args: &Args) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("towline-bench-").tempdir_in(&args.directory)?)
}

/// Operations a second: a short run to learn the pace, then one of about the time asked for.
fn measure(producers: &Producers, time: Duration) -> Result<f64> {
    let mut operations = 64;
    loop {
        let took = producers.run(operations)?;
        let rate = operations as f64 / took.as_secs_f64();
        if took * 2 >= time {
            return Ok(rate);
        }
        let wanted = (rate * time.as_secs_f64()).min(1e9);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just above")]
        let wanted = wanted as u64;
        operations = wanted.clamp(operations * 2, operations * 64);
    }
}

fn push(lines: &mut Vec<Line>, args: &Args, what: String, per_second: f64, ratio: Option<(f64, String)>) {
    if args.json {
        let ratio =
            ratio.as_ref().map_or_else(String::new, |(ratio, of)| format!(",\"ratio\":{ratio:.2},\"of\":{of:?}"));
        println!("{{\"what\":{what:?},\"per_second\":{per_second:.0}{ratio}}}");
    }
    lines.push(Line { what, per_second, ratio });
}

fn print(lines: &[Line]) {
    let mut table = Table::new();
    for line in lines {
        let ratio = line.ratio.as_ref().map_or_else(String::new, |(ratio, of)| format!("{ratio:.2} {of}"));
        table.add_row([line.what.clone(), format!("{:.0}/s", line.per_second), ratio]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}
