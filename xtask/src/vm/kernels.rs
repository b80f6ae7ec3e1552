//! Kernels that guests run under, and the modules that they find.
//!
//! Invariant: what is unpacked is as the package has it, but for compression: kernels and modules are unpacked once on the host, where that is
//! cheap.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::tree::{Part, Tree};
use crate::packages::{Apt, NEWEST};
use crate::run::output;

/// What scripts may load on every kernel that has it.
const MODULES: &[&str] = &[
    "dm-mod",
    "dm-flakey",
    "dm-dust",
    "dm-crypt",
    "dm-raid",
    "dm-snapshot",
    "dm-multipath",
    "dm-service-time",
    "dm-round-robin",
    "dm-queue-length",
    "dm-thin-pool",
    "dm-delay",
    "dm-zero",
    "dm-mirror",
    "dm-integrity",
    "dm-verity",
    "dm-cache",
    "dm-cache-smq",
    "dm-writecache",
    "dm-log-writes",
    "dm-unstriped",
    "md-mod",
    "linear",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "nbd",
    "ublk_drv",
    "loop",
    "brd",
    "null_blk",
    "zram",
    "scsi_debug",
    "sd_mod",
    "sg",
    "virtio_blk",
    "virtio_pci",
    "virtio_scsi",
    "nvme",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "overlay",
    "fuse",
    "configfs",
    "essiv",
    "xts",
    "cbc",
    "ecb",
    "aes_generic",
    "aesni_intel",
    "sha256_generic",
    "sha1_generic",
    "hmac",
    "authenc",
    "algif_skcipher",
    "algif_hash",
    "af_alg",
    "crc32c_generic",
    "crc32c_intel",
    "crct10dif_pclmul",
    "crc64_rocksoft_generic",
    "crc32_generic",
    "xxhash_generic",
    "blake2b_generic",
];

/// Beside the modules: what was built into the kernel, and the order in which aliases are tried.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// A kernel by the name that people give it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kernel {
    /// Debian's User-mode Linux.
    Uml,
    /// A series of Debian's kernels (6.1, 6.12), the newest of all, or a release.
    Debian(String),
}

impl std::str::FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uml" => Ok(Self::Uml),
            NEWEST => Ok(Self::Debian(text.to_owned())),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') => {
                Ok(Self::Debian(text.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is no kernel: give uml, a series of Debian's (6.1, 6.12), newest, or a release (6.1.0-1-amd64)"
            )),
        }
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uml => f.write_str("uml"),
            Self::Debian(name) => f.write_str(name),
        }
    }
}

/// What a kernel runs in.
pub(super) enum Machine {
    /// A process of this machine, with a library that it needs to run on every processor.
    Process { preload: PathBuf },
    /// qemu, in this tree.
    Qemu(Tree),
}

/// A kernel that is here.
pub(super) struct Booted {
    pub(super) release: String,
    /// What the machine starts.
    pub(super) image: PathBuf,
    /// The package's folder of modules.
    modules: PathBuf,
    /// What it runs in.
    pub(super) machine: Machine,
    /// Modules without compression, at the places that they have there.
    plain: PathBuf,
    unpacking: Mutex<()>,
}

