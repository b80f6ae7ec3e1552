//! Requests of the transmission phase, without I/O: from bytes to commands that are in range, aligned and allowed.
//!
//! Invariant: a [`Command`] that comes out of [`Requests::next`] may be submitted as it is; everything else comes out as
//! a [`Refusal`] with the error that the protocol asks for, and the payload's length, so that the stream stays in step.

use std::borrow::Cow;

use zerocopy::FromBytes;

use crate::handshake::Negotiated;
use crate::offer::{Offer, Style};
use crate::proto::{
    CompactRequest, DRAIN_MAX, EXTENDED_REQUEST_MAGIC, ErrorCode, ExtendedRequest, REQUEST_MAGIC, command,
    command_flag as flag,
};

/// What every request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// [`command_flag`](crate::proto::command_flag).
    pub flags: u16,
    /// [`command`].
    pub command: u16,
    /// The client's name for the request; opaque.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; with `df`, in one chunk.
    Read {
        /// Don't fragment.
        df: bool,
    },
    /// Write the payload.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// All completed writes of all connections become durable.
    Flush,
    /// Contents no longer needed.
    Trim {
        /// Durable before the reply.
        fua: bool,
    },
    /// Read it and throw it away: the range is warm, and known to be readable.
    Cache,
    /// Make it read as zeroes.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
        /// Space may be given back.
        may_unmap: bool,
    },
    /// Tell the states.
    BlockStatus {
        /// One extent per context.
        one: bool,
    },
    /// Finish what is in flight and end.
    Disconnect,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the client's program.
    pub code: ErrorCode,
    /// For people.
    pub message: Cow<'static, str>,
}

/// A request from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// What it said.
    pub head: Head,
    /// What to do with it.
    pub verdict: Result<Command, Refusal>,
    /// Bytes of payload that follow in the stream. For a good write, exactly `head.length`.
    pub payload: u64,
    /// Bytes that the request's head took.
    pub used: usize,
}

/// The stream is lost; only closing it helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// What should be a request is none.
    #[error(
        "the client sent {0:#010x} where a request should begin: the connection is out of step and was closed"
    )]
    BadMagic(u32),
    /// A payload that no client needs.
    #[error(
        "the client announced a payload of {0} bytes, more than the 64 MiB that are read to keep a refused request's \
         connection alive: use requests within the block size limits"
    )]
    PayloadTooLong(u64),
}

/// Decodes and checks the requests of one connection.
#[derive(Clone, Debug)]
pub struct Requests {
    offer: Offer,
    negotiated: Negotiated,
}

