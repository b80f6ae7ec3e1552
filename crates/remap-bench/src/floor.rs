//! The floor: an NBD server that does nothing but NBD, to see how much of a server's cost is the protocol and the socket.
//!
//! Invariant: it reads, writes and flushes a file and nothing else (no faults, no second look), one thread per
//! connection; requests are parsed in batches from one read, and their replies leave in one write.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST: usize = 28;
/// Flags are there; it can be flushed; several connections see the same bytes.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 8;
const FLUSH: u16 = 3;
/// Longest option or request, in bytes.
const LONGEST: usize = 32 << 20;
/// Bytes read at once at most, unless one request is longer.
const ROOM: usize = 256 << 10;
/// Replies leave when they are longer than this, even if more requests wait.
const ENOUGH: usize = 1 << 20;

/// Serves `file` on a Unix socket until it is killed.
///
/// # Errors
/// The file or the socket cannot be opened.
pub(crate) fn serve(socket: &Path, file: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(file).context("the file to serve")?;
    let file = Arc::new(file);
    for client in UnixListener::bind(socket).context("the socket")?.incoming() {
        let client = client.context("a client")?;
        let file = Arc::clone(&file);
        thread::spawn(move || {
            // A client that goes away in the middle is the end of its thread and nobody else's business.
            let _ = connection(client, &file);
        });
    }
    Ok(())
}

fn connection(mut client: UnixStream, file: &File) -> io::Result<()> {
    if negotiate(&mut client, file.metadata()?.len())? { transmit(&mut client, file) } else { Ok(()) }
}

/// The fixed newstyle handshake; false when the client wants no export.
fn negotiate(client: &mut UnixStream, size: u64) -> io::Result<bool> {
    client.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut flags = [0; 4];
    client.read_exact(&mut flags)?;
    loop {
        let mut head = [0; 16];
        client.read_exact(&mut head)?;
        let (option, len) = (be32(&head[8..]), be32(&head[12..]) as usize);
        if be64(&head) != OPTION_MAGIC || len > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
        client.read_exact(&mut vec![0; len])?;
        match option {
            1 => {
                client.write_all(&[&size.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()].concat())?;
                if flags[3] & 2 == 0 {
                    client.write_all(&[0; 124])?;
                }
                return Ok(true);
            }
            6 | 7 => {
                let about = [&[0, 0][..], &size.to_be_bytes(), &EXPORT_FLAGS.to_be_bytes()].concat();
                answer(client, option, 3, &about)?;
                answer(client, option, 1, &[])?;
                if option == 7 {
                    return Ok(true);
                }
            }
            2 => return answer(client, option, 1, &[]).map(|()| false),
            _ => answer(client, option, 1 << 31 | 1, &[])?,
        }
    }
}

fn answer(client: &mut UnixStream, option: u32, kind: u32, text: &[u8]) -> io::Result<()> {
    let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, kind, text.len() as u32] {
        reply.extend(number.to_be_bytes());
    }
    reply.extend(text);
    client.write_all(&reply)
}

fn transmit(client: &mut UnixStream, file: &File) -> io::Result<()> {
    let mut input = vec![0; ROOM];
    // Its length only grows, so that nothing is cleared twice; `replies` says how much of it counts.
    let mut output = vec![0; ROOM];
    let (mut begin, mut end) = (0, 0);
    loop {
        let mut replies = 0;
        let missing = loop {
            let Some(head) = input.get(begin..end).filter(|rest| rest.len() >= REQUEST) else {
                break REQUEST;
            };
            let kind = u16::from_be_bytes([head[6], head[7]]);
            let (offset, len) = (be64(&head[16..]), be32(&head[24..]) as usize);
            let payload = if kind == 1 { len } else { 0 };
            if be32(head) != REQUEST_MAGIC || len > LONGEST || kind > FLUSH {
                return Err(ErrorKind::InvalidData.into());
            }
            if kind == 2 {
                return client.write_all(&output[..replies]);
            }
            if head.len() < REQUEST + payload {
                break REQUEST + payload;
            }
            let room = if kind == 0 { 16 + len } else { 16 };
            if output.len() < replies + room {
                output.resize(replies + room, 0);
            }
            let (reply, bytes) = output[replies..replies + room].split_at_mut(16);
            reply[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
            reply[4..8].fill(0);
            reply[8..].copy_from_slice(&head[8..16]);
            match kind {
                0 => file.read_exact_at(bytes, offset)?,
                FLUSH => file.sync_data()?,
                _ => file.write_all_at(&head[REQUEST..REQUEST + payload], offset)?,
            }
            begin += REQUEST + payload;
            replies += room;
            if replies > ENOUGH {
                client.write_all(&output[..replies])?;
                replies = 0;
            }
        };
        client.write_all(&output[..replies])?;
        input.copy_within(begin..end, 0);
        (begin, end) = (0, end - begin);
        if input.len() < missing {
            input.resize(missing, 0);
        }
        match client.read(&mut input[end..])? {
            0 => return Ok(()),
            got => end += got,
        }
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
