//! The volume under a run: one that was given, or one that the run makes for itself.
//!
//! Invariant: a volume that may hold somebody's data is not written to unless that was said.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use remap_core::engine::EngineConfig;
use remap_io::Device;
use remap_runtime::front::Export as _;
use remap_runtime::{AdoptOptions, OpenError, OpenOptions, Volume, adopt};
use rustix::fs::{SeekFrom, seek};

use super::faults::Faults;
use super::folder::Folder;
use super::model::UNIT;
use super::plan::Plan;
use crate::cli::{DrillArg, DrillTarget, StressArgs};
use crate::demo::Random;
use crate::exit::{Exit, refusal};
use crate::files::Made;
use crate::metadata::{Verdict, check};
use crate::open::{Access, Opener, SpareArg, adopt_refusal, examine, recovery_refusal};
use crate::serve::{RunningDrill, drills_of};
use crate::units::format_size;

/// Smallest part of a volume that a run can use.
const AREA_MIN: u64 = 1 << 20;
/// A spare that is made has this much, and twice what the bad sectors take.
const SPARE_BASE: u64 = 256 << 20;
/// Most of the free space that a run takes for a volume that it makes, unless it is told otherwise: this share, and so many bytes.
const ROOM_SHARE: u64 = 2;
const ROOM_MAX: u64 = 8 << 30;
/// Sectors of a bad run that `--bad` makes, at most, and of the stretch that it has for itself.
const BAD_LEN_MAX: u64 = 16;
const BAD_STRETCH_MIN: u64 = 128;

/// See the module.
pub(crate) struct Ground {
    folder: Option<Folder>,
    pub main: PathBuf,
    pub spares: Vec<SpareArg>,
    pub drills: Vec<RunningDrill>,
    pub faults: Faults,
    /// It reads as zeroes.
    pub blank: bool,
    /// Bytes from its start that the run uses.
    pub area: u64,
    /// Bytes that the run may write to different places.
    pub room: u64,
    /// Discards leave zeroes, or what there was.
    pub can_discard: bool,
    io: remap_io::IoBackend,
    policy: Option<remap_format::Policy>,
}

impl Ground {
    /// The volume that the arguments name, or a sparse one.
    ///
    /// # Errors
    /// The volume cannot be opened or made, or holds data.
    pub(crate) fn prepare(args: &StressArgs, plan: &Plan, seed: u64) -> anyhow::Result<Self> {
        match &args.main {
            Some(main) => Self::given(args, main, plan.wanted, seed),
            None => Self::made(args, plan.size, seed),
        }
    }

    fn bare(args: &StressArgs, main: PathBuf, spares: Vec<SpareArg>) -> Self {
        Self {
            folder: None,
            main,
            spares,
            drills: Vec::new(),
            faults: Faults::default(),
            blank: true,
            area: 0,
            room: args.room.unwrap_or(u64::MAX),
            can_discard: false,
            io: args.io.into(),
            policy: args.policy.map(Into::into),
        }
    }

    fn made(args: &StressArgs, size: u64, seed: u64) -> anyhow::Result<Self> {
        let (folder, free) = Folder::make(args.folder.as_deref())?;
        let (main, spare) = (folder.path().join("main.img"), folder.path().join("spare.img"));
        let mut ground = Self::bare(args, main.clone(), vec![SpareArg::whole(&spare)]);
        ground.folder = Some(folder);
        ground.room = args.room.unwrap_or(ROOM_MAX).min(free / ROOM_SHARE);
        ground.area = size - size % UNIT;
        ground.set_drills(args, 1, seed)?;
        let per_block = u64::from(args.block_size) / 512;
        let blocks = |&(start, end): &(u64, u64)| (end - start) / per_block + 2;
        let moving: u64 = ground.faults.bad().iter().map(blocks).sum::<u64>() * u64::from(args.block_size);
        Made::create(&main, ground.area)?.keep();
        Made::create(&spare, SPARE_BASE + 2 * moving)?.keep();
        let mut opener = Opener::auto();
        let device = opener.whole(&main, Access::Read)?;
        let spares = opener.spares(&ground.spares, Access::Write)?;
        let options = AdoptOptions {
            name: "stress".into(),
            block_size: args.block_size,
            policy: ground.policy.unwrap_or_default(),
            lost: Vec::new(),
            force: false,
        };
        adopt(&device, &spares, &options).map_err(|error| adopt_refusal(error, &spares))?;
        ground.can_discard = device.limits().discard;
        Ok(ground)
    }

    fn given(args: &StressArgs, main: &Path, wanted: Option<u64>, seed: u64) -> anyhow::Result<Self> {
        let mut ground = Self::bare(args, main.to_owned(), args.spares.clone());
        let mut opener = Opener::auto();
        let device = opener.whole(main, Access::Write)?;
        let spares = opener.spares(&args.spares, Access::Write)?;
        let entries = examine(&spares, false)?.table.counts().entries;
        ground.blank = entries == 0 && is_blank(&device);
        if !ground.blank && !args.destroy {
            let text = format!(
                "{}: the volume may hold data, and a run writes all over it: nothing was changed; add --destroy if what it holds is of \
                 no use to anybody",
                main.display()
            );
            return Err(refusal(Exit::Mismatch, text));
        }
        let whole = device.size();
        if let Some(wanted) = wanted.filter(|&wanted| wanted > whole) {
            let (main, whole, wanted) = (main.display(), format_size(whole), format_size(wanted));
            let text = format!("{main}: has {whole}, less than the {wanted} that were asked for");
            return Err(refusal(Exit::Mismatch, text));
        }
        ground.area = wanted.unwrap_or(whole);
        ground.area -= ground.area % UNIT;
        if ground.area < AREA_MIN {
            let text = format!("{}: has {}, too little for a run", main.display(), format_size(whole));
            return Err(refusal(Exit::Mismatch, text));
        }
        let logical = u64::from(device.limits().logical_block) / 512;
        ground.can_discard = device.limits().discard && !device.is_block_device();
        ground.set_drills(args, logical, seed)?;
        Ok(ground)
    }

