//! A way between two nodes that can be cut, stopped, and deaf in one direction.

use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// What stands is closed, what comes is refused.
    Cut,
    /// Nothing goes on, and nothing is closed.
    Stalled,
    /// Only answers go on.
    Deaf,
    /// Only what is asked goes on.
    Mute,
    Slow,
}

/// From one node to another. It ends with its runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub(crate) fn new(runtime: &Handle, target: String) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let modes = Arc::clone(&mode);
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target.clone(), modes.subscribe()));
            }
        });
        Self { address, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn carry(near: TcpStream, target: String, modes: watch::Receiver<Mode>) {
    if *modes.borrow() == Mode::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let there = pump(near_read, far_write, modes.clone(), Mode::Deaf);
    let back = pump(far_read, near_write, modes, Mode::Mute);
    tokio::select! { () = there => {}, () = back => {} }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>, stops: Mode) {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let mode = *modes.borrow_and_update();
        match mode {
            Mode::Cut => return,
            mode if mode == stops || mode == Mode::Stalled => {
                if modes.changed().await.is_err() {
                    return;
                }
                continue;
            }
            _ => {}
        }
        tokio::select! {
            changed = modes.changed() => if changed.is_err() { return },
            read = from.read(&mut piece) => {
                let Ok(length @ 1..) = read else { return };
                if mode == Mode::Slow {
                    sleep(Duration::from_millis(5)).await;
                }
                if to.write_all(&piece[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
