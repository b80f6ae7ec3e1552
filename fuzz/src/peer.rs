//! The other end of an NBD connection: the real server's handshake and replies, without threads and sockets, or whatever the
//! input says instead.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::LazyLock;

use remap_nbd::handshake::{Handshake, Negotiated, Progress};
use remap_nbd::offer::{Offer, Style};
use remap_runtime::front::Geometry;
use zerocopy::IntoBytes;

/// Exports of all kinds.
pub static OFFERS: LazyLock<Vec<Offer>> = LazyLock::new(|| {
    let plain = Geometry {
        size: 1 << 20,
        min_io: 512,
        preferred_io: 4096,
        max_io: 64 << 10,
        read_only: false,
        can_discard: true,
        rotational: false,
        name: "v".into(),
        description: "a volume".into(),
    };
    let all = [
        plain.clone(),
        Geometry { read_only: true, size: 0, ..plain.clone() },
        Geometry {
            size: u64::MAX,
            min_io: 4096,
            can_discard: false,
            rotational: true,
            max_io: u32::MAX,
            ..plain.clone()
        },
        Geometry {
            size: 1 << 40, min_io: 1, name: "n".repeat(5000), description: "ä".repeat(5000), ..plain
        },
    ];
    all.iter().map(|geometry| Offer::new(geometry, None)).collect()
});

/// All styles.
pub const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

/// What a server in transmission does with what a client sent: from bytes to bytes. `None`: it closes the connection.
pub type Transmission = Box<dyn FnMut(Negotiated, &[u8]) -> Option<(usize, Vec<u8>)> + Send>;

/// A server at the other end of a client's stream.
pub struct Server {
    handshake: Handshake<'static>,
    negotiated: Option<Negotiated>,
    closed: bool,
    transmission: Transmission,
    unread: Vec<u8>,
    replies: VecDeque<u8>,
}

impl Server {
    /// That offers `offer`.
    pub fn of(offer: &'static Offer, transmission: Transmission) -> Self {
        let handshake = Handshake::new(offer);
        let replies = handshake.greeting().as_bytes().iter().copied().collect();
        Self { handshake, negotiated: None, closed: false, transmission, unread: Vec::new(), replies }
    }

    fn work(&mut self) {
        while !self.closed {
            if let Some(negotiated) = self.negotiated {
                match (self.transmission)(negotiated, &self.unread) {
                    None => self.closed = true,
                    Some((0, _)) => return,
                    Some((used, reply)) => {
                        self.unread.drain(..used);
                        self.replies.extend(reply);
                    }
                }
                continue;
            }
            let mut out = Vec::new();
            let (used, progress) = self.handshake.advance(&self.unread, &mut out);
            self.unread.drain(..used);
            self.replies.extend(out);
            match progress {
                Progress::NeedMore => return,
                Progress::Continue => {}
                Progress::Transmission(negotiated) => self.negotiated = Some(negotiated),
                Progress::Close => self.closed = true,
            }
        }
    }
}

impl Read for Server {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.work();
        self.replies.read(into)
    }
}

impl Write for Server {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.unread.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server that says what it says, whatever it is told.
pub struct Parrot {
    says: VecDeque<u8>,
}

impl Parrot {
    /// That says this.
    pub fn of(says: &[u8]) -> Self {
        Self { says: says.iter().copied().collect() }
    }
}

impl Read for Parrot {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.says.read(into)
    }
}

impl Write for Parrot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
