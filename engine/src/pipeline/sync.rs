//! What threads meet at in the pipeline, and in what a node builds on it: the machine's locks, atomics and queues; or, under
//! `--cfg shuttle`, those of a scheduler that tries orders of their steps (`make models`).

#[cfg(not(shuttle))]
mod primitives {
    pub(crate) use crossbeam::queue::SegQueue;
    pub(crate) use crossbeam::utils::{Backoff, CachePadded};
    pub(crate) use parking_lot::{Condvar, Mutex};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    use std::task::Waker;
    pub(crate) use std::thread;

    /// Wakes a task by the waker of an executor that is not ours: a panic in it is its own, and harms neither this thread nor
    /// those who are woken after it. Under no lock: who is woken may ask at once.
    pub(crate) fn wake(waker: Waker) {
        // The panic's message is printed by the hook; there is nobody else to tell.
        drop(catch_unwind(AssertUnwindSafe(|| waker.wake())));
    }

    /// A number that threads can sleep on.
    #[derive(Debug, Default)]
    pub(crate) struct Futex(AtomicU32);

    impl Futex {
        pub(crate) const fn number(&self) -> &AtomicU32 {
            &self.0
        }

        /// Sleeps, if the number is still this one; wakes by [`Futex::wake_all`], or without a reason.
        pub(crate) fn wait(&self, number: u32) {
            atomic_wait::wait(&self.0, number);
        }

        pub(crate) fn wake_all(&self) {
            atomic_wait::wake_all(&raw const self.0);
        }
    }
}

/// The same names and shapes. What a queue does is one step here, which crossbeam's promise too; orders weaker than
/// sequentially consistent are not tried.
#[cfg(shuttle)]
mod primitives {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::{Duration, Instant};

    /// Who waits for so long is never out of time: a call that does not come is a deadlock, which fails the model. Whoever
    /// waits for less may be out of time at any moment, as the scheduler's dice say.
    const NEVER: Duration = Duration::from_secs(3600);

    /// A panic ends a model as a whole.
    pub(crate) fn wake(waker: std::task::Waker) {
        waker.wake();
    }

    fn is_out_of_time() -> bool {
        shuttle::rand::Rng::r#gen(&mut shuttle::rand::thread_rng())
    }

    pub(crate) mod thread {
        pub(crate) use shuttle::thread::*;
        use std::time::Duration;

        pub(crate) fn park_timeout(timeout: Duration) {
            if timeout >= super::NEVER || !super::is_out_of_time() {
                park();
            } else {
                yield_now();
            }
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(inside: T) -> Self {
            Self(shuttle::sync::Mutex::new(inside))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { of: self, held: Some(self.held()) }
        }

        fn held(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T> {
        of: &'a Mutex<T>,
        /// None while its owner sleeps.
        held: Option<shuttle::sync::MutexGuard<'a, T>>,
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().unwrap()
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Futex {
        number: AtomicU32,
        /// As the kernel's: the number is looked at again under the lock under which sleepers are woken.
        bucket: Mutex<()>,
        sleepers: Condvar,
    }

    impl Futex {
        pub(crate) const fn number(&self) -> &AtomicU32 {
            &self.number
        }

        pub(crate) fn wait(&self, number: u32) {
            let mut bucket = self.bucket.lock();
            if self.number.load(Ordering::SeqCst) == number {
                self.sleepers.wait(&mut bucket);
            }
        }

        pub(crate) fn wake_all(&self) {
            let bucket = self.bucket.lock();
            self.sleepers.notify_all();
            drop(bucket);
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(shuttle::sync::Condvar);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct WaitTimeoutResult(bool);

    impl WaitTimeoutResult {
        pub(crate) const fn timed_out(self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Self(shuttle::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.held.take().map(|held| self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
            guard.held = held;
        }

        pub(crate) fn wait_while<T>(&self, guard: &mut MutexGuard<'_, T>, mut condition: impl FnMut(&mut T) -> bool) {
            while condition(guard) {
                self.wait(guard);
            }
        }

        /// Where time may run out, it also returns without a reason: then a call says no more than a look does.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
            if timeout >= NEVER {
                self.wait(guard);
                return WaitTimeoutResult(false);
            }
            drop(guard.held.take());
            thread::yield_now();
            guard.held = Some(guard.of.held());
            WaitTimeoutResult(is_out_of_time())
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
            self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
        }

        /// As `parking_lot`'s: once time is up, the condition is not asked again.
        pub(crate) fn wait_while_for<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            mut condition: impl FnMut(&mut T) -> bool,
            timeout: Duration,
        ) -> WaitTimeoutResult {
            let mut result = WaitTimeoutResult(false);
            while !result.timed_out() && condition(guard) {
                result = self.wait_for(guard, timeout);
            }
            result
        }
    }

    #[derive(Debug)]
    pub(crate) struct SegQueue<T>(Mutex<VecDeque<T>>);

    impl<T> SegQueue<T> {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(VecDeque::new()))
        }

        pub(crate) fn push(&self, item: T) {
            self.0.lock().push_back(item);
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.0.lock().pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }

    #[derive(Debug)]
    pub(crate) struct CachePadded<T>(T);

    impl<T> CachePadded<T> {
        pub(crate) const fn new(inside: T) -> Self {
            Self(inside)
        }
    }

    impl<T> Deref for CachePadded<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    /// Looks once more, and then it is time to sleep.
    #[derive(Debug)]
    pub(crate) struct Backoff(Cell<bool>);

    impl Backoff {
        pub(crate) const fn new() -> Self {
            Self(Cell::new(false))
        }

        pub(crate) fn snooze(&self) {
            self.0.set(true);
            thread::yield_now();
        }

        pub(crate) fn is_completed(&self) -> bool {
            self.0.get()
        }
    }
}

pub(crate) use primitives::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Backoff, CachePadded, Condvar, Futex, Mutex, Ordering, SegQueue,
    thread, wake,
};

/// Runs a model in many orders: at random, and with few switches at places drawn beforehand, which finds rare ones.
#[cfg(all(test, shuttle))]
pub(crate) fn check(model: fn()) {
    /// Orders tried, of each kind.
    const SCHEDULES: usize = 10_000;
    /// Places at which the scheduler that looks for rare orders may switch.
    const DEPTH: usize = 3;
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, DEPTH);
}
