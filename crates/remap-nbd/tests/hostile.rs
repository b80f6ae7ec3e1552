//! Clients that are broken or worse: none of them may crash, hang or bloat the server, and the next client is served.
//!
//! The classes of past vulnerabilities in NBD servers are named where a test covers one.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use common::memory::MemoryExport;
use common::raw::{Raw, go_body, option_bytes, request_bytes};
use common::{client, pattern, serve, serve_with};
use remap_nbd::offer::Style;
use remap_nbd::proto::{OPTION_MAGIC, command, command_flag, option, option_reply as rep};
use remap_nbd::transmission::StreamError;
use remap_nbd::{ConnectionLimits, ServeError};

const MIB: usize = 1 << 20;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// The server has ended this connection, holds nothing of it, and serves the next client.
fn still_fine(
    export: &Arc<MemoryExport>,
    server: JoinHandle<Result<(), ServeError>>,
) -> Result<(), ServeError> {
    let outcome = server.join().expect("the connection's thread must not panic");
    assert_eq!(export.shared.outstanding.load(Ordering::SeqCst), 0, "all buffers are back");
    let mut next = client(export, Style::Structured);
    assert_eq!(next.read(0, &mut [0; 512]).unwrap(), []);
    next.disconnect().unwrap();
    outcome
}

#[test]
fn closing_at_every_byte_of_the_handshake() {
    // CVE-2013-7441: a client that left during negotiation ended the server.
    let export = MemoryExport::new(MIB);
    let mut script = 3u32.to_be_bytes().to_vec();
    script.extend(option_bytes(option::STRUCTURED_REPLY, &[]));
    script.extend(option_bytes(option::LIST, &[]));
    script.extend(option_bytes(option::GO, &go_body(b"mem")));
    script.extend(request_bytes(0, command::WRITE, 1, 0, 512));
    script.extend([0; 100]);
    for cut in 0..=script.len() {
        let (mut stream, server) = serve(&export);
        stream.write_all(&script[..cut]).unwrap();
        drop(stream);
        server.join().unwrap().unwrap();
    }
    assert_eq!(export.bytes(), pattern(MIB, 0), "a write that was cut off did not happen");
    let (_stream, server) = serve(&export);
    drop(_stream);
    still_fine(&export, server).unwrap();
}

#[test]
fn wrong_magic_closes() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::greeted(stream);
    raw.put(&[0x55; 16]);
    raw.closed();
    still_fine(&export, server).unwrap();

    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, true);
    raw.put(&[0x55; 28]);
    raw.closed();
    let outcome = still_fine(&export, server);
    assert!(matches!(outcome, Err(ServeError::Stream(StreamError::BadMagic(0x5555_5555)))), "{outcome:?}");
}

#[test]
fn unknown_client_flags_close() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw(stream);
    raw.take(18);
    raw.put(&u32::MAX.to_be_bytes());
    raw.closed();
    still_fine(&export, server).unwrap();
}

#[test]
fn unknown_options_are_answered_and_the_session_goes_on() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::greeted(stream);
    for option in [0, 4, option::STARTTLS, 12, 0x8000_0000, u32::MAX] {
        assert_eq!(raw.ask(option, b"whatever").0, rep::ERR_UNSUP);
    }
    assert_eq!(raw.ask(option::ABORT, &[]).0, rep::ACK);
    raw.closed();
    still_fine(&export, server).unwrap();
}

#[test]
fn an_option_of_four_gigabytes_is_refused_before_it_comes() {
    // CVE-2022-26495 (overflow of name length + 1), CVE-2017-15119 (4 GiB of option data read and thrown away).
    let export = MemoryExport::new(MIB);
    for option in [option::GO, option::LIST, option::SET_META_CONTEXT, 77] {
        let (stream, server) = serve(&export);
        let mut raw = Raw::greeted(stream);
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::MAX.to_be_bytes());
        raw.put(&bytes);
        assert_eq!(raw.option_reply().0, rep::ERR_TOO_BIG);
        raw.closed();
        still_fine(&export, server).unwrap();
    }
    let (stream, server) = serve(&export);
    let mut raw = Raw::greeted(stream);
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option::EXPORT_NAME.to_be_bytes());
    bytes.extend(u32::MAX.to_be_bytes());
    raw.put(&bytes);
    raw.closed();
    still_fine(&export, server).unwrap();
}

