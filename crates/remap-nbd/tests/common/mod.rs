//! An export in memory, and a client that speaks raw bytes.

#![allow(dead_code, reason = "every test file uses another part of it")]

pub(crate) mod memory;
pub(crate) mod raw;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use remap_nbd::offer::Style;
use remap_nbd::{Client, ClientOptions, ConnectionLimits, ServeError, serve_stream};

use self::memory::MemoryExport;

/// How long a test waits for something that must happen. Only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Serves `export` on one end of a socket pair; the other end, and the server's outcome.
pub(crate) fn serve_with(
    export: &Arc<MemoryExport>,
    limits: ConnectionLimits,
) -> (UnixStream, JoinHandle<Result<(), ServeError>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    ours.set_write_timeout(Some(PATIENCE)).unwrap();
    let export = Arc::clone(export);
    (ours, thread::spawn(move || serve_stream(&*export, theirs, None, limits)))
}

pub(crate) fn serve(export: &Arc<MemoryExport>) -> (UnixStream, JoinHandle<Result<(), ServeError>>) {
    serve_with(export, ConnectionLimits::default())
}

/// A client of `export` with both contexts.
pub(crate) fn client(export: &Arc<MemoryExport>, style: Style) -> Client {
    let contexts = vec!["base:allocation".to_owned(), "dm-remap:state".to_owned()];
    let options = ClientOptions { style, contexts, timeout: None };
    Client::over(Box::new(serve(export).0), "mem", &options).unwrap()
}

/// Bytes that differ at every offset that tests look at.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|n| ((n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
