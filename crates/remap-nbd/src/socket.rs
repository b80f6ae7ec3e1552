//! One client's socket: receives and sends that never block, waits with a deadline for the handshake.
//!
//! Invariant: no call but [`Socket::wait`] sleeps, and none raises SIGPIPE; the descriptor's own flags are left alone.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, getpeername,
    recvmsg, sendmsg, shutdown, sockopt,
};

/// Bytes thrown away after the last reply, at most, so that closing does not reset what the client has yet to read.
const LINGER_BYTES: usize = 4 << 20;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

fn would_block<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // Refused for a Unix socket, where there is nothing to set; not worth failing for on any other.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let _ = sockopt::set_socket_keepalive(&fd, true);
        Self(fd)
    }

    /// Receives into `first`, then `second`. `None` when nothing is there; 0 at the end of the stream.
    pub(crate) fn receive(&self, first: &mut [u8], second: &mut [u8]) -> io::Result<Option<usize>> {
        let mut slices = [IoSliceMut::new(first), IoSliceMut::new(second)];
        let slices = if slices[0].is_empty() { &mut slices[1..] } else { &mut slices[..] };
        let mut control = RecvAncillaryBuffer::default();
        let received = would_block(rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, slices, &mut control, RecvFlags::DONTWAIT)
        }))?;
        Ok(received.map(|message| message.bytes))
    }

    /// Sends what fits. `None` when nothing does.
    pub(crate) fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        would_block(rustix::io::retry_on_intr(|| {
            let mut control = SendAncillaryBuffer::default();
            sendmsg(&self.0, slices, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        }))
    }

    /// Sends all of `bytes` before `deadline`.
    pub(crate) fn send_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send(&[IoSlice::new(bytes)])? {
                Some(sent) => bytes = &bytes[sent..],
                None => self.wait(PollFlags::OUT, deadline)?,
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready or `deadline` is over, which is an error.
    pub(crate) fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Rounded up, so that a wait that is over is over.
            let left = Timespec::try_from(left + Duration::from_millis(1)).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.0, flags)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Is there something to receive, or nobody any more to receive it from?
    pub(crate) fn is_readable(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&at_once)), Ok(1))
    }

    /// Nothing more is received; what was sent still goes out.
    pub(crate) fn stop_receiving(&self) {
        // It fails when the peer is gone, and then there is nothing to stop.
        let _ = shutdown(&self.0, Shutdown::Read);
    }

    /// Nothing goes in or out any more.
    pub(crate) fn cut(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Ends the stream so that the client gets all that was sent: a socket closed with unread bytes resets the
    /// connection, and a reset may overtake the last replies.
    pub(crate) fn finish(&self) {
        let _ = shutdown(&self.0, Shutdown::Write);
        let mut bin = vec![0; 64 << 10];
        let mut thrown = 0;
        while thrown < LINGER_BYTES {
            match self.receive(&mut [], &mut bin) {
                Ok(Some(received)) if received > 0 => thrown += received,
                _ => return,
            }
        }
    }

    /// Who is at the other end, for people.
    pub(crate) fn peer(&self) -> String {
        let unknown = || "unknown peer".to_owned();
        match getpeername(&self.0) {
            Ok(Some(address)) if address.address_family() == rustix::net::AddressFamily::UNIX => {
                self.peer_process()
            }
            Ok(Some(address)) => tcp_address(&address).unwrap_or_else(unknown),
            _ => self.peer_process(),
        }
    }

    fn peer_process(&self) -> String {
        match sockopt::socket_peercred(&self.0) {
            Ok(peer) => format!("process {} of user {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
            Err(_) => "unknown peer".to_owned(),
        }
    }
}

fn tcp_address(address: &SocketAddrAny) -> Option<String> {
    std::net::SocketAddr::try_from(address.clone()).ok().map(|address| address.to_string())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
