//! Three servers, each a process that ends with the test.

use crate::bad_disk::BadDisk;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use towline::client::{Client, ClientOptions, Route};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// In what a server says: another life.
const BEGINNING: &str = "--- it is started";
const CLUSTER: &str = "0193aabb-ccdd-7eff-8000-010203040506";

pub(crate) struct Processes {
    directory: tempfile::TempDir,
    pub(crate) addresses: Vec<String>,
    children: Vec<Option<Child>>,
    disks: Vec<BadDisk>,
    /// Whose disk was lost.
    pub(crate) emptied: BTreeSet<usize>,
}

/// Addresses of loopback that nobody listens on, all different.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

impl Processes {
    pub(crate) fn start_all() -> Self {
        let addresses = free_addresses(3);
        let direct = addresses.clone();
        Self::start_with(addresses, "", |_, to| direct[to].clone())
    }

    /// With these limits in their configuration; `seen(from, to)`: at which address a node looks for another.
    pub(crate) fn start_with(addresses: Vec<String>, limits: &str, seen: impl Fn(usize, usize) -> String) -> Self {
        let mut all = Self::prepare(addresses, limits, seen);
        (0..3).for_each(|place| all.start(place));
        all
    }

    /// The same, and none runs yet.
    pub(crate) fn prepare(addresses: Vec<String>, limits: &str, seen: impl Fn(usize, usize) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (place, address) in addresses.iter().enumerate() {
            let voter = |to: usize| {
                let address = if to == place { address.clone() } else { seen(place, to) };
                format!("\n[[node]]\nid = {}\naddress = \"{address}\"\n", to + 1)
            };
            let voters: String = (0..addresses.len()).map(voter).collect();
            let text = format!(
                "cluster = \"{CLUSTER}\"\nnode_id = {}\ndata_dir = \"data-{place}\"\nlisten = \"{address}\"\n\n\
                 [shard]\nleader = 1\n\n[limits]\n{limits}\n{voters}",
                place + 1,
            );
            fs::write(directory.path().join(format!("{place}.toml")), text).unwrap();
        }
        Self {
            directory,
            addresses,
            children: (0..3).map(|_| None).collect(),
            disks: Vec::new(),
            emptied: BTreeSet::new(),
        }
    }

    /// Each will run on a disk that may have faults.
    pub(crate) fn with_bad_disks(mut self) -> Self {
        let library = BadDisk::compile(self.directory.path());
        self.disks = (0..3).map(|place| BadDisk::new(library.clone(), self.data(place))).collect();
        self
    }

    pub(crate) fn disk(&self, place: usize) -> &BadDisk {
        &self.disks[place]
    }

    /// The disk of a server that does not run is lost.
    pub(crate) fn empty(&mut self, place: usize) {
        assert!(!self.runs(place));
        self.emptied.insert(place);
        fs::remove_dir_all(self.directory.path().join(format!("data-{place}"))).unwrap();
    }

    /// Its directory is on the shelf from then on, and the one that was there, if any, in its place.
    pub(crate) fn change_disks(&self, place: usize) {
        assert!(!self.runs(place));
        let [data, shelf, between] =
            ["data", "shelf", "between"].map(|name| self.directory.path().join(format!("{name}-{place}")));
        fs::rename(&data, &between).unwrap();
        if shelf.exists() {
            fs::rename(&shelf, &data).unwrap();
        }
        fs::rename(&between, &shelf).unwrap();
    }

    pub(crate) fn start(&mut self, place: usize) {
        let config = self.directory.path().join(format!("{place}.toml"));
        let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
        program.arg("serve").arg("--config").arg(config).arg("--with-parent");
        if let Some(disk) = self.disks.get(place) {
            disk.preload(&mut program);
        }
        let mut said = fs::File::options().create(true).append(true).open(self.said_file(place)).unwrap();
        writeln!(said, "{BEGINNING}").unwrap();
        let child = program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        self.children[place] = Some(child);
    }

    fn said_file(&self, place: usize) -> PathBuf {
        self.directory.path().join(format!("{place}.said"))
    }

    /// What a server has said, in all its lives.
    pub(crate) fn said(&self, place: usize) -> String {
        String::from_utf8_lossy(&fs::read(self.said_file(place)).unwrap()).into_owned()
    }

    /// Whether a server says that it has stopped: it will end.
    pub(crate) fn has_stopped(&self, place: usize) -> bool {
        self.runs(place)
            && self.said(place).rsplit(BEGINNING).next().is_some_and(|life| life.contains("shard has stopped"))
    }

    /// Why a server ended.
    pub(crate) fn last_words(&self, place: usize) -> String {
        self.said(place).lines().last().unwrap_or_default().to_owned()
    }

    /// A server that ends by itself does.
    #[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
    pub(crate) fn ends(&mut self, place: usize) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended(place) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on: {}", self.said(place));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a server has ended by itself.
    pub(crate) fn ended(&mut self, place: usize) -> Option<ExitStatus> {
        let status = self.children[place].as_mut()?.try_wait().unwrap()?;
        self.children[place] = None;
        Some(status)
    }

    pub(crate) fn data(&self, place: usize) -> PathBuf {
        self.directory.path().join(format!("data-{place}"))
    }

    pub(crate) fn runs(&self, place: usize) -> bool {
        self.children[place].is_some()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, place: usize) {
        let mut child = self.children[place].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn signal(&self, place: usize, signal: Signal) {
        let pid = self.children[place].as_ref().and_then(|child| i32::try_from(child.id()).ok());
        kill_process(pid.and_then(Pid::from_raw).unwrap(), signal).unwrap();
    }

    pub(crate) fn towline(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
        program.args(args).arg("--addr").arg(self.addresses.join(","));
        program.stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn assign(&self, leader: &str) -> Value {
        self.try_assign(leader).unwrap_or_else(|said| panic!("{said}"))
    }

    /// As an operator does: who hears that a newer assignment was made, which the node did not know of (TW-8032), asks again.
    pub(crate) fn try_assign(&self, leader: &str) -> Result<Value, String> {
        let mut tries = 0;
        loop {
            let output = self.towline(&["shard", "assign", "--leader", leader, "--within", "60", "--json"]);
            if output.status.success() {
                return Ok(serde_json::from_slice(&output.stdout).unwrap());
            }
            tries += 1;
            let said = String::from_utf8_lossy(&output.stderr);
            if !said.contains("TW-8032") || tries == 5 {
                return Err(said.into_owned());
            }
        }
    }

    /// What `towline status` says of a node.
    pub(crate) fn status(&self, place: usize) -> Value {
        let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
        program.args(["status", "--json", "--timeout", "5", "--addr", &self.addresses[place]]);
        let output = program.stdin(Stdio::null()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    #[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
    pub(crate) fn until(&self, what: &str, place: usize, holds: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        while !holds(&self.status(place)) {
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}: {}", self.status(place));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_within(PATIENCE).await
    }

    /// One of this node alone, whoever leads.
    pub(crate) async fn client_of(&self, place: usize) -> Client {
        let request_timeout = Duration::from_secs(2);
        let options =
            ClientOptions { route: Route::Any, request_timeout, connect_timeout: PATIENCE, ..ClientOptions::default() };
        Client::connect([self.addresses[place].clone()], options).await.unwrap()
    }

    /// One whose requests wait so long.
    pub(crate) async fn client_within(&self, time: Duration) -> Client {
        let options = ClientOptions { request_timeout: time, connect_timeout: PATIENCE, ..ClientOptions::default() };
        Client::connect(self.addresses.clone(), options).await.unwrap()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
