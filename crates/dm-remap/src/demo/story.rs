//! The demo's steps.
//!
//! Invariant: a step prints what it did and checks what was promised; [`Story::promise`] remembers what did not hold.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use remap_core::units::{Extent, SECTOR_SIZE};
use remap_io::badmap::{BadMap, Format, Status};

use super::damage::{self, Damage};
use super::files::{self, LEDGER};
use super::image::Image;
use super::ledger::{Ledger, WRITERS};
use super::owners::Tally;
use super::reading::{self, Reading, subtract};
use super::server::{STATE_CONTEXT, Server, WorkDir, run_self};
use super::tools::Tools;
use crate::adopt::LIST_MAX;
use crate::cli::DemoArgs;
use crate::exit::{Exit, refusal};
use crate::files::read_text;
use crate::units::{format_sectors, format_size};

/// Lines of a list that are shown.
const SHOWN: usize = 8;
/// Lines of the server's log that are shown after a step.
const SHOWN_LOG: usize = 4;
/// Most bytes of bad sectors: each one is read, and each one is a line in the log.
const BAD_MAX: u64 = 1 << 30;
/// The kernel's errno for "the medium cannot give these bytes"; persistent, for reads and writes.
const DRILL: &str = "bad=bad-sectors.list,format=list,errno=ENODATA,on=both";

/// What is to be shown.
#[derive(Debug)]
pub(crate) struct Plan {
    map: Option<(BadMap, Vec<Status>, String)>,
    size: u64,
    seed: u64,
}

impl Plan {
    /// From the command line.
    ///
    /// # Errors
    /// The map cannot be read, or is not of a disk.
    pub(crate) fn of(args: &DemoArgs) -> anyhow::Result<Self> {
        let size = if args.quick { super::SIZE_MIN } else { args.size };
        let Some(path) = &args.map else { return Ok(Self { map: None, size, seed: args.seed }) };
        let name = path.display().to_string();
        let text = read_text(path, LIST_MAX)?;
        let map = BadMap::parse(&text, Format::Ddrescue, None).with_context(|| name.clone())?;
        let size = map.end().0.saturating_mul(SECTOR_SIZE);
        if size < super::SIZE_MIN {
            let why = format!("{name}: describes {} only; the demo needs 16 MiB at least", format_size(size));
            return Err(refusal(Exit::Mismatch, why));
        }
        let bad = map.sectors(&args.statuses.0).saturating_mul(SECTOR_SIZE);
        if bad == 0 || bad > BAD_MAX {
            let why = format!(
                "{name}: has {} with these statuses; the demo reads them one by one, and needs some, but no more than {} \
                 (see --statuses)",
                format_size(bad),
                format_size(BAD_MAX)
            );
            return Err(refusal(Exit::Usage, why));
        }
        Ok(Self { map: Some((map, args.statuses.0.clone(), name)), size, seed: args.seed })
    }
}

/// The demo under way.
pub(crate) struct Story<'d> {
    tools: &'d Tools,
    work: &'d WorkDir,
    seed: u64,
    image: Image,
    damage: Damage,
    /// Sectors that are healed, sorted.
    healed: Vec<Extent>,
    /// What was promised, and whether it held.
    promises: u64,
    broken: Vec<String>,
    begun: Instant,
}

