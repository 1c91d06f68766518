//! [`Process`]: a child that never outlives its owner.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// A running `towline`, killed when it is dropped. It also ends by itself when this process dies without a word:
/// its standard input is a pipe from here (`--with-parent`).
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts this same program; its standard error goes to the end of a file, its standard output comes back.
    pub(super) fn start<S: AsRef<OsStr>>(
        name: &str,
        arguments: impl IntoIterator<Item = S>,
        log: &Path,
    ) -> Result<(Self, Option<ChildStdout>)> {
        let log_file = File::options().create(true).append(true).open(log);
        let log_file = log_file.with_context(|| log.display().to_string())?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg("--with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        let output = child.stdout.take();
        Ok((Self { child, name: name.to_owned() }, output))
    }

    /// SIGKILL: the end, without a chance to write anything.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("{} can't be killed", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")?;
        kill_process(pid, signal).with_context(|| format!("{} can't be signalled", self.name))
    }

    /// The process's end, if it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub(super) async fn end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!("{} did not end in {} s", self.name, patience.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and that is no fault.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
