//! Units for systemd, one for each way to serve a volume.
//!
//! Invariant: they are as they stand in the tree; what differs from volume to volume is in `/etc/dm-remap/NAME.conf`.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::GenerateUnitsArgs;
use crate::exit::Exit;

/// File and contents.
const UNITS: [(&str, &str); 3] = [
    ("dm-remap@.service", include_str!("boot/dm-remap@.service")),
    ("dm-remap-stock@.service", include_str!("boot/dm-remap-stock@.service")),
    ("dm-remap-target@.service", include_str!("boot/dm-remap-target@.service")),
];

/// Writes the units.
pub(crate) fn units(args: &GenerateUnitsArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("{}: cannot be made, and the units are to be there", args.dir.display()))?;
    for (name, text) in UNITS {
        let file = args.dir.join(name);
        std::fs::write(&file, text).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    Ok(Exit::Done.into())
}
