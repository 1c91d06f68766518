//! Very many sessions in one shard: what they take, whether they slow anything down, and what it costs when all of them expire.

use crate::engine::together;
use crate::process::{Memory, disk_bytes};
use crate::producers::await_serving;
use crate::report::{mebibytes, rate, seconds, table};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use comfy_table::Table;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline::model::{Policy, Read, Rejection, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, SessionError, SessionState};

const THREADS: u64 = 64;
/// A phase is measured in so many parts of the same size: does the last take longer than the first?
const PARTS: u64 = 10;
const NAME: &str = "clients";
/// Puts that tell how fast the node is without sessions.
const PLAIN: u64 = 100_000;

/// Opens so many sessions, has each do one request, asks for one more, reopens the node, and lets all of them expire: as two
/// tables.
///
/// # Errors
/// Something fails, or the bound on sessions does not hold.
pub fn measure(place: impl Fn() -> Result<tempfile::TempDir>, sessions: u64) -> Result<[Table; 2]> {
    let place = place()?;
    let sessions = sessions / (THREADS * PARTS) * THREADS * PARTS;
    ensure!(sessions > 0, "at least {} sessions", THREADS * PARTS);
    let (node, space) = open(place.path(), Some(sessions))?;
    let mut pace = vec![];
    let plain = plain(&space)?;
    pace.push(line("puts without a session, before", &[rate(PLAIN, plain)]));
    node.default_namespace().put("warm", "1")?.wait()?;
    Memory::forget_peak()?;
    let start = Memory::now()?;
    let mut ids: Vec<Vec<u128>> = (0..THREADS).map(|_| Vec::with_capacity((sessions / THREADS) as usize)).collect();
    pace.push(opens("sessions opened", &space, &mut ids, sessions)?);
    let opened = Memory::now()?;
    pace.push(requests("first requests, one a session", &space, &ids, sessions)?);
    let requested = Memory::now()?;
    pace.push(line("puts without a session, after", &[rate(PLAIN, self::plain(&space)?)]));
    match space.open_session() {
        Err(SessionError::Rejected(Rejection::TooManySessions { limit })) if limit == sessions => {}
        other => bail!("one more session is refused, until others are gone: {other:?}"),
    }
    node.close()?;
    let state = disk_bytes(&place.path().join("state"))?;
    let (reopened, node, space) = reopen(place.path())?;

    let mut room = vec![
        ["memory before".to_owned(), mebibytes(start.resident), String::new()],
        grown("memory after opening", opened.resident, start.resident, sessions),
        grown("memory after the requests", requested.resident, start.resident, sessions),
        grown("memory, at the most", requested.peak, start.resident, sessions),
        grown("state on the disk, closed", state, 0, sessions),
        ["reopened, until a read".to_owned(), seconds(reopened), String::new()],
    ];
    room.extend(expire(&node, &space)?);
    pace.push(line("puts without a session, after all expired", &[rate(PLAIN, self::plain(&space)?)]));
    node.set_policy(NAME, Policy { sessions_max: sessions, ..Policy::default() })?;
    let again = THREADS * PARTS * 10;
    ids.iter_mut().for_each(Vec::clear);
    pace.push(opens(&format!("{again} opened again, after that"), &space, &mut ids, again)?);
    pace.push(requests("their first requests", &space, &ids, again)?);
    node.close()?;
    let header = [&format!("{sessions} sessions"), "all", "first tenth", "last tenth"];
    let room_header = ["what they take", "", "a session"];
    Ok([table(header, pace), table(room_header, room)])
}

