//! Constants and wire structures of the NBD protocol, fixed newstyle, compact and extended headers.
//!
//! Invariant: every structure is laid out byte for byte as on the wire, big endian, without padding (`Unaligned` proves
//! the last), so reading and writing one needs no other code.

use std::fmt;

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of the server's greeting (`NBDMAGIC`).
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of every option (`IHAVEOPT`).
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string (export name, context, message) in bytes.
pub const STRING_MAX: usize = 4096;
/// Most bytes of one option's data that the server looks at; a longer one ends the connection.
pub const OPTION_MAX: u32 = 64 * 1024;
/// Options that a client may send before it must be in transmission.
pub const OPTIONS_PER_HANDSHAKE: u32 = 256;
/// Largest payload that the server offers, in bytes.
pub const PAYLOAD_MAX: u32 = 32 * 1024 * 1024;
/// Largest payload of a refused request that is read and thrown away; a longer one ends the connection.
pub const DRAIN_MAX: u64 = 64 * 1024 * 1024;
/// Most extents in one block status reply, per context.
pub const STATUS_EXTENTS_MAX: usize = 8192;

/// Name of the standard context: allocated or not, zero or not.
pub const CONTEXT_ALLOCATION: &str = "base:allocation";
/// Name of our context: 0 healthy, 1 remapped (on a spare), 2 pending (an unreadable neighbour in the block), 3 lost
/// (reads fail until it is overwritten).
pub const CONTEXT_STATE: &str = "dm-remap:state";
/// The id that the server gives to [`CONTEXT_ALLOCATION`].
pub const CONTEXT_ALLOCATION_ID: u32 = 1;
/// The id that the server gives to [`CONTEXT_STATE`].
pub const CONTEXT_STATE_ID: u32 = 2;

/// Flags of the handshake, both directions.
pub mod handshake_flag {
    /// Fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No 124 zero bytes after an export name.
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    /// Choose an export and start, without a way to say no.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS (not supported).
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and start.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// A piece of information on an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Malformed, or not now.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// Too long or too many.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    /// Extended headers were chosen already.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Types of information on an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// Flush works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The medium spins.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// Trim works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// Write zeroes works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// Unfragmented reads work.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers the others.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// Cache works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// A fast zero is answered quickly (with ENOTSUP when it would not be fast).
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Cache.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Block status.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Do not give space back.
    pub const NO_HOLE: u16 = 1 << 1;
    /// At most one content chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent per context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than write zeroes slowly.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is of a payload (extended headers only).
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types and flags of reply chunks.
pub mod chunk {
    /// Flag: the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1;
    /// Nothing; ends a reply.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents, 32-bit.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents, 64-bit.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Bit set in the type of every error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// The request failed.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// The request failed at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// An error number of the protocol (its own, whatever the system's errno are).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// Input/output error.
    pub const EIO: Self = Self(5);
    /// Invalid argument.
    pub const EINVAL: Self = Self(22);
    /// No space left.
    pub const ENOSPC: Self = Self(28);
    /// Value too large.
    pub const EOVERFLOW: Self = Self(75);
    /// Not supported.
    pub const ENOTSUP: Self = Self(95);
    /// Shutting down.
    pub const ESHUTDOWN: Self = Self(108);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::EPERM => "EPERM",
            Self::EIO => "EIO",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::EOVERFLOW => "EOVERFLOW",
            Self::ENOTSUP => "ENOTSUP",
            Self::ESHUTDOWN => "ESHUTDOWN",
            Self(code) => return write!(f, "error {code}"),
        };
        f.write_str(name)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the server says first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// [`GREETING_MAGIC`].
    pub magic: U64,
    /// [`OPTION_MAGIC`].
    pub option_magic: U64,
    /// [`handshake_flag`].
    pub flags: U16,
}

/// Head of an option; `length` bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionHead {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// [`option`].
    pub option: U32,
    /// Bytes that follow.
    pub length: U32,
}

/// Head of a reply to an option; `length` bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionReplyHead {
    /// [`OPTION_REPLY_MAGIC`].
    pub magic: U64,
    /// The option that this answers.
    pub option: U32,
    /// [`option_reply`].
    pub kind: U32,
    /// Bytes that follow.
    pub length: U32,
}

/// A request with a 32-bit length.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CompactRequest {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// [`command_flag`].
    pub flags: U16,
    /// [`command`].
    pub command: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// First byte.
    pub offset: U64,
    /// Length in bytes.
    pub length: U32,
}

/// A request with a 64-bit length.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtendedRequest {
    /// [`EXTENDED_REQUEST_MAGIC`].
    pub magic: U32,
    /// [`command_flag`].
    pub flags: U16,
    /// [`command`].
    pub command: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// First byte.
    pub offset: U64,
    /// Length in bytes, of the payload with [`command_flag::PAYLOAD_LEN`].
    pub length: U64,
}

/// A reply without structure; the data of a good read follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub magic: U32,
    /// [`ErrorCode`], 0 for success.
    pub error: U32,
    /// The client's name for the request.
    pub cookie: U64,
}

/// Head of a structured reply chunk; `length` bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct StructuredChunk {
    /// [`STRUCTURED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`] or 0.
    pub flags: U16,
    /// [`chunk`].
    pub kind: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// Bytes that follow.
    pub length: U32,
}

/// Head of an extended reply chunk; `length` bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtendedChunk {
    /// [`EXTENDED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`] or 0.
    pub flags: U16,
    /// [`chunk`].
    pub kind: U16,
    /// The client's name for the request.
    pub cookie: U64,
    /// Offset of the request.
    pub offset: U64,
    /// Bytes that follow.
    pub length: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_their_size_on_the_wire() {
        let sizes = [
            size_of::<Greeting>(),
            size_of::<OptionHead>(),
            size_of::<OptionReplyHead>(),
            size_of::<CompactRequest>(),
            size_of::<ExtendedRequest>(),
            size_of::<SimpleReply>(),
            size_of::<StructuredChunk>(),
            size_of::<ExtendedChunk>(),
        ];
        assert_eq!(sizes, [18, 16, 20, 28, 32, 16, 20, 32]);
    }

    #[test]
    fn magics_spell_their_names() {
        assert_eq!(&GREETING_MAGIC.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
    }
}
