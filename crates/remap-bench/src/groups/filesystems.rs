//! File systems on a loop device: what a person feels.
//!
//! Invariant: each stack gets a file that was never used, the same file system and the same work; what that needs and is not there is named.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use remap_format::Policy;
use remap_sim::rng::Rng;
use rustix::fs::syncfs;

use super::made::{Made, Shape, create};
use super::stack::{Below, Stack};
use super::{Found, Setting, ratios};
use crate::needs;
use crate::record::Figure;
use crate::server::Server;

/// Bytes of the file: the smallest that all three are made for, with room.
const SIZE: u64 = 1 << 30;
const PLAIN: &str = "plain file";
const OURS: &str = "dm-remap";
const RIVAL: &str = "nbdkit file";

/// Name, the program that makes one, and its package.
const KINDS: [(&str, &[&str], &str); 3] = [
    ("ext4", &["mkfs.ext4", "-q", "-F"], "e2fsprogs"),
    ("xfs", &["mkfs.xfs", "-q", "-f"], "xfsprogs"),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"], "btrfs-progs"),
];

/// What is measured, with its unit.
const WORK: [(&str, &str); 5] = [
    ("unpack an archive of small files", "files/s"),
    ("read them after a new mount", "files/s"),
    ("delete them", "files/s"),
    ("append 4 KiB and fsync", "fsyncs/s"),
    ("write a large file and fsync", "MB/s"),
];

/// All figures.
///
/// # Errors
/// Files, servers, tools.
pub(super) fn run(setting: &Setting<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let tools = [("losetup", "mount"), ("mount", "mount"), ("nbdfuse", "nbdfuse"), ("tar", "tar")];
    let mut gone: Vec<String> = tools.iter().filter_map(|(tool, package)| missing(tool, package)).collect();
    if !rustix::process::geteuid().is_root() {
        gone.push("root, to mount".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if OpenOptions::new().read(true).write(true).open(device).is_err() {
            gone.push(device.to_owned());
        }
    }
    if !gone.is_empty() {
        found.missing.push(format!("file systems: {}", gone.join(", ")));
        return Ok(found);
    }
    let archive = setting.path("archive.tar");
    let files = setting.pick(300, 2000);
    pack(&archive, files)?;
    let mut whos = vec![PLAIN, OURS];
    match missing("nbdkit", "nbdkit") {
        Some(nbdkit) => found.missing.push(format!("{RIVAL}: {nbdkit}")),
        None => whos.push(RIVAL),
    }
    for (kind, make, package) in KINDS {
        let known = is_known(kind);
        if let Some(why) = missing(make[0], package).or((!known).then(|| "the kernel's support".to_owned())) {
            found.missing.push(format!("{kind}: {why}"));
            continue;
        }
        eprintln!("{}: filesystems: {kind}", setting.place.name());
        found.figures.extend(kind_figures(setting, kind, make, &whos, (&archive, files))?);
    }
    Ok(found)
}

fn missing(tool: &str, package: &str) -> Option<String> {
    needs::find(tool).is_none().then(|| format!("{tool} (package {package})"))
}

/// Does the kernel mount it, perhaps with a module?
fn is_known(kind: &str) -> bool {
    let known = || {
        let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().last() == Some(kind))
    };
    known() || (needs::command("modprobe", "kmod").is_ok_and(|mut c| c.arg(kind).output().is_ok()) && known())
}

fn kind_figures(
    setting: &Setting<'_>,
    kind: &str,
    make: &[&str],
    whos: &[&str],
    archive: (&Path, u64),
) -> anyhow::Result<Vec<Figure>> {
    let samples = setting.in_turns(whos.len(), |who| {
        let one = || -> anyhow::Result<[f64; WORK.len()]> {
            let folder = setting.path("stack");
            fs::create_dir_all(&folder).context("a folder")?;
            let mut stack = Stack::over(&folder, below(setting, &folder, whos[who])?)?;
            stack.make(make)?;
            let rates = work(setting, &mut stack, archive)?;
            drop(stack);
            fs::remove_dir_all(&folder).context("removing a stack's files")?;
            Ok(rates)
        };
        one().with_context(|| format!("{kind} on {}", whos[who]))
    })?;
    let of = |who: usize, which: usize| samples[who].iter().map(|rates| rates[which]).collect::<Vec<f64>>();
    let mut figures = Vec::new();
    for (which, (name, unit)) in WORK.into_iter().enumerate() {
        for (who, name_of) in whos.iter().enumerate() {
            let figure = Figure::of(&format!("{kind}: {name}"), unit, &of(who, which));
            let figure = if *name_of == OURS { figure.by(OURS) } else { figure.beside(name_of) };
            figures.push(match who {
                0 => figure,
                _ => figure.against(PLAIN, &ratios(&of(who, which), &of(0, which))),
            });
        }
    }
    Ok(figures)
}

