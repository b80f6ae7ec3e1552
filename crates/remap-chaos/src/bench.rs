//! A volume on files, its drills, and one life of its server after the other.
//!
//! Invariant: between two lives no server runs, and only then are lists of bad sectors and copies of the metadata changed;
//! copies are damaged only while all five are in step.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remap_sim::rng::Rng;
use tempfile::TempDir;

use crate::damage::Metadata;
use crate::plan::{Life, Pace, Trouble};
use crate::server::{NAME, Server, Start};
use crate::tool;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Most runs of bad sectors of a kind.
const RUNS_MAX: usize = 120;

/// Memory of the volatile caches.
const CACHE: &str = "16M";

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) program: PathBuf,
    pub(crate) folder: Option<PathBuf>,
    /// With caches that lose what was not flushed.
    pub(crate) volatile: bool,
    pub(crate) kills: u64,
    /// No more kills after this.
    pub(crate) until: Option<Instant>,
    pub(crate) seed: u64,
    pub(crate) pace: Pace,
    pub(crate) verbose: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    /// Of these, before load began.
    pub(crate) at_start: u64,
    pub(crate) stops: u64,
    /// Copies of the metadata.
    pub(crate) damaged: u64,
    /// Lives.
    pub(crate) troubled: u64,
    /// Acknowledged.
    pub(crate) writes: u64,
    /// Acknowledged; of files: fsync.
    pub(crate) flushes: u64,
    /// Sectors whose contents were compared.
    pub(crate) verified: u64,
    /// Sectors read in vain, and rightly so.
    pub(crate) lost_reads: u64,
    /// Comparisons of everything, checks of file systems.
    pub(crate) checks: u64,
    /// Blocks on the spare at the end.
    pub(crate) remapped: u64,
    /// Sectors at the end.
    pub(crate) lost: u64,
}

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
    /// Where the images are, if something was wrong.
    pub(crate) kept: Option<PathBuf>,
}

/// A way of being bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Takes no write, can be read.
    Refusing,
    /// Neither read nor written.
    Dead,
    /// Cannot be read until it was written.
    Healing,
}

impl Bad {
    fn list(self) -> &'static str {
        match self {
            Self::Refusing => "refusing.txt",
            Self::Dead => "dead.txt",
            Self::Healing => "healing.txt",
        }
    }

    fn drill(self) -> String {
        let how = match self {
            Self::Refusing => "on=write",
            Self::Dead => "on=both",
            Self::Healing => "on=both,heal,state=healed.txt",
        };
        format!("main:bad={},format=list,errno=ENODATA,{how}", self.list())
    }
}

/// The volume.
pub(crate) struct Bench {
    folder: TempDir,
    setup: Setup,
    metadata: Metadata,
    sectors: u64,
    bad: Vec<(Bad, Range<u64>)>,
    /// All copies are.
    in_step: bool,
    /// How long the last server took until it served.
    start: Duration,
    pub(crate) tally: Tally,
}

impl Bench {
    /// Makes the images; `fill` writes the main one.
    ///
    /// # Errors
    /// No room, or the volume cannot be adopted.
    pub(crate) fn create(
        setup: &Setup,
        sectors: u64,
        spare_bytes: u64,
        fill: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("remap-chaos-");
        let folder = match &setup.folder {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        };
        let folder = folder.context("a folder for the images")?;
        let main = folder.path().join("main.img");
        fill(&main)?;
        let size = format!("{}M", spare_bytes / MIB);
        let bench = Self {
            metadata: Metadata::of(folder.path().join("spare.img"), spare_bytes)?,
            folder,
            setup: setup.clone(),
            sectors,
            bad: Vec::new(),
            in_step: true,
            start: Duration::from_millis(30),
            tally: Tally::default(),
        };
        let spare = bench.path("spare.img");
        let args = ["adopt", text(&main), "--spare", text(&spare), "--create-spare", &size, "--name", NAME];
        bench.dm_remap(&args)?;
        for bad in [Bad::Refusing, Bad::Dead, Bad::Healing] {
            fs::write(bench.path(bad.list()), "").context("a list of bad sectors")?;
        }
        bench.metadata.write_lists(bench.folder.path())?;
        Ok(bench)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn dm_remap(&self, args: &[&str]) -> anyhow::Result<String> {
        tool::run(text(&self.setup.program), args)
    }

    /// Lets so many more runs of sectors go bad, in a way for each; returns the runs.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(crate) fn go_bad(&mut self, bad: Bad, runs: u64, rng: &mut Rng) -> anyhow::Result<Vec<Range<u64>>> {
        let mut fresh = Vec::new();
        for _ in 0..runs {
            let start = 4096 + rng.below(self.sectors - 4096 - 64);
            let run = start..start + 1 + rng.below(24);
            let full = self.bad.iter().filter(|(kind, _)| *kind == bad).count() >= RUNS_MAX;
            // Apart from all others, so that no way of being bad hides another.
            if full
                || self.bad.iter().any(|(_, other)| run.start < other.end + 8 && other.start < run.end + 8)
            {
                continue;
            }
            self.bad.push((bad, run.clone()));
            fresh.push(run);
        }
        let mut list = String::new();
        for (_, run) in self.bad.iter().filter(|(kind, _)| *kind == bad) {
            writeln!(list, "{}-{}", run.start, run.end - 1)?;
        }
        fs::write(self.path(bad.list()), list).context("a list of bad sectors")?;
        Ok(fresh)
    }

