//! `metadata check`: the state of every copy, a verdict, and what to do.
//!
//! Invariant: checking only reads.

use std::fmt::Write as _;

use remap_core::recovery::{CopyReport, Flaw, Recovered, RecoveryError};
use remap_format::{COPIES, Superblock, SuperblockFlags, newer};
use remap_io::Device;
use remap_runtime::examine;
use serde::Serialize;
use uuid::Uuid;

use super::salvage::salvage;
use super::scan::{self, Copies, Sighting};
use crate::open::recovery_refusal;
use crate::units::format_count;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// All copies are in step.
    Good,
    /// Damaged, but serving the volume repairs it.
    Repairable,
    /// The volume cannot be served like this.
    Refused,
}

/// A copy.
#[derive(Clone, Debug, Serialize)]
struct CopyLine {
    copy: u8,
    spare: u8,
    /// First byte on the spare.
    start: u64,
    generation: Option<u64>,
    /// How bad it is.
    state: State,
    /// What is wrong first, and the byte offset on the spare.
    #[serde(skip_serializing_if = "Option::is_none")]
    flaw: Option<FlawPart>,
}

/// How a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// It holds all that is durable.
    InStep,
    /// It has a whole superblock; whether its table is whole is not known.
    Readable,
    /// It is whole, but missed the last changes.
    OutOfDate,
    /// It was taken out of use when it could not be written.
    OutOfUse,
    /// A part of it is not what was written there.
    Damaged,
    /// The spare fails to read a part of it.
    Unreadable,
    /// It is on a spare that was not given, or nothing of it is left.
    Missing,
}

impl State {
    fn of(flaw: Option<&(Flaw, u64)>) -> Self {
        match flaw {
            None => Self::InStep,
            Some((Flaw::Stale, _)) => Self::OutOfDate,
            Some((Flaw::Fenced, _)) => Self::OutOfUse,
            Some((Flaw::Unreadable(_), _)) => Self::Unreadable,
            Some((Flaw::Damaged(_), _)) => Self::Damaged,
        }
    }
}

