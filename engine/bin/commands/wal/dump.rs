//! `towline wal dump DIR`: streams; never holds more than a batch.

use super::records::{Read, each, escaped, not_records};
use super::{damage_object, damage_words, log_directory, refused};
use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use towline::model::{LogId, Lsn};
use towline_wal::inspect::{Batches, Wanted};
use towline_wal::{Batch, DamagedRange, ReadError};

pub(super) const CODES: &str = "Exit codes: 0 all of it is printed; 1 it could not be done; \
    3 something is damaged: it is told on standard error with its range, and left out.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line a record: its log, its LSN, what it does; what is not text as escapes
    Text,
    /// An object a line
    Json,
    /// The records' bytes as they were encoded, one behind another, nothing between them
    Raw,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A log directory, or a node's data directory
    directory: PathBuf,
    /// Print the records of this log only (1 to 32 hexadecimal digits)
    #[arg(long, value_name = "ID")]
    log: Option<LogId>,
    /// The first record to print, of each log
    #[arg(long, value_name = "LSN", default_value_t = 1)]
    from: u64,
    /// The last record to print, of each log
    #[arg(long, value_name = "LSN")]
    to: Option<u64>,
    /// How records are printed
    #[arg(long = "format", id = "form", value_name = "FORMAT", default_value = "text", conflicts_with = "json")]
    form: Form,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) const fn speaks_json(&self) -> bool {
        self.json || matches!(self.form, Form::Json)
    }
}

/// Where the records go, and what was wrong with some.
struct Dump<W> {
    out: W,
    form: Form,
    from: Lsn,
    to: Lsn,
    /// Whether lines name the log.
    names_log: bool,
    is_damaged: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let directory = log_directory(&args.directory);
    let to = args.to.map_or(Lsn::MAX, Lsn::new);
    let wanted = Wanted { log: args.log, from: Lsn::new(args.from), to };
    let batches = Batches::open(&directory, wanted).map_err(|error| refused(&directory, error))?;
    if let Some(log) = args.log.filter(|log| !batches.has_log(*log)) {
        return Err(Failure::say(Exit::Failed, format!("{}: there is no log {log}", directory.display())));
    }
    let out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let form = if args.json { Form::Json } else { args.form };
    let mut dump = Dump { out, form, from: wanted.from, to, names_log: args.log.is_none(), is_damaged: false };
    let damaged = batches.damaged();
    damaged.iter().for_each(|range| dump.tell(damage_object(range), &damage_words(range)));
    for batch in batches {
        match batch {
            Ok(batch) => dump.batch(&batch)?,
            Err(error) => dump.unreadable(&error, &damaged),
        }
    }
    dump.out.flush()?;
    Ok(if dump.is_damaged { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

impl<W: Write> Dump<W> {
    fn batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        let log = batch.log();
        let (mut written, mut next) = (Ok(()), batch.first_lsn());
        let read = each(batch, &mut |record| {
            next = record.lsn.next();
            if record.lsn >= self.from && record.lsn <= self.to && written.is_ok() {
                written = self.record(log, &record);
            }
            Ok(())
        });
        // A reader that went away ends it; see `Failure::tell`.
        written?;
        if let Err(failure) = read {
            let (last, why) = (batch.last_lsn(), failure.sentence());
            let object = serde_json::json!({
                "log": log.to_string(), "first_lsn": next.get(), "last_lsn": last.get(), "why": why,
            });
            self.tell(object, &format!("log {log}, {}", not_records(next, last, &failure)));
        }
        Ok(())
    }

    fn record(&mut self, log: LogId, record: &Read) -> std::io::Result<()> {
        match self.form {
            Form::Raw => self.out.write_all(&record.bytes),
            Form::Json => {
                let mut object = record.object();
                if let Value::Object(object) = &mut object {
                    object.insert("log".to_owned(), log.to_string().into());
                }
                writeln!(self.out, "{object}")
            }
            Form::Text if self.names_log => writeln!(self.out, "{log}  {}  {}", record.lsn, record.words(escaped)),
            Form::Text => writeln!(self.out, "{}  {}", record.lsn, record.words(escaped)),
        }
    }

    /// A batch that can't be read; one in a range that was told is not told again.
    fn unreadable(&mut self, error: &ReadError, told: &[DamagedRange]) {
        let ReadError::Corrupt { log, first, last, file, offset } = error else {
            self.tell(serde_json::json!({ "why": error.to_string() }), &error.to_string());
            return;
        };
        if told.iter().any(|range| range.log == *log && range.first <= *first && range.last >= *last) {
            return;
        }
        let object = serde_json::json!({
            "log": log.to_string(), "first_lsn": first.get(), "last_lsn": last.get(), "file": file, "offset": offset,
        });
        self.tell(object, &format!("log {log}, LSN {first} to {last}: can't be read, {file} at byte {offset}"));
    }

    fn tell(&mut self, mut object: Value, words: &str) {
        self.is_damaged = true;
        if self.form == Form::Json {
            if let Value::Object(object) = &mut object {
                object.insert("event".to_owned(), "damaged".into());
            }
            anstream::eprintln!("{object}");
        } else {
            anstream::eprintln!("towline wal dump: {words}");
        }
    }
}