impl Booted {
    /// Fetches and unpacks the kernel if it is not here.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn provide(root: &Path, tree: &Tree, kernel: &Kernel) -> Result<Self> {
        let home = root.join("target/vm/kernels");
        let (release, image, modules) = match kernel {
            Kernel::Uml => {
                let all =
                    tree.find("usr/lib/uml/modules").context("the package user-mode-linux has no modules")?;
                let modules = only(&all)?;
                (name(&modules), tree.program("linux.uml")?, modules)
            }
            Kernel::Debian(asked) => debian(root, tree, &home, asked)?,
        };
        let plain = home.join("plain").join(&release);
        let machine = match kernel {
            Kernel::Uml => Machine::Process { preload: registers(root)? },
            Kernel::Debian(_) => Machine::Qemu(Tree::emulator(root)?),
        };
        Ok(Self { release, image, modules, machine, plain, unpacking: Mutex::new(()) })
    }

    /// The modules in `more` and those that every guest has, with all that they need, and `own` ones built by us; in `scratch` is room for
    /// what depends on the choice.
    ///
    /// # Errors
    /// A module in `more` is not there, or one cannot be unpacked.
    pub(super) fn modules(
        &self,
        tree: &Tree,
        more: &[String],
        own: &[PathBuf],
        scratch: &Path,
    ) -> Result<Vec<Part>> {
        let all = index(&self.modules)?;
        if let Some(none) = more.iter().find(|name| !all.contains_key(&plain_name(name))) {
            bail!("kernel {} has no module `{none}`", self.release);
        }
        let mut wanted: BTreeSet<String> = MODULES.iter().map(|name| plain_name(name)).collect();
        wanted.extend(more.iter().map(|name| plain_name(name)));
        let mut done = BTreeMap::new();
        loop {
            let next: Vec<&String> = wanted.iter().filter(|name| !done.contains_key(*name)).collect();
            if next.is_empty() {
                break;
            }
            // What a kernel does not have as a module may be built in, or be of no use to it.
            let packed: Vec<&PathBuf> = next.iter().filter_map(|name| all.get(*name)).collect();
            self.unpack(tree, &packed)?;
            let mut found = BTreeSet::new();
            for name in next {
                let file = all.get(name).map(|path| self.plain.join(plain_path(path)));
                if let Some(file) = &file {
                    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
                    found.extend(needs(&bytes));
                }
                done.insert(name.clone(), file);
            }
            wanted.extend(found);
        }
        let files: Vec<PathBuf> = done.into_values().flatten().collect();
        self.index_for_guest(tree, &files, own, scratch)
    }

    /// Modules without compression.
    fn unpack(&self, tree: &Tree, packed: &[&PathBuf]) -> Result<()> {
        let _one_at_a_time = self.unpacking.lock();
        for path in packed {
            let plain = self.plain.join(plain_path(path));
            if plain.exists() {
                continue;
            }
            let from = self.modules.join(path);
            fs::create_dir_all(plain.parent().unwrap_or(&plain))?;
            let program = match path.extension().and_then(|end| end.to_str()) {
                Some("xz") => Some("xz"),
                Some("zst") => Some("zstd"),
                _ => None,
            };
            // Under another name first: a file that is there is whole.
            let part = plain.with_extension(format!("{}.part", std::process::id()));
            match program {
                Some(program) => {
                    let to = fs::File::create(&part).with_context(|| format!("making {}", part.display()))?;
                    let status = tree.command(program)?.arg("-dcq").arg(&from).stdout(to).status()?;
                    ensure!(status.success(), "{} cannot be unpacked: {program}: {status}", from.display());
                }
                None => {
                    fs::copy(&from, &part).map(drop).with_context(|| format!("copying {}", from.display()))?
                }
            }
            fs::rename(&part, &plain)?;
        }
        Ok(())
    }

    /// Puts the chosen modules together and lets depmod make its lists of them.
    fn index_for_guest(
        &self,
        tree: &Tree,
        files: &[PathBuf],
        own: &[PathBuf],
        scratch: &Path,
    ) -> Result<Vec<Part>> {
        let below = Path::new("lib/modules").join(&self.release);
        let home = scratch.join(&below);
        let mut chosen = Vec::new();
        for file in files {
            chosen.push((file.clone(), file.strip_prefix(&self.plain)?.to_owned()));
        }
        for list in LISTS {
            let file = self.modules.join(list);
            if file.exists() {
                chosen.push((file, PathBuf::from(list)));
            }
        }
        for file in own {
            let name = file.file_name().with_context(|| format!("{} is no module", file.display()))?;
            chosen.push((file.clone(), Path::new("updates").join(name)));
        }
        for (file, path) in chosen {
            let to = home.join(path);
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::copy(&file, &to).with_context(|| format!("copying {}", file.display()))?;
        }
        output(tree.command("depmod")?.arg("-b").arg(scratch).arg(&self.release))?;
        let mut parts = Vec::new();
        for file in files_below(&home)? {
            let path = Path::new("usr").join(&below).join(file.strip_prefix(&home)?);
            parts.push(Part { path: path.display().to_string(), file });
        }
        Ok(parts)
    }
}

/// Builds the library that lets User-mode Linux run where the processor has more registers than it knows.
fn registers(root: &Path) -> Result<PathBuf> {
    let target = root.join("target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--locked", "--package", "uml-registers", "--target-dir"]);
    output(cargo.arg(&target).current_dir(root).env_remove("RUSTFLAGS"))?;
    Ok(target.join("release/libuml_registers.so"))
}