/// What 'metadata repair' would make of metadata that cannot be believed.
#[derive(Clone, Debug, Serialize)]
struct RepairPart {
    /// Runs that it would keep.
    runs: u64,
    /// What could not be had, a sentence each.
    doubts: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct FlawPart {
    what: String,
    offset: u64,
}

impl FlawPart {
    fn of((flaw, offset): (Flaw, u64)) -> Self {
        Self { what: flaw.to_string(), offset }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema_version: u32,
    volume: Option<VolumePart>,
    copies: Vec<CopyLine>,
    copies_in_step: u8,
    /// How it stands.
    pub verdict: Verdict,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What can be had of it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<RepairPart>,
    advice: String,
}

#[derive(Clone, Debug, Serialize)]
struct VolumePart {
    name: String,
    uuid: String,
    spares: usize,
    generation: u64,
    released: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
}

impl VolumePart {
    fn of(superblock: &Superblock, generation: u64, entries: Option<u64>) -> Self {
        Self {
            name: superblock.name.clone(),
            uuid: Uuid::from_bytes(superblock.volume).to_string(),
            spares: superblock.present().count(),
            generation,
            released: superblock.flags.has(SuperblockFlags::RELEASED),
            entries,
        }
    }
}

/// Looks at the metadata on these spares.
pub(crate) fn check(spares: &[Device]) -> Report {
    match examine(spares, true) {
        Ok(recovered) => of_believed(&recovered),
        Err(error) => of_refused(spares, &error),
    }
}

fn of_believed(recovered: &Recovered) -> Report {
    let line = |c: &CopyReport| CopyLine {
        copy: c.copy,
        spare: c.spare,
        start: c.start,
        generation: c.generation,
        state: State::of(c.flaw.as_ref()),
        flaw: c.flaw.map(FlawPart::of),
    };
    let good = recovered.good_copies();
    let (verdict, advice) = if good == COPIES {
        (Verdict::Good, "nothing to do".to_owned())
    } else {
        (Verdict::Repairable, repairable_advice(recovered))
    };
    Report {
        schema_version: 1,
        volume: Some(VolumePart::of(
            &recovered.superblock,
            recovered.generation,
            Some(recovered.table.counts().entries),
        )),
        copies: recovered.copies.iter().map(line).collect(),
        copies_in_step: good,
        verdict,
        reason: None,
        repair: None,
        advice,
    }
}

/// What to do with a volume that can be served, and how urgent it is.
fn repairable_advice(recovered: &Recovered) -> String {
    let good = recovered.good_copies();
    let unreadable = recovered.copies.iter().any(|c| matches!(c.flaw, Some((Flaw::Unreadable(_), _))));
    let left = match good {
        0 => "no copy is whole, but together they are: copy the spare before anything else".to_owned(),
        1 => "one copy is left that is whole: copy the spare before anything else".to_owned(),
        _ => format!("{good} of {COPIES} copies are in step"),
    };
    let next = if unreadable {
        "the spare has bad sectors under its metadata: 'metadata repair --output NEWSPARE' moves everything to a new one. Until then \
         'serve' works, and writes anew the copies that take it"
    } else {
        "the table is whole, and 'serve' writes all copies anew when it starts. If a copy is damaged again soon, the spare \
         itself may be failing: 'metadata repair --output NEWSPARE' makes a new one"
    };
    format!("{left}; {next}")
}

/// What a repair would make of it.
fn repairable(spares: &[Device]) -> Option<RepairPart> {
    // An error is one more way of saying that nothing can be had.
    let salvage = salvage(spares).ok().flatten()?;
    Some(RepairPart { runs: salvage.entries.len() as u64, doubts: salvage.doubts })
}

fn of_refused(spares: &[Device], error: &RecoveryError) -> Report {
    let sightings = scan::superblocks(spares);
    let newest = scan::newest(&sightings);
    let copies = newest.map_or_else(|| blank_lines(&sightings), |s| copy_lines(s, spares, &sightings));
    let advice = match (error, newest) {
        (RecoveryError::MissingSpare { .. }, _) => "give all spares of the volume, each with --spare",
        (RecoveryError::MixedVolumes { .. } | RecoveryError::DuplicateSpare { .. }, _) => {
            "give the spares of one volume, each once"
        }
        (RecoveryError::SpareShrank { .. }, _) => "give the spare its old size back",
        (_, Some(_)) => {
            "nothing was changed. 'metadata repair --output NEWSPARE' writes what can be believed to a new spare and \
             lists what cannot; 'metadata restore' brings back an earlier dump"
        }
        (_, None) => {
            "nothing was changed. Is this the spare? If it is, its metadata are gone: 'metadata restore' brings back \
             an earlier dump"
        }
    };
    Report {
        schema_version: 1,
        volume: newest.map(|s| VolumePart::of(s, s.generation, None)),
        copies,
        copies_in_step: 0,
        verdict: Verdict::Refused,
        reason: Some(recovery_refusal(error, spares).to_string()),
        repair: newest.and_then(|_| repairable(spares)),
        advice: advice.to_owned(),
    }
}

/// The copies as their superblocks describe them.
fn copy_lines(newest: &Superblock, spares: &[Device], sightings: &[Sighting]) -> Vec<CopyLine> {
    let copies = Copies::of(newest, spares, sightings);
    let lines = copies.places().iter().map(|place| {
        let mut generation: Option<u64> = None;
        let mut flaw: Option<(Flaw, u64)> = None;
        if !copies.has(place.spare) {
            let what = "is on a spare that was not given, or that has no metadata left".to_owned();
            let flaw = Some(FlawPart { what, offset: place.start });
            let (copy, spare, start) = (place.copy, place.spare, place.start);
            return CopyLine { copy, spare, start, generation, state: State::Missing, flaw };
        }
        for (page, offset) in copies.superblock_pages(place.copy).into_iter().zip([0, 4096]) {
            match page {
                Ok(s) => {
                    generation = Some(generation.filter(|&g| newer(g, s.generation)).unwrap_or(s.generation))
                }
                Err(found) => flaw = Some((found, place.start + offset)),
            }
        }
        let flaw = flaw.filter(|_| generation.is_none());
        CopyLine {
            copy: place.copy,
            spare: place.spare,
            start: place.start,
            generation,
            state: if flaw.is_none() { State::Readable } else { State::of(flaw.as_ref()) },
            flaw: flaw.map(FlawPart::of),
        }
    });
    lines.collect()
}

/// Nothing is known of the volume: the fronts of the spares, where people look first.
fn blank_lines(sightings: &[Sighting]) -> Vec<CopyLine> {
    let at_front = sightings.iter().filter(|s| s.offset == 0);
    at_front
        .filter_map(|s| {
            let flaw = *s.found.as_ref().err()?;
            Some(CopyLine {
                copy: 0,
                spare: u8::try_from(s.device).unwrap_or(u8::MAX),
                start: 0,
                generation: None,
                state: State::of(Some(&(flaw, 0))),
                flaw: Some(FlawPart::of((flaw, 0))),
            })
        })
        .collect()
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if let Some(v) = &self.volume {
            let _ = write!(
                out,
                "volume '{}' ({}), spares: {}, generation {}",
                v.name, v.uuid, v.spares, v.generation
            );
            if let Some(entries) = v.entries {
                let _ = write!(out, ", entries: {entries}");
            }
            out.push_str(if v.released { ", released\n" } else { "\n" });
        }
        let _ =
            writeln!(out, "{:<5} {:<6} {:>14} {:>12}  state", "copy", "spare", "start (byte)", "generation");
        for c in &self.copies {
            let generation = c.generation.map_or_else(|| "-".to_owned(), |g| g.to_string());
            let state = match &c.flaw {
                Some(flaw) => format!("{} (byte {})", flaw.what, flaw.offset),
                None if self.verdict == Verdict::Refused => "has a whole superblock".to_owned(),
                None => "in step".to_owned(),
            };
            let _ = writeln!(out, "{:<5} {:<6} {:>14} {:>12}  {state}", c.copy, c.spare, c.start, generation);
        }
        let verdict = match self.verdict {
            Verdict::Good => "all copies are good",
            Verdict::Repairable => "damaged, can be repaired in service",
            Verdict::Refused => "cannot be believed",
        };
        let _ = writeln!(out, "verdict: {verdict}");
        if let Some(reason) = &self.reason {
            let _ = writeln!(out, "why:     {reason}");
        }
        if let Some(repair) = &self.repair {
            let _ = writeln!(out, "repair:  would keep {}", format_count(repair.runs, "run"));
            for doubt in &repair.doubts {
                let _ = writeln!(out, "         not to be had: {doubt}");
            }
        }
        let _ = writeln!(out, "to do:   {}", self.advice);
        out
    }
}
