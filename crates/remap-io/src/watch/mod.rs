//! Failed requests of block devices, as the kernel tells of them: the tracepoint `block:block_rq_error` where there is tracefs, else
//! the kernel's log.
//!
//! Invariant: what is told is a reason to look, never a proof: lines may be missing (the log is rate-limited), late, or about
//! requests of somebody else.

mod parse;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remap_core::op::Fault;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use crate::mapper::DeviceNumber;
use crate::users::number_of_name;

/// Where tracefs is mounted.
const TRACING: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// Bytes taken at a time: more than one record of the kernel's log.
const CHUNK: usize = 16 << 10;

/// A request of a block device that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockError {
    /// The disk (never a partition).
    pub device: DeviceNumber,
    /// Its first sector that failed.
    pub sector: u64,
    /// How many; `None`: the kernel did not say.
    pub sectors: Option<u64>,
    /// A write (of zeroes, too), not a read.
    pub write: bool,
    /// How.
    pub fault: Fault,
}

/// Where the word comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The tracepoint: every failed request, with its length.
    Tracepoint,
    /// The kernel's log: rate-limited, without lengths.
    KernelLog,
}

/// Listens for failed requests.
#[derive(Debug)]
pub struct ErrorWatch {
    file: File,
    source: Source,
    /// Of the tracepoint: a folder of our own, so that nobody else's tracing is disturbed.
    instance: Option<PathBuf>,
    /// The start of a line.
    rest: Vec<u8>,
}

impl ErrorWatch {
    /// Begins to listen. `name` tells this listener from others.
    ///
    /// # Errors
    /// There is neither tracefs nor a kernel log that may be read: the second one's error.
    pub fn open(name: &str) -> io::Result<Self> {
        let traced = TRACING.iter().map(Path::new).find_map(|root| tracepoint(root, name).ok());
        traced.map_or_else(kernel_log, Ok)
    }

    /// Where the word comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Waits until there is something, or `other` can be read, or the time is over.
    ///
    /// # Errors
    /// The system refused.
    pub fn wait(&self, other: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
        let mut fds =
            [PollFd::new(&self.file, PollFlags::IN), PollFd::from_borrowed_fd(other, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Everything that was told since the last call. Never blocks.
    ///
    /// # Errors
    /// It can be read no more.
    pub fn take(&mut self) -> io::Result<Vec<BlockError>> {
        let mut errors = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let got = match self.file.read(&mut chunk) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The log has gone round: what was overwritten is lost, and reading goes on behind it.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.rest.extend_from_slice(chunk.get(..got).unwrap_or_default());
            // A record of the log is one read, and may have lines behind it that belong to it.
            if let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') {
                let lines: Vec<u8> = self.rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&lines);
                errors.extend(text.lines().filter_map(|line| self.line(line)));
            }
            if self.rest.len() > CHUNK {
                self.rest.clear();
            }
        }
        Ok(errors)
    }

    fn line(&self, line: &str) -> Option<BlockError> {
        match self.source {
            Source::Tracepoint => parse::trace_line(line),
            Source::KernelLog => parse::log_line(line, number_of_name),
        }
    }
}

impl Drop for ErrorWatch {
    fn drop(&mut self) {
        if let Some(instance) = &self.instance {
            // The folder goes once nobody reads it; one that stays is used again by the next listener of this name.
            let _ = fs::write(instance.join("events/block/block_rq_error/enable"), "0");
            if let Ok(nothing) = File::open("/dev/null") {
                self.file = nothing;
            }
            let _ = fs::remove_dir(instance);
        }
    }
}

impl AsFd for ErrorWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn nonblocking(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn tracepoint(root: &Path, name: &str) -> io::Result<ErrorWatch> {
    let instance = root.join("instances").join(format!("dm-remap-{name}"));
    match fs::create_dir(&instance) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let listening = (|| {
        fs::write(instance.join("events/block/block_rq_error/enable"), "1")?;
        nonblocking(&instance.join("trace_pipe"))
    })();
    match listening {
        Ok(file) => {
            Ok(ErrorWatch { file, source: Source::Tracepoint, instance: Some(instance), rest: Vec::new() })
        }
        Err(error) => {
            let _ = fs::remove_dir(&instance);
            Err(error)
        }
    }
}

fn kernel_log() -> io::Result<ErrorWatch> {
    let mut file = nonblocking(Path::new("/dev/kmsg"))?;
    // What was said before is about the past.
    file.seek(SeekFrom::End(0))?;
    Ok(ErrorWatch { file, source: Source::KernelLog, instance: None, rest: Vec::new() })
}
