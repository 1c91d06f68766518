//! A process that must not outlive the one that started it: it holds a pipe, and ends when the pipe does.

use std::io::Read as _;
use std::thread::Builder;

/// Ends this process at once when standard input ends, as it does when the parent dies, however it dies.
/// Nothing is lost by that: it is what a power cut does.
///
/// The thread's owner is the process; it waits for ever, by intention.
pub(crate) fn end_with_standard_input() -> std::io::Result<()> {
    let body = || {
        let mut buffer = [0; 64];
        let mut input = std::io::stdin().lock();
        while !matches!(input.read(&mut buffer), Ok(0) | Err(_)) {}
        std::process::exit(1);
    };
    Builder::new().name("towline-parent".into()).spawn(body).map(drop)
}
