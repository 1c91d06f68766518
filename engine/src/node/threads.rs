//! The node's threads: started first, ended last, each joined.

use super::Shared;
use super::applier::{ApplierThread, ApplyOrder};
use super::health::Health;
use super::hosting::Desk;
use super::keeper::Keeper;
use super::open::OpenError;
use super::reader::{ReadOrder, ReaderThread};
use super::scrubber::Scrubber;
use super::snapshots::{GiveOrder, GiverThread, SnapshotDesk, TakeOrder, TakerThread};
use super::worker::{Order, Worker};
use crate::pipeline::Ready;
use crossbeam::channel::{Sender, bounded, unbounded};
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use towline_wal::Wal;

/// The threads of a node, and how each is told to end. Dropped, they end.
#[derive(Debug)]
pub(super) struct Threads {
    health: Arc<Health>,
    workers: Vec<(Desk, JoinHandle<()>)>,
    appliers: Vec<(Sender<ApplyOrder>, JoinHandle<()>)>,
    reader: Option<(Sender<ReadOrder>, JoinHandle<()>)>,
    snapshots: Vec<(SnapshotDesk, JoinHandle<()>)>,
    /// Keeper and scrubber, which nobody gives work: each ends when its sender is dropped.
    attendants: Vec<(Sender<Infallible>, JoinHandle<()>)>,
    /// One that had ended by a panic when it was joined.
    panicked: Option<String>,
}

/// Told of when the thread that holds it unwinds.
struct Named {
    health: Arc<Health>,
    name: &'static str,
}

impl Drop for Named {
    /// The node goes on without that thread, and does only half of what it is for: a follower is fed no more, nothing of the log is
    /// let go of. Whoever runs it hears that, as of a shard that has stopped.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(&format!("the thread {} panicked", self.name));
        }
    }
}

impl Threads {
    /// None yet. What stops one of them is told here.
    pub(super) fn new(health: Arc<Health>) -> Self {
        let (workers, appliers, snapshots, attendants) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { health, workers, appliers, reader: None, snapshots, attendants, panicked: None }
    }

    fn spawn(&self, name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
        let named = Named { health: Arc::clone(&self.health), name };
        let body = move || {
            let _told_of = named;
            body();
        };
        Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
    }

    fn join(&mut self, thread: JoinHandle<()>) {
        let name = thread.thread().name().unwrap_or("?").to_owned();
        if thread.join().is_err() {
            tracing::error!(thread = name, "a thread had ended by a panic");
            self.panicked.get_or_insert(name);
        }
    }

    pub(super) fn start_worker(&mut self) -> Result<Desk, OpenError> {
        let (orders, inbox) = unbounded();
        let desk = Desk { ready: Ready::new(), orders, stages: Arc::default() };
        let worker = Worker { ready: Arc::clone(&desk.ready), orders: inbox };
        let thread = self.spawn(Worker::NAME, move || worker.run())?;
        self.workers.push((desk.clone(), thread));
        Ok(desk)
    }

    pub(super) fn start_applier(&mut self) -> Result<Sender<ApplyOrder>, OpenError> {
        let (orders, inbox) = unbounded();
        let applier = ApplierThread { orders: inbox };
        let thread = self.spawn(ApplierThread::NAME, move || applier.run())?;
        self.appliers.push((orders.clone(), thread));
        Ok(orders)
    }

    pub(super) fn start_reader(
        &mut self,
        wal: &Arc<Wal>,
        catch_up_bytes_per_second: u64,
    ) -> Result<Sender<ReadOrder>, OpenError> {
        let (orders, inbox) = unbounded();
        let reader = ReaderThread::new(Arc::clone(wal), inbox, catch_up_bytes_per_second);
        let thread = self.spawn("towline-read", move || reader.run())?;
        self.reader = Some((orders.clone(), thread));
        Ok(orders)
    }

    pub(super) fn start_snapshots(
        &mut self,
        desk: &SnapshotDesk,
        giver: GiverThread,
        taker: TakerThread,
    ) -> Result<(), OpenError> {
        self.snapshots.push((desk.clone(), self.spawn("towline-give", move || giver.run())?));
        self.snapshots.push((desk.clone(), self.spawn("towline-take", move || taker.run())?));
        Ok(())
    }

    pub(super) fn start_keeper(&mut self, shared: Arc<Shared>, replay_bytes_max: u64) -> Result<(), OpenError> {
        let (end, ended) = bounded(0);
        let keeper = Keeper::new(shared, replay_bytes_max, ended);
        let thread = self.spawn("towline-keep", move || keeper.run())?;
        self.attendants.push((end, thread));
        Ok(())
    }

    /// One that reads so many bytes a second, and waits for so long between two passes.
    pub(super) fn start_scrubber(
        &mut self,
        shared: Arc<Shared>,
        bytes_per_second: u64,
        pause: Duration,
    ) -> Result<(), OpenError> {
        let (end, ended) = bounded(0);
        let scrubber = Scrubber::new(shared, bytes_per_second, pause, ended);
        let thread = self.spawn("towline-scrub", move || scrubber.run())?;
        self.attendants.push((end, thread));
        Ok(())
    }

    /// Nothing more is let go, and the log is not scrubbed any more.
    pub(super) fn end_attendants(&mut self) {
        let (ends, threads): (Vec<_>, Vec<_>) = self.attendants.drain(..).unzip();
        drop(ends);
        threads.into_iter().for_each(|thread| self.join(thread));
    }

    #[cfg(test)]
    pub(super) fn attendants(&self) -> usize {
        self.attendants.len()
    }

    /// Ends them, those first that give the others work: each finishes what it has. The name of one that had panicked.
    pub(super) fn end(&mut self) -> Option<String> {
        self.end_attendants();
        self.workers.iter().for_each(|(desk, _)| desk.order(Order::End));
        std::mem::take(&mut self.workers).into_iter().for_each(|(_, thread)| self.join(thread));
        // One that has ended already, by a panic, hears nothing.
        self.appliers.iter().for_each(|(orders, _)| drop(orders.send(ApplyOrder::End)));
        std::mem::take(&mut self.appliers).into_iter().for_each(|(_, thread)| self.join(thread));
        if let Some((orders, thread)) = self.reader.take() {
            // As above.
            drop(orders.send(ReadOrder::End));
            self.join(thread);
        }
        for (desk, thread) in std::mem::take(&mut self.snapshots) {
            // As above; each reads its own order.
            drop((desk.give.send(GiveOrder::End), desk.take.send(TakeOrder::End)));
            self.join(thread);
        }
        self.panicked.take()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Said when it was joined.
        drop(self.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a keeper, a scrubber, or who reads for others and gives and takes snapshots, nobody heard that it had ended: the disk filled
    /// up, or a follower was never fed.
    #[test]
    fn a_thread_that_ends_by_a_panic_is_told_and_named_at_the_end() {
        let health = Arc::<Health>::default();
        let mut threads = Threads::new(Arc::clone(&health));
        let (end, _) = bounded(0);
        let well = threads.spawn("towline-scrub", || {}).unwrap();
        threads.attendants.push((end.clone(), well));
        let broken = threads.spawn("towline-keep", || panic!("on purpose")).unwrap();
        threads.attendants.push((end, broken));
        assert_eq!(threads.end().as_deref(), Some("towline-keep"));
        assert_eq!(health.failure().as_deref(), Some("the thread towline-keep panicked"));
    }
}
