//! Who is connected.
//!
//! Invariant: a connection is listed from before its thread starts until that thread is past its last use of the
//! export, also when it panics.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connection::Watch;
use crate::socket::Socket;

/// What the status says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// Number, counted from the server's start.
    pub id: u64,
    /// Process and user, or address, of the client.
    pub peer: String,
    /// The handshake is over.
    pub transmitting: bool,
    /// Requests received.
    pub requests: u64,
    /// Bytes that reads asked for.
    pub bytes_read: u64,
    /// Bytes received for writes.
    pub bytes_written: u64,
}

/// What happened since the server's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Clients that got a thread.
    pub accepted: u64,
    /// Clients that were turned away, because there were too many or no thread could be had.
    pub refused: u64,
    /// Connections that ended with an error (a handshake too slow, a stream out of step, no queue).
    pub failed: u64,
}

#[derive(Debug)]
struct Entry {
    socket: Arc<Socket>,
    watch: Arc<Watch>,
    peer: String,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Entry>,
    counts: ServerCounts,
    next: u64,
}

/// All connections of a server.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
    ended: Condvar,
}

/// Takes its connection off the list when dropped.
pub(crate) struct Listed {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.lock().open.remove(&self.id);
        self.registry.ended.notify_all();
    }
}

impl Listed {
    /// The connection ended with an error.
    pub(crate) fn failed(&self) {
        self.registry.lock().counts.failed += 1;
    }
}

impl Registry {
    /// Every change under the lock is a whole one, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a connection, unless there are `max` already.
    pub(crate) fn admit(
        self: &Arc<Self>,
        socket: &Arc<Socket>,
        watch: &Arc<Watch>,
        max: usize,
    ) -> Option<Listed> {
        let peer = socket.peer();
        let mut state = self.lock();
        if state.open.len() >= max {
            state.counts.refused += 1;
            return None;
        }
        state.counts.accepted += 1;
        let id = state.next;
        state.next += 1;
        let entry = Entry { socket: Arc::clone(socket), watch: Arc::clone(watch), peer };
        state.open.insert(id, entry);
        Some(Listed { registry: Arc::clone(self), id })
    }

    pub(crate) fn refused(&self) {
        self.lock().counts.refused += 1;
    }

    pub(crate) fn counts(&self) -> ServerCounts {
        self.lock().counts
    }

    pub(crate) fn list(&self) -> Vec<ConnectionStatus> {
        let status = |(id, entry): (&u64, &Entry)| ConnectionStatus {
            id: *id,
            peer: entry.peer.clone(),
            transmitting: entry.watch.transmitting.load(Ordering::Relaxed),
            requests: entry.watch.requests.load(Ordering::Relaxed),
            bytes_read: entry.watch.bytes_read.load(Ordering::Relaxed),
            bytes_written: entry.watch.bytes_written.load(Ordering::Relaxed),
        };
        self.lock().open.iter().map(status).collect()
    }

    /// Connections take no more requests.
    pub(crate) fn stop_all(&self) {
        for entry in self.lock().open.values() {
            entry.watch.stop.store(true, Ordering::Release);
            entry.socket.stop_receiving();
        }
    }

    /// Connections send no more replies.
    pub(crate) fn cut_all(&self) {
        self.lock().open.values().for_each(|entry| entry.socket.cut());
    }

    /// Waits until no connection is left, for `patience` at most; returns how many are.
    pub(crate) fn wait_empty(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.open.len()
    }
}
