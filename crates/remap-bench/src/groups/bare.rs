//! Some writes and a flush with nothing around them: what a commit costs at least.
//!
//! Invariant: all writes are with the kernel at once, and the flushes begin when they have ended; memory and files that the kernel
//! uses live as long as the ring.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use remap_io::Buf;

/// Bytes of a write.
const PAGE: usize = 4096;

/// A ring with files and a page of memory.
pub(super) struct Bare {
    // Dropped first: from then on the kernel uses nothing of the others.
    ring: IoUring,
    page: Buf,
    files: Vec<File>,
}

impl Bare {
    /// Opens the files past the page cache where that is possible.
    ///
    /// # Errors
    /// No ring, memory or file.
    pub(super) fn open(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).context("O_DIRECT")?;
        let open = |path: &PathBuf| {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            let file = options.clone().custom_flags(direct).open(path).or_else(|_| options.open(path));
            file.with_context(|| format!("opening {}", path.display()))
        };
        let mut page = Buf::alloc(PAGE).context("a page")?;
        page.bytes_mut().fill(0x5a);
        Ok(Self {
            ring: IoUring::new(32).context("a ring")?,
            page,
            files: paths.iter().map(open).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Writes a page to each place (file, byte), then flushes every file that was written.
    ///
    /// # Errors
    /// A write or a flush failed.
    pub(super) fn commit(&mut self, places: &[(usize, u64)]) -> anyhow::Result<()> {
        let fd = |file: usize| Fd(self.files[file].as_raw_fd());
        let write = |&(file, at): &(usize, u64)| {
            opcode::Write::new(fd(file), self.page.bytes().as_ptr(), PAGE as u32).offset(at).build()
        };
        let mut writes: Vec<squeue::Entry> = places.iter().map(write).collect();
        let written = (0..self.files.len()).filter(|file| places.iter().any(|place| place.0 == *file));
        let flush = |file| opcode::Fsync::new(fd(file)).flags(FsyncFlags::DATASYNC).build();
        let flushes: Vec<squeue::Entry> = written.map(flush).collect();
        // One flush can wait for the writes in the kernel; several would wait for each other there.
        if let [flush] = flushes.as_slice() {
            writes.push(flush.clone().flags(squeue::Flags::IO_DRAIN));
            return self.carry_out(&writes);
        }
        self.carry_out(&writes)?;
        self.carry_out(&flushes)
    }

    fn carry_out(&mut self, entries: &[squeue::Entry]) -> anyhow::Result<()> {
        // SAFETY: `commit` made the entries of the files and the page, which are fields of `self`; nobody writes to the page, and
        // each entry has completed before the borrow of `self` ends; if waiting fails, the ring is dropped before them.
        unsafe { self.ring.submission().push_multiple(entries) }.context("room in the ring")?;
        let mut out = entries.len();
        while out > 0 {
            self.ring.submit_and_wait(out).context("the ring")?;
            for done in self.ring.completion() {
                out -= 1;
                let result = done.result();
                ensure!(result >= 0, "a bare write: {}", io::Error::from_raw_os_error(-result));
            }
        }
        Ok(())
    }
}
