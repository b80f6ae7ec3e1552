//! File systems on the volume.
//!
//! Invariant: a kill either goes unnoticed by every program above the server (the retry filter waits for the next one), or
//! takes all that the kernel had not written, too; then the file system is mounted anew and every file compared.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remap_nbd::{Client, ClientOptions};
use remap_sim::rng::Rng;

use crate::Target;
use crate::bench::{Bad, Bench, Outcome, SECTOR, Setup, sparse};
use crate::chain::Chain;
use crate::plan::{End, Life};
use crate::server::Server;
use crate::tool;
use crate::writer::Writer;

/// The smallest size that all three file systems are made for.
const BYTES: u64 = 512 << 20;
const SPARE_BYTES: u64 = 64 << 20;
const WRITERS: u64 = 3;
/// The file system's own check is run every so many mounts.
const CHECK_EVERY: u64 = 6;

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) fn of(target: Target) -> Option<Self> {
        match target {
            Target::Raw => None,
            Target::Ext4 => Some(Self::Ext4),
            Target::Xfs => Some(Self::Xfs),
            Target::Btrfs => Some(Self::Btrfs),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn make(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-F"],
            // Sectors of 4 KiB: half a block that was never written cannot be read here, and the page cache would want it.
            Self::Xfs => &["mkfs.xfs", "-q", "-f", "-s", "size=4096"],
            Self::Btrfs => &["mkfs.btrfs", "-q", "-f"],
        }
    }

    fn check(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["e2fsck", "-fn"],
            Self::Xfs => &["xfs_repair", "-n"],
            Self::Btrfs => &["btrfs", "check", "--readonly"],
        }
    }

    /// What it needs of the machine.
    pub(crate) fn needs(self) -> Vec<String> {
        let tools = ["root", "fuse", "loop", "nbdkit", "nbdfuse", "losetup", "mount", "umount"];
        let own = [self.make()[0], self.check()[0]];
        let kernel = format!("fs:{}", self.name());
        tools.into_iter().chain(own).map(str::to_owned).chain([kernel]).collect()
    }
}

/// A run.
struct Run<'a> {
    kind: Kind,
    setup: &'a Setup,
    bench: Bench,
    rng: Rng,
    writers: Vec<Writer>,
    mounts: u64,
    violations: Mutex<Vec<String>>,
}

/// Runs it.
///
/// # Errors
/// The machine's.
pub(crate) fn run(kind: Kind, setup: &Setup) -> anyhow::Result<Outcome> {
    let mut rng = Rng::seeded(setup.seed);
    let mut bench = Bench::create(setup, BYTES / SECTOR, SPARE_BYTES, |path| sparse(path, BYTES))?;
    bench.go_bad(Bad::Refusing, 60, &mut rng)?;
    let dead = bench.go_bad(Bad::Dead, 60, &mut rng)?;
    let mut run =
        Run { kind, setup, bench, rng, writers: Vec::new(), mounts: 0, violations: Mutex::default() };
    run.make(&dead)?;
    while run.violations_are_none() {
        let last = run.bench.is_over();
        run.session(last)?;
        if last {
            break;
        }
    }
    let sum = |count: fn(&Writer) -> u64| run.writers.iter().map(count).sum();
    run.bench.tally.writes = sum(|writer| writer.writes);
    run.bench.tally.flushes = sum(|writer| writer.flushes);
    run.bench.tally.verified = sum(|writer| writer.verified);
    let violations = run.violations.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(run.bench.finish(violations))
}

/// Overwrites what cannot be read, before there is a file system: it is on the spare from then on, and a read of a lost
/// sector would be an error that the retry filter repeats for a minute.
fn overwrite(server: &Server, runs: &[Range<u64>]) -> anyhow::Result<()> {
    let mut client = Client::connect(&server.uri(), &ClientOptions::default())?;
    for run in runs {
        let zeroes = vec![0; usize::try_from((run.end - run.start) * SECTOR)?];
        client.write(run.start * SECTOR, &zeroes, false).context("a write to bad sectors")?;
    }
    Ok(client.flush()?)
}

