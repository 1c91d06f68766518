//! A slow line over loopback: a relay that lets so many bits a second through towards the server, and has small buffers.

use crate::clock;
use anyhow::Result;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::Builder;
use std::time::Duration;

/// What the relay takes at a time.
const PIECE_BYTES: usize = 8 << 10;
/// Asked for; the kernel doubles it. It stands for the line's own queue, which on a real line is the path's.
const BUFFER_BYTES: usize = 32 << 10;
/// What may be made good at once of time slept too long.
const BURST: Duration = Duration::from_micros(500);

/// Listens for one connection, which it relays to `to`.
pub(crate) fn slow(to: SocketAddr, megabits: u32) -> Result<SocketAddr> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.set_recv_buffer_size(BUFFER_BYTES)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1)?;
    let listener = TcpListener::from(listener);
    let address = listener.local_addr()?;
    // Both end with the connection.
    Builder::new().name("line".into()).spawn(move || -> Result<()> {
        let (client, _) = listener.accept()?;
        let server = TcpStream::connect(to)?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        SockRef::from(&server).set_send_buffer_size(BUFFER_BYTES)?;
        let (mut back_from, mut back_to) = (server.try_clone()?, client.try_clone()?);
        Builder::new().name("line-back".into()).spawn(move || std::io::copy(&mut back_from, &mut back_to))?;
        relay(client, server, f64::from(megabits) * 1e6)
    })?;
    Ok(address)
}

fn relay(mut from: TcpStream, mut to: TcpStream, bits_a_second: f64) -> Result<()> {
    let mut piece = [0; PIECE_BYTES];
    let mut free_at = clock::now();
    loop {
        let count = from.read(&mut piece)?;
        let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        let now = clock::now();
        free_at = free_at.max(now.checked_sub(BURST).unwrap_or(now));
        free_at += Duration::from_secs_f64(count as f64 * 8.0 / bits_a_second);
        let wait = free_at.saturating_duration_since(now);
        if !wait.is_zero() {
            clock::pass(wait);
        }
        to.write_all(bytes)?;
    }
}