#[test]
fn names_and_counts_that_lie_are_refused() {
    // CVE-2022-26496: a name length in INFO or GO that does not fit its option.
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::greeted(stream);
    let long = vec![b'x'; 5000];
    for option in [option::INFO, option::GO] {
        assert_eq!(raw.ask(option, &go_body(&long)).0, rep::ERR_TOO_BIG);
        for body in [
            &b""[..],
            &[0xff, 0xff, 0xff, 0xff, 0, 0],
            &[0, 0, 0, 4, b'm', b'e', 0, 0],
            &[0, 0, 0, 0, 0xff, 0xff],
            &[0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0],
        ] {
            assert_eq!(raw.ask(option, body).0, rep::ERR_INVALID, "{body:?}");
        }
        assert_eq!(raw.ask(option, &go_body(b"no such volume")).0, rep::ERR_UNKNOWN);
    }
    assert_eq!(raw.ask(option::STRUCTURED_REPLY, &[]).0, rep::ACK);
    for option in [option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
        for body in
            [&b""[..], &[0; 7], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 0, 0, 0, 0, 1, 0xff]]
        {
            assert_eq!(raw.ask(option, body).0, rep::ERR_INVALID, "{body:?}");
        }
    }
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn a_long_export_name_closes() {
    let export = MemoryExport::new(MIB);
    for name in [vec![b'x'; 4097], vec![b'x'; 65536], b"unknown".to_vec()] {
        let (stream, server) = serve(&export);
        let mut raw = Raw::greeted(stream);
        raw.put(&option_bytes(option::EXPORT_NAME, &name));
        raw.closed();
        still_fine(&export, server).unwrap();
    }
}

#[test]
fn options_out_of_order_do_no_harm() {
    // CVE-2019-14851 and CVE-2017-7539: odd orders of options hit assertions.
    let export = MemoryExport::new(MIB);
    let mut seed = 1u64;
    for _ in 0..200 {
        let (stream, server) = serve(&export);
        let mut raw = Raw::greeted(stream);
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let option = u32::try_from(seed >> 60).unwrap() % 12;
            let body = match (seed >> 50) % 3 {
                0 => Vec::new(),
                1 => go_body(b"mem"),
                _ => vec![0; 8],
            };
            if [option::EXPORT_NAME, option::ABORT, option::GO].contains(&option) {
                continue;
            }
            raw.put(&option_bytes(option, &body));
            // An option that nobody knows marks the end of the answers.
            raw.put(&option_bytes(98, &[]));
            let mut answered = 0;
            while answered != 98 {
                let head = raw.take(20);
                let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
                raw.take(word(16) as usize);
                answered = word(8);
            }
        }
        drop(raw);
        server.join().unwrap().unwrap();
    }
}

