//! NBD in transmission, both sides: a request that the server lets through may be submitted as it is, however the bytes were cut; a
//! client calls a byte good only if a server sent it; and what the server's replies say, the client understands.

#![no_main]

use std::sync::LazyLock;

use bench::input::Input;
use bench::memory;
use bench::peer::{OFFERS, STYLES, Server, Transmission};
use libfuzzer_sys::fuzz_target;
use remap_io::Buf;
use remap_nbd::handshake::{Contexts, Negotiated};
use remap_nbd::offer::{Offer, Style};
use remap_nbd::proto::{
    CONTEXT_ALLOCATION, CONTEXT_STATE, DRAIN_MAX, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, ErrorCode,
    REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command, command_flag,
};
use remap_nbd::reply::{Asked, Replies};
use remap_nbd::transmission::{Command, Incoming, Requests};
use remap_nbd::{Client, ClientError, ClientOptions};
use remap_runtime::front::ByteRange;

/// What a side keeps beyond the bytes that it was sent: buffers of the reads here, a window of input.
const MEMORY: usize = 2 << 20;
/// What a client's buffer holds before anything came.
const NOTHING: u8 = 0xaa;
/// Longest read.
const LEN_MAX: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let choices = input.u8();
    let offer = &OFFERS[usize::from(choices >> 2 & 3)];
    let style = STYLES[usize::from(choices >> 4) % 3];
    memory::within(MEMORY + 64 * bytes.len(), || match choices & 3 {
        0 => requests(offer, style, choices, &mut input, |input, _| input.bytes(usize::MAX).to_vec()),
        1 => requests(offer, style, choices, &mut input, requests_of),
        2 => invented(offer, style, &mut input),
        _ => answered(offer, style, &mut input),
    });
});

fn requests_of(input: &mut Input<'_>, (offer, style): (&Offer, Style)) -> Vec<u8> {
    let mut said = Vec::new();
    while !input.is_empty() {
        let (command, flags) = (u16::from(input.u8() % 10), u16::from(input.u8()));
        let (offset, length) = (place(input, offer), place(input, offer));
        let magic = if style == Style::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        said.extend(magic.to_be_bytes());
        said.extend(flags.to_be_bytes());
        said.extend(command.to_be_bytes());
        said.extend(7_u64.to_be_bytes());
        said.extend(offset.to_be_bytes());
        match style {
            Style::Extended => said.extend(length.to_be_bytes()),
            _ => said.extend((length as u32).to_be_bytes()),
        }
        let payload = usize::from(input.u8());
        said.extend(input.bytes(payload));
    }
    said
}

fn place(input: &mut Input<'_>, offer: &Offer) -> u64 {
    let (how, n) = (input.u8(), u64::from(input.u8()));
    match how & 7 {
        0..=2 => n * u64::from(offer.minimum),
        3 => offer.size.wrapping_sub(n * u64::from(offer.minimum)),
        4 => offer.size.wrapping_add(n),
        5 => u64::from(offer.maximum).wrapping_add(n).wrapping_sub(128),
        6 => 1 << (n % 64),
        _ => input.u64(),
    }
}

fn requests(
    offer: &'static Offer,
    style: Style,
    choices: u8,
    input: &mut Input<'_>,
    say: impl Fn(&mut Input<'_>, (&Offer, Style)) -> Vec<u8>,
) {
    let contexts = Contexts { allocation: choices & 0x80 != 0, state: choices & 0x40 != 0 };
    let requests = Requests::new(offer.clone(), Negotiated { style, contexts });
    let said = say(input, (offer, style));
    let mut at = 0;
    while let Some(left) = said.get(at..) {
        match requests.next(left) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
            Ok(None) => {
                assert!(left.len() < 32, "a request's head is shorter than {} bytes", left.len());
                return;
            }
            Ok(Some(incoming)) => {
                assert!(incoming.used > 0 && incoming.used <= left.len());
                let cut = usize::from(incoming.head.flags) % incoming.used;
                assert_eq!(requests.next(&left[..cut]), Ok(None), "the first {cut} bytes");
                submittable(offer, style, contexts, &incoming);
                at += incoming.used + usize::try_from(incoming.payload).unwrap_or(usize::MAX / 2);
            }
        }
    }
}

