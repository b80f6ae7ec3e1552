// SPDX-License-Identifier: GPL-2.0
#![allow(clippy::result_large_err, reason = "a refusal is told once, and memory for it could be refused too")]
//! A target of device-mapper, as far as it is not the kernel's: a table line, its devices, and the volume while there is one.
//!
//! Invariant: devices are numbered as everywhere: 0 is the main device, n + 1 the spare number n of the table line.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use arrayvec::{ArrayString, ArrayVec};
use remap_core::memory::NoMemory;
use remap_core::units::Now;
use remap_format::MAX_SPARES;
use remap_words::status;
use remap_words::table::{self, Form, Grammar, TableLine};

use crate::assemble::{DeviceShape, Devices, Plan, Refusal, assemble, owned};
use crate::call::Progress;
use crate::shown::Lanes;
use crate::spares::Names;
use crate::volume::{Boxed, Volume};

/// Devices of a table line at most.
pub const MAX_DEVICES: usize = MAX_SPARES + 1;
/// Words of a table line at most.
pub const MAX_WORDS: usize = 96;
/// Sectors of a volume at most: as many as the fast lane can name (42 bits of `dmr_ticket`, `shim.h`).
const MAX_SECTORS: u64 = 1 << 42;

const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;
const E2BIG: i32 = 7;

/// A device of the table line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Which word names it.
    pub word: usize,
    /// First sector of its slice.
    pub start: u64,
    /// Sectors of the slice; 0 in a line: up to the end.
    pub sectors: u64,
}

/// As it was opened, with its slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// First sector of the slice.
    pub start: u64,
    /// Sectors of the slice.
    pub sectors: u64,
    /// Sectors of the whole device.
    pub size: u64,
    /// Two of the same are one device.
    pub id: u32,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// It cannot be written.
    pub read_only: bool,
}

impl Opened {
    fn shape(&self) -> DeviceShape {
        let bytes = self.sectors.saturating_mul(512);
        DeviceShape { bytes, logical_block: self.logical_block, read_only: self.read_only }
    }
}

/// What is to be assembled.
#[derive(Debug)]
pub struct Given<'a> {
    /// The devices of the table line.
    pub devices: &'a [Opened],
    /// Its length.
    pub sectors: u64,
    /// 16 random bytes for the volume and for each spare, should it be adopted.
    pub random: &'a [[u8; 16]],
    /// What the mapped device is called.
    pub name: &'a str,
    /// The time.
    pub now: Now,
}

/// A target.
#[derive(Debug)]
pub struct Target {
    line: TableLine,
    words: Vec<String>,
    /// What had been counted when it was first assembled.
    then: Option<Lanes>,
    volume: Option<Boxed>,
}

impl Target {
    /// Reads a table line. `max_remaps`: of a line that does not say; 0: as many as there are slots.
    ///
    /// # Errors
    /// An errno; the reason is in `why`.
    pub fn parse(
        grammar: Grammar,
        words: &[&str],
        max_remaps: u64,
        why: &mut dyn Write,
    ) -> Result<Self, i32> {
        // A reason that is cut is a reason.
        let refused = |cut: fmt::Result, errno| cut.map_or(errno, |()| errno);
        if words.len() > MAX_WORDS {
            return Err(refused(why.write_str("Too many words"), E2BIG));
        }
        let mut line =
            table::parse(grammar, words).map_err(|error| refused(write!(why, "{error}"), EINVAL))?;
        line.max_remaps = line.max_remaps.or(Some(max_remaps).filter(|&most| most != 0));
        let words = copies(words).map_err(|NoMemory| refused(why.write_str("Out of memory"), ENOMEM))?;
        Ok(Self { line, words, then: None, volume: None })
    }

    /// The devices that the line names.
    #[must_use]
    pub fn devices(&self) -> ArrayVec<Device, MAX_DEVICES> {
        let spares =
            self.line.spares.iter().map(|s| Device { word: s.word, start: s.start, sectors: s.sectors });
        core::iter::once(Device::default()).chain(spares).take(MAX_DEVICES).collect()
    }

