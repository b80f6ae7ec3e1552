//! A file system on a volume: server, `nbdkit --filter=retry nbd`, nbdfuse, loop device, mount.
//!
//! Invariant: when a chain is dropped, whatever state it is in, its mounts and its loop device are gone and its children
//! dead; nothing waits without a limit: after [`LIFE`] nbdfuse is killed, and whoever waits for it gets an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::server::Nbdkit;
use super::{Lab, NAME, Server, Tool, nbdkit};

/// Longest wait for a child to be ready.
const READY: Duration = Duration::from_secs(30);

/// Longest life of a chain.
const LIFE: Duration = Duration::from_secs(240);

/// From the server's socket to a block device of the kernel.
pub(crate) struct Chain {
    folder: PathBuf,
    fuse: Child,
    // Its end tells the watch that nothing is to be killed any more.
    watched: Option<Sender<()>>,
    // Dropped after the mounts are gone: it answers what they still write.
    _retry: Nbdkit,
}

impl Chain {
    /// Sets it up over a server; the server may die and come back on the same socket.
    pub(crate) fn over(lab: &Lab, server: &Server) -> Self {
        let socket = format!("socket={}", server.socket().display());
        let export = format!("export={NAME}");
        // Once a second for two minutes: more than a restart takes on the slowest machine.
        let retry = ["retries=120", "retry-delay=1", "retry-exponential=no"];
        let args = ["--filter=retry", "nbd", &socket, &export].into_iter().chain(retry);
        let retry = nbdkit(lab, "retry", args);
        let folder = lab.path("fuse");
        fs::create_dir_all(&folder).expect("a mount point");
        fs::create_dir_all(lab.path("mnt")).expect("a mount point");
        let pid_file = lab.path("nbdfuse.pid");
        let fuse = Command::new("nbdfuse")
            .arg("-P")
            .arg(&pid_file)
            .arg(folder.join("nbd"))
            .arg(retry.uri())
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdfuse starts");
        let (watched, ended) = mpsc::channel();
        let pid = Pid::from_child(&fuse);
        std::thread::spawn(move || {
            if ended.recv_timeout(LIFE) == Err(RecvTimeoutError::Timeout) {
                println!("the chain is killed after {LIFE:?}");
                // It is a child that nobody has waited for, so the number is still its own.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let chain = Self { folder, fuse, watched: Some(watched), _retry: retry };
        wait_until("nbdfuse", || pid_file.exists());
        chain
    }

    /// The volume as a file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("nbd")
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.watched = None;
        // Each may have happened already.
        let _ = Tool::of("fusermount3").args(["-u", "-z"]).arg(&self.folder).run();
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}

/// A loop device.
pub(crate) struct Loop {
    device: PathBuf,
}

impl Loop {
    /// Fails when no loop device is to be had: that is the machine's fault, and said so.
    pub(crate) fn over(file: &Path) -> Self {
        let device = Tool::of("losetup").args(["--find", "--show"]).arg(file).ok();
        Self { device: device.trim().into() }
    }

    pub(crate) fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Without it the next test finds one device less; there is nobody left to tell.
        let _ = Tool::of("losetup").arg("-d").arg(&self.device).run();
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    pub(crate) fn of(device: &Path, at: &Path, options: &str) -> Self {
        Tool::of("mount").args(["-o", options]).arg(device).arg(at).ok();
        Self { at: at.to_owned() }
    }

    /// Unmounts it; all that was written is with the server then.
    pub(crate) fn unmount(self) {
        Tool::of("umount").arg(&self.at).ok();
        std::mem::forget(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Only after a failed test: out of the way first, whatever still uses it.
        let _ = Tool::of("umount").arg("-l").arg(&self.at).run();
    }
}

/// Looks every few milliseconds until it is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < READY, "{what} is not ready after {READY:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
