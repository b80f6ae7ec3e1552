//! Servers as children: ours, and nbdkit beside it.
//!
//! Invariant: a server that started is ready, and none outlives its handle.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, NAME};

/// `dm-remap serve` on the devices of a lab.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// Longest wait for nbdkit to be ready.
const READY: Duration = Duration::from_secs(30);

/// Lines of the log that a failed test shows.
const LOG_LINES: usize = 25;

impl Server {
    pub(crate) fn start(lab: &Lab, more: &[&str]) -> Self {
        let socket = lab.path("nbd");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dm-remap"));
        command.arg("serve").arg(lab.main()).arg("--spare").arg(lab.spare()).current_dir(lab.folder());
        command.arg("--unix").arg(&socket).arg("--control").arg(lab.path("control")).args(more);
        let log = lab.path("serve.log");
        let errors = OpenOptions::new().append(true).create(true).open(&log).expect("a log");
        command.stderr(errors);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.starts_with("serving") {
            line.clear();
            let read = said.read_line(&mut line).expect("the server's standard output");
            if read == 0 {
                let end = child.wait();
                panic!("the server ended before it was ready: {end:?}\n{}", last_lines(&log));
            }
        }
        // Nothing more is expected from it, but a closed pipe would be a reason to die.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, socket, log }
    }

    /// What clients connect to.
    pub(crate) fn uri(&self) -> String {
        unix_uri(&self.socket, NAME)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks it to end, and expects that it ends well.
    pub(crate) fn stop(mut self) {
        kill_process(pid(&self.child), Signal::TERM).expect("the server is there");
        let status = self.child.wait().expect("the server can be waited for");
        assert!(status.success(), "a clean stop ends with 0, not {status}");
    }

    /// Ends it as a crash would.
    pub(crate) fn kill_9(&mut self) -> ExitStatus {
        self.child.kill().expect("the server is there");
        self.child.wait().expect("the server can be waited for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is dead already when a test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the server's last words:\n{}", last_lines(&self.log));
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The URI of a Unix socket.
pub(crate) fn unix_uri(socket: &Path, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", socket.display())
}

/// An nbdkit; it ends with this process even if nobody drops it.
pub(crate) struct Nbdkit {
    child: Child,
    socket: PathBuf,
}

impl Nbdkit {
    pub(crate) fn uri(&self) -> String {
        unix_uri(&self.socket, "")
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts nbdkit and waits until it is ready.
pub(crate) fn nbdkit<A: AsRef<OsStr>>(lab: &Lab, name: &str, args: impl IntoIterator<Item = A>) -> Nbdkit {
    let (socket, pid_file) = (lab.path(name), lab.path(&format!("{name}.pid")));
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--exit-with-parent", "-U"]).arg(&socket).arg("-P").arg(&pid_file);
    let child = command.args(args).stdin(Stdio::null()).spawn().expect("nbdkit starts");
    let mut nbdkit = Nbdkit { child, socket };
    // It writes this file when it takes connections.
    let begin = Instant::now();
    while !pid_file.exists() {
        assert!(matches!(nbdkit.child.try_wait(), Ok(None)), "nbdkit ended before it was ready");
        assert!(begin.elapsed() < READY, "nbdkit is not ready after {READY:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    nbdkit
}
