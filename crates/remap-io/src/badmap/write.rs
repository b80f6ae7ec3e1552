//! Writing maps.

use std::fmt::Write as _;
use std::io;

use remap_core::units::{Extent, SECTOR_SIZE, Sector};

use super::{BadMap, Run, Status, append, flatten};

impl BadMap {
    /// The map as a GNU ddrescue map file of a device of `device_sectors` sectors, with `comment` lines on top. Sectors
    /// that the map does not name get the status `rest`; what lies beyond the device is left out.
    #[must_use]
    pub fn to_ddrescue(&self, device_sectors: u64, rest: Status, comment: &str) -> String {
        let mut whole = Vec::with_capacity(self.runs.len() * 2 + 1);
        let mut at = 0;
        let fill = |whole: &mut Vec<Run>, from, to| {
            if let Some(extent) = Extent::between(Sector(from), Sector(to)) {
                append(whole, Run { extent, status: rest });
            }
        };
        for run in &self.runs {
            let Some(extent) =
                Extent::between(run.extent.start(), run.extent.end().min(Sector(device_sectors)))
            else {
                break;
            };
            fill(&mut whole, at, extent.start().0);
            append(&mut whole, Run { extent, status: run.status });
            at = extent.end().0;
        }
        fill(&mut whole, at, device_sectors);

        let mut text = String::from("# Mapfile. Created by dm-remap, in the format of GNU ddrescue\n");
        for line in comment.lines() {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# current_pos  current_status  current_pass");
        let _ = writeln!(text, "0x{:08X}     +               1", 0);
        let _ = writeln!(text, "#      pos        size  status");
        for run in whole {
            let (start, size) = (run.extent.start().0.saturating_mul(SECTOR_SIZE), run.extent.bytes());
            let _ = writeln!(text, "0x{start:08X}  0x{size:08X}  {}", run.status.symbol());
        }
        text
    }

    /// Writes the numbers of all blocks of `block_size` bytes that hold a bad (`-`) sector, as badblocks does. One line
    /// for each block: a large bad region makes many.
    ///
    /// # Errors
    /// An `InvalidInput` error when the block size is not a power of two of at least 512; else what `out` says.
    pub fn to_badblocks(&self, block_size: u32, out: &mut dyn io::Write) -> io::Result<()> {
        if block_size < 512 || !block_size.is_power_of_two() {
            let problem =
                format!("a block size of {block_size} bytes; expected a power of two, at least 512");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let sectors = u64::from(block_size) / SECTOR_SIZE;
        let blocks: Vec<Run> = (self.extents(&[Status::Bad]))
            .filter_map(|extent| {
                let (first, end) = (extent.start().0 / sectors, extent.end().0.div_ceil(sectors));
                let extent = Extent::between(Sector(first), Sector(end))?;
                Some(Run { extent, status: Status::Bad })
            })
            .collect();
        for run in flatten(&blocks) {
            for block in run.extent.start().0..run.extent.end().0 {
                writeln!(out, "{block}")?;
            }
        }
        Ok(())
    }
}
