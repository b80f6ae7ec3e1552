//! Replies to requests, in the style that was negotiated.
//!
//! Invariant: a reply is complete when it is built (its last chunk is marked done), and its pieces go out in order; the
//! bytes of a read are never copied.

use std::ops::Range;
use std::time::Instant;

use remap_io::Buf;
use remap_runtime::TraceKind;
use remap_runtime::front::ByteRange;
use zerocopy::IntoBytes;

use crate::offer::Style;
use crate::proto::{
    EXTENDED_REPLY_MAGIC, ErrorCode, ExtendedChunk, SIMPLE_REPLY_MAGIC, STRING_MAX, STRUCTURED_REPLY_MAGIC,
    SimpleReply, StructuredChunk, chunk,
};

/// The message that goes with every range without contents.
const UNREADABLE: &str = "no device holds these bytes";

/// The request that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The client's name for it.
    pub cookie: u64,
    /// Its offset in bytes.
    pub offset: u64,
    /// Was it a read? (Its replies are chunks even where others are simple.)
    pub read: bool,
}

/// Part of a reply: a range of the heads, then a range of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    head: Range<usize>,
    body: Range<usize>,
}

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    heads: Vec<u8>,
    buf: Option<Buf>,
    /// Empty for the usual case: all the heads, then all of the buffer.
    parts: Vec<Part>,
    /// Whose reply it is, if that is traced.
    pub(crate) traced: Option<Traced>,
}

/// A request whose times are recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traced {
    pub(crate) kind: TraceKind,
    /// When its header was understood.
    pub(crate) begun: Instant,
    /// When its reply was ready.
    pub(crate) ended: Instant,
}

impl Reply {
    fn plain(heads: Vec<u8>) -> Self {
        Self { heads, buf: None, parts: Vec::new(), traced: None }
    }

    /// To a request that began then, if it is traced.
    pub(crate) fn traced(self, kind: TraceKind, begun: Option<Instant>) -> Self {
        Self { traced: begun.map(|begun| Traced { kind, begun, ended: Instant::now() }), ..self }
    }

    /// Length on the wire, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.parts.is_empty() {
            return self.heads.len() + self.buf.as_ref().map_or(0, Buf::len);
        }
        self.parts.iter().map(|part| part.head.len() + part.body.len()).sum()
    }

    /// Never: every reply has a head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes without the first `skip`, in pieces, in order; `each` returns false to stop.
    pub fn pieces<'a>(&'a self, skip: usize, mut each: impl FnMut(&'a [u8]) -> bool) {
        let body = self.buf.as_ref().map_or(&[][..], Buf::bytes);
        let mut skip = skip;
        let mut give = |piece: &'a [u8]| {
            let Some(rest) = piece.get(skip..) else {
                skip -= piece.len();
                return true;
            };
            skip = 0;
            rest.is_empty() || each(rest)
        };
        if self.parts.is_empty() {
            let _ = give(&self.heads) && give(body);
            return;
        }
        for part in &self.parts {
            if !(give(&self.heads[part.head.clone()]) && give(&body[part.body.clone()])) {
                return;
            }
        }
    }

    /// The buffer, once everything is sent.
    #[must_use]
    pub fn into_buf(self) -> Option<Buf> {
        self.buf
    }
}

/// Builds the replies of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Replies {
    style: Style,
}

