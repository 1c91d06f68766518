//! The task of one connection: reads, writes, waits for time, delivers events.
//!
//! One loop with one place to wait, so nothing is lost when another branch wins: each branch is a call that is
//! cancellation-safe (a read, a vectored write, a notification, a sleep, a reservation), and all state lives in the
//! task, not in a branch.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::connection::{Connection, ConnectionConfig, Landing, Side};
use crate::error::{ConfigError, ConnectionError};

use super::admission::Ticket;
use super::handle::{ConnectionHandle, Shared, Stage, WeakHandle};
use super::sink::{EventSink, Kind};

/// What is handed to the kernel at a time. What was taken from the connection can't be overtaken any more, so this
/// is what a heartbeat waits for, together with TCP_NOTSENT_LOWAT.
const TRANSMIT_BYTES: usize = 128 << 10;

/// Buffers in one vectored write.
const SLICES: usize = 64;

/// The read buffer starts small (ten thousand idle connections) and doubles while reads fill it.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// The rest of a payload of at least so many bytes is read straight into its message: below it, a copy costs less than one
/// more read.
const LANDING_BYTES_MIN: usize = 16 << 10;

/// Read for the next frame's header, where the last one landed: what stands behind the header is copied.
const HEAD_BYTES: usize = 4 << 10;

/// How long a farewell may take, with the time until the peer has heard it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Events delivered before the task looks at its socket again.
const EVENTS_AT_ONCE: usize = 256;

pub(super) fn spawn<T>(
    io: T,
    side: Side,
    config: ConnectionConfig,
    sink: EventSink,
    mut ticket: Option<Ticket>,
    ends: Option<SystemTime>,
) -> Result<ConnectionHandle, ConfigError>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let core = Connection::new(side, config, Duration::ZERO)?;
    let shared = Arc::new(Shared::new(core, Instant::now()));
    let handle = ConnectionHandle::new(Arc::clone(&shared));
    let (reader, writer) = tokio::io::split(io);
    if let Some(ticket) = &mut ticket {
        ticket.begins();
    }
    let task = Task {
        ending: Ending(shared),
        handle: handle.downgrade(),
        reader,
        writer,
        sink,
        ticket,
        read_buffer: vec![0; READ_BYTES_MIN],
        read_most: 0,
        landing: None,
        has_landed: false,
        ends,
        writing: VecDeque::new(),
        needs_flush: false,
        is_ready: false,
        is_write_broken: false,
    };
    // Owned by itself: it ends with the connection, and `ConnectionHandle::closed` waits for that.
    drop(tokio::spawn(task.run()));
    Ok(handle)
}

/// Says that the task is over, however it came to that: also by a panic in the callback, or with the runtime.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let reason = {
            let mut core = self.0.core.lock();
            core.transport_ended();
            core.closed_reason().cloned().unwrap_or(ConnectionError::TransportEnded)
        };
        self.0.stage.send_replace(Stage::Ended(reason));
        if let Some(account) = self.0.account.get() {
            account.close();
        }
        self.0.room.notify_waiters();
    }
}

struct Task<T> {
    // Dropped in this order: the byte stream and the ticket are released before the end is announced.
    reader: ReadHalf<T>,
    writer: WriteHalf<T>,
    ticket: Option<Ticket>,
    sink: EventSink,
    handle: WeakHandle,
    read_buffer: Vec<u8>,
    /// Bytes of the largest read since the alarm rang last.
    read_most: usize,
    /// The message that the next bytes belong to.
    landing: Option<Landing>,
    /// The last bytes went there: the next frame is as large, it seems.
    has_landed: bool,
    /// When what the peer proved who it is by ends, by the clock on the wall.
    ends: Option<SystemTime>,
    writing: VecDeque<Bytes>,
    needs_flush: bool,
    is_ready: bool,
    /// A write failed. Reading goes on to the end of the stream: the peer's last word may still be there, and says
    /// why better than a broken pipe does.
    is_write_broken: bool,
    ending: Ending,
}

enum Delivered {
    All,
    /// More is there; come back.
    Some,
    /// The channel is full.
    Blocked,
}

