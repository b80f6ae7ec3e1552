//! Requests in, verdicts out.

use super::*;
use crate::handshake::Contexts;

const SIZE: u64 = 1 << 20;
const NONE: Contexts = Contexts { allocation: false, state: false };
const BOTH: Contexts = Contexts { allocation: true, state: true };

fn requests(style: Style, contexts: Contexts, read_only: bool) -> Requests {
    let offer = Offer {
        name: "vol".into(),
        description: String::new(),
        size: SIZE,
        minimum: 512,
        preferred: 4096,
        maximum: 65536,
        read_only,
        can_discard: !read_only,
        rotational: false,
    };
    Requests::new(offer, Negotiated { style, contexts })
}

fn compact(flags: u16, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&0x0102_0304_0506_0708_u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn extended(flags: u16, command: u16, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = compact(flags, command, offset, 0);
    bytes.truncate(24);
    bytes[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn verdict(requests: &Requests, bytes: &[u8]) -> Result<Command, ErrorCode> {
    requests.next(bytes).unwrap().unwrap().verdict.map_err(|refusal| refusal.code)
}

#[test]
fn good_requests_in_both_header_forms() {
    let plain = requests(Style::Structured, BOTH, false);
    let wide = requests(Style::Extended, BOTH, false);
    for (flags, command, expected) in [
        (0, command::READ, Command::Read { df: false }),
        (flag::DF, command::READ, Command::Read { df: true }),
        (flag::FUA, command::WRITE, Command::Write { fua: true }),
        (flag::FUA, command::TRIM, Command::Trim { fua: true }),
        (flag::NO_HOLE, command::WRITE_ZEROES, Command::WriteZeroes { fua: false, may_unmap: false }),
        (0, command::CACHE, Command::Cache),
        (flag::REQ_ONE, command::BLOCK_STATUS, Command::BlockStatus { one: true }),
    ] {
        let incoming = plain.next(&compact(flags, command, 512, 1024)).unwrap().unwrap();
        assert_eq!(incoming.verdict, Ok(expected));
        assert_eq!((incoming.head.cookie, incoming.used), (0x0102_0304_0506_0708, 28));
        assert_eq!(incoming.payload, if command == command::WRITE { 1024 } else { 0 });
        let flags = if command == command::WRITE { flags | flag::PAYLOAD_LEN } else { flags };
        let incoming = wide.next(&extended(flags, command, 512, 1024)).unwrap().unwrap();
        assert_eq!((incoming.verdict, incoming.used), (Ok(expected), 32));
        assert_eq!(incoming.payload, if command == command::WRITE { 1024 } else { 0 });
    }
}

#[test]
fn unknown_commands_and_flags_are_einval() {
    let requests = requests(Style::Structured, BOTH, false);
    for command in [8, 99, u16::MAX] {
        assert_eq!(verdict(&requests, &compact(0, command, 0, 512)), Err(ErrorCode::EINVAL));
    }
    for (flags, command) in [
        (flag::DF, command::WRITE),
        (flag::NO_HOLE, command::READ),
        (flag::REQ_ONE, command::READ),
        (flag::FAST_ZERO, command::TRIM),
        (flag::PAYLOAD_LEN, command::WRITE),
        (1 << 15, command::FLUSH),
    ] {
        let length = if command == command::FLUSH { 0 } else { 512 };
        assert_eq!(verdict(&requests, &compact(flags, command, 0, length)), Err(ErrorCode::EINVAL));
    }
}

#[test]
fn df_needs_structured_replies() {
    let simple = requests(Style::Simple, NONE, false);
    assert_eq!(verdict(&simple, &compact(flag::DF, command::READ, 0, 512)), Err(ErrorCode::EINVAL));
}

#[test]
fn ranges_are_checked_in_64_bits() {
    let plain = requests(Style::Structured, BOTH, false);
    let wide = requests(Style::Extended, BOTH, false);
    let top = u64::MAX - 511;
    for (command, code) in [
        (command::READ, ErrorCode::EINVAL),
        (command::WRITE, ErrorCode::ENOSPC),
        (command::WRITE_ZEROES, ErrorCode::ENOSPC),
        (command::TRIM, ErrorCode::EINVAL),
        (command::CACHE, ErrorCode::EINVAL),
        (command::BLOCK_STATUS, ErrorCode::EINVAL),
    ] {
        for (offset, length) in [(SIZE, 512), (SIZE - 512, 1024), (top, 512), (top, 1024)] {
            assert_eq!(
                verdict(&plain, &compact(0, command, offset, length)),
                Err(code),
                "{command} {offset}"
            );
        }
        assert!(verdict(&plain, &compact(0, command, SIZE - 512, 512)).is_ok(), "the last sector is fine");
        if command != command::WRITE {
            for length in [top, SIZE + 512, u64::from(u32::MAX) + 1] {
                assert_eq!(verdict(&wide, &extended(0, command, 512, length)), Err(code));
            }
        }
    }
}

#[test]
fn block_status_lengths_of_past_vulnerabilities() {
    let requests = requests(Style::Structured, BOTH, false);
    for length in [0, 1, u32::MAX, u32::MAX - 511] {
        assert_eq!(verdict(&requests, &compact(0, command::BLOCK_STATUS, 0, length)), Err(ErrorCode::EINVAL));
    }
    let whole = compact(0, command::BLOCK_STATUS, 0, u32::try_from(SIZE).unwrap());
    assert_eq!(verdict(&requests, &whole), Ok(Command::BlockStatus { one: false }));
}

#[test]
fn block_status_needs_a_context() {
    let requests = requests(Style::Structured, NONE, false);
    assert_eq!(verdict(&requests, &compact(0, command::BLOCK_STATUS, 0, 512)), Err(ErrorCode::EINVAL));
}

#[test]
fn misaligned_requests_are_einval() {
    let requests = requests(Style::Simple, NONE, false);
    for (offset, length) in [(1, 512), (0, 511), (256, 256)] {
        for command in [command::READ, command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(verdict(&requests, &compact(0, command, offset, length)), Err(ErrorCode::EINVAL));
        }
    }
    assert_eq!(verdict(&requests, &compact(0, command::FLUSH, 0, 512)), Err(ErrorCode::EINVAL));
    assert_eq!(verdict(&requests, &compact(0, command::FLUSH, 0, 0)), Ok(Command::Flush));
}

#[test]
fn a_read_only_export_says_eperm() {
    let requests = requests(Style::Simple, NONE, true);
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(verdict(&requests, &compact(0, command, 0, 512)), Err(ErrorCode::EPERM));
    }
    assert_eq!(verdict(&requests, &compact(0, command::READ, 0, 512)), Ok(Command::Read { df: false }));
    assert_eq!(verdict(&requests, &compact(0, command::FLUSH, 0, 0)), Ok(Command::Flush));
}

#[test]
fn fast_zero_is_refused_honestly() {
    let requests = requests(Style::Simple, NONE, false);
    let bytes = compact(flag::FAST_ZERO, command::WRITE_ZEROES, 0, 512);
    assert_eq!(verdict(&requests, &bytes), Err(ErrorCode::ENOTSUP));
}

#[test]
fn oversize_payloads_are_drained_and_absurd_ones_end_it() {
    let plain = requests(Style::Simple, NONE, false);
    let over = plain.next(&compact(0, command::WRITE, 0, 65536 + 512)).unwrap().unwrap();
    assert_eq!(over.verdict.unwrap_err().code, ErrorCode::EINVAL);
    assert_eq!(over.payload, 65536 + 512);
    assert_eq!(verdict(&plain, &compact(0, command::READ, 0, 65536 + 512)), Err(ErrorCode::EOVERFLOW));
    assert_eq!(
        plain.next(&compact(0, command::WRITE, 0, u32::MAX)),
        Err(StreamError::PayloadTooLong(u64::from(u32::MAX)))
    );
    let wide = requests(Style::Extended, NONE, false);
    let absurd = extended(flag::PAYLOAD_LEN, command::READ, 0, u64::MAX);
    assert_eq!(wide.next(&absurd), Err(StreamError::PayloadTooLong(u64::MAX)));
    // An effect as long as the export needs no payload, and is fine.
    assert!(verdict(&wide, &extended(0, command::TRIM, 0, SIZE)).is_ok());
}

#[test]
fn payloads_where_none_belong_stay_in_step() {
    let wide = requests(Style::Extended, BOTH, false);
    let status = wide.next(&extended(flag::PAYLOAD_LEN, command::BLOCK_STATUS, 0, 512)).unwrap().unwrap();
    assert_eq!((status.verdict.unwrap_err().code, status.payload), (ErrorCode::EINVAL, 512));
    // QEMU's writes lack the flag.
    let write = wide.next(&extended(0, command::WRITE, 0, 512)).unwrap().unwrap();
    assert_eq!((write.verdict, write.payload), (Ok(Command::Write { fua: false }), 512));
}

#[test]
fn wrong_magic_ends_it_and_short_input_waits() {
    let plain = requests(Style::Simple, NONE, false);
    let bytes = compact(0, command::READ, 0, 512);
    for cut in 0..bytes.len() {
        assert_eq!(plain.next(&bytes[..cut]), Ok(None));
    }
    for other in [EXTENDED_REQUEST_MAGIC, 0, 0x1256_0953] {
        let mut bytes = bytes.clone();
        bytes[..4].copy_from_slice(&other.to_be_bytes());
        assert_eq!(plain.next(&bytes), Err(StreamError::BadMagic(other)));
    }
    let wide = requests(Style::Extended, NONE, false);
    assert_eq!(wide.next(&bytes), Err(StreamError::BadMagic(REQUEST_MAGIC)));
}
