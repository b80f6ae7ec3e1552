//! The bytes of a device-mapper call, as `linux/dm-ioctl.h` lays them out, and the call itself.
//!
//! Invariant: the buffer is as long as its header says, and what the kernel wrote into it is only read where it lies within.

#![allow(unsafe_code)]
#![allow(clippy::host_endian_bytes, reason = "the kernel's structures are in the machine's own order")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::{DeviceNumber, NAME_MAX, Segment, Target, UUID_MAX};

/// Bytes of `struct dm_ioctl`, and of `struct dm_target_spec`.
const HEADER: usize = 312;
const SPEC: usize = 40;
/// Offsets in the header.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGETS: usize = 20;
const OPENED: usize = 24;
const FLAGS: usize = 28;
const EVENT: usize = 32;
const NUMBER: usize = 40;
const NAME: usize = 48;
const UUID: usize = 176;

/// Commands, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Version = 0,
    Create = 3,
    Remove = 4,
    /// Suspend with [`SUSPEND`], else resume.
    Suspend = 6,
    Status = 7,
    Load = 9,
    Clear = 10,
    Table = 12,
}

pub(super) const READ_ONLY: u32 = 1;
pub(super) const SUSPEND: u32 = 1 << 1;
pub(super) const STATUS_TABLE: u32 = 1 << 4;
pub(super) const LIVE: u32 = 1 << 5;
pub(super) const LOADED: u32 = 1 << 6;
pub(super) const BUFFER_FULL: u32 = 1 << 8;
/// Do not freeze the file system above: that would write to the device, and wait.
pub(super) const SKIP_LOCKFS: u32 = 1 << 10;
pub(super) const NOFLUSH: u32 = 1 << 11;
/// For udev, in the upper half of the event number: this event comes from whoever set the device up.
pub(super) const UDEV_PRIMARY: u32 = 0x40 << 16;

/// One call: its buffer before, and after.
#[derive(Clone, Debug)]
pub(super) struct Call {
    bytes: Vec<u8>,
}

impl Call {
    pub(super) fn of(name: &str, flags: u32) -> Self {
        let mut call = Self { bytes: vec![0; HEADER] };
        for (word, value) in [4, 0, 0].into_iter().enumerate() {
            call.put(4 * word, value);
        }
        call.put(DATA_START, HEADER as u32);
        call.put(FLAGS, flags);
        call.text(NAME, name, NAME_MAX);
        call
    }

    pub(super) fn with_uuid(mut self, uuid: &str) -> Self {
        self.text(UUID, uuid, UUID_MAX);
        self
    }

    pub(super) fn with_event(mut self, event: u32) -> Self {
        self.put(EVENT, event);
        self
    }

    /// Room for an answer.
    pub(super) fn with_room(mut self, bytes: usize) -> Self {
        self.bytes.resize(HEADER + bytes, 0);
        self
    }

    /// A table to load.
    pub(super) fn with_table(mut self, table: &[Segment]) -> Self {
        self.bytes.reserve(table.len() * (SPEC + 32));
        for segment in table {
            let (kind, args) = match &segment.target {
                Target::Linear { device, sector } => ("linear", format!("{device} {sector}")),
                Target::Error => ("error", String::new()),
                Target::Other(line) => line
                    .split_once(' ')
                    .map_or((line.as_str(), String::new()), |(kind, args)| (kind, args.to_owned())),
            };
            // From one to the next: the arguments end with a zero, and all is aligned to eight bytes.
            let next = (SPEC + args.len() + 1).next_multiple_of(8);
            let at = self.bytes.len();
            self.bytes.resize(at + next, 0);
            self.put_long(at, segment.start);
            self.put_long(at + 8, segment.sectors);
            self.put(at + 20, next as u32);
            self.text(at + 24, kind, 15);
            self.text(at + SPEC, &args, args.len());
        }
        self.put(TARGETS, table.len() as u32);
        self
    }

    /// Makes the call.
    pub(super) fn make(mut self, control: BorrowedFd<'_>, command: Command) -> io::Result<Self> {
        let len = self.bytes.len() as u32;
        self.put(DATA_SIZE, len);
        // SAFETY: every command takes a `struct dm_ioctl` whose `data_size` is the length of the buffer that it stands in; the kernel
        // writes to nothing else, and the buffer outlives the call.
        unsafe { ioctl(control, Passed { command, bytes: &mut self.bytes })? };
        Ok(self)
    }

    pub(super) fn version(&self) -> (u32, u32, u32) {
        (self.get(0), self.get(4), self.get(8))
    }

    pub(super) fn flags(&self) -> u32 {
        self.get(FLAGS)
    }

    pub(super) fn open_count(&self) -> u32 {
        self.get(OPENED)
    }

    pub(super) fn uuid(&self) -> String {
        self.text_at(UUID, UUID + UUID_MAX + 1)
    }

