//! `dm-remap serve` as a child.
//!
//! Invariant: a server is ready, or it is known how it ended; none outlives its handle.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use remap_nbd::Uri;
use rustix::process::{Pid, Signal, kill_process};

/// Name of every volume here.
pub(crate) const NAME: &str = "chaos";

/// Longest wait for a server to be ready, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(300);

/// The binary under test.
///
/// # Errors
/// It is not where it was said to be, or not beside this program.
pub(crate) fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().context("where this program is")?.with_file_name("dm-remap"),
    };
    if !program.is_file() {
        bail!(
            "{} is not there: build it (cargo build -p dm-remap), or name it with --server",
            program.display()
        );
    }
    Ok(program)
}

/// How a start ended.
#[derive(Debug)]
pub(crate) enum Start {
    Ready,
    /// It ended before it served.
    Ended(ExitStatus),
    /// Neither within [`PATIENCE`].
    Hangs,
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    ready: Receiver<()>,
}

impl Server {
    /// Starts it in a folder with `main.img` and `spare.img`; what it says on standard error goes to `serve.log` there.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(program: &Path, folder: &Path, drills: &[String]) -> anyhow::Result<Self> {
        let socket = folder.join("nbd");
        let log = OpenOptions::new().append(true).create(true).open(folder.join("serve.log"));
        let mut command = Command::new(program);
        command
            .args(["serve", "main.img", "--spare", "spare.img", "--control", "control", "--unix"])
            .arg(&socket);
        drills.iter().for_each(|drill| {
            command.args(["--drill", drill]);
        });
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(log.context("a log")?).spawn().context("the server does not start")?;
        let out = child.stdout.take().context("a pipe")?;
        let (tell, ready) = mpsc::channel();
        std::thread::spawn(move || listen(out, &tell));
        Ok(Self { child, socket, ready })
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn wait_ready(&mut self) -> anyhow::Result<Start> {
        match self.ready.recv_timeout(PATIENCE) {
            Ok(()) => Ok(Start::Ready),
            Err(RecvTimeoutError::Timeout) => Ok(Start::Hangs),
            Err(RecvTimeoutError::Disconnected) => Ok(Start::Ended(self.child.wait()?)),
        }
    }

    /// How it ended, if it did so by itself.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// It cannot be killed or waited for.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing the server")?;
        self.child.wait().context("waiting for the server")?;
        Ok(())
    }

    /// Asks it to end; how it did, `None` when it does not.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("stopping the server")?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn uri(&self) -> Uri {
        Uri::unix(&self.socket, NAME)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has mostly ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells when the server says that it serves; reads on, because a closed pipe would be a reason for it to end.
fn listen(out: ChildStdout, ready: &mpsc::Sender<()>) {
    let mut lines = BufReader::new(out);
    let mut line = String::new();
    while matches!(lines.read_line(&mut line), Ok(1..)) {
        if line.starts_with("serving") {
            // Nobody waits any more when it was killed meanwhile.
            let _ = ready.send(());
        }
        line.clear();
    }
}
