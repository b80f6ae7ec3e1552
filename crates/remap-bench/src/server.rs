//! A server under measurement.
//!
//! Invariant: it is ready when its handle exists, and has ended when the handle is gone.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Longest wait for a server to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Step of that wait: short against what it measures.
const STEP: Duration = Duration::from_millis(1);

/// A running server.
pub(crate) struct Server {
    child: Child,
    /// Where one that the child only put into the background has left its number, perhaps after its first connection.
    pid_file: PathBuf,
    socket: PathBuf,
    /// From its start to its first connection, in seconds.
    pub(crate) start_s: f64,
}

impl Server {
    /// Starts it and waits until it accepts connections on `socket`; what it says goes to `log`. A child that ends well has left
    /// the server's number in `pid_file`.
    ///
    /// # Errors
    /// It does not start, ends early, or is not ready in time; then what it said.
    pub(crate) fn start(
        mut command: Command,
        socket: &Path,
        log: &Path,
        pid_file: &Path,
    ) -> anyhow::Result<Self> {
        let said = File::create(log).context("a server's log")?;
        command.stdin(Stdio::null()).stdout(said.try_clone().context("a server's log")?).stderr(said);
        // Of the server before.
        let _ = fs::remove_file(pid_file);
        let begin = Instant::now();
        let child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let (socket, pid_file) = (socket.to_owned(), pid_file.to_owned());
        let mut server = Self { child, pid_file, socket, start_s: 0.0 };
        loop {
            let ended = server.child.try_wait().context("waiting for a server")?;
            let well = ended.is_none_or(|status| status.success());
            if well && UnixStream::connect(&server.socket).is_ok() {
                break;
            }
            if !well || begin.elapsed() > PATIENCE {
                let text = fs::read_to_string(log).unwrap_or_default();
                bail!("{command:?} is not ready ({ended:?}): {}", text.trim());
            }
            thread::sleep(STEP);
        }
        server.start_s = begin.elapsed().as_secs_f64();
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().as_raw_nonzero().get().unsigned_abs()
    }

    /// The server itself.
    fn process(&self) -> Pid {
        pid_in(&self.pid_file).unwrap_or(Pid::from_child(&self.child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that it leaves its files as it should; SIGKILL if it does not. It may have ended already.
        let process = self.process();
        let _ = kill_process(process, Signal::TERM);
        let begin = Instant::now();
        let is_child = process == Pid::from_child(&self.child);
        let runs = |child: &mut Child| match is_child {
            true => matches!(child.try_wait(), Ok(None)),
            false => test_kill_process(process).is_ok(),
        };
        while runs(&mut self.child) && begin.elapsed() < PATIENCE {
            thread::sleep(STEP);
        }
        if runs(&mut self.child) {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}