fn refuse<T>(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

impl Requests {
    /// For a connection that agreed on `negotiated` over `offer`.
    #[must_use]
    pub fn new(offer: Offer, negotiated: Negotiated) -> Self {
        Self { offer, negotiated }
    }

    /// What is being served.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What was agreed.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// The request at the front of `bytes`, or `None` when it is not all there yet.
    ///
    /// # Errors
    /// [`StreamError`] when the stream cannot be followed any further.
    pub fn next(&self, bytes: &[u8]) -> Result<Option<Incoming>, StreamError> {
        let Some((head, used)) = self.head(bytes)? else { return Ok(None) };
        let payload = self.payload(&head);
        if payload > DRAIN_MAX {
            return Err(StreamError::PayloadTooLong(payload));
        }
        Ok(Some(Incoming { head, verdict: self.check(&head), payload, used }))
    }

    fn extended(&self) -> bool {
        self.negotiated.style == Style::Extended
    }

    fn head(&self, bytes: &[u8]) -> Result<Option<(Head, usize)>, StreamError> {
        let expected = if self.extended() { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let Some(magic) = bytes.first_chunk::<4>().map(|word| u32::from_be_bytes(*word)) else {
            return Ok(None);
        };
        if magic != expected {
            return Err(StreamError::BadMagic(magic));
        }
        if self.extended() {
            let Ok((request, _)) = ExtendedRequest::ref_from_prefix(bytes) else { return Ok(None) };
            let head = Head {
                flags: request.flags.get(),
                command: request.command.get(),
                cookie: request.cookie.get(),
                offset: request.offset.get(),
                length: request.length.get(),
            };
            return Ok(Some((head, size_of::<ExtendedRequest>())));
        }
        let Ok((request, _)) = CompactRequest::ref_from_prefix(bytes) else { return Ok(None) };
        let head = Head {
            flags: request.flags.get(),
            command: request.command.get(),
            cookie: request.cookie.get(),
            offset: request.offset.get(),
            length: u64::from(request.length.get()),
        };
        Ok(Some((head, size_of::<CompactRequest>())))
    }

    /// Bytes that follow the head, whether or not the request is a good one.
    fn payload(&self, head: &Head) -> u64 {
        // Under extended headers a write must say that it has a payload. QEMU's client does not, and sends one all the
        // same; its own server takes it so, and a client that obeys the rule loses nothing.
        let said = self.extended() && head.flags & flag::PAYLOAD_LEN != 0;
        let follows = said || head.command == command::WRITE;
        if follows { head.length } else { 0 }
    }

    fn check(&self, head: &Head) -> Result<Command, Refusal> {
        let fua = head.flags & flag::FUA != 0;
        let (known, command) = match head.command {
            command::READ => (flag::DF, Command::Read { df: head.flags & flag::DF != 0 }),
            command::WRITE => (flag::PAYLOAD_LEN, Command::Write { fua }),
            command::DISC => return Ok(Command::Disconnect),
            command::FLUSH => (0, Command::Flush),
            command::TRIM if self.offer.can_discard || self.offer.read_only => (0, Command::Trim { fua }),
            command::CACHE => (0, Command::Cache),
            command::WRITE_ZEROES => {
                let may_unmap = head.flags & flag::NO_HOLE == 0;
                (flag::NO_HOLE | flag::FAST_ZERO, Command::WriteZeroes { fua, may_unmap })
            }
            command::BLOCK_STATUS => {
                (flag::REQ_ONE, Command::BlockStatus { one: head.flags & flag::REQ_ONE != 0 })
            }
            other => return refuse(ErrorCode::EINVAL, format!("the server does not know command {other}")),
        };
        self.check_flags(head, known)?;
        self.check_range(head, command)?;
        if matches!(command, Command::WriteZeroes { .. }) && head.flags & flag::FAST_ZERO != 0 {
            // What a device does with a zeroing command is its own affair; a promise of speed would be a guess.
            return refuse(ErrorCode::ENOTSUP, "zeroes may be as slow as a write here");
        }
        Ok(command)
    }

    /// FUA is allowed everywhere; the other flags only where they mean something.
    fn check_flags(&self, head: &Head, known: u16) -> Result<(), Refusal> {
        let mut known = known | flag::FUA;
        if !self.extended() {
            known &= !flag::PAYLOAD_LEN;
        }
        if self.negotiated.style == Style::Simple {
            known &= !flag::DF;
        }
        let unknown = head.flags & !known;
        if unknown != 0 {
            return refuse(
                ErrorCode::EINVAL,
                format!("flags {unknown:#06x} are not known for command {}", head.command),
            );
        }
        Ok(())
    }

    fn check_range(&self, head: &Head, command: Command) -> Result<(), Refusal> {
        if command == Command::Flush {
            if head.offset != 0 || head.length != 0 {
                return refuse(ErrorCode::EINVAL, "a flush has no offset and no length");
            }
            return Ok(());
        }
        let changes =
            matches!(command, Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. });
        if changes && self.offer.read_only {
            return refuse(ErrorCode::EPERM, "the export is read-only");
        }
        let minimum = u64::from(self.offer.minimum);
        if !head.offset.is_multiple_of(minimum) || !head.length.is_multiple_of(minimum) {
            return refuse(
                ErrorCode::EINVAL,
                format!("offset {} and length {} must be multiples of {minimum}", head.offset, head.length),
            );
        }
        if head.offset.checked_add(head.length).is_none_or(|end| end > self.offer.size) {
            let code = if matches!(command, Command::Write { .. } | Command::WriteZeroes { .. }) {
                ErrorCode::ENOSPC
            } else {
                ErrorCode::EINVAL
            };
            return refuse(code, format!("the request ends beyond the export's {} bytes", self.offer.size));
        }
        if matches!(command, Command::BlockStatus { .. }) {
            if self.negotiated.contexts.is_empty() {
                return refuse(ErrorCode::EINVAL, "no metadata context was selected");
            }
            if head.length == 0 {
                return refuse(ErrorCode::EINVAL, "a block status query needs a length");
            }
        }
        let code = match command {
            Command::Read { .. } => ErrorCode::EOVERFLOW,
            Command::Write { .. } => ErrorCode::EINVAL,
            _ => return Ok(()),
        };
        if head.length > u64::from(self.offer.maximum) {
            return refuse(
                code,
                format!("more than the {} bytes that one request may carry", self.offer.maximum),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