    /// The line, with these names of the devices.
    ///
    /// # Errors
    /// `out` took no more.
    pub fn table(&self, names: &[&str], out: &mut dyn Write) -> fmt::Result {
        let devices = self.devices();
        for (at, word) in self.words.iter().enumerate() {
            let device = devices.iter().position(|device| device.word == at);
            let word = device.and_then(|device| names.get(device).copied()).unwrap_or(word);
            write!(out, "{}{word}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }

    /// Could it be assembled? Writes nothing. Devices of `served` (bit n: device n) are not looked at.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn rehearse(
        &self,
        given: &Given<'_>,
        served: u32,
        devices: &mut dyn Devices,
        say: &mut dyn Write,
    ) -> Result<(), Refusal> {
        fit(given)?;
        self.open(given, Some(served), devices, say).map(|_| ())
    }

    /// Puts the volume in service, or adopts a spare. `say` takes what a person should know.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn assemble(
        &mut self,
        given: &Given<'_>,
        counted: &Lanes,
        devices: &mut dyn Devices,
        say: &mut dyn Write,
    ) -> Result<(), Refusal> {
        self.volume = self.open(given, None, devices, say)?;
        self.then = self.then.or(Some(*counted));
        Ok(())
    }

    fn open(
        &self,
        given: &Given<'_>,
        rehearsal: Option<u32>,
        devices: &mut dyn Devices,
        say: &mut dyn Write,
    ) -> Result<Option<Boxed>, Refusal> {
        let shapes: ArrayVec<DeviceShape, MAX_DEVICES> =
            given.devices.iter().take(MAX_DEVICES).map(Opened::shape).collect();
        let Some((main, spares)) = shapes.split_first() else { return Ok(None) };
        let plan = Plan {
            line: &self.line,
            main: *main,
            spares,
            volume_bytes: given.sectors.saturating_mul(512),
            random: given.random,
            name: &plain_name(given.name),
            now: given.now,
            served: rehearsal.unwrap_or(0) >> 1,
        };
        assemble(&plan, devices, rehearsal.is_some(), say)
    }

    /// Nothing is out: the volume goes.
    pub fn end(&mut self) {
        self.volume = None;
    }

    /// The volume, while there is one.
    #[must_use]
    pub fn volume(&self) -> Option<&Volume> {
        self.volume.as_deref().map(|[volume]| volume)
    }

    /// The volume, while there is one.
    pub fn volume_mut(&mut self) -> Option<&mut Volume> {
        self.volume.as_deref_mut().map(|[volume]| volume)
    }

    /// What was counted since it was first assembled.
    #[must_use]
    pub fn since(&self, counted: &Lanes) -> Lanes {
        counted.since(&self.then.unwrap_or_default())
    }

    /// Takes a message; `names` are those of the devices.
    pub fn message(
        &mut self,
        now: Now,
        words: &[&str],
        names: &[&str],
        counted: &Lanes,
        out: &mut dyn Write,
    ) -> Progress {
        let asked = self.since(counted).into();
        let word = |device: &Device| self.words.get(device.word).map_or("", String::as_str);
        let devices = self.devices();
        let both = devices.iter().map(word).zip(names.iter().copied());
        let spares: ArrayVec<Names<'_>, MAX_DEVICES> =
            both.skip(1).map(|(word, name)| [word, name]).collect();
        match self.volume.as_deref_mut() {
            Some([volume]) => volume.message(now, words, &spares, asked, out),
            None => Progress::Answered,
        }
    }

    /// The status line without the three words of device-mapper.
    ///
    /// # Errors
    /// `out` took no more.
    pub fn status(&self, names: &[&str], counted: &Lanes, out: &mut dyn Write) -> fmt::Result {
        let Some(volume) = self.volume() else { return Ok(()) };
        let figures = volume.figures(self.since(counted).into());
        match (self.line.form, names) {
            (Form::V4, [main, spare, ..]) => status::v4(out, &figures, main, spare),
            _ => status::v2(out, &figures),
        }
    }
}

/// Do the slices and the length of the line fit the devices?
fn fit(given: &Given<'_>) -> Result<(), Refusal> {
    let Some((main, spares)) = given.devices.split_first() else { return Ok(()) };
    for (n, spare) in spares.iter().enumerate() {
        if spare.start >= spare.size || spare.sectors > spare.size - spare.start {
            return Err(Refusal::Slice(n));
        }
        if spare.id == main.id {
            return Err(Refusal::SameDevice(n));
        }
    }
    if given.sectors > main.size {
        return Err(Refusal::TooLong);
    }
    if given.sectors > MAX_SECTORS {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

fn copies(words: &[&str]) -> Result<Vec<String>, NoMemory> {
    let mut all = Vec::new();
    all.try_reserve_exact(words.len()).map_err(|_| NoMemory)?;
    for word in words {
        let copy = owned(word)?;
        if all.len() < all.capacity() {
            all.push(copy);
        }
    }
    Ok(all)
}

/// What a volume is called after a mapped device: only with characters that the name of a volume, as part of a file name, may have.
pub(crate) fn plain_name(name: &str) -> ArrayString<63> {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' });
    let mut out = ArrayString::new();
    for c in plain.skip_while(|c| !c.is_ascii_alphanumeric()) {
        // What does not fit is cut.
        let _ = out.try_push(c);
    }
    if out.is_empty() {
        let _ = out.try_push_str("volume");
    }
    out
}
