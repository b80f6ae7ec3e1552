//! The scripts. A new one is a function that gives its steps, and a line in [`all`].
//!
//! Invariant: every script ends by itself with a good disk under it; what it spoils is within the budget of `docs/faults.md`.

use remap_core::engine::Command;
use remap_core::op::{Fault, RequestKind};
use remap_format::{Cause, Policy};

use super::{Act, Script, Shape, extent};
use crate::disk::Bad;
use crate::scenario::Scenario;

/// Sectors of a block in all scripts but one.
const B: u64 = 8;
const READ: RequestKind = RequestKind::Read;
const WRITE: RequestKind = RequestKind::Write { fua: false };
const DURABLE: RequestKind = RequestKind::Write { fua: true };
const ZEROES: RequestKind = RequestKind::WriteZeroes { fua: false, may_unmap: true };
const UNTIL_WRITTEN: Bad = Bad::UntilWritten(Fault::Medium);
const FOR_EVER: Bad = Bad::ForEver(Fault::Medium);

const PLAIN: Shape = Shape {
    policy: Policy::RewriteThenRemap,
    blocks: 10,
    block_shift: 12,
    spares: 1,
    slots: 12,
    wraps: false,
};
const REMAP_ONLY: Shape = Shape { policy: Policy::RemapOnly, ..PLAIN };

type Steps = Vec<Vec<Act>>;

/// All scripts.
#[must_use]
pub fn all() -> Vec<Script> {
    let spares = |spares| Shape { spares, ..PLAIN };
    let script = |name, shape: Shape, steps| Script { name, scenario: shape.scenario(), steps };
    vec![
        script("adopt", PLAIN, adopt()),
        script("adopt-2-spares", spares(2), adopt()),
        script("adopt-3-spares", spares(3), adopt()),
        script("adopt-6-spares", spares(6), adopt()),
        script("write-on-bad", PLAIN, write_on_bad()),
        script("write-on-bad-remap-only", REMAP_ONLY, write_on_bad()),
        script("write-on-bad-3-spares", spares(3), write_on_bad()),
        script("write-on-bad-6-spares", spares(6), write_on_bad()),
        script("partial-write", PLAIN, partial_write()),
        script("partial-write-remap-only", REMAP_ONLY, partial_write()),
        script("heal", PLAIN, heal()),
        script("remap-and-clear", PLAIN, remap_and_clear()),
        script("remap-and-clear-2-spares", spares(2), remap_and_clear()),
        script("save", PLAIN, save()),
        script("verify", PLAIN, verify()),
        script("journal-wrap", PLAIN, journal_wrap()),
        script("journal-wrap-2-spares", spares(2), journal_wrap()),
        script("generation-wrap", Shape { wraps: true, ..PLAIN }, journal_wrap()),
        script("slot-fails", PLAIN, slot_fails()),
        script("slot-fails-3-spares", spares(3), slot_fails()),
        script("spare-full", Shape { slots: 1, ..PLAIN }, spare_full()),
        script("copy-fails", PLAIN, copy_fails()),
        script("copies-fail-at-the-checkpoint", PLAIN, copies_fail_at_the_checkpoint()),
        script("journals-fail", PLAIN, journals_fail()),
        script("import", PLAIN, import()),
        script("release", PLAIN, release()),
        script("release-2-spares", spares(2), release()),
        script("together", PLAIN, together()),
        script("together-remap-only", REMAP_ONLY, together()),
        script("power-cuts", PLAIN, power_cuts()),
        script("churn", Shape { slots: 2, ..PLAIN }, churn()),
        script("spare-joins", PLAIN, spare_joins(1)),
        script("larger-spare-joins", PLAIN, spare_joins(3)),
        script("spare-leaves", spares(2), spare_leaves()),
        script("spare-takes-anothers-place", PLAIN, spare_takes_anothers_place()),
        script("spare-without-journals", PLAIN, spare_without_journals()),
        script("table-full", Shape { block_shift: 9, blocks: 240, slots: 160, ..PLAIN }, table_full()),
        script("large-table", Shape { block_shift: 9, blocks: 120, slots: 80, ..PLAIN }, large_table()),
    ]
}

/// A small volume on so many spares, for sweeps of its metadata.
#[must_use]
pub fn volume_on(spares: usize) -> Scenario {
    Shape { spares, ..PLAIN }.scenario()
}

fn request(kind: RequestKind, start: u64, sectors: u64) -> Vec<Act> {
    vec![Act::Request(kind, start, sectors)]
}

