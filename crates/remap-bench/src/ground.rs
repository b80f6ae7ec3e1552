//! The files that are served: one main device for everybody, and the spares of our two volumes on it.
//!
//! Invariant: everything is made in a folder of this run's own, which goes away with it; no device or volume of anybody else is opened.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use remap_sim::rng::Rng;
use tempfile::TempDir;

use crate::needs;
use crate::server::Server;

/// Name of both volumes, and of the export where a server wants one.
pub(crate) const EXPORT: &str = "bench";
const BLOCK: u64 = 4096;
/// Bytes of a spare (sparse) per entry that its metadata shall have room for: they take a fiftieth of it.
pub(crate) const SPARE_PER_REMAP: u64 = 40 << 10;
pub(crate) const SPARE_MIN: u64 = 64 << 20;

/// Where the files are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory: what software costs.
    Tmpfs,
    /// On a disk, past the page cache.
    Disk,
}

impl Place {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Disk => "disk",
        }
    }
}

/// The files of one place.
pub(crate) struct Ground {
    pub(crate) place: Place,
    pub(crate) folder: TempDir,
    /// Bytes of the main device.
    pub(crate) size: u64,
    /// Remapped blocks of the second volume.
    pub(crate) remaps: u64,
    product: PathBuf,
}

impl Ground {
    /// Makes the files in `parent`: a main device full of bytes that are not zero, a volume without and a volume with `remaps` remaps.
    ///
    /// # Errors
    /// There is no room, or the volumes cannot be made.
    pub(crate) fn lay(place: Place, parent: &Path, size: u64, remaps: u64) -> anyhow::Result<Self> {
        ensure!(
            remaps <= size / BLOCK / 2,
            "{remaps} remaps are more than half of the blocks; make --size larger"
        );
        let product = product()?;
        let folder = tempfile::Builder::new().prefix("dm-remap-bench-").tempdir_in(parent);
        let folder = folder.with_context(|| format!("a folder in {}", parent.display()))?;
        let wanted = 2 * size + remaps * BLOCK + (64 << 20);
        let free = rustix::fs::statvfs(folder.path()).context("free space")?;
        let free = free.f_bavail * free.f_frsize;
        ensure!(free > wanted, "{}: {} MiB free, {} needed", parent.display(), free >> 20, wanted >> 20);
        let ground = Self { place, folder, size, remaps, product };
        ground.fill().context("filling the main device")?;
        ground.adopt("clean", &[])?;
        ground.adopt("remapped", &ground.bad_sectors())?;
        ground.remap()?;
        Ok(ground)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn main(&self) -> PathBuf {
        self.path("main.img")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("nbd")
    }

    /// Where a server that goes to the background says under which number.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.path("server.pid")
    }

    /// Starts a server on these files and waits until it accepts connections.
    pub(crate) fn start(&self, command: Command) -> anyhow::Result<Server> {
        Server::start(command, &self.socket(), &self.path("server.log"), &self.pid_file())
    }

    /// A file as large as the main device, to be copied onto it.
    pub(crate) fn source(&self) -> PathBuf {
        self.path("source.img")
    }

    /// `dm-remap serve` of one of the two volumes.
    pub(crate) fn serve(&self, volume: &str) -> Command {
        let mut command = Command::new(&self.product);
        command.arg("serve").arg(self.main()).arg("--spare").arg(self.path(volume));
        command.arg("--unix").arg(self.socket()).arg("--control").arg(self.path("control"));
        if self.place == Place::Disk {
            command.arg("--direct");
        }
        command
    }

    /// On a disk nothing of the main device is left in the page cache: a write past it waits for what another contender left there.
    ///
    /// # Errors
    /// The main device cannot be flushed.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        if self.place == Place::Disk {
            let main = File::options().write(true).open(self.main()).context("opening the main device")?;
            main.sync_all().context("flushing the main device")?;
            rustix::fs::fadvise(&main, 0, None, rustix::fs::Advice::DontNeed)
                .context("emptying the page cache")?;
        }
        Ok(())
    }

    /// Neither file has holes or zeroes, which a copy would pass over.
    fn fill(&self) -> anyhow::Result<()> {
        let mut rng = Rng::seeded(1);
        let chunk: Vec<u8> = (0..1 << 20).map(|_| rng.next_u64() as u8 | 1).collect();
        for path in [self.main(), self.source()] {
            let mut file = File::create(path)?;
            for _ in 0..self.size >> 20 {
                file.write_all(&chunk)?;
            }
            file.sync_all()?;
        }
        Ok(())
    }

    /// One sector in one block of each of `remaps` equal stretches of the device, at random.
    fn bad_sectors(&self) -> Vec<u64> {
        let mut rng = Rng::seeded(2);
        let stretch = self.size / BLOCK / self.remaps.max(1);
        (0..self.remaps).map(|n| (n * stretch + rng.below(stretch)) * (BLOCK / 512) + rng.below(8)).collect()
    }

    fn adopt(&self, volume: &str, bad: &[u64]) -> anyhow::Result<()> {
        let list = self.path("bad.list");
        let mut file = BufWriter::new(File::create(&list).context("the list of bad sectors")?);
        for sector in bad {
            writeln!(file, "{sector}").context("the list of bad sectors")?;
        }
        file.into_inner().context("the list of bad sectors")?;
        let spare = (bad.len() as u64 * SPARE_PER_REMAP).max(SPARE_MIN);
        let mut command = Command::new(&self.product);
        command.arg("adopt").arg(self.main()).arg("--spare").arg(self.path(volume));
        command.args(["--name", EXPORT, "--policy", "remap-only", "--create-spare", &spare.to_string()]);
        if !bad.is_empty() {
            command.arg("--map").arg(&list).args(["--map-format", "list"]);
        }
        needs::output(command)?;
        Ok(())
    }

    /// Writes the whole device once through the server: every block with a lost sector moves to the spare.
    fn remap(&self) -> anyhow::Result<()> {
        let _server = self.start(self.serve("remapped"))?;
        let mut copy = needs::command("nbdcopy", "libnbd-bin")?;
        copy.arg(self.source()).arg(uri(&self.socket()));
        needs::output(copy)?;
        let mut status = Command::new(&self.product);
        status.arg("status").arg(self.path("control")).arg("--line");
        let line = needs::output(status)?;
        let remapped = line.split_whitespace().nth(4).and_then(|field| field.split('/').next());
        if remapped != Some(self.remaps.to_string().as_str()) {
            bail!("the volume should have {} remaps, but its status is: {}", self.remaps, line.trim());
        }
        Ok(())
    }
}

/// The program that is measured.
///
/// # Errors
/// It is not beside this one.
pub(crate) fn product() -> anyhow::Result<PathBuf> {
    let product = std::env::current_exe().context("where this program is")?.with_file_name("dm-remap");
    ensure!(product.is_file(), "{} is not there: start this by `cargo xtask bench`", product.display());
    Ok(product)
}

/// What a client calls the export on this socket.
pub(crate) fn uri(socket: &Path) -> String {
    format!("nbd+unix:///{EXPORT}?socket={}", socket.display())
}
