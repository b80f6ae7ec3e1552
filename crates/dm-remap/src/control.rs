//! The control socket: how `status`, `message` and `map` reach a serving process.
//!
//! Invariant: one request per line, answered in order; a peer can use up a connection of [`CONNECTIONS_MAX`] for
//! [`PATIENCE`] and [`wire::REQUEST_MAX`] bytes, and nothing else. The socket file is for its owner only (0600), and one
//! that a live server listens on is never taken away.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use remap_format::Entry;
use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::exit::{Exit, refusal};
use crate::wire::{self, Ask, Reply, TableHead};

/// Connections served at a time.
const CONNECTIONS_MAX: usize = 16;
/// Time that a peer has to send a request, or to take a reply.
const PATIENCE: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 16;

/// The suffix of control sockets.
pub(crate) const CONTROL_SUFFIX: &str = ".control";
/// The suffix of NBD sockets.
pub(crate) const NBD_SUFFIX: &str = ".nbd";

/// Where sockets are unless told otherwise.
pub(crate) fn runtime_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    base.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("dm-remap")
}

/// The control socket of a volume: a path if it looks like one, else a name in the default directory.
pub(crate) fn socket_of(volume: &str) -> PathBuf {
    if volume.contains('/') { volume.into() } else { runtime_dir().join(format!("{volume}{CONTROL_SUFFIX}")) }
}

/// All control sockets in the default directory, sorted.
///
/// # Errors
/// The directory cannot be read (that it does not exist is none).
pub(crate) fn sockets() -> anyhow::Result<Vec<PathBuf>> {
    let dir = runtime_dir();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", dir.display())),
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(CONTROL_SUFFIX))
        .collect();
    found.sort();
    Ok(found)
}

/// Makes the directory that a socket is to be in, for this user only.
///
/// # Errors
/// It cannot be made.
pub(crate) fn prepare_dir(socket: &Path) -> anyhow::Result<()> {
    let Some(dir) = socket.parent().filter(|dir| !dir.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        let (socket, dir) = (socket.display(), dir.display());
        format!(
            "{dir}: cannot make the directory for the socket {socket}; choose another place for that socket"
        )
    })
}

/// The table of a volume at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) head: TableHead,
    /// Remapped and pending, in order.
    pub(crate) entries: Vec<Entry>,
    /// Slots that went bad.
    pub(crate) retired: Vec<Entry>,
}

/// A connection to a serving process.
pub(crate) struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// To a volume's name or control socket.
    ///
    /// # Errors
    /// Nobody serves it, or the socket is somebody else's.
    pub(crate) fn connect(volume: &str) -> anyhow::Result<Self> {
        Self::open(&socket_of(volume)).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => refusal(
                Exit::NotFound,
                format!(
                    "{volume}: no such volume is being served (looked at {}): start 'dm-remap serve' (or \
                     'dm-remap stock serve', which takes over what 'stock assemble' set up), or give the path of its control socket",
                    socket_of(volume).display()
                ),
            ),
            ErrorKind::PermissionDenied => refusal(
                Exit::Permission,
                format!("{}: permission denied: ask as the user who serves the volume", socket_of(volume).display()),
            ),
            _ => refusal(Exit::Failure, format!("{}: cannot connect: {error}", socket_of(volume).display())),
        })
    }

    fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the first line of the answer; `None`: as long as it takes (commands move blocks).
    ///
    /// # Errors
    /// The server refused, did not answer in time, or went away.
    pub(crate) fn ask(&mut self, ask: &Ask, patience: Option<Duration>) -> anyhow::Result<Reply> {
        let place = self.socket.display().to_string();
        self.stream.get_ref().set_read_timeout(patience)?;
        let request = wire::encode(ask)?;
        if request.len() > wire::REQUEST_MAX {
            return Err(refusal(
                Exit::Usage,
                format!("the message is longer than {} bytes", wire::REQUEST_MAX),
            ));
        }
        self.stream.get_mut().write_all(&request).with_context(|| format!("{place}: cannot send"))?;
        self.reply()
    }

    fn reply(&mut self) -> anyhow::Result<Reply> {
        let line = read_line(&mut self.stream, wire::REPLY_MAX)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow::anyhow!("it does not answer"),
                _ => error.into(),
            })
            .and_then(|line| line.context("it went away without an answer"))
            .with_context(|| format!("{}: the server failed", self.socket.display()))?;
        match wire::decode(&line).with_context(|| format!("{}: bad answer", self.socket.display()))? {
            Reply::Error { text } => Err(anyhow::anyhow!("{}: {text}", self.socket.display())),
            reply => Ok(reply),
        }
    }

    /// The state of the volume.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn status(&mut self) -> anyhow::Result<crate::status_json::StatusReport> {
        match self.ask(&Ask::Status, Some(PATIENCE))? {
            Reply::Status { status } => Ok(*status),
            _ => Err(anyhow::anyhow!("{}: answered something else", self.socket.display())),
        }
    }

    /// The table of the volume.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn entries(&mut self) -> anyhow::Result<Snapshot> {
        let Reply::Table { table: head } = self.ask(&Ask::Entries, Some(PATIENCE))? else {
            return Err(anyhow::anyhow!("{}: answered something else", self.socket.display()));
        };
        let mut snapshot = Snapshot { head, entries: Vec::new(), retired: Vec::new() };
        loop {
            let Reply::Entries { entries, last } = self.reply()? else {
                return Err(anyhow::anyhow!("{}: answered something else", self.socket.display()));
            };
            for wire in &entries {
                let entry = Entry::try_from(wire)?;
                let retired = entry.state == remap_format::EntryState::Retired;
                if retired { &mut snapshot.retired } else { &mut snapshot.entries }.push(entry);
            }
            if last {
                return Ok(snapshot);
            }
        }
    }
}

