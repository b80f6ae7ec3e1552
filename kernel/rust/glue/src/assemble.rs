// SPDX-License-Identifier: GPL-2.0
#![allow(clippy::result_large_err, reason = "a refusal is told once, and memory for it could be refused too")]
//! From devices to a volume in service, or to a refusal that says why and what would do.
//!
//! Invariant: everything that can be refused is refused before anything is written; the main device is only read. What is on a spare is
//! believed by remap-core's recovery and by nobody else; a spare is adopted only if it holds nothing that is known (or by force).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter, Write};

use arrayvec::ArrayVec;
use remap_content::{ContentUuid, WORK_BYTES, content_uuid};
use remap_core::engine::EngineConfig;
use remap_core::memory::NoMemory;
use remap_core::op::Fault;
use remap_core::recovery::{Flaw, Recovered, RecoveryError, SpareReader, recover};
use remap_core::units::Now;
use remap_format::layout::{self, LayoutError};
use remap_format::{DecodeError, MAX_SPARES, MainIdentity, PAGE_SIZE, Superblock, SuperblockFlags};
use remap_words::answer::fault_word;
use remap_words::table::{Adopt, TableLine};

use crate::spares::Waiting;
use crate::volume::{Boxed, Volume};

/// Block size of a volume that is made without another wish, in bytes.
const BLOCK_SIZE: u32 = 4096;

/// A device as it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceShape {
    /// Bytes (of the slice).
    pub bytes: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// It cannot be written.
    pub read_only: bool,
}

/// The devices while nothing is in service. All calls wait.
pub trait Devices {
    /// Bytes of the main device (`None`) or of a spare, by its place in the table line.
    ///
    /// # Errors
    /// The device's fault.
    fn read(&mut self, spare: Option<usize>, offset: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Makes bytes of a spare zero; durable when it returns.
    ///
    /// # Errors
    /// The device's fault.
    fn zero(&mut self, spare: usize, offset: u64, bytes: u64) -> Result<(), Fault>;
}

/// What is to be assembled.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What the table line says.
    pub line: &'a TableLine,
    /// The main device.
    pub main: DeviceShape,
    /// The spares, as the line names them.
    pub spares: &'a [DeviceShape],
    /// Bytes of the table line's length.
    pub volume_bytes: u64,
    /// 16 random bytes for the volume and for each spare, should it be adopted.
    pub random: &'a [[u8; 16]],
    /// Name of the volume, should it be adopted.
    pub name: &'a str,
    /// The time.
    pub now: Now,
    /// Spares (bit n: the one of that place) that another table of the same device serves meanwhile: they are not looked at.
    pub served: u32,
}