impl Replies {
    /// In `style`.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self { style }
    }

    fn chunked(&self, asked: &Asked) -> bool {
        match self.style {
            Style::Simple => false,
            Style::Structured => asked.read,
            Style::Extended => true,
        }
    }

    fn chunk(&self, out: &mut Vec<u8>, asked: &Asked, done: bool, kind: u16, length: usize) {
        let flags = if done { chunk::FLAG_DONE } else { 0 };
        if self.style == Style::Extended {
            let head = ExtendedChunk {
                magic: EXTENDED_REPLY_MAGIC.into(),
                flags: flags.into(),
                kind: kind.into(),
                cookie: asked.cookie.into(),
                offset: asked.offset.into(),
                length: (length as u64).into(),
            };
            out.extend_from_slice(head.as_bytes());
        } else {
            let head = StructuredChunk {
                magic: STRUCTURED_REPLY_MAGIC.into(),
                flags: flags.into(),
                kind: kind.into(),
                cookie: asked.cookie.into(),
                // A buffer is at most 32 MiB and the number of extents is bounded.
                length: u32::try_from(length).expect("a chunk is far below 4 GiB").into(),
            };
            out.extend_from_slice(head.as_bytes());
        }
    }

    fn simple(asked: &Asked, error: u32) -> Vec<u8> {
        let head = SimpleReply {
            magic: SIMPLE_REPLY_MAGIC.into(),
            error: error.into(),
            cookie: asked.cookie.into(),
        };
        head.as_bytes().to_vec()
    }

    /// Success without data.
    #[must_use]
    pub fn done(&self, asked: &Asked) -> Reply {
        if !self.chunked(asked) {
            return Reply::plain(Self::simple(asked, 0));
        }
        let mut heads = Vec::with_capacity(32);
        self.chunk(&mut heads, asked, true, chunk::NONE, 0);
        Reply::plain(heads)
    }

    /// Failure of the whole request.
    #[must_use]
    pub fn error(&self, asked: &Asked, code: ErrorCode, message: &str) -> Reply {
        if self.style == Style::Simple {
            return Reply::plain(Self::simple(asked, code.0));
        }
        let message = &message.as_bytes()[..message.len().min(STRING_MAX)];
        let mut heads = Vec::with_capacity(38 + message.len());
        self.chunk(&mut heads, asked, true, chunk::ERROR, 6 + message.len());
        push_error(&mut heads, code, message);
        Reply::plain(heads)
    }

    /// A read that went well: all of `buf`, from the request's offset on.
    #[must_use]
    pub fn contents(&self, asked: &Asked, buf: Buf) -> Reply {
        let mut heads = Vec::with_capacity(40);
        if self.chunked(asked) {
            self.chunk(&mut heads, asked, true, chunk::OFFSET_DATA, 8 + buf.len());
            heads.extend_from_slice(&asked.offset.to_be_bytes());
        } else {
            heads = Self::simple(asked, 0);
        }
        Reply { heads, buf: Some(buf), parts: Vec::new(), traced: None }
    }

    /// A read with unreadable ranges: the good bytes around them, and an error with the offset of each. With `df` only
    /// the good bytes before the first range are sent. Simple replies have room only for the error.
    ///
    /// `bad` is in bytes of the export, sorted; what of it lies outside the request is ignored.
    #[must_use]
    pub fn partial(&self, asked: &Asked, buf: Buf, bad: &[ByteRange], df: bool) -> Reply {
        let bad = within(asked.offset, buf.len() as u64, bad);
        if bad.is_empty() || !self.chunked(asked) {
            // An error without a place: nothing in the buffer can be trusted.
            let mut reply = self.error(asked, ErrorCode::EIO, UNREADABLE);
            reply.buf = Some(buf);
            reply.parts = vec![Part { head: 0..reply.heads.len(), body: 0..0 }];
            return reply;
        }
        let mut heads = Vec::new();
        let mut parts = Vec::new();
        let mut at = 0;
        for (n, range) in bad.iter().enumerate() {
            if at < range.start && !(df && n > 0) {
                self.content_part(&mut heads, &mut parts, asked, at..range.start);
            }
            at = range.end;
        }
        if at < buf.len() && !df {
            self.content_part(&mut heads, &mut parts, asked, at..buf.len());
        }
        let start = heads.len();
        for (n, range) in bad.iter().enumerate() {
            self.chunk(&mut heads, asked, n + 1 == bad.len(), chunk::ERROR_OFFSET, 6 + UNREADABLE.len() + 8);
            push_error(&mut heads, ErrorCode::EIO, UNREADABLE.as_bytes());
            heads.extend_from_slice(&(asked.offset + range.start as u64).to_be_bytes());
        }
        parts.push(Part { head: start..heads.len(), body: 0..0 });
        Reply { heads, buf: Some(buf), parts, traced: None }
    }

    fn content_part(&self, heads: &mut Vec<u8>, parts: &mut Vec<Part>, asked: &Asked, body: Range<usize>) {
        let start = heads.len();
        self.chunk(heads, asked, false, chunk::OFFSET_DATA, 8 + body.len());
        heads.extend_from_slice(&(asked.offset + body.start as u64).to_be_bytes());
        parts.push(Part { head: start..heads.len(), body });
    }

    /// Block status: for every context its id and its extents as (length in bytes, status), none of them empty.
    #[must_use]
    pub fn status(&self, asked: &Asked, contexts: &[(u32, Vec<(u64, u32)>)]) -> Reply {
        let mut heads = Vec::new();
        for (n, (id, extents)) in contexts.iter().enumerate() {
            let done = n + 1 == contexts.len();
            if self.style == Style::Extended {
                self.chunk(&mut heads, asked, done, chunk::BLOCK_STATUS_EXT, 8 + 16 * extents.len());
                heads.extend_from_slice(&id.to_be_bytes());
                let count = u32::try_from(extents.len()).expect("the number of extents is bounded");
                heads.extend_from_slice(&count.to_be_bytes());
                for (len, status) in extents {
                    heads.extend_from_slice(&len.to_be_bytes());
                    heads.extend_from_slice(&u64::from(*status).to_be_bytes());
                }
            } else {
                self.chunk(&mut heads, asked, done, chunk::BLOCK_STATUS, 4 + 8 * extents.len());
                heads.extend_from_slice(&id.to_be_bytes());
                for (len, status) in extents {
                    // A query without extended headers is shorter than 4 GiB; its extents are not longer than it.
                    let len = u32::try_from(*len).unwrap_or(u32::MAX);
                    heads.extend_from_slice(&len.to_be_bytes());
                    heads.extend_from_slice(&status.to_be_bytes());
                }
            }
        }
        Reply::plain(heads)
    }
}