/// Seconds with one digit behind the point.
fn format_tenths(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

fn heading(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

fn say(text: impl AsRef<str>) {
    println!("   {}", text.as_ref());
}

/// The first lines of a list, and how many more there are.
fn list(lines: &[String], most: usize) {
    for line in lines.iter().take(most) {
        say(format!("  {line}"));
    }
    if lines.len() > most {
        say(format!("  ... and {} more", lines.len() - most));
    }
}

impl<'d> Story<'d> {
    /// Steps 1 and 2: the image, and what is wrong with it.
    ///
    /// # Errors
    /// The image cannot be made.
    pub(crate) fn begin(plan: &Plan, tools: &'d Tools, work: &'d WorkDir) -> anyhow::Result<Self> {
        let begun = Instant::now();
        println!("dm-remap demo: a disk goes bad, and what becomes of its files");
        heading(1, "A disk image with a file system and files");
        let dir = work.path();
        let (image, damage) = match &plan.map {
            None => {
                let image = Image::make(tools, dir, plan.size, plan.seed)?;
                let damage = damage::draw(&image.owners, &image.extents, image.sectors, plan.seed);
                (image, damage)
            }
            Some((map, statuses, _)) => {
                let damage = Damage::of_map(map, statuses, plan.size / SECTOR_SIZE);
                (Image::make_for(tools, dir, plan.size, &damage, plan.seed)?, damage)
            }
        };
        say(format!(
            "disk.img: {}, ext4 by {}; e2fsck finds it clean",
            format_size(image.sectors * SECTOR_SIZE),
            tools.version()
        ));
        say(format!(
            "{} files, {}; the originals stay in files/ as the backup",
            image.files.files.len(),
            format_size(image.files.bytes())
        ));
        heading(2, "The disk goes bad");
        let source = match &plan.map {
            None => format!("drawn by the model, seed {}", plan.seed),
            Some((_, statuses, name)) => {
                let symbols: String = statuses.iter().map(|s| s.symbol()).collect();
                format!("from {name}, statuses {symbols}")
            }
        };
        say(format!(
            "{} in {} clusters ({} runs), {source}:",
            format_sectors(damage.sectors()),
            damage.clusters,
            damage.extents.len()
        ));
        say(
            "every read and every write that touches one of them fails from now on, as on a disk that has no",
        );
        say("sectors left to reallocate");
        std::fs::write(dir.join("bad-sectors.list"), damage.list()).context("the list of bad sectors")?;
        let story = Self {
            tools,
            work,
            seed: plan.seed,
            image,
            damage,
            healed: Vec::new(),
            promises: 0,
            broken: Vec::new(),
            begun,
        };
        story.say_tally(&story.tally(&story.damage.extents));
        Ok(story)
    }

    /// Steps 3 to 7 and the report. `true`: everything was as promised.
    ///
    /// # Errors
    /// A step could not be taken at all.
    pub(crate) fn tell(mut self) -> anyhow::Result<bool> {
        super::go_on()?;
        self.adopt()?;
        let server = self.serve_and_read()?;
        let server = self.restore(server)?;
        super::go_on()?;
        let server = self.kill_and_restart(server)?;
        self.finish(server)
    }

    fn dir(&self) -> &'d Path {
        self.work.path()
    }

    fn tally(&self, extents: &[Extent]) -> Tally {
        self.image.owners.tally(extents)
    }

    fn path_of(&self, file: usize) -> &str {
        self.image.files.files.get(file).map_or("?", |f| f.path.as_str())
    }

    /// Something that must hold.
    fn promise(&mut self, holds: bool, text: &str) {
        self.promises += 1;
        say(format!("[{}] {text}", if holds { "ok" } else { "FAILED" }));
        if !holds {
            self.broken.push(text.to_owned());
        }
    }

    fn say_tally(&self, tally: &Tally) {
        let under_files: u64 = tally.files.values().sum();
        say(format!(
            "{under_files} of them under {} files, {} in free space, {} in the file system's own blocks",
            tally.files.len(),
            tally.free,
            tally.metadata
        ));
    }

    fn bar(ranges: &[Extent]) -> ProgressBar {
        let bar = ProgressBar::new(ranges.iter().map(Extent::bytes).sum());
        let style = ProgressStyle::with_template("   {bar:40} {bytes}/{total_bytes} {eta}");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn show_log(server: &mut Server) {
        let lines = latest(&server.log_since_start());
        if !lines.is_empty() {
            say("the server's log:");
            list(&lines, SHOWN_LOG);
        }
    }

    fn adopt(&mut self) -> anyhow::Result<()> {
        heading(3, "Put it behind dm-remap");
        // Room for every bad block twice, and for an entry each; the file is sparse.
        let entries = self.damage.sectors().div_ceil(8) + self.damage.extents.len() as u64;
        let spare = (self.damage.sectors() * SECTOR_SIZE * 16 + entries * (48 << 10)).max(16 << 20);
        let spare = format!("{}M", spare.div_ceil(1 << 20));
        let before = self.image.sha256()?;
        let args = ["adopt", "disk.img", "--spare", "spare.img", "--create-spare", &spare, "--name", "demo"];
        say(format!("$ dm-remap {}", args.join(" ")));
        let said = run_self(self.dir(), args)?;
        list(&said.lines().map(str::to_owned).collect::<Vec<_>>(), SHOWN);
        let after = self.image.sha256()?;
        let sums = format!("{}... before, {}... after", files::short(&before), files::short(&after));
        self.promise(
            before == after,
            &format!("adopting wrote nothing to disk.img (sha256 of its contents: {sums})"),
        );
        Ok(())
    }

    /// Reads all that the image holds and all bad areas through the server.
    fn read_all(&self, server: &Server, copy: Option<&File>) -> anyhow::Result<Reading> {
        let ranges = self.image.interesting(&self.damage.extents)?;
        let truth = File::open(&self.image.path).context("the image")?;
        let bar = Self::bar(&ranges);
        let reading = reading::read(&mut server.connect()?, &ranges, &truth, copy, &bar);
        bar.finish_and_clear();
        reading
    }

    fn serve_and_read(&mut self) -> anyhow::Result<Server> {
        heading(4, "Serve it, and read everything over NBD");
        say(format!("$ dm-remap serve disk.img --spare spare.img --unix demo.nbd --drill main:{DRILL}"));
        let mut server = Server::start(self.dir(), DRILL)?;
        let reading = self.read_all(&server, None)?;
        say(format!(
            "{} reads, {} of them with errors; {} were read, {} were not to be had",
            reading.requests,
            reading.failed,
            format_size(reading.good_bytes),
            format_sectors(reading.lost_sectors())
        ));
        Self::show_log(&mut server);
        let exact = reading.lost == self.damage.extents;
        self.promise(exact, "exactly the bad sectors gave errors: all good bytes around them were read");
        let equal = reading.wrong.is_empty();
        self.promise(equal, "every byte that was read is the one that is on the disk");
        let tally = self.tally(&reading.lost);
        let lines: Vec<String> = tally
            .files
            .iter()
            .map(|(&file, &sectors)| format!("{}: {}", self.path_of(file), format_sectors(sectors)))
            .collect();
        say(format!("files with lost sectors: {}", lines.len()));
        list(&lines, SHOWN);
        Ok(server)
    }

    /// Overwrites the lost sectors of all damaged files but one (and the ledger) from the backup.
    fn restore(&mut self, mut server: Server) -> anyhow::Result<Server> {
        heading(5, "Bring back what there is a backup of");
        let tally = self.tally(&self.damage.extents);
        let hit: Vec<usize> = tally.files.keys().copied().filter(|&f| self.path_of(f) != LEDGER).collect();
        let (left, restored) = match hit.split_last() {
            Some((last, rest)) if !rest.is_empty() => (Some(*last), rest.to_vec()),
            _ => (None, hit),
        };
        let mut client = server.connect()?;
        let mut writes = 0;
        for &file in &restored {
            let original = self.image.files.original(self.path_of(file))?;
            for (extent, offset) in self.image.owners.of_file(&self.damage.extents, file) {
                // Behind the end of a file its last block holds zeroes.
                let mut bytes = vec![0; usize::try_from(extent.bytes())?];
                let from = original.get(usize::try_from(offset)?..).unwrap_or_default();
                for (to, from) in bytes.iter_mut().zip(from) {
                    *to = *from;
                }
                client.write(extent.start().0 * SECTOR_SIZE, &bytes, false)?;
                self.healed.push(extent);
                writes += 1;
            }
        }
        client.flush()?;
        self.healed.sort_unstable();
        let sectors: u64 = self.healed.iter().map(Extent::sectors).sum();
        say(format!(
            "{writes} writes over the {} lost in {} files, and only over them",
            format_sectors(sectors),
            restored.len()
        ));
        Self::show_log(&mut server);
        let truth = File::open(&self.image.path).context("the image")?;
        let again = reading::read(&mut client, &self.healed, &truth, None, &ProgressBar::hidden())?;
        let good = again.lost.is_empty() && again.wrong.is_empty();
        self.promise(good, "they read good at once, though the disk takes no writes there");
        let moved = self.moved_blocks(&mut client)?;
        self.promise(
            moved > 0 || self.healed.is_empty(),
            &format!("{moved} of their blocks now live on the spare"),
        );
        if let Some(file) = left {
            say(format!(
                "{} stays as it is, to show what a lost sector looks like in the end",
                self.path_of(file)
            ));
        }
        Ok(server)
    }

    /// Blocks of the healed sectors that are on the spare, as the server tells its clients.
    fn moved_blocks(&self, client: &mut remap_nbd::Client) -> anyhow::Result<u64> {
        const REMAPPED: u64 = 1;
        const BLOCK: u64 = 4096;
        let mut moved = 0;
        let mut reached = 0;
        for extent in &self.healed {
            let first = (extent.start().0 * SECTOR_SIZE / BLOCK).max(reached);
            let end = (extent.end().0 * SECTOR_SIZE).div_ceil(BLOCK);
            for block in first..end {
                let at = block * BLOCK;
                let len = BLOCK.min(self.image.sectors * SECTOR_SIZE - at);
                let states = client.block_status(STATE_CONTEXT, at, len, true)?;
                moved += u64::from(states.first().is_some_and(|s| s.status == REMAPPED));
            }
            reached = reached.max(end);
        }
        Ok(moved)
    }

    fn kill_and_restart(&mut self, server: Server) -> anyhow::Result<Server> {
        heading(6, "Kill the server in the middle of writes");
        let extents = self.image.extents.first().context("the ledger is the first file")?;
        let ledger = Ledger::of(extents, self.seed);
        let enough = ledger.len() * 3 / 4;
        let pid = server.pid();
        let clients: Vec<_> = (0..WRITERS).map(|_| server.connect()).collect::<anyhow::Result<_>>()?;
        std::thread::scope(|scope| {
            let writers: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(n, mut client)| {
                    let ledger = &ledger;
                    scope.spawn(move || ledger.write(&mut client, n, 1000))
                })
                .collect();
            while ledger.writes() < enough && writers.iter().any(|w| !w.is_finished()) {
                std::thread::sleep(Duration::from_micros(200));
            }
            server.kill()
        })?;
        say(format!(
            "{WRITERS} clients were writing to {LEDGER}; after {} acknowledged writes: kill -9 {pid}",
            ledger.writes()
        ));
        let mut server = Server::start(self.dir(), DRILL)?;
        let mut client = server.connect()?;
        let audit = ledger.audit(&mut client)?;
        say(format!(
            "served again: {} pages hold their last acknowledged write, {} the one that was under way",
            audit.exact, audit.newer
        ));
        self.promise(audit.missing == 0, "no acknowledged write is missing, none is torn");
        for writer in 0..WRITERS {
            ledger.write(&mut client, writer, 1);
        }
        client.flush()?;
        let audit = ledger.audit(&mut client)?;
        self.promise(
            audit.exact == ledger.len(),
            "writing goes on: the whole ledger was written again, over bad sectors too",
        );
        Self::show_log(&mut server);
        let under = self.image.owners.of_file(&self.damage.extents, 0);
        self.healed.extend(under.into_iter().map(|(extent, _)| extent));
        self.healed.sort_unstable();
        self.image.files.add(LEDGER, &ledger.file())?;
        Ok(server)
    }

    fn finish(mut self, mut server: Server) -> anyhow::Result<bool> {
        heading(7, "Check everything that a client reads");
        let copy_path = self.dir().join("client.img");
        let copy = File::create(&copy_path).context("the client's copy")?;
        copy.set_len(self.image.sectors * SECTOR_SIZE).context("the client's copy")?;
        let reading = self.read_all(&server, Some(&copy))?;
        Self::show_log(&mut server);
        let expected = merged(&subtract(&self.damage.extents, &self.healed));
        let lost = reading.lost_sectors();
        self.promise(
            reading.lost == expected,
            &format!("{} are lost: exactly the bad ones that nobody overwrote", format_sectors(lost)),
        );
        let ledger: Vec<Extent> = self.block_extents(0);
        let wrong = subtract(&reading.wrong, &ledger);
        self.promise(wrong.is_empty(), "everything else reads as it was written");
        let tally = self.tally(&reading.lost);
        self.check_file_system(&copy_path, &tally)?;
        let (good, damaged) = self.check_files(&copy_path, &tally)?;
        drop(copy);
        let stopped = server.stop();
        self.promise(stopped.is_ok(), "the server stops cleanly when it is asked to");
        self.report(good, &damaged, &tally);
        Ok(self.broken.is_empty())
    }

    /// The sectors of a file.
    fn block_extents(&self, file: usize) -> Vec<Extent> {
        use super::tools::FS_BLOCK;
        use remap_core::units::Sector;
        let per_block = FS_BLOCK / SECTOR_SIZE;
        let extents = self.image.extents.get(file).into_iter().flatten();
        let mut sectors: Vec<Extent> = extents
            .filter_map(|e| {
                Extent::between(Sector(e.blocks.start * per_block), Sector(e.blocks.end * per_block))
            })
            .collect();
        sectors.sort_unstable();
        sectors
    }

    fn check_file_system(&mut self, copy: &Path, tally: &Tally) -> anyhow::Result<()> {
        let verdict = self.tools.check(copy)?;
        if tally.metadata == 0 {
            self.promise(verdict.clean, "e2fsck -fn finds nothing wrong with what a client reads");
            return Ok(());
        }
        say(format!(
            "e2fsck -fn on what a client reads: {}; the map has {} in the file system's own blocks, which \
             the client's copy holds as zeroes",
            if verdict.clean { "clean" } else { "not clean" },
            format_sectors(tally.metadata)
        ));
        if !verdict.clean {
            let lines: Vec<String> =
                verdict.text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
            list(&lines, SHOWN);
        }
        Ok(())
    }

    /// Takes every file out of the client's copy; gives how many are good, and the damaged ones.
    fn check_files(&mut self, copy: &Path, tally: &Tally) -> anyhow::Result<(u64, Vec<String>)> {
        let out = self.dir().join("out");
        std::fs::create_dir_all(&out).context("a directory for the files")?;
        let files = &self.image.files.files;
        let script: String =
            files.iter().enumerate().map(|(n, f)| format!("dump /{} {n}\n", f.path)).collect();
        self.tools.script_in(copy, &script, self.dir(), &out)?;
        let (mut good, mut damaged, mut unexpected) = (0, Vec::new(), Vec::new());
        for (number, file) in files.iter().enumerate() {
            let sum = files::sha256_of(&out.join(number.to_string())).ok();
            let sectors = tally.files.get(&number).copied().unwrap_or(0);
            if sum == Some(file.sha256) {
                good += 1;
            } else if sectors > 0 {
                damaged.push(format!("{}: {} lost", file.path, format_sectors(sectors)));
            } else if sum.is_none() && tally.metadata > 0 {
                damaged.push(format!("{}: not found; the file system's own blocks are damaged", file.path));
            } else {
                unexpected.push(file.path.clone());
            }
        }
        std::fs::remove_dir_all(&out).context("the files taken out")?;
        let text = format!("{good} of {} files match their sha256; every other one is named", files.len());
        self.promise(unexpected.is_empty(), &text);
        list(&unexpected, SHOWN);
        Ok((good, damaged))
    }

    fn report(&self, good: u64, damaged: &[String], tally: &Tally) {
        let total = self.image.files.files.len();
        println!("\nReport");
        say(format!(
            "The disk could neither read nor write {} of its {}.",
            format_sectors(self.damage.sectors()),
            format_sectors(self.image.sectors)
        ));
        let healed: u64 = self.healed.iter().map(Extent::sectors).sum();
        say(format!("{} were overwritten and are good again, on the spare.", format_sectors(healed)));
        say(format!("{good} of {total} files are whole. Damaged: {}", damaged.len()));
        list(damaged, SHOWN);
        if tally.free > 0 {
            say(format!("{} are lost where no file is: nobody misses them.", format_sectors(tally.free)));
        }
        if tally.metadata > 0 {
            say(format!(
                "{} of the file system itself are lost: run e2fsck on the served device.",
                format_sectors(tally.metadata)
            ));
        }
        say(format!(
            "{} of {} promises were kept, in {}.",
            self.promises - self.broken.len() as u64,
            self.promises,
            format_tenths(self.begun.elapsed())
        ));
        list(&self.broken, usize::MAX);
        println!("\nWith a disk of your own (if you can replace it, replace it; this buys time):");
        say("$ dm-remap adopt /dev/sdX --spare /path/on/another/disk --create-spare 1G");
        say("$ dm-remap serve /dev/sdX --spare /path/on/another/disk");
        say("$ dm-remap status");
        say("and to leave again: dm-remap release --help, dm-remap map export --help");
    }
}

/// The last line about each block, and all lines about other things.
fn latest(lines: &[String]) -> Vec<String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut out: Vec<String> = Vec::new();
    for line in lines {
        let block =
            line.split_once(" block ").and_then(|(_, rest)| rest.split_once(' ')).map(|(block, _)| block);
        let known = block.and_then(|block| places.get(block)).and_then(|&at| out.get_mut(at));
        if let Some(known) = known {
            known.clone_from(line);
            continue;
        }
        if let Some(block) = block {
            places.insert(block, out.len());
        }
        out.push(line.clone());
    }
    out
}

/// Neighbours merged.
fn merged(extents: &[Extent]) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for extent in extents {
        match out.last_mut().filter(|last| last.end() == extent.start()) {
            Some(last) => *last = Extent::between(last.start(), extent.end()).unwrap_or(*last),
            None => out.push(*extent),
        }
    }
    out
}
