//! New spares for `metadata repair` and `metadata rollback`.
//!
//! Invariant: an output that holds something is not touched without `force`, and files that were made are gone again if the
//! command fails.

use indicatif::{ProgressBar, ProgressStyle};
use remap_core::recovery::RecoveryError;
use remap_format::Superblock;
use remap_io::Device;

use super::repair::{self, Outcome};
use super::salvage::Salvage;
use crate::cli::NewSparesArg;
use crate::exit::{Exit, refusal};
use crate::files::Made;
use crate::open::{Access, Opener};

/// The outputs of a command.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    devices: Vec<Device>,
    made: Vec<Made>,
}

impl Outputs {
    /// Opens, and makes if need be, one output for each spare of the volume.
    ///
    /// # Errors
    /// There are too few or too many, one is too small, or holds something.
    pub(crate) fn open(
        args: &NewSparesArg,
        superblock: &Superblock,
        opener: &mut Opener,
    ) -> anyhow::Result<Self> {
        if args.outputs.len() != superblock.present().count() {
            let text = format!(
                "volume '{}' has {} spares: give as many --output, in their order",
                superblock.name,
                superblock.present().count()
            );
            return Err(refusal(Exit::Usage, text));
        }
        let mut outputs = Self::default();
        for (arg, (_, record)) in args.outputs.iter().zip(superblock.present()) {
            let path = arg.path.display();
            if !arg.path.exists() {
                outputs.made.push(Made::spare(&arg.path, arg.start.saturating_add(record.size))?);
            }
            let output = opener.spare(arg, Access::Write)?;
            if output.size() < record.size {
                let text =
                    format!("{path}: has {} bytes; the new spare needs {}", output.size(), record.size);
                return Err(refusal(Exit::Mismatch, text));
            }
            if !args.force {
                refuse_full(&output)?;
            }
            outputs.devices.push(output);
        }
        Ok(outputs)
    }

    /// Writes what was gathered, with a bar that shows how far it is.
    ///
    /// # Errors
    /// An output cannot be written.
    pub(crate) fn write(&mut self, gathered: Salvage) -> anyhow::Result<Outcome> {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} blocks {eta}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let outcome = repair::repair(gathered, &self.devices, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        self.made.drain(..).for_each(Made::keep);
        Ok(outcome)
    }

    /// Their paths, for people.
    pub(crate) fn names(&self) -> String {
        self.devices.iter().map(|o| o.path().display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// A new spare must be empty.
fn refuse_full(output: &Device) -> anyhow::Result<()> {
    let path = output.path().display();
    let holds = match remap_runtime::examine(std::slice::from_ref(output), true) {
        Err(RecoveryError::NoMetadata { .. }) => match remap_runtime::contents(output) {
            None => return Ok(()),
            Some(found) => format!("something ({found})"),
        },
        Ok(found) => format!("volume '{}'", found.superblock.name),
        Err(_) => "metadata of a volume".to_owned(),
    };
    let text = format!("{path}: holds {holds}; give an empty output, or use --force to overwrite it");
    Err(refusal(Exit::Busy, text))
}
