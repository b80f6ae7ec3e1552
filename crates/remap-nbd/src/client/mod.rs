//! A small blocking client: one connection, one request at a time. For demonstrations, tests and scripts.
//!
//! Invariant: what the server says is checked before it is believed: lengths against limits, offsets against the
//! request, chunks against each other; a read never reports bytes as good that the server did not send.

mod negotiate;
mod replies;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use remap_runtime::front::ByteRange;
use zerocopy::IntoBytes;

use crate::offer::Style;
use crate::proto::{
    CompactRequest, EXTENDED_REQUEST_MAGIC, ErrorCode, ExtendedRequest, PAYLOAD_MAX, REQUEST_MAGIC, command,
    command_flag,
};
use crate::uri::{Endpoint, Uri};

/// A stream that a client can use.
pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// How replies should look; less is taken when the server cannot do it.
    pub style: Style,
    /// Metadata contexts to select, for [`Client::block_status`].
    pub contexts: Vec<String>,
    /// How long one receive or send may take; forever when `None`. Only for connections that the client opens itself.
    pub timeout: Option<Duration>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { style: Style::Structured, contexts: Vec::new(), timeout: Some(Duration::from_secs(60)) }
    }
}

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("the connection to the NBD server failed: {0}")]
    Io(#[from] io::Error),
    /// The server does not speak the protocol.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server refused during the handshake.
    #[error("the NBD server refused the export: {0}")]
    Refused(String),
    /// The server refused or failed a request.
    #[error("the NBD server answered {code}: {message}")]
    Remote {
        /// The protocol's error number.
        code: ErrorCode,
        /// The server's own words; may be empty.
        message: String,
    },
    /// The context was not selected when connecting, or the server does not have it.
    #[error("the metadata context {0} was not negotiated: ask for it when connecting")]
    NoContext(String),
}

impl ClientError {
    /// The error number of the server, if this is one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Remote { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// How to write zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroOptions {
    /// Durable before the reply.
    pub fua: bool,
    /// Keep the space allocated.
    pub no_hole: bool,
    /// Fail rather than be slow.
    pub fast: bool,
}

/// A stretch of a metadata context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes.
    pub len: u64,
    /// The context's value.
    pub status: u64,
}

/// What the server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Size in bytes.
    pub size: u64,
    /// [`transmission_flag`](crate::proto::transmission_flag).
    pub flags: u16,
    /// Offsets and lengths must be multiples of this many bytes.
    pub minimum: u32,
    /// Best alignment in bytes.
    pub preferred: u32,
    /// Largest payload in bytes.
    pub maximum: u32,
    /// Canonical name, if the server told it.
    pub name: String,
    /// Text for people, if the server told it.
    pub description: String,
    /// How replies look.
    pub style: Style,
    /// Selected contexts with their ids.
    pub contexts: Vec<(u32, String)>,
}

/// A connection in transmission. Dropping it closes it without a word; see [`Client::disconnect`].
pub struct Client {
    stream: Box<dyn Duplex>,
    remote: Remote,
    next_cookie: u64,
}

/// A request as the caller means it.
#[derive(Clone, Copy)]
struct Ask {
    command: u16,
    flags: u16,
    offset: u64,
    length: u64,
}

