//! What a process needs that others' files depend on: memory that is never paged, allocations that never wait for a file system, and
//! a way to start again that reads no file.
//!
//! Invariant: nothing here touches a path but `/proc/self`.

#![allow(unsafe_code)]

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Signal, WaitOptions, configure_io_flusher_behavior, kill_process, waitpid};

/// Which of the two a process is after [`fork_alone`].
#[derive(Debug)]
pub enum Forked {
    /// The one that was there.
    Parent(Child),
    /// The other.
    Child,
}

/// A process that [`fork_alone`] made.
#[derive(Debug)]
pub struct Child(Pid);

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
}

/// Keeps all memory of the process, its program included, where it is, now and from now on; and has the kernel allocate for it, and
/// for what it forks, without waiting for a device or file system.
///
/// # Errors
/// The system does not let us: root, or the capabilities IPC_LOCK and SYS_RESOURCE, are needed.
pub fn stand_below_files() -> io::Result<()> {
    // What is mapped now is read in; what comes, as it is touched: a stack of megabytes is not.
    mlockall(MlockAllFlags::CURRENT)?;
    mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    configure_io_flusher_behavior(true)?;
    Ok(())
}

/// Asks the kernel to end other processes before this one, and what it forks, when memory is short. Best effort.
pub fn outlive_others() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Makes a copy of this process, which has no second thread.
///
/// # Errors
/// There is a second thread, or the system refused.
pub fn fork_alone() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot be copied"));
    }
    // SAFETY: no other thread exists (and none but this one could make one), so no lock is held by anybody and the copy is whole.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            Pid::from_raw(pid).map(|pid| Forked::Parent(Child(pid))).ok_or_else(io::Error::last_os_error)
        }
        _ => Err(io::Error::last_os_error()),
    }
}

impl Child {
    /// Has it ended, and how? Never waits.
    ///
    /// # Errors
    /// It was seen to have ended before.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        let Some((_, status)) = waitpid(Some(self.0), WaitOptions::NOHANG)? else { return Ok(None) };
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Ended::Exit(u8::try_from(code).unwrap_or(u8::MAX))),
            (None, Some(signal)) => Some(Ended::Signal(signal)),
            (None, None) => None,
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(self.0, signal)?)
    }
}

/// Asks the kernel to send this process SIGTERM when the one that made it dies.
pub fn end_with_parent() {
    // Where that is refused the process lives on alone.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // The test harness is one.
        let error = std::thread::spawn(fork_alone).join().unwrap().unwrap_err();
        assert!(error.to_string().contains("several threads"), "{error}");
    }
}
