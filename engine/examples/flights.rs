//! A month of flights: a loader that appends each once, a live projection (delay by carrier), and `kill -9` in the middle.
//!
//! `cargo run --example flights --features cli -- bench/data/flights-2013-01.csv.zst`: the program starts itself as a worker,
//! kills it a few times in the middle of the file, lets the last one finish, and compares the projection with the file.
//!
//! What makes it hold: the loader's requests have numbers in a session, so a row that is tried again after a kill is appended
//! once; and the projection writes its figures and the feed's position in one step, so each event is counted once.

use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use towline::model::{Expect, Filter, Operation, Outcome, Read, Rejection, Scan, Since, Token, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, Session, SessionReceipt, SessionState};

const CARRIER: usize = 9;
const DELAY: usize = 5;
const TAIL: usize = 11;
/// Receipts under way, and rows between two notes of how far the loader is.
const UNDER_WAY: usize = 512;
const NOTE_EVERY: u64 = 1000;
const KILLS: u64 = 5;
const SIGKILL: i32 = 9;

/// Flights, and minutes of delay at departure, by carrier.
type Delays = BTreeMap<String, (u64, i64)>;

fn rows(file: &Path) -> Result<Vec<String>> {
    let packed = File::open(file).with_context(|| file.display().to_string())?;
    let text = std::io::read_to_string(zstd::stream::read::Decoder::new(packed)?)?;
    Ok(text.lines().skip(1).map(str::to_owned).collect())
}

fn count(delays: &mut Delays, row: &str) -> Result<String> {
    let fields: Vec<_> = row.split(',').collect();
    let (carrier, delay) = (fields.get(CARRIER).context("a carrier")?, fields.get(DELAY).context("a delay")?);
    let of_carrier = delays.entry((*carrier).to_owned()).or_default();
    *of_carrier = (of_carrier.0 + 1, of_carrier.1 + delay.parse::<i64>().unwrap_or(0));
    Ok((*carrier).to_owned())
}

fn named(node: &Node, name: &str) -> Result<Namespace> {
    match node.namespace(name) {
        Ok(found) => Ok(found),
        Err(_) => Ok(node.create_namespace(name, &NamespaceOptions::default())?),
    }
}

fn text(space: &Namespace, key: &str) -> Result<Option<String>> {
    let found = space.get(key, Read::Linearizable)?;
    Ok(found.map(|found| String::from_utf8(found.value.to_vec())).transpose()?)
}

/// The loader's session, and the first row that is not noted as done.
fn session(flights: &Namespace, notes: &Namespace) -> Result<(Session, u64)> {
    let done = text(notes, "done")?.map_or(Ok(0), |done| done.parse())?;
    if let Some(kept) = text(notes, "session")? {
        let state = SessionState { next: Some(done + 1), ..kept.parse()? };
        return Ok((flights.resume_session(state), done));
    }
    let session = flights.open_session()?;
    // Before its first request: otherwise a kill would leave requests of a session that nobody knows.
    notes.put("session", session.state().to_string())?.wait()?;
    Ok((session, done))
}

fn load(flights: &Namespace, notes: &Namespace, rows: &[String]) -> Result<u64> {
    let (session, done) = session(flights, notes)?;
    let mut under_way: VecDeque<SessionReceipt> = VecDeque::new();
    let take = |under_way: &mut VecDeque<SessionReceipt>| {
        let Some(oldest) = under_way.pop_front() else { return Ok(()) };
        match oldest.wait()?.outcome {
            // Retired: an earlier worker had its answer already.
            Outcome::Applied { .. } | Outcome::Rejected(Rejection::Retired) => Ok(()),
            other => Err(anyhow::anyhow!("a row was not appended: {other:?}")),
        }
    };
    for (row, number) in rows.iter().zip(1_u64..).skip(usize::try_from(done)?) {
        let stream = row.split(',').nth(TAIL).context("a tail number")?.to_owned();
        under_way.push_back(session.retry(number, Write::new().append(stream, Expect::Any, row.clone()))?);
        if under_way.len() >= UNDER_WAY {
            take(&mut under_way)?;
        }
        if number % NOTE_EVERY == 0 {
            while !under_way.is_empty() {
                take(&mut under_way)?;
            }
            notes.put("done", number.to_string())?.wait()?;
            println!("{number} rows are appended");
        }
    }
    while !under_way.is_empty() {
        take(&mut under_way)?;
    }
    Ok(rows.len() as u64 - done)
}

