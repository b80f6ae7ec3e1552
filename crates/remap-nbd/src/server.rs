//! Listeners, one thread per connection, an orderly end.
//!
//! Invariant: whatever a connection does, [`Server::run`] goes on accepting; once stopped it returns in bounded time, with
//! every request that was in flight finished and, if its client still reads, answered.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use remap_runtime::front::Export;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::connection::{ConnectionLimits, Watch, serve};
use crate::listen::{BindError, Listen, Listener};
use crate::registry::{ConnectionStatus, Listed, Registry, ServerCounts};
use crate::socket::Socket;
use crate::uri::Uri;

/// Rest after an accept that failed for lack of descriptors or memory: the waiting client would make it fail at once
/// again.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How to serve.
#[derive(Debug)]
pub struct ServerConfig {
    /// Where to listen; at least one place.
    pub listen: Vec<Listen>,
    /// Name of the export; the volume's own when `None`. The empty name always works.
    pub export_name: Option<String>,
    /// Connections at a time; more are closed at once.
    pub max_connections: usize,
    /// What each of them may use.
    pub limits: ConnectionLimits,
    /// Time that clients have, once the server stops, to take the replies to what is in flight; as much again for the
    /// devices to finish.
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            export_name: None,
            max_connections: 100,
            limits: ConnectionLimits::default(),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Why the server ended otherwise than by [`StopHandle::stop`] and cleanly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Waiting for clients failed.
    #[error("waiting for clients failed: {0}")]
    Wait(#[source] io::Error),
    /// Requests did not end.
    #[error("{0} connections still had requests at the devices when the time to stop was over")]
    Stuck(usize),
}

/// Stops a server, from any thread, at any time.
#[derive(Clone, Debug)]
pub struct StopHandle {
    stop: Arc<Stop>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    bell: OwnedFd,
}

impl StopHandle {
    /// No more clients, no more requests; what is in flight is finished. Returns at once.
    pub fn stop(&self) {
        self.stop.asked.store(true, Ordering::Release);
        // It can only fail when the counter is full, and then the bell rings already.
        let _ = rustix::io::write(&self.stop.bell, &[1; 8]);
    }
}

/// A bound server.
pub struct Server<E: Export> {
    export: Arc<E>,
    listeners: Vec<Listener>,
    export_name: Option<String>,
    max_connections: usize,
    limits: ConnectionLimits,
    drain_timeout: Duration,
    registry: Arc<Registry>,
    stop: Arc<Stop>,
}

impl<E: Export> Server<E> {
    /// Binds to every place of `config`. Clients can connect from here on; they are served by [`Self::run`].
    ///
    /// # Errors
    /// [`BindError`] with the first place that cannot be had; none is bound then.
    pub fn bind(config: ServerConfig, export: Arc<E>) -> Result<Self, BindError> {
        if config.listen.is_empty() {
            return Err(BindError::Nowhere);
        }
        let listeners = config.listen.into_iter().map(Listener::bind).collect::<Result<_, _>>()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| BindError::System { place: "an eventfd".to_owned(), source: errno.into() })?;
        Ok(Self {
            export,
            listeners,
            export_name: config.export_name,
            max_connections: config.max_connections,
            limits: config.limits,
            drain_timeout: config.drain_timeout,
            registry: Arc::default(),
            stop: Arc::new(Stop { asked: AtomicBool::new(false), bell }),
        })
    }

    /// What ends [`Self::run`].
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { stop: Arc::clone(&self.stop) }
    }

    /// Who is connected now.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.registry.list()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> ServerCounts {
        self.registry.counts()
    }

    /// Addresses that clients can use; none for inherited sockets, whose owner knows them.
    #[must_use]
    pub fn uris(&self) -> Vec<Uri> {
        let name = self.export_name.clone().unwrap_or_else(|| self.export.geometry().name);
        let uri = |listener: &Listener| match (listener.path(), listener.tcp) {
            (Some(path), _) => Some(Uri::unix(path, &name)),
            (None, Some(address)) => Some(Uri::tcp(address, &name)),
            (None, None) => None,
        };
        self.listeners.iter().filter_map(uri).collect()
    }

    /// Paths of the socket files.
    #[must_use]
    pub fn socket_paths(&self) -> Vec<PathBuf> {
        self.listeners.iter().filter_map(|listener| listener.path().map(PathBuf::from)).collect()
    }

    /// TCP addresses, with the ports that were chosen.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.tcp).collect()
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// [`RunError`] when the wait failed, or when requests were still at the devices after twice the drain time.
    pub fn run(&self) -> Result<(), RunError> {
        let accepted = self.accept_until_stopped();
        self.registry.stop_all();
        if self.registry.wait_empty(self.drain_timeout) > 0 {
            // What is left has a client that does not read, or a device that does not answer.
            self.registry.cut_all();
            let stuck = self.registry.wait_empty(self.drain_timeout);
            if stuck > 0 {
                return Err(RunError::Stuck(stuck));
            }
        }
        accepted
    }

    fn accept_until_stopped(&self) -> Result<(), RunError> {
        let mut resting = false;
        while !self.stop.asked.load(Ordering::Acquire) {
            let mut fds = vec![PollFd::new(&self.stop.bell, PollFlags::IN)];
            if !resting {
                fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
            }
            match poll(&mut fds, resting.then_some(&REST)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(RunError::Wait(errno.into())),
            }
            let ready: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
            resting = false;
            for (listener, _) in self.listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
                match listener.accept() {
                    Ok(Some(fd)) => self.start(fd),
                    Ok(None) => {}
                    Err(_) => resting = true,
                }
            }
        }
        Ok(())
    }

    /// Gives a client its thread; without one to spare the connection is closed.
    fn start(&self, fd: OwnedFd) {
        let socket = Arc::new(Socket::new(fd));
        let watch = Arc::new(Watch::default());
        let Some(listed) = self.registry.admit(&socket, &watch, self.max_connections) else { return };
        let (export, name, limits) = (Arc::clone(&self.export), self.export_name.clone(), self.limits);
        let body = move || {
            let listed: Listed = listed;
            if serve(&*export, &socket, name.as_deref(), limits, &watch).is_err() {
                listed.failed();
            }
            // Before the entry goes, so that whoever waits for that has the export for himself.
            drop((export, socket));
        };
        if thread::Builder::new().name("nbd-connection".to_owned()).spawn(body).is_err() {
            self.registry.refused();
        }
    }
}

impl<E: Export> std::fmt::Debug for Server<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bell = self.stop.bell.as_fd();
        f.debug_struct("Server")
            .field("listeners", &self.listeners)
            .field("bell", &bell)
            .finish_non_exhaustive()
    }
}
