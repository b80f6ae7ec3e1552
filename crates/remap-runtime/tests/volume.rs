//! A volume on files, through the whole of runtime, core and I/O: what clients see when the medium fails.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use remap_core::engine::{Command, VolumeState};
use remap_core::op::RequestKind;
use remap_core::units::{Extent, Sector};
use remap_format::{Cause, Policy};
use remap_io::{Device, Drill, OpenOptions as DeviceOptions};
use remap_runtime::front::{BlockState, ByteRange, Export, FrontError, FrontRequest, Interest, Queue};
use remap_runtime::{AdoptOptions, OpenError, OpenOptions, Volume, VolumeQueue, adopt};
use tempfile::TempDir;

const MAIN_SIZE: u64 = 4 << 20;

struct Lab {
    dir: TempDir,
}

fn pattern(sector: u64) -> [u8; 512] {
    std::array::from_fn(|i| (sector.wrapping_mul(31) as u8).wrapping_add(i as u8))
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(Sector(start), sectors).expect("not empty")
}

impl Lab {
    fn make(policy: Policy, spares: usize) -> Self {
        let lab = Self { dir: TempDir::new().expect("a temporary directory") };
        let mut main = File::create(lab.main()).expect("main");
        for sector in 0..MAIN_SIZE / 512 {
            main.write_all(&pattern(sector)).expect("write");
        }
        for n in 0..spares {
            File::create(lab.spare(n)).and_then(|f| f.set_len(2 << 20)).expect("spare");
        }
        let spares = lab.spares(spares);
        let options =
            AdoptOptions { name: "lab".into(), block_size: 4096, policy, lost: Vec::new(), force: false };
        adopt(&lab.main_device(), &spares, &options).expect("adopt");
        lab
    }

    fn main(&self) -> PathBuf {
        self.dir.path().join("main")
    }

    fn spare(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("spare{n}"))
    }

    fn main_device(&self) -> Device {
        open(&self.main())
    }

    fn spares(&self, count: usize) -> Vec<Device> {
        (0..count).map(|n| open(&self.spare(n))).collect()
    }

    fn serve(&self, drill: &str) -> Volume {
        self.serve_with(drill, OpenOptions::default()).expect("open")
    }

    fn serve_with(&self, drill: &str, options: OpenOptions) -> Result<Volume, OpenError> {
        let mut main = self.main_device();
        if !drill.is_empty() {
            main = main.with_drill(Arc::new(Drill::parse(drill).expect("drill")));
        }
        let count = (0..4).filter(|&n| self.spare(n).exists()).count();
        Volume::open(main, self.spares(count), options).map(|(volume, _)| volume)
    }
}

fn open(path: &Path) -> Device {
    Device::open(path, &DeviceOptions { write: true, exclusive: true, ..DeviceOptions::default() })
        .expect("open")
}

struct Client {
    queue: VolumeQueue,
    idle: File,
}

impl Client {
    fn of(volume: &Volume) -> Self {
        let idle = File::open("/dev/null").expect("/dev/null");
        Self { queue: volume.queue().expect("queue"), idle }
    }

    fn run(
        &mut self,
        kind: RequestKind,
        start: u64,
        sectors: u64,
        bytes: Option<&[u8]>,
    ) -> (Result<(), FrontError>, Vec<u8>) {
        let buf = matches!(kind, RequestKind::Read | RequestKind::Write { .. }).then(|| {
            let mut buf = self.queue.buffer((sectors * 512) as usize);
            match bytes {
                Some(bytes) => buf.bytes_mut().copy_from_slice(bytes),
                None => buf.bytes_mut().fill(0xEE),
            }
            buf
        });
        self.queue.submit(1, FrontRequest { kind, offset: start * 512, len: sectors * 512 }, buf);
        loop {
            if let Some(done) = self.queue.next() {
                let bytes = done.buf.map_or_else(Vec::new, |buf| buf.bytes().to_vec());
                return (done.result, bytes);
            }
            self.queue
                .wait(self.idle.as_fd(), Interest::default(), Some(Duration::from_secs(5)))
                .expect("wait");
        }
    }