/// Counts what comes, until it is told that no more will.
fn project(flights: &Namespace, delays: &Namespace, is_loaded: &AtomicBool) -> Result<()> {
    let token: Token = text(delays, "token")?.map_or_else(|| Ok(Token::default()), |token| token.parse())?;
    let mut figures = kept(delays)?;
    let mut feed = flights.subscribe(Since::Token(token), Filter::All)?;
    loop {
        let was_loaded = is_loaded.load(Ordering::SeqCst);
        let (mut changed, mut seen) = (Write::new(), 0);
        while seen < 500
            && let Some(change) = feed.wait_for(Duration::from_millis(if seen == 0 { 20 } else { 0 }))?
        {
            for operation in &change.operations {
                let Operation::Append { value, .. } = operation else { continue };
                let carrier = count(&mut figures, std::str::from_utf8(value)?)?;
                let (flights, minutes) = figures[&carrier];
                changed = changed.put(format!("delay/{carrier}"), format!("{flights} {minutes}"));
            }
            seen += 1;
        }
        if seen > 0 {
            delays.write(changed.put("token", feed.token().to_string()))?.wait()?;
        } else if was_loaded {
            return Ok(());
        }
    }
}

fn kept(delays: &Namespace) -> Result<Delays> {
    let mut figures = Delays::new();
    for entry in delays.scan(&Scan::prefix("delay/"), Read::Linearizable)?.entries {
        let carrier = std::str::from_utf8(&entry.key)?.trim_start_matches("delay/").to_owned();
        let (flights, minutes) = std::str::from_utf8(&entry.value)?.split_once(' ').context("two figures")?;
        figures.insert(carrier, (flights.parse()?, minutes.parse()?));
    }
    Ok(figures)
}

fn work(directory: &Path, file: &Path) -> Result<()> {
    let rows = rows(file)?;
    let node = Node::open(NodeOptions::alone(directory))?;
    let (flights, notes, delays) = (named(&node, "flights")?, named(&node, "notes")?, named(&node, "delays")?);
    let is_loaded = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let projecting = scope.spawn(|| project(&flights, &delays, &is_loaded));
        let loaded = load(&flights, &notes, &rows);
        is_loaded.store(true, Ordering::SeqCst);
        let projected = projecting.join().map_err(|_| anyhow::anyhow!("the projection panicked"))?;
        println!("a worker submitted {} rows", loaded?);
        projected
    })?;
    node.close()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the kills come some moments after a note, not just behind it")]
fn conduct(file: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let worker = || {
        Command::new(std::env::current_exe()?)
            .arg("work")
            .arg(directory.path())
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(anyhow::Error::from)
    };
    for kill in 1..=KILLS {
        let mut worker = worker()?;
        let mut told = BufReader::new(worker.stdout.take().context("what the worker tells")?).lines();
        // In the middle of the file: so much more is appended than when the one before was killed, and not all.
        let far = told.nth(1).context("the worker tells how far it is")??;
        std::thread::sleep(Duration::from_millis(3 * kill));
        // SIGKILL: nothing is closed, nothing is flushed.
        worker.kill()?;
        let ended = worker.wait()?;
        ensure!(ended.signal() == Some(SIGKILL), "worker {kill} ended before it was killed: {ended}");
        println!("worker {kill}: {far}; {ended}");
    }
    let last = worker()?.wait_with_output()?;
    ensure!(last.status.success(), "the last worker finishes");
    println!("{}", String::from_utf8_lossy(&last.stdout).lines().last().context("how many it submitted")?);

    let node = Node::open(NodeOptions::alone(directory.path()))?;
    let (rows, mut expected) = (rows(file)?, Delays::new());
    for row in &rows {
        count(&mut expected, row)?;
    }
    let figures = kept(&node.namespace("delays")?)?;
    ensure!(figures == expected, "each flight is counted once: {figures:?} and not {expected:?}");
    for (carrier, (flights, minutes)) in &figures {
        println!("{carrier}: {flights:5} flights, {:5.1} minutes late on average", *minutes as f64 / *flights as f64);
    }
    println!("{} flights, each appended once and counted once, after {KILLS} kills", rows.len());
    node.close()?;
    Ok(())
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, directory, file] if command == "work" => work(directory.as_ref(), file.as_ref())?,
        [file] => conduct(file.as_ref())?,
        _ => {
            eprintln!("usage: flights FILE.csv.zst");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