#[test]
fn a_handshake_too_slow_is_cut_off() {
    // CVE-2024-7409: clients that never finish the handshake use up the server.
    let export = MemoryExport::new(MIB);
    let limits =
        ConnectionLimits { handshake_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
    let flags = 3u32.to_be_bytes();
    let half = [&flags[..], &option_bytes(option::LIST, &[])[..7]].concat();
    for script in [Vec::new(), flags.to_vec(), half] {
        let (mut stream, server) = serve_with(&export, limits);
        stream.write_all(&script).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert_eq!(all.len(), 18, "the greeting and nothing more");
        let outcome = still_fine(&export, server);
        assert!(matches!(outcome, Err(ServeError::HandshakeTimeout(_))), "{outcome:?}");
    }
    assert!(export.shared.queues.load(Ordering::SeqCst) > 0, "the next clients were served");
}

#[test]
fn a_slow_drip_of_good_options_does_not_extend_the_handshake() {
    let export = MemoryExport::new(MIB);
    let limits =
        ConnectionLimits { handshake_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let (mut stream, server) = serve_with(&export, limits);
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    // The server ends it, by the clock or by the number of options; this side never does.
    while stream.write_all(&option_bytes(99, &[])).is_ok() {
        if stream.read(&mut [0; 4096]).is_ok_and(|read| read == 0) {
            break;
        }
    }
    let _ = server.join().unwrap();
}

#[test]
fn a_client_that_never_reads_option_replies_is_cut_off() {
    let export = MemoryExport::new(MIB);
    let limits =
        ConnectionLimits { handshake_timeout: Duration::from_millis(300), ..ConnectionLimits::default() };
    let (mut stream, server) = serve_with(&export, limits);
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    let list = option_bytes(option::LIST, &[]);
    while stream.write_all(&list).is_ok() {}
    let _ = server.join().unwrap();
}

#[test]
fn unknown_commands_and_flags_keep_the_connection() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    for (flags, command) in
        [(0, 8), (0, 99), (0, u16::MAX), (1 << 14, command::READ), (0xffff, command::TRIM)]
    {
        raw.request(flags, command, 0xfeed_0001, 0, 512);
        assert_eq!(raw.simple_reply(), (EINVAL, 0xfeed_0001));
    }
    // A refused write takes its payload with it.
    raw.request(command_flag::DF, command::WRITE, 2, 0, 512);
    raw.put(&[9; 512]);
    assert_eq!(raw.simple_reply(), (EINVAL, 2));
    raw.request(0, command::BLOCK_STATUS, 3, 0, 512);
    assert_eq!(raw.simple_reply(), (EINVAL, 3), "no context was selected");
    raw.request(0, command::READ, 4, 0, 512);
    assert_eq!(raw.simple_reply(), (0, 4));
    assert_eq!(raw.take(512), pattern(512, 0));
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn ranges_that_overflow_are_refused() {
    // CVE-2025-47711 and CVE-2025-47712 among others: sums of offset and length beyond 2^32 or 2^64.
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    let top = u64::MAX - 511;
    for offset in [top, u64::MAX, 1 << 63, (1 << 32) - 512, MIB as u64] {
        for length in [512, u32::MAX - 511, u32::MAX, 1] {
            for command in
                [command::READ, command::TRIM, command::WRITE_ZEROES, command::CACHE, command::BLOCK_STATUS]
            {
                raw.request(0, command, 7, offset, length);
                let (error, cookie) = raw.simple_reply();
                assert_eq!(cookie, 7);
                assert!(error == EINVAL || error == ENOSPC, "{command} {offset} {length}: {error}");
            }
        }
        raw.request(0, command::WRITE, 8, offset, 512);
        raw.put(&[9; 512]);
        assert!([EINVAL, ENOSPC].contains(&raw.simple_reply().0));
    }
    drop(raw);
    still_fine(&export, server).unwrap();
    assert_eq!(export.bytes(), pattern(MIB, 0));
}

#[test]
fn an_oversize_write_is_drained_and_an_absurd_one_ends_it() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    let length = (33 << 20) + 512;
    raw.request(0, command::WRITE, 1, 0, length);
    raw.put(&vec![9; length as usize]);
    assert_eq!(raw.simple_reply(), (ENOSPC, 1));
    raw.request(0, command::READ, 2, 0, u32::MAX - 511);
    assert_eq!(raw.simple_reply(), (EINVAL, 2));
    assert_eq!(export.shared.peak.load(Ordering::SeqCst), 0, "nothing of it was kept");
    raw.request(0, command::WRITE, 3, 0, u32::MAX);
    raw.closed();
    let outcome = still_fine(&export, server);
    assert!(matches!(outcome, Err(ServeError::Stream(StreamError::PayloadTooLong(_)))), "{outcome:?}");
}

#[test]
fn a_write_cut_off_in_its_payload_does_not_happen() {
    let export = MemoryExport::new(MIB);
    for sent in [0, 1, 511, 65_535] {
        let (stream, server) = serve(&export);
        let mut raw = Raw::transmitting(stream, false);
        raw.request(0, command::WRITE, 1, 0, 65_536);
        raw.put(&vec![9; sent]);
        drop(raw);
        still_fine(&export, server).unwrap();
    }
    assert_eq!(export.bytes(), pattern(MIB, 0));
}

#[test]
fn a_payload_in_drops_arrives_whole() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    let mut bytes = request_bytes(0, command::WRITE, 1, 512, 1024);
    bytes.extend(pattern(1024, 5));
    bytes.extend(request_bytes(0, command::FLUSH, 2, 0, 0));
    for byte in bytes {
        raw.put(&[byte]);
    }
    assert_eq!((raw.simple_reply(), raw.simple_reply()), ((0, 1), (0, 2)));
    assert_eq!(export.bytes()[512..1536], pattern(1024, 5));
    raw.request(0, command::DISC, 0, 0, 0);
    raw.closed();
    still_fine(&export, server).unwrap();
}

