//! Sockets to listen on.
//!
//! Invariant: a socket file that a live server listens on is never taken away; one that a dead server left behind is
//! replaced; anything else at that path is left alone. TCP is for this machine only, because there is no TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, chmod, lstat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, listen, socket_with,
    sockopt,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// A Unix socket at this path with these permissions (such as 0o660).
    Unix(PathBuf, u32),
    /// A TCP port on a loopback address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A socket that listens already (socket activation).
    Fd(OwnedFd),
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is nothing to listen on.
    #[error("no address to listen on: give a socket path, a loopback port or an inherited socket")]
    Nowhere,
    /// A server is there.
    #[error("{} is in use by a running server: stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path is no socket address.
    #[error("{} cannot be a socket path (at most 107 bytes, none of them zero): choose a shorter one", .0.display())]
    BadPath(PathBuf),
    /// Unencrypted traffic would leave the machine.
    #[error(
        "{0} is not a loopback address: NBD without TLS is served only on this machine; use 127.0.0.1 or [::1], \
             and a tunnel"
    )]
    NotLoopback(SocketAddr),
    /// The inherited descriptor is of no use.
    #[error("the inherited descriptor is not a listening stream socket: check the service's socket unit")]
    NotListening,
    /// The system refused.
    #[error("cannot listen on {place}: {source}")]
    System {
        /// The address.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// A listening socket; removes its socket file when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    file: Option<SocketFile>,
    /// The address in use, for TCP.
    pub(crate) tcp: Option<SocketAddr>,
}

/// The socket file, and which file it is, so that only our own is removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            // Nobody is left to tell; a file left behind is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    pub(crate) fn bind(place: Listen) -> Result<Self, BindError> {
        let listener = Self::open(place)?;
        // A client that left between the poll and the accept must not hold up the others.
        rustix::io::ioctl_fionbio(&listener.fd, true).map_err(|errno| BindError::System {
            place: "a listening socket".to_owned(),
            source: errno.into(),
        })?;
        Ok(listener)
    }

    fn open(place: Listen) -> Result<Self, BindError> {
        match place {
            Listen::Unix(path, mode) => Self::unix(path, mode),
            Listen::Tcp(address) => Self::tcp(address),
            Listen::Fd(fd) => {
                let listening = sockopt::socket_acceptconn(&fd).unwrap_or(false);
                if !listening || sockopt::socket_type(&fd) != Ok(SocketType::STREAM) {
                    return Err(BindError::NotListening);
                }
                Ok(Self { fd, file: None, tcp: None })
            }
        }
    }

    fn unix(path: PathBuf, mode: u32) -> Result<Self, BindError> {
        let address = SocketAddrUnix::new(&path).map_err(|_| BindError::BadPath(path.clone()))?;
        let failed = |errno: rustix::io::Errno| BindError::System {
            place: path.display().to_string(),
            source: errno.into(),
        };
        clear_stale(&path)?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        bind(&fd, &address).map_err(|errno| match errno {
            rustix::io::Errno::ADDRINUSE => BindError::InUse(path.clone()),
            other => failed(other),
        })?;
        // Until `listen` nobody can connect, so the permissions are right before the first client.
        let status = lstat(&path).map_err(failed)?;
        let file = SocketFile { path: path.clone(), identity: (status.st_dev, status.st_ino) };
        chmod(&path, Mode::from_raw_mode(mode)).map_err(failed)?;
        listen(&fd, BACKLOG).map_err(failed)?;
        Ok(Self { fd, file: Some(file), tcp: None })
    }

    fn tcp(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let failed = |source| BindError::System { place: address.to_string(), source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        let tcp = listener.local_addr().map_err(failed)?;
        Ok(Self { fd: listener.into(), file: None, tcp: Some(tcp) })
    }

    /// Path of the socket file.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// The next client. `Ok(None)` when it has left again already.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match acceptfrom_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok((fd, _)) => Ok(Some(fd)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED | rustix::io::Errno::AGAIN) => {
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Removes the socket file of a server that is no more.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::System { place: path.display().to_string(), source };
    let status = match lstat(path) {
        Ok(status) => status,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno.into())),
    };
    if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog (EAGAIN) is a server too; a socket that we may not connect to may have one.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the dead server left its file");
        let live = Listener::bind(Listen::Unix(path.clone(), 0o640)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(live.path(), Some(&*path));
        assert!(matches!(Listener::bind(Listen::Unix(path.clone(), 0o600)), Err(BindError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok(), "the live server is unharmed");
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let ours = Listener::bind(Listen::Unix(path.clone(), 0o600)).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let _others = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(Listen::Unix(path.clone(), 0o600)), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(200));
        assert!(matches!(Listener::bind(Listen::Unix(long, 0o600)), Err(BindError::BadPath(_))));
        let nowhere = dir.path().join("none/sock");
        assert!(matches!(Listener::bind(Listen::Unix(nowhere, 0o600)), Err(BindError::System { .. })));
    }

    #[test]
    fn tcp_stays_on_this_machine() {
        for outside in ["0.0.0.0:0", "192.0.2.1:10809", "[::]:0"] {
            let address = outside.parse().unwrap();
            assert!(matches!(Listener::bind(Listen::Tcp(address)), Err(BindError::NotLoopback(_))));
        }
        let listener = Listener::bind(Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        assert_ne!(listener.tcp.unwrap().port(), 0);
    }

    #[test]
    fn an_inherited_descriptor_must_listen() {
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(matches!(Listener::bind(Listen::Fd(one.into())), Err(BindError::NotListening)));
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        assert!(Listener::bind(Listen::Fd(listener.into())).is_ok());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Listener::bind(Listen::Fd(file.into())), Err(BindError::NotListening)));
    }
}
