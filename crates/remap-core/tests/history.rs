//! Generations of the past: whatever is listed has the table that the engine had then, and what can be listed is.

use std::collections::BTreeMap;

use remap_core::engine::{Command, CommandId, Engine, EngineConfig};
use remap_core::op::{Buffer, DeviceId, Fault, OpKind};
use remap_core::recovery::history::{Generation, generations, recover_at};
use remap_core::recovery::{Recovered, SpareReader, recover, shape_of};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{copy_places, first_homes, plan};
use remap_format::{Cause, Entry, MainIdentity, PAGE_SIZE, Policy, Record, Superblock};

const SPARE: u64 = 1 << 20;
const BLOCKS: u64 = 64;

/// A spare in memory, with every table that the engine had on it.
struct Life {
    engine: Engine,
    bytes: Vec<u8>,
    now: Now,
    commands: u64,
    /// Tables by generation.
    tables: BTreeMap<u64, Vec<Entry>>,
    /// Which copies store a record, and which of them say so.
    stored: [bool; 5],
    told: [bool; 5],
    /// Writes to slots that are still to fail.
    bad_slots: u32,
}

struct Memory<'a>(&'a [u8]);

impl SpareReader for Memory<'_> {
    fn read(&mut self, _: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let at = usize::try_from(offset).expect("small");
        into.copy_from_slice(&self.0[at..at + into.len()]);
        Ok(())
    }
}

fn superblock(generation: u64) -> Superblock {
    let shape = plan(&[SPARE], 4096).expect("1 MiB is enough");
    let main = MainIdentity { size: BLOCKS * 4096, logical_block: 512, ..Default::default() };
    Superblock {
        policy: Policy::RemapOnly,
        generation,
        ..Superblock::new([1; 16], "past", 4096, &shape, &[([2; 16], SPARE)], main)
    }
}

impl Life {
    fn begin(generation: u64) -> Self {
        let recovered = Recovered::fresh(superblock(generation), &[]).expect("fresh");
        let now = Now { mono_ns: 0, unix_s: 1_700_000_000 };
        let mut life = Self {
            engine: Engine::start(recovered, EngineConfig::default(), now).expect("memory"),
            bytes: vec![0; SPARE as usize],
            now,
            commands: 0,
            tables: BTreeMap::new(),
            stored: [true; 5],
            told: [true; 5],
            bad_slots: 0,
        };
        life.settle();
        life
    }

    fn note(&mut self) {
        let table = self.engine.table().iter().collect();
        let known = self.tables.insert(self.engine.generation(), table);
        let same = known.is_none_or(|k| self.tables.get(&self.engine.generation()) == Some(&k));
        assert!(same, "a generation never stands for two tables");
    }

    fn settle(&mut self) {
        while let Some(op) = self.engine.poll_op() {
            let outcome = self.perform(op.device, op.extent, &op.kind);
            self.engine.handle_completion(self.now, op.id, outcome);
            while self.engine.poll_event().is_some() {}
            self.note();
        }
    }

