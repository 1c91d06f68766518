//! What the log's threads meet at: the machine's locks, atomics, channels and futexes; or, under `--cfg shuttle`, those of a
//! scheduler that tries orders of their steps (`make models`).

#[cfg(not(shuttle))]
mod primitives {
    pub(in crate::driver) use crossbeam::channel::{
        Receiver, RecvTimeoutError, Sender, Sender as BoundedSender, bounded, unbounded,
    };
    pub(in crate::driver) use parking_lot::{Mutex, MutexGuard};
    pub(in crate::driver) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    pub(in crate::driver) use std::thread;

    pub(in crate::driver) fn is_panicking() -> bool {
        thread::panicking()
    }

    /// A number that threads can sleep on.
    #[derive(Debug, Default)]
    pub(in crate::driver) struct Futex(AtomicU32);

    impl Futex {
        pub(in crate::driver) const fn number(&self) -> &AtomicU32 {
            &self.0
        }

        /// Sleeps, if the number is still this one; wakes by [`Futex::wake_all`], or without a reason.
        pub(in crate::driver) fn wait(&self, number: u32) {
            atomic_wait::wait(&self.0, number);
        }

        pub(in crate::driver) fn wake_all(&self) {
            atomic_wait::wake_all(&raw const self.0);
        }
    }
}

#[cfg(shuttle)]
mod primitives {
    pub(in crate::driver) use shuttle::sync::MutexGuard;
    pub(in crate::driver) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    pub(in crate::driver) use shuttle::sync::mpsc::{
        Receiver, RecvTimeoutError, Sender, SyncSender as BoundedSender, channel as unbounded, sync_channel as bounded,
    };
    pub(in crate::driver) use shuttle::thread;

    /// A panic ends a model as a whole: nobody goes on after it.
    pub(in crate::driver) const fn is_panicking() -> bool {
        false
    }

    #[derive(Debug, Default)]
    pub(in crate::driver) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::driver) fn new(inside: T) -> Self {
            Self(shuttle::sync::Mutex::new(inside))
        }

        pub(in crate::driver) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(in crate::driver) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    #[derive(Debug, Default)]
    pub(in crate::driver) struct Futex {
        number: AtomicU32,
        /// As the kernel's: the number is looked at again under the lock under which sleepers are woken.
        bucket: Mutex<()>,
        sleepers: shuttle::sync::Condvar,
    }

    impl Futex {
        pub(in crate::driver) const fn number(&self) -> &AtomicU32 {
            &self.number
        }

        pub(in crate::driver) fn wait(&self, number: u32) {
            let bucket = self.bucket.lock();
            if self.number.load(Ordering::SeqCst) == number {
                // The guard, or that a holder of the lock panicked, which fails the model by itself.
                drop(self.sleepers.wait(bucket));
            }
        }

        pub(in crate::driver) fn wake_all(&self) {
            let bucket = self.bucket.lock();
            self.sleepers.notify_all();
            drop(bucket);
        }
    }
}

pub(super) use primitives::{
    AtomicBool, AtomicU32, AtomicUsize, BoundedSender, Futex, Mutex, MutexGuard, Ordering, Receiver, RecvTimeoutError,
    Sender, bounded, is_panicking, thread, unbounded,
};
