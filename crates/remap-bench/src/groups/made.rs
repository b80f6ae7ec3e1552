//! Volumes of any size, with any number of remaps, made in moments: sparse files, and metadata that the product's own code wrote.
//!
//! Invariant: their metadata are those of a volume whose blocks were remapped one by one; only the bytes in slots were never written.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use remap_core::recovery::Recovered;
use remap_format::layout::plan;
use remap_format::{MainIdentity, Policy, Superblock};
use remap_io::{Device, Drill, OpenOptions as DeviceOptions};
use remap_runtime::{OnNotice, OpenOptions, Volume, main_identity, rewrite};

use crate::ground::{EXPORT, SPARE_MIN, SPARE_PER_REMAP};
use crate::scatter;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
const CHUNK: usize = 1 << 20;

/// What a volume is to be.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of the main device.
    pub(super) size: u64,
    /// Scattered remapped blocks; only with one spare.
    pub(super) remaps: u64,
    pub(super) spares: usize,
    /// All files hold what was written to them once; else they are sparse.
    pub(super) written: bool,
    pub(super) policy: Policy,
}

/// A volume that nobody serves.
pub(super) struct Made {
    pub(super) main: PathBuf,
    pub(super) spares: Vec<PathBuf>,
    pub(super) superblock: Superblock,
}

impl Made {
    /// Makes it in `folder`; its files begin with `name`.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn make(folder: &Path, name: &str, shape: Shape) -> anyhow::Result<Self> {
        let file = |part: &str| folder.join(format!("{name}.{part}"));
        let (main, size) = (file("main"), shape.remaps * SPARE_PER_REMAP + SPARE_MIN);
        create(&main, shape.size, shape.written)?;
        let spares: Vec<PathBuf> = (0..shape.spares).map(|n| file(&format!("spare{n}"))).collect();
        for spare in &spares {
            create(spare, size, shape.written)?;
        }
        let sizes = vec![size; shape.spares];
        let copies = plan(&sizes, BLOCK).context("the spares")?;
        let records: Vec<_> = (1_u8..).zip(&sizes).map(|(n, &size)| ([n; 16], size)).collect();
        // As of a drive with sectors of 4 KiB: a block that cannot be read is one read, not one more for each sector.
        let identity = MainIdentity { logical_block: BLOCK as u32, ..main_identity(&device(&main)?) };
        let superblock = Superblock {
            policy: shape.policy,
            ..Superblock::new([9; 16], EXPORT, BLOCK as u32, &copies, &records, identity)
        };
        let entries = scatter::entries_over(shape.size / BLOCK, shape.remaps);
        let entries = scatter::placed(&superblock, entries);
        let recovered = Recovered::fresh(superblock.clone(), &entries).context("the table")?;
        let made = Self { main, spares, superblock };
        rewrite(&made.spare_devices()?, recovered).context("the metadata")?;
        Ok(made)
    }

    pub(super) fn spare_devices(&self) -> anyhow::Result<Vec<Device>> {
        self.spares.iter().map(|spare| device(spare)).collect()
    }

    /// Puts it into service in this process.
    ///
    /// # Errors
    /// It does not open.
    pub(super) fn open(
        &self,
        drill: Option<Arc<Drill>>,
        on_notice: Option<OnNotice>,
    ) -> anyhow::Result<Volume> {
        let mut main = device(&self.main)?;
        if let Some(drill) = drill {
            main = main.with_drill(drill);
        }
        let options = OpenOptions { on_notice, ..OpenOptions::default() };
        Ok(Volume::open(main, self.spare_devices()?, options).context("opening a volume")?.0)
    }

    /// `dm-remap serve` of it.
    pub(super) fn serve(&self, product: &Path, socket: &Path) -> Command {
        let mut command = self.command(product, "serve");
        command.arg("--unix").arg(socket).arg("--control").arg(socket.with_extension("control"));
        command
    }

    /// A command of the product that names the volume by its devices.
    pub(super) fn command(&self, product: &Path, name: &str) -> Command {
        let mut command = Command::new(product);
        command.arg(name).arg(&self.main);
        self.spares.iter().for_each(|spare| {
            command.arg("--spare").arg(spare);
        });
        command
    }

    /// Removes its files.
    pub(super) fn remove(self) {
        for file in self.spares.iter().chain([&self.main]) {
            // The folder goes away in any case.
            let _ = fs::remove_file(file);
        }
    }
}

/// Opens a file as the product does.
pub(super) fn device(path: &Path) -> anyhow::Result<Device> {
    let options = DeviceOptions { write: true, exclusive: true, ..DeviceOptions::default() };
    Ok(Device::open(path, &options)?)
}

/// A file of zeroes.
pub(super) fn create(path: &Path, size: u64, written: bool) -> anyhow::Result<()> {
    let make = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        if written {
            let chunk = vec![0; CHUNK];
            for at in (0..size).step_by(CHUNK) {
                file.write_all(&chunk[..CHUNK.min((size - at) as usize)])?;
            }
            return file.sync_all();
        }
        file.set_len(size)
    };
    make().with_context(|| format!("making {} of {} MiB", path.display(), size >> 20))
}
