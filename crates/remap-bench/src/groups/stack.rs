//! A file system on a file: by a loop device on the file itself, or on an NBD server by nbdfuse.
//!
//! Invariant: when a stack is dropped, in whatever state, its mount and its loop device are gone and its children have ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::ground::uri;
use crate::needs;
use crate::server::Server;

/// Longest wait for nbdfuse.
const PATIENCE: Duration = Duration::from_secs(60);

/// What lies below the loop device.
pub(super) enum Below {
    File(PathBuf),
    /// On this socket.
    Server(Server, PathBuf),
}

/// From a file or a server to a mounted file system. Parts end in this order.
pub(super) struct Stack {
    folder: PathBuf,
    device: Option<String>,
    mounted: bool,
    fuse: Option<Child>,
    server: Option<Server>,
}

impl Stack {
    /// Makes the loop device.
    ///
    /// # Errors
    /// A tool fails.
    pub(super) fn over(folder: &Path, below: Below) -> anyhow::Result<Self> {
        let mut stack =
            Self { folder: folder.to_owned(), device: None, mounted: false, fuse: None, server: None };
        let file = match below {
            Below::File(file) => file,
            Below::Server(server, socket) => {
                stack.server = Some(server);
                stack.by_fuse(&socket)?
            }
        };
        let mut losetup = needs::command("losetup", "mount")?;
        // nbdfuse does not pass on what a volume takes at least; all have the same.
        losetup.args(["--find", "--show", "--sector-size", "4096"]).arg(file);
        stack.device = Some(needs::output(losetup)?.trim().to_owned());
        Ok(stack)
    }

    /// A server's export as a file.
    fn by_fuse(&mut self, socket: &Path) -> anyhow::Result<PathBuf> {
        let (point, ready) = (self.folder.join("fuse"), self.folder.join("nbdfuse.pid"));
        fs::create_dir_all(&point).context("a mount point")?;
        // Of the stack before.
        let _ = fs::remove_file(&ready);
        let file = point.join("nbd");
        let log = File::create(self.folder.join("nbdfuse.log")).context("a log")?;
        let mut command = needs::command("nbdfuse", "nbdfuse")?;
        command.arg("-P").arg(&ready).arg(&file).arg(uri(socket));
        let child = command.stdout(Stdio::null()).stderr(log).spawn().context("nbdfuse does not start")?;
        self.fuse = Some(child);
        let begin = Instant::now();
        while !ready.exists() {
            if begin.elapsed() > PATIENCE {
                bail!("nbdfuse is not ready after {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(file)
    }

    /// Makes a file system and mounts it.
    ///
    /// # Errors
    /// A tool fails.
    pub(super) fn make(&mut self, make: &[&str]) -> anyhow::Result<()> {
        let (program, args) = make.split_first().context("a program")?;
        let mut command = needs::command(program, "its own")?;
        command.args(args).arg(self.device()?);
        needs::output(command)?;
        fs::create_dir_all(self.root()).context("a mount point")?;
        self.mount()
    }

    /// Mounts it anew: the kernel forgets what it read and wrote.
    ///
    /// # Errors
    /// A tool fails.
    pub(super) fn remount(&mut self) -> anyhow::Result<()> {
        let mut command = needs::command("umount", "mount")?;
        command.arg(self.root());
        needs::output(command)?;
        self.mounted = false;
        self.mount()
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let mut command = needs::command("mount", "mount")?;
        command.args(["-o", "noatime", self.device()?]).arg(self.root());
        needs::output(command)?;
        self.mounted = true;
        Ok(())
    }

    fn device(&self) -> anyhow::Result<&str> {
        self.device.as_deref().context("a loop device")
    }

    /// Where the file system is mounted.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("mnt")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let quietly = |mut command: Command| {
            // There is nobody left to tell; what remains is named by the tools that list it.
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        let unmount = |point: &str, lazily: bool| {
            let mut command = Command::new("umount");
            if lazily {
                command.arg("-l");
            }
            command.arg(self.folder.join(point));
            command
        };
        if self.mounted {
            quietly(unmount("mnt", false));
        }
        if let Some(device) = &self.device {
            let mut command = Command::new("losetup");
            command.args(["-d", device]);
            quietly(command);
        }
        if let Some(mut fuse) = self.fuse.take() {
            quietly(unmount("fuse", false));
            let begin = Instant::now();
            while matches!(fuse.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(2));
            }
            // It has mostly ended by itself.
            let _ = fuse.kill();
            let _ = fuse.wait();
            if is_mounted(&self.folder.join("fuse")) {
                quietly(unmount("fuse", true));
            }
        }
    }
}

fn is_mounted(point: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let point = point.to_string_lossy();
    mounts.lines().any(|line| line.split_whitespace().nth(1) == Some(&*point))
}
