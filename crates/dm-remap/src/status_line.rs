//! The one line of the kernel module's version 2.0, for scripts that read it.
//!
//! Invariant: the words and their order are those of that module; what it counted wrongly is counted rightly here.

use remap_core::engine::{Counters, VolumeState};
use remap_core::table::TableCounts;
use remap_core::units::SECTOR_SIZE;
use remap_words::figures::{Asked, Figures};
use remap_words::status;

use crate::status_json::StatusReport;

/// The figures that the words of lines and answers are about.
pub(crate) fn figures(report: &StatusReport) -> Figures {
    let (table, events, requests) = (&report.table, &report.events, &report.requests);
    Figures {
        // A state that this program does not know is none that it would call good.
        state: report.volume_state().unwrap_or(VolumeState::Frozen),
        read_only: report.read_only,
        suspended: report.suspended.is_some(),
        sectors: report.size / SECTOR_SIZE,
        block_size: report.block_size,
        logical_block: report.main.logical_block,
        counts: TableCounts {
            entries: table.entries,
            remapped_blocks: table.remapped_blocks,
            pending_blocks: table.pending_blocks,
            lost_sectors: table.lost_sectors,
        },
        slots: report.slots.total,
        free_slots: report.slots.total.saturating_sub(report.slots.used),
        max_remaps: report.max_remaps,
        // The report adds up the errors of both lanes.
        counters: Counters {
            read_errors: events.read_errors,
            write_errors: events.write_errors,
            auto_remaps: events.auto_remaps,
            manual_remaps: events.manual_remaps,
            commits: report.metadata.commits,
            checkpoints: report.metadata.checkpoints,
            ..Counters::default()
        },
        asked: Asked {
            reads: requests.reads,
            writes: requests.writes,
            fast: requests.fast,
            slow: requests.slow,
            remapped: requests.remapped,
            failed_reads: requests.failed_reads,
            failed_writes: requests.failed_writes,
            ..Asked::default()
        },
        copies: u8::try_from(report.metadata.copies_in_step.iter().filter(|&&copy| copy).count())
            .unwrap_or(5),
    }
}

/// `0 <sectors> remap v2.0 <remapped>/<max> <lost>/<max> <used>/<max> health=...`. Remapped and used count blocks, lost
/// counts sectors, as far as the module's spare sectors and ours compare.
pub(crate) fn line(report: &StatusReport) -> String {
    let figures = figures(report);
    let mut line = format!("0 {} remap ", figures.sectors);
    // A string takes all.
    let _ = status::v2(&mut line, &figures);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::report;

    #[test]
    fn the_line_has_the_modules_words() {
        let mut report = report();
        assert_eq!(
            line(&report),
            "0 204800 remap v2.0 0/1000 0/1000 0/1000 health=0 errors=W0:R0 auto_remaps=0 manual_remaps=0 scan=0%"
        );
        report.state = "degraded".into();
        report.table.remapped_blocks = 2;
        report.table.lost_sectors = 3;
        report.slots.used = 2;
        report.events.auto_remaps = 2;
        report.max_remaps = Some(10);
        assert_eq!(
            line(&report),
            "0 204800 remap v2.0 2/10 3/10 2/10 health=2 errors=W0:R0 auto_remaps=2 manual_remaps=0 scan=0%"
        );
        report.state = "frozen".into();
        assert_eq!(figures(&report).health_percent(), 20);
    }
}
