//! The program as its users run it: a directory of its own, its commands, its server.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use remap_nbd::{Client, ClientOptions, Uri};

/// One place with devices and sockets.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// It did what was asked.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It refused with this code, in one line, after which it says no more, that has all these words.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.refused_with(words)
    }

    /// It refused with whatever code, in one line, after which it says no more, that has all these words.
    #[track_caller]
    pub(crate) fn refused_with(self, words: &[&str]) -> Self {
        // A server has its news before it, and others their warnings.
        let news = |line: &&str| !line.starts_with("dm-remap: ") || line.starts_with("dm-remap: warning: ");
        let mut lines = self.err.lines().skip_while(news);
        let line = lines.next().unwrap_or_default();
        assert_eq!(lines.next(), None, "{self:?}");
        for word in words {
            assert!(line.contains(word), "{word:?} is missing in {self:?}");
        }
        self
    }
}

impl Bench {
    pub(crate) fn create() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of pseudo-random bytes that depend on its name.
    pub(crate) fn disk(&self, name: &str, size: usize) -> Vec<u8> {
        let mut state = name.bytes().fold(1_u64, |state, byte| state * 31 + u64::from(byte));
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(size)
        .collect();
        std::fs::write(self.path(name), &bytes).expect("a disk");
        bytes
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dm-remap"));
        command.args(args).current_dir(self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path());
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "DM_REMAP_IO"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).stdin(Stdio::null()).output().expect("it starts"))
    }

    /// A main device `main` of 4 MiB and a spare `spare` of 2 MiB, adopted as volume `vol`; gives main's bytes.
    pub(crate) fn adopted(&self) -> Vec<u8> {
        let bytes = self.disk("main", 4 << 20);
        self.run(&["adopt", "main", "--spare", "spare", "--create-spare", "2M", "--name", "vol"]).done();
        bytes
    }

    /// Serves `main` with `spare` and these further arguments; returns when clients may come.
    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        let args: Vec<&str> =
            ["serve", "main", "--spare", "spare"].into_iter().chain(more.iter().copied()).collect();
        Server::start(self.command(&args))
    }

    pub(crate) fn message(&self, words: &[&str]) -> Said {
        let args: Vec<&str> = ["message", "vol"].into_iter().chain(words.iter().copied()).collect();
        self.run(&args)
    }

    /// The reply to a message that is to be carried out.
    #[track_caller]
    pub(crate) fn tell(&self, words: &[&str]) -> String {
        self.message(words).done().out.trim_end().to_owned()
    }

    /// The reply to a message that is to be refused.
    #[track_caller]
    pub(crate) fn tell_in_vain(&self, words: &[&str]) -> String {
        let said = self.message(words);
        assert_eq!(said.code, Some(1), "{said:?}");
        said.out.trim_end().to_owned()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let json = self.run(&["status", "vol", "--json"]).done().out;
        serde_json::from_str(&json).expect("JSON")
    }

    /// The socket files that are there.
    pub(crate) fn sockets(&self) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(self.path("dm-remap")) else { return Vec::new() };
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    }
}

/// A serving process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub(crate) line: String,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        if !line.starts_with("serving ") {
            let mut err = String::new();
            let _ = child.stderr.take().expect("a pipe").read_to_string(&mut err);
            panic!("it did not serve: {line:?} {err}");
        }
        Self { child, out, line }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first address that it named.
    pub(crate) fn uri(&self) -> Uri {
        let word = self.line.split_whitespace().find(|word| word.starts_with("nbd"));
        word.expect("an address").parse().expect("a URI")
    }

    pub(crate) fn client(&self) -> Client {
        client(&self.uri())
    }

    /// Sends a signal and waits for the end; gives the code and what it said on standard error.
    pub(crate) fn stop(mut self, signal: rustix::process::Signal) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it lives");
        let mut err = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut err).expect("text");
        (self.child.wait().expect("an end").code(), err)
    }

    /// As an operator would.
    #[track_caller]
    pub(crate) fn terminate(self) -> String {
        let (code, err) = self.stop(rustix::process::Signal::TERM);
        assert_eq!(code, Some(0), "{err}");
        err
    }

    pub(crate) fn kill(self) {
        let (code, _) = self.stop(rustix::process::Signal::KILL);
        assert_eq!(code, None);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn client(uri: &Uri) -> Client {
    let options = ClientOptions { timeout: Some(Duration::from_secs(60)), ..ClientOptions::default() };
    Client::connect(uri, &options).expect("a connection")
}

/// Reads that must be good.
#[track_caller]
pub(crate) fn read(client: &mut Client, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let bad = client.read(offset, &mut bytes).expect("a reply");
    assert!(bad.is_empty(), "unreadable: {bad:?}");
    bytes
}

/// Is the path there?
pub(crate) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