/// A line without its end; `None` at the end of the stream. A line that is longer than `max` is an error.
fn read_line(stream: &mut impl BufRead, max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    stream.by_ref().take(limit).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() + 1 >= max => {
            Err(std::io::Error::new(ErrorKind::InvalidData, format!("the line is longer than {max} bytes")))
        }
        Some(_) => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// What answers requests; each call may take as long as the devices do.
pub(crate) trait Answer: Send + Sync + 'static {
    /// The lines of the reply, one by one, until `send` fails.
    fn answer(&self, ask: Ask, send: &mut dyn FnMut(Reply) -> anyhow::Result<()>) -> anyhow::Result<()>;
}

/// A bound control socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    file: (u64, u64),
}

impl Control {
    /// Binds. A socket that a dead server left is replaced.
    ///
    /// # Errors
    /// A live server has it, or the system refused.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        clear_stale(path)?;
        let place =
            || format!("{}: cannot be the control socket; choose another with --control", path.display());
        let address = SocketAddrUnix::new(path).with_context(place)?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&fd, &address).map_err(std::io::Error::from).with_context(place)?;
        // Until `listen` nobody can connect, so the permissions are right before the first client.
        chmod(path, Mode::from_raw_mode(0o600)).map_err(std::io::Error::from).with_context(place)?;
        let file = std::fs::symlink_metadata(path).with_context(place)?;
        listen(&fd, BACKLOG).map_err(std::io::Error::from).with_context(place)?;
        Ok(Self { listener: fd.into(), path: path.to_owned(), file: (file.dev(), file.ino()) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers from threads of its own until the process ends.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(&self, answer: Arc<dyn Answer>) -> anyhow::Result<()> {
        let listener = self.listener.try_clone()?;
        std::thread::Builder::new().name("control".to_owned()).spawn(move || accept(&listener, &answer))?;
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|f| (f.dev(), f.ino()) == self.file);
        if ours {
            // A file left behind is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn clear_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be looked at", path.display())),
    };
    if !found.file_type().is_socket() {
        let text = format!(
            "{}: exists and is not a socket: remove it, or choose another with --control",
            path.display()
        );
        return Err(refusal(Exit::Usage, text));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("{}: a dead server's socket cannot be removed", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(error).with_context(|| format!("{}: belongs to another user", path.display()))
        }
        // A full backlog is a server too.
        Ok(_) | Err(_) => Err(refusal(
            Exit::Busy,
            format!(
                "{}: in use by a running server: stop it, or give this volume another name",
                path.display()
            ),
        )),
    }
}

fn accept(listener: &UnixListener, answer: &Arc<dyn Answer>) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // No descriptors just now. The waiting client would make it fail at once again.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if stream.set_write_timeout(Some(PATIENCE)).is_err()
            || stream.set_read_timeout(Some(PATIENCE)).is_err()
        {
            continue;
        }
        if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            let text = format!("too many control connections ({CONNECTIONS_MAX}): try again");
            // Whoever is turned away may be gone already.
            let _ = wire::encode(Reply::Error { text }).map(|line| stream.write_all(&line));
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (answer, count) = (Arc::clone(answer), Place(Arc::clone(&busy)));
        let body = move || {
            let _place = count;
            // The peer left, or was told what was wrong.
            let _ = converse(stream, &*answer);
        };
        // Without a thread the closure, and with it the connection and its place, is dropped.
        let _ = std::thread::Builder::new().name("control-peer".to_owned()).spawn(body);
    }
}