/// Why a volume was not assembled. Its text says what would do.
#[derive(Debug)]
pub enum Refusal {
    /// See there.
    Recovery(RecoveryError),
    /// See there.
    Layout(LayoutError),
    /// A spare that may not be adopted holds no volume.
    NoVolume(usize, Flaw),
    /// A spare that is not blank holds something.
    NotEmpty(usize, ContentUuid),
    /// One that holds something of ours.
    InUse(usize, Occupant),
    /// It holds bytes, from this offset on, where a volume has its superblocks.
    NotBlank(usize, u64),
    /// A device cannot be written.
    ReadOnly(Option<usize>),
    /// The spare cannot be written in units as small as the main device's.
    LogicalBlock(usize, u32, u32),
    /// The block size cannot be.
    BlockSize(u32, u32),
    /// Another one than the volume's.
    OtherBlockSize(u32, u32),
    /// The table line has another length than the volume.
    Length(u64, u64),
    /// The main device has no whole block.
    MainTooSmall(u64, u32),
    /// Bytes now, bytes when it was adopted.
    MainShrank(u64, u64),
    /// Volume, and what differs: what it was, then what it is.
    WrongMain(String, &'static str, String, ContentUuid),
    /// Volume, bytes now, bytes when it was adopted.
    OtherSize(String, u64, u64),
    /// Features that this program does not know.
    Features(u64),
    /// The main device's logical block has become smaller than the volume's.
    SmallerBlocks(u32),
    /// The slice of a spare ends behind its device.
    Slice(usize),
    /// A spare is on the main device.
    SameDevice(usize),
    /// The table line is longer than the main device.
    TooLong,
    /// The volume is larger than what the fast lane can name.
    TooLarge,
    /// A spare could not be prepared.
    Write(usize, Fault),
}

/// Who is on a spare already.
#[derive(Debug)]
pub enum Occupant {
    /// A volume of this name.
    Volume(String),
    /// Something that recovery refuses.
    Other(RecoveryError),
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recovery(error) => write!(f, "{error}"),
            Self::Layout(error) => write!(f, "{error}"),
            Self::NoVolume(spare, flaw) => {
                write!(f, "spare {spare} holds no volume ({flaw}), and 'adopt never' forbids to make one")
            }
            Self::NotEmpty(spare, found) => {
                write!(
                    f,
                    "spare {spare} holds something ({found}); give an empty one, or option 'adopt force' to overwrite it"
                )
            }
            Self::NotBlank(spare, offset) => write!(
                f,
                "spare {spare} is not blank: there is something at byte {offset}, where a volume has its metadata; if it held one, see \
                 'dm-remap metadata scan'; or use option 'adopt force' to overwrite it"
            ),
            Self::InUse(spare, Occupant::Volume(name)) => {
                write!(
                    f,
                    "spare {spare} belongs to volume '{name}'; release that first, or use option 'adopt force'"
                )
            }
            Self::InUse(spare, Occupant::Other(why)) => {
                write!(
                    f,
                    "spare {spare} is not blank: {why}; use 'dm-remap metadata repair', or option 'adopt force' to overwrite it"
                )
            }
            Self::ReadOnly(None) => {
                f.write_str("the main device is read-only; 'dm-remap serve --read-only' reads it")
            }
            Self::ReadOnly(Some(spare)) => write!(f, "spare {spare} is read-only; a spare must be writable"),
            Self::LogicalBlock(spare, spare_block, main_block) => write!(
                f,
                "spare {spare}: its logical block is {spare_block} bytes, larger than the main device's {main_block}; use a spare with \
                 {main_block}-byte blocks"
            ),
            Self::BlockSize(found, least) => {
                write!(
                    f,
                    "block size {found} does not work: it must be a power of two from {least} to 65536 bytes"
                )
            }
            Self::OtherBlockSize(asked, has) => {
                write!(f, "the volume has blocks of {has} bytes, not {asked}: leave the option out")
            }
            Self::Length(line, volume) => {
                write!(f, "the table line has {line} sectors, the volume {volume}: give '0 {volume}'")
            }
            Self::MainTooSmall(bytes, block) => {
                write!(f, "{bytes} bytes are too few for a main device: it needs one block of {block} bytes")
            }
            Self::MainShrank(found, expected) => write!(
                f,
                "the main device has {found} bytes, {expected} when it was adopted: it must not shrink; nothing was changed"
            ),
            Self::WrongMain(name, what, then, now) => {
                let now = if now.is_empty() { "none" } else { now };
                write!(
                    f,
                    "not the main device of volume '{name}': its {what} is {now}, {then} was adopted; nothing was changed (if it is the \
                     right one all the same, use option 'any_main')"
                )
            }
            Self::OtherSize(name, now, then) => write!(
                f,
                "not the main device of volume '{name}': it has {now} bytes, {then} when it was adopted; nothing was changed (if it is \
                 the right one all the same, use option 'any_main')"
            ),
            Self::Features(bits) => {
                write!(
                    f,
                    "the volume uses features {bits:#x} that this module does not know: a newer one is needed"
                )
            }
            Self::SmallerBlocks(bytes) => write!(
                f,
                "the volume has logical blocks of {bytes} bytes, its main device now has smaller ones; use 'dm-remap serve'"
            ),
            Self::Slice(spare) => write!(f, "Spare area exceeds device size (spare {spare})"),
            Self::SameDevice(spare) => write!(f, "Main device and spare {spare} are the same device"),
            Self::TooLong => f.write_str("Table line longer than the main device"),
            Self::TooLarge => f.write_str("Main device larger than the 2 PiB that this target serves"),
            Self::Write(spare, fault) => {
                write!(f, "spare {spare} cannot be written ({}); check it and try again", fault_word(*fault))
            }
        }
    }
}

