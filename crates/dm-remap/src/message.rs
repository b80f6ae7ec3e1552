//! `message`: a word to a volume in service, in the kernel module's words where it had them.
//!
//! Invariant: a reply that begins with `error:` or says that something failed comes with a code that is not 0, and what
//! was asked is done or was refused when the reply is sent. The file of `save` replaces an earlier dump of the same volume and
//! nothing else.

mod answer;
mod spares;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::MessageArgs;
use crate::control::Client;
use crate::exit::{Exit, refusal};
use crate::files;
use crate::metadata::dump::Dump;
use crate::metadata::read_dump;
use crate::open::{Access, Opener, SpareArg, examine};
use crate::wire::{Ask, Reply};

pub(crate) use answer::{answer, differences};

/// Runs the command.
pub(crate) fn run(args: &MessageArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.volume)?;
    // The file is written here, by the user who asks, not by the server.
    let (words, file) = match args.message.as_slice() {
        [word, file] if word.eq_ignore_ascii_case("save") => (vec![word.clone()], Some(file)),
        [word, spare, rest @ ..] if spares::names_a_spare(word) => {
            // The server may run elsewhere.
            let spare = std::path::absolute(spare).with_context(|| format!("{spare}: not a path"))?;
            let spare = spare.to_str().context("the path of a spare in a message must be UTF-8")?.to_owned();
            ([word.clone(), spare].into_iter().chain(rest.iter().cloned()).collect(), None)
        }
        words => (words.to_vec(), None),
    };
    if let Some(file) = file.map(Path::new) {
        let uuid = client.status()?.uuid;
        files::refuse_existing(file, is_dump_of(file, &uuid))?;
    }
    let Reply::Message { text, ok } = client.ask(&Ask::Message { words }, None)? else {
        return Err(anyhow::anyhow!("{}: answered something else", args.volume));
    };
    println!("{text}");
    if !ok {
        return Ok(Exit::Failure.into());
    }
    if let Some(file) = file {
        dump(&mut client, Path::new(file))?;
        println!("dump written to {file}");
    }
    Ok(Exit::Done.into())
}

/// Writes a dump of the metadata as they are on the spares now.
fn dump(client: &mut Client, file: &Path) -> anyhow::Result<()> {
    let before = client.status()?;
    let spares: Vec<SpareArg> = before
        .spares
        .iter()
        .map(|spare| SpareArg { path: spare.path.clone().into(), start: spare.start, len: Some(spare.size) })
        .collect();
    let devices = Opener::auto().spares(&spares, Access::Peek)?;
    let recovered = examine(&devices, true)?;
    let generation = recovered.generation;
    let json = Dump::of(&recovered).to_json()?;
    if client.status()?.metadata.generation != generation {
        return Err(refusal(Exit::Busy, "the table changed while it was read: try again"));
    }
    files::write(file, json.as_bytes(), is_dump_of(file, &before.uuid))
}

/// A backup may take the place of an earlier one of the same volume, and of nothing else.
fn is_dump_of(file: &Path, uuid: &str) -> bool {
    read_dump(file).is_ok_and(|dump| dump.uuid() == uuid)
}
