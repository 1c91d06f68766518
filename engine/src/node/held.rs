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
/// How long one is held after the last look.
pub(crate) const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(60);

/// The moments of one client, by number. Dropped, none is held any more.
#[derive(Debug)]
pub(crate) struct Snapshots {
    held: Mutex<Table>,
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
    looks: Sender<Asked>,
    thread: JoinHandle<()>,
}

/// A look, and where what it finds goes.
type Asked = (Look, Sender<Result<Answer, Failure>>);

impl Snapshots {
    /// With so many places, shared with others.
    pub(crate) fn new(places: Arc<Semaphore>, idle_max: Duration) -> Self {
        Self { held: Mutex::default(), places, idle_max }
    }

    /// Holds a moment; its number, and which it is.
    pub(super) fn open(&self, space: Namespace, read: Read) -> Result<(u64, Token), Failure> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| failure::too_many_snapshots())?;
        let (held, token) = Held::begin(space, read, place, self.idle_max)?;
        let mut table = self.held.lock();
        // Those that ended by themselves, and that nobody has closed.
        table.held.retain(|_, held| !held.thread.is_finished());
        table.last += 1;
        let number = table.last;
        table.held.insert(number, Arc::new(held));
        Ok((number, token))
    }

    pub(super) fn look(&self, number: u64, look: Look) -> Result<Answer, Failure> {
        let held = self.held.lock().held.get(&number).map(Arc::clone);
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
        space: Namespace,
        read: Read,
        place: OwnedSemaphorePermit,
        idle_max: Duration,
    ) -> Result<(Self, Token), Failure> {
        let ((looks, asked), (tell, told)) = (unbounded(), bounded(1));
        let hold = move || {
            let _place = place;
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
        Ok((Self { looks, thread }, token))
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
