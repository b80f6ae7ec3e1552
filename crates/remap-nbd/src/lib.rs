//! The NBD protocol over an [`Export`](remap_runtime::front::Export): a server, and a small blocking client.
//!
//! Invariant: only this crate knows NBD, and nothing that a peer sends can panic it, make it allocate more than a named
//! limit, or end more than that peer's connection. Lengths are checked before memory is taken, sums are checked, and
//! what cannot be answered in the protocol's own words ends the connection.
//!
//! The protocol itself ([`handshake`], [`transmission`], [`reply`]) does no I/O: bytes in, bytes out. [`Server`] gives
//! every connection a thread and a queue of its own.

mod activation;
mod connection;
mod listen;
mod outbox;
mod registry;
mod server;
mod socket;
mod stdio;

pub mod client;
pub mod handshake;
pub mod offer;
pub mod proto;
pub mod reply;
pub mod transmission;
pub mod uri;

pub use activation::listen_fds;
pub use client::{Client, ClientError, ClientOptions};
pub use connection::{ConnectionLimits, ServeError, serve_stream};
pub use listen::{BindError, Listen};
pub use registry::{ConnectionStatus, ServerCounts};
pub use server::{RunError, Server, ServerConfig, StopHandle};
pub use stdio::{serve_pair, serve_stdio};
pub use uri::{Uri, UriError};