/// A place among [`CONNECTIONS_MAX`], given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers one peer, line by line, until it leaves or cannot be understood any more.
///
/// # Errors
/// The peer broke off, or sent a line without an end.
pub(crate) fn converse(stream: impl Read + Write, answer: &dyn Answer) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let line = match read_line(&mut stream, wire::REQUEST_MAX) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => {
                let text = format!("the request was not understood: {error}");
                stream.get_mut().write_all(&wire::encode(Reply::Error { text })?)?;
                return Err(error.into());
            }
        };
        let ask = match wire::decode::<Ask>(&line) {
            Ok(ask) => ask,
            Err(error) => {
                let text = format!("the request was not understood: {error:#}");
                stream.get_mut().write_all(&wire::encode(Reply::Error { text })?)?;
                continue;
            }
        };
        let peer = stream.get_mut();
        let mut send = |reply: Reply| Ok(peer.write_all(&wire::encode(reply)?)?);
        if let Err(error) = answer.answer(ask, &mut send) {
            send(Reply::Error { text: format!("{error:#}") })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_has_no_place_is_named_and_no_option_that_may_not_be_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let text = format!("{:#}", prepare_dir(&dir.path().join("file/under/disk.control")).unwrap_err());
        assert!(text.contains("file/under/disk.control") && !text.contains("--unix"), "{text}");
        assert!(prepare_dir(&dir.path().join("fresh/disk.control")).is_ok());
    }

    struct Echo;

    impl Answer for Echo {
        fn answer(&self, ask: Ask, send: &mut dyn FnMut(Reply) -> anyhow::Result<()>) -> anyhow::Result<()> {
            match ask {
                Ask::Message { words } => send(Reply::Message { text: words.join(" "), ok: true }),
                _ => Err(anyhow::anyhow!("not here")),
            }
        }
    }

    fn serve(dir: &Path) -> Control {
        let control = Control::bind(&dir.join("v.control")).unwrap();
        control.start(Arc::new(Echo)).unwrap();
        control
    }

    fn raw(control: &Control, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(control.path()).unwrap();
        // The server may answer and close before it has read all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn asks_are_answered_and_errors_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let control = serve(dir.path());
        let mut client = Client::connect(control.path().to_str().unwrap()).unwrap();
        let reply = client.ask(&Ask::Message { words: vec!["a".into(), "b".into()] }, None).unwrap();
        assert!(matches!(reply, Reply::Message { text, ok: true } if text == "a b"));
        let error = client.status().unwrap_err().to_string();
        assert!(error.ends_with("not here"), "{error}");
        assert!(client.ask(&Ask::Message { words: Vec::new() }, None).is_ok(), "the connection goes on");
    }

    #[test]
    fn nonsense_gets_an_error_and_the_next_line_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let control = serve(dir.path());
        let good = wire::encode(Ask::Message { words: vec!["x".into()] }).unwrap();
        let answer = raw(&control, &[b"rubbish\n".as_slice(), &good].concat());
        let lines: Vec<&str> = answer.lines().collect();
        assert_eq!(lines.len(), 2, "{answer}");
        assert!(lines[0].contains("\"error\"") && lines[1].contains("\"text\":\"x\""), "{answer}");
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let control = serve(dir.path());
        let answer = raw(&control, &vec![b'x'; wire::REQUEST_MAX + 1]);
        assert!(answer.is_empty() || answer.contains("longer than"), "{answer}");
        let answer = raw(&control, b"{\"version\":1");
        assert!(answer.contains("not understood"), "{answer}");
        assert!(Client::connect(control.path().to_str().unwrap()).is_ok());
    }

    #[test]
    fn connections_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let control = serve(dir.path());
        let open = || UnixStream::connect(control.path()).unwrap();
        let held: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| open()).collect();
        // They are accepted in order, so this one comes when all places are taken.
        let mut answer = String::new();
        BufReader::new(open()).read_line(&mut answer).unwrap();
        assert!(answer.contains("too many"), "{answer}");
        drop(held);
    }

    #[test]
    fn live_sockets_are_kept_and_dead_ones_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.control");
        drop(UnixListener::bind(&path).unwrap());
        let live = Control::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Control::bind(&path).unwrap_err();
        assert_eq!(crate::exit::exit_of(&error), Exit::Busy, "{error:#}");
        drop(live);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Control::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