    /// Runs of bad sectors.
    pub(crate) fn bad_runs(&self) -> Vec<Range<u64>> {
        self.bad.iter().map(|(_, run)| run.clone()).collect()
    }

    fn drills(&self, life: &Life) -> Vec<String> {
        let has = |bad| self.bad.iter().any(|(kind, _)| *kind == bad);
        let lists = [Bad::Refusing, Bad::Dead, Bad::Healing].into_iter().filter(|bad| has(*bad));
        let mut drills: Vec<String> = lists.map(Bad::drill).collect();
        drills.push("spare0:bad=slots.txt,format=list,errno=ENODATA,on=write".to_owned());
        let seed = life.seed;
        if self.setup.volatile {
            drills.push(format!("main:volatile-cache={CACHE},seed={seed}"));
            drills.push(format!("spare0:volatile-cache={CACHE},seed={}", seed + 1));
        }
        drills.extend(life.trouble.map(|trouble| match trouble {
            Trouble::Slow => "main:latency=3ms".to_owned(),
            Trouble::MainPath => format!("main:rate=0.03,errno=ENOLINK,after=300ms,seed={seed}"),
            Trouble::MainGone => "main:gone-after=400ms,gone-for=200ms".to_owned(),
            Trouble::SparePath => format!("spare0:rate=0.05,errno=ENOLINK,after=400ms,seed={seed}"),
            Trouble::Copies(count) => {
                format!("spare0:bad=journals-{count}.txt,format=list,errno=ENODATA,on=write")
            }
        }));
        drills
    }

    /// Does what the plan says between two lives, and starts the server.
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn spawn(&mut self, life: &Life) -> anyhow::Result<Server> {
        let mut rng = Rng::seeded(life.seed);
        if life.damage > 0 && self.in_step {
            let how = self.metadata.damage(life.damage, &mut rng)?;
            self.tally.damaged += u64::from(life.damage);
            // Another copy must not be damaged before these are written anew.
            self.in_step = false;
            self.say(&format!("damaged: {how}"));
        }
        self.tally.troubled += u64::from(life.trouble.is_some());
        self.say(&format!("{life:?}"));
        Server::spawn(&self.setup.program, self.folder.path(), &self.drills(life))
    }

    /// Waits until the server serves. `Some`: it did not, and why that is wrong (empty: it may, in this trouble).
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn wait_ready(&mut self, server: &mut Server, life: &Life) -> anyhow::Result<Option<String>> {
        let troubled = life.trouble.is_some_and(Trouble::fails_requests);
        let begin = Instant::now();
        match server.wait_ready()? {
            Start::Ready => {
                self.start = begin.elapsed();
                self.in_step = !life.trouble.is_some_and(Trouble::touches_metadata);
                Ok(None)
            }
            Start::Ended(status) if !troubled || status.code().is_none() || status.code() == Some(101) => {
                Ok(Some(format!("the server does not start: {status}\n{}", self.last_words())))
            }
            Start::Ended(_) => Ok(Some(String::new())),
            Start::Hangs => Ok(Some(format!("the server is not ready in 300 s\n{}", self.last_words()))),
        }
    }

    /// Kills a server while it starts.
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn kill_starting(&mut self, server: &mut Server, thousandths: u32) -> anyhow::Result<()> {
        std::thread::sleep(self.start * thousandths / 1000);
        server.kill()?;
        self.tally.kills += 1;
        self.tally.at_start += 1;
        Ok(())
    }

    /// Takes down how many blocks are on the spare and how many sectors are lost.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) fn take_status(&mut self) -> anyhow::Result<()> {
        let control = self.path("control");
        let line = self.dm_remap(&["status", text(&control), "--line"])?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| {
            words.get(index).and_then(|word| word.split('/').next()).and_then(|n| n.parse().ok())
        };
        self.tally.remapped = number(4).with_context(|| format!("not a status line: {line}"))?;
        self.tally.lost = number(5).with_context(|| format!("not a status line: {line}"))?;
        Ok(())
    }

    /// Is it time for the last life?
    pub(crate) fn is_over(&self) -> bool {
        self.tally.kills >= self.setup.kills || self.setup.until.is_some_and(|until| Instant::now() >= until)
    }

    pub(crate) fn say(&self, text: &str) {
        if self.setup.verbose {
            println!("[{}] {text}", self.tally.kills);
        }
    }

    /// The end of the server's log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.path("serve.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The outcome; keeps the folder if something was wrong.
    pub(crate) fn finish(self, violations: Vec<String>) -> Outcome {
        let tally = self.tally;
        let kept = (!violations.is_empty()).then(|| self.folder.keep());
        Outcome { tally, violations, kept }
    }
}

/// A path as an argument; all of ours are text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A sparse image.
///
/// # Errors
/// No room.
pub(crate) fn sparse(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.and_then(|file| file.set_len(bytes)).context("an image")
}
