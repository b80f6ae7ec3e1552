//! A moment of the table: now, a generation of the past, or a dump.
//!
//! Invariant: reading a moment only reads, and two moments that are set against each other are of one volume, with the same
//! blocks and the same slots.

use std::path::Path;

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_format::Superblock;
use remap_io::Device;
use remap_runtime::examine_at;

use super::dump::Dump;
use crate::cli::Moment;
use crate::exit::{Exit, refusal};
use crate::files;
use crate::open::{examine, recovery_refusal};

/// Longest dump that is read, in bytes: the table of a full volume, and some more.
const DUMP_MAX: u64 = 8 << 30;

/// The volume as of a moment.
///
/// # Errors
/// The spares are refused, do not prove the generation, or the dump cannot be one.
pub(crate) fn recover(moment: &Moment, spares: &[Device]) -> anyhow::Result<Recovered> {
    if spares.is_empty() && !matches!(moment, Moment::Dump(_)) {
        let text = "give the spares of the volume, each with --spare: only dumps can do without";
        return Err(refusal(Exit::Usage, text));
    }
    match moment {
        Moment::Now => examine(spares, true),
        Moment::Generation(generation) => {
            let found = examine_at(spares, *generation).map_err(|error| recovery_refusal(&error, spares))?;
            found.ok_or_else(|| {
                let text = format!(
                    "the spares do not hold generation {generation} (any more): 'metadata generations' lists those \
                     that can be had"
                );
                refusal(Exit::NotFound, text)
            })
        }
        Moment::Dump(path) => {
            let (superblock, entries) = read_dump(path)?.volume().with_context(|| not_a_dump(path))?;
            Recovered::fresh(superblock, &entries).with_context(|| not_a_dump(path))
        }
    }
}

/// Reads a dump.
///
/// # Errors
/// It cannot be read, or is not one.
pub(crate) fn read_dump(path: &Path) -> anyhow::Result<Dump> {
    Dump::parse(&files::read_text(path, DUMP_MAX)?).with_context(|| not_a_dump(path))
}

/// What stands before the reason.
pub(crate) fn not_a_dump(path: &Path) -> String {
    format!("{}: not a dump that can be restored", path.display())
}

/// Can the tables of two moments be set against each other?
///
/// # Errors
/// Why not.
pub(crate) fn refuse_strangers(a: &Superblock, b: &Superblock) -> anyhow::Result<()> {
    let spares = |s: &Superblock| s.spares.iter().map(|r| (r.uuid, r.slots)).collect::<Vec<_>>();
    let why = if a.volume != b.volume {
        format!("they are of two volumes, '{}' and '{}'", a.name, b.name)
    } else if a.block_shift != b.block_shift {
        format!("one has blocks of {} bytes, the other of {}", a.block_size(), b.block_size())
    } else if spares(a) != spares(b) {
        "the volume had other spares then: a slot's number means another place".to_owned()
    } else {
        return Ok(());
    };
    Err(refusal(Exit::Mismatch, format!("the two moments cannot be compared: {why}")))
}