fn flush() -> Vec<Act> {
    request(RequestKind::Flush, 0, 1)
}

fn command(command: Command) -> Vec<Act> {
    vec![Act::Command(command)]
}

fn adopt() -> Steps {
    vec![request(WRITE, 0, B), request(READ, 0, B), flush(), request(DURABLE, B + 1, 2)]
}

fn write_on_bad() -> Steps {
    vec![
        request(WRITE, 0, 3 * B),
        flush(),
        vec![Act::Spoil(B + 2, 1, FOR_EVER)],
        request(WRITE, B, B),
        request(READ, B, B),
        request(DURABLE, B + 3, 2),
        flush(),
        vec![Act::Spoil(2 * B, 2, UNTIL_WRITTEN)],
        request(WRITE, B + 4, 2 * B),
        flush(),
    ]
}

fn partial_write() -> Steps {
    vec![
        vec![Act::Spoil(B, 4, FOR_EVER), Act::Spoil(3 * B, B, UNTIL_WRITTEN)],
        request(READ, B, B),
        request(WRITE, B + 1, 1),
        request(READ, B, B),
        request(WRITE, B + 6, 2),
        request(WRITE, B, B),
        request(READ, 3 * B, B),
        request(DURABLE, 3 * B + 2, 3),
        request(READ, 3 * B, B),
    ]
}

fn heal() -> Steps {
    vec![
        vec![Act::Spoil(B + 3, 2, UNTIL_WRITTEN)],
        request(READ, 0, 3 * B),
        request(DURABLE, B + 3, 1),
        request(READ, B, B),
        request(ZEROES, B, B),
        request(READ, B, B),
        flush(),
    ]
}

fn remap_and_clear() -> Steps {
    vec![
        request(DURABLE, 0, 2 * B),
        command(Command::Remap(extent(0, 2 * B), Cause::Manual)),
        request(WRITE, B, B),
        flush(),
        command(Command::Remap(extent(4 * B, B), Cause::Predicted)),
        command(Command::Clear(extent(0, 2 * B))),
        request(WRITE, B, 2),
        flush(),
        // The slots that came free are taken again.
        command(Command::Remap(extent(2 * B, 2 * B), Cause::Manual)),
        command(Command::Clear(extent(0, 10 * B))),
    ]
}

fn save() -> Steps {
    vec![
        command(Command::Save),
        command(Command::Remap(extent(B, B), Cause::Manual)),
        command(Command::Save),
        command(Command::Save),
    ]
}

fn verify() -> Steps {
    let all = Command::Verify { extent: extent(0, 10 * B), all: true };
    let known = Command::Verify { extent: extent(0, 10 * B), all: false };
    vec![
        command(Command::Remap(extent(6 * B, B), Cause::Manual)),
        vec![Act::Spoil(B, 2, UNTIL_WRITTEN), Act::Spoil(3 * B + 7, 1, FOR_EVER)],
        command(all),
        request(DURABLE, B, 2),
        vec![Act::SpoilSlot(6, 3, 1, FOR_EVER)],
        command(known),
        request(READ, 0, 10 * B),
    ]
}

/// The journal has eight pages: it fills twice.
fn journal_wrap() -> Steps {
    let mut steps = Vec::new();
    for n in 0..9 {
        let block = extent(n * B, B);
        steps.push(command(Command::Remap(block, Cause::Manual)));
        if n % 3 == 1 {
            steps.push(request(DURABLE, n * B + 1, 2));
        }
        if n % 2 == 1 {
            steps.push(command(Command::Clear(block)));
        }
    }
    steps.push(command(Command::Clear(extent(0, 10 * B))));
    for n in 0..6 {
        steps.push(command(Command::Remap(extent(n * B, B), Cause::Manual)));
    }
    steps
}

fn slot_fails() -> Steps {
    vec![
        command(Command::Remap(extent(0, 3 * B), Cause::Manual)),
        request(DURABLE, 0, 3 * B),
        vec![Act::SpoilSlot(0, 2, 1, FOR_EVER)],
        request(WRITE, 0, B),
        flush(),
        vec![Act::SpoilSlot(1, 5, 2, UNTIL_WRITTEN)],
        request(READ, B, B),
        request(WRITE, B + 5, 1),
        flush(),
        vec![Act::SpoilSlot(1, 0, 8, FOR_EVER)],
        request(READ, B, 2 * B),
        command(Command::Clear(extent(0, 3 * B))),
    ]
}

