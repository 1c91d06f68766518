//! [`Process`]: a server that never outlives this program, and what it and its children cost.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server. It is ended when it is dropped, and by the system when this program dies (`setpriv --pdeathsig`).
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    end: Signal,
    log: PathBuf,
}

/// Whom a program runs as.
#[derive(Debug, Clone)]
pub(crate) enum User {
    /// Whoever started the bench.
    Same,
    /// A user by that name: for servers that refuse to be root's.
    Named(String),
}

/// The command of a program that is to end with this one.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: &Path,
    libraries: Option<&Path>,
    user: &User,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new("setpriv");
    if let User::Named(name) = user {
        command.args(["--reuid", name, "--regid", name, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments).stdin(Stdio::null());
    if let Some(path) = libraries {
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}

impl Process {
    /// Starts it; what it says goes to a file. `end` is the signal that ends it and its children at once.
    pub(crate) fn start(mut command: Command, end: Signal, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("setpriv, which starts the servers, is not there")?;
        Ok(Self { child, end, log })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Fails, with the last that it said, if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        bail!("it ended ({status}); it said last: {}", text.lines().next_back().unwrap_or("nothing"))
    }

    /// Bytes of its memory, without its children's.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the system tells no memory")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Bytes that it had the disk read, and write, what lay in the page cache left out.
    pub(crate) fn disk_bytes(&self) -> Result<(u64, u64)> {
        let text = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let find = |name: &str| {
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)).context("the system tells no such bytes")?;
            Ok::<u64, anyhow::Error>(value.trim().parse()?)
        };
        Ok((find("read_bytes:")?, find("write_bytes:")?))
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; one that is stopped ends with the signal's delivery only when it goes on.
        drop(self.signal(self.end));
        drop(self.signal(Signal::CONT));
        drop(self.child.wait());
    }
}

/// Clock ticks a second in `/proc`: the same on every system that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of these processes and of all that descend from them, those that have ended included.
pub(crate) fn processor_time(roots: &[Process]) -> Result<Duration> {
    let mut times = BTreeMap::new();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between the listing and the look.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((parent, ticks)) = parent_and_ticks(&stat) else { continue };
        times.insert(pid, ticks);
        children.entry(parent).or_default().push(pid);
    }
    let mut left: Vec<u32> = roots.iter().map(|process| process.child.id()).collect();
    let mut ticks = 0;
    while let Some(pid) = left.pop() {
        ticks += times.get(&pid).copied().unwrap_or(0);
        left.extend(children.get(&pid).into_iter().flatten());
    }
    Ok(TICK * u32::try_from(ticks)?)
}

/// A process's parent, and the time of its threads and of the children that it has waited for.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The second field, the name, may hold spaces and ends with the last bracket; fields 4 and 14 to 17 are wanted.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((parent, ticks))
}
