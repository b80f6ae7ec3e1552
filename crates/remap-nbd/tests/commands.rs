//! What a well-behaved client sees, with each style of replies.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::memory::{MemoryExport, POISON, geometry};
use common::{client, pattern, serve};
use remap_core::op::RequestKind;
use remap_nbd::client::{StatusExtent, ZeroOptions};
use remap_nbd::offer::Style;
use remap_nbd::proto::{ErrorCode, command_flag, transmission_flag as flag};
use remap_nbd::{Client, ClientOptions};
use remap_runtime::front::{BlockState, ByteRange, Export as _, FrontError, Geometry};
use remap_runtime::{Stage, TraceKind};

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];
const MIB: usize = 1 << 20;

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange { start, len }
}

#[test]
fn the_export_is_described() {
    let export = MemoryExport::new(MIB);
    for style in STYLES {
        let client = client(&export, style);
        let remote = client.remote();
        assert_eq!((remote.size, remote.style), (MIB as u64, style));
        assert_eq!((remote.minimum, remote.preferred, remote.maximum), (512, 4096, 32 << 20));
        assert_eq!((remote.name.as_str(), remote.description.as_str()), ("mem", "memory for tests"));
        let always =
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::ROTATIONAL;
        assert_eq!(remote.flags & always, always);
        assert_eq!(remote.contexts.len(), if style == Style::Simple { 0 } else { 2 });
        client.disconnect().unwrap();
    }
}

#[test]
fn written_bytes_are_read_back() {
    for style in STYLES {
        let export = MemoryExport::new(4 * MIB);
        let mut client = client(&export, style);
        let mut model = pattern(4 * MIB, 0);
        for (n, (at, len)) in [(0, 512), (512, 4096), (MIB - 512, MIB), (3 * MIB, MIB), (4096, 2 * MIB + 512)]
            .into_iter()
            .enumerate()
        {
            let bytes = pattern(len, 7 + n as u64);
            client.write(at as u64, &bytes, n % 2 == 0).unwrap();
            model[at..at + len].copy_from_slice(&bytes);
        }
        client.flush().unwrap();
        let mut all = vec![POISON; 4 * MIB];
        assert_eq!(client.read(0, &mut all).unwrap(), []);
        assert!(all == model && export.bytes() == model, "{style:?}");
        client.disconnect().unwrap();
        let fua = export.log().iter().filter(|r| r.kind == RequestKind::Write { fua: true }).count();
        assert_eq!(fua, 3);
        assert!(export.log().iter().any(|r| r.kind == RequestKind::Flush));
    }
}

#[test]
fn good_bytes_around_lost_sectors_are_delivered() {
    for style in [Style::Structured, Style::Extended] {
        let export = MemoryExport::new(MIB);
        export.lose([3, 4, 9, 2047]);
        let mut client = client(&export, style);
        let mut bytes = vec![0; MIB];
        let bad = client.read(0, &mut bytes).unwrap();
        assert_eq!(bad, [range(3 * 512, 1024), range(9 * 512, 512), range(2047 * 512, 512)]);
        let model = pattern(MIB, 0);
        for (n, byte) in bytes.iter().enumerate() {
            let lost = bad.iter().any(|bad| (bad.start..bad.start + bad.len).contains(&(n as u64)));
            assert_eq!(*byte, if lost { 0 } else { model[n] }, "byte {n}");
        }
        // A read of nothing but lost sectors, and one that misses them.
        assert_eq!(client.read(3 * 512, &mut bytes[..1024]).unwrap(), [range(3 * 512, 1024)]);
        assert_eq!(client.read(5 * 512, &mut bytes[..2048]).unwrap(), []);
        // Lost until it is overwritten.
        client.write(3 * 512, &[1; 512], false).unwrap();
        assert_eq!(client.read(0, &mut bytes[..8 * 512]).unwrap(), [range(4 * 512, 512)]);
    }
}