    fn read(&mut self, start: u64, sectors: u64) -> (Result<(), FrontError>, Vec<u8>) {
        self.run(RequestKind::Read, start, sectors, None)
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), FrontError> {
        let sectors = bytes.len() as u64 / 512;
        self.run(RequestKind::Write { fua: false }, start, sectors, Some(bytes)).0
    }

    fn assert_original(&mut self, start: u64, sectors: u64) {
        let (result, bytes) = self.read(start, sectors);
        assert_eq!(result, Ok(()), "sectors {start}+{sectors}");
        for (n, sector) in (start..).zip(bytes.chunks(512)) {
            assert_eq!(sector, pattern(n), "sector {n}");
        }
    }
}

fn bad(ranges: &[(u64, u64)]) -> Result<(), FrontError> {
    let bad = ranges.iter().map(|&(start, len)| ByteRange { start: start * 512, len: len * 512 }).collect();
    Err(FrontError::Io { bad })
}

#[test]
fn a_healthy_volume_is_its_main_device() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    let mut client = Client::of(&volume);
    client.assert_original(0, MAIN_SIZE / 512);
    let new = [7u8; 8192];
    assert_eq!(client.write(101, &new), Ok(()));
    assert_eq!(client.read(101, 16).1, new);
    assert_eq!(client.run(RequestKind::Flush, 0, 0, None).0, Ok(()));
    let zeroes = RequestKind::WriteZeroes { fua: true, may_unmap: true };
    assert_eq!(client.run(zeroes, 103, 4, None).0, Ok(()));
    assert_eq!(client.read(103, 4).1, [0; 2048]);
    assert_eq!(client.run(RequestKind::Discard, 4000, 64, None).0, Ok(()));
    assert_eq!(volume.status().expect("status").state, VolumeState::Healthy);
    drop(client);
    volume.stop();
    let mut main = File::open(lab.main()).expect("main");
    main.seek(SeekFrom::Start(101 * 512)).expect("seek");
    let mut bytes = [0; 1024];
    main.read_exact(&mut bytes).expect("read");
    assert_eq!(bytes, [7; 1024], "nothing moved: the bytes are on the main device");
}

fn lost_until_overwritten(policy: Policy, drill: &str) {
    let lab = Lab::make(policy, 1);
    let volume = lab.serve(drill);
    let mut client = Client::of(&volume);
    // Sectors 1003 and 1004 are bad; a larger read gives everything else.
    let (result, bytes) = client.read(1000, 16);
    assert_eq!(result, bad(&[(1003, 2)]));
    for n in (1000..1016).filter(|n| !(1003..1005).contains(n)) {
        let at = (n - 1000) as usize * 512;
        assert_eq!(bytes[at..at + 512], pattern(n), "sector {n}");
    }
    // Neighbours can be had alone, the bad ones cannot.
    client.assert_original(1002, 1);
    assert_eq!(client.read(1003, 1).0, bad(&[(1003, 1)]));
    // A write that covers one of the two heals that one.
    assert_eq!(client.write(1003, &[9; 512]), Ok(()));
    assert_eq!(client.read(1003, 1), (Ok(()), vec![9; 512]));
    assert_eq!(client.read(1000, 8).0, bad(&[(1004, 1)]));
    drop(client);
    volume.stop();
    drop(volume);

    // The same after a restart.
    let volume = lab.serve(drill);
    let mut client = Client::of(&volume);
    assert_eq!(client.read(1003, 1), (Ok(()), vec![9; 512]));
    assert_eq!(client.read(1000, 8).0, bad(&[(1004, 1)]));
    assert_eq!(client.write(1000, &[3; 4096]), Ok(()));
    assert_eq!(client.read(1000, 8), (Ok(()), vec![3; 4096]));
    client.assert_original(1008, 8);
    let status = volume.status().expect("status");
    assert_eq!(status.counts.lost_sectors, 0);
    drop(client);
    volume.stop();
}

