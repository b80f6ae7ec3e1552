//! Tables of the past that the spares still prove.
//!
//! Invariant: a generation is listed only if its checkpoint is whole, page by page, and so is every record between the two; its
//! table comes out of the same steps as recovery's. That it can be read says nothing about the slots that it names: they may
//! have been written since.
//!
//! What there is: the checkpoint in use and every record after it; the checkpoint before it, in the idle areas, and of its journal
//! what the next one has not overwritten (which begins at the front: either all of it or nothing that can be applied). A copy that
//! was left behind may hold an older checkpoint still.

use alloc::vec::Vec;

use remap_format::{COPIES, Entry, newer};

use super::replay::{Session, Walk};
use super::{Recovered, RecoveryError, SpareReader, copy_of, if_readable, recover_from, watch};
use crate::memory;
use crate::table::TableCounts;

/// Checkpoints that the superblock pages of all copies can name.
const MAX_CHECKPOINTS: usize = 2 * COPIES as usize;

/// A table of the past (or the one now).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// The checkpoint it builds upon (or is).
    pub checkpoint: u64,
    /// Edits of the record that made it; `None`: it is a checkpoint.
    pub edits: Option<u32>,
    /// When it was made, seconds since 1970: of a checkpoint the time in its superblock, of a record the latest of its edits.
    pub time: u64,
    /// What its table holds.
    pub counts: TableCounts,
    /// Slots that had gone bad.
    pub retired_slots: u64,
    /// Is it the newest one, which would be served?
    pub current: bool,
}

/// Every generation that these spares prove, newest first. The volume must be one that recovery believes.
///
/// # Errors
/// As [`super::recover`].
pub fn generations(reader: &mut dyn SpareReader, sizes: &[u64]) -> Result<Vec<Generation>, RecoveryError> {
    watch(reader, |reader| {
        let current = recover_from(reader, sizes, true)?;
        list(reader, &current)
    })
}

fn list(reader: &mut dyn SpareReader, current: &Recovered) -> Result<Vec<Generation>, RecoveryError> {
    let mut found: Vec<Generation> = Vec::new();
    each_checkpoint(reader, current, |session, base| {
        let mut chain = Vec::new();
        read_chain(session, |generation| {
            memory::try_push(&mut chain, generation)?;
            Ok(true)
        })?;
        // A record that was given up for the checkpoint that follows never counted.
        chain.retain(|here| base.is_none_or(|base| !newer(here.generation, base)));
        for generation in chain.into_iter().rev() {
            memory::try_push(&mut found, generation)?;
        }
        Ok(true)
    })?;
    match found.iter_mut().find(|g| g.generation == current.generation) {
        Some(newest) => newest.current = true,
        // Its checkpoint is damaged, and recovery fell back on what that was made of.
        None => {
            memory::try_push(&mut found, of_recovered(current))?;
            found.rotate_right(1);
        }
    }
    Ok(found)
}

/// The volume as of a generation; `None`: the spares do not prove it (any more).
///
/// # Errors
/// As [`super::recover`].
pub fn recover_at(
    reader: &mut dyn SpareReader,
    sizes: &[u64],
    generation: u64,
) -> Result<Option<Recovered>, RecoveryError> {
    watch(reader, |reader| {
        let current = recover_from(reader, sizes, true)?;
        if current.generation == generation {
            return Ok(Some(current));
        }
        let listed = list(reader, &current)?.into_iter().find(|g| g.generation == generation);
        let Some(wanted) = listed else { return Ok(None) };
        let mut found = None;
        each_checkpoint(reader, &current, |session, _| {
            if session.generation() == wanted.checkpoint {
                let stop = read_chain(session, |here| Ok(here.generation != generation))?;
                found = stop.map(|(session, walk)| session.finish(walk)).transpose()?;
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    })
}

/// Calls `job` with each checkpoint that superblocks still name, newest first, and with the generation of which the one that took
/// its place was made; until it says `false`.
fn each_checkpoint(
    reader: &mut dyn SpareReader,
    current: &Recovered,
    mut job: impl FnMut(Session<'_>, Option<u64>) -> Result<bool, RecoveryError>,
) -> Result<(), RecoveryError> {
    let (mut limit, mut base) = (None, None);
    for _ in 0..MAX_CHECKPOINTS {
        let (devices, newest) = (memory::copy(&current.devices)?, copy_of(&current.superblock)?);
        // Nothing older is whole, or what there is contradicts itself: history ends here.
        let Some(session) = if_readable(Session::begin(reader, devices, newest, limit))? else { break };
        // Slots are counted from the spares: with others the same number is another place.
        if session.superblock().spares != current.superblock.spares {
            break;
        }
        let (here, made_of) = (session.generation(), session.superblock().base);
        if !job(session, base)? {
            break;
        }
        (limit, base) = (Some(here), Some(made_of));
    }
    Ok(())
}

/// Walks from a checkpoint through its journal, telling `visit` each generation, until that says `false`: then gives where it
/// stands. What cannot be read or contradicts itself ends the walk.
fn read_chain<'r>(
    mut session: Session<'r>,
    mut visit: impl FnMut(Generation) -> Result<bool, RecoveryError>,
) -> Result<Option<(Session<'r>, Walk)>, RecoveryError> {
    let built = session.read_checkpoint().and_then(|entries: Vec<Entry>| session.build(&entries));
    let Some((table, pool)) = if_readable(built)? else { return Ok(None) };
    let mut walk = session.walk(table, pool);
    let checkpoint = session.generation();
    let mut edits = None;
    let mut time = session.superblock().written;
    loop {
        let here = Generation {
            generation: walk.generation(),
            checkpoint,
            edits,
            time,
            counts: walk.table().counts(),
            retired_slots: walk.retired_slots(),
            current: false,
        };
        if !visit(here)? {
            return Ok(Some((session, walk)));
        }
        let Some(record) = if_readable(session.step(&mut walk))?.flatten() else { return Ok(None) };
        edits = Some(u32::try_from(record.edits.len()).unwrap_or(u32::MAX));
        time = record.edits.iter().map(|e| e.time).max().unwrap_or(time);
    }
}

fn of_recovered(recovered: &Recovered) -> Generation {
    Generation {
        generation: recovered.generation,
        checkpoint: recovered.generation,
        edits: None,
        time: recovered.superblock.written,
        counts: recovered.table.counts(),
        retired_slots: recovered.pool.retired().iter().map(|e| u64::from(e.count)).sum(),
        current: true,
    }
}
