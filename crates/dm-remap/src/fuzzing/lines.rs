//! What people and scripts write on command lines, and what is written for device-mapper.

use remap_core::recovery::Recovered;
use remap_core::units::{Block, Extent, Sector, Slot};
use remap_nbd::Uri;

use crate::cli::{DrillArg, Moment, Statuses, parse_name};
use crate::dmsetup::{self, DeviceName};
use crate::map::pieces::{Piece, Place, pieces};
use crate::open::SpareArg;
use crate::units::{format_size, parse_block_size, parse_duration, parse_size};
use remap_words::sectors::{parse_sector, parse_sectors};

/// A value of an option, read as each kind of value: what is accepted lies in its range, and means the same when it is
/// written again.
pub fn value(text: &str) {
    numbers(text);
    if let Ok(spare) = text.parse::<SpareArg>() {
        assert!(!spare.path.as_os_str().is_empty() && spare.len != Some(0));
        if let Some(len) = spare.len {
            let again = format!("{}@{}+{len}", spare.path.display(), spare.start);
            assert_eq!(again.parse(), Ok(spare));
        }
    }
    if let Ok(Statuses(statuses)) = text.parse() {
        assert_eq!(statuses.iter().map(|status| status.symbol()).collect::<String>(), text);
    }
    if let Ok(drill) = text.parse::<DrillArg>() {
        assert_eq!(format!("{}:{}", drill.target, drill.spec).parse(), Ok(drill));
    }
    if let Ok(Moment::Generation(number)) = text.parse() {
        assert_eq!(number.to_string().parse(), Ok(Moment::Generation(number)));
    }
    if let Ok(name) = parse_name(text) {
        assert!(name == text && name.len() <= 63 && !name.contains('/'));
    }
    if let Ok(uri) = text.parse::<Uri>() {
        assert_eq!(uri.to_string().parse(), Ok(uri));
    }
}

fn numbers(text: &str) {
    if let Ok(bytes) = parse_size(text) {
        assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        assert!(!format_size(bytes).is_empty());
    }
    if let Ok(size) = parse_block_size(text) {
        assert!(size.is_power_of_two() && (512..=65536).contains(&size));
    }
    if let Ok(duration) = parse_duration(text) {
        assert!(!duration.is_zero());
    }
    if let Some(sector) = parse_sector(text) {
        let only = parse_sectors(text).is_ok_and(|e| e.start() == Sector(sector) && e.sectors() == 1);
        assert!(only || sector == u64::MAX, "{text:?} is sector {sector}, and as a range something else");
    }
    if let Ok(extent) = parse_sectors(text) {
        let again = format!("{}+{}", extent.start().0, extent.sectors());
        assert_eq!(parse_sectors(&again), Ok(extent));
    }
}

/// A device-mapper table of these entries, whose spares begin at sector `start` of their devices: read by device-mapper's own
/// rules it covers every sector of the main device once, in order, and sends each where the entries say.
pub fn table(recovered: &Recovered, start: u64, path: &str) {
    let superblock = &recovered.superblock;
    let (sectors, per_block) = (superblock.main.size / 512, u64::from(superblock.block_sectors()));
    let path_of = |n: usize| if n == 0 { format!("/dev/{path}") } else { format!("/dev/{path}{n}") };
    let name = |n: usize| DeviceName::of(path_of(n), if n == 0 { 0 } else { start });
    let Ok(main) = name(0) else {
        assert!(path.contains('\n') || path.as_bytes().contains(&0xa0), "{path:?} can stand in a table");
        return;
    };
    let spares: Vec<DeviceName> =
        (1..=superblock.spares.len()).map(|n| name(n).expect("as before")).collect();
    let pieces = pieces(sectors, superblock.block_sectors(), &recovered.table.iter().collect::<Vec<_>>());
    let text = dmsetup::table(&pieces, &main, &spares);
    let mut reached = 0;
    let mut lines = text.split_terminator('\n');
    for Piece { extent, place } in &pieces {
        assert_eq!(extent.start().0, reached, "without gap or overlap");
        reached = extent.end().0;
        let words = words_of(lines.next().expect("a line for each piece"));
        assert_eq!(words[..2], [extent.start().0.to_string(), extent.sectors().to_string()]);
        let target = match place {
            Place::Lost => None,
            Place::Main => Some((path_of(0), extent.start().0)),
            Place::Spare { spare, sector } => Some((path_of(usize::from(*spare) + 1), sector + start)),
        };
        match target {
            None => assert_eq!(words[2..], ["error"]),
            Some((path, sector)) => assert_eq!(words[2..], ["linear".to_owned(), path, sector.to_string()]),
        }
        ends_where_entries_say(recovered, *extent, *place, per_block);
    }
    assert!(reached == sectors && lines.next().is_none(), "{reached} of {sectors} sectors");
}

/// The first and the last sector of a piece are where the table of the volume has them.
fn ends_where_entries_say(recovered: &Recovered, extent: Extent, place: Place, per_block: u64) {
    for sector in [extent.start().0, extent.end().0 - 1] {
        let entry = recovered.table.get(Block(sector / per_block));
        let lost = entry.is_some_and(|e| e.lost >> (sector % per_block) & 1 == 1);
        assert_eq!(lost, place == Place::Lost, "sector {sector}");
        let Place::Spare { sector: at, spare } = place else { continue };
        let slot = Slot(entry.expect("an entry").slot);
        let expected = slot.index() * per_block + sector % per_block;
        assert_eq!((spare, at + sector - extent.start().0), (slot.spare(), expected), "sector {sector}");
    }
}

/// A line of a table, cut as the kernel does it: at each byte that it takes for white space, unless a backslash stands before it.
fn words_of(line: &str) -> Vec<String> {
    let mut words = vec![Vec::new()];
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        let word = words.last_mut().expect("at least one");
        match byte {
            b'\\' => word.extend(bytes.next()),
            b'\t'..=b'\r' | b' ' | 0xa0 => words.push(Vec::new()),
            byte => word.push(byte),
        }
    }
    words.into_iter().map(|word| String::from_utf8(word).expect("text")).collect()
}