#[test]
fn a_lost_sector_is_an_error_until_it_is_overwritten() {
    for policy in [Policy::RewriteThenRemap, Policy::RemapOnly] {
        lost_until_overwritten(policy, "bad=sectors:1003-1004,errno=ENODATA");
        lost_until_overwritten(policy, "bad=sectors:1003-1004,errno=EIO");
    }
}

#[test]
fn a_drive_that_reallocates_on_write_needs_no_slot() {
    let lab = Lab::make(Policy::RewriteThenRemap, 1);
    let volume = lab.serve("bad=sectors:1003-1004,errno=ENODATA,heal");
    let mut client = Client::of(&volume);
    assert_eq!(client.read(1003, 1).0, bad(&[(1003, 1)]));
    assert_eq!(client.write(1003, &[9; 1024]), Ok(()));
    assert_eq!(client.read(1003, 2), (Ok(()), vec![9; 1024]));
    let status = volume.status().expect("status");
    assert_eq!((status.counts.entries, status.slots.free), (0, status.slots.total));
    drop(client);
    volume.stop();
}

#[test]
fn a_failed_write_is_invisible() {
    for (policy, errno) in [(Policy::RewriteThenRemap, "EIO"), (Policy::RemapOnly, "ENODATA")] {
        let lab = Lab::make(policy, 2);
        let volume = lab.serve(&format!("bad=sectors:2000-2100,errno={errno}"));
        let mut client = Client::of(&volume);
        let fresh: Vec<u8> = (0..256 * 512).map(|i| (i / 512) as u8).collect();
        assert_eq!(client.write(1900, &fresh), Ok(()));
        assert_eq!(client.read(1900, 256), (Ok(()), fresh));
        let status = volume.status().expect("status");
        assert_eq!(status.counts.remapped_blocks, 13, "blocks 250 to 262 hold the bad sectors");
        assert_eq!(status.state, VolumeState::Degraded);
        let states = volume.block_status(1900 * 512, 256 * 512, 100);
        assert_eq!(states.iter().map(|s| s.len).sum::<u64>(), 256 * 512);
        assert_eq!(states[1].state, BlockState::Remapped);
        drop(client);
        volume.stop();
    }
}

#[test]
fn transport_errors_create_no_entry() {
    for errno in ["ENOLINK", "ETIMEDOUT", "ENODEV"] {
        let lab = Lab::make(Policy::RemapOnly, 1);
        let volume = lab.serve(&format!("bad=sectors:0-8191,errno={errno}"));
        let mut client = Client::of(&volume);
        for start in [0, 100, 4000] {
            assert!(client.read(start, 8).0.is_err());
            assert!(client.write(start, &[1; 4096]).is_err());
        }
        let status = volume.status().expect("status");
        assert_eq!(status.counts.entries, 0, "{errno}");
        assert_eq!(status.state, VolumeState::Frozen, "{errno}: remapping is suspended");
        drop(client);
        volume.stop();
    }
}

#[test]
fn a_device_that_fails_everywhere_with_a_bare_eio_creates_no_entry() {
    let lab = Lab::make(Policy::RemapOnly, 1);
    let volume = lab.serve("bad=sectors:0-8191,errno=EIO");
    let mut client = Client::of(&volume);
    for start in [0, 100, 4000] {
        assert!(client.read(start, 8).0.is_err());
        assert!(client.write(start, &[1; 4096]).is_err());
    }
    assert_eq!(volume.status().expect("status").counts.entries, 0);
    drop(client);
    volume.stop();
}

