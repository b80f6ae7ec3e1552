//! The crash lane: real file systems on a failing disk, and a server that is killed under them.
//!
//! The server serves a disk with bad sectors all over; ext4, xfs and btrfs, mounted through nbdfuse and a loop device, are
//! written with fsync while the server is killed with SIGKILL and started again. No program may see an I/O error, every
//! file that was synced must be whole, also when read anew from the device, and fsck must find nothing.

mod lab;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use lab::mounted::{Chain, Loop, Mount};
use lab::{Lab, SECTOR, Server, Tool, can, stamps, write_sparse};
use sha2::{Digest as _, Sha256};

/// The smallest size that all three file systems are made for.
const SIZE: u64 = 512 << 20;

/// How often the server dies.
const DEATHS: u64 = 3;

/// Files that are synced between two deaths.
const FILES: u64 = 40;

/// Longest wait for these files: restarts and retries included.
const LIMIT: Duration = Duration::from_secs(150);

/// Pages of the file that is overwritten in place.
const PAGES: u64 = 64;
const PAGE: u64 = 4096;

struct FileSystem {
    name: &'static str,
    make: &'static [&'static str],
    check: &'static [&'static str],
}

/// What the writer knows to be on disk.
#[derive(Default)]
struct Synced {
    files: BTreeMap<PathBuf, [u8; 32]>,
    /// Version of each page of the file that is overwritten in place.
    pages: BTreeMap<u64, u64>,
    rounds: u64,
    stop: bool,
    failed: Option<String>,
}

#[derive(Default)]
struct Journal {
    synced: Mutex<Synced>,
    changed: Condvar,
}

impl Journal {
    fn with<R>(&self, change: impl FnOnce(&mut Synced) -> R) -> R {
        let result = change(&mut self.synced.lock().expect("no thread panics with it"));
        self.changed.notify_all();
        result
    }

    /// Waits until the writer has done so many rounds.
    fn wait(&self, rounds: u64) {
        let synced = self.synced.lock().expect("no thread panics with it");
        let going = |synced: &mut Synced| synced.rounds < rounds && synced.failed.is_none();
        let (synced, time) =
            self.changed.wait_timeout_while(synced, LIMIT, going).expect("no thread panics with it");
        let failed = synced.failed.clone();
        let done = synced.rounds;
        // A panic must not poison what the writer still uses.
        drop(synced);
        assert_eq!(failed, None, "the writer saw an error");
        assert!(!time.timed_out(), "the writer did {done} of {rounds} rounds in {LIMIT:?}");
    }
}

/// Writes and syncs until told to stop: in each round one new file, and one page of a file that stays.
fn write(mount: &Path, journal: &Journal) -> io::Result<()> {
    let folder = File::open(mount)?;
    let pages = OpenOptions::new().read(true).write(true).create_new(true).open(mount.join("pages"))?;
    for round in 0.. {
        if journal.with(|synced| synced.stop) {
            return Ok(());
        }
        let path = mount.join(format!("file-{round}"));
        // From half a sector to 180 KiB.
        let mut contents = stamps(round, 0..1 + round * 37 % 360);
        contents.truncate(contents.len() - usize::from(round % 3 == 0) * 256);
        let mut file = File::create_new(&path)?;
        file.write_all(&contents)?;
        file.sync_all()?;
        folder.sync_all()?;
        let page = round * 29 % PAGES;
        pages.write_all_at(&stamps(round, 0..PAGE / SECTOR), page * PAGE)?;
        pages.sync_data()?;
        journal.with(|synced| {
            synced.files.insert(path, Sha256::digest(&contents).into());
            synced.pages.insert(page, round);
            synced.rounds += 1;
        });
    }
    Ok(())
}

/// Reads all that was synced.
fn verify(mount: &Path, synced: &Synced, when: &str) {
    for (path, expected) in &synced.files {
        let contents = fs::read(path).unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
        let found: [u8; 32] = Sha256::digest(&contents).into();
        assert!(found == *expected, "{when}: {} is not what was synced", path.display());
    }
    let pages = File::open(mount.join("pages")).expect("the file of pages");
    for (page, version) in &synced.pages {
        let mut contents = vec![0; PAGE as usize];
        pages.read_exact_at(&mut contents, page * PAGE).expect("a page that was synced");
        assert!(
            contents == stamps(*version, 0..PAGE / SECTOR),
            "{when}: page {page} is not version {version}"
        );
    }
}

/// A run of bad sectors in every 256 KiB, of 1 to 40 sectors, on no boundary in particular; the first MiB is good.
fn bad_runs() -> impl Iterator<Item = Range<u64>> {
    let each = 512;
    let numbers = 4..SIZE / SECTOR / each - 4;
    numbers.map(move |n| {
        let start = n * each + n * 131 % 400;
        start..start + 1 + n * 53 % 40
    })
}

