//! A volume on temporary files, and a client of it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use remap_core::op::RequestKind;
use remap_core::units::{Extent, Sector};
use remap_format::Policy;
use remap_io::{Device, Drill, OpenOptions as DeviceOptions};
use remap_runtime::front::{Export, FrontError, FrontRequest, Interest, Queue};
use remap_runtime::{AdoptOptions, OpenError, OpenOptions, Volume, VolumeQueue, adopt};
use tempfile::TempDir;

pub const MAIN_SIZE: u64 = 4 << 20;

pub struct Lab {
    pub dir: TempDir,
}

pub fn pattern(sector: u64) -> [u8; 512] {
    std::array::from_fn(|i| (sector.wrapping_mul(31) as u8).wrapping_add(i as u8))
}

pub fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(Sector(start), sectors).expect("not empty")
}

impl Lab {
    pub fn make(policy: Policy, spares: usize) -> Self {
        Self::shaped(policy, spares, MAIN_SIZE, 4096)
    }

    pub fn shaped(policy: Policy, spares: usize, main_size: u64, block_size: u32) -> Self {
        let lab = Self { dir: TempDir::new().expect("a temporary directory") };
        let mut main = File::create(lab.main()).expect("main");
        for sector in 0..main_size / 512 {
            main.write_all(&pattern(sector)).expect("write");
        }
        for n in 0..spares {
            File::create(lab.spare(n)).and_then(|f| f.set_len(2 << 20)).expect("spare");
        }
        let spares = lab.spares(spares);
        let options = AdoptOptions { name: "lab".into(), block_size, policy, lost: Vec::new(), force: false };
        adopt(&lab.main_device(), &spares, &options).expect("adopt");
        lab
    }

    pub fn main(&self) -> PathBuf {
        self.dir.path().join("main")
    }

    pub fn spare(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("spare{n}"))
    }

    pub fn main_device(&self) -> Device {
        open(&self.main())
    }

    pub fn spares(&self, count: usize) -> Vec<Device> {
        (0..count).map(|n| open(&self.spare(n))).collect()
    }

    pub fn serve(&self, drill: &str) -> Volume {
        self.serve_with(drill, OpenOptions::default()).expect("open")
    }

    pub fn serve_with(&self, drill: &str, options: OpenOptions) -> Result<Volume, OpenError> {
        let mut main = self.main_device();
        if !drill.is_empty() {
            main = main.with_drill(Arc::new(Drill::parse(drill).expect("drill")));
        }
        let count = (0..4).filter(|&n| self.spare(n).exists()).count();
        Volume::open(main, self.spares(count), options).map(|(volume, _)| volume)
    }
}

pub fn open(path: &Path) -> Device {
    Device::open(path, &DeviceOptions { write: true, exclusive: true, ..DeviceOptions::default() })
        .expect("open")
}

pub struct Client {
    pub queue: VolumeQueue,
    idle: File,
}

impl Client {
    pub fn of(volume: &Volume) -> Self {
        let idle = File::open("/dev/null").expect("/dev/null");
        Self { queue: volume.queue().expect("queue"), idle }
    }

    pub fn run(
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

    pub fn read(&mut self, start: u64, sectors: u64) -> (Result<(), FrontError>, Vec<u8>) {
        self.run(RequestKind::Read, start, sectors, None)
    }

    pub fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), FrontError> {
        let sectors = bytes.len() as u64 / 512;
        self.run(RequestKind::Write { fua: false }, start, sectors, Some(bytes)).0
    }

    pub fn assert_original(&mut self, start: u64, sectors: u64) {
        let (result, bytes) = self.read(start, sectors);
        assert_eq!(result, Ok(()), "sectors {start}+{sectors}");
        for (n, sector) in (start..).zip(bytes.chunks(512)) {
            assert_eq!(sector, pattern(n), "sector {n}");
        }
    }
}

/// Where the copies lie on the spares of a volume that was made of these (sizes in bytes), with blocks of 4096 bytes.
pub fn copy_places(sizes: &[u64]) -> [remap_format::layout::CopyPlace; 5] {
    use remap_format::layout;
    let shape = layout::plan(sizes, 4096).expect("the spares are large enough");
    let spares: Vec<_> = sizes.iter().map(|&size| ([0; 16], size)).collect();
    layout::copy_places(&layout::first_spares(&spares, &shape, 4096), &layout::first_homes(sizes.len()))
}
