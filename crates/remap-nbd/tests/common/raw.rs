//! A client that sends what it is told, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use remap_nbd::proto::{
    OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, option,
    option_reply as rep,
};

pub(crate) struct Raw(pub(crate) UnixStream);

pub(crate) fn option_bytes(option: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn go_body(name: &[u8]) -> Vec<u8> {
    let mut body = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(name);
    body.extend_from_slice(&[0, 0]);
    body
}

pub(crate) fn request_bytes(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

impl Raw {
    /// Past the greeting and the client's flags.
    pub(crate) fn greeted(stream: UnixStream) -> Self {
        let mut raw = Self(stream);
        assert_eq!(raw.take(18)[16..], [0, 3]);
        raw.put(&3u32.to_be_bytes());
        raw
    }

    /// In transmission with simple or structured replies.
    pub(crate) fn transmitting(stream: UnixStream, structured: bool) -> Self {
        let mut raw = Self::greeted(stream);
        if structured {
            assert_eq!(raw.ask(option::STRUCTURED_REPLY, &[]).0, rep::ACK);
        }
        raw.put(&option_bytes(option::GO, &go_body(b"mem")));
        while raw.option_reply().0 != rep::ACK {}
        raw
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.take(20);
        assert_eq!(head[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let body = self.take(word(16) as usize);
        (word(12), body)
    }

    pub(crate) fn ask(&mut self, option: u32, body: &[u8]) -> (u32, Vec<u8>) {
        self.put(&option_bytes(option, body));
        self.option_reply()
    }

    pub(crate) fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        self.put(&request_bytes(flags, command, cookie, offset, length));
    }

    /// (error, cookie)
    pub(crate) fn simple_reply(&mut self) -> (u32, u64) {
        let head = self.take(16);
        assert_eq!(head[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        (
            u32::from_be_bytes(head[4..8].try_into().unwrap()),
            u64::from_be_bytes(head[8..].try_into().unwrap()),
        )
    }

    /// (flags, type, cookie, body)
    pub(crate) fn chunk(&mut self) -> (u16, u16, u64, Vec<u8>) {
        let head = self.take(20);
        assert_eq!(head[..4], STRUCTURED_REPLY_MAGIC.to_be_bytes());
        let half = |at: usize| u16::from_be_bytes(head[at..at + 2].try_into().unwrap());
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        let body = self.take(length as usize);
        (half(4), half(6), cookie, body)
    }

    /// The server has closed, and sent nothing more.
    pub(crate) fn closed(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }
}