fn spare_full() -> Steps {
    vec![
        command(Command::Remap(extent(0, B), Cause::Manual)),
        command(Command::Remap(extent(0, 10 * B), Cause::Manual)),
        request(WRITE, 0, B),
        flush(),
        vec![Act::Spoil(8 * B, B, FOR_EVER), Act::SpoilSlot(0, 1, 2, FOR_EVER)],
        request(READ, 0, B),
        request(WRITE, 8 * B, B),
        request(READ, 8 * B, B),
        command(Command::Clear(extent(B, 2 * B))),
        request(WRITE, 8 * B, B),
        request(WRITE, 0, 4),
        flush(),
    ]
}

/// Copy 1 cannot take a record, copy 3 no superblock: they are fenced; later they catch up.
fn copy_fails() -> Steps {
    let journal = 8 * 4;
    vec![
        command(Command::Remap(extent(0, B), Cause::Manual)),
        vec![Act::SpoilCopy(1, journal + 8, 8, FOR_EVER)],
        command(Command::Remap(extent(B, B), Cause::Manual)),
        request(DURABLE, B, 2),
        vec![Act::MendCopy(1)],
        vec![Act::Wait(11)],
        command(Command::Remap(extent(2 * B, B), Cause::Manual)),
        vec![Act::SpoilCopy(3, 0, 1, FOR_EVER)],
        command(Command::Save),
        command(Command::Save),
        command(Command::Clear(extent(0, B))),
        vec![Act::Wait(21)],
        request(READ, 0, 3 * B),
    ]
}

/// The second page of four journals cannot be written: a checkpoint has to take the place of the record.
fn journals_fail() -> Steps {
    let second = 8 * 5;
    vec![
        (0..4).map(|copy| Act::SpoilCopy(copy, second, 8, FOR_EVER)).collect(),
        command(Command::Remap(extent(0, B), Cause::Manual)),
        command(Command::Remap(extent(B, B), Cause::Manual)),
        vec![Act::Wait(1)],
        vec![Act::Wait(1)],
        vec![Act::Wait(1)],
        vec![Act::Wait(1)],
        command(Command::Remap(extent(2 * B, B), Cause::Manual)),
        request(DURABLE, 2 * B, B),
    ]
}

fn copies_fail_at_the_checkpoint() -> Steps {
    vec![
        command(Command::Remap(extent(0, 2 * B), Cause::Manual)),
        vec![
            Act::SpoilCopy(0, 16, 32, FOR_EVER),
            Act::SpoilCopy(2, 0, 16, FOR_EVER),
            Act::SpoilCopy(4, 32, 8, UNTIL_WRITTEN),
        ],
        command(Command::Save),
        command(Command::Remap(extent(3 * B, B), Cause::Manual)),
        vec![Act::MendCopy(0)],
        vec![Act::Wait(11)],
        vec![Act::MendCopy(2)],
        vec![Act::Wait(41)],
        request(READ, 0, 4 * B),
    ]
}

fn import() -> Steps {
    vec![
        command(Command::Remap(extent(0, B), Cause::Manual)),
        vec![Act::Import(3, 2)],
        request(READ, 3 * B, 2 * B),
        request(DURABLE, 3 * B, 3),
        vec![Act::Import(7, 1)],
        request(DURABLE, 7 * B, B),
    ]
}

/// What moved goes home, what is lost stays so; taken back, the volume goes on.
fn release() -> Steps {
    vec![
        vec![Act::Spoil(5 * B + 1, 2, UNTIL_WRITTEN)],
        command(Command::Remap(extent(0, 3 * B), Cause::Manual)),
        request(DURABLE, 0, 3 * B),
        request(READ, 5 * B, B),
        vec![Act::Release],
        vec![Act::PowerCut],
        request(DURABLE, 5 * B, 2),
        command(Command::Remap(extent(B, B), Cause::Manual)),
        request(DURABLE, B, 3),
    ]
}

/// Requests and commands that meet each other.
fn together() -> Steps {
    vec![
        vec![Act::Spoil(B + 2, 1, FOR_EVER), Act::Spoil(2 * B, 2, UNTIL_WRITTEN)],
        vec![
            Act::Request(WRITE, 0, 2 * B),
            Act::Request(WRITE, B + 4, B),
            Act::Request(READ, 0, 3 * B),
            Act::Command(Command::Remap(extent(3 * B, B), Cause::Manual)),
        ],
        flush(),
        vec![
            Act::Request(DURABLE, 3 * B, B),
            Act::Command(Command::Clear(extent(3 * B, B))),
            Act::Request(READ, B, 2 * B),
        ],
        vec![Act::Command(Command::Save), Act::Request(DURABLE, 2 * B, B), Act::Request(DURABLE, B, 4)],
    ]
}