#[test]
fn many_requests_in_one_segment_are_all_answered() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, true);
    let mut bytes = Vec::new();
    for n in 0..100u64 {
        bytes.extend(request_bytes(0, command::WRITE, n, n * 4096, 4096));
        bytes.extend(pattern(4096, n + 1));
    }
    for n in 0..100u64 {
        bytes.extend(request_bytes(0, command::READ, 1000 + n, n * 4096, 4096));
    }
    let mut writer = raw.0.try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    for n in 0..100 {
        assert_eq!(raw.simple_reply(), (0, n));
    }
    for n in 0..100u64 {
        let (flags, kind, cookie, body) = raw.chunk();
        assert_eq!((flags, kind, cookie), (1, 1, 1000 + n));
        assert_eq!(body[8..], pattern(4096, n + 1));
    }
    writer.join().unwrap();
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn replies_come_in_the_order_of_completion() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    export.hold(0);
    raw.request(0, command::READ, 1, 0, 512);
    raw.request(0, command::READ, 2, 512, 512);
    assert_eq!(raw.simple_reply(), (0, 2));
    assert_eq!(raw.take(512), pattern(1024, 0)[512..]);
    export.release();
    assert_eq!(raw.simple_reply(), (0, 1));
    assert_eq!(raw.take(512), pattern(512, 0));
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn requests_in_flight_at_disconnect_and_at_hang_up_are_finished() {
    let export = MemoryExport::new(MIB);
    for polite in [true, false] {
        let (stream, server) = serve(&export);
        let mut raw = Raw::transmitting(stream, false);
        export.hold_all();
        let before = export.log().len();
        for n in 0..8u64 {
            raw.request(0, command::WRITE, n, n * 512, 512);
            raw.put(&pattern(512, 77));
        }
        export.wait_for_requests(before + 8);
        if polite {
            raw.request(0, command::DISC, 99, 0, 0);
        } else {
            raw.0.shutdown(Shutdown::Write).unwrap();
        }
        export.release();
        for n in 0..8 {
            assert_eq!(raw.simple_reply(), (0, n));
        }
        raw.closed();
        still_fine(&export, server).unwrap();
    }
    assert_eq!(export.bytes()[..512], pattern(512, 77));
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let export = MemoryExport::new(MIB);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, true);
    export.hold_all();
    for n in 0..50u64 {
        raw.request(0, command::READ, n, n * 512, 4096);
    }
    raw.request(0, command::WRITE_ZEROES, 99, 0, 65_536);
    export.wait_for_requests(51);
    drop(raw);
    export.release();
    still_fine(&export, server).unwrap();
}

