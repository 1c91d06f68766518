//! The node's threads: started first, ended last, each joined.

use super::Shared;
use super::applier::{ApplierThread, ApplyOrder};
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
#[derive(Debug, Default)]
pub(super) struct Threads {
    workers: Vec<(Desk, JoinHandle<()>)>,
    appliers: Vec<(Sender<ApplyOrder>, JoinHandle<()>)>,
    reader: Option<(Sender<ReadOrder>, JoinHandle<()>)>,
    snapshots: Vec<(SnapshotDesk, JoinHandle<()>)>,
    /// Keeper and scrubber, which nobody gives work: each ends when its sender is dropped.
    attendants: Vec<(Sender<Infallible>, JoinHandle<()>)>,
}

impl Threads {
    pub(super) fn start_worker(&mut self) -> Result<Desk, OpenError> {
        let (orders, inbox) = unbounded();
        let desk = Desk { ready: Ready::new(), orders, stages: Arc::default() };
        let worker = Worker { ready: Arc::clone(&desk.ready), orders: inbox };
        let thread = spawn(Worker::NAME, move || worker.run())?;
        self.workers.push((desk.clone(), thread));
        Ok(desk)
    }

    pub(super) fn start_applier(&mut self) -> Result<Sender<ApplyOrder>, OpenError> {
        let (orders, inbox) = unbounded();
        let applier = ApplierThread { orders: inbox };
        let thread = spawn(ApplierThread::NAME, move || applier.run())?;
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
        let thread = spawn("towline-read", move || reader.run())?;
        self.reader = Some((orders.clone(), thread));
        Ok(orders)
    }

    pub(super) fn start_snapshots(
        &mut self,
        desk: &SnapshotDesk,
        giver: GiverThread,
        taker: TakerThread,
    ) -> Result<(), OpenError> {
        self.snapshots.push((desk.clone(), spawn("towline-give", move || giver.run())?));
        self.snapshots.push((desk.clone(), spawn("towline-take", move || taker.run())?));
        Ok(())
    }

    pub(super) fn start_keeper(&mut self, shared: Arc<Shared>, replay_bytes_max: u64) -> Result<(), OpenError> {
        let (end, ended) = bounded(0);
        let keeper = Keeper::new(shared, replay_bytes_max, ended);
        let thread = spawn("towline-keep", move || keeper.run())?;
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
        let thread = spawn("towline-scrub", move || scrubber.run())?;
        self.attendants.push((end, thread));
        Ok(())
    }

    /// Nothing more is let go, and the log is not scrubbed any more.
    pub(super) fn end_attendants(&mut self) {
        let (ends, threads): (Vec<_>, Vec<_>) = self.attendants.drain(..).unzip();
        drop(ends);
        for thread in threads {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "a thread had ended by a panic");
            }
        }
    }

    #[cfg(test)]
    pub(super) fn attendants(&self) -> usize {
        self.attendants.len()
    }

    /// Ends them, those first that give the others work: each finishes what it has. The name of one that had panicked.
    pub(super) fn end(&mut self) -> Option<String> {
        self.end_attendants();
        let mut panicked = None;
        let mut join = |thread: JoinHandle<()>| {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                panicked = Some(name);
            }
        };
        self.workers.iter().for_each(|(desk, _)| desk.order(Order::End));
        self.workers.drain(..).for_each(|(_, thread)| join(thread));
        // One that has ended already, by a panic, hears nothing.
        self.appliers.iter().for_each(|(orders, _)| drop(orders.send(ApplyOrder::End)));
        self.appliers.drain(..).for_each(|(_, thread)| join(thread));
        if let Some((orders, thread)) = self.reader.take() {
            // As above.
            drop(orders.send(ReadOrder::End));
            join(thread);
        }
        for (desk, thread) in self.snapshots.drain(..) {
            // As above; each reads its own order.
            drop((desk.give.send(GiveOrder::End), desk.take.send(TakeOrder::End)));
            join(thread);
        }
        panicked
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            tracing::error!(thread, "a thread had ended by a panic");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
}
