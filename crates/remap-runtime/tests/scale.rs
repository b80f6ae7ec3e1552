//! Sizes at the far end: devices of many terabytes (sparse files), and a million entries.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use remap_core::op::RequestKind;
use remap_core::units::{Extent, Sector};
use remap_format::Policy;
use remap_io::{Device, OpenOptions as DeviceOptions};
use remap_runtime::front::{Export, FrontRequest, Interest, Queue};
use remap_runtime::{AdoptOptions, OpenOptions, Volume, adopt};
use tempfile::TempDir;

fn sparse(path: &Path, size: u64) -> Device {
    File::create(path).and_then(|f| f.set_len(size)).expect("a sparse file");
    open(path)
}

fn open(path: &Path) -> Device {
    Device::open(path, &DeviceOptions { write: true, exclusive: true, ..DeviceOptions::default() })
        .expect("open")
}

fn adopt_with(main: &Device, spare: &Device, lost: Vec<Extent>) {
    let options =
        AdoptOptions { name: "far".into(), block_size: 4096, policy: Policy::default(), lost, force: false };
    adopt(main, std::slice::from_ref(spare), &options).expect("adopt");
}

fn write_and_read(volume: &Volume, offset: u64) -> bool {
    let idle = File::open("/dev/null").expect("/dev/null");
    let mut queue = volume.queue().expect("queue");
    let mut run = |kind, fill: u8| {
        let mut buf = queue.buffer(4096);
        buf.bytes_mut().fill(fill);
        queue.submit(0, FrontRequest { kind, offset, len: 4096 }, Some(buf));
        loop {
            if let Some(done) = queue.next() {
                return (done.result.is_ok(), done.buf.map_or(0, |b| b.bytes()[4095]));
            }
            queue.wait(idle.as_fd(), Interest::default(), Some(Duration::from_secs(5))).expect("wait");
        }
    };
    run(RequestKind::Write { fua: false }, 0x5a).0 && run(RequestKind::Read, 0) == (true, 0x5a)
}

#[test]
fn ten_terabytes() {
    let dir = TempDir::new().expect("a temporary directory");
    let size = 10u64 << 40;
    let (main, spare) = (sparse(&dir.path().join("main"), size), sparse(&dir.path().join("spare"), 1 << 30));
    let far = size / 512 - 8;
    let lost = [4096, far].map(|s| Extent::new(Sector(s), 8).expect("not empty")).to_vec();
    adopt_with(&main, &spare, lost);
    drop((main, spare));
    let (main, spare) = (open(&dir.path().join("main")), open(&dir.path().join("spare")));
    let (volume, _) = Volume::open(main, vec![spare], OpenOptions::default()).expect("open");
    assert_eq!(volume.status().expect("status").counts.lost_sectors, 16);
    for offset in [0, 4096 * 512, size / 2, far * 512] {
        assert!(write_and_read(&volume, offset), "at {offset}");
    }
    assert_eq!(volume.status().expect("status").counts.lost_sectors, 0);
    volume.stop();
}

/// Prints how long a volume with a million scattered entries takes to make and to open. Not a limit: a figure.
#[test]
#[ignore = "a measurement: run it alone, with --release --nocapture"]
fn a_million_entries() {
    let dir = TempDir::new().expect("a temporary directory");
    let (main, spare) =
        (sparse(&dir.path().join("main"), 1 << 40), sparse(&dir.path().join("spare"), 64 << 30));
    let lost = (0..1_000_000u64).map(|n| Extent::new(Sector(n * 2048 + 8), 1).expect("not empty")).collect();
    let begun = Instant::now();
    adopt_with(&main, &spare, lost);
    println!("adopt with 1,000,000 entries: {:?}", begun.elapsed());
    drop((main, spare));
    for _ in 0..3 {
        let (main, spare) = (open(&dir.path().join("main")), open(&dir.path().join("spare")));
        let begun = Instant::now();
        let (volume, report) = Volume::open(main, vec![spare], OpenOptions::default()).expect("open");
        println!("open: {:?}, repaired: {}", begun.elapsed(), report.repaired);
        assert_eq!(volume.status().expect("status").counts.entries, 1_000_000);
        volume.stop();
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    println!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default());
}
