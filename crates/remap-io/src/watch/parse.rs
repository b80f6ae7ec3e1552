//! Lines of the tracepoint and of the kernel's log.
//!
//! Invariant: a line that is not understood is none; nothing in it is guessed.

use remap_core::op::Fault;
use rustix::io::Errno;

use super::BlockError;
use crate::errno::{Backing, classify};
use crate::mapper::DeviceNumber;

/// `... block_rq_error: 8,0 RS () 96 + 8 be,0,4 [-5]`: device, kind, command, sector, count, priority in newer kernels, errno.
pub(super) fn trace_line(line: &str) -> Option<BlockError> {
    let (_, fields) = line.split_once("block_rq_error: ")?;
    let (device, fields) = fields.split_once(' ')?;
    let (major, minor) = device.split_once(',')?;
    let (kind, fields) = fields.trim_start().split_once(' ')?;
    let (_, fields) = fields.split_once(')')?;
    let mut words = fields.split_whitespace();
    let sector = words.next()?.parse().ok()?;
    if words.next() != Some("+") {
        return None;
    }
    let sectors = words.next()?.parse().ok()?;
    let errno: i32 = words.last()?.strip_prefix("[-")?.strip_suffix(']')?.parse().ok()?;
    // D discard and E erase come with or without a W; they move no data.
    let data = !kind.contains(['D', 'E']);
    let write = kind.contains('W');
    (data && (write || kind.contains('R'))).then_some(BlockError {
        device: DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? },
        sector,
        sectors: Some(sectors).filter(|&sectors| sectors > 0),
        write,
        fault: classify(Errno::from_raw_os_error(errno), Backing::Block),
    })
}

/// What the kernel's log calls an errno of a block device.
const WORDS: [(&str, Fault); 9] = [
    ("critical medium", Fault::Medium),
    ("protection", Fault::Protection),
    ("I/O", Fault::Unknown),
    ("critical target", Fault::Unknown),
    ("recoverable transport", Fault::Transport),
    ("timeout", Fault::Timeout),
    ("device offline", Fault::Gone),
    ("critical space allocation", Fault::Gone),
    ("kernel resource", Fault::NoMemory),
];

/// `6,123,456789,-;critical medium error, dev sda, sector 2000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2`.
pub(super) fn log_line(line: &str, number: impl Fn(&str) -> Option<DeviceNumber>) -> Option<BlockError> {
    let text = line.split_once(';').map_or(line, |(_, text)| text);
    let (word, rest) = text.split_once(" error, dev ")?;
    // Older kernels put their own name in front.
    let word = word.rsplit_once(": ").map_or(word, |(_, word)| word);
    let fault = WORDS.iter().find(|(known, _)| *known == word)?.1;
    let (name, rest) = rest.split_once(", sector ")?;
    let (sector, rest) = rest.split_once(' ')?;
    let kind = rest.split_once(":(")?.1.split_once(')')?.0;
    let write = match kind {
        "READ" => false,
        "WRITE" | "WRITE_ZEROES" | "ZONE_APPEND" => true,
        _ => return None,
    };
    Some(BlockError { device: number(name)?, sector: sector.parse().ok()?, sectors: None, write, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDA: DeviceNumber = DeviceNumber { major: 8, minor: 0 };

    fn told(sector: u64, sectors: Option<u64>, write: bool, fault: Fault) -> Option<BlockError> {
        Some(BlockError { device: SDA, sector, sectors, write, fault })
    }

    #[test]
    fn lines_of_the_tracepoint() {
        let line =
            |fields: &str| trace_line(&format!("  kworker/0:1-9 [000] d.h1. 12.5: block_rq_error: {fields}"));
        assert_eq!(line("8,0 R () 2000 + 8 [-61]"), told(2000, Some(8), false, Fault::Medium));
        assert_eq!(line("8,0 RS () 96 + 8 be,0,4 [-5]"), told(96, Some(8), false, Fault::Unknown));
        assert_eq!(line("8,0 WFS (28 00 0a) 7 + 1 none,0,0 [-67]"), told(7, Some(1), true, Fault::Transport));
        assert_eq!(line("8,0 WM () 7 + 0 [-110]"), told(7, None, true, Fault::Timeout));
        for none in
            ["8,0 D () 7 + 8 [-5]", "8,0 FN () 0 + 0 [-5]", "8,0 R () 7 + 8", "8,0 R () x + 8 [-5]", "8 R"]
        {
            assert_eq!(line(none), None, "{none}");
        }
        assert_eq!(trace_line("block_rq_complete: 8,0 R () 7 + 8 [-5]"), None);
    }

    #[test]
    fn lines_of_the_log() {
        let line = |text: &str| log_line(&format!("3,99,5,-;{text}"), |name| (name == "sda").then_some(SDA));
        let tail = "flags 0x80700 phys_seg 1 prio class 2";
        let text =
            |word: &str, kind: &str| format!("{word} error, dev sda, sector 2000 op 0x0:({kind}) {tail}");
        assert_eq!(line(&text("critical medium", "READ")), told(2000, None, false, Fault::Medium));
        assert_eq!(line(&text("I/O", "WRITE")), told(2000, None, true, Fault::Unknown));
        assert_eq!(line(&text("blk_update_request: I/O", "WRITE")), told(2000, None, true, Fault::Unknown));
        assert_eq!(line(&text("recoverable transport", "READ")), told(2000, None, false, Fault::Transport));
        for none in [
            text("I/O", "DISCARD"),
            text("no such", "READ"),
            text("I/O", "READ").replace("sda", "sdb"),
            "Buffer I/O error on dev dm-0, logical block 7, async page read".to_owned(),
            "critical medium error, dev sda, sector".to_owned(),
        ] {
            assert_eq!(line(&none), None, "{none}");
        }
    }
}