/// The contract of `Incoming`, in other words than the code's.
fn submittable(offer: &Offer, style: Style, contexts: Contexts, incoming: &Incoming) {
    let head = &incoming.head;
    let announced = style == Style::Extended && head.flags & command_flag::PAYLOAD_LEN != 0;
    let payload = if announced || head.command == command::WRITE { head.length } else { 0 };
    assert!(incoming.payload == payload && payload <= DRAIN_MAX, "the stream stays in step: {incoming:?}");
    let verdict = match &incoming.verdict {
        Ok(verdict) => *verdict,
        Err(refusal) => {
            assert!(!refusal.message.is_empty() && refusal.message.len() < 200 && refusal.code.0 != 0);
            return;
        }
    };
    if matches!(verdict, Command::Flush | Command::Disconnect) {
        return;
    }
    let end = head.offset.checked_add(head.length);
    assert!(end.is_some_and(|end| end <= offer.size), "{incoming:?} of {}", offer.size);
    let unit = u64::from(offer.minimum);
    assert!(head.offset % unit == 0 && head.length % unit == 0, "{incoming:?}");
    match verdict {
        Command::Read { df } => {
            assert!(head.length <= u64::from(offer.maximum) && !(df && style == Style::Simple));
        }
        Command::Write { .. } => assert!(head.length <= u64::from(offer.maximum) && !offer.read_only),
        Command::Trim { .. } => assert!(offer.can_discard && !offer.read_only),
        Command::WriteZeroes { .. } => assert!(!offer.read_only),
        Command::BlockStatus { .. } => assert!(!contexts.is_empty() && head.length > 0),
        Command::Cache | Command::Flush | Command::Disconnect => {}
    }
}

fn connect(offer: &'static Offer, style: Style, transmission: Transmission) -> Option<Client> {
    let contexts = vec![CONTEXT_ALLOCATION.to_owned(), CONTEXT_STATE.to_owned()];
    let options = ClientOptions { style, contexts, timeout: None };
    Client::over(Box::new(Server::of(offer, transmission)), "", &options).ok()
}

/// A server that invents its replies.
fn invented(offer: &'static Offer, style: Style, input: &mut Input<'_>) {
    let raw = input.u8() & 3 == 0;
    let mut calls: Vec<(u8, u64, usize)> = Vec::new();
    for _ in 0..1 + input.u8() % 3 {
        let (call, offset, len) = (input.u8(), u64::from(input.u8()) * 512, usize::from(input.u8()) * 64);
        calls.push((call, offset, len.min(LEN_MAX)));
    }
    let says = if raw { input.bytes(usize::MAX).to_vec() } else { chunks_of(input, style, &calls) };
    // A reply that is too short makes the client take the next one's head for contents, and that may have any byte.
    let telling = !says.contains(&NOTHING);
    let mut says = Some(says);
    let transmission: Transmission = Box::new(move |_, unread| {
        // Everything at once, at the first request.
        (!unread.is_empty())
            .then(|| (unread.len(), says.take().unwrap_or_default()))
            .or(Some((0, Vec::new())))
    });
    let Some(mut client) = connect(offer, style, transmission) else { return };
    for (call, offset, len) in calls {
        if call_of(&mut client, call, offset, len, telling).is_err() {
            return;
        }
    }
}

