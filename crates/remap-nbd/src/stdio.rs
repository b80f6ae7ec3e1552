//! One client on standard input and output.
//!
//! Invariant: the client's bytes pass unchanged and in order; standard output is closed to the client when it has ended.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use remap_runtime::front::Export;
use rustix::net::sockopt;

use crate::connection::{ConnectionLimits, ServeError, serve_stream};

/// Serves `export` to the one client on standard input and output: a socket (inetd, `ssh`-like tools) or two pipes.
/// Returns when the client has left.
///
/// # Errors
/// As [`serve_stream`]; or the descriptors are closed.
pub fn serve_stdio<E: Export>(
    export: &E,
    export_name: Option<&str>,
    limits: ConnectionLimits,
) -> Result<(), ServeError> {
    let (input, output) = (io::stdin(), io::stdout());
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(ServeError::Socket);
    let (input, output) = (own(input.as_fd())?, own(output.as_fd())?);
    serve_pair(export, input, output, export_name, limits)
}

/// As [`serve_stdio`], on any two descriptors. When `input` is a socket, the replies go there too.
///
/// # Errors
/// As [`serve_stream`].
pub fn serve_pair<E: Export>(
    export: &E,
    input: OwnedFd,
    output: OwnedFd,
    export_name: Option<&str>,
    limits: ConnectionLimits,
) -> Result<(), ServeError> {
    if sockopt::socket_type(&input).is_ok() {
        return serve_stream(export, input, export_name, limits);
    }
    // Pipes have two ends to wait for where a queue waits for one; two threads turn them into a socket.
    let (ours, theirs) = UnixStream::pair().map_err(ServeError::Socket)?;
    let (mut to_server, mut from_server) = (theirs.try_clone().map_err(ServeError::Socket)?, theirs);
    // Not joined: it may sit in a read that nothing but the client ends. It owns all that it uses.
    thread::spawn(move || {
        let _ = pump(input.into(), &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    thread::scope(|scope| {
        let replies = scope.spawn(move || {
            let mut output = std::fs::File::from(output);
            if pump_from(&mut from_server, &mut output).is_err() {
                let _ = from_server.shutdown(Shutdown::Both);
            }
        });
        let result = serve_stream(export, ours, export_name, limits);
        // It ends with the stream, which the line above has closed.
        let _ = replies.join();
        result
    })
}

fn pump(mut input: std::fs::File, to: &mut UnixStream) -> io::Result<()> {
    pump_from(&mut input, to)
}

/// Copies until the end of `from`, passing on at once what was read.
fn pump_from(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&bytes[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
