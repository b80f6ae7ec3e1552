//! Sockets handed over by a service manager: `LISTEN_FDS` and `LISTEN_PID`.
//!
//! Invariant: the descriptors are taken at most once per process, and only when the environment names this very process.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// First descriptor that is handed over.
const FIRST: RawFd = 3;
/// Most descriptors that are taken.
const MOST: RawFd = 64;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets that a service manager passed to this process, closed on exec; none when there is no such manager, or at
/// any call but the first. Call it before anything else opens descriptors.
#[must_use]
pub fn listen_fds() -> Vec<OwnedFd> {
    let variable = |name| std::env::var(name).ok();
    let count = count(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
    if count == 0 || TAKEN.swap(true, Ordering::AcqRel) {
        return Vec::new();
    }
    (FIRST..FIRST + count).filter_map(take).collect()
}

/// How many descriptors the variables promise to process `pid`.
fn count(listen_pid: Option<String>, listen_fds: Option<String>, pid: u32) -> RawFd {
    let ours = listen_pid.and_then(|text| text.parse::<u32>().ok()) == Some(pid);
    let count = listen_fds.and_then(|text| text.parse::<RawFd>().ok()).unwrap_or(0);
    if ours { count.clamp(0, MOST) } else { 0 }
}

fn take(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: the borrow ends within this function, and a number that is no open descriptor only makes fcntl fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, the environment says that it is this process's to keep, and `TAKEN` lets it be taken once.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_variables_for_this_process_count() {
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(count(text("7"), text("2"), 7), 2);
        assert_eq!(count(text("8"), text("2"), 7), 0);
        assert_eq!(count(None, text("2"), 7), 0);
        assert_eq!(count(text("7"), None, 7), 0);
        assert_eq!(count(text("7"), text("-3"), 7), 0);
        assert_eq!(count(text("7"), text("1000000"), 7), MOST);
        assert_eq!(count(text("7"), text("99999999999999999999"), 7), 0);
        assert_eq!(count(text("x"), text("1"), 7), 0);
    }
}
