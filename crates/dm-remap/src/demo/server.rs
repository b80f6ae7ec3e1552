//! The server of the demo: a child process of this same program, killed and started again like a real one.
//!
//! Invariant: dropping a [`Server`] leaves no process behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use remap_nbd::uri::{Endpoint, Uri};
use remap_nbd::{Client, ClientOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Exit;

/// Time for the kernel to let go of a killed server's files, and how often it is asked.
const RELEASE_LIMIT: Duration = Duration::from_secs(20);
const RELEASE_POLL: Duration = Duration::from_millis(20);
/// Time for the server to say that it serves.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Name of the metadata context with the state of each sector.
pub(crate) const STATE_CONTEXT: &str = "dm-remap:state";

/// This very program, even if its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A serving child process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    socket: PathBuf,
    /// How far the log has been shown.
    shown: u64,
}

/// What came of starting a server.
enum Started {
    Serving(Server),
    /// Its files are in use; its words.
    Busy(String),
}

/// Runs this program in `dir` and waits for its end.
///
/// # Errors
/// Its own words, if it fails.
pub(crate) fn run_self<A: AsRef<OsStr>>(
    dir: &Path,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<String> {
    let output = Command::new(OWN_PROGRAM)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .context("this program cannot start itself")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}", errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Server {
    /// Serves `disk.img` with `spare.img` in `dir`; `drill` is what is wrong with the disk.
    ///
    /// # Errors
    /// The server's own words, if it does not come up.
    pub(crate) fn start(dir: &Path, drill: &str) -> anyhow::Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::try_start(dir, drill)? {
                Started::Serving(server) => return Ok(server),
                // The kernel takes a moment to let go of a killed server's files.
                Started::Busy(_) if begun.elapsed() < RELEASE_LIMIT => std::thread::sleep(RELEASE_POLL),
                Started::Busy(words) => bail!("the server ended before it served: {words}"),
            }
        }
    }

    fn try_start(dir: &Path, drill: &str) -> anyhow::Result<Started> {
        let log = File::options().create(true).append(true).open(dir.join("server.log"));
        let log = log.context("the server's log cannot be written")?;
        let shown = log.metadata().map(|m| m.len()).unwrap_or(0);
        let mut child = Command::new(OWN_PROGRAM)
            .args([
                "serve",
                "disk.img",
                "--spare",
                "spare.img",
                "--unix",
                "demo.nbd",
                "--control",
                "demo.control",
            ])
            .args(["--drill", &format!("main:{drill}")])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("this program cannot start itself")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut server = Self { child, dir: dir.to_owned(), socket: dir.join("demo.nbd"), shown };
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Once it serves nobody listens any more; the pipe is emptied all the same.
                let _ = say.send(line);
            }
        });
        loop {
            match said.recv_timeout(START_LIMIT) {
                Ok(line) if line.starts_with("serving") => return Ok(Started::Serving(server)),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the server did not start within {START_LIMIT:?}")
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = server.child.wait().context("waiting for the server's end")?;
                    let words = server.log_since_start().join("; ");
                    if status.code() == Some(Exit::Busy as i32) {
                        return Ok(Started::Busy(words));
                    }
                    bail!("the server ended before it served: {words}");
                }
            }
        }
    }

    /// A connection to the export.
    ///
    /// # Errors
    /// No connection.
    pub(crate) fn connect(&self) -> anyhow::Result<Client> {
        let uri = Uri { endpoint: Endpoint::Unix(self.socket.clone()), name: String::new() };
        let options = ClientOptions { contexts: vec![STATE_CONTEXT.into()], ..ClientOptions::default() };
        Client::connect(&uri, &options).context("the demo's client")
    }

    /// Lines that the server has logged since they were last asked for.
    pub(crate) fn log_since_start(&mut self) -> Vec<String> {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.dir.join("server.log"))?;
            file.seek(SeekFrom::Start(self.shown))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let text = read().unwrap_or_default();
        // A line that is being written waits for the next time.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        self.shown += whole as u64;
        text.get(..whole).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Process id, for people.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no chance to clean up.
    ///
    /// # Errors
    /// The system refused.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("the server cannot be killed")?;
        self.child.wait().context("waiting for the killed server")?;
        Ok(())
    }

    /// SIGTERM, as a person or the system would stop it.
    ///
    /// # Errors
    /// It ended with an error.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("the server cannot be stopped")?;
        let status = self.child.wait().context("waiting for the server's end")?;
        if !status.success() {
            bail!("the server ended with {status} when it was asked to stop");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, or it ends now; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The demo's directory; removed with everything in it unless it is to be kept.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    remove: bool,
    made: bool,
}

impl WorkDir {
    /// `asked`, made if it does not exist, or a fresh one among the system's temporary files.
    ///
    /// # Errors
    /// It cannot be made, or holds something.
    pub(crate) fn make(asked: Option<&Path>, keep: bool) -> anyhow::Result<Self> {
        let path = match asked {
            Some(path) => std::path::absolute(path).with_context(|| format!("{}", path.display()))?,
            None => std::env::temp_dir().join(format!("dm-remap-demo-{}", std::process::id())),
        };
        let context = || format!("{}: cannot be used for the demo", path.display());
        let made = !path.exists();
        if made {
            fs::create_dir_all(&path).with_context(context)?;
        } else if fs::read_dir(&path).with_context(context)?.next().is_some() {
            bail!("{}: holds something already; give an empty directory with --dir", path.display());
        }
        // Socket addresses hold 107 bytes.
        if path.as_os_str().len() > 90 {
            bail!("{}: is too long for the path of a socket; give a shorter one with --dir", path.display());
        }
        Ok(Self { path, remove: !keep, made })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if !self.remove {
            return;
        }
        // What cannot be removed stays; the report has been given.
        if self.made {
            let _ = fs::remove_dir_all(&self.path);
        } else if let Ok(entries) = fs::read_dir(&self.path) {
            for entry in entries.flatten() {
                let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
            }
        }
    }
}