#[test]
fn without_fragments_the_bytes_before_the_first_lost_sector_come() {
    let export = MemoryExport::new(MIB);
    export.lose([3, 9]);
    let mut client = client(&export, Style::Structured);
    let mut bytes = vec![0; 16 * 512];
    let bad = client.read_flagged(0, &mut bytes, command_flag::DF).unwrap();
    assert_eq!(bad, [range(3 * 512, 13 * 512)]);
    assert_eq!(bytes[..3 * 512], pattern(3 * 512, 0));
    assert!(bytes[3 * 512..].iter().all(|byte| *byte == 0));
    assert_eq!(client.read_flagged(10 * 512, &mut bytes[..512], command_flag::DF).unwrap(), []);
}

#[test]
fn simple_replies_fail_as_a_whole_and_carry_nothing() {
    let export = MemoryExport::new(MIB);
    export.lose([3]);
    let mut client = client(&export, Style::Simple);
    let mut bytes = vec![0; 8 * 512];
    assert_eq!(client.read(0, &mut bytes).unwrap_err().code(), Some(ErrorCode::EIO));
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(client.read(4 * 512, &mut bytes).unwrap(), []);
}

#[test]
fn failures_of_the_volume_are_told_in_the_protocols_words() {
    for style in STYLES {
        let export = MemoryExport::new(MIB);
        let mut client = client(&export, style);
        for (error, code) in [
            (FrontError::Io { bad: vec![] }, ErrorCode::EIO),
            (FrontError::NoSpace, ErrorCode::ENOSPC),
            (FrontError::ReadOnly, ErrorCode::EPERM),
            (FrontError::Shutdown, ErrorCode::ESHUTDOWN),
        ] {
            export.fail_with(Some(error));
            assert_eq!(client.write(0, &[0; 512], false).unwrap_err().code(), Some(code));
            assert_eq!(client.read(0, &mut [0; 512]).unwrap_err().code(), Some(code));
            assert_eq!(client.flush().unwrap_err().code(), Some(code));
            assert_eq!(client.trim(0, 512, true).unwrap_err().code(), Some(code));
            assert_eq!(client.zero(0, 512, ZeroOptions::default()).unwrap_err().code(), Some(code));
        }
        export.fail_with(None);
        client.write(0, &[0; 512], false).unwrap();
    }
}

#[test]
fn requests_outside_the_rules_get_their_error_and_nothing_else_happens() {
    for style in STYLES {
        let export = MemoryExport::new(MIB);
        let size = MIB as u64;
        let mut client = client(&export, style);
        let mut bytes = [0; 1024];
        assert_eq!(client.read(size - 512, &mut bytes).unwrap_err().code(), Some(ErrorCode::EINVAL));
        assert_eq!(client.read(1, &mut bytes).unwrap_err().code(), Some(ErrorCode::EINVAL));
        assert_eq!(client.write(size - 512, &bytes, false).unwrap_err().code(), Some(ErrorCode::ENOSPC));
        assert_eq!(client.write(100, &bytes, false).unwrap_err().code(), Some(ErrorCode::EINVAL));
        assert_eq!(client.write(0, &bytes[..100], false).unwrap_err().code(), Some(ErrorCode::EINVAL));
        let past = client.zero(size, 512, ZeroOptions::default()).unwrap_err();
        assert_eq!(past.code(), Some(ErrorCode::ENOSPC));
        assert_eq!(client.trim(size, 512, false).unwrap_err().code(), Some(ErrorCode::EINVAL));
        let fast = ZeroOptions { fast: true, ..ZeroOptions::default() };
        assert_eq!(client.zero(0, 512, fast).unwrap_err().code(), Some(ErrorCode::ENOTSUP));
        assert_eq!(client.read(0, &mut bytes).unwrap(), [], "the connection is still in step");
        client.disconnect().unwrap();
        assert_eq!(export.log().len(), 1);
        assert_eq!(export.bytes(), pattern(MIB, 0));
    }
}

#[test]
fn empty_requests_are_harmless() {
    for style in STYLES {
        let export = MemoryExport::new(MIB);
        let mut client = client(&export, style);
        client.trim(0, 0, true).unwrap();
        client.zero(MIB as u64, 0, ZeroOptions::default()).unwrap();
        client.cache(0, 0).unwrap();
        assert_eq!(client.read_flagged(0, &mut [], 0).unwrap(), []);
        client.flush().unwrap();
        client.disconnect().unwrap();
        assert_eq!(export.log().len(), 1);
    }
}

