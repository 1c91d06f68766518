//! What disk and loopback do without any of us: what a follower that catches up can't be faster than.

use crate::clock;
use crate::load::Random;
use anyhow::{Context as _, Result, anyhow};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};

/// Bytes of a read, and of a write: what a leader reads of its log at a time.
const BLOCK: usize = 1 << 20;
/// Blocks between two syncs: as much as the log makes durable at a time.
const SYNC_BLOCKS: u64 = 4;
/// Blocks that wait for the disk while others come over the wire.
const WAITING_MAX: usize = 8;
/// Bytes of which all blocks are made, each from another place, so that no two are alike.
const POOL_BYTES: usize = 32 << 20;

/// Bytes a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// A file that is not in memory, from its beginning to its end.
    pub(crate) read: f64,
    /// From one thread to another over a bare connection.
    pub(crate) loopback: f64,
    /// A file that has its blocks already is written from its beginning to its end, with syncs.
    pub(crate) write: f64,
    /// All of these at once: read, sent, received, written, synced.
    pub(crate) at_once: f64,
}

impl Bounds {
    /// The slowest of those that were measured by themselves.
    pub(crate) const fn least(&self) -> f64 {
        self.read.min(self.loopback).min(self.write)
    }
}

/// Measures each with so many bytes. The files have no names: they go with this process, however it ends.
pub(crate) fn measure(directory: &Path, bytes: u64) -> Result<Bounds> {
    let (blocks, pool) = (bytes / BLOCK as u64, Random::new(7).bytes(POOL_BYTES));
    let rate = |work: &dyn Fn() -> Result<()>| {
        let start = clock::now();
        work()?;
        anyhow::Ok((blocks * BLOCK as u64) as f64 / start.elapsed().as_secs_f64())
    };
    let (from, to) = (filled(directory, blocks, &pool)?, filled(directory, blocks, &pool)?);
    let write = rate(&|| write(&from, blocks, &pool))?;
    cool(&from)?;
    let read = rate(&|| (0..blocks).try_fold(vec![0; BLOCK], |block, at| read_into(&from, at, block)).map(drop))?;
    let loopback = rate(&|| loopback(blocks, &pool))?;
    cool(&from)?;
    let at_once = rate(&|| at_once(&from, &to, blocks))?;
    Ok(Bounds { read, loopback, write, at_once })
}

/// A block that no other one is equal to, nor any page of it to another page.
fn block(pool: &[u8], at: u64) -> Result<&[u8]> {
    let shifts = (POOL_BYTES - BLOCK) as u64;
    let start = usize::try_from(at * (BLOCK as u64 + 24) % shifts)?;
    pool.get(start..start + BLOCK).context("there is no such block")
}

/// A file with so many blocks, all on the disk.
fn filled(directory: &Path, blocks: u64, pool: &[u8]) -> Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    for at in 0..blocks {
        file.write_all_at(block(pool, at + 1)?, at * BLOCK as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn write(file: &File, blocks: u64, pool: &[u8]) -> Result<()> {
    for at in 0..blocks {
        file.write_all_at(block(pool, at)?, at * BLOCK as u64)?;
        if (at + 1).is_multiple_of(SYNC_BLOCKS) {
            file.sync_data()?;
        }
    }
    Ok(file.sync_data()?)
}

fn read_into(file: &File, at: u64, mut block: Vec<u8>) -> Result<Vec<u8>> {
    file.read_exact_at(&mut block, at * BLOCK as u64)?;
    Ok(block)
}

/// The page cache forgets what of it is on the disk.
fn cool(file: &File) -> Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

fn loopback(blocks: u64, pool: &[u8]) -> Result<()> {
    std::thread::scope(|scope| {
        let (mut near, mut far) = connected()?;
        let sender = spawn(scope, move || (0..blocks).try_for_each(|at| Ok(near.write_all(block(pool, at)?)?)));
        let mut block = vec![0; BLOCK];
        let received = (0..blocks).try_for_each(|_| far.read_exact(&mut block));
        // Whoever still sends must not wait for a reader that has given up.
        drop(far);
        join(sender).and(Ok(received?))
    })
}

fn at_once(from: &File, to: &File, blocks: u64) -> Result<()> {
    std::thread::scope(|scope| {
        let (mut near, mut far) = connected()?;
        let (came, comes) = mpsc::sync_channel::<Vec<u8>>(WAITING_MAX);
        let sender = spawn(scope, move || {
            let send = |block, at| {
                let block = read_into(from, at, block)?;
                near.write_all(&block)?;
                Ok(block)
            };
            (0..blocks).try_fold(vec![0; BLOCK], send).map(drop)
        });
        let receiver = spawn(scope, move || {
            for _ in 0..blocks {
                let mut block = vec![0; BLOCK];
                far.read_exact(&mut block)?;
                came.send(block)?;
            }
            Ok(())
        });
        let written = write_all(to, comes);
        let (sent, received) = (join(sender), join(receiver));
        sent.and(received).and(written)
    })
}

/// Writes what comes, and syncs as much at a time as has come meanwhile, within the bound.
fn write_all(to: &File, comes: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    let mut offset = 0;
    while let Ok(first) = comes.recv() {
        let others = comes.try_iter().take(usize::try_from(SYNC_BLOCKS)? - 1);
        for block in std::iter::once(first).chain(others) {
            to.write_all_at(&block, offset)?;
            offset += block.len() as u64;
        }
        to.sync_data()?;
    }
    Ok(())
}

/// The two ends of a connection over loopback.
fn connected() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

/// A thread that may fail.
fn spawn<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Result<T>> {
    scope.spawn(work)
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}
