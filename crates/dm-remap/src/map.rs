//! `map`: which blocks are where, as a list, from other programs' lists, and in other programs' forms.

mod export;
mod import;
mod list;
pub(crate) mod pieces;

pub(crate) use export::lost_map;
pub(crate) use list::{lost_words, place_words};

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_io::Device;
use uuid::Uuid;

use crate::cli::{MapAction, MapArgs, TableSource};
use crate::control::{Client, Snapshot};
use crate::files;
use crate::open::{Access, Opener, SpareArg, examine};
use crate::wire::{SpareHead, TableHead};

/// Runs a `map` command.
///
/// # Errors
/// What stood in the way, with the exit code that goes with it.
pub(crate) fn run(args: &MapArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        MapAction::List(args) => list::run(args),
        MapAction::Import(args) => import::run(args),
        MapAction::Export(args) => export::run(args),
    }
}

/// The table of a volume that is being served, or of spares that nobody serves.
fn snapshot(source: &TableSource) -> anyhow::Result<Snapshot> {
    match &source.volume {
        Some(volume) => Client::connect(volume)?.entries(),
        None => offline(&source.spares),
    }
}

fn offline(args: &[SpareArg]) -> anyhow::Result<Snapshot> {
    let spares = Opener::auto().spares(args, Access::Read)?;
    Ok(table_of(&examine(&spares, true)?, args, &spares))
}

/// What recovery found on spares that were given as `args`.
pub(crate) fn table_of(recovered: &Recovered, args: &[SpareArg], spares: &[Device]) -> Snapshot {
    let superblock = &recovered.superblock;
    let head = |device: &Option<usize>| {
        let spare = device.and_then(|device| Some((args.get(device)?, spares.get(device)?)));
        spare.map_or_else(SpareHead::default, |(arg, spare): (&SpareArg, &Device)| SpareHead {
            path: arg.path.display().to_string(),
            start: arg.start,
            size: spare.size(),
        })
    };
    Snapshot {
        head: TableHead {
            name: superblock.name.clone(),
            uuid: Uuid::from_bytes(superblock.volume).to_string(),
            generation: recovered.generation,
            size: superblock.main.size,
            block_size: superblock.block_size(),
            main: String::new(),
            spares: recovered.devices.iter().map(head).collect(),
        },
        entries: recovered.table.iter().collect(),
        retired: recovered.pool.retired().to_vec(),
    }
}

/// The table for people.
pub(crate) fn listing(snapshot: &Snapshot) -> String {
    list::text(snapshot)
}

/// Writes a command's result to a file, or to standard output.
///
/// # Errors
/// It cannot be written, or the file exists and `replace` was not said.
pub(crate) fn deliver(output: Option<&Path>, text: &[u8], replace: bool) -> anyhow::Result<()> {
    match output {
        Some(path) => files::write(path, text, replace),
        None => std::io::stdout().write_all(text).context("standard output"),
    }
}
