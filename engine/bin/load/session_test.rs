//! The loader against a real node, over a real socket.

use super::*;
use crate::load::survey;
use std::net::SocketAddr;
use std::path::Path;
use towline::client::{ClientOptions, Route};
use towline::model::request::Direction;
use towline::node::{Config, ServerHandle, serve};

/// One node in a directory; started again, it listens where it did before.
struct World {
    directory: tempfile::TempDir,
    address: SocketAddr,
    server: Option<ServerHandle>,
    runtime: tokio::runtime::Runtime,
    skip_rows: u64,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let server = start(directory.path(), any);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { address: server.address(), server: Some(server), directory, runtime, skip_rows: 0 }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.directory.path().join("rows.csv");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn stop(&mut self) {
        self.server.take().unwrap().shutdown().unwrap();
    }

    fn start(&mut self) {
        self.server = Some(start(self.directory.path(), self.address));
    }

    fn client(&self) -> Client {
        let patience = Duration::from_secs(30);
        let options = ClientOptions { connect_timeout: patience, route: Route::Leader, ..ClientOptions::default() };
        self.runtime.block_on(Client::connect([self.address.to_string()], options)).unwrap()
    }

    fn options(&self, path: &Path, rate: Option<f64>) -> LoadOptions {
        let (path, key_column, skip_rows) = (path.to_owned(), "key".to_owned(), self.skip_rows);
        LoadOptions { path, key_column, rate, in_flight_max: 256, skip_rows }
    }

    /// Loads a file that may be refused before anything is sent.
    fn try_load(&self, path: &Path) -> Result<Summary, Ended> {
        let (surveyed, client) = (survey(path, "key").unwrap(), self.client());
        let options = self.options(path, None);
        self.runtime.block_on(load(&client, &options, &surveyed, &Arc::default()))
    }

    /// Loads a file at this rate; `meanwhile` runs beside it.
    fn load(
        &mut self,
        path: &Path,
        rate: Option<f64>,
        meanwhile: impl FnOnce(&mut Self, &Counters),
    ) -> (Summary, Arc<Counters>) {
        let surveyed = survey(path, "key").unwrap();
        let counters = Arc::new(Counters::default());
        let options = self.options(path, rate);
        let (client, shared) = (self.client(), Arc::clone(&counters));
        let running = self.runtime.spawn(async move { load(&client, &options, &surveyed, &shared).await });
        meanwhile(self, &counters);
        (self.runtime.block_on(running).unwrap().unwrap(), counters)
    }

    /// Every stream's events, in the order of the streams' names.
    fn streams(&self, names: impl IntoIterator<Item = String>) -> Vec<Vec<String>> {
        let client = self.client();
        let read = async |name: String| {
            let page = client.read_stream(name.as_bytes(), 1, Direction::Forward, 10_000).await.unwrap();
            page.events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect()
        };
        names.into_iter().map(|name| self.runtime.block_on(read(name))).collect()
    }
}

fn start(directory: &Path, listen: SocketAddr) -> ServerHandle {
    let text = format!(
        "cluster = \"0193aabb-ccdd-7eff-8000-010203040506\"\nnode_id = 1\ndata_dir = \"data\"\nlisten = \"{listen}\"\n\
         [shard]\nleader = 1\n[[node]]\nid = 1\naddress = \"127.0.0.1:1\"\n"
    );
    serve(&Config::parse(&directory.join("node.toml"), &text).unwrap()).unwrap()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never came so far");
        std::thread::yield_now();
    }
}

/// `rows` rows over `keys` streams, and what each stream must hold.
fn rows(rows: usize, keys: usize) -> (String, Vec<Vec<String>>) {
    let (mut text, mut streams) = ("key,n\n".to_owned(), vec![Vec::new(); keys]);
    for number in 0..rows {
        let row = format!("k{},{number}", number % keys);
        text.push_str(&row);
        text.push('\n');
        streams[number % keys].push(row);
    }
    (text, streams)
}

fn names(keys: usize) -> impl Iterator<Item = String> {
    (0..keys).map(|key| format!("k{key}"))
}

fn stored(counters: &Counters) -> u64 {
    counters.stored.load(Ordering::Relaxed)
}

