//! The rules of recovery, written down a second time as sets of what is whole where, without a byte.
//!
//! Invariant: this shares nothing with the code that it judges but the words of `docs/format.md`.

use std::collections::BTreeSet;

use super::image::Change;

/// What is whole in one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Generations that its superblock pages name, the newer one first.
    pub superblocks: Vec<u64>,
    /// Generations whose checkpoint it holds.
    pub checkpoints: BTreeSet<u64>,
    /// For each page of the journal: the checkpoint that its record extends, and the record's generation.
    pub journal: Vec<Option<(u64, u64)>>,
}

impl Whole {
    /// A volume just adopted.
    #[must_use]
    pub fn adopted(generation: u64) -> Self {
        Self { superblocks: vec![generation], checkpoints: [generation].into(), journal: Vec::new() }
    }

    /// The generation that it ends at when nothing is damaged.
    #[must_use]
    pub fn end(&self) -> u64 {
        let newest = self.superblocks.first().copied().unwrap_or_default();
        newest + self.records_of(newest) as u64
    }

    fn records_of(&self, checkpoint: u64) -> usize {
        let extends =
            |record: &&Option<(u64, u64)>| record.is_some_and(|(extended, _)| extended == checkpoint);
        self.journal.iter().take_while(extends).count()
    }

    /// One more record, or a checkpoint.
    pub fn change(&mut self, change: Change) {
        let newest = self.superblocks.first().copied().unwrap_or_default();
        let next = self.end() + 1;
        match change {
            Change::Remap(_) => {
                let position = self.records_of(newest);
                self.journal.resize(self.journal.len().max(position + 1), None);
                self.journal[position] = Some((newest, next));
            }
            Change::Save => {
                self.superblocks = vec![next, newest];
                self.checkpoints = [next, newest].into();
            }
        }
    }

    /// Removes the record that ends the journal.
    pub fn lose_last_record(&mut self) {
        let newest = self.superblocks.first().copied().unwrap_or_default();
        if let Some(last) = self.records_of(newest).checked_sub(1) {
            self.journal[last] = None;
        }
    }
}

/// What recovery must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The table of this generation.
    Table(u64),
    /// Nothing.
    Refused,
}

/// What recovery must make of five copies, of which `spare_of` says where they lie.
#[must_use]
pub fn outcome(copies: &[Whole], spare_of: &[u8]) -> Outcome {
    // A spare without a whole superblock cannot be told from a stranger.
    let known =
        |spare: u8| copies.iter().zip(spare_of).any(|(c, &s)| s == spare && !c.superblocks.is_empty());
    if !spare_of.iter().all(|&spare| known(spare)) {
        return Outcome::Refused;
    }
    let newest = |c: &Whole| c.superblocks.first().copied();
    let Some(elected) = copies.iter().filter_map(newest).max() else { return Outcome::Refused };
    // Somebody wrote records behind a checkpoint that nobody can prove any more.
    let newer = |r: &(u64, u64)| r.0 > elected;
    if copies.iter().flat_map(|c| c.journal.iter().flatten()).any(newer) {
        return Outcome::Refused;
    }
    match table_from(copies, elected) {
        Ok(end) => Outcome::Table(end),
        Err(Missing::Checkpoint) => before(copies, elected),
        Err(Missing::Record) => Outcome::Refused,
    }
}

enum Missing {
    /// The checkpoint is whole in no copy, and no record extends it.
    Checkpoint,
    /// What is missing cannot be done without.
    Record,
}

/// The generation at which a table that starts from this checkpoint ends.
fn table_from(copies: &[Whole], elected: u64) -> Result<u64, Missing> {
    let members: Vec<&Whole> = copies.iter().filter(|c| c.superblocks.first() == Some(&elected)).collect();
    let records: BTreeSet<u64> = members
        .iter()
        .flat_map(|c| c.journal.iter().flatten())
        .filter(|(extended, _)| *extended == elected)
        .map(|&(_, generation)| generation)
        .collect();
    if !members.iter().any(|c| c.checkpoints.contains(&elected)) {
        return Err(if records.is_empty() { Missing::Checkpoint } else { Missing::Record });
    }
    let end = (elected..).take_while(|&g| g == elected || records.contains(&g)).last().unwrap_or(elected);
    if records.iter().any(|&generation| generation > end) {
        return Err(Missing::Record);
    }
    Ok(end)
}

/// What the unreadable checkpoint was made of, if that lies there still and ends right before it.
fn before(copies: &[Whole], lost: u64) -> Outcome {
    let older: Vec<Whole> = copies
        .iter()
        .map(|c| Whole {
            superblocks: c.superblocks.iter().copied().filter(|&g| g < lost).collect(),
            ..c.clone()
        })
        .collect();
    let Some(elected) = older.iter().filter_map(|c| c.superblocks.first().copied()).max() else {
        return Outcome::Refused;
    };
    let end = match table_from(&older, elected) {
        Ok(end) => Outcome::Table(end),
        Err(Missing::Checkpoint) => before(&older, elected),
        Err(Missing::Record) => Outcome::Refused,
    };
    if end == Outcome::Table(lost - 1) { Outcome::Table(lost) } else { Outcome::Refused }
}
