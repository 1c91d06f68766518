//! Moments that are held for who asks from elsewhere: each by a thread of its own, as long as somebody looks.

use super::calls;
use super::failure;
use super::{Namespace, ReadError, Snapshot};
use crate::model::call::{Answer, Look};
use crate::model::request::Failure;
use crate::model::{Read, Token};
use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Moments of all clients that are held at a time: each keeps a thread, and old versions on the disk.
pub(crate) const SNAPSHOTS_MAX: usize = 64;
/// And of one client, so that it does not take all of them.
pub(crate) const SNAPSHOTS_OF_A_CLIENT: usize = 16;
/// How long one is held after the last look.
pub(crate) const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(60);

/// The moments of one client, by number. Dropped, none is held any more.
#[derive(Debug)]
pub(crate) struct Snapshots {
    held: Mutex<Table>,
    own: Arc<Semaphore>,
    /// Shared with other clients.
    places: Arc<Semaphore>,
    idle_max: Duration,
}

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<u64, Arc<Held>>,
    last: u64,
}

/// The way to one moment.
#[derive(Debug)]
struct Held {
    /// The namespace, by the name by which it was asked for: whoever looks asks for the same, and may.
    name: String,
    looks: Sender<Asked>,
    thread: JoinHandle<()>,
}

/// A look, and where what it finds goes.
type Asked = (Look, Sender<Result<Answer, Failure>>);

impl Snapshots {
    /// With so many places, shared with others.
    pub(crate) fn new(places: Arc<Semaphore>, idle_max: Duration) -> Self {
        Self { held: Mutex::default(), own: Arc::new(Semaphore::new(SNAPSHOTS_OF_A_CLIENT)), places, idle_max }
    }

    /// Holds a moment; its number, and which it is.
    pub(super) fn open(&self, name: &str, space: Namespace, read: Read) -> Result<(u64, Token), Failure> {
        let too_many = |_| failure::too_many_snapshots();
        let own = Arc::clone(&self.own).try_acquire_owned().map_err(too_many)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(too_many)?;
        let (held, token) = Held::begin(name, space, read, [own, place], self.idle_max)?;
        let mut table = self.held.lock();
        // Those that ended by themselves, and that nobody has closed.
        table.held.retain(|_, held| !held.thread.is_finished());
        table.last += 1;
        let number = table.last;
        table.held.insert(number, Arc::new(held));
        Ok((number, token))
    }

    pub(super) fn look(&self, name: &str, number: u64, look: Look) -> Result<Answer, Failure> {
        let held = self.held.lock().held.get(&number).filter(|held| held.name == name).map(Arc::clone);
        let (tell, told) = bounded(1);
        let asked = held.and_then(|held| held.looks.send((look, tell)).ok());
        asked.and_then(|()| told.recv().ok()).unwrap_or_else(|| Err(failure::no_such_snapshot()))
    }

    pub(crate) fn close(&self, number: u64) {
        drop(self.held.lock().held.remove(&number));
    }
}

impl Held {
    /// A snapshot lives as long as the closure that looks at it: a thread stays in there.
    fn begin(
        name: &str,
        space: Namespace,
        read: Read,
        places: [OwnedSemaphorePermit; 2],
        idle_max: Duration,
    ) -> Result<(Self, Token), Failure> {
        let ((looks, asked), (tell, told)) = (unbounded(), bounded(1));
        let hold = move || {
            let _places = places;
            let held = space.snapshot(read, |snapshot| {
                // Nobody may wait for it any more.
                drop(tell.send(Ok(snapshot.token()?)));
                answer(&space, snapshot, &asked, idle_max);
                Ok(())
            });
            if let Err(error) = held {
                // As above; and behind the beginning nobody listens here.
                drop(tell.send(Err(calls::of(error))));
            }
        };
        let thread = Builder::new().name("towline-snapshot".to_owned()).spawn(hold);
        let thread = thread.map_err(|_| failure::too_many_snapshots())?;
        let token = told.recv().unwrap_or_else(|_| Err(failure::closing()))?;
        Ok((Self { name: name.to_owned(), looks, thread }, token))
    }
}