impl Client {
    /// Connects to the export of `uri`.
    ///
    /// # Errors
    /// [`ClientError`]: no connection, no NBD server, no such export.
    pub fn connect(uri: &Uri, options: &ClientOptions) -> Result<Self, ClientError> {
        let stream: Box<dyn Duplex> = match &uri.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(options.timeout)?;
                stream.set_write_timeout(options.timeout)?;
                Box::new(stream)
            }
            Endpoint::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(options.timeout)?;
                stream.set_write_timeout(options.timeout)?;
                Box::new(stream)
            }
        };
        Self::over(stream, &uri.name, options)
    }

    /// Speaks to a server at the other end of `stream` about the export `name`.
    ///
    /// # Errors
    /// [`ClientError`]: no NBD server, no such export.
    pub fn over(
        mut stream: Box<dyn Duplex>,
        name: &str,
        options: &ClientOptions,
    ) -> Result<Self, ClientError> {
        let remote = negotiate::negotiate(&mut *stream, name, options)?;
        Ok(Self { stream, remote, next_cookie: 1 })
    }

    /// What the server offers.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.remote.size
    }

    fn send(&mut self, ask: Ask, payload: &[u8]) -> Result<u64, ClientError> {
        let cookie = self.next_cookie;
        self.next_cookie = self.next_cookie.wrapping_add(1);
        let mut flags = ask.flags;
        if self.remote.style == Style::Extended {
            if ask.command == command::WRITE {
                flags |= command_flag::PAYLOAD_LEN;
            }
            let request = ExtendedRequest {
                magic: EXTENDED_REQUEST_MAGIC.into(),
                flags: flags.into(),
                command: ask.command.into(),
                cookie: cookie.into(),
                offset: ask.offset.into(),
                length: ask.length.into(),
            };
            self.stream.write_all(request.as_bytes())?;
        } else {
            let length = u32::try_from(ask.length).map_err(|_| {
                ClientError::Io(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a request of 4 GiB or more needs extended headers",
                ))
            })?;
            let request = CompactRequest {
                magic: REQUEST_MAGIC.into(),
                flags: flags.into(),
                command: ask.command.into(),
                cookie: cookie.into(),
                offset: ask.offset.into(),
                length: length.into(),
            };
            self.stream.write_all(request.as_bytes())?;
        }
        self.stream.write_all(payload)?;
        self.stream.flush()?;
        Ok(cookie)
    }

    fn run(&mut self, ask: Ask, payload: &[u8]) -> Result<(), ClientError> {
        let cookie = self.send(ask, payload)?;
        self.outcome(cookie, ask, &mut []).map(|_| ())
    }

    fn outcome(&mut self, cookie: u64, ask: Ask, into: &mut [u8]) -> Result<replies::Outcome, ClientError> {
        let request = replies::Request { cookie, offset: ask.offset, read: ask.command == command::READ };
        replies::receive(&mut *self.stream, self.remote.style, request, into)
    }

    /// Largest piece that one request may carry.
    fn piece(&self) -> usize {
        (self.remote.maximum.min(PAYLOAD_MAX)) as usize
    }

    /// Reads from `offset` to fill `into`; returns the ranges (of the export) that the server could not read, sorted.
    /// Their bytes in `into` are unspecified; all others are good. Long reads are split.
    ///
    /// # Errors
    /// [`ClientError`]; a server without structured replies fails the whole read when one byte of it is bad.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<Vec<ByteRange>, ClientError> {
        self.read_flagged(offset, into, 0)
    }

    /// As [`Self::read`], in one request, with flags for the command (tests of a server need them).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_flagged(
        &mut self,
        offset: u64,
        into: &mut [u8],
        flags: u16,
    ) -> Result<Vec<ByteRange>, ClientError> {
        let mut bad = Vec::new();
        let mut at = offset;
        let size = if flags == 0 { self.piece() } else { into.len().max(1) };
        for piece in into.chunks_mut(size) {
            let ask = Ask { command: command::READ, flags, offset: at, length: piece.len() as u64 };
            let cookie = self.send(ask, &[])?;
            bad.extend(self.outcome(cookie, ask, piece)?.bad);
            at += piece.len() as u64;
        }
        Ok(bad)
    }

    /// Writes all of `bytes` at `offset`. Long writes are split.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write(&mut self, offset: u64, bytes: &[u8], fua: bool) -> Result<(), ClientError> {
        let flags = if fua { command_flag::FUA } else { 0 };
        let mut at = offset;
        for piece in bytes.chunks(self.piece()) {
            let length = piece.len() as u64;
            self.run(Ask { command: command::WRITE, flags, offset: at, length }, piece)?;
            at += length;
        }
        Ok(())
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.run(Ask { command: command::FLUSH, flags: 0, offset: 0, length: 0 }, &[])
    }

    /// Says that a range's contents are no longer needed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), ClientError> {
        let flags = if fua { command_flag::FUA } else { 0 };
        self.run(Ask { command: command::TRIM, flags, offset, length }, &[])
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), ClientError> {
        let mut flags = 0;
        for (set, flag) in [
            (options.fua, command_flag::FUA),
            (options.no_hole, command_flag::NO_HOLE),
            (options.fast, command_flag::FAST_ZERO),
        ] {
            flags |= if set { flag } else { 0 };
        }
        self.run(Ask { command: command::WRITE_ZEROES, flags, offset, length }, &[])
    }

    /// Lets the server read a range without sending it: a test whether it is readable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.run(Ask { command: command::CACHE, flags: 0, offset, length }, &[])
    }

    /// Extents of `context` from `offset` on; at least one, perhaps not all of `length`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn block_status(
        &mut self,
        context: &str,
        offset: u64,
        length: u64,
        one: bool,
    ) -> Result<Vec<StatusExtent>, ClientError> {
        let no_context = || ClientError::NoContext(context.to_owned());
        let id = self.remote.contexts.iter().find(|(_, name)| name == context).ok_or_else(no_context)?.0;
        let flags = if one { command_flag::REQ_ONE } else { 0 };
        let ask = Ask { command: command::BLOCK_STATUS, flags, offset, length };
        let cookie = self.send(ask, &[])?;
        let outcome = self.outcome(cookie, ask, &mut [])?;
        outcome
            .status
            .into_iter()
            .find_map(|(of, extents)| (of == id).then_some(extents))
            .ok_or(ClientError::Protocol("the reply to a block status query lacks a context"))
    }

    /// Says goodbye and waits for the server to close.
    ///
    /// # Errors
    /// [`ClientError`] when the connection was broken already.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.send(Ask { command: command::DISC, flags: 0, offset: 0, length: 0 }, &[])?;
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("bytes after the end of the session")),
            Err(error) => Err(error.into()),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("remote", &self.remote).finish_non_exhaustive()
    }
}