#[test]
fn long_ranges_are_split_to_what_the_volume_takes() {
    let small = Geometry { max_io: 65536, ..geometry(MIB as u64) };
    for style in STYLES {
        let export = MemoryExport::with(small.clone(), pattern(MIB, 0));
        let mut client = client(&export, style);
        client.zero(512, 200_192, ZeroOptions { fua: true, no_hole: true, fast: false }).unwrap();
        let mut model = pattern(MIB, 0);
        model[512..512 + 200_192].fill(0);
        assert!(export.bytes() == model);
        let lengths: Vec<u64> = export.log().iter().map(|request| request.len).collect();
        assert_eq!(lengths, [65536, 65536, 65536, 3584]);
        let kind = RequestKind::WriteZeroes { fua: true, may_unmap: false };
        assert!(export.log().iter().all(|request| request.kind == kind));
        // A trim with FUA is made durable by a flush after its last part.
        client.trim(0, 131_072, true).unwrap();
        let kinds: Vec<RequestKind> = export.log()[4..].iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [RequestKind::Discard, RequestKind::Discard, RequestKind::Flush]);
        // So is what the client reads and writes, by the client itself.
        let mut bytes = vec![0; MIB];
        assert_eq!(client.read(0, &mut bytes).unwrap(), []);
        client.write(0, &bytes, false).unwrap();
    }
}

#[test]
fn cache_finds_what_cannot_be_read() {
    let export = MemoryExport::new(4 * MIB);
    let mut client = client(&export, Style::Structured);
    client.cache(0, 4 << 20).unwrap();
    export.lose([8000]);
    client.cache(0, 8000 * 512).unwrap();
    assert_eq!(client.cache(0, 4 << 20).unwrap_err().code(), Some(ErrorCode::EIO));
    client.disconnect().unwrap();
    assert_eq!(export.shared.outstanding.load(Ordering::SeqCst), 0);
}

#[test]
fn block_status_tells_the_state() {
    for style in [Style::Structured, Style::Extended] {
        let export = MemoryExport::new(MIB);
        export.lose([2]);
        export.set_state(3, BlockState::Pending);
        export.set_state(4, BlockState::Remapped);
        export.set_state(5, BlockState::Remapped);
        let mut client = client(&export, style);
        let size = MIB as u64;
        let extent = |sectors: u64, status| StatusExtent { len: sectors * 512, status };
        let all = client.block_status("dm-remap:state", 0, size, false).unwrap();
        assert_eq!(all, [extent(2, 0), extent(1, 3), extent(1, 2), extent(2, 1), extent(2042, 0)]);
        let one = client.block_status("dm-remap:state", 1024, size - 1024, true).unwrap();
        assert_eq!(one, [extent(1, 3)]);
        let data = client.block_status("base:allocation", 512, 4096, false).unwrap();
        assert_eq!(data, [extent(8, 0)]);
        assert!(client.block_status("other:context", 0, 512, false).is_err());
        let past = client.block_status("base:allocation", size - 512, 1024, false).unwrap_err();
        assert_eq!(past.code(), Some(ErrorCode::EINVAL));
    }
}

#[test]
fn block_status_is_bounded_and_can_be_continued() {
    let export = MemoryExport::new(16 * MIB);
    export.lose((0..32768).step_by(2));
    let mut client = client(&export, Style::Structured);
    let size = 16 << 20;
    let (mut at, mut replies, mut lost) = (0, 0, 0);
    while at < size {
        let extents = client.block_status("dm-remap:state", at, size - at, false).unwrap();
        at += extents.iter().map(|extent| extent.len).sum::<u64>();
        lost += extents.iter().filter(|extent| extent.status == 3).count();
        replies += 1;
    }
    assert_eq!((at, lost, replies), (size, 16384, 4));
}