fn call_of(client: &mut Client, call: u8, offset: u64, len: usize, telling: bool) -> Result<(), ClientError> {
    match call % 6 {
        0 | 1 => {
            let mut into = vec![NOTHING; len];
            let bad = client.read(offset, &mut into)?;
            let mut at = offset;
            for ByteRange { start, len: bad_len } in bad {
                assert!(start >= at && bad_len > 0, "sorted, apart, not empty");
                at = start + bad_len;
                assert!(at <= offset + len as u64, "within the read");
                into[(start - offset) as usize..(at - offset) as usize].fill(!NOTHING);
            }
            assert!(!telling || !into.contains(&NOTHING), "a byte that nobody sent is called good");
        }
        2 => client.flush()?,
        3 => client.trim(offset, len as u64, false)?,
        4 => client.write(offset, &vec![1; len.min(4096)], true)?,
        _ => {
            let extents = client.block_status(CONTEXT_STATE, offset, len as u64, call & 8 != 0)?;
            assert!(extents.iter().all(|extent| extent.len > 0));
        }
    }
    Ok(())
}

/// Replies chunk by chunk, nearly right. No byte of contents is [`NOTHING`]; a byte of a head may be.
fn chunks_of(input: &mut Input<'_>, style: Style, calls: &[(u8, u64, usize)]) -> Vec<u8> {
    const KINDS: [u16; 8] = [
        chunk::OFFSET_DATA,
        chunk::OFFSET_DATA,
        chunk::NONE,
        chunk::OFFSET_HOLE,
        chunk::BLOCK_STATUS,
        chunk::BLOCK_STATUS_EXT,
        chunk::ERROR,
        chunk::ERROR_OFFSET,
    ];
    let mut said = Vec::new();
    while !input.is_empty() && said.len() < 1 << 18 {
        let (what, how, at, len) = (input.u8(), input.u8(), input.u8(), input.u8());
        let cookie = u64::from(how & 3) + 1;
        let request = calls.get(usize::from(how & 3)).copied().unwrap_or((0, 0, 0));
        let (offset, data) = (request.1 + u64::from(at) * 64, usize::from(len) * 64);
        if what & 0x40 != 0 {
            said.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
            said.extend(u32::from(how >> 6).to_be_bytes());
            said.extend(cookie.to_be_bytes());
            said.extend(vec![0x55; data]);
            continue;
        }
        let kind = KINDS[usize::from(what & 7)];
        let body: Vec<u8> = match kind {
            chunk::OFFSET_DATA => [&offset.to_be_bytes()[..], &vec![0x55; data]].concat(),
            chunk::OFFSET_HOLE => [&offset.to_be_bytes()[..], &(data as u32).to_be_bytes()].concat(),
            chunk::BLOCK_STATUS => [&[0, 0, 0, len & 3][..], input.bytes(usize::from(at & 3) * 8)].concat(),
            chunk::BLOCK_STATUS_EXT => {
                let extents = usize::from(at & 3);
                [&[0, 0, 0, len & 3][..], &(extents as u32).to_be_bytes(), input.bytes(extents * 16)].concat()
            }
            chunk::ERROR => [0, 0, 0, 5, 0, 1, b'x'].to_vec(),
            chunk::ERROR_OFFSET => [&[0, 0, 0, 5, 0, 0][..], &offset.to_be_bytes()].concat(),
            _ => Vec::new(),
        };
        let length = match how >> 4 {
            15 => body.len() as u64 + 1,
            14 => u64::from(input.u32()),
            _ => body.len() as u64,
        };
        let magic = if style == Style::Extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        said.extend(magic.to_be_bytes());
        said.extend(u16::from(what >> 7).to_be_bytes());
        said.extend(kind.to_be_bytes());
        said.extend(cookie.to_be_bytes());
        if style == Style::Extended {
            said.extend(request.1.to_be_bytes());
            said.extend(length.to_be_bytes());
        } else {
            said.extend((length as u32).to_be_bytes());
        }
        said.extend(body);
    }
    said
}