impl From<RecoveryError> for Refusal {
    fn from(error: RecoveryError) -> Self {
        Self::Recovery(error)
    }
}

impl From<NoMemory> for Refusal {
    fn from(error: NoMemory) -> Self {
        Self::Recovery(error.into())
    }
}

impl Refusal {
    /// As an errno, without its sign.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Recovery(RecoveryError::Memory(_)) => 12,
            Self::Recovery(RecoveryError::Unreachable { .. }) | Self::Write(..) => 5,
            Self::Recovery(_) => 74,
            Self::Layout(_) | Self::MainTooSmall(..) => 28,
            Self::ReadOnly(_) => 30,
            Self::TooLarge => 27,
            Self::InUse(..) | Self::NotEmpty(..) | Self::NotBlank(..) => 16,
            Self::WrongMain(..) | Self::OtherSize(..) | Self::MainShrank(..) => 6,
            _ => 22,
        }
    }
}

/// Some of the given spares.
struct Reader<'d>(&'d mut dyn Devices, &'d [usize]);

impl SpareReader for Reader<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let given = self.1.get(spare).copied().ok_or(Fault::Gone)?;
        self.0.read(Some(given), offset, into)
    }
}

/// Assembles the volume, or with `rehearse` only looks whether that can be done. `say` takes what a person should know.
///
/// # Errors
/// [`Refusal`].
pub fn assemble(
    plan: &Plan<'_>,
    devices: &mut dyn Devices,
    rehearse: bool,
    say: &mut dyn Write,
) -> Result<Option<Boxed>, Refusal> {
    let locked = (0..).zip(plan.spares).find(|(_, spare)| spare.read_only);
    if plan.main.read_only || locked.is_some() {
        return Err(Refusal::ReadOnly(locked.map(|(spare, _)| spare).filter(|_| !plan.main.read_only)));
    }
    if plan.served != 0 {
        return new_ones(plan, devices);
    }
    let mut waiting = Vec::new();
    let recovered = match find(plan, devices, &mut waiting)? {
        Ok(mut recovered) => {
            check(plan, devices, &mut recovered, say)?;
            recovered
        }
        Err(RecoveryError::NoMetadata { spare, flaw }) if plan.line.adopt == Adopt::Never => {
            return Err(Refusal::NoVolume(spare, flaw));
        }
        Err(RecoveryError::NoMetadata { spare: _, flaw: Flaw::Damaged(DecodeError::Magic(_)) }) => {
            waiting.clear();
            adopt(plan, devices, rehearse, say)?
        }
        Err(_) if plan.line.adopt == Adopt::Force => {
            waiting.clear();
            adopt(plan, devices, rehearse, say)?
        }
        Err(error) => return Err(error.into()),
    };
    if rehearse {
        return Ok(None);
    }
    for spare in &waiting {
        if plan.line.adopt == Adopt::Force {
            wipe(devices, spare.given, spare.bytes)?;
        }
        // The log may be full; it waits all the same.
        let _ =
            write!(say, "spare {} is not of the volume: it waits for the message add-spare. ", spare.given);
    }
    let config = EngineConfig {
        policy: plan.line.policy,
        max_remaps: plan.line.max_remaps,
        ..EngineConfig::default()
    };
    Ok(Some(Volume::start(recovered, waiting, config, plan.now)?))
}

/// A table that takes over from one in service: may the spares that it brings join?
fn new_ones(plan: &Plan<'_>, devices: &mut dyn Devices) -> Result<Option<Boxed>, Refusal> {
    let fresh =
        (0u32..).zip(plan.spares).filter(|(given, _)| plan.served.checked_shr(*given).unwrap_or(0) & 1 == 0);
    for (given, shape) in fresh {
        if plan.line.adopt != Adopt::Force {
            is_blank(devices, given as usize, *shape)?;
        }
    }
    Ok(None)
}