impl<T: AsyncRead + AsyncWrite> Task<T> {
    async fn run(mut self) {
        let shared = Arc::clone(&self.ending.0);
        let mut alarm = Box::pin(sleep_until(Instant::now()));
        loop {
            let delivered = self.deliver();
            let (deadline, is_closed) = self.take_transmit(&shared);
            if is_closed {
                break;
            }
            reset_alarm(&mut alarm, deadline.map(|deadline| shared.instant(deadline)));
            let is_blocked = matches!(delivered, Delivered::Blocked);
            let head_bytes = if self.has_landed { HEAD_BYTES } else { READ_BYTES_MAX };
            let Self { reader, writer, read_buffer, landing, writing, needs_flush, sink, is_write_broken, .. } =
                &mut self;
            let has_output = !writing.is_empty() || *needs_flush;
            tokio::select! {
                read = read_some(reader, landing, read_buffer, head_bytes) => self.on_read(&shared, read),
                written = write_some(writer, writing, needs_flush), if has_output => {
                    if written.is_err() {
                        *is_write_broken = true;
                        writing.clear();
                        *needs_flush = false;
                    }
                }
                // Whoever else is about to send goes first: what all of them have goes by one write. Otherwise the task would
                // run between any two of them, since tokio runs next whom the last task woke, and write for each.
                () = shared.wake.notified() => tokio::task::yield_now().await,
                () = alarm.as_mut(), if deadline.is_some() => self.on_alarm(&shared),
                () = room_in(sink), if is_blocked => {}
                () = std::future::ready(()), if matches!(delivered, Delivered::Some) => {}
            }
        }
        // By itself: otherwise each connection has room for its end from the beginning.
        Box::pin(self.end(&shared)).await;
    }

    /// Fills the write queue when it is empty. Later would leave the wire idle, earlier would freeze the order.
    fn take_transmit(&mut self, shared: &Shared) -> (Option<Duration>, bool) {
        let mut core = shared.core.lock();
        // What waits for room is a message that the buffer is too full for: nothing but handing out frames empties it, and
        // a stream's end is a frame too.
        let mut gives_room = false;
        if self.writing.is_empty()
            && !self.is_write_broken
            && !core.is_closed()
            && let Some(bytes) = core.poll_transmit(shared.now(), TRANSMIT_BYTES)
        {
            self.writing.extend(bytes);
            self.needs_flush = true;
            gives_room = true;
        }
        if self.landing.is_none() {
            self.landing = core.landing(LANDING_BYTES_MIN);
        }
        let (deadline, is_closed) = (core.next_deadline(), core.is_closed());
        let peer = core.peer().copied();
        let account = shared.account.get().map(|account| (account, core.held_bytes()));
        drop(core);
        if let Some((account, held)) = account {
            account.tell(held);
        }
        if gives_room || is_closed {
            shared.room.notify_waiters();
        }
        if let Some(peer) = peer
            && !self.is_ready
        {
            self.is_ready = true;
            if let Some(ticket) = &mut self.ticket {
                ticket.handshake_is_over();
            }
            shared.stage.send_replace(Stage::Ready(peer));
        }
        (deadline, is_closed)
    }

    fn on_read(&mut self, shared: &Shared, read: io::Result<usize>) {
        let mut core = shared.core.lock();
        match read {
            Ok(0) | Err(_) => core.transport_ended(),
            // The reason stays in the connection, which the loop looks at next.
            Ok(count) => {
                self.has_landed = self.landing.is_some();
                if let Some(landing) = self.landing.take() {
                    return drop(core.landed(shared.now(), landing));
                }
                drop(core.receive(shared.now(), &self.read_buffer[..count]));
                self.read_most = self.read_most.max(count);
                if count == self.read_buffer.len() && count < READ_BYTES_MAX {
                    self.read_buffer = vec![0; count * 2];
                }
            }
        }
    }

    /// Rings at each ping at the least, and once more where one is not answered.
    #[expect(clippy::disallowed_methods, reason = "a certificate ends by the clock on the wall")]
    fn on_alarm(&mut self, shared: &Shared) {
        let mut core = shared.core.lock();
        core.tick(shared.now());
        if self.ends.is_some_and(|ends| ends < SystemTime::now()) {
            core.certificate_ended();
        }
        drop(core);
        // What a burst made it grow to is given back. Reads that would fill it double it again.
        let enough = self.read_most.next_power_of_two().max(READ_BYTES_MIN);
        if enough < self.read_buffer.len() {
            self.read_buffer = vec![0; enough];
        }
        self.read_most = 0;
        if self.writing.is_empty() {
            self.writing = VecDeque::new();
        }
    }

    /// Hands out events; the lock is free while somebody else's code runs.
    fn deliver(&mut self) -> Delivered {
        let core = &self.ending.0.core;
        for _ in 0..EVENTS_AT_ONCE {
            match &mut self.sink.0 {
                Kind::Callback(callback) => {
                    let Some(event) = core.lock().poll_event() else {
                        return Delivered::All;
                    };
                    callback(&self.handle.lend(), event);
                }
                Kind::Channel(sender) => match sender.try_reserve() {
                    Ok(permit) => {
                        let Some(event) = core.lock().poll_event() else {
                            return Delivered::All;
                        };
                        permit.send(event);
                    }
                    Err(mpsc::error::TrySendError::Full(())) => return Delivered::Blocked,
                    Err(mpsc::error::TrySendError::Closed(())) => {
                        // Nobody will take events or give credit back.
                        let mut core = core.lock();
                        core.close();
                        while core.poll_event().is_some() {}
                        return Delivered::All;
                    }
                },
            }
        }
        Delivered::Some
    }