#[test]
fn remap_verify_and_clear_by_command() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    let mut client = Client::of(&volume);
    let done = volume.command(Command::Remap(extent(800, 80), Cause::Manual)).expect("remap");
    assert_eq!((done.blocks, done.done, done.failed), (10, 10, 0));
    client.assert_original(790, 100);
    assert_eq!(client.write(804, &[5; 2048]), Ok(()));
    assert!(volume.status().expect("status").lanes.remapped > 0);
    let again = volume.command(Command::Remap(extent(800, 8), Cause::Manual)).expect("remap");
    assert_eq!(again.already, 1);
    let checked = volume.command(Command::Verify { extent: extent(0, 8192), all: true }).expect("verify");
    assert_eq!((checked.blocks, checked.failed), (1024, 0));
    let cleared = volume.command(Command::Clear(extent(0, 8192))).expect("clear");
    assert_eq!((cleared.done, cleared.failed), (10, 0));
    assert_eq!(client.read(804, 4), (Ok(()), vec![5; 2048]));
    client.assert_original(808, 80);
    let status = volume.status().expect("status");
    assert_eq!((status.counts.entries, status.slots.free), (0, status.slots.total));
    drop(client);
    volume.stop();
}

#[test]
fn damaged_copies_are_repaired_and_five_are_refused() {
    let lab = Lab::make(Policy::default(), 1);
    let volume = lab.serve("");
    volume.command(Command::Remap(extent(800, 8), Cause::Manual)).expect("remap");
    volume.stop();
    drop(volume);
    let places = remap_format::layout::copy_places(&[2 << 20]);
    for damaged in 1..=5 {
        let before = std::fs::read(lab.spare(0)).expect("spare");
        let mut bytes = before.clone();
        for place in places.iter().take(damaged) {
            bytes[place.start as usize..place.start as usize + 16384].fill(0x55);
        }
        std::fs::write(lab.spare(0), &bytes).expect("spare");
        let opened = Volume::open(lab.main_device(), lab.spares(1), OpenOptions::default());
        if damaged == 5 {
            assert!(opened.is_err());
            assert_eq!(std::fs::read(lab.spare(0)).expect("spare"), bytes, "refused: nothing is written");
            return;
        }
        let (volume, report) = opened.expect("open");
        assert!(report.repaired);
        assert_eq!(report.copies.iter().filter(|c| c.flaw.is_some()).count(), damaged);
        let status = volume.status().expect("status");
        assert_eq!((status.counts.remapped_blocks, status.copies_in_step), (1, [true; 5]));
        volume.stop();
    }
}

#[test]
fn the_wrong_main_device_is_refused() {
    let lab = Lab::make(Policy::default(), 1);
    File::options().write(true).open(lab.main()).and_then(|f| f.set_len(MAIN_SIZE / 2)).expect("shrink");
    let error = lab.serve_with("", OpenOptions::default()).map(|_| ()).expect_err("shrank");
    assert!(matches!(error, OpenError::MainShrank { .. }), "{error}");
}

#[test]
fn a_full_spare_refuses_honestly_and_everything_else_goes_on() {
    let lab = Lab::make(Policy::RemapOnly, 1);
    let volume = lab.serve("bad=sectors:0-8000,errno=ENODATA");
    let mut client = Client::of(&volume);
    let mut refused = 0;
    for block in 0..1000 {
        match client.write(block * 8, &[block as u8; 4096]) {
            Ok(()) => assert_eq!(client.read(block * 8, 8), (Ok(()), vec![block as u8; 4096])),
            Err(error) => {
                assert_eq!(error, FrontError::NoSpace);
                refused += 1;
            }
        }
    }
    let status = volume.status().expect("status");
    assert!(refused > 0 && status.state == VolumeState::Exhausted, "{refused} {status:?}");
    assert_eq!(client.read(0, 8), (Ok(()), vec![0; 4096]));
    client.assert_original(8008, 8);
    drop(client);
    volume.stop();
}
