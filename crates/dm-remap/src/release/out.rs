//! `release --to`: the whole volume, as a client would read it, onto another device.
//!
//! Invariant: main device and spares are only read; each sector of the destination is either the volume's or named in
//! the report.

use std::collections::VecDeque;

use anyhow::Context as _;
use remap_core::op::RequestKind;
use remap_core::units::{Extent, SECTOR_SIZE, Sector};
use remap_io::{Buf, Device};
use remap_runtime::Volume;
use remap_runtime::front::{Export as _, FrontCompletion, FrontError, FrontRequest, Interest, Queue as _};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd as _;

/// Bytes per request.
const CHUNK: u64 = 1 << 20;
/// Requests in flight.
const DEPTH: usize = 8;

/// What was copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// Bytes of the volume that are on the destination.
    pub good_bytes: u64,
    /// Sectors that no device holds.
    pub lost: Vec<Extent>,
    /// Sectors that could not be read now, though nothing says that they are lost.
    pub unread: Vec<Extent>,
}

/// Copies the volume to `to`. `blank`: the destination reads as zeroes already. `progress` gets the bytes done.
///
/// # Errors
/// The destination cannot be written, or the volume cannot be used at all.
pub(crate) fn copy_out(
    volume: &Volume,
    to: &Device,
    blank: bool,
    progress: &dyn Fn(u64),
) -> anyhow::Result<Copied> {
    let size = volume.geometry().size;
    let mut queue = volume.queue().context("the kernel gave no queue")?;
    // Nothing but completions is waited for.
    let never = eventfd(0, EventfdFlags::CLOEXEC).context("the kernel gave no descriptor")?;
    let mut bad: Vec<Extent> = Vec::new();
    let mut pending: VecDeque<(u64, u64)> = VecDeque::new();
    let (mut next, mut done) = (0, 0);
    while done < size {
        while next < size && pending.len() < DEPTH {
            let len = CHUNK.min(size - next);
            let buf = queue.buffer(usize::try_from(len)?);
            queue.submit(next, FrontRequest { kind: RequestKind::Read, offset: next, len }, Some(buf));
            pending.push_back((next, len));
            next += len;
        }
        let Some(FrontCompletion { token, result, buf }) = queue.next() else {
            queue.wait(never.as_fd(), Interest::default(), None).context("waiting for the devices")?;
            continue;
        };
        let at =
            pending.iter().position(|(offset, _)| *offset == token).context("an answer to no question")?;
        let (offset, len) = pending.remove(at).context("an answer to no question")?;
        let missing = missing(&result, buf.is_some(), offset, len)?;
        let mut buf = match buf {
            Some(buf) => buf,
            None => Buf::alloc(usize::try_from(len)?)?,
        };
        for extent in &missing {
            let from = usize::try_from(extent.start().0 * SECTOR_SIZE - offset)?;
            let bytes = buf.bytes_mut().get_mut(from..from + usize::try_from(extent.bytes())?);
            bytes.context("an error outside of the request")?.fill(0);
        }
        bad.extend(missing);
        if !(blank && buf.bytes().iter().all(|&b| b == 0)) {
            to.write_at(offset, &buf).map_err(|fault| {
                anyhow::anyhow!("{}: cannot be written at byte {offset} ({fault:?})", to.path().display())
            })?;
        }
        queue.recycle(buf);
        done += len;
        progress(done);
    }
    let flushed = to.flush();
    flushed.map_err(|fault| anyhow::anyhow!("{}: cannot be flushed ({fault:?})", to.path().display()))?;
    sort_out(volume, size, bad)
}

/// The sectors that a read did not give.
fn missing(
    result: &Result<(), FrontError>,
    has_buf: bool,
    offset: u64,
    len: u64,
) -> anyhow::Result<Vec<Extent>> {
    let extent = |start: u64, len: u64| Extent::new(Sector(start / SECTOR_SIZE), len / SECTOR_SIZE);
    match result {
        Ok(()) => Ok(Vec::new()),
        Err(FrontError::Io { bad }) if has_buf && !bad.is_empty() => {
            Ok(bad.iter().filter_map(|r| extent(r.start, r.len)).collect())
        }
        Err(FrontError::Io { .. }) => Ok(extent(offset, len).into_iter().collect()),
        Err(other) => anyhow::bail!("the volume cannot be read: {other:?}"),
    }
}

/// What is lost, and what could only not be read now.
fn sort_out(volume: &Volume, size: u64, mut bad: Vec<Extent>) -> anyhow::Result<Copied> {
    bad.sort_unstable();
    let known = volume.lost()?;
    let mut copied = Copied { good_bytes: size, ..Copied::default() };
    let mut known = known.iter().peekable();
    for extent in bad {
        copied.good_bytes -= extent.bytes();
        let mut at = extent.start();
        while at < extent.end() {
            while known.next_if(|k| k.end() <= at).is_some() {}
            let lost = known.peek().filter(|k| k.start() < extent.end());
            let until = lost.map_or(extent.end(), |k| k.start().max(at));
            push(&mut copied.unread, at, until);
            let end = lost.map_or(until, |k| k.end().min(extent.end()));
            push(&mut copied.lost, until, end);
            at = end;
        }
    }
    Ok(copied)
}

/// Appends, merging with the last run.
fn push(runs: &mut Vec<Extent>, start: Sector, end: Sector) {
    let Some(extent) = Extent::between(start, end) else { return };
    match runs.last_mut().filter(|last| last.end() == start) {
        Some(last) => *last = Extent::between(last.start(), end).unwrap_or(*last),
        None => runs.push(extent),
    }
}
