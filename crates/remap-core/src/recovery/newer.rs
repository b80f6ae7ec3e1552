//! Traces of a checkpoint that no superblock names any more.
//!
//! Invariant: a record extends a checkpoint only once that is durable, and is written to copies that name it and no others. So a whole
//! record that extends a newer checkpoint than the elected one proves that every copy which could tell has been damaged: what was
//! elected is not the table that was served last, and is refused (C8).

use remap_format::{COPIES, Record, newer};

use super::RecoveryError;
use super::replay::{LOOK_AHEAD, Session, Window};

impl Session<'_> {
    /// Refuses if a record, in any copy, extends a newer checkpoint than the elected one.
    pub(super) fn refuse_newer(&mut self) -> Result<(), RecoveryError> {
        let (elected, volume) = (self.superblock().generation, self.superblock().volume_tag());
        let block_sectors = self.superblock().block_sectors();
        for copy in 0..COPIES {
            let mut window = Window::default();
            for position in 0..LOOK_AHEAD.min(self.superblock().journal_pages) {
                // What cannot be read here proves nothing.
                let Ok(bytes) = window.at(self, usize::from(copy), position) else { continue };
                let Some(header) = Record::claimed(bytes) else { continue };
                let here = header.volume == volume && header.copy == copy && header.position == position;
                if here
                    && newer(header.checkpoint, elected)
                    && Record::decode(bytes, &header, block_sectors).is_ok()
                {
                    return Err(RecoveryError::CheckpointLost { generation: header.checkpoint });
                }
            }
        }
        Ok(())
    }
}