fn open(directory: &Path, sessions_max: Option<u64>) -> Result<(Node, Namespace)> {
    let node = Node::open(NodeOptions::alone(directory))?;
    await_serving(|| node.is_serving())?;
    let space = match sessions_max {
        Some(sessions_max) => {
            let policy = Policy { sessions_max, ..Policy::default() };
            node.create_namespace(NAME, &NamespaceOptions::default().policy(policy))?
        }
        None => node.namespace(NAME)?,
    };
    Ok((node, space))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn reopen(directory: &Path) -> Result<(Duration, Node, Namespace)> {
    let start = Instant::now();
    let (node, space) = open(directory, None)?;
    space.get(key(0), Read::Linearizable)?.context("it was written")?;
    Ok((start.elapsed(), node, space))
}

fn plain(space: &Namespace) -> Result<Duration> {
    let (took, _) = together(THREADS, |thread| {
        (0..PLAIN / THREADS).try_for_each(|_| Ok(space.put(key(thread), "x")?.wait().map(drop)?))
    })?;
    Ok(took)
}

/// Each request writes the same few keys: what grows is what is kept of sessions.
fn key(thread: u64) -> Bytes {
    Bytes::from(format!("key-{thread:02}"))
}

fn opens(what: &str, space: &Namespace, ids: &mut [Vec<u128>], sessions: u64) -> Result<[String; 4]> {
    let share = sessions / PARTS / THREADS;
    let mut parts = Vec::new();
    for _ in 0..PARTS {
        let (took, opened) = together(THREADS, |_| {
            // The client's own handle is not what is measured: it is dropped, and only the id is kept.
            let id = || Ok(*space.open_session()?.state().ids.values().next().context("one shard")?);
            (0..share).map(|_| id()).collect::<Result<Vec<u128>>>()
        })?;
        ids.iter_mut().zip(opened).for_each(|(ids, opened)| ids.extend(opened));
        parts.push(took);
    }
    Ok(of_parts(what, sessions, &parts))
}

fn requests(what: &str, space: &Namespace, ids: &[Vec<u128>], sessions: u64) -> Result<[String; 4]> {
    let share = usize::try_from(sessions / PARTS / THREADS)?;
    let shard = space.descriptor().shards.first().context("one shard")?.shard;
    let mut parts = Vec::new();
    for part in 0..usize::try_from(PARTS)? {
        let (took, _) = together(THREADS, |thread| {
            let ids = ids.get(usize::try_from(thread)?).context("ids for each")?;
            for id in ids.iter().skip(part * share).take(share) {
                let (ids, waiting, last) = (BTreeMap::from([(shard, *id)]), BTreeMap::new(), BTreeMap::new());
                let session = space.resume_session(SessionState { ids, next: Some(1), waiting, last });
                session.write(Write::new().put(key(thread), "x"))?.wait()?.outcome.applied()?;
            }
            Ok(())
        })?;
        parts.push(took);
    }
    Ok(of_parts(what, sessions, &parts))
}

fn of_parts(what: &str, sessions: u64, parts: &[Duration]) -> [String; 4] {
    let part = |took: Option<&Duration>| took.map_or_else(String::new, |took| rate(sessions / PARTS, *took));
    line(what, &[rate(sessions, parts.iter().sum()), part(parts.first()), part(parts.last())])
}

fn line(what: &str, figures: &[String]) -> [String; 4] {
    let figure = |index: usize| figures.get(index).cloned().unwrap_or_default();
    [what.to_owned(), figure(0), figure(1), figure(2)]
}

fn grown(what: &str, now: u64, before: u64, sessions: u64) -> [String; 3] {
    let grown = now.saturating_sub(before);
    [what.to_owned(), mebibytes(grown), format!("{:.0} B", grown as f64 / sessions as f64)]
}

/// All sessions have been idle for long enough: until one more can be opened, and what one who only writes, and one who only
/// reads, has of it.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn expire(node: &Node, space: &Namespace) -> Result<Vec<[String; 3]>> {
    let policy = Policy { session_idle_seconds: 1, ..space.descriptor().policy };
    Memory::forget_peak()?;
    let before = Memory::now()?.resident;
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    let longest = |once: &(dyn Fn() -> Result<()> + Sync)| {
        let mut longest = Duration::ZERO;
        while !is_over.load(Ordering::SeqCst) {
            let start = Instant::now();
            once()?;
            longest = longest.max(start.elapsed());
        }
        Ok::<_, anyhow::Error>(longest)
    };
    let (write, read) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| longest(&|| Ok(space.put(key(0), "y")?.wait().map(drop)?)));
        let reading = scope.spawn(|| longest(&|| Ok(space.get(key(1), Read::Eventual).map(drop)?)));
        let opened = node.set_policy(NAME, policy).map_err(anyhow::Error::from).and_then(|()| open_one(space));
        is_over.store(true, Ordering::SeqCst);
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        let (write, read) = (writing.join().map_err(panicked)??, reading.join().map_err(panicked)??);
        opened.map(|()| (write, read))
    })?;
    let took = start.elapsed();
    let memory = Memory::now()?.peak.saturating_sub(before);
    let only = |what: &str, figure: String| [what.to_owned(), figure, String::new()];
    Ok(vec![
        only("all expire: until a new one opens", seconds(took)),
        only("meanwhile, the longest write", seconds(write)),
        only("meanwhile, the longest read", seconds(read)),
        only("meanwhile, memory beyond before", mebibytes(memory)),
    ])
}

/// Opens a session as soon as there is room for one.
#[expect(clippy::disallowed_methods, reason = "there is no event for a bound that has room")]
fn open_one(space: &Namespace) -> Result<()> {
    let start = Instant::now();
    loop {
        match space.open_session() {
            Ok(_) => return Ok(()),
            Err(SessionError::Rejected(Rejection::TooManySessions { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(start.elapsed() < Duration::from_secs(600), "no session expired within ten minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}
