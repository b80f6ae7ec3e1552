//! `remap-chaos golden`: the spare that the format's tests keep, on a device.
//!
//! Invariant: what is written is the stored image, page by page where it says, and nothing else.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// Of each page: eight bytes that say where it is, then the page.
const STORED: &[u8] = include_bytes!("../../remap-format/tests/golden/spare-v1.pages");
const PLACE: usize = 8;
const PAGE: usize = 4096;

/// Writes it.
///
/// # Errors
/// The device's.
pub(crate) fn write(device: &Path) -> anyhow::Result<()> {
    let name = || format!("{}", device.display());
    let file = OpenOptions::new().write(true).open(device).with_context(name)?;
    ensure!(STORED.len().is_multiple_of(PLACE + PAGE), "the stored image is cut off");
    for stored in STORED.chunks_exact(PLACE + PAGE) {
        let (place, page) = stored.split_at(PLACE);
        let place = u64::from_le_bytes(place.try_into()?);
        file.write_all_at(page, place).with_context(name)?;
    }
    file.sync_all().with_context(name)
}
