//! The steps of one operation, without a kernel.

use std::time::Instant;

use rustix::fs::FallocateFlags;

use super::entry::Act;
use super::*;
use crate::{Device, OpenOptions};

fn entry(kind: IoKind, len: u64) -> (tempfile::NamedTempFile, Entry) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let options = OpenOptions { write: true, slice: Some((4096, None)), ..OpenOptions::default() };
    let device = Device::open(file.path(), &options).unwrap();
    let buf = matches!(kind, IoKind::Read | IoKind::Write { .. })
        .then(|| Buf::alloc(usize::try_from(len).unwrap()).unwrap().slice(0..usize::try_from(len).unwrap()));
    (file, Entry::of(1, DeviceOp { device, kind, offset: 8192, len, buf, scattered: false }, Instant::now()))
}

#[test]
fn short_transfers_go_on_at_whole_blocks() {
    let (_file, mut entry) = entry(IoKind::Read, 16384);
    let call = entry.call(0);
    assert_eq!((call.act, call.offset, call.len, call.memory_offset), (Act::Read, 12288, 16384, 0));
    let block = u64::from(entry.op.device.limits().logical_block);
    assert_eq!(entry.judge(Ok(block + 7)), Verdict::Continue);
    let call = entry.call(0);
    assert_eq!((call.offset, call.len), (12288 + block, 16384 - block));
    assert_eq!(entry.judge(Err(Errno::INTR)), Verdict::Continue);
    assert_eq!(entry.call(0), call);
    assert_eq!(entry.judge(Ok(7)), Verdict::Over(Err(Fault::Gone)));
    assert_eq!(entry.judge(Ok(0)), Verdict::Over(Err(Fault::Gone)));
    assert_eq!(entry.judge(Ok(16384 - block)), Verdict::Over(Ok(())));
}

#[test]
fn zeroing_falls_back_step_by_step() {
    let (_file, mut first) = entry(IoKind::WriteZeroes { fua: true, may_unmap: true }, 300 << 10);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let range = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    assert_eq!(first.call(ZERO_BYTES).act, Act::Fallocate(punch));
    assert_eq!(first.judge(Err(Errno::OPNOTSUPP)), Verdict::Continue);
    assert_eq!(first.call(ZERO_BYTES).act, Act::Fallocate(range));
    assert_eq!(first.judge(Err(Errno::OPNOTSUPP)), Verdict::Continue);
    let call = first.call(ZERO_BYTES);
    assert_eq!((call.act, call.len), (Act::WriteZeroBytes { durable: true }, 256 << 10));
    assert_eq!(first.judge(Ok(256 << 10)), Verdict::Continue);
    assert_eq!(first.call(ZERO_BYTES).len, 44 << 10);
    assert_eq!(first.judge(Ok(44 << 10)), Verdict::Over(Ok(())));
    // The device is known now.
    let op = DeviceOp {
        device: first.op.device.clone(),
        kind: IoKind::WriteZeroes { fua: false, may_unmap: true },
        offset: 0,
        len: 4096,
        buf: None,
        scattered: false,
    };
    let again = Entry::of(2, op, Instant::now());
    assert_eq!(again.call(ZERO_BYTES).act, Act::WriteZeroBytes { durable: false });
}

#[test]
fn zeroes_by_fallocate_are_made_durable() {
    let (_file, mut entry) = entry(IoKind::WriteZeroes { fua: true, may_unmap: false }, 4096);
    assert_eq!(entry.judge(Ok(0)), Verdict::Continue);
    assert_eq!(entry.call(ZERO_BYTES).act, Act::Sync);
    assert_eq!(entry.judge(Ok(0)), Verdict::Over(Ok(())));
}

#[test]
fn a_discard_is_a_hint_but_a_dead_device_is_dead() {
    let (_file, mut entry) = entry(IoKind::Discard, 4096);
    assert_eq!(entry.judge(Err(Errno::OPNOTSUPP)), Verdict::Over(Ok(())));
    assert_eq!(entry.judge(Err(Errno::NODEV)), Verdict::Over(Err(Fault::Gone)));
}

#[test]
fn a_failed_flush_sticks_only_to_the_page_cache() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    for (direct, sticky) in [(crate::Direct::Never, Some(Fault::Unknown)), (crate::Direct::Always, None)] {
        let options = OpenOptions { direct, ..OpenOptions::default() };
        let device = match Device::open(file.path(), &options) {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let op = DeviceOp {
            device: device.clone(),
            kind: IoKind::Flush,
            offset: 0,
            len: 0,
            buf: None,
            scattered: false,
        };
        let mut entry = Entry::of(1, op, Instant::now());
        assert_eq!(entry.judge(Err(Errno::IO)), Verdict::Over(Err(Fault::Unknown)));
        assert_eq!(device.lost_flush(), sticky);
        assert_eq!(device.flush(), sticky.map_or(Ok(()), Err));
    }
}

#[test]
fn an_error_that_says_nothing_is_looked_into() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let on_file = Device::open(file.path(), &OpenOptions::default()).unwrap();
    let losetup = |arguments: &[&str]| {
        let output = std::process::Command::new("losetup").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(disk) = losetup(&["--find", "--show", file.path().to_str().unwrap()]) else {
        println!("skipped: losetup needs root");
        return;
    };
    let on_disk = Device::open(disk.as_ref(), &OpenOptions::default()).unwrap();
    let before = on_disk.fault(Errno::IO);
    file.as_file().set_len(0).unwrap();
    let resized = losetup(&["--set-capacity", &disk]);
    let after = on_disk.fault(Errno::IO);
    losetup(&["--detach", &disk]);
    assert_eq!((before, on_file.fault(Errno::IO)), (Fault::Unknown, Fault::Unknown));
    assert_eq!((resized.is_some(), after), (true, Fault::Gone));
}