    /// What its own side waits for, the last bytes, the end of the byte stream, then the last events.
    async fn end(mut self, shared: &Shared) {
        while matches!(self.deliver(), Delivered::Some) {}
        if let Some(account) = shared.account.get() {
            account.close();
        }
        // Nothing shows that a peer that nothing is heard of hears the last word.
        let is_silent = matches!(shared.core.lock().closed_reason(), Some(ConnectionError::IdleTimeout));
        let mut says_why = false;
        while let Some(bytes) = shared.core.lock().poll_transmit(shared.now(), TRANSMIT_BYTES) {
            says_why = !is_silent;
            self.needs_flush = true;
            self.writing.extend(bytes);
        }
        let Self { mut reader, mut writer, mut writing, mut needs_flush, mut ticket, mut sink, handle, ending, .. } =
            self;
        let (mut passed_over, landing) = (self.read_buffer, self.landing);
        drop(landing);
        passed_over.truncate(READ_BYTES_MIN);
        passed_over.shrink_to_fit();
        let writes = async {
            while !writing.is_empty() || needs_flush {
                write_some(&mut writer, &mut writing, &mut needs_flush).await?;
            }
            writer.shutdown().await
        };
        // A socket that is closed while bytes lie in it unread resets its connection (RFC 2525, 2.17), and what the peer has
        // not been sent yet is lost with it: the last word too. So it is read to its end, which comes when the peer has heard.
        let reads = async {
            while says_why && reader.read(&mut passed_over).await? > 0 {}
            Ok(())
        };
        // Best effort, in bounded time: the connection has ended whether or not the peer hears of it.
        let _outcome = timeout(FAREWELL, async { tokio::try_join!(writes, reads) }).await;
        if let (Some(ticket), Some(reason)) = (&mut ticket, shared.core.lock().closed_reason()) {
            ticket.ended(reason.code());
        }
        drop((reader, writer, ticket));
        // The end is announced before the last events are: whoever waits for it may be the one who takes them.
        drop(ending);
        deliver_last(&mut sink, &handle, shared).await;
    }
}

/// Delivers what is left, at the pace of whoever takes it: the events and their bytes are the only thing still held.
async fn deliver_last(sink: &mut EventSink, handle: &WeakHandle, shared: &Shared) {
    loop {
        let Some(event) = shared.core.lock().poll_event() else {
            return;
        };
        match &mut sink.0 {
            Kind::Callback(callback) => callback(&handle.lend(), event),
            Kind::Channel(sender) => {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The alarm moves forward lazily: one that rings too early costs a tick, moving it at each read would cost more.
fn reset_alarm(alarm: &mut Pin<Box<Sleep>>, deadline: Option<Instant>) {
    if let Some(deadline) = deadline
        && (alarm.is_elapsed() || alarm.deadline() > deadline)
    {
        alarm.as_mut().reset(deadline);
    }
}

/// Resolves when the channel has room, or nobody listens any more.
fn room_in(sink: &mut EventSink) -> impl Future<Output = ()> + Send {
    let sender = match &sink.0 {
        Kind::Channel(sender) => Some(sender.clone()),
        Kind::Callback(_) => None,
    };
    async move {
        if let Some(sender) = sender {
            // The reservation itself is not kept: the next delivery makes its own.
            drop(sender.reserve().await);
        }
    }
}

/// One read, into a message or into the buffer. Cancellation-safe: what was read is there, or nothing was.
async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    landing: &mut Option<Landing>,
    buffer: &mut [u8],
    bytes_max: usize,
) -> io::Result<usize> {
    match landing {
        Some(landing) => reader.read_buf(&mut landing.buffer()).await,
        None => {
            let bytes_max = buffer.len().min(bytes_max);
            reader.read(&mut buffer[..bytes_max]).await
        }
    }
}

/// One vectored write of many frames, or the flush after the last. Cancellation-safe: either nothing was written, or
/// the queue says so.
async fn write_some<W: AsyncWrite + Unpin>(
    writer: &mut W,
    queue: &mut VecDeque<Bytes>,
    needs_flush: &mut bool,
) -> io::Result<()> {
    if queue.is_empty() {
        writer.flush().await?;
        *needs_flush = false;
        return Ok(());
    }
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for (slice, bytes) in slices.iter_mut().zip(queue.iter()) {
        *slice = IoSlice::new(bytes);
        count += 1;
    }
    let mut written = writer.write_vectored(&slices[..count]).await?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    while let Some(first) = queue.front_mut() {
        if written < first.len() {
            first.advance(written);
            break;
        }
        written -= first.len();
        queue.pop_front();
    }
    Ok(())
}