    fn perform(&mut self, device: DeviceId, extent: Extent, kind: &OpKind) -> Result<(), Fault> {
        let (DeviceId::Spare(0), OpKind::Write { from, .. }) = (device, kind) else { return Ok(()) };
        let Buffer::Owned(bytes) = from else {
            let fails = self.bad_slots > 0;
            self.bad_slots -= u32::from(fails);
            return if fails { Err(Fault::Medium) } else { Ok(()) };
        };
        let at = extent.start().0 * 512;
        let volume = superblock(0);
        let places = copy_places(&volume.spares, &volume.homes);
        let copy = places.iter().rposition(|place| place.start <= at).expect("within a copy");
        // One without edits only begins a journal.
        let record = Record::claimed(bytes).is_some_and(|header| header.generation != header.checkpoint);
        if !record || self.stored[copy] {
            self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        if !record || self.told[copy] { Ok(()) } else { Err(Fault::Unknown) }
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        self.now.unix_s += 10;
        self.engine.command(self.now, CommandId(self.commands), command).expect("taken");
        self.settle();
    }

    fn remap(&mut self, block: u64) {
        let extent = Extent::new(Sector(block * 8), 8).expect("a block");
        self.command(Command::Remap(extent, Cause::Manual));
    }

    fn clear(&mut self, block: u64) {
        self.command(Command::Clear(Extent::new(Sector(block * 8), 8).expect("a block")));
    }

    fn list(&self) -> Vec<Generation> {
        generations(&mut Memory(&self.bytes), &[SPARE]).expect("believed")
    }

    fn at(&self, generation: u64) -> Option<Recovered> {
        recover_at(&mut Memory(&self.bytes), &[SPARE], generation).expect("believed")
    }

    /// All that is listed is as it was; returns the numbers, newest first.
    fn check(&self) -> Vec<u64> {
        let listed = self.list();
        assert!(listed.first().is_some_and(|g| g.current && g.generation == self.engine.generation()));
        assert_eq!(listed.iter().filter(|g| g.current).count(), 1);
        for g in &listed {
            let then = self.tables.get(&g.generation).expect("a generation that never was");
            let found = self.at(g.generation).expect("what is listed can be had");
            assert!(found.table.iter().eq(then.iter().copied()), "{g:?}");
            assert_eq!(found.table.counts(), g.counts, "{g:?}");
            assert_eq!(found.generation, g.generation);
            assert_eq!(found.pool.counts(None).retired, g.retired_slots);
            assert_eq!(g.edits.is_none(), g.generation == g.checkpoint, "{g:?}");
        }
        listed.iter().map(|g| g.generation).collect()
    }
}

#[test]
fn every_generation_since_the_checkpoint_and_the_one_before_it() {
    for start in [0, u64::MAX - 20] {
        let mut life = Life::begin(start);
        let (mut random, mut checkpoints) = (7_u64, 0);
        let mut chain_before: Vec<u64> = Vec::new();
        let mut chain = vec![life.engine.generation()];
        for _ in 0..120 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (random >> 33) % BLOCKS;
            match (random >> 20) % 9 {
                0 => life.command(Command::Save),
                1..=3 => life.clear(block),
                _ => life.remap(block),
            }
            let listed = life.check();
            let now = life.engine.generation();
            let checkpoint = life.list()[0].checkpoint;
            if !chain.contains(&checkpoint) {
                checkpoints += 1;
                chain_before = std::mem::take(&mut chain);
            }
            chain.extend((0..).map(|n| checkpoint.wrapping_add(n)).take_while(|g| *g != now.wrapping_add(1)));
            chain.dedup();
            chain.retain(|g| now.wrapping_sub(*g) < 1000);
            chain.sort_by_key(|g| g.wrapping_sub(checkpoint));
            chain.dedup();
            let mut expected: Vec<u64> = chain.iter().rev().copied().collect();
            if now == checkpoint {
                expected.extend(chain_before.iter().rev());
            } else {
                expected.extend(chain_before.first());
            }
            assert_eq!(listed, expected);
        }
        assert!(checkpoints > 5, "the journal wrapped: {checkpoints}");
    }
}

#[test]
fn slots_that_went_bad_are_told_of_each_generation_since() {
    let mut life = Life::begin(0);
    life.remap(1);
    life.bad_slots = 2;
    life.remap(2);
    life.command(Command::Save);
    life.bad_slots = 1;
    life.remap(3);
    life.check();
    let retired: Vec<u64> = life.list().iter().map(|g| g.retired_slots).collect();
    assert_eq!(retired, [3, 2, 0]);
}

#[test]
fn a_record_that_was_given_up_is_no_generation() {
    let mut life = Life::begin(0);
    life.remap(1);
    let two = [true, true, false, false, false];
    (life.stored, life.told) = (two, two);
    life.remap(2);
    let good = life.engine.generation();
    (life.stored, life.told) = ([true, false, false, false, false], [false; 5]);
    life.remap(3);
    for _ in 0..10 {
        life.now.mono_ns += 60_000_000_000;
        life.engine.handle_timeout(life.now);
        life.settle();
    }
    let now = life.engine.generation();
    assert_eq!(now, good + 2, "a checkpoint took the record's place");
    let raw = recover(&mut Memory(&life.bytes), &[SPARE], false).expect("believed");
    assert_eq!(raw.generation, now);
    assert_eq!(life.check(), [now, good, good - 1, good - 2]);
    assert!(life.at(good + 1).is_none(), "it is whole in one copy, but nobody was ever told of it");
}

#[test]
fn damage_ends_what_can_be_proven_and_nothing_else() {
    let mut life = Life::begin(0);
    for block in 0..3 {
        life.remap(block);
    }
    life.command(Command::Save);
    let now = life.engine.generation();
    assert_eq!(life.check(), [now, now - 1, now - 2, now - 3, now - 4]);
    let shape = shape_of(&superblock(0));
    let places = copy_places(&superblock(0).spares, &first_homes(1));
    let whole = life.bytes.clone();
    let smash = |life: &mut Life, copies: usize, offset: u64| {
        for place in places.iter().take(copies) {
            let at = (place.start + offset) as usize;
            life.bytes[at..at + PAGE_SIZE].fill(0x5a);
        }
    };
    // The second record of the old journal: in four copies, then in five.
    smash(&mut life, 4, shape.journal_at(1));
    assert_eq!(life.check().len(), 5);
    smash(&mut life, 5, shape.journal_at(1));
    assert_eq!(life.check(), [now, now - 3, now - 4]);
    // Its checkpoint has no page (it was empty): its superblocks.
    for page in 0..2 {
        life.bytes.clone_from(&whole);
        smash(&mut life, 5, shape.superblock_at(page));
        if let Ok(listed) = generations(&mut Memory(&life.bytes), &[SPARE]) {
            let newest = listed[0].generation;
            assert!(newest == now || newest == now - 1, "either page names one of the two");
        }
    }
}
