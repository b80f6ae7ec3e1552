//! A guest's first file system: programs, modules, scripts, and what this run brings in.
//!
//! Invariant: a program comes with all that it loads; nothing comes from the machine itself but what the run names.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Job;
use super::disks::Bus;
use super::kernels::{Booted, Kernel};
use super::newc::Archive;
use super::tree::{Part, Program, Tree};

/// Scripts of the tree are at the same places below `/tree`, with the files beside them and the documents that some of them follow.
const SCRIPTS: [&str; 3] = ["kernel/tests", "guest", "docs"];

/// What every guest has.
const PROGRAMS: [&str; 8] = ["busybox", "dash", "dd", "depmod", "dmsetup", "insmod", "modprobe", "rmmod"];

/// Folders of packages that a program reads when it runs, besides its libraries.
const BESIDE: [(&str, &[&str]); 7] = [
    ("cryptsetup", &["lib/x86_64-linux-gnu/cryptsetup"]),
    ("mkfs.ext4", &["etc/mke2fs.conf"]),
    ("multipath", &["lib/multipath"]),
    ("multipathd", &["lib/multipath"]),
    ("nbdkit", &["lib/x86_64-linux-gnu/nbdkit/plugins", "lib/x86_64-linux-gnu/nbdkit/filters"]),
    ("systemctl", &["lib/systemd"]),
    ("systemd-udevd", &["lib/udev", "etc/udev"]),
];

/// What `udev` is made of.
const UDEV: [&str; 3] = ["udevadm", "blkid", "dmsetup"];

/// Without udev nobody waits for it, and programs make their own names.
const NO_UDEV: &str = "export DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1\n";
const LVM_WITHOUT_UDEV: &str =
    "activation { udev_sync=0 udev_rules=0 monitoring=0 }\ndevices { obtain_device_list_from_udev=0 }\n";

/// Loaded programs ask for it by name when a thread ends.
const UNWINDER: &str = "lib/x86_64-linux-gnu/libgcc_s.so.1";

/// Builds it; gives its file.
///
/// # Errors
/// Something that is wanted is not there.
pub(super) fn build(job: &Job, tree: &Tree, kernel: &Booted, home: &Path) -> Result<PathBuf> {
    let file = home.join("initrd");
    let to = File::create(&file).with_context(|| format!("making {}", file.display()))?;
    let mut image = Image { archive: Archive::into(BufWriter::new(to)), tree };
    image.skeleton()?;
    image.programs(job)?;
    let modules = home.join("modules");
    for part in kernel.modules(tree, &job.more_modules, &job.modules, &modules)? {
        image.part(&part)?;
    }
    fs::remove_dir_all(&modules).context("removing copies of modules")?;
    let script = image.scripts(job)?;
    for (from, to) in &job.files {
        image.bring(from, to.trim_start_matches('/'))?;
    }
    image.archive.file("vm/job", 0o644, sheet(job, &script).as_bytes())?;
    image.archive.finish()?;
    Ok(file)
}

struct Image<'a, W> {
    archive: Archive<W>,
    tree: &'a Tree,
}

