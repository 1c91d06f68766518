//! The clock by which this process says how old its state is.

use std::time::Duration;

/// Time since the machine was started, what it was suspended counted: a process that slept for an hour knows that its state may be
/// an hour older (faults P4).
pub(super) fn since_boot() -> Duration {
    // Elsewhere the monotonic clock counts that, or nothing does.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let id = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(id);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_forward() {
        let before = super::since_boot();
        assert!(before > std::time::Duration::ZERO && super::since_boot() >= before);
    }
}
