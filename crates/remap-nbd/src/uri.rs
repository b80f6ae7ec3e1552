//! NBD URIs: `nbd+unix:///NAME?socket=PATH` and `nbd://HOST:PORT/NAME`.
//!
//! Invariant: what [`Uri`] prints, it parses back to the same value.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port that an `nbd://` URI without one means.
pub const DEFAULT_PORT: u16 = 10809;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host (name or address, without brackets) and a port.
    Tcp(String, u16),
}

/// A server and one of its exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// The export's name; may be empty.
    pub name: String,
}

/// Why a text is no URI that this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme.
    #[error("{0:?} is not an NBD URI: use nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME")]
    Scheme(String),
    /// No socket path.
    #[error("{0:?} names no socket: add ?socket=PATH")]
    NoSocket(String),
    /// No host or a bad port.
    #[error(
        "{0:?} has no usable host and port: write nbd://127.0.0.1:10809/NAME, an IPv6 address in brackets"
    )]
    Host(String),
    /// A percent sign without two hexadecimal digits, or bytes that are no text.
    #[error("{0:?} has a bad percent sequence: write a percent sign as %25")]
    Encoding(String),
}

impl Uri {
    /// For a Unix socket.
    #[must_use]
    pub fn unix(path: &Path, name: &str) -> Self {
        Self { endpoint: Endpoint::Unix(path.to_owned()), name: name.to_owned() }
    }

    /// For a TCP address.
    #[must_use]
    pub fn tcp(address: SocketAddr, name: &str) -> Self {
        Self { endpoint: Endpoint::Tcp(address.ip().to_string(), address.port()), name: name.to_owned() }
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if let Some(rest) = text.strip_prefix("nbd+unix://") {
            return unix_uri(text, rest);
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(|| UriError::Scheme(text.to_owned()))?;
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host_and_port(authority).ok_or_else(|| UriError::Host(text.to_owned()))?;
        Ok(Self { endpoint: Endpoint::Tcp(host, port), name: decode_text(path, text)? })
    }
}

fn unix_uri(text: &str, rest: &str) -> Result<Uri, UriError> {
    use std::os::unix::ffi::OsStringExt;
    let rest = rest.split('#').next().unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = decode_text(path.strip_prefix('/').unwrap_or(path), text)?;
    let socket = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("socket="))
        .filter(|socket| !socket.is_empty())
        .ok_or_else(|| UriError::NoSocket(text.to_owned()))?;
    let socket = decode(socket).ok_or_else(|| UriError::Encoding(text.to_owned()))?;
    Ok(Uri { endpoint: Endpoint::Unix(std::ffi::OsString::from_vec(socket).into()), name })
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
    if host.is_empty() || port == 0 { None } else { Some((host.to_owned(), port)) }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            decoded.push(digit(bytes.next()?)? << 4 | digit(bytes.next()?)?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

fn decode_text(part: &str, whole: &str) -> Result<String, UriError> {
    let bytes = decode(part).ok_or_else(|| UriError::Encoding(whole.to_owned()))?;
    String::from_utf8(bytes).map_err(|_| UriError::Encoding(whole.to_owned()))
}

fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        match &self.endpoint {
            Endpoint::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(f, self.name.as_bytes())?;
                f.write_str("?socket=")?;
                encode(f, path.as_os_str().as_bytes())
            }
            Endpoint::Tcp(host, port) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "nbd://{host}:{port}/")?;
                encode(f, self.name.as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_tools_print() {
        for (text, expected) in [
            ("nbd+unix:///?socket=/run/v.sock", Uri::unix(Path::new("/run/v.sock"), "")),
            ("nbd+unix:///my%20vol?socket=/run/a%2Fb", Uri::unix(Path::new("/run/a/b"), "my vol")),
            ("nbd+unix:///v?x=1&socket=rel", Uri::unix(Path::new("rel"), "v")),
            ("nbd://127.0.0.1:1/v", Uri::tcp("127.0.0.1:1".parse().unwrap(), "v")),
            ("nbd://[::1]:2", Uri::tcp("[::1]:2".parse().unwrap(), "")),
            ("nbd://[::1]/a/b", Uri::tcp("[::1]:10809".parse().unwrap(), "a/b")),
            ("nbd://127.0.0.1/", Uri::tcp("127.0.0.1:10809".parse().unwrap(), "")),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn odd_names_and_paths_survive_printing() {
        for name in ["", "a b", "50%", "ä?&#", "/leading"] {
            for path in ["/run/s", "/tmp/ä b?c", "x"] {
                let uri = Uri::unix(Path::new(path), name);
                assert_eq!(uri.to_string().parse(), Ok(uri));
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        for (text, expected) in [
            ("http://x", UriError::Scheme as fn(String) -> UriError),
            ("nbds://x", UriError::Scheme),
            ("", UriError::Scheme),
            ("nbd+unix:///v", UriError::NoSocket),
            ("nbd+unix:///v?socket=", UriError::NoSocket),
            ("nbd://:10809/", UriError::Host),
            ("nbd://h:0/", UriError::Host),
            ("nbd://h:99999/", UriError::Host),
            ("nbd://[::1/", UriError::Host),
            ("nbd://[::1]x/", UriError::Host),
            ("nbd://h/%4", UriError::Encoding),
            ("nbd://h/%zz", UriError::Encoding),
            ("nbd://h/%ff", UriError::Encoding),
            ("nbd+unix:///v?socket=%", UriError::Encoding),
        ] {
            assert_eq!(text.parse::<Uri>(), Err(expected(text.to_owned())), "{text}");
        }
    }
}