/// Two drills, run by run in turn. Half of the runs take no write, so blocks move while the file system writes. The other
/// half can neither be read nor written; they are overwritten before there is a file system, because a read of a lost
/// sector is an error that the retry filter would repeat for minutes.
fn drills(lab: &Lab) -> [String; 2] {
    [("write", 0), ("both", 1)].map(|(on, turn)| {
        let runs = bad_runs().skip(turn).step_by(2);
        let list: String = runs.map(|run| format!("{}-{}\n", run.start, run.end - 1)).collect();
        let file = lab.file(&format!("bad-{on}.txt"), &list);
        format!("main:bad={},format=list,errno=ENODATA,on={on}", file.display())
    })
}

/// Overwrites what cannot be read: it is on the spare from then on.
fn overwrite_unreadable(server: &Server) {
    let mut client = lab::connect(&server.uri());
    for run in bad_runs().skip(1).step_by(2) {
        let zeroes = vec![0; ((run.end - run.start) * SECTOR) as usize];
        client.write(run.start * SECTOR, &zeroes, false).expect("a write to bad sectors");
    }
    client.flush().expect("a flush");
}

fn survive(fs: &FileSystem) {
    let kernel = format!("fs:{}", fs.name);
    if !can(&[
        "root",
        "fuse",
        "loop",
        &kernel,
        "nbdkit",
        "nbdfuse",
        "losetup",
        "mount",
        fs.make[0],
        fs.check[0],
    ]) {
        return;
    }
    let lab = Lab::new();
    drop(write_sparse(&lab.main(), SIZE));
    lab.adopt(&[]);
    let [refusing, dead] = drills(&lab);
    let drill = ["--drill", &refusing, "--drill", &dead];
    let mut server = lab.serve(&drill);
    overwrite_unreadable(&server);
    let moved_before = remapped(&lab);
    let chain = Chain::over(&lab, &server);
    let disk = Loop::over(&chain.file());
    Tool::of(fs.make[0]).args(&fs.make[1..]).arg(disk.device()).ok();
    let at = lab.path("mnt");
    let mount = Mount::of(disk.device(), &at, "noatime");

    let journal = Journal::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = write(&at, &journal) {
                journal.with(|synced| synced.failed = Some(error.to_string()));
            }
        });
        // Dropped on panic, too: the writer must end before the scope does.
        let _stop = Stop(&journal);
        for death in 1..=DEATHS {
            journal.wait(death * FILES);
            restart(&mut server, &lab, &drill);
        }
        journal.wait((DEATHS + 1) * FILES);
    });
    let synced = journal.synced.into_inner().expect("no thread panics with it");
    assert_eq!(synced.failed, None, "the writer saw an error");
    assert!(synced.rounds >= (DEATHS + 1) * FILES);

    verify(&at, &synced, "while mounted");
    mount.unmount();
    // One more death, so that all that is read now comes from the devices by the table on disk.
    restart(&mut server, &lab, &drill);
    drop(disk);
    let disk = Loop::over(&chain.file());
    Tool::of(fs.check[0]).args(&fs.check[1..]).arg(disk.device()).ok();
    let mount = Mount::of(disk.device(), &at, "ro");
    verify(&at, &synced, "mounted again");
    mount.unmount();

    let moved = remapped(&lab);
    println!("{}: {} files synced over {DEATHS} deaths, {moved} blocks moved", fs.name, synced.files.len());
    assert!(moved > moved_before, "the file system met bad sectors");
    drop((disk, chain));
    server.stop();
}

/// Blocks on the spare.
fn remapped(lab: &Lab) -> u64 {
    let line = lab.dm_remap(&["status", "CONTROL", "--line"]).ok();
    let count = line.split_once(" remap v2.0 ").and_then(|(_, rest)| rest.split('/').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("not a v2.0 line: {line}"))
}

fn restart(server: &mut Server, lab: &Lab, drill: &[&str]) {
    server.kill_9();
    *server = lab.serve(drill);
}

struct Stop<'a>(&'a Journal);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.with(|synced| synced.stop = true);
    }
}

#[test]
#[ignore = "mounts file systems as root: cargo xtask ci --only crash"]
fn ext4_survives_kill_9() {
    survive(&FileSystem { name: "ext4", make: &["mkfs.ext4", "-q", "-F"], check: &["e2fsck", "-fn"] });
}

#[test]
#[ignore = "mounts file systems as root: cargo xtask ci --only crash"]
fn xfs_survives_kill_9() {
    // Sectors of 4 KiB: half a block that was never written cannot be read here, and the page cache would want it.
    survive(&FileSystem {
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f", "-s", "size=4096"],
        check: &["xfs_repair", "-n"],
    });
}

#[test]
#[ignore = "mounts file systems as root: cargo xtask ci --only crash"]
fn btrfs_survives_kill_9() {
    survive(&FileSystem { name: "btrfs", make: &["mkfs.btrfs", "-q", "-f"], check: &["btrfs", "check"] });
}
