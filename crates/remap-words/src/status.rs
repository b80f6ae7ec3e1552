//! Status lines for scripts that read those of earlier kernel modules.
//!
//! Invariant: the words and their order are those of the earlier modules; what they counted wrongly is counted rightly here, and what
//! is not measured is 0.

use core::fmt::{self, Write};

use crate::figures::Figures;

/// `remap v2.0` line without its first three words (device-mapper puts them in front): remapped blocks, lost sectors and used slots, each
/// of the most that spares can take, then `health=` (0 excellent to 4 critical), errors of devices, and blocks moved since the start.
///
/// # Errors
/// `out` took no more.
pub fn v2(out: &mut dyn Write, f: &Figures) -> fmt::Result {
    let max = f.most_remaps();
    write!(
        out,
        "v2.0 {}/{max} {}/{max} {}/{max} health={} errors=W{}:R{} auto_remaps={} manual_remaps={} scan=0%",
        f.counts.remapped_blocks,
        f.counts.lost_sectors,
        f.used_slots(),
        f.health_code(),
        f.write_errors(),
        f.read_errors(),
        f.counters.auto_remaps,
        f.counters.manual_remaps,
    )
}

/// The 28 words that follow the three of device-mapper in the line of version 4. `main` and `spare` are how the devices are called.
///
/// # Errors
/// `out` took no more.
pub fn v4(out: &mut dyn Write, f: &Figures, main: &str, spare: &str) -> fmt::Result {
    let (a, total) = (&f.asked, f.requests());
    // Times and rates are not measured here: total ns, average ns, bytes per second.
    write!(
        out,
        "v4.0 {main} {spare} {} {} {} {} {} {total} 0 0 0 {} {} {total} {} {} {}",
        a.reads,
        a.writes,
        f.counters.auto_remaps.saturating_add(f.counters.manual_remaps),
        f.read_errors().saturating_add(f.write_errors()),
        f.counts.remapped_blocks,
        f.logical_block,
        f.slots.saturating_mul(u64::from(f.block_size / 512)),
        total.saturating_sub(a.remapped),
        a.remapped,
        f.remapped_sectors(),
    )?;
    let state = if f.suspended { "maintenance" } else { "operational" };
    // There is no cache to hit, and the kernel scans nothing by itself.
    write!(
        out,
        " 0 0 {} {} 0 {} {} 0 {state} real",
        a.fast,
        a.slow,
        f.health_percent(),
        f.counts.entries.min(32),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use remap_core::engine::VolumeState;
    use remap_core::table::TableCounts;
    use std::string::String;

    use crate::figures::Asked;

    fn lines(f: &Figures) -> (String, String) {
        let (mut two, mut four) = (String::new(), String::new());
        v2(&mut two, f).and_then(|()| v4(&mut four, f, "8:0", "8:16")).expect("a string takes all");
        (two, four)
    }

    #[test]
    fn the_lines_have_the_modules_words() {
        let mut f = Figures::sample();
        let (two, four) = lines(&f);
        assert_eq!(
            two,
            "v2.0 0/1000 0/1000 0/1000 health=0 errors=W0:R0 auto_remaps=0 manual_remaps=0 scan=0%"
        );
        assert_eq!(
            four,
            "v4.0 8:0 8:16 0 0 0 0 0 0 0 0 0 512 8000 0 0 0 0 0 0 0 0 0 100 0 0 operational real"
        );
        f.state = VolumeState::Degraded;
        f.counts = TableCounts { entries: 3, remapped_blocks: 2, pending_blocks: 1, lost_sectors: 3 };
        f.free_slots = 998;
        f.counters.auto_remaps = 2;
        f.counters.write_errors = 1;
        f.asked = Asked { reads: 10, writes: 5, remapped: 4, read_errors: 2, fast: 13, slow: 2, ..f.asked };
        f.max_remaps = Some(10);
        f.suspended = true;
        let (two, four) = lines(&f);
        assert_eq!(two, "v2.0 2/10 3/10 2/10 health=2 errors=W1:R2 auto_remaps=2 manual_remaps=0 scan=0%");
        assert_eq!(
            four,
            "v4.0 8:0 8:16 10 5 2 3 2 15 0 0 0 512 8000 15 11 4 16 0 0 13 2 0 60 3 0 maintenance real"
        );
        assert_eq!(four.split(' ').count(), 28);
    }
}