/// What the loop device lies on.
fn below(setting: &Setting<'_>, folder: &Path, who: &str) -> anyhow::Result<Below> {
    let (file, socket) = (folder.join("fs.main"), folder.join("nbd"));
    let serve = |command: Command| {
        let server = Server::start(command, &socket, &folder.join("log"), &folder.join("pid"))?;
        Ok(Below::Server(server, socket.clone()))
    };
    match who {
        PLAIN => {
            create(&file, SIZE, false)?;
            Ok(Below::File(file))
        }
        RIVAL => {
            create(&file, SIZE, false)?;
            let mut command = needs::command("nbdkit", "nbdkit")?;
            command.args(["--foreground", "--unix"]).arg(&socket).arg("file").arg(&file);
            serve(command)
        }
        _ => {
            let shape =
                Shape { size: SIZE, remaps: 0, spares: 1, written: false, policy: Policy::RewriteThenRemap };
            serve(Made::make(folder, "fs", shape)?.serve(setting.product, &socket))
        }
    }
}

/// An archive of files of up to 16 KiB in folders of a hundred.
fn pack(archive: &Path, files: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(archive.parent().context("a folder")?).context("a folder")?;
    let mut rng = Rng::seeded(8);
    for n in 0..files {
        let file = folder.path().join(place(n));
        fs::create_dir_all(file.parent().context("a folder")?).context("a folder")?;
        let bytes: Vec<u8> = (0..rng.below(16 << 10)).map(|_| rng.next_u64() as u8).collect();
        fs::write(file, bytes).context("a file to be packed")?;
    }
    let mut tar = needs::command("tar", "tar")?;
    tar.arg("-cf").arg(archive).arg("-C").arg(folder.path()).arg(".");
    needs::output(tar).map(drop)
}

fn place(file: u64) -> PathBuf {
    format!("{}/{file}", file / 100).into()
}

/// Does the work on an empty file system; rates in the order of [`WORK`].
fn work(
    setting: &Setting<'_>,
    stack: &mut Stack,
    (archive, files): (&Path, u64),
) -> anyhow::Result<[f64; WORK.len()]> {
    let root = &stack.root();
    let timed = |count: f64, step: &mut dyn FnMut() -> anyhow::Result<()>| {
        let begin = Instant::now();
        step()?;
        anyhow::Ok(count / begin.elapsed().as_secs_f64())
    };
    let settle = || File::open(root).and_then(|top| Ok(syncfs(top)?)).context("a sync");
    let many = files as f64;
    let unpacked = timed(many, &mut || {
        let mut tar = needs::command("tar", "tar")?;
        tar.arg("-xf").arg(archive).arg("-C").arg(root);
        needs::output(tar)?;
        settle()
    })?;
    stack.remount()?;
    let read = timed(many, &mut || {
        (0..files).try_for_each(|n| fs::read(root.join(place(n))).map(drop)).context("reading a file")
    })?;
    let deleted = timed(many, &mut || {
        (0..files).try_for_each(|n| fs::remove_file(root.join(place(n)))).context("deleting a file")?;
        settle()
    })?;
    let fsyncs = setting.pick(50_u32, 300);
    let fsynced = timed(f64::from(fsyncs), &mut || {
        let mut file = File::create(root.join("log")).context("a file")?;
        (0..fsyncs)
            .try_for_each(|_| file.write_all(&[7; 4096]).and_then(|()| file.sync_all()))
            .context("an fsync")
    })?;
    let mib = setting.pick(32_u32, 256);
    let chunk = vec![3; 1 << 20];
    let written = timed(f64::from(mib) * 1.048_576, &mut || {
        let mut file = File::create(root.join("large")).context("a file")?;
        (0..mib)
            .try_for_each(|_| file.write_all(&chunk))
            .and_then(|()| file.sync_all())
            .context("a large file")
    })?;
    Ok([unpacked, read, deleted, fsynced, written])
}
