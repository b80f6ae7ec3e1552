//! Telling a service manager how it goes: one datagram to the socket named by `NOTIFY_SOCKET`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state` (such as `READY=1`) if a service manager asked for it. Who does not listen misses nothing.
pub(crate) fn send(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET").as_deref().and_then(address_of) else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        // The manager's trouble must not become the service's.
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}

/// A path, or a name in the abstract namespace if it begins with `@`.
fn address_of(text: &std::ffi::OsStr) -> Option<SocketAddr> {
    match text.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(text).ok(),
    }
}