fn push_error(out: &mut Vec<u8>, code: ErrorCode, message: &[u8]) {
    out.extend_from_slice(&code.0.to_be_bytes());
    let len = u16::try_from(message.len()).expect("messages are at most 4096 bytes");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(message);
}

/// Ranges of the export as ranges of the buffer; clipped, sorted, apart from each other.
fn within(offset: u64, len: u64, bad: &[ByteRange]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(bad.len());
    for range in bad {
        let start = range.start.saturating_sub(offset).min(len);
        let end = range.start.saturating_add(range.len).saturating_sub(offset).min(len);
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else { continue };
        match ranges.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ if start < end => ranges.push(start..end),
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { cookie: 0xc0, offset: 4096, read: true };

    fn buf(len: usize) -> Buf {
        let mut buf = Buf::alloc(len).unwrap();
        for (n, byte) in buf.bytes_mut().iter_mut().enumerate() {
            *byte = n.to_le_bytes()[0];
        }
        buf
    }

    fn wire(reply: &Reply) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.pieces(0, |piece| {
            bytes.extend_from_slice(piece);
            true
        });
        assert_eq!(bytes.len(), reply.len());
        for skip in 0..=bytes.len() {
            let mut tail = Vec::new();
            reply.pieces(skip, |piece| {
                tail.extend_from_slice(piece);
                true
            });
            assert_eq!(tail, bytes[skip..], "skip {skip}");
        }
        bytes
    }

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange { start, len }
    }

    /// (done, type, body) of every structured chunk.
    fn chunks(mut bytes: &[u8]) -> Vec<(bool, u16, Vec<u8>)> {
        use zerocopy::FromBytes;
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = StructuredChunk::ref_from_prefix(bytes).unwrap();
            assert_eq!((head.magic.get(), head.cookie.get()), (STRUCTURED_REPLY_MAGIC, 0xc0));
            let (body, rest) = rest.split_at(head.length.get() as usize);
            all.push((head.flags.get() & chunk::FLAG_DONE != 0, head.kind.get(), body.to_vec()));
            bytes = rest;
        }
        all
    }

    #[test]
    fn simple_replies() {
        let replies = Replies::new(Style::Simple);
        assert_eq!(wire(&replies.done(&ASKED)).len(), 16);
        let error = wire(&replies.error(&ASKED, ErrorCode::EINVAL, "no room for this"));
        assert_eq!(error[4..], [0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0xc0]);
        let contents = wire(&replies.contents(&ASKED, buf(512)));
        assert_eq!(contents[16..], *buf(512).bytes());
        let partial = replies.partial(&ASKED, buf(512), &[range(4096, 256)], false);
        assert_eq!(wire(&partial).len(), 16, "an error carries no data");
        assert!(partial.into_buf().is_some());
    }

    #[test]
    fn only_reads_and_errors_are_structured() {
        let replies = Replies::new(Style::Structured);
        let other = Asked { read: false, ..ASKED };
        assert_eq!(wire(&replies.done(&other))[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(chunks(&wire(&replies.done(&ASKED))), [(true, chunk::NONE, vec![])]);
        let error = chunks(&wire(&replies.error(&other, ErrorCode::EPERM, "no")));
        assert_eq!(error, [(true, chunk::ERROR, vec![0, 0, 0, 1, 0, 2, b'n', b'o'])]);
    }

    #[test]
    fn all_good_bytes_around_bad_ranges_are_sent() {
        let replies = Replies::new(Style::Structured);
        let bad = [range(4096 + 512, 512), range(4096 + 1536, 100), range(4096 + 1600, 448)];
        let all = chunks(&wire(&replies.partial(&ASKED, buf(4096), &bad, false)));
        let mut got = vec![None; 4096];
        let mut errors = Vec::new();
        for (n, (done, kind, body)) in all.iter().enumerate() {
            assert_eq!(*done, n + 1 == all.len());
            if *kind == chunk::OFFSET_DATA {
                let offset = u64::from_be_bytes(body[..8].try_into().unwrap()) - 4096;
                for (n, byte) in body[8..].iter().enumerate() {
                    assert_eq!(got[usize::try_from(offset).unwrap() + n].replace(*byte), None, "no overlap");
                }
            } else {
                assert_eq!((*kind, &body[..4]), (chunk::ERROR_OFFSET, &[0, 0, 0, 5][..]));
                errors.push(u64::from_be_bytes(body[body.len() - 8..].try_into().unwrap()));
            }
        }
        assert_eq!(errors, [4096 + 512, 4096 + 1536]);
        for (n, byte) in buf(4096).bytes().iter().enumerate() {
            let lost = (512..1024).contains(&n) || (1536..2048).contains(&n);
            assert_eq!(got[n], if lost { None } else { Some(*byte) }, "byte {n}");
        }
    }

    #[test]
    fn df_sends_one_content_chunk_at_most() {
        let replies = Replies::new(Style::Structured);
        let bad = [range(4096 + 512, 512), range(4096 + 2048, 512)];
        let kinds: Vec<u16> = chunks(&wire(&replies.partial(&ASKED, buf(4096), &bad, true)))
            .iter()
            .map(|(_, kind, _)| *kind)
            .collect();
        assert_eq!(kinds, [chunk::OFFSET_DATA, chunk::ERROR_OFFSET, chunk::ERROR_OFFSET]);
        let at_start = chunks(&wire(&replies.partial(&ASKED, buf(4096), &[range(0, 5000)], true)));
        assert_eq!(at_start.len(), 1);
    }

    #[test]
    fn an_error_without_a_place_sends_nothing() {
        let replies = Replies::new(Style::Structured);
        for bad in [vec![], vec![range(0, 4096)], vec![range(u64::MAX, u64::MAX)]] {
            let all = chunks(&wire(&replies.partial(&ASKED, buf(4096), &bad, false)));
            assert_eq!((all.len(), all[0].1), (1, chunk::ERROR));
        }
    }

    #[test]
    fn status_in_both_widths() {
        let contexts = [(1, vec![(4096, 0)]), (2, vec![(512, 3), (3584, 1)])];
        let all = chunks(&wire(&Replies::new(Style::Structured).status(&ASKED, &contexts)));
        assert_eq!(all[0], (false, chunk::BLOCK_STATUS, vec![0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0]));
        assert_eq!((all[1].0, all[1].2.len()), (true, 20));
        let wide = wire(&Replies::new(Style::Extended).status(&ASKED, &contexts));
        assert_eq!(wide.len(), 32 + 24 + 32 + 40);
        assert_eq!(wide[32 + 24 + 32..][..16], [0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0]);
    }
}
