//! The reply to one request: chunks put together, or the reason why not.
//!
//! Invariant: a byte counts as read only if exactly one content chunk brought it and no error was reported at or before
//! it within that chunk.

use std::io::Read as _;
use std::ops::Range;

use remap_runtime::front::ByteRange;
use zerocopy::FromBytes;

use super::{ClientError, Duplex, StatusExtent};
use crate::offer::Style;
use crate::proto::{
    EXTENDED_REPLY_MAGIC, ErrorCode, ExtendedChunk, SIMPLE_REPLY_MAGIC, STRING_MAX, STRUCTURED_REPLY_MAGIC,
    SimpleReply, StructuredChunk, chunk,
};

/// Longest chunk without contents of the export: 2^20 extents.
const CHUNK_MAX: u64 = 8 + (16 << 20);
/// Chunks of one reply, at most: one for every sector of the largest read, twice.
const CHUNKS_MAX: usize = 1 << 18;

/// The request whose reply is read.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) read: bool,
}

/// A reply that is not an error as a whole.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Ranges of a read that did not come.
    pub(super) bad: Vec<ByteRange>,
    /// Extents by context id.
    pub(super) status: Vec<(u32, Vec<StatusExtent>)>,
}

struct Head {
    done: bool,
    kind: u16,
    length: u64,
}

/// What has come so far.
#[derive(Default)]
struct Progress {
    /// Ranges of the read's buffer that came.
    content: Vec<Range<usize>>,
    /// Offsets (in the buffer) of errors.
    errors: Vec<usize>,
    /// The first error, for a reply that has nothing else.
    failure: Option<(ErrorCode, String)>,
    /// The failure is of the whole request.
    whole: bool,
    status: Vec<(u32, Vec<StatusExtent>)>,
}

pub(super) fn receive(
    stream: &mut dyn Duplex,
    style: Style,
    request: Request,
    into: &mut [u8],
) -> Result<Outcome, ClientError> {
    let mut progress = Progress::default();
    for _ in 0..CHUNKS_MAX {
        let Some(head) = head(stream, style, request)? else {
            // A simple reply without an error: what a read asked for follows.
            stream.read_exact(into)?;
            return Ok(Outcome::default());
        };
        take_chunk(stream, style, &head, request, into, &mut progress)?;
        if head.done {
            return finish(progress, request, into.len());
        }
    }
    Err(ClientError::Protocol("endless chunks in one reply"))
}

/// The head of the next chunk; `None` for a good simple reply.
fn head(stream: &mut dyn Duplex, style: Style, request: Request) -> Result<Option<Head>, ClientError> {
    const BROKEN: ClientError = ClientError::Protocol("a broken reply");
    let mut bytes = [0; size_of::<ExtendedChunk>()];
    let (known, rest) = bytes.split_at_mut(size_of::<SimpleReply>());
    stream.read_exact(known)?;
    let magic = known.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
    let (cookie, head) = match (magic, style) {
        (SIMPLE_REPLY_MAGIC, Style::Simple | Style::Structured) => {
            let reply = SimpleReply::read_from_bytes(known).map_err(|_| BROKEN)?;
            if request.read && style == Style::Structured {
                return Err(ClientError::Protocol("a simple reply to a read"));
            }
            if reply.cookie.get() == request.cookie && reply.error.get() != 0 {
                return Err(ClientError::Remote {
                    code: ErrorCode(reply.error.get()),
                    message: String::new(),
                });
            }
            (reply.cookie.get(), None)
        }
        (STRUCTURED_REPLY_MAGIC, Style::Structured) => {
            stream.read_exact(&mut rest[..4])?;
            let (reply, _) = StructuredChunk::read_from_prefix(&bytes).map_err(|_| BROKEN)?;
            let done = reply.flags.get() & chunk::FLAG_DONE != 0;
            let head = Head { done, kind: reply.kind.get(), length: u64::from(reply.length.get()) };
            (reply.cookie.get(), Some(head))
        }
        (EXTENDED_REPLY_MAGIC, Style::Extended) => {
            stream.read_exact(rest)?;
            let reply = ExtendedChunk::read_from_bytes(&bytes).map_err(|_| BROKEN)?;
            if reply.offset.get() != request.offset {
                return Err(ClientError::Protocol("a reply with another request's offset"));
            }
            let done = reply.flags.get() & chunk::FLAG_DONE != 0;
            let head = Head { done, kind: reply.kind.get(), length: reply.length.get() };
            (reply.cookie.get(), Some(head))
        }
        _ => return Err(ClientError::Protocol("not a reply of the negotiated form")),
    };
    if cookie != request.cookie {
        return Err(ClientError::Protocol("a reply to a request that was not sent"));
    }
    Ok(head)
}

