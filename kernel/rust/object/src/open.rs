// SPDX-License-Identifier: GPL-2.0
//! Table lines, assembly, the end.
//!
//! Invariant: see the crate.

use alloc::boxed::Box;
use core::ffi::c_char;
use core::fmt::Write as _;

use remap_core::op::Fault;
use remap_format::Policy;
use remap_glue::assemble::{DeviceShape, Devices, Plan, assemble};
use remap_glue::text::Text;
use remap_glue::volume::Volume;
use remap_words::table::{self, Adopt, Form, Grammar, SpareWord, TableLine};

use crate::abi::{DmrAssembly, DmrDevice, DmrShape, DmrTable, MAX_SPARES, outcome};
use crate::{room, words};

const EINVAL: i32 = 22;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_table_parse(
    grammar: u32,
    argc: u32,
    argv: *const *const c_char,
    out: *mut DmrTable,
    why: *mut u8,
    why_room: usize,
) -> i32 {
    // SAFETY: as the header says.
    let (words, mut why) = unsafe { (words(argc, argv), Text::new(room(why, why_room))) };
    let grammar = match grammar {
        1 => Grammar::Four,
        2 => Grammar::Two,
        _ => Grammar::Own,
    };
    match table::parse(grammar, words.as_slice()) {
        Ok(line) => {
            // SAFETY: as the header says.
            unsafe { out.write(to_c(&line)) };
            0
        }
        Err(error) => {
            // A reason that is cut is a reason.
            let _ = write!(why, "{error}");
            -EINVAL
        }
    }
}

fn to_c(line: &TableLine) -> DmrTable {
    let mut c = DmrTable {
        start: [0; MAX_SPARES],
        sectors: [0; MAX_SPARES],
        max_remaps: line.max_remaps.unwrap_or(0),
        spare: [0; MAX_SPARES],
        spares: line.spares.len() as u32,
        block_size: line.block_size.unwrap_or(0),
        policy: match line.policy {
            None => 0,
            Some(Policy::RewriteThenRemap) => 1,
            Some(Policy::RemapOnly) => 2,
        },
        form: u32::from(line.form == Form::V4),
        adopt: match line.adopt {
            Adopt::Blank => 0,
            Adopt::Force => 1,
            Adopt::Never => 2,
        },
        any_main: u32::from(line.any_main),
        any_state: u32::from(line.any_state),
    };
    let places = c.start.iter_mut().zip(&mut c.sectors).zip(&mut c.spare);
    for (((start, sectors), word), spare) in places.zip(&line.spares) {
        (*start, *sectors, *word) = (spare.start, spare.sectors, spare.word as u32);
    }
    c
}

fn from_c(c: &DmrTable) -> TableLine {
    let places = c.start.iter().zip(&c.sectors).zip(&c.spare).take(c.spares as usize);
    let spare =
        |((&start, &sectors), &word): ((&u64, &u64), &u32)| SpareWord { word: word as usize, start, sectors };
    TableLine {
        spares: places.map(spare).collect(),
        block_size: Some(c.block_size).filter(|&bytes| bytes != 0),
        policy: match c.policy {
            1 => Some(Policy::RewriteThenRemap),
            2 => Some(Policy::RemapOnly),
            _ => None,
        },
        max_remaps: Some(c.max_remaps).filter(|&most| most != 0),
        form: if c.form == 1 { Form::V4 } else { Form::V2 },
        adopt: match c.adopt {
            1 => Adopt::Force,
            2 => Adopt::Never,
            _ => Adopt::Blank,
        },
        any_main: c.any_main != 0,
        any_state: c.any_state != 0,
    }
}

/// The shim's devices.
struct Shim<'a>(&'a DmrAssembly);

impl Devices for Shim<'_> {
    fn read(&mut self, spare: Option<usize>, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let device = spare.map_or(0, |spare| spare as u32 + 1);
        // SAFETY: the shim fills as many bytes as it is told of.
        outcome(unsafe { (self.0.read)(self.0.context, device, offset, into.as_mut_ptr(), into.len()) })
    }

    fn zero(&mut self, spare: usize, offset: u64, bytes: u64) -> Result<(), Fault> {
        let bytes = usize::try_from(bytes).map_err(|_| Fault::Unsupported)?;
        // SAFETY: a plain call.
        outcome(unsafe { (self.0.zero)(self.0.context, spare as u32 + 1, offset, bytes) })
    }
}

fn shape(device: &DmrDevice) -> DeviceShape {
    DeviceShape { bytes: device.bytes, logical_block: device.logical_block, read_only: device.read_only != 0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_assemble(
    assembly: *const DmrAssembly,
    out: *mut *mut Volume,
    why: *mut u8,
    why_room: usize,
) -> i32 {
    // SAFETY: as the header says.
    let (assembly, table, mut why) =
        unsafe { (&*assembly, &*(*assembly).table, Text::new(room(why, why_room))) };
    let line = from_c(table);
    let mut spares = [DeviceShape::default(); MAX_SPARES];
    spares.iter_mut().zip(&assembly.spares).for_each(|(to, from)| *to = shape(from));
    let name = assembly.name.split(|&byte| byte == 0).next().and_then(|name| core::str::from_utf8(name).ok());
    let plan = Plan {
        main: shape(&assembly.main),
        spares: spares.get(..line.spares.len()).unwrap_or(&[]),
        volume_bytes: assembly.volume_bytes,
        random: &assembly.random,
        name: name.filter(|name| !name.is_empty()).unwrap_or("volume"),
        now: assembly.now.into(),
        served: assembly.served,
        line: &line,
    };
    match assemble(&plan, &mut Shim(assembly), out.is_null(), &mut why) {
        Ok(None) => 0,
        Ok(Some(volume)) => {
            // SAFETY: as the header says; it is not null.
            unsafe { out.write(Box::into_raw(volume).cast()) };
            0
        }
        Err(refusal) => {
            // A reason that is cut is a reason.
            let _ = write!(why, "{refusal}");
            -refusal.errno()
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_free(volume: *mut Volume) {
    // SAFETY: it came from `dmr_assemble`, and is freed once.
    drop(unsafe { Box::from_raw(volume.cast::<[Volume; 1]>()) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmr_shape(volume: &Volume, out: &mut DmrShape) {
    let superblock = volume.engine().volume();
    *out = DmrShape {
        sectors: volume.sectors(),
        block_size: superblock.block_size(),
        logical_block: superblock.main.logical_block,
        spares: volume.devices().len() as u32,
        spare: [u32::MAX; MAX_SPARES],
    };
    for (place, device) in out.spare.iter_mut().zip(volume.devices()) {
        *place = device.map_or(u32::MAX, |device| device as u32);
    }
}
