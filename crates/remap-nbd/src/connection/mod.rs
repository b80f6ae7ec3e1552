//! One connection from greeting to end, on one thread with a queue of its own.
//!
//! Invariant: a request counts against the connection's limits from the moment that its head was read until its reply
//! is out, and nothing is read from the socket above them; so no client can make the server hold more. The export's
//! queue is opened only after the handshake, and left only when nothing is in flight in it.

mod input;
mod jobs;
mod patience;
mod transmission;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use remap_runtime::front::Export;
use rustix::event::PollFlags;
use zerocopy::IntoBytes;

use self::input::Input;
use self::transmission::Transmission;
use crate::handshake::{Handshake, Negotiated, Progress};
use crate::offer::Offer;
use crate::socket::Socket;
use crate::transmission::{Requests, StreamError};

/// What one connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Requests that are read and not yet answered.
    pub requests: usize,
    /// Bytes of payload of those requests. A single request may exceed it.
    pub bytes: usize,
    /// Time from the connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// While requests come one soon after the other, a connection looks for the next one for so long before it sleeps. Zero: never.
    pub busy_poll: Duration,
}

/// Long enough for a client whose processor must be woken by a hypervisor.
const BUSY_POLL: Duration = Duration::from_micros(50);

impl Default for ConnectionLimits {
    fn default() -> Self {
        let handshake_timeout = Duration::from_secs(10);
        Self { requests: 256, bytes: 64 << 20, handshake_timeout, busy_poll: BUSY_POLL }
    }
}

/// Why a connection ended other than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not finish the handshake in time.
    #[error("the client did not finish the handshake within {0:?}")]
    HandshakeTimeout(Duration),
    /// The requests could not be followed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The socket failed during the handshake.
    #[error("the connection failed during the handshake: {0}")]
    Socket(#[source] io::Error),
    /// The volume gave no queue, or the queue failed.
    #[error("no I/O queue for this connection: {0}; other connections go on")]
    Queue(#[source] io::Error),
}

/// What others may see of a connection, and the way to end it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) stop: AtomicBool,
    pub(crate) transmitting: AtomicBool,
    pub(crate) requests: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

impl Watch {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Serves `export` to the one client behind `stream` (a connected socket), under `export_name` or the volume's own
/// name. Returns when the client has left and nothing is in flight.
///
/// # Errors
/// [`ServeError`] when the connection ended other than by the client's wish.
pub fn serve_stream<E: Export>(
    export: &E,
    stream: impl Into<OwnedFd>,
    export_name: Option<&str>,
    limits: ConnectionLimits,
) -> Result<(), ServeError> {
    serve(export, &Socket::new(stream.into()), export_name, limits, &Watch::default())
}

/// As [`serve_stream`], for the server, which watches its connections.
pub(crate) fn serve<E: Export>(
    export: &E,
    socket: &Socket,
    export_name: Option<&str>,
    limits: ConnectionLimits,
    watch: &Watch,
) -> Result<(), ServeError> {
    let result = serve_phases(export, socket, export_name, limits, watch);
    socket.finish();
    result
}

fn serve_phases<E: Export>(
    export: &E,
    socket: &Socket,
    export_name: Option<&str>,
    limits: ConnectionLimits,
    watch: &Watch,
) -> Result<(), ServeError> {
    let offer = Offer::new(&export.geometry(), export_name);
    let mut input = Input::default();
    let Some(negotiated) = negotiate(socket, &offer, &mut input, limits.handshake_timeout, watch)? else {
        return Ok(());
    };
    watch.transmitting.store(true, Ordering::Relaxed);
    let queue = export.queue().map_err(ServeError::Queue)?;
    let requests = Requests::new(offer, negotiated);
    Transmission::new(export, queue, requests, socket, limits, watch, input).run()
}

/// Runs the handshake; `None` when the client left during it.
fn negotiate(
    socket: &Socket,
    offer: &Offer,
    input: &mut Input,
    timeout: Duration,
    watch: &Watch,
) -> Result<Option<Negotiated>, ServeError> {
    let deadline = Instant::now() + timeout;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => Err(ServeError::HandshakeTimeout(timeout)),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(None),
        _ => Err(ServeError::Socket(error)),
    };
    let mut handshake = Handshake::new(offer);
    let mut out = handshake.greeting().as_bytes().to_vec();
    loop {
        // Nothing more is handled before the client took the answers, so that these cannot pile up.
        if let Err(error) = socket.send_all(&out, deadline) {
            return failed(error);
        }
        out.clear();
        let (used, progress) = handshake.advance(input.unread(), &mut out);
        input.consume(used);
        match progress {
            Progress::Continue => {}
            Progress::Transmission(negotiated) => {
                return match socket.send_all(&out, deadline) {
                    Ok(()) => Ok(Some(negotiated)),
                    Err(error) => failed(error),
                };
            }
            Progress::Close => {
                return match socket.send_all(&out, deadline) {
                    Ok(()) => Ok(None),
                    Err(error) => failed(error),
                };
            }
            Progress::NeedMore => {
                if watch.stopping() {
                    return Ok(None);
                }
                match socket.receive(&mut [], input.room(false)) {
                    Ok(Some(0)) => return Ok(None),
                    Ok(Some(received)) => input.received(received),
                    Ok(None) => {
                        if let Err(error) = socket.wait(PollFlags::IN, deadline) {
                            return failed(error);
                        }
                    }
                    Err(error) => return failed(error),
                }
            }
        }
    }
}