fn take_chunk(
    stream: &mut dyn Duplex,
    style: Style,
    head: &Head,
    request: Request,
    into: &mut [u8],
    progress: &mut Progress,
) -> Result<(), ClientError> {
    const OUTSIDE: ClientError = ClientError::Protocol("a chunk outside of the request");
    if head.kind == chunk::OFFSET_DATA {
        let len = head.length.checked_sub(8).filter(|len| *len > 0).ok_or(OUTSIDE)?;
        let mut offset = [0; 8];
        stream.read_exact(&mut offset)?;
        let range = buffer_range(u64::from_be_bytes(offset), len, request, into.len()).ok_or(OUTSIDE)?;
        stream.read_exact(&mut into[range.clone()])?;
        progress.content.push(range);
        return Ok(());
    }
    if head.length > CHUNK_MAX {
        return Err(ClientError::Protocol("a chunk is longer than any need be"));
    }
    let length = usize::try_from(head.length).map_err(|_| OUTSIDE)?;
    // Memory follows what the server sends, not what it announces.
    let mut body = Vec::new();
    if (&mut *stream).take(head.length).read_to_end(&mut body)? < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    match head.kind {
        chunk::NONE if head.done && length == 0 => {}
        chunk::OFFSET_HOLE if length == 12 => {
            let (offset, len) = (be(&body[..8]), be(&body[8..]));
            let range = buffer_range(offset, len, request, into.len()).ok_or(OUTSIDE)?;
            into[range.clone()].fill(0);
            progress.content.push(range);
        }
        chunk::BLOCK_STATUS if style == Style::Structured && length >= 12 && length % 8 == 4 => {
            progress.status.push(extents(&body[..4], &body[4..], 4)?);
        }
        chunk::BLOCK_STATUS_EXT if style == Style::Extended && length >= 24 && length % 16 == 8 => {
            progress.status.push(extents(&body[..4], &body[8..], 8)?);
        }
        kind if kind & chunk::ERROR_BIT != 0 => take_error(kind, &body, request, into.len(), progress)?,
        _ => return Err(ClientError::Protocol("a chunk of an unknown or misplaced type")),
    }
    Ok(())
}

fn take_error(
    kind: u16,
    body: &[u8],
    request: Request,
    len: usize,
    progress: &mut Progress,
) -> Result<(), ClientError> {
    const MALFORMED: ClientError = ClientError::Protocol("a malformed error chunk");
    let (Some(code), Some(text)) = (body.get(..4), body.get(4..6)) else { return Err(MALFORMED) };
    let text_len = usize::try_from(be(text)).map_err(|_| MALFORMED)?;
    let message = body.get(6..6 + text_len).filter(|text| text.len() <= STRING_MAX).ok_or(MALFORMED)?;
    let code = u32::try_from(be(code)).map_err(|_| MALFORMED)?;
    if kind == chunk::ERROR_OFFSET {
        let offset = body.get(6 + text_len..).filter(|tail| tail.len() == 8).ok_or(MALFORMED)?;
        let at = be(offset).checked_sub(request.offset).and_then(|at| usize::try_from(at).ok());
        progress.errors.push(at.filter(|at| *at <= len).ok_or(MALFORMED)?);
    } else {
        progress.whole = true;
    }
    let message = String::from_utf8_lossy(message).into_owned();
    progress.failure.get_or_insert((ErrorCode(code), message));
    Ok(())
}

fn finish(mut progress: Progress, request: Request, len: usize) -> Result<Outcome, ClientError> {
    progress.content.sort_by_key(|range| range.start);
    if progress.content.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(ClientError::Protocol("content chunks overlap"));
    }
    // Of a chunk with an error in it, what comes before the error is good.
    for range in &mut progress.content {
        let first = progress.errors.iter().filter(|at| range.contains(at)).min();
        range.end = first.map_or(range.end, |at| *at);
    }
    let mut bad = Vec::new();
    let mut at = 0;
    for (start, end) in progress.content.iter().map(|range| (range.start, range.end)).chain([(len, len)]) {
        if at < start {
            bad.push(ByteRange { start: request.offset + at as u64, len: (start - at) as u64 });
        }
        at = end;
    }
    match progress.failure {
        Some((code, message)) if progress.whole || !request.read => {
            Err(ClientError::Remote { code, message })
        }
        None if request.read && !bad.is_empty() => {
            Err(ClientError::Protocol("a read that succeeded without all of its bytes"))
        }
        _ => Ok(Outcome { bad, status: progress.status }),
    }
}

fn buffer_range(offset: u64, len: u64, request: Request, room: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset.checked_sub(request.offset)?).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    (len > 0 && end <= room).then_some(start..end)
}

/// A big-endian number of up to 8 bytes.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Extents of pairs of `width`-byte numbers.
fn extents(id: &[u8], body: &[u8], width: usize) -> Result<(u32, Vec<StatusExtent>), ClientError> {
    let extents: Vec<StatusExtent> = body
        .chunks_exact(2 * width)
        .map(|pair| StatusExtent { len: be(&pair[..width]), status: be(&pair[width..]) })
        .collect();
    if extents.iter().any(|extent| extent.len == 0) {
        return Err(ClientError::Protocol("an empty extent"));
    }
    let id = u32::try_from(be(id)).map_err(|_| ClientError::Protocol("a context id too large"))?;
    Ok((id, extents))
}