#[test]
fn a_client_that_never_reads_its_replies_cannot_grow_memory() {
    let export = MemoryExport::new(4 * MIB);
    let limits = ConnectionLimits { requests: 64, bytes: 4 << 20, ..ConnectionLimits::default() };
    let (stream, server) = serve_with(&export, limits);
    let mut raw = Raw::transmitting(stream, true);
    // Far more than the limits and both socket buffers hold.
    let count = 400u64;
    raw.put(&(0..count).flat_map(|n| request_bytes(0, command::READ, n, 0, 1 << 20)).collect::<Vec<u8>>());
    // Everything is sent and nothing was read; the server is stuck at its limits, and stays there: three replies with their heads leave
    // less than a fourth needs.
    export.wait_for_requests(3);
    let in_flight = export.log().len();
    assert!(in_flight < 20, "{in_flight} requests were started");
    for n in 0..count {
        let (_, kind, cookie, body) = raw.chunk();
        assert_eq!((kind, cookie, body.len()), (1, n, (1 << 20) + 8));
    }
    let peak = export.shared.peak.load(Ordering::SeqCst);
    assert!(peak <= 4 << 20, "{peak} bytes were held");
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn small_requests_are_bounded_too() {
    let export = MemoryExport::new(MIB);
    let limits = ConnectionLimits { requests: 16, ..ConnectionLimits::default() };
    let (stream, server) = serve_with(&export, limits);
    let mut raw = Raw::transmitting(stream, false);
    export.hold_all();
    raw.put(&(0..1000).flat_map(|n| request_bytes(0, command::FLUSH, n, 0, 0)).collect::<Vec<u8>>());
    export.wait_for_requests(16);
    assert_eq!(export.log().len(), 16);
    export.release();
    for n in 0..1000 {
        assert_eq!(raw.simple_reply(), (0, n));
    }
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn one_request_above_the_byte_limit_still_works() {
    let export = MemoryExport::new(4 * MIB);
    let limits = ConnectionLimits { bytes: 4096, ..ConnectionLimits::default() };
    let (stream, server) = serve_with(&export, limits);
    let mut raw = Raw::transmitting(stream, false);
    let bytes = pattern(2 * MIB, 3);
    raw.request(0, command::WRITE, 1, 0, 2 << 20);
    raw.put(&bytes);
    assert_eq!(raw.simple_reply(), (0, 1));
    for n in 0..4 {
        raw.request(0, command::READ, n, 0, 2 << 20);
    }
    for n in 0..4 {
        assert_eq!(raw.simple_reply(), (0, n));
        assert!(raw.take(2 * MIB) == bytes);
    }
    drop(raw);
    still_fine(&export, server).unwrap();
}

#[test]
fn a_volume_without_queues_ends_the_connection_only() {
    let export = MemoryExport::new(MIB);
    export.shared.no_queue.store(true, Ordering::SeqCst);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    raw.closed();
    export.shared.no_queue.store(false, Ordering::SeqCst);
    assert!(matches!(still_fine(&export, server), Err(ServeError::Queue(_))));
}

#[test]
fn noise_in_transmission_never_panics() {
    let export = MemoryExport::new(MIB);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..150 {
        let (stream, server) = serve(&export);
        let mut raw = Raw::transmitting(stream, noise() % 2 == 0);
        let mut bytes = Vec::new();
        for _ in 0..20 {
            let n = noise();
            let length = u32::try_from(n >> 50).unwrap() & !511;
            let mut request = request_bytes(0, (n % 9) as u16, n, (n >> 44) & !511, length);
            if n % 7 == 0 {
                let at = 4 + (noise() % 24) as usize;
                request[at] ^= 1 << (n % 8);
            }
            bytes.extend(request);
            bytes.extend(vec![0xaa; if n % 9 == 1 { length as usize } else { 0 }]);
        }
        let mut reader = raw.0.try_clone().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).map(|_| ()));
        // The server may hang up on it at any point.
        let _ = raw.0.write_all(&bytes);
        let _ = raw.0.shutdown(Shutdown::Write);
        let _ = reader.join().unwrap();
        let _ = server.join().expect("no panic");
        assert_eq!(export.shared.outstanding.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn eio_without_structured_replies_carries_no_data() {
    let export = MemoryExport::new(MIB);
    export.lose([1]);
    let (stream, server) = serve(&export);
    let mut raw = Raw::transmitting(stream, false);
    raw.request(0, command::READ, 1, 0, 1024);
    raw.request(0, command::READ, 2, 0, 512);
    assert_eq!(raw.simple_reply(), (EIO, 1));
    assert_eq!(raw.simple_reply(), (0, 2));
    assert_eq!(raw.take(512), pattern(512, 0));
    drop(raw);
    still_fine(&export, server).unwrap();
}
