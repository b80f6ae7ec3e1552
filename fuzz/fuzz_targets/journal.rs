//! Journals: records appended to a small volume, each on each copy whole, missing, torn, rotten, unreadable or another one; replayed
//! by recovery, and by a plain second opinion, with the same outcome.

#![no_main]

use std::sync::LazyLock;

use bench::damage::Scene;
use bench::disks::Disks;
use bench::input::Input;
use bench::ledger::{Expected, Ledger, Planned, encoded, expect};
use bench::{judge, volumes};
use libfuzzer_sys::fuzz_target;
use remap_core::elect::ElectionError;
use remap_core::op::Fault;
use remap_core::recovery::{RecoveryError, shape_of};
use remap_format::{
    Cause, Entry, EntryFlags, EntryState, NO_BLOCK, NO_SLOT, Record, RecordHeader, TIME_EPOCH,
};

static SCENES: LazyLock<Vec<Scene>> = LazyLock::new(|| Scene::all(&volumes::all()));

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let scene = &SCENES[input.below(SCENES.len())];
    let before = scene.believed();
    let mut disks = scene.disks().clone();
    let journal = shape_of(&before.superblock).journal_pages;
    let mut position = before.journal_position;
    let mut generation = before.generation;
    let mut records = Vec::new();
    while !input.is_empty() && position < journal && records.len() < 16 {
        let edits = edits(&mut input, before.superblock.block_sectors());
        let pages = Record::pages_for(edits.len()) as u32;
        if position + pages > journal {
            break;
        }
        generation = generation.wrapping_add(1);
        let volume = before.superblock.volume_tag();
        let checkpoint = before.superblock.generation;
        let headers = (0..before.copies.len() as u8)
            .map(|copy| RecordHeader { volume, copy, position, checkpoint, generation })
            .collect();
        let record = Planned { edits, headers };
        lay_down(&mut input, scene, &record, &mut disks);
        records.push(record);
        position += pages;
    }
    judge(scene, &records, disks);
});

fn edits(input: &mut Input<'_>, block_sectors: u32) -> Vec<Entry> {
    let count = match input.u8() {
        n if n < 250 => usize::from(n % 5),
        n => usize::from(n - 249) * 85,
    };
    (0..count).map(|_| edit(input, block_sectors)).collect()
}

/// An edit that a decoder takes; whether it makes sense is another matter.
fn edit(input: &mut Input<'_>, block_sectors: u32) -> Entry {
    let (shape, block, slot) = (input.u8(), input.u8(), input.u8());
    let state = match shape & 3 {
        0 => EntryState::Remapped,
        1 => EntryState::Pending,
        2 => EntryState::Absent,
        _ => EntryState::Retired,
    };
    let count = 1 + u32::from(shape >> 2 & 3) * u32::from(shape >> 4 & 1);
    let full = Entry::full_mask(block_sectors);
    let lost = match (state, shape >> 5 & 1, count) {
        (EntryState::Pending, 0, 1) => 1,
        (EntryState::Pending, ..) | (EntryState::Remapped, 1, _) => full,
        _ => 0,
    };
    let named = u64::from(slot & 127) | u64::from(shape >> 6) << 56;
    Entry {
        block: if state == EntryState::Retired { NO_BLOCK } else { block.into() },
        count,
        slot: if matches!(state, EntryState::Pending | EntryState::Absent) { NO_SLOT } else { named },
        lost,
        state,
        cause: Cause::Manual,
        flags: EntryFlags(u16::from(slot >> 7)),
        errors: 0,
        time: TIME_EPOCH,
    }
}

/// Writes a record to the copies as the input says.
fn lay_down(input: &mut Input<'_>, scene: &Scene, record: &Planned, disks: &mut Disks) {
    let (mask, how, detail) = (input.u8() & 31, input.u8() % 8, input.u16());
    for (copy, header) in record.headers.iter().enumerate() {
        let mut bytes = encoded(header, &record.edits);
        let Some(to) = scene.journal(disks, copy, header.position) else { continue };
        if mask & (1 << copy) == 0 {
            to[..bytes.len()].copy_from_slice(&bytes);
            continue;
        }
        let keep = usize::from(detail) % bytes.len();
        match how {
            // Never written.
            0 => {}
            // Torn at the front, or at the end.
            1 => to[..keep / 512 * 512].copy_from_slice(&bytes[..keep / 512 * 512]),
            2 => to[keep / 512 * 512..bytes.len()].copy_from_slice(&bytes[keep / 512 * 512..]),
            // Rotten.
            3 => {
                to[..bytes.len()].copy_from_slice(&bytes);
                to[keep] ^= 1 << (detail >> 13);
            }
            4 => to[..bytes.len()].fill(0),
            // On a sector that fails.
            5 => {
                to[..bytes.len()].copy_from_slice(&bytes);
                scene.fail_journal(disks, copy, header.position, Fault::Medium);
            }
            // Of another generation, or saying something else.
            6 => {
                let other = RecordHeader {
                    generation: header.generation.wrapping_add(1 + u64::from(detail & 7)),
                    ..*header
                };
                bytes = encoded(&other, &record.edits);
                to[..bytes.len()].copy_from_slice(&bytes);
            }
            _ => {
                let mut edits = record.edits.clone();
                edits.iter_mut().for_each(|edit| edit.errors ^= detail);
                bytes = encoded(header, &edits);
                to[..bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
}

fn judge(scene: &Scene, records: &[Planned], mut disks: Disks) {
    let expected = {
        let read = |copy: usize, position: u32| scene.read_journal(&disks, copy, position);
        expect(scene.believed(), records, &read)
    };
    let outcome = judge::recovered(&mut disks, false);
    match (outcome, expected) {
        (Ok(recovered), Expected::Table(ledger, generation)) => {
            assert_eq!(recovered.generation, generation);
            assert_eq!(Ledger::of(&recovered), *ledger);
            judge::serve(recovered, &mut disks, generation % 2 == 0);
        }
        (Err(RecoveryError::Election(ElectionError::Contradiction { .. })), Expected::Contradiction)
        | (Err(RecoveryError::JournalHole { .. }), Expected::Hole)
        | (Err(RecoveryError::Inconsistent(_)), Expected::Impossible) => {}
        (outcome, expected) => {
            let outcome = outcome.map(|recovered| (recovered.generation, Ledger::of(&recovered)));
            panic!("recovery: {outcome:?}\nexpected: {expected:?}");
        }
    }
}
