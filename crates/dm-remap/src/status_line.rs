//! The one line of the kernel module's version 2.0, for scripts that read it.
//!
//! Invariant: the words and their order are those of that module; what it counted wrongly is counted rightly here.

use remap_core::engine::VolumeState;
use remap_core::units::SECTOR_SIZE;

use crate::status_json::StatusReport;

/// Health as the module numbered it: 0 excellent, 1 good, 2 fair, 3 poor, 4 critical.
pub(crate) fn health_code(report: &StatusReport) -> u8 {
    match report.volume_state() {
        Some(VolumeState::Healthy) => 0,
        Some(VolumeState::Degraded) if report.table.lost_sectors == 0 => 1,
        // A volume that is only looked at is as good as what its table says.
        Some(VolumeState::Frozen) if report.read_only => {
            if report.table.lost_sectors > 0 {
                2
            } else {
                u8::from(report.table.entries > 0)
            }
        }
        Some(VolumeState::Degraded) => 2,
        Some(VolumeState::Exhausted) => 3,
        Some(VolumeState::Frozen) | None => 4,
    }
}

/// Health in percent, for the messages that ask so.
pub(crate) fn health_percent(report: &StatusReport) -> u8 {
    100 - 20 * health_code(report)
}

/// `0 <sectors> remap v2.0 <remapped>/<max> <lost>/<max> <used>/<max> health=...`. Remapped and used count blocks, lost
/// counts sectors, as far as the module's spare sectors and ours compare.
pub(crate) fn line(report: &StatusReport) -> String {
    let max = report.max_remaps.unwrap_or(report.slots.total).min(report.slots.total);
    format!(
        "0 {} remap v2.0 {}/{max} {}/{max} {}/{max} health={} errors=W{}:R{} auto_remaps={} manual_remaps={} scan=0%",
        report.size / SECTOR_SIZE,
        report.table.remapped_blocks,
        report.table.lost_sectors,
        report.slots.used,
        health_code(report),
        report.events.write_errors,
        report.events.read_errors,
        report.events.auto_remaps,
        report.events.manual_remaps,
    )
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
        assert_eq!(health_percent(&report), 20);
    }
}