fn power_cuts() -> Steps {
    vec![
        vec![Act::Spoil(B, 2, FOR_EVER)],
        request(WRITE, B, B),
        vec![Act::PowerCut],
        request(WRITE, 2 * B, B),
        command(Command::Remap(extent(2 * B, B), Cause::Manual)),
        vec![Act::PowerCut],
        command(Command::Remap(extent(4 * B, B), Cause::Manual)),
        vec![Act::Request(WRITE, 4 * B, 2), Act::Command(Command::Clear(extent(2 * B, B)))],
        vec![Act::PowerCut],
        request(READ, 0, 5 * B),
    ]
}

/// First one without copies, then one that takes some over.
fn spare_joins(size: u64) -> Steps {
    vec![
        command(Command::Remap(extent(0, 2 * B), Cause::Manual)),
        vec![Act::Join(1, false), Act::Request(DURABLE, 0, 3)],
        vec![Act::Join(size, true)],
        command(Command::Remap(extent(2 * B, B), Cause::Manual)),
        request(DURABLE, 2 * B, B),
    ]
}

/// Its blocks and its copies move, those to a spare that had none; after a restart another one gets its number.
fn spare_leaves() -> Steps {
    vec![
        command(Command::Remap(extent(0, 3 * B), Cause::Manual)),
        request(DURABLE, 0, 3 * B),
        vec![Act::SpoilSlot(1, 3, 2, FOR_EVER)],
        vec![Act::Join(1, false)],
        vec![Act::Leave(0), Act::Request(WRITE, 0, 4)],
        flush(),
        vec![Act::PowerCut],
        vec![Act::Join(1, true)],
        request(DURABLE, B, 2),
    ]
}

/// Some copies can move to such a spare, all of them cannot: the other spare stays.
fn spare_without_journals() -> Steps {
    vec![
        command(Command::Remap(extent(0, 2 * B), Cause::Manual)),
        vec![Act::JoinBad(1)],
        vec![Act::Leave(0)],
        command(Command::Remap(extent(2 * B, B), Cause::Manual)),
        request(DURABLE, B, B),
    ]
}

/// What `migrate` does.
fn spare_takes_anothers_place() -> Steps {
    vec![
        command(Command::Remap(extent(0, 2 * B), Cause::Manual)),
        request(DURABLE, 0, 2 * B),
        vec![Act::Join(1, true)],
        vec![Act::Leave(0)],
        request(DURABLE, B, 2),
        command(Command::Save),
    ]
}

/// Blocks of one sector, every second one moved: a checkpoint of more than one sector, and records of several edits.
fn large_table() -> Steps {
    let mut steps: Steps = (0..3)
        .map(|part| {
            let every_second = (0..20).map(|n| 40 * part + 2 * n);
            every_second.map(|n| Act::Command(Command::Remap(extent(n, 1), Cause::Manual))).collect()
        })
        .collect();
    steps.push(request(DURABLE, 0, 4));
    steps.push(command(Command::Save));
    steps.push(command(Command::Clear(extent(10, 30))));
    steps.push(command(Command::Save));
    steps
}

/// The same few slots over and over: remapped, written, given back.
fn churn() -> Steps {
    let mut steps = Vec::new();
    for n in 0..12 {
        let block = extent(n % 3 * B, B);
        steps.push(vec![
            Act::Command(Command::Remap(block, Cause::Manual)),
            Act::Request(WRITE, n % 3 * B + 1, 2),
        ]);
        steps.push(command(Command::Clear(block)));
        if n % 4 == 3 {
            steps.push(flush());
        }
    }
    steps
}

/// Every second block of one sector moves until the checkpoint has no room for another entry; then some go home.
fn table_full() -> Steps {
    let every_second = |from: u64| {
        (0..40).map(move |n| Act::Command(Command::Remap(extent(from + 2 * n, 1), Cause::Manual)))
    };
    vec![
        every_second(0).collect(),
        every_second(80).collect(),
        every_second(160).collect(),
        vec![Act::Spoil(231, 1, FOR_EVER)],
        request(DURABLE, 231, 1),
        command(Command::Clear(extent(0, 20))),
        request(DURABLE, 231, 1),
        command(Command::Save),
    ]
}
