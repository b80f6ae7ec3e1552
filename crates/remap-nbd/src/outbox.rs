//! Replies on their way out.
//!
//! Invariant: replies leave whole and in the order in which they were put in, many with one system call; how much may
//! wait here is bounded by the connection's limits, because a request counts against them until its reply is out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::reply::Reply;
use crate::socket::Socket;

/// Pieces given to one system call, at most.
const PIECES: usize = 128;

/// The queue of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    replies: VecDeque<Reply>,
    /// Bytes of the first reply that are out already.
    sent: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, reply: Reply) {
        self.replies.push_back(reply);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Takes a reply out without sending it, for a peer that is gone.
    pub(crate) fn pop(&mut self) -> Option<Reply> {
        self.sent = 0;
        self.replies.pop_front()
    }

    /// Sends until everything is out or the socket takes no more; hands every finished reply to `out`.
    pub(crate) fn send(&mut self, socket: &Socket, mut out: impl FnMut(Reply)) -> io::Result<()> {
        while !self.replies.is_empty() {
            let Some(mut sent) = self.send_once(socket)? else { return Ok(()) };
            sent += self.sent;
            while let Some(reply) = self.pop_within(sent) {
                sent -= reply.len();
                out(reply);
            }
            self.sent = sent;
        }
        Ok(())
    }

    /// The first reply, if `sent` bytes cover it.
    fn pop_within(&mut self, sent: usize) -> Option<Reply> {
        if self.replies.front()?.len() <= sent { self.replies.pop_front() } else { None }
    }

    fn send_once(&self, socket: &Socket) -> io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (n, reply) in self.replies.iter().enumerate() {
            reply.pieces(if n == 0 { self.sent } else { 0 }, |piece| {
                let room = count < PIECES;
                if room {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
                room
            });
            if count == PIECES {
                break;
            }
        }
        socket.send(&slices[..count])
    }
}