/// Release, image and modules of one of Debian's kernels.
fn debian(root: &Path, tree: &Tree, home: &Path, asked: &str) -> Result<(String, PathBuf, PathBuf)> {
    let apt = Apt::open(root)?;
    let package = apt.kernel("image", asked)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let at = home.join(&release);
    if !at.join("ready").exists() {
        println!("xtask: unpacking {package} below {}", at.display());
        let parts = |name: &String| {
            let rest = name.strip_prefix("linux-").unwrap_or_default();
            ["image-", "binary-", "modules-"].iter().any(|part| rest.starts_with(part))
        };
        let mut packages = vec![package.clone()];
        packages.extend(apt.depends(&package)?.into_iter().filter(parts));
        apt.unpack(&packages, &at)?;
        // Packages of 7 and later keep it with the modules.
        let places = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let boot = places.map(|place| at.join(place)).into_iter().find(|file| file.is_file());
        let boot = boot.with_context(|| format!("{package} has no vmlinuz"))?;
        let packed = fs::read(&boot).with_context(|| format!("{package}: reading {}", boot.display()))?;
        fs::write(at.join("vmlinux"), unpacked(tree, &packed)?)?;
        fs::write(at.join("ready"), "")?;
    }
    let places = ["lib", "usr/lib"].map(|lib| at.join(lib).join("modules").join(&release));
    let modules = places.into_iter().find(|folder| folder.is_dir());
    Ok((release, at.join("vmlinux"), modules.with_context(|| format!("{package} has no modules"))?))
}

/// The kernel inside an image that unpacks itself: booting it saves the guest a second or more. An image of another kind is left alone.
fn unpacked(tree: &Tree, image: &[u8]) -> Result<Vec<u8>> {
    let Some(payload) = payload(image) else { return Ok(image.to_vec()) };
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        _ => return Ok(image.to_vec()),
    };
    let mut child = tree
        .command(program)?
        .arg("-dcq")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let input = child.stdin.take();
    let done = thread::scope(|scope| {
        // It may stop reading at the end of what it knows: a length follows there.
        scope.spawn(move || input.map(|mut pipe| pipe.write_all(payload)));
        child.wait_with_output()
    })?;
    Ok(if done.stdout.starts_with(b"\x7fELF") { done.stdout } else { image.to_vec() })
}

/// What an x86 image unpacks, by its own header.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = usize::from(*image.get(0x1f1)?);
    let start = (sectors + 1) * 512 + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

/// Modules below a folder, by name.
fn index(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for file in files_below(&folder.join("kernel"))? {
        let path = file.strip_prefix(folder)?.to_owned();
        if let Some((name, end)) = name(&path).split_once('.')
            && end.starts_with("ko")
        {
            found.insert(plain_name(name), path);
        }
    }
    Ok(found)
}

/// Names of modules have `-` in files and `_` in the kernel.
fn plain_name(name: &str) -> String {
    name.replace('-', "_")
}

fn plain_path(path: &Path) -> PathBuf {
    match path.extension().and_then(|end| end.to_str()) {
        Some("xz" | "zst") => path.with_extension(""),
        _ => path.to_owned(),
    }
}

/// Modules that a module says it needs: before it, or beside it.
fn needs(module: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for text in module.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        if let Some(list) = text.strip_prefix("depends=") {
            found.extend(list.split(',').filter(|name| !name.is_empty()).map(plain_name));
        } else if let Some(list) = text.strip_prefix("softdep=") {
            found.extend(list.split_whitespace().filter(|word| !word.ends_with(':')).map(plain_name));
        }
    }
    found
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The only thing in a folder.
fn only(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    ensure!(
        entries.next().is_none(),
        "{} holds more than one kernel's modules: remove target/vm",
        folder.display()
    );
    Ok(first.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Kernel, needs, payload, plain_path};
    use std::path::Path;

    #[test]
    fn names_of_kernels() {
        assert_eq!("uml".parse(), Ok(Kernel::Uml));
        assert_eq!("6.12".parse(), Ok(Kernel::Debian("6.12".to_owned())));
        assert_eq!("newest".parse(), Ok(Kernel::Debian("newest".to_owned())));
        assert!("umm".parse::<Kernel>().is_err_and(|error| error.contains("6.12")));
    }

    #[test]
    fn what_modules_need() {
        let module =
            b"\x7fELF\0license=GPL\0depends=dm-mod,libcrc32c\0softdep=pre: crc32c post: x\0depends=\0";
        assert_eq!(needs(module), ["dm_mod", "libcrc32c", "crc32c", "x"]);
        assert_eq!(plain_path(Path::new("kernel/a.ko.xz")), Path::new("kernel/a.ko"));
        assert_eq!(plain_path(Path::new("kernel/a.ko")), Path::new("kernel/a.ko"));
    }

    #[test]
    fn images_say_where_their_kernel_is() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&4_u32.to_le_bytes());
        image[1040..1044].copy_from_slice(b"body");
        assert_eq!(payload(&image), Some(&b"body"[..]));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"\x7fELF"), None);
    }
}