impl Run<'_> {
    fn violations_are_none(&self) -> bool {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn violated(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Makes the file system and the writers' first files.
    fn make(&mut self, dead: &[Range<u64>]) -> anyhow::Result<()> {
        let life = Life::last();
        let mut server = self.bench.spawn(&life)?;
        if let Some(wrong) = self.bench.wait_ready(&mut server, &life)? {
            self.violated(wrong);
            return Ok(());
        }
        overwrite(&server, dead)?;
        let mut chain = Chain::over(self.bench.folder(), server.socket())?;
        let (program, args) = self.kind.make().split_first().context("a program")?;
        tool::run(program, &[args, &[chain.device()]].concat())?;
        chain.mount()?;
        for number in 0..WRITERS {
            let writer = Writer::begin(&chain.root(), number, self.setup.seed).context("the first files")?;
            self.writers.push(writer);
        }
        chain.unmount()?;
        drop(chain);
        self.stop(&mut server)
    }

    /// Starts servers until one serves that was not to be killed before. `None`: there was a violation.
    fn start(&mut self, last: bool) -> anyhow::Result<Option<(Server, Life)>> {
        loop {
            let over = last || self.bench.is_over();
            let life = if over { Life::last() } else { Life::next(&mut self.rng, self.setup.pace, false) };
            if life.more_bad {
                self.bench.go_bad(Bad::Refusing, 2, &mut self.rng)?;
            }
            let mut server = self.bench.spawn(&life)?;
            if let End::Starting(share) = life.end {
                self.bench.kill_starting(&mut server, share)?;
                continue;
            }
            return Ok(match self.bench.wait_ready(&mut server, &life)? {
                None => Some((server, life)),
                Some(wrong) => {
                    self.violated(wrong);
                    None
                }
            });
        }
    }

    /// From mount to the next cut.
    fn session(&mut self, last: bool) -> anyhow::Result<()> {
        let Some((mut server, life)) = self.start(last)? else { return Ok(()) };
        let mut chain = Chain::over(self.bench.folder(), server.socket())?;
        if let Err(error) = chain.mount() {
            self.violated(format!("{error:#}"));
            return Ok(());
        }
        self.mounts += 1;
        self.bench.tally.checks += 1;
        let root = chain.root();
        for writer in &mut self.writers {
            if let Err(text) = writer.check(&root) {
                self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        }
        if self.violations_are_none() && (last || self.mounts.is_multiple_of(CHECK_EVERY)) {
            self.check(&mut chain)?;
        }
        if !self.violations_are_none() {
            return Ok(());
        }
        if last {
            self.bench.take_status()?;
            chain.unmount()?;
            drop(chain);
            return self.stop(&mut server);
        }
        let mut writers = std::mem::take(&mut self.writers);
        let clean = self.load(&mut server, life, &mut chain, &mut writers);
        self.writers = writers;
        let clean = clean?;
        if !self.violations_are_none() {
            return Ok(());
        }
        if clean {
            chain.unmount()?;
            self.writers.iter_mut().for_each(Writer::all_durable);
            drop(chain);
            self.bench.tally.stops += 1;
            return self.stop(&mut server);
        }
        drop(chain);
        Ok(())
    }

    /// Lets the writers loose, and kills servers below them until everything is to go, or to end cleanly (`true`).
    fn load(
        &mut self,
        server: &mut Server,
        mut life: Life,
        chain: &mut Chain,
        writers: &mut [Writer],
    ) -> anyhow::Result<bool> {
        let over = AtomicBool::new(false);
        let seen = Mutex::new(Vec::new());
        let root = chain.root();
        let outcome = std::thread::scope(|scope| -> anyhow::Result<bool> {
            for writer in writers {
                let (over, seen, root) = (&over, &seen, &root);
                scope.spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        // After the cut the kernel has no device any more.
                        if let (Err(error), false) = (writer.step(root, over), over.load(Ordering::Acquire)) {
                            let text = format!("a program on the file system saw an error: {error}");
                            seen.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                            return;
                        }
                    }
                });
            }
            // However it goes, the writers must end; cut off, they do.
            let mut cut = CutAtEnd { over: &over, chain, clean: false };
            loop {
                let load = life.end.load();
                let begin = Instant::now();
                while begin.elapsed() < load && seen.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
                {
                    std::thread::sleep(Duration::from_millis(5).min(load));
                }
                if let Some(status) = server.ended()? {
                    self.violated(format!(
                        "the server ended by itself: {status}\n{}",
                        self.bench.last_words()
                    ));
                    return Ok(false);
                }
                if !seen.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    return Ok(false);
                }
                if matches!(life.end, End::Stop(_)) {
                    cut.clean = true;
                    return Ok(true);
                }
                let whole = self.setup.volatile || life.whole || self.bench.is_over();
                if whole {
                    over.store(true, Ordering::Release);
                }
                server.kill()?;
                self.bench.tally.kills += 1;
                if whole {
                    return Ok(false);
                }
                let Some(next) = self.start(false)? else { return Ok(false) };
                (*server, life) = next;
            }
        });
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        seen.into_iter().for_each(|text| self.violated(format!("{text}\n{}", self.bench.last_words())));
        outcome
    }

    /// The file system's own check, with nothing mounted; then it is mounted again.
    fn check(&mut self, chain: &mut Chain) -> anyhow::Result<()> {
        self.bench.tally.checks += 1;
        chain.unmount()?;
        let (program, args) = self.kind.check().split_first().context("a program")?;
        if let Err(error) = tool::run(program, &[args, &[chain.device()]].concat()) {
            self.violated(format!("{error:#}"));
        }
        chain.mount()
    }

    fn stop(&mut self, server: &mut Server) -> anyhow::Result<()> {
        match server.stop()? {
            Some(status) if status.success() => {}
            other => self.violated(format!("a clean stop ended so: {other:?}\n{}", self.bench.last_words())),
        }
        Ok(())
    }
}

/// Ends the writers: between two steps, or by taking the device from under them.
struct CutAtEnd<'a> {
    over: &'a AtomicBool,
    chain: &'a mut Chain,
    clean: bool,
}

impl Drop for CutAtEnd<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if !self.clean {
            self.chain.cut();
        }
    }
}
