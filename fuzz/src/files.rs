//! Files in memory, which commands open by path like any other.
//!
//! Invariant: a file is gone with the process that made it, and nothing else can name it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// A file in memory.
pub struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// An empty one.
    pub fn create() -> Self {
        Self { file: memfd_create("fuzzed", MemfdFlags::CLOEXEC).expect("a file in memory").into() }
    }

    /// The path by which this process reaches it.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// As [`Self::path`].
    pub fn path_buf(&self) -> PathBuf {
        self.path().into()
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes these its contents.
    pub fn put(&self, bytes: &[u8]) {
        self.file
            .set_len(bytes.len() as u64)
            .and_then(|()| self.file.write_all_at(bytes, 0))
            .expect("memory");
    }

    /// Zeroes, without what was there.
    pub fn blank(&self, len: u64) {
        self.file.set_len(0).and_then(|()| self.file.set_len(len)).expect("memory");
    }

    /// Its contents.
    pub fn bytes(&self) -> Vec<u8> {
        let len = self.file.metadata().expect("a file").len();
        let mut bytes = vec![0; usize::try_from(len).expect("memory")];
        self.file.read_exact_at(&mut bytes, 0).expect("memory");
        bytes
    }
}

/// As many files as are wanted, kept for the next input: to make one costs more than to fill it.
#[derive(Default)]
pub struct Files {
    kept: Vec<MemoryFile>,
}

impl Files {
    /// The first `count` of them.
    pub fn take(&mut self, count: usize) -> &[MemoryFile] {
        while self.kept.len() < count {
            self.kept.push(MemoryFile::create());
        }
        &self.kept[..count]
    }
}
