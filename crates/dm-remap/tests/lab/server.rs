//! Servers as children: ours, and nbdkit beside it.
//!
//! Invariant: a server that started is ready, and none outlives its handle.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::mounted::wait_until;
use super::{Lab, NAME, Tool};

/// `dm-remap serve` on the devices of a lab.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

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

/// An nbdkit in the background.
pub(crate) struct Nbdkit {
    pid: Pid,
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
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

/// Starts nbdkit; it goes into the background when it is ready.
pub(crate) fn nbdkit<A: AsRef<OsStr>>(lab: &Lab, name: &str, args: impl IntoIterator<Item = A>) -> Nbdkit {
    let (socket, pid_file) = (lab.path(name), lab.path(&format!("{name}.pid")));
    Tool::of("nbdkit").arg("-U").arg(&socket).arg("-P").arg(&pid_file).args(args).ok();
    // The process that went into the background writes it, maybe after the one in front has ended.
    let mut pid = None;
    wait_until("nbdkit", || {
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        // Whole only with its line end.
        pid = text.strip_suffix('\n').and_then(|number| number.parse().ok()).and_then(Pid::from_raw);
        pid.is_some()
    });
    let pid = pid.expect("it was waited for");
    Nbdkit { pid, socket }
}