    /// The device's number: the kernel's own 64-bit form of it.
    pub(super) fn number(&self) -> DeviceNumber {
        let dev = self.long(NUMBER);
        DeviceNumber { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) }
    }

    /// The table of an answer; `None` if it contradicts itself.
    pub(super) fn table(&self) -> Option<Vec<Segment>> {
        let begin = self.get(DATA_START) as usize;
        let mut table = Vec::new();
        let mut at = begin;
        for _ in 0..self.get(TARGETS) {
            self.bytes.get(at..at + SPEC)?;
            // In an answer this counts from the first one.
            let next = begin.checked_add(self.get(at + 20) as usize)?;
            if next <= at || next > self.bytes.len() {
                return None;
            }
            let kind = self.text_at(at + 24, at + SPEC);
            let args = self.text_at(at + SPEC, next);
            let target = match (kind.as_str(), args.split_once(' ')) {
                ("linear", Some((device, sector))) => {
                    Target::Linear { device: device.parse().ok()?, sector: sector.trim().parse().ok()? }
                }
                ("error", _) => Target::Error,
                _ => Target::Other(format!("{kind} {args}").trim_end().to_owned()),
            };
            table.push(Segment { start: self.long(at), sectors: self.long(at + 8), target });
            at = next;
        }
        Some(table)
    }

    fn put(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }

    fn put_long(&mut self, at: usize, value: u64) {
        if let Some(place) = self.bytes.get_mut(at..at + 8) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Text, cut off at `max` bytes; a zero stands behind it already.
    fn text(&mut self, at: usize, text: &str, max: usize) {
        let text = text.as_bytes();
        let text = text.get(..max).unwrap_or(text);
        if let Some(place) = self.bytes.get_mut(at..at + text.len()) {
            place.copy_from_slice(text);
        }
    }

    fn get(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    fn long(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    fn text_at(&self, at: usize, end: usize) -> String {
        let bytes = self.bytes.get(at..end).unwrap_or_default();
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

struct Passed<'b> {
    command: Command,
    bytes: &'b mut Vec<u8>,
}

// SAFETY: the pointer is that of a buffer that begins with a `struct dm_ioctl`, as every device-mapper command takes it, and the
// answer is in the buffer, not behind the pointer that is given back.
unsafe impl Ioctl for Passed<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEADER]>(0xfd, self.command as u8)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(start: u64, sectors: u64, minor: u32, sector: u64) -> Segment {
        Segment {
            start,
            sectors,
            target: Target::Linear { device: DeviceNumber { major: 8, minor }, sector },
        }
    }

    #[test]
    fn a_header_is_laid_out_as_the_kernel_reads_it() {
        let call = Call::of("disk", SUSPEND | SKIP_LOCKFS).with_uuid("DM-REMAP-x").with_event(UDEV_PRIMARY);
        assert_eq!(call.bytes.len(), 312);
        assert_eq!(call.get(0), 4);
        assert_eq!(call.get(FLAGS), 0x402);
        assert_eq!(call.get(EVENT), 0x40_0000);
        assert_eq!(&call.bytes[48..53], b"disk\0");
        assert_eq!(&call.bytes[176..187], b"DM-REMAP-x\0");
    }

    #[test]
    fn a_table_that_is_loaded_has_steps_of_eight_bytes() {
        let table = [linear(0, 8, 16, 0), Segment { start: 8, sectors: 1, target: Target::Error }];
        let call = Call::of("disk", 0).with_table(&table);
        assert_eq!(call.get(TARGETS), 2);
        let first = HEADER;
        assert_eq!((call.long(first), call.long(first + 8)), (0, 8));
        let next = call.get(first + 20) as usize;
        assert_eq!(next, 48, "40 bytes, and '8:16 0' with its zero, rounded up");
        assert_eq!(call.text_at(first + 24, first + 40), "linear");
        assert_eq!(call.text_at(first + 40, first + next), "8:16 0");
        assert_eq!(call.text_at(first + next + 24, first + next + 40), "error");
        assert_eq!(call.bytes.len(), HEADER + 48 + 48);
    }

    /// The kernel's own form of an answer: `next` counts from the first one.
    fn answer(segments: &[(u64, u64, &str, &str)]) -> Call {
        let mut call = Call::of("disk", 0);
        for (start, sectors, kind, args) in segments {
            let at = call.bytes.len();
            let end = (at + SPEC + args.len() + 1).next_multiple_of(8);
            call.bytes.resize(end, 0);
            call.put_long(at, *start);
            call.put_long(at + 8, *sectors);
            call.put(at + 20, (end - HEADER) as u32);
            call.text(at + 24, kind, 15);
            call.text(at + SPEC, args, args.len());
        }
        call.put(TARGETS, segments.len() as u32);
        call
    }

    #[test]
    fn an_answer_is_read_back() {
        let call = answer(&[(0, 100, "linear", "8:16 2048"), (100, 8, "error", ""), (108, 4, "zero", "")]);
        let table = call.table().unwrap();
        assert_eq!(table[0], linear(0, 100, 16, 2048));
        assert_eq!(table[1].target, Target::Error);
        assert_eq!(table[2].target, Target::Other("zero".into()));
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_none() {
        let good = answer(&[(0, 100, "linear", "8:16 2048"), (100, 8, "error", "")]);
        for (at, value) in [(HEADER + 20, 0), (HEADER + 20, 1 << 20), (TARGETS, 3), (DATA_START, 1 << 30)] {
            let mut bad = good.clone();
            bad.put(at, value);
            assert_eq!(bad.table(), None, "{at}");
        }
        assert_eq!(answer(&[(0, 1, "linear", "sda 0")]).table(), None, "a device without a number");
    }
}