    fn set_drills(&mut self, args: &StressArgs, logical: u64, seed: u64) -> anyhow::Result<()> {
        let mut drills = args.drills.clone();
        if let Some(runs) = args.bad {
            let spec = bad_runs(runs, self.area / 512, seed)?;
            drills.push(DrillArg { target: DrillTarget::Main, spec });
        }
        self.drills = drills_of(&drills, self.spares.len())?;
        self.faults = Faults::of(&self.drills, logical);
        Ok(())
    }

    /// Opens the volume, with its drills.
    ///
    /// # Errors
    /// As `serve`.
    pub(crate) fn open(&self) -> anyhow::Result<Volume> {
        let mut opener = Opener::auto();
        let drilled = |mut device: Device, target| {
            for running in self.drills.iter().filter(|running| running.target == target) {
                device = device.with_drill(std::sync::Arc::clone(&running.drill));
            }
            device
        };
        let main = drilled(opener.whole(&self.main, Access::Write)?, DrillTarget::Main);
        let spares = opener.spares(&self.spares, Access::Write)?;
        let spares: Vec<Device> =
            spares.into_iter().enumerate().map(|(n, spare)| drilled(spare, DrillTarget::Spare(n))).collect();
        let options = OpenOptions {
            engine: EngineConfig { policy: self.policy, ..EngineConfig::default() },
            io: self.io,
            ..OpenOptions::default()
        };
        let (volume, _) = Volume::open(main, spares.clone(), options).map_err(|error| match error {
            OpenError::Recovery(error) => recovery_refusal(&error, &spares),
            other => other.into(),
        })?;
        let least = volume.geometry().min_io;
        if u64::from(least) > UNIT {
            let text = format!(
                "{}: takes no requests of less than {least} bytes, too many here",
                self.main.display()
            );
            return Err(refusal(Exit::Mismatch, text));
        }
        Ok(volume)
    }

    /// The metadata on the spares, while nobody serves them.
    ///
    /// # Errors
    /// The spares cannot be opened.
    pub(crate) fn verdict(&self) -> anyhow::Result<Verdict> {
        let spares = Opener::auto().spares(&self.spares, Access::Read).context("the metadata check")?;
        Ok(check(&spares).verdict)
    }

    /// Drills that may make anything fail end here: what was acknowledged must be there without them.
    pub(crate) fn end_wild_drills(&self) {
        for running in &self.drills {
            if running.drill.reach().anywhere {
                running.drill.set_enabled(false);
            }
        }
    }

    /// Was the volume made by this run?
    pub(crate) fn is_made(&self) -> bool {
        self.folder.is_some()
    }

    /// The files stay, if the run made them; says where.
    pub(crate) fn keep(&mut self) -> Option<PathBuf> {
        let folder = self.folder.as_mut()?;
        folder.keep();
        Some(folder.path().to_owned())
    }

    /// Does a drill make a spare fail?
    pub(crate) fn drills_spares(&self) -> bool {
        self.drills.iter().any(|running| running.target != DrillTarget::Main)
    }
}

/// Is nothing at all in it? Of a disk that cannot be known without reading all of it.
fn is_blank(device: &Device) -> bool {
    let holes = |file: File| matches!(seek(&file, SeekFrom::Data(0)), Err(rustix::io::Errno::NXIO));
    !device.is_block_device() && File::open(device.path()).is_ok_and(holes)
}

/// A drill with so many bad runs, one to each of as many stretches of the device.
fn bad_runs(runs: u32, sectors: u64, seed: u64) -> anyhow::Result<String> {
    let stretch = sectors / u64::from(runs);
    if stretch < BAD_STRETCH_MIN {
        let most = sectors / BAD_STRETCH_MIN;
        return Err(refusal(Exit::Usage, format!("--bad: 1 to {most} on this volume, not {runs}")));
    }
    let mut random = Random::seeded(seed, 5);
    let run = |n: u64| {
        let len = random.between(1, BAD_LEN_MAX);
        let first = n * stretch + random.below(stretch - len);
        format!("{first}-{}", first + len - 1)
    };
    let list: Vec<String> = (0..u64::from(runs)).map(run).collect();
    Ok(format!("bad=sectors:{},errno=ENODATA", list.join(";")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_runs_are_as_many_as_asked_for() {
        for (runs, sectors) in [(1, 2048), (50, 2 << 20), (16, 2048)] {
            let drill = remap_io::Drill::parse(&bad_runs(runs, sectors, 3).unwrap()).unwrap();
            let bad = drill.reach().bad;
            // Neighbours may touch.
            assert!(
                !bad.is_empty() && bad.len() <= runs as usize && bad.iter().all(|e| e.end().0 <= sectors)
            );
        }
        let error = bad_runs(17, 2048, 3).unwrap_err();
        assert_eq!(error.to_string(), "--bad: 1 to 16 on this volume, not 17");
    }
}