#[test]
fn a_sparse_giant_is_described_in_64_bits() {
    // Only its geometry is large: nothing is read.
    let export = MemoryExport::with(Geometry { min_io: 4096, ..geometry(1 << 50) }, Vec::new());
    let mut client = client(&export, Style::Extended);
    let all = client.block_status("base:allocation", 0, 1 << 50, false).unwrap();
    assert_eq!(all, [StatusExtent { len: 1 << 50, status: 0 }]);
    let past = client.block_status("base:allocation", 4096, 1 << 50, false).unwrap_err();
    assert_eq!(past.code(), Some(ErrorCode::EINVAL));
    assert_eq!(client.size(), 1 << 50);
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let export = MemoryExport::with(Geometry { read_only: true, ..geometry(MIB as u64) }, pattern(MIB, 0));
    for style in STYLES {
        let mut client = client(&export, style);
        assert_ne!(client.remote().flags & flag::READ_ONLY, 0);
        assert_eq!(client.write(0, &[1; 512], false).unwrap_err().code(), Some(ErrorCode::EPERM));
        let zero = client.zero(0, 512, ZeroOptions::default()).unwrap_err();
        assert_eq!(zero.code(), Some(ErrorCode::EPERM));
        assert_eq!(client.trim(0, 512, false).unwrap_err().code(), Some(ErrorCode::EPERM));
        let mut bytes = [0; 512];
        assert_eq!(client.read(0, &mut bytes).unwrap(), []);
        client.flush().unwrap();
    }
    assert_eq!(export.bytes(), pattern(MIB, 0));
}

#[test]
fn names_and_empty_names() {
    let export = MemoryExport::new(MIB);
    let connect = |name: &str| {
        Client::over(Box::new(serve(&export).0), name, &ClientOptions::default()).map(|client| client.size())
    };
    assert_eq!(connect("mem").unwrap(), MIB as u64);
    assert_eq!(connect("").unwrap(), MIB as u64);
    let refused = connect("other").unwrap_err().to_string();
    assert!(refused.contains("\"mem\""), "{refused}");
}

#[test]
fn the_queue_is_opened_only_after_the_handshake() {
    let export = MemoryExport::new(MIB);
    let queues = |export: &Arc<MemoryExport>| export.shared.queues.load(Ordering::SeqCst);
    assert!(Client::over(Box::new(serve(&export).0), "other", &ClientOptions::default()).is_err());
    assert_eq!(queues(&export), 0);
    let mut client = client(&export, Style::Simple);
    client.flush().unwrap();
    assert_eq!(queues(&export), 1);
}

/// Each request counts once in each stage that is the connection's, and only while it is traced.
#[test]
fn stages_of_requests_are_recorded_while_they_are_traced() {
    let export = MemoryExport::new(MIB);
    let mut client = client(&export, Style::Extended);
    let mut bytes = vec![0; 4096];
    let mut some = |client: &mut Client| {
        client.read(0, &mut bytes).unwrap();
        client.read(4096, &mut bytes).unwrap();
        client.write(8192, &bytes, false).unwrap();
        client.flush().unwrap();
        client.zero(0, 4096, ZeroOptions::default()).unwrap();
    };
    some(&mut client);
    assert!(export.trace().read().is_empty());
    export.trace().start(Duration::from_secs(3600));
    some(&mut client);
    client.disconnect().unwrap();
    let seen: Vec<_> =
        export.trace().read().into_iter().map(|(kind, stage, times)| (kind, stage, times.count)).collect();
    use {Stage::*, TraceKind::*};
    let expected = [
        (Read, Reply, 2),
        (Read, Whole, 2),
        (Write, Receive, 1),
        (Write, Reply, 1),
        (Write, Whole, 1),
        (Flush, Reply, 1),
        (Flush, Whole, 1),
        (Range, Reply, 1),
        (Range, Whole, 1),
    ];
    assert_eq!(seen, expected);
    assert!(
        export
            .trace()
            .read()
            .iter()
            .all(|(.., times)| times.p50_ns <= times.max_ns && times.max_ns <= times.sum_ns)
    );
}
