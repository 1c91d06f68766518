//! What this process holds of the heap, counted by its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Counts from nothing, from now on.
pub(crate) fn begin() {
    LIVE.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
}

/// Bytes given and not taken back since; what was given before and is taken back counts as less than nothing.
pub(crate) fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// Counts no more.
pub(crate) fn stop() {
    COUNTING.store(false, Ordering::Relaxed);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether bytes are counted: other modes pay one load for it.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Bytes given and not taken back while counting.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// The system's allocator; what it gives and takes back is counted.
struct Counting;

fn count(from: usize, to: usize) {
    // Relaxed: a sum that is read when the threads are at rest.
    if COUNTING.load(Ordering::Relaxed) {
        LIVE.fetch_add(to as i64 - from as i64, Ordering::Relaxed);
    }
}

// SAFETY: each call is passed to the system's allocator as it is; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), new_size);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(at, layout) }
    }
}