/// Reads the metadata. Spares that the volume does not know, and that hold nothing, wait.
fn find(
    plan: &Plan<'_>,
    devices: &mut dyn Devices,
    waiting: &mut Vec<Waiting>,
) -> Result<Result<Recovered, RecoveryError>, Refusal> {
    let mut members: ArrayVec<usize, MAX_SPARES> = (0..plan.spares.len()).take(MAX_SPARES).collect();
    waiting.try_reserve_exact(members.len()).map_err(|_| NoMemory)?;
    loop {
        let shape = |given: &usize| plan.spares.get(*given).copied().unwrap_or_default();
        let sizes: ArrayVec<u64, MAX_SPARES> = members.iter().map(|given| shape(given).bytes).collect();
        let mut recovered = recover(&mut Reader(devices, &members), &sizes, plan.line.any_state);
        let stranger = match &mut recovered {
            Err(RecoveryError::NotAMember { spare, .. }) => members.get(*spare).copied(),
            Err(RecoveryError::NoMetadata { spare, flaw: Flaw::Damaged(DecodeError::Magic(_)) }) => {
                let given = members.get(*spare).copied();
                *spare = given.unwrap_or(*spare);
                given.filter(|_| members.len() > 1)
            }
            _ => None,
        };
        if let Some(given) = stranger {
            let DeviceShape { bytes, logical_block, .. } = shape(&given);
            if plan.line.adopt != Adopt::Force {
                is_blank(devices, given, shape(&given))?;
            }
            let uuid = plan.random.get(given + 1).map(uuid).unwrap_or_default();
            if waiting.len() < waiting.capacity() {
                waiting.push(Waiting { given, bytes, logical_block, uuid });
            }
            members.retain(|member| *member != given);
            continue;
        }
        if let Ok(recovered) = &mut recovered {
            let given = |member: usize| members.get(member).copied();
            recovered.devices.iter_mut().for_each(|device| *device = device.and_then(given));
        }
        return Ok(recovered);
    }
}

/// Is this the volume that the line means, and its main device?
fn check(
    plan: &Plan<'_>,
    devices: &mut dyn Devices,
    recovered: &mut Recovered,
    say: &mut dyn Write,
) -> Result<(), Refusal> {
    let volume = &recovered.superblock;
    if volume.ro_compat != 0 {
        return Err(Refusal::Features(volume.ro_compat));
    }
    if let Some(asked) = plan.line.block_size.filter(|&asked| asked != volume.block_size()) {
        return Err(Refusal::OtherBlockSize(asked, volume.block_size()));
    }
    if plan.main.bytes < volume.main.size {
        return Err(Refusal::MainShrank(plan.main.bytes, volume.main.size));
    }
    if plan.volume_bytes != volume.main.size {
        return Err(Refusal::Length(plan.volume_bytes / 512, volume.main.size / 512));
    }
    is_main(plan, devices, volume, say)?;
    if plan.line.any_main {
        remember(plan, devices, recovered)?;
    }
    let flawed = recovered.copies.iter().filter(|copy| copy.flaw.is_some()).count();
    if flawed > 0 {
        // The log may be full; the copies are written anew all the same.
        let _ =
            write!(say, "{flawed} of 5 metadata copies were damaged or out of date: all are written anew. ");
    }
    // What was asked for in larger blocks would be cut into smaller ones, which could be torn.
    if recovered.superblock.main.logical_block > plan.main.logical_block {
        return Err(Refusal::SmallerBlocks(recovered.superblock.main.logical_block));
    }
    if recovered.superblock.flags.has(SuperblockFlags::RELEASED) {
        recovered.superblock.flags = SuperblockFlags::default();
        recovered.needs_repair = true;
    }
    Ok(())
}