#[test]
fn a_load_goes_through_restarts_of_the_server_with_each_row_once() {
    let mut world = World::new();
    let (text, expected) = rows(3000, 40);
    let path = world.file(&text);
    let (summary, counters) = world.load(&path, Some(4000.0), |world, counters| {
        for until in [600, 1500] {
            wait_until(|| stored(counters) >= until);
            world.stop();
            world.start();
        }
    });
    assert!(summary.ended.is_none(), "{:?}", summary.ended);
    assert_eq!((summary.position, stored(&counters)), (3000, 3000));
    assert_eq!(world.streams(names(40)), expected);
    let (_, again) = world.load(&path, None, |_, _| ());
    assert_eq!(again.sent.load(Ordering::Relaxed), 0, "a repeated load adds nothing");
    assert_eq!(again.skipped.load(Ordering::Relaxed), 3000);
}

#[test]
fn a_row_that_does_not_parse_stops_the_load_and_all_before_it_is_stored() {
    let mut world = World::new();
    let (mut text, expected) = rows(500, 7);
    text.push_str("k1,2,3\nk2,never\n");
    let path = world.file(&text);
    let (summary, _) = world.load(&path, None, |_, _| ());
    assert_eq!(summary.position, 500);
    let said = summary.ended.unwrap().to_string();
    assert!(said.ends_with("rows.csv:502: row 501 has 3 fields, the header has 2"), "{said}");
    assert_eq!(world.streams(names(7)), expected);
}

#[test]
fn a_load_that_was_interrupted_is_taken_up_where_it_stopped() {
    let mut world = World::new();
    let (text, expected) = rows(2000, 11);
    let path = world.file(&text);
    let (summary, counters) = world.load(&path, Some(4000.0), |_, counters| {
        wait_until(|| stored(counters) >= 300);
        counters.stop.store(true, Ordering::Relaxed);
    });
    assert!(matches!(summary.ended, Some(Ended::Interrupted)));
    assert_eq!(summary.position, stored(&counters), "what was sent is settled");
    assert!(summary.position < 2000);
    let (rest, counters) = world.load(&path, None, |_, _| ());
    assert!(rest.ended.is_none());
    assert_eq!(counters.skipped.load(Ordering::Relaxed), summary.position);
    assert_eq!(world.streams(names(11)), expected);
}

#[test]
fn two_loads_of_one_file_at_a_time_store_each_row_once() {
    let mut world = World::new();
    let (text, expected) = rows(1500, 5);
    let path = world.file(&text);
    let beside = path.clone();
    let (first, _) = world.load(&path, Some(5000.0), |world, _| {
        let (second, _) = world.load(&beside, Some(5000.0), |_, _| ());
        assert!(second.ended.is_none(), "{:?}", second.ended);
    });
    assert!(first.ended.is_none(), "{:?}", first.ended);
    assert_eq!(world.streams(names(5)), expected);
}

#[test]
fn rows_go_behind_what_others_wrote_to_the_stream() {
    let mut world = World::new();
    let client = world.client();
    let foreign = Operation::Append {
        stream: "k0".into(),
        expect: towline::model::Expect::Absent,
        metadata: Bytes::new(),
        value: "of others".into(),
    };
    let write = async { client.write(&Record::of(vec![foreign])).await.unwrap().await.unwrap() };
    assert!(matches!(world.runtime.block_on(write).outcome, Outcome::Applied { version: 1 }));
    let path = world.file("key,n\nk0,1\nk0,2\n");
    let (summary, _) = world.load(&path, None, |_, _| ());
    assert_eq!(summary.position, 2);
    assert_eq!(world.streams(["k0".to_owned()]), [["of others", "k0,1", "k0,2"]]);
}

#[test]
fn a_load_that_left_rows_out_is_not_taken_for_a_whole_one() {
    let mut world = World::new();
    let path = world.file("key,n\nk0,1\nk1,2\nk0,3\nk1,4\nk0,5\n");
    world.skip_rows = 2;
    let (summary, _) = world.load(&path, None, |_, _| ());
    assert_eq!(summary.position, 5);
    let (again, counters) = world.load(&path, None, |_, _| ());
    assert!(again.ended.is_none() && counters.sent.load(Ordering::Relaxed) == 0, "it may be repeated");
    world.skip_rows = 0;
    let refused = world.try_load(&path).unwrap_err().to_string();
    assert!(refused.contains("--skip-rows 2, not 0"), "{refused}");
    assert_eq!(world.streams(names(2)), [vec!["k0,3", "k0,5"], vec!["k1,4"]]);
}
