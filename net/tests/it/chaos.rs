//! A bad network between two ends, as a proxy on loopback: delay, little bandwidth, one-way cuts, resets, a damaged byte.
//!
//! It knows nothing of frames, so that the tests of another crate can take this file as a module, too. Everything it does
//! follows from its seed and from what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// The proxy: whoever connects to `address` reaches the target behind it, through the two ways.
pub(crate) struct Chaos {
    pub(crate) address: SocketAddr,
    /// What dialers say.
    pub(crate) there: Arc<Way>,
    /// What they hear.
    pub(crate) back: Arc<Way>,
    resets: watch::Sender<u64>,
    accepting: tokio::task::JoinHandle<()>,
}

/// One direction, of all connections.
pub(crate) struct Way {
    is_cut: AtomicBool,
    delay_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    /// Bytes until the one that is damaged, which it counts down.
    until_damage: AtomicU64,
    damage: u8,
    passed: AtomicU64,
}

impl Way {
    fn new(damage: u8) -> Arc<Self> {
        Arc::new(Self {
            is_cut: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(u64::MAX),
            until_damage: AtomicU64::new(u64::MAX),
            damage,
            passed: AtomicU64::new(0),
        })
    }

    /// From here on bytes vanish, the end of the byte stream among them: nobody is told.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// Each piece waits as long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn limit(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Some bits of the byte that comes after so many more are turned over.
    pub(crate) fn damage_after(&self, bytes: u64) {
        self.until_damage.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn bytes_passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// One pump a way and connection; tests that damage have one connection, so the count is not raced for.
    fn spoil(&self, piece: &mut [u8]) {
        let until = self.until_damage.load(Ordering::SeqCst);
        if until == u64::MAX {
            return;
        }
        let length = piece.len() as u64;
        if until < length {
            piece[until as usize] ^= self.damage;
            self.until_damage.store(u64::MAX, Ordering::SeqCst);
        } else {
            self.until_damage.store(until - length, Ordering::SeqCst);
        }
    }

    async fn pump(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Option<()> {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer).await.ok()?;
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
            let rate = self.bytes_per_second.load(Ordering::SeqCst) as f64;
            let pause = delay + Duration::from_secs_f64(count as f64 / rate);
            if pause > Duration::from_micros(1) {
                tokio::time::sleep(pause).await;
            }
            if self.is_cut.load(Ordering::SeqCst) {
                if count == 0 {
                    // Held open: the other side is not to hear of the end.
                    std::future::pending::<()>().await;
                }
                continue;
            }
            if count == 0 {
                return to.shutdown().await.ok();
            }
            self.spoil(&mut buffer[..count]);
            to.write_all(&buffer[..count]).await.ok()?;
            self.passed.fetch_add(count as u64, Ordering::SeqCst);
        }
    }
}

impl Chaos {
    pub(crate) async fn before(target: SocketAddr, seed: u64) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that what lies in the kernel is little beside what the ends hold.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(128).unwrap();
        let address = listener.local_addr().unwrap();
        let mut random = Random(seed);
        // Any pattern but the one that changes nothing.
        let ways = [(); 2].map(|()| Way::new((random.next() % 255) as u8 + 1));
        let [there, back] = &ways;
        let (there, back) = (Arc::clone(there), Arc::clone(back));
        let (resets, reset) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            while let Ok((dialer, _)) = listener.accept().await {
                let Ok(target) = TcpStream::connect(target).await else { continue };
                let [there, back] = &ways;
                tokio::spawn(carry(dialer, target, [Arc::clone(there), Arc::clone(back)], reset.clone()));
            }
        });
        Self { address, there, back, resets, accepting }
    }

    /// All connections that are open now are torn, both ends told so by the kernel.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(dialer: TcpStream, target: TcpStream, ways: [Arc<Way>; 2], mut reset: watch::Receiver<u64>) {
    for socket in [&dialer, &target] {
        socket.set_nodelay(true).ok();
    }
    reset.mark_unchanged();
    let [there, back] = ways;
    let (linger_dialer, linger_target) = (dup(&dialer), dup(&target));
    let (from_dialer, to_dialer) = dialer.into_split();
    let (from_target, to_target) = target.into_split();
    tokio::select! {
        _ = async { tokio::join!(there.pump(from_dialer, to_target), back.pump(from_target, to_dialer)) } => {}
        _ = reset.changed() => {
            for socket in [linger_dialer, linger_target].iter().flatten() {
                SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
            }
        }
    }
}

/// One more descriptor of the same socket, to set its options when the halves are lent out.
fn dup(socket: &TcpStream) -> Option<socket2::Socket> {
    SockRef::from(socket).try_clone().ok()
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed is enough, and quality does not matter here.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
