//! Groups: measurements that belong together, each with a name that `--only` takes.
//!
//! Invariant: a group works in a folder of its own, which goes away with it; whoever is compared is measured in turns, in an order
//! that the next round rotates; what it cannot measure it names.

mod bare;
mod client;
mod commit;
mod filesystems;
mod lifecycle;
mod made;
mod metadata;
mod scale;
mod size;
mod stack;
mod storm;
mod volumes;

pub(crate) use volumes::host;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};

use crate::ground::Place;
use crate::micro;
use crate::record::{Figure, GroupResult};
use crate::stats::median;

/// Where a group can be measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Places {
    /// Without files.
    Memory,
    /// In files in memory: sparse ones larger than any disk, or nothing that a disk would change.
    Tmpfs,
    /// In files in memory, and on a disk where one was named.
    All,
}

/// A group.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    places: Places,
    run: fn(&Setting<'_>) -> anyhow::Result<Found>,
}

/// All groups, in the order in which they run.
pub(crate) const GROUPS: [Group; 9] = [
    Group {
        name: "commit",
        about: "one record to five copies and its flush, beside five bare writes and a flush",
        places: Places::All,
        run: commit::run,
    },
    Group {
        name: "metadata",
        about: "a checkpoint, the check, assembly, each with and without remaps",
        places: Places::All,
        run: metadata::run,
    },
    Group {
        name: "storm",
        about: "a thousand bad blocks fail under load: what healthy requests feel",
        places: Places::All,
        run: storm::run,
    },
    Group {
        name: "scale",
        about: "sparse main devices of 10 and 100 TB: assembly and memory",
        places: Places::Tmpfs,
        run: scale::run,
    },
    Group {
        name: "volumes",
        about: "eight volumes in one process, and volumes at rest",
        places: Places::Tmpfs,
        run: volumes::run,
    },
    Group {
        name: "lifecycle",
        about: "adopt, open, close, release, with and without remaps",
        places: Places::All,
        run: lifecycle::run,
    },
    Group {
        name: "size",
        about: "4 KiB random reads, 32 in flight, by the size of the table",
        places: Places::Tmpfs,
        run: size::run,
    },
    Group {
        name: "filesystems",
        about: "ext4, xfs, btrfs over a loop device: on the plain file, on dm-remap, on nbdkit",
        places: Places::All,
        run: filesystems::run,
    },
    Group {
        name: "parts",
        about: "parts of the product, each alone, in memory",
        places: Places::Memory,
        run: micro::run,
    },
];

/// What a group found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) figures: Vec<Figure>,
    /// What could not be measured, and what it would take.
    pub(crate) missing: Vec<String>,
}

/// How a group is to be measured.
pub(crate) struct Setting<'a> {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    /// Length of one run, in seconds.
    pub(crate) seconds: u32,
    pub(crate) place: Place,
    /// Where its files go.
    pub(crate) folder: &'a Path,
    pub(crate) product: &'a Path,
    pub(crate) stop: &'a AtomicBool,
}

impl Setting<'_> {
    /// One of two numbers.
    pub(crate) fn pick<T>(&self, quick: T, whole: T) -> T {
        if self.quick { quick } else { whole }
    }

    /// # Errors
    /// The run was interrupted.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Measures each of `count` contenders once a round; samples by contender.
    ///
    /// # Errors
    /// As `one`, or the run was interrupted.
    pub(crate) fn in_turns<T>(
        &self,
        count: usize,
        mut one: impl FnMut(usize) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<Vec<T>>> {
        let mut samples: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
        for round in 0..self.rounds as usize {
            for turn in 0..count {
                let who = (turn + round) % count;
                samples[who].push(one(who)?);
                self.go_on()?;
            }
        }
        Ok(samples)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Round by round, one in terms of the other.
fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// The median of each round.
fn medians(rounds: &[Vec<f64>]) -> Vec<f64> {
    rounds.iter().filter_map(|round| median(round)).collect()
}

/// What all groups of a run have in common.
pub(crate) struct Common<'a> {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// Where files in memory are, and files on a disk, if there are to be any.
    pub(crate) memory: &'a Path,
    pub(crate) disk: Option<&'a Path>,
    pub(crate) product: &'a Path,
    pub(crate) stop: &'a AtomicBool,
}

/// Measures a group in all of its places.
///
/// # Errors
/// Files, servers, clients; or the run was interrupted.
pub(crate) fn measure(group: &Group, common: &Common<'_>) -> anyhow::Result<Vec<GroupResult>> {
    let disk = common.disk.filter(|_| group.places == Places::All).map(|folder| (Place::Disk, folder));
    let mut results = Vec::new();
    for (place, parent) in [(Place::Tmpfs, common.memory)].into_iter().chain(disk) {
        let place_name = if group.places == Places::Memory { "memory" } else { place.name() };
        eprintln!("{place_name}: {}: {}", group.name, group.about);
        let folder = tempfile::Builder::new().prefix("dm-remap-bench-").tempdir_in(parent);
        let folder = folder.with_context(|| format!("a folder in {}", parent.display()))?;
        let Common { quick, rounds, seconds, product, stop, .. } = *common;
        let setting = Setting { quick, rounds, seconds, place, folder: folder.path(), product, stop };
        let found = (group.run)(&setting).with_context(|| format!("{} on {place_name}", group.name))?;
        results.push(GroupResult {
            name: group.name.to_owned(),
            place: place_name.to_owned(),
            figures: found.figures,
            missing: found.missing,
        });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_take_turns_in_rotated_order() {
        let stop = AtomicBool::new(false);
        let nowhere = Path::new("/nonexistent");
        let setting = Setting {
            quick: true,
            rounds: 3,
            seconds: 1,
            place: Place::Tmpfs,
            folder: nowhere,
            product: nowhere,
            stop: &stop,
        };
        let mut order = Vec::new();
        let samples = setting.in_turns(2, |who| {
            order.push(who);
            Ok(order.len())
        });
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        assert_eq!(samples.expect("three rounds"), [vec![1, 4, 5], vec![2, 3, 6]]);
        stop.store(true, Ordering::Relaxed);
        assert!(setting.in_turns(1, |_| Ok(())).is_err());
    }
}
