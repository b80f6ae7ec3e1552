//! What the tests of queues and devices share.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use remap_core::op::Fault;
use remap_io::{Buf, Device, DeviceOp, Direct, IoBackend, IoKind, IoQueue, OpenOptions};

/// Long enough never to be reached by a healthy operation, however busy the machine is.
pub const PATIENT: Duration = Duration::from_secs(120);

pub fn backends() -> Vec<IoBackend> {
    let mut backends = vec![IoBackend::Threads];
    match IoQueue::open(IoBackend::Uring, 4) {
        Ok(_) => backends.push(IoBackend::Uring),
        Err(error) => println!("io_uring is not tested here: {error}"),
    }
    backends
}

/// Where files for tests may lie: on a disk, and in memory if the machine has such a folder.
pub fn places() -> Vec<&'static Path> {
    let memory = Path::new("/dev/shm");
    std::iter::once(Path::new(env!("CARGO_TARGET_TMPDIR"))).chain(memory.is_dir().then_some(memory)).collect()
}

/// A sparse file of so many bytes, opened for writing.
pub fn file(folder: &Path, bytes: u64, direct: Direct) -> (PathBuf, Device) {
    let path = folder.join("disk");
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    let options = OpenOptions { write: true, direct, ..OpenOptions::default() };
    (path.clone(), Device::open(&path, &options).unwrap())
}

pub fn filled(len: usize, byte: u8) -> Buf {
    let mut buf = Buf::alloc(len).unwrap();
    buf.bytes_mut().fill(byte);
    buf
}

pub fn op(device: &Device, kind: IoKind, offset: u64, len: u64, buf: Option<&mut Buf>) -> DeviceOp {
    let buf = buf.map(|buf| buf.slice(0..usize::try_from(len).unwrap()));
    DeviceOp { device: device.clone(), kind, offset, len, buf, scattered: len > 4096 }
}

/// Waits for the next completion.
pub fn wait_one(queue: &mut IoQueue) -> (u64, Result<(), Fault>) {
    loop {
        if let Some(done) = queue.next() {
            return done;
        }
        queue.wait(&mut [], None).unwrap();
    }
}

/// Carries out one operation.
pub fn run(queue: &mut IoQueue, op: DeviceOp, deadline: Duration) -> Result<(), Fault> {
    queue.submit(77, op, deadline);
    let (tag, outcome) = wait_one(queue);
    assert_eq!(tag, 77);
    outcome
}

pub fn read(device: &Device, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = Buf::alloc(len).unwrap();
    device.read_at(offset, &mut buf).unwrap();
    buf.bytes().to_vec()
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Runs a program; what it printed, or `None` with a printed reason.
pub fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            println!("skipped: {program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

/// A loop device over a file; detached when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn over(file: &Path, arguments: &[&str]) -> Option<Self> {
        let path = file.to_str().unwrap();
        let all: Vec<&str> = ["--find", "--show"].iter().chain(arguments).copied().chain([path]).collect();
        tool("losetup", &all).map(|device| Self(PathBuf::from(device)))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        tool("losetup", &["--detach", self.0.to_str().unwrap()]);
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn on(point: &Path, arguments: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(point).unwrap();
        let all: Vec<&str> = arguments.iter().copied().chain([point.to_str().unwrap()]).collect();
        tool("mount", &all).map(|_| Self(point.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tool("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}