/// Until nobody asks any more, or the node closes, which waits for whoever reads.
fn answer(space: &Namespace, snapshot: &Snapshot<'_>, asked: &Receiver<Asked>, idle_max: Duration) {
    let closing: &Receiver<Infallible> = space.closing();
    loop {
        let (look, tell) = select! {
            recv(asked) -> asked => match asked {
                Ok(asked) => asked,
                Err(_) => return,
            },
            recv(closing) -> _ => return,
            default(idle_max) => return,
        };
        let found = if space.is_dropped() { Err(calls::of(ReadError::Dropped)) } else { calls::look(snapshot, look) };
        // Its client may be gone.
        drop(tell.send(found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::shard::now;
    use crate::node::{NamespaceOptions, Node, NodeOptions};
    use crossbeam::channel::after;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_secs(30);
    /// Looks at a place that must be there: enough for one that is not to be seen missing.
    const REFUSED: usize = 200_000;

    fn get(snapshots: &Snapshots, number: u64) -> Result<Answer, u16> {
        snapshots.look("default", number, Look::MultiGet { keys: vec![b"k".to_vec()] }).map_err(|failure| failure.code)
    }

    /// Waits until so many places are free.
    fn come_back(places: &Semaphore, count: u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let all = async { tokio::time::timeout(PATIENCE, places.acquire_many(count)).await };
        drop(runtime.block_on(all).expect("they come back").unwrap());
    }

    #[test]
    fn a_moment_that_nobody_looks_at_is_let_go_and_its_place_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        node.default_namespace().put("k", "v").unwrap().wait().unwrap();
        let places = Arc::new(Semaphore::new(1));
        let snapshots = Snapshots::new(Arc::clone(&places), Duration::from_millis(30));
        let open =
            || snapshots.open("default", node.default_namespace(), Read::Linearizable).map_err(|failure| failure.code);
        let (number, _) = open().unwrap();
        assert_eq!(open().unwrap_err(), 8020);
        get(&snapshots, number).unwrap();
        assert_eq!(get(&snapshots, number + 1), Err(8021));
        come_back(&places, 1);
        assert_eq!(get(&snapshots, number), Err(8021));
        let (second, _) = open().unwrap();
        assert!(second > number && snapshots.held.lock().held.len() == 1, "the first is forgotten");
        node.close().unwrap();
    }

    /// The story of a doubt: a client at its own bound took a place of all for as long as it took to be refused, and whoever else
    /// asked at that moment was refused as well.
    #[test]
    fn a_client_at_its_own_bound_takes_no_place_of_others_not_even_while_it_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.default_namespace();
        let places = Arc::new(Semaphore::new(SNAPSHOTS_OF_A_CLIENT + 1));
        let snapshots = Snapshots::new(Arc::clone(&places), Duration::from_secs(3600));
        let open = || snapshots.open("default", space.clone(), Read::Eventual).map_err(|failure| failure.code);
        for _ in 0..SNAPSHOTS_OF_A_CLIENT {
            open().unwrap();
        }
        let (enough, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    assert_eq!(open().unwrap_err(), 8020);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
            while refused.load(Ordering::Relaxed) == 0 && !asking.is_finished() {
                std::thread::yield_now();
            }
            // As somebody else, who would be refused if it were not there.
            let there = (0..REFUSED).filter(|_| places.try_acquire().is_ok()).count();
            enough.store(true, Ordering::Relaxed);
            assert_eq!(there, REFUSED, "the last place was there all the time");
            asking.join().unwrap();
        });
        drop(snapshots);
        node.close().unwrap();
    }

    /// Whoever works with a moment for longer than it is held without a look would lose it in the middle.
    #[test]
    fn a_moment_is_held_from_its_last_look_on_and_not_from_its_beginning() {
        const IDLE: Duration = Duration::from_millis(250);
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let snapshots = Snapshots::new(Arc::new(Semaphore::new(SNAPSHOTS_MAX)), IDLE);
        // Where this machine makes a pause of its own, nothing is learnt, and it is tried again.
        let held = (0..100).any(|_| {
            let begun = now();
            let (number, _) = snapshots.open("default", node.default_namespace(), Read::Eventual).unwrap();
            let mut looked = begun;
            while looked.duration_since(begun) < IDLE * 3 {
                after(IDLE / 50).recv().unwrap();
                let looking = now();
                let found = get(&snapshots, number);
                if looked.elapsed() >= IDLE {
                    return false;
                }
                found.unwrap();
                looked = looking;
            }
            true
        });
        assert!(held, "a machine that is too busy to tell");
        drop(snapshots);
        node.close().unwrap();
    }

    /// What is left on the disk for the moment is going: half of it must not be taken for all there was.
    #[test]
    fn a_moment_of_a_namespace_that_is_dropped_says_so_to_who_looks() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.create_namespace("shop", &NamespaceOptions::default()).unwrap();
        space.put("k", "v").unwrap().wait().unwrap();
        let places = Arc::new(Semaphore::new(1));
        let snapshots = Snapshots::new(Arc::clone(&places), Duration::from_secs(3600));
        let (number, _) = snapshots.open("shop", space, Read::Linearizable).unwrap();
        let look = || {
            let look = Look::MultiGet { keys: vec![b"k".to_vec()] };
            snapshots.look("shop", number, look).map_err(|failure| failure.code)
        };
        look().unwrap();
        node.drop_namespace("shop").unwrap();
        assert_eq!(look().unwrap_err(), ReadError::Dropped.code());
        snapshots.close(number);
        come_back(&places, 1);
        node.close().unwrap();
    }

    #[test]
    fn moments_end_with_their_client_and_a_node_that_closes_does_not_wait_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        node.default_namespace().put("k", "v").unwrap().wait().unwrap();
        let places = Arc::new(Semaphore::new(3));
        let hour = Duration::from_secs(3600);
        let (gone, stays) = (Snapshots::new(Arc::clone(&places), hour), Snapshots::new(Arc::clone(&places), hour));
        for snapshots in [&gone, &gone, &stays] {
            snapshots.open("default", node.default_namespace(), Read::Eventual).unwrap();
        }
        drop(gone);
        come_back(&places, 2);
        get(&stays, 1).unwrap();
        let elsewhere = stays.look("other", 1, Look::MultiGet { keys: vec![b"k".to_vec()] }).unwrap_err();
        assert_eq!(elsewhere.code, 8021, "who may read one namespace looks at no other by it");
        node.close().unwrap();
        assert_eq!(get(&stays, 1), Err(8021));
    }
}
