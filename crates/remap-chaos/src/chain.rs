//! A file system on the volume: server, `nbdkit --filter=retry nbd`, nbdfuse, loop device, mount.
//!
//! Invariant: when a chain is dropped, whatever state it is in, its mount and its loop device are gone and its children
//! dead; nothing waits without a limit, because killing nbdfuse ends all that waits for it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::server::NAME;
use crate::tool;

/// Longest wait for a child to be ready.
const READY: Duration = Duration::from_secs(120);

/// From the server's socket to a block device of the kernel.
pub(crate) struct Chain {
    folder: PathBuf,
    retry: Child,
    fuse: Option<Child>,
    device: Option<String>,
    mounted: bool,
}

impl Chain {
    /// Sets it up in the folder of a server, which may die and come back on the same socket.
    ///
    /// # Errors
    /// A tool failed.
    pub(crate) fn over(folder: &Path, socket: &Path) -> anyhow::Result<Self> {
        let (retry_socket, pid_file) = (folder.join("retry"), folder.join("retry.pid"));
        for old in [&retry_socket, &pid_file, &folder.join("nbdfuse.pid")] {
            // There is none the first time.
            let _ = fs::remove_file(old);
        }
        for name in ["fuse", "mnt"] {
            fs::create_dir_all(folder.join(name)).context("a mount point")?;
        }
        let mut command = Command::new("nbdkit");
        command
            .args(["--foreground", "--exit-with-parent", "-U"])
            .arg(&retry_socket)
            .arg("-P")
            .arg(&pid_file);
        command.args(["--filter=retry", "nbd"]).arg(format!("socket={}", socket.display()));
        command.arg(format!("export={NAME}"));
        // Once a second for five minutes: more than a restart takes on the slowest machine.
        command.args(["retries=300", "retry-delay=1", "retry-exponential=no"]);
        command.stdin(Stdio::null()).stderr(log_of(folder, "nbdkit.log")?);
        let retry = command.spawn().context("nbdkit does not start")?;
        let mut chain = Self { folder: folder.to_owned(), retry, fuse: None, device: None, mounted: false };
        // It writes this file when it takes connections.
        wait_for("nbdkit", &pid_file)?;
        let pid_file = folder.join("nbdfuse.pid");
        let mut command = Command::new("nbdfuse");
        command.arg("-P").arg(&pid_file).arg(folder.join("fuse/nbd"));
        command.arg(format!("nbd+unix:///?socket={}", retry_socket.display()));
        command.stdin(Stdio::null()).stderr(log_of(folder, "nbdfuse.log")?);
        chain.fuse = Some(command.spawn().context("nbdfuse does not start")?);
        wait_for("nbdfuse", &pid_file)?;
        let file = folder.join("fuse/nbd");
        let device = tool::run("losetup", &["--find".as_ref(), "--show".as_ref(), file.as_os_str()])?;
        chain.device = Some(device.trim().to_owned());
        Ok(chain)
    }

    /// The loop device.
    pub(crate) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or_default()
    }

    /// Where the file system is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    /// Mounts it.
    ///
    /// # Errors
    /// It does not mount.
    pub(crate) fn mount(&mut self) -> anyhow::Result<()> {
        let at = self.root();
        tool::run("mount", &["-o".as_ref(), "noatime".as_ref(), self.device().as_ref(), at.as_os_str()])?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; all that was written is with the server then.
    ///
    /// # Errors
    /// It does not unmount.
    pub(crate) fn unmount(&mut self) -> anyhow::Result<()> {
        tool::run("umount", &[self.root()])?;
        self.mounted = false;
        Ok(())
    }

    /// Cuts the file system off from its device, in the middle of whatever it does.
    pub(crate) fn cut(&mut self) {
        // They may have ended by themselves.
        for child in [Some(&mut self.retry), self.fuse.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.mounted && tool::run("umount", &[self.root()]).is_err() {
            // Out of the way, whatever still uses it: after the cut it can harm nobody.
            self.cut();
            let _ = tool::run("umount", &["-l".as_ref(), self.root().as_os_str()]);
        }
        if let Some(device) = &self.device {
            // Without it the machine has one device less; there is nobody left to tell.
            let _ = tool::run("losetup", &["-d", device]);
        }
        self.cut();
        let _ = tool::run("umount", &["-l".as_ref(), self.folder.join("fuse").as_os_str()]);
    }
}

/// What a child complains of: a lot, when its device goes.
fn log_of(folder: &Path, name: &str) -> anyhow::Result<File> {
    OpenOptions::new().append(true).create(true).open(folder.join(name)).context("a log")
}

fn wait_for(what: &str, file: &Path) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !file.exists() {
        if begin.elapsed() > READY {
            bail!("{what} is not ready after {READY:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