impl<W: Write> Image<'_, W> {
    fn skeleton(&mut self) -> Result<()> {
        let a = &mut self.archive;
        for folder in
            ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "run", "root", "mnt", "etc"]
        {
            a.folder(folder)?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            a.link(link, &format!("usr/{link}"))?;
        }
        a.link("usr/bin/sh", "dash")?;
        a.file("init", 0o755, include_bytes!("init.sh"))?;
        a.file("vm/end", 0o755, include_bytes!("end.sh"))?;
        a.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        let groups = [
            "root", "tty", "disk", "cdrom", "floppy", "tape", "dialout", "audio", "video", "input", "kmem",
            "lp", "kvm", "render", "sgx",
        ];
        let lines: String = groups.iter().enumerate().map(|(id, name)| format!("{name}:x:{id}:\n")).collect();
        a.file("etc/group", 0o644, lines.as_bytes())?;
        Ok(())
    }

    fn programs(&mut self, job: &Job) -> Result<()> {
        let udev = if job.udev { &UDEV[..] } else { &[] };
        if !job.udev {
            self.archive.file("etc/lvm/lvm.conf", 0o644, LVM_WITHOUT_UDEV.as_bytes())?;
        }
        for name in PROGRAMS.iter().chain(udev).copied().chain(job.programs.iter().map(String::as_str)) {
            let Program { parts, link } = self.tree.in_guest(name)?;
            for part in parts {
                self.part(&part)?;
            }
            if let Some((path, to)) = link {
                self.archive.link(&path, &to)?;
            }
            self.beside(name)?;
        }
        if job.udev {
            let daemon = self.tree.program("udevadm")?;
            for part in self.tree.with_libraries(&daemon, "usr/lib/systemd/systemd-udevd")? {
                self.part(&part)?;
            }
            self.beside("systemd-udevd")?;
        }
        let unwinder = self.tree.find(UNWINDER).context("no package that is unpacked has libgcc_s")?;
        self.part(&Part { file: unwinder, path: format!("usr/{UNWINDER}") })
    }

    fn beside(&mut self, program: &str) -> Result<()> {
        let folders = BESIDE.iter().filter(|(name, _)| *name == program).flat_map(|(_, folders)| *folders);
        for folder in folders {
            let parts = match self.tree.find(folder) {
                Some(file) if file.is_file() => vec![Part { file, path: (*folder).to_owned() }],
                _ => self.tree.folder(folder)?,
            };
            for part in parts.into_iter().filter(|part| !part.path.contains("/hwdb")) {
                // What of it cannot run for want of a library is of no use to anybody.
                for part in self.tree.with_libraries(&part.file, &part.path).unwrap_or_default() {
                    self.part(&part)?;
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        if self.archive.holds(&part.path) {
            return Ok(());
        }
        let context = || format!("reading {}", part.file.display());
        let bytes = fs::read(&part.file).with_context(context)?;
        let permissions = fs::metadata(&part.file).with_context(context)?.permissions().mode() & 0o777;
        Ok(self.archive.file(&part.path, permissions | 0o444, &bytes)?)
    }

    /// Scripts of the tree, and the one that runs; gives its place.
    fn scripts(&mut self, job: &Job) -> Result<String> {
        for folder in SCRIPTS {
            let here = job.root.join(folder);
            let mut files: Vec<PathBuf> =
                fs::read_dir(&here).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files.iter().filter(|file| file.is_file()) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                self.archive.file(&format!("tree/{folder}/{name}"), 0o755, &fs::read(file)?)?;
            }
        }
        let script = job.script.canonicalize().with_context(|| format!("script {}", job.script.display()))?;
        let below = script.strip_prefix(job.root.canonicalize()?).ok().map(|path| path.display().to_string());
        let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = format!("tree/{}", below.unwrap_or(name));
        let bytes = fs::read(&script).with_context(|| format!("script {}", job.script.display()))?;
        self.archive.file(&place, 0o755, &bytes)?;
        Ok(format!("/{place}"))
    }

    /// A file or folder of the machine; programs with their libraries, which come from packages.
    fn bring(&mut self, from: &Path, to: &str) -> Result<()> {
        let kind = fs::metadata(from).with_context(|| format!("file {}", from.display()))?;
        if kind.is_dir() {
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                self.bring(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
            }
            return Ok(());
        }
        ensure!(kind.is_file(), "{} is neither a file nor a folder", from.display());
        if self.archive.holds(to) {
            bail!("{}: the guest has something else at /{to}", from.display());
        }
        for part in self.tree.with_libraries(from, to)? {
            self.part(&part)?;
        }
        Ok(())
    }
}

/// What the first process reads.
fn sheet(job: &Job, script: &str) -> String {
    let (kind, output) = match job.kernel {
        Kernel::Uml => ("uml", "/dev/tty1"),
        Kernel::Debian(_) => ("qemu", "/dev/ttyS1"),
    };
    let mut drivers = String::new();
    if kind == "qemu" {
        drivers += "virtio_pci virtio_blk";
        for (bus, names) in [(Bus::Scsi, " virtio_scsi sd_mod"), (Bus::Nvme, " nvme")] {
            if job.disks.iter().any(|disk| disk.bus == bus) {
                drivers += names;
            }
        }
    }
    let mut text = format!("VM_OUTPUT={output} VM_DRIVERS={}\nexport VM_OUTPUT\n", quoted(&drivers));
    text += &format!("export VM_KIND={kind} VM_SCRIPT={}\n", quoted(script));
    // Booting takes some seconds of the limit.
    text += &format!("VM_PATIENCE={}\n", job.seconds.saturating_sub(20).max(job.seconds / 2));
    if !job.udev {
        text += NO_UDEV;
    }
    for (name, value) in &job.environment {
        text += &format!("export {name}={}\n", quoted(value));
    }
    text += "set --";
    for argument in &job.arguments {
        text += &format!(" {}", quoted(argument));
    }
    text += "\ndisks() {\n";
    for (number, disk) in job.disks.iter().enumerate() {
        text += &format!("    disk {} {} {number}\n", disk.name, quoted(&disk.serial));
    }
    text + "}\n"
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_what_was_meant() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