/// The kernel knows no serial numbers: what is stored on the device decides, as far as it was noted.
fn is_main(
    plan: &Plan<'_>,
    devices: &mut dyn Devices,
    volume: &Superblock,
    say: &mut dyn Write,
) -> Result<(), Refusal> {
    let then = &volume.main;
    let name = || owned(&volume.name);
    if plan.line.any_main {
        return Ok(());
    }
    if plan.main.logical_block > then.logical_block {
        let text = content(format_args!("{} bytes", plan.main.logical_block));
        let was = content(format_args!("{} bytes", then.logical_block));
        return Err(Refusal::WrongMain(name()?, "logical block", owned(&was)?, text));
    }
    // A device that has a name of its own is known by it; user space compares that.
    let named = !(then.wwn.is_empty() && then.serial.is_empty());
    if !named && !then.content_uuid.is_empty() {
        let (now, readable) = identify(devices, None, plan.main)?;
        if !readable {
            let _ = say.write_str("the start of the main device cannot be read: that it is the right one could not be confirmed. ");
        } else if then.content_uuid != now.as_str() {
            return Err(Refusal::WrongMain(name()?, "content", owned(&then.content_uuid)?, now));
        }
    }
    if plan.main.bytes != then.size {
        return Err(Refusal::OtherSize(name()?, plan.main.bytes, then.size));
    }
    Ok(())
}

/// Notes what the main device holds now, because somebody said that it is the right one.
fn remember(plan: &Plan<'_>, devices: &mut dyn Devices, recovered: &mut Recovered) -> Result<(), Refusal> {
    let main = &mut recovered.superblock.main;
    let (now, readable) = identify(devices, None, plan.main)?;
    if readable && (main.content_uuid != now.as_str() || main.logical_block != plan.main.logical_block) {
        main.content_uuid = owned(&now)?;
        main.logical_block = plan.main.logical_block;
        recovered.needs_repair = true;
    }
    Ok(())
}

fn content(words: fmt::Arguments<'_>) -> ContentUuid {
    let mut text = ContentUuid::new();
    // A text that is cut still says something.
    let _ = text.write_fmt(words);
    text
}

pub(crate) fn owned(text: &str) -> Result<String, NoMemory> {
    let mut out = String::new();
    out.try_reserve_exact(text.len()).map_err(|_| NoMemory)?;
    out.push_str(text);
    Ok(out)
}

/// What a device holds (empty: nothing known), and whether its start could be read.
fn identify(
    devices: &mut dyn Devices,
    spare: Option<usize>,
    shape: DeviceShape,
) -> Result<(ContentUuid, bool), NoMemory> {
    let mut work = Vec::new();
    work.try_reserve_exact(WORK_BYTES).map_err(|_| NoMemory)?;
    work.resize(WORK_BYTES, 0);
    let mut readable = true;
    let mut read = |offset: u64, into: &mut [u8]| {
        let good = devices.read(spare, offset, into).is_ok();
        readable &= good;
        good
    };
    let work = work.first_chunk_mut::<WORK_BYTES>().ok_or(NoMemory)?;
    let found = content_uuid(shape.bytes, shape.logical_block, work, &mut read);
    Ok((found.unwrap_or_default(), readable))
}