/// The real server's replies, read by the client.
fn answered(offer: &'static Offer, style: Style, input: &mut Input<'_>) {
    let unit = u64::from(offer.minimum);
    let (offset, len) =
        (u64::from(input.u8()) * unit, (u64::from(input.u8()) * unit).min(LEN_MAX as u64) / unit * unit);
    let (df, fails) = (input.u8() & 1 == 1, input.u8());
    let mut bad: Vec<ByteRange> = Vec::new();
    let mut at = offset.saturating_sub(256);
    while !input.is_empty() {
        at += u64::from(input.u8()) * 8;
        let bad_len = u64::from(input.u8()) * 8;
        bad.push(ByteRange { start: at, len: bad_len });
        at += bad_len;
    }
    let told = bad.clone();
    let transmission: Transmission = Box::new(move |negotiated, unread| {
        let requests = Requests::new(offer.clone(), negotiated);
        let Ok(Some(incoming)) = requests.next(unread) else { return Some((0, Vec::new())) };
        let replies = Replies::new(negotiated.style);
        let head = incoming.head;
        let asked = Asked { cookie: head.cookie, offset: head.offset, read: true };
        let reply = match &incoming.verdict {
            Ok(Command::Read { df }) => {
                let mut buf = Buf::alloc(head.length as usize).ok()?;
                let len = buf.bytes().len();
                buf.bytes_mut().copy_from_slice(&contents(head.offset, len));
                match fails {
                    0 => replies.error(&asked, ErrorCode::EIO, "no"),
                    1 => replies.contents(&asked, buf),
                    _ => replies.partial(&asked, buf, &told, *df),
                }
            }
            Ok(_) => replies.done(&asked),
            Err(refusal) => replies.error(&asked, refusal.code, &refusal.message),
        };
        let mut bytes = Vec::with_capacity(reply.len());
        reply.pieces(0, |piece| {
            bytes.extend_from_slice(piece);
            true
        });
        assert_eq!(bytes.len(), reply.len(), "a reply is as long as it says");
        Some((incoming.used, bytes))
    });
    let Some(mut client) = connect(offer, style, transmission) else { return };
    let mut into = vec![NOTHING; len as usize];
    let flags = if df && style != Style::Simple { command_flag::DF } else { 0 };
    let within = offset + len <= offer.size && len > 0;
    let one_piece = len <= u64::from(offer.maximum);
    match client.read_flagged(offset, &mut into, flags) {
        Ok(found) if within => {
            assert!(fails != 0);
            let (lost, missing) = (painted(offset, len, &bad), painted(offset, len, &found));
            if fails == 1 {
                assert!(!missing.contains(&true), "all is good, and some was not read");
            } else if flags != 0 {
                let read = lost.iter().zip(&missing).any(|(lost, missing)| *lost && !missing);
                assert!(!read, "a lost byte was read");
            } else {
                assert!(lost == missing, "what is lost, and that only, was not read");
            }
            let mut right = contents(offset, len as usize);
            for ByteRange { start, len } in found {
                let from = (start - offset) as usize;
                right[from..from + len as usize].copy_from_slice(&into[from..from + len as usize]);
            }
            assert!(into == right, "a good byte is wrong");
        }
        Ok(_) => assert!(len == 0, "a read beyond the end"),
        Err(ClientError::Remote { code, .. }) => {
            let expected = !within || fails != 1 || (flags != 0 && !one_piece);
            assert!(expected && code.0 != 0, "{code} for a good read");
        }
        Err(error) => panic!("the server's own replies are not understood: {error}"),
    }
}

/// The export's bytes from `at` on; none is [`NOTHING`].
fn contents(at: u64, len: usize) -> Vec<u8> {
    const PERIOD: usize = 127;
    static ALL: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..PERIOD as u8).cycle().take(PERIOD + LEN_MAX).collect());
    let from = (at % PERIOD as u64) as usize;
    ALL[from..from + len].to_vec()
}

/// Which of the `len` bytes from `offset` on lie in one of these ranges. (Byte by byte the comparisons would take most of the
/// fuzzer's time.)
fn painted(offset: u64, len: u64, ranges: &[ByteRange]) -> Vec<bool> {
    let mut painted = vec![false; len as usize];
    for range in ranges {
        let within = |at: u64| (at.clamp(offset, offset + len) - offset) as usize;
        painted[within(range.start)..within(range.start + range.len)].fill(true);
    }
    painted
}
