//! The volatile cache of a drill: what is on the device is what a power cut would leave.
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;

use remap_io::{Device, Direct, Drill, IoBackend, IoKind, IoQueue};
use support::{PATIENT, backends, file, filled, op, run};

const WRITE: IoKind = IoKind::Write { fua: false };
const KIB: u64 = 1024;

/// A device with drills, and a queue.
struct Bench {
    folder: tempfile::TempDir,
    device: Device,
    drills: Vec<Arc<Drill>>,
    queue: IoQueue,
}

impl Bench {
    fn new(backend: IoBackend, direct: Direct, specs: &[&str]) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (_, device) = file(folder.path(), 1 << 20, direct);
        let drills: Vec<_> = specs.iter().map(|spec| Arc::new(Drill::parse(spec).unwrap())).collect();
        let device = drills.iter().fold(device, |device, drill| device.with_drill(Arc::clone(drill)));
        Self { folder, device, drills, queue: IoQueue::open(backend, 4).unwrap() }
    }

    fn write(&mut self, kind: IoKind, offset: u64, byte: u8) {
        let mut buf = filled(4096, byte);
        let op = op(&self.device, kind, offset, 4 * KIB, Some(&mut buf));
        assert_eq!(run(&mut self.queue, op, PATIENT), Ok(()), "{kind:?} at {offset}");
    }

    fn run(&mut self, kind: IoKind, offset: u64, len: u64) {
        assert_eq!(run(&mut self.queue, op(&self.device, kind, offset, len, None), PATIENT), Ok(()));
    }

    /// First byte of each of so many blocks, as a client reads them.
    fn read(&mut self, blocks: usize) -> Vec<u8> {
        let mut buf = filled(blocks * 4096, 0xee);
        let op = op(&self.device, IoKind::Read, 0, 4 * KIB * blocks as u64, Some(&mut buf));
        assert_eq!(run(&mut self.queue, op, PATIENT), Ok(()));
        firsts(buf.bytes())
    }

    /// The same, as a power cut would leave them.
    fn medium(&self, blocks: usize) -> Vec<u8> {
        firsts(&std::fs::read(self.path()).unwrap()[..blocks * 4096])
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }
}

fn firsts(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(4096).map(|block| block[0]).collect()
}

#[test]
fn unflushed_writes_are_read_but_not_on_the_medium() {
    for backend in backends() {
        for direct in [Direct::Auto, Direct::Never] {
            let mut bench = Bench::new(backend, direct, &["volatile-cache=1M,seed=5"]);
            for n in 0..200_u8 {
                bench.write(WRITE, u64::from(n) * 4 * KIB, 1 + n);
            }
            let written: Vec<u8> = (1..=200).collect();
            assert_eq!(bench.read(200), written);
            let medium = bench.medium(200);
            let early = medium.iter().filter(|&&byte| byte != 0).count();
            assert!((1..200).contains(&early), "some go out early, not all: {early}");
            assert!(medium.iter().zip(&written).all(|(&found, &byte)| found == 0 || found == byte));
            let whole = std::fs::read(bench.path()).unwrap();
            let torn = |block: &&[u8]| block.contains(&0) && block.iter().any(|&byte| byte != 0);
            assert!(whole.chunks(4096).any(|block| torn(&block)), "some go out in part");
            bench.run(IoKind::Flush, 0, 0);
            assert_eq!(bench.medium(200), written);
            assert_eq!(bench.read(200), written);
        }
    }
}

#[test]
fn durable_writes_and_zeroes_are_newer_than_what_was_held() {
    for backend in backends() {
        let mut bench = Bench::new(backend, Direct::Auto, &["volatile-cache=1M,seed=1"]);
        for round in 1..=50 {
            bench.write(WRITE, 0, round);
            bench.write(IoKind::Write { fua: true }, 0, 100 + round);
            assert_eq!(bench.medium(1), [100 + round]);
            bench.write(WRITE, 4 * KIB, round);
            bench.run(IoKind::WriteZeroes { fua: true, may_unmap: true }, 4 * KIB, 4 * KIB);
            bench.write(WRITE, 8 * KIB, round);
            bench.run(IoKind::WriteZeroes { fua: false, may_unmap: false }, 8 * KIB, 4 * KIB);
            bench.write(WRITE, 12 * KIB, round);
            bench.run(IoKind::Discard, 12 * KIB, 4 * KIB);
            assert_eq!(bench.read(4), [100 + round, 0, 0, 0]);
            bench.run(IoKind::Flush, 0, 0);
            assert_eq!(bench.medium(4), [100 + round, 0, 0, 0]);
        }
    }
}

#[test]
fn a_cache_that_is_full_or_switched_off_writes_out() {
    for backend in backends() {
        let mut bench = Bench::new(backend, Direct::Auto, &["volatile-cache=16K"]);
        for n in 0..100_u8 {
            bench.write(WRITE, u64::from(n) * 4 * KIB, 1 + n);
        }
        let gone = bench.medium(100).iter().filter(|&&byte| byte == 0).count();
        assert!(gone <= 4, "16 KiB hold 4 blocks, not {gone}");
        bench.drills[0].set_enabled(false);
        bench.write(WRITE, 0, 250);
        assert_eq!(bench.medium(1), [250]);
        let all: Vec<u8> = std::iter::once(250).chain(2..=100).collect();
        assert_eq!(bench.read(100), all, "what was held is still read");
        bench.run(IoKind::Flush, 0, 0);
        assert_eq!(bench.medium(100), all);
    }
}

#[test]
fn a_sector_heals_when_its_write_reaches_the_medium() {
    for backend in backends() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let state = folder.path().join("healed");
        let bad = format!("bad=sectors:0-799,heal,state={}", state.display());
        let mut bench = Bench::new(backend, Direct::Auto, &[&bad, "volatile-cache=1M,seed=3"]);
        for n in 0..100_u8 {
            bench.write(WRITE, u64::from(n) * 4 * KIB, 1 + n);
        }
        assert_eq!(bench.read(100), (1..=100).collect::<Vec<u8>>(), "the cache answers for bad sectors");
        // What the state file says is healed must be what a power cut leaves.
        let medium = std::fs::read(bench.path()).unwrap();
        let again = Drill::parse(&bad).unwrap();
        let written = medium[..800 * 512].chunks(512).filter(|sector| sector[0] != 0).count() as u64;
        assert!(written > 0 && written < 800);
        assert_eq!(again.bad_sectors(), 800 - written);
        bench.run(IoKind::Flush, 0, 0);
        assert_eq!(bench.drills[0].bad_sectors(), 0);
        assert_eq!(Drill::parse(&bad).unwrap().bad_sectors(), 0);
    }
}

#[test]
fn a_slice_caches_at_its_own_place() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, whole) = file(folder.path(), 1 << 20, Direct::Auto);
    drop(whole);
    let options = remap_io::OpenOptions {
        write: true,
        slice: Some((64 * KIB, Some(64 * KIB))),
        ..remap_io::OpenOptions::default()
    };
    let drill = Arc::new(Drill::parse("volatile-cache=1M").unwrap());
    let slice = Device::open(&path, &options).unwrap().with_drill(drill);
    slice.write_at(4096, &filled(4096, 7)).unwrap();
    slice.flush().unwrap();
    assert_eq!(byte_at(&path, 64 * 1024 + 4096), 7);
    assert_eq!(byte_at(&path, 64 * 1024 + 8192), 0);
}

fn byte_at(path: &Path, at: usize) -> u8 {
    std::fs::read(path).unwrap()[at]
}
