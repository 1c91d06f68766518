//! `bench-state`: what each option of the state's RocksDB costs and brings.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use comfy_table::Table;
use std::path::PathBuf;
use towline_bench::state::{Load, VARIATIONS, measure};

/// Measures the engine's set of RocksDB's options beside the same with one of them changed.
#[derive(Debug, Parser)]
struct Args {
    /// Lines of text, the values of the events: the flights of a month, if nothing else is given.
    #[arg(long, value_name = "FILE", default_value = "bench/data/flights-2013-01.csv.zst")]
    rows: PathBuf,
    /// How much is written, of the full measure: 0.1 is a quick look.
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    /// Where the files are put, and removed again.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Measure only what contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let packed = std::fs::read(&args.rows).with_context(|| format!("rows of text: {}", args.rows.display()))?;
    let text =
        if args.rows.extension().is_some_and(|end| end == "zst") { zstd::decode_all(&packed[..])? } else { packed };
    let text = Bytes::from(text);
    let rows: Vec<Bytes> = text.split(|byte| *byte == b'\n').map(|row| text.slice_ref(row)).collect();
    for (load, records) in [(Load::Values, 600_000.0), (Load::Events, 6_000_000.0), (Load::Large, 8_000.0)] {
        let mut table = Table::new();
        table.set_header([
            &format!("{load:?}"),
            "µs to write",
            "bytes written",
            "bytes of files",
            "µs to get",
            "µs to scan",
        ]);
        for variation in VARIATIONS {
            if args.only.as_ref().is_some_and(|text| !variation.name.contains(text)) {
                continue;
            }
            let place = tempfile::tempdir_in(&args.directory)?;
            let cost = measure(place.path(), variation, load, &rows, (records * args.share) as u64)?;
            table.add_row([
                variation.name.to_owned(),
                format!("{:.2}", cost.write_micros),
                format!("{:.2}", cost.write_amplification),
                format!("{:.2}", cost.space_amplification),
                format!("{:.2}", cost.get_micros),
                format!("{:.2}", cost.scan_micros),
            ]);
            eprintln!("{}", table.lines().last().unwrap_or_default());
        }
        println!("{table}");
    }
    Ok(())
}
