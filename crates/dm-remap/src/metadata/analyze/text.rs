//! The analysis for people.

use std::fmt::Write as _;

use super::{Analysis, Kind};
use crate::units::{format_count, format_size};

impl Analysis {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "volume '{}' ({}), generation {}, blocks of {}",
            self.name,
            self.uuid,
            self.generation,
            format_size(u64::from(self.block_size))
        );
        self.metadata_text(&mut out);
        self.runs_text(&mut out);
        self.slots_text(&mut out);
        self.history_text(&mut out);
        self.places_text(&mut out);
        out
    }

    fn metadata_text(&self, out: &mut String) {
        let m = &self.metadata;
        let _ = writeln!(out, "\nmetadata");
        let _ = writeln!(out, "  copies   {} of {} in step", m.copies_in_step, m.copies);
        let _ = writeln!(
            out,
            "  table    {} of {} entries ({})",
            m.entries,
            m.entries_max,
            share(m.entries, m.entries_max)
        );
        let _ = writeln!(
            out,
            "  journal  {} of {} pages, {} since the last checkpoint",
            m.journal_pages_used,
            m.journal_pages,
            format_count(m.records, "commit")
        );
    }

    fn runs_text(&self, out: &mut String) {
        let _ = writeln!(out, "\nruns");
        let kind = |out: &mut String, name: &str, k: &Kind| {
            let _ = writeln!(
                out,
                "  {name:<8} {} in {}, the longest {}; {} lost",
                format_count(k.blocks, "block"),
                format_count(k.runs, "run"),
                k.longest,
                format_count(k.lost_sectors, "sector")
            );
        };
        kind(out, "remapped", &self.runs.remapped);
        kind(out, "pending", &self.runs.pending);
        for l in &self.runs.lengths {
            let range = if l.from == l.to { l.from.to_string() } else { format!("{}-{}", l.from, l.to) };
            let _ = writeln!(
                out,
                "  of {range} blocks: {}, {}",
                format_count(l.runs, "run"),
                format_count(l.blocks, "block")
            );
        }
        let _ = writeln!(
            out,
            "  fragmentation: {} of {} neighbouring pairs lie apart on the spare ({})",
            self.runs.torn_neighbours,
            self.runs.neighbours,
            share(self.runs.torn_neighbours, self.runs.neighbours)
        );
    }

    fn slots_text(&self, out: &mut String) {
        for s in &self.spares {
            let usable = s.used_slots + s.free_slots;
            let _ = writeln!(out, "\nspare {} ({}, {})", s.spare, s.uuid, format_size(s.size));
            let _ = writeln!(
                out,
                "  slots    {} used of {usable} ({}), {} free, {} retired, {} under metadata",
                s.used_slots,
                share(s.used_slots, usable),
                s.free_slots,
                s.retired_slots,
                s.metadata_slots
            );
            let _ = writeln!(
                out,
                "  free     {}, the longest {}",
                format_count(s.free_runs, "run"),
                s.longest_free_run
            );
            let words = |counts: &[u64]| counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            let _ = writeln!(out, "  in use, by sixteenths of the spare:  {}", words(&s.spread));
            if s.retired_slots > 0 {
                let _ = writeln!(out, "  retired, by sixteenths of the spare: {}", words(&s.retired_spread));
            }
        }
    }

    fn history_text(&self, out: &mut String) {
        if self.causes.is_empty() {
            return;
        }
        let _ = writeln!(out, "\ncauses");
        for c in &self.causes {
            let (blocks, runs) = (format_count(c.blocks, "block"), format_count(c.runs, "run"));
            let _ =
                writeln!(out, "  {:<12} {blocks} in {runs}, {}", c.cause, format_count(c.errors, "error"));
        }
        let _ = writeln!(out, "\nmonths");
        for m in &self.months {
            let (blocks, runs) = (format_count(m.blocks, "block"), format_count(m.runs, "run"));
            let _ = writeln!(out, "  {:<12} {blocks} in {runs}", m.month);
        }
    }

    fn places_text(&self, out: &mut String) {
        if self.hotspots.is_empty() {
            out.push_str("\nno block of the main device is in trouble\n");
            return;
        }
        let _ = writeln!(out, "\nworst regions of the main device");
        for h in &self.hotspots {
            let _ = writeln!(
                out,
                "  sectors {}-{}: {} remapped, {} pending, {} sectors lost, {}",
                h.sector,
                h.sector + h.sectors - 1,
                h.remapped_blocks,
                h.pending_blocks,
                h.lost_sectors,
                format_count(h.errors, "error")
            );
        }
        let _ =
            writeln!(out, "\nclusters ({}, the largest first)", format_count(self.clusters_total, "cluster"));
        for c in &self.clusters {
            let _ = writeln!(
                out,
                "  sectors {}-{}: {} in {}",
                c.sector,
                c.sector + c.sectors - 1,
                format_count(c.blocks, "bad block"),
                format_count(c.runs, "run")
            );
        }
    }
}

/// A part of a whole, in per cent.
fn share(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}