/// Makes a volume of the devices.
#[inline(never)]
fn adopt(
    plan: &Plan<'_>,
    devices: &mut dyn Devices,
    rehearse: bool,
    say: &mut dyn Write,
) -> Result<Recovered, Refusal> {
    let block_size = plan.line.block_size.unwrap_or(BLOCK_SIZE.max(plan.main.logical_block));
    let least = plan.main.logical_block.max(512);
    if !block_size.is_power_of_two() || block_size < least || block_size > 65536 {
        return Err(Refusal::BlockSize(block_size, least));
    }
    if plan.main.bytes < u64::from(block_size) {
        return Err(Refusal::MainTooSmall(plan.main.bytes, block_size));
    }
    if plan.volume_bytes != plan.main.bytes {
        return Err(Refusal::Length(plan.volume_bytes / 512, plan.main.bytes / 512));
    }
    for (number, spare) in plan.spares.iter().enumerate() {
        if spare.logical_block > plan.main.logical_block {
            return Err(Refusal::LogicalBlock(number, spare.logical_block, plan.main.logical_block));
        }
        if plan.line.adopt != Adopt::Force {
            is_blank(devices, number, *spare)?;
        }
    }
    let names = plan.random.iter().skip(1).map(uuid);
    let whole = plan.spares.iter().map(|spare| spare.bytes - spare.bytes % u64::from(block_size));
    let usable: ArrayVec<([u8; 16], u64), MAX_SPARES> = names.zip(whole).take(MAX_SPARES).collect();
    let rounded: ArrayVec<u64, MAX_SPARES> = usable.iter().map(|(_, size)| *size).collect();
    let shape = layout::plan(&rounded, u64::from(block_size)).map_err(Refusal::Layout)?;
    let (holds, _) = identify(devices, None, plan.main)?;
    let main = MainIdentity {
        size: plan.main.bytes,
        logical_block: plan.main.logical_block,
        content_uuid: owned(&holds)?,
        ..MainIdentity::default()
    };
    let volume = plan.random.first().map(uuid).unwrap_or_default();
    let mut superblock = Superblock::new(volume, plan.name, block_size, &shape, &usable, main);
    (superblock.created, superblock.written) = (plan.now.unix_s, plan.now.unix_s);
    superblock.policy = plan.line.policy.unwrap_or_default();
    let mut recovered = Recovered::fresh(superblock, &[])?;
    recovered.mark_edited();
    if !rehearse {
        for (given, spare) in plan.spares.iter().enumerate() {
            wipe(devices, given, spare.bytes)?;
        }
        // The log may be full; the volume is there all the same.
        let _ = write!(say, "adopted as volume '{}' with blocks of {block_size} bytes. ", plan.name);
    }
    Ok(recovered)
}

/// A UUID of random bytes.
fn uuid(random: &[u8; 16]) -> [u8; 16] {
    let mut bits = u128::from_be_bytes(*random);
    bits = bits & !(0xf << 76) | 4 << 76;
    bits = bits & !(3 << 62) | 2 << 62;
    bits.to_be_bytes()
}

/// Refuses a spare that holds anything that is known.
fn is_blank(devices: &mut dyn Devices, spare: usize, shape: DeviceShape) -> Result<(), Refusal> {
    match recover(&mut Reader(devices, &[spare]), &[shape.bytes], true) {
        Err(RecoveryError::NoMetadata { flaw: Flaw::Damaged(DecodeError::Magic(_)), .. }) => {}
        Ok(found) => return Err(Refusal::InUse(spare, Occupant::Volume(found.superblock.name))),
        Err(error @ (RecoveryError::Memory(_) | RecoveryError::Unreachable { .. })) => {
            return Err(error.into());
        }
        Err(other) => return Err(Refusal::InUse(spare, Occupant::Other(other))),
    }
    let (found, _) = identify(devices, Some(spare), shape)?;
    if !found.is_empty() {
        return Err(Refusal::NotEmpty(spare, found));
    }
    // Whoever assembles a volume says the same words as who adopts a spare: what could be the ruins of a volume is not taken for blank.
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| NoMemory)?;
    page.resize(PAGE_SIZE, 0);
    let fits = |at: &u64| at + PAGE_SIZE as u64 <= shape.bytes;
    let pages = layout::search_places(shape.bytes).into_iter().flat_map(|at| [at, at + PAGE_SIZE as u64]);
    for at in pages.filter(fits) {
        devices
            .read(Some(spare), at, &mut page)
            .map_err(|fault| RecoveryError::Unreachable { spare, fault })?;
        if page.iter().any(|&byte| byte != 0) {
            return Err(Refusal::NotBlank(spare, at));
        }
    }
    Ok(())
}

/// Makes sure that no superblock of an earlier life is found on a spare.
fn wipe(devices: &mut dyn Devices, spare: usize, size: u64) -> Result<(), Refusal> {
    let bytes = layout::SUPERBLOCK_PAGES * PAGE_SIZE as u64;
    for place in layout::search_places(size).into_iter().filter(|place| place + bytes <= size) {
        devices.zero(spare, place, bytes).map_err(|fault| Refusal::Write(spare, fault))?;
    }
    Ok(())
}
