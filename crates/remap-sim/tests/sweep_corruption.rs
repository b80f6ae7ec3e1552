//! Corruption that a checksum alone does not find, and metadata that cannot be read.

use remap_core::op::Fault;
use remap_core::recovery::{RecoveryError, SpareReader, recover};
use remap_format::{COPIES, CheckpointPage, Entry, EntryState, PAGE_SIZE, PageHeader, Superblock};
use remap_sim::rng::Rng;
use remap_sim::script::volume_on;
use remap_sim::sweep::failure::FAULTS;
use remap_sim::sweep::image::{Change, Image, Moment, moments, table_of};
use remap_sim::world::World;

/// A checkpoint with three entries, and two records behind it.
fn moment(spares: usize) -> Moment {
    let changes = [
        Change::Remap(0),
        Change::Save,
        Change::Remap(1),
        Change::Remap(2),
        Change::Save,
        Change::Remap(3),
        Change::Remap(4),
    ];
    let world = World::create(volume_on(spares));
    moments(world, &changes).expect("an undisturbed life").pop().expect("a last moment")
}

fn must_be_the_same(
    found: Result<remap_core::recovery::Recovered, RecoveryError>,
    truth: &Moment,
    what: &str,
) {
    let found = found.unwrap_or_else(|error| panic!("{what}: refused: {error}"));
    assert_eq!(found.generation, truth.generation, "{what}");
    assert_eq!(table_of(&found), truth.table, "{what}");
}

/// A write of one page goes to another place of the same spare: every page of one copy to every page of another and of its own.
#[test]
fn a_page_in_a_wrong_place_is_not_believed() {
    let truth = moment(1);
    let pages = truth.image.copy(0).len() / PAGE_SIZE;
    for (from_copy, to_copy) in [(0, 1), (2, 2), (4, 3)] {
        for from in 0..pages {
            for to in (0..pages).filter(|&to| (from_copy, from) != (to_copy, to)) {
                let mut image = truth.image.clone();
                let page = image.copy(from_copy)[from * PAGE_SIZE..(from + 1) * PAGE_SIZE].to_vec();
                image.copy_mut(to_copy)[to * PAGE_SIZE..(to + 1) * PAGE_SIZE].copy_from_slice(&page);
                let what = format!("page {from} of copy {from_copy} on page {to} of copy {to_copy}");
                must_be_the_same(image.recover(), &truth, &what);
            }
        }
    }
}

/// CRC32C, bit by bit.
fn crc(salt: &[u8], bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
    };
    !salt.iter().chain(bytes).fold(!0, step)
}

/// Gives a damaged page or record a checksum that holds.
fn seal(bytes: &mut [u8]) {
    let (salt, at): (&[u8], usize) = match &bytes[..4] {
        b"dm-r" => (b"SUPR", 8),
        b"CKPT" => (b"CKPT", 4),
        _ => (b"JRNL", 4),
    };
    bytes[at..at + 4].fill(0);
    let sum = crc(salt, bytes);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Pages of a copy with something in them.
fn used_pages(image: &Image, copy: u8) -> Vec<usize> {
    let whole = |page: &[u8]| matches!(&page[..4], b"dm-r" | b"CKPT" | b"JRNL");
    let pages = image.copy(copy).chunks_exact(PAGE_SIZE).enumerate();
    pages.filter(|(_, page)| whole(page)).map(|(n, _)| n).collect()
}

/// A checksum that holds by accident: what is behind it must still fit. One copy so damaged is outvoted, or all is refused.
#[test]
fn a_checksum_that_holds_by_accident_gives_no_other_table() {
    let truth = moment(1);
    let mut rng = Rng::seeded(1);
    let (mut same, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut image = truth.image.clone();
        let copy = rng.below(u64::from(COPIES)) as u8;
        let page = rng.pick(&used_pages(&image, copy));
        let bytes = &mut image.copy_mut(copy)[page * PAGE_SIZE..(page + 1) * PAGE_SIZE];
        // Behind magic and checksum, mostly where there are fields.
        let at = 12 + if rng.chance(4, 5) { rng.index(200) } else { rng.index(PAGE_SIZE - 12) };
        let before = bytes[at];
        let any = rng.below(256) as u8;
        bytes[at] = rng.pick(&[before.wrapping_add(1), before ^ 0x80, 0, 0xff, any]);
        seal(bytes);
        let what = format!("copy {copy}, page {page}, byte {at}: {before} -> {}", bytes[at]);
        match image.recover() {
            Ok(found) => {
                assert_eq!(
                    (found.generation, table_of(&found)),
                    (truth.generation, truth.table.clone()),
                    "{what}"
                );
                same += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(same > 1000 && refused > 10, "{same} {refused}");
}

/// Whole pages, in all copies, that name a table which cannot be.
#[test]
fn a_table_that_cannot_be_is_refused() {
    let mut truth = moment(1);
    // The checkpoint alone.
    truth.image = {
        let mut image = truth.image;
        let journal = image.shape().journal_at(0) as usize;
        (0..COPIES).for_each(|copy| image.copy_mut(copy)[journal..].fill(0));
        image
    };
    let table = truth.image.recover().map(|r| table_of(&r)).expect("the checkpoint");
    type Damage = fn(&mut Vec<Entry>);
    let broken: [(&str, Damage); 7] = [
        ("two entries of one block", |t| t[1].block = t[0].block),
        ("out of order", |t| t.swap(0, 1)),
        ("two entries with one slot", |t| t[1].slot = t[0].slot),
        ("behind the end of the main device", |t| t[1].block = 1 << 30),
        ("a slot that does not exist", |t| t[0].slot = 1 << 40),
        // The first copy begins at the spare's first byte.
        ("a slot under metadata", |t| t[0].slot = 0),
        ("an absent entry", |t| {
            t[0] = Entry { state: EntryState::Absent, slot: u64::MAX, lost: 0, ..t[0] };
        }),
    ];
    for (what, damage) in broken {
        let mut image = truth.image.clone();
        let mut entries = table.clone();
        damage(&mut entries);
        for copy in 0..COPIES {
            let page = |n: usize| n * PAGE_SIZE..(n + 1) * PAGE_SIZE;
            let superblocks = [0, 1].map(|n| Superblock::decode(&image.copy(copy)[page(n)]).ok());
            let newest = superblocks.into_iter().flatten().max_by_key(|s| s.generation).expect("whole");
            let header =
                PageHeader { volume: newest.volume_tag(), copy, index: 0, generation: newest.generation };
            let at = image.shape().page_at(newest.area, 0) as usize;
            CheckpointPage::encode(&header, &entries, &mut image.copy_mut(copy)[at..at + PAGE_SIZE]);
        }
        let found = image.recover().map(|r| table_of(&r));
        if what == "out of order" {
            assert_eq!(found.as_ref(), Ok(&table), "an order that is wrong does no harm");
        } else {
            assert!(found.is_err(), "{what}: {found:?}");
        }
    }
}

/// Reads an image, but for one read, or all from that one on.
struct Failing<'i> {
    image: &'i Image,
    reads: u64,
    from: u64,
    fault: Fault,
    lasts: bool,
}

impl SpareReader for Failing<'_> {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.reads += 1;
        if self.reads == self.from || (self.lasts && self.reads > self.from) {
            into.fill(0xee);
            return Err(self.fault);
        }
        self.image.read_at(spare, offset, into)
    }
}

/// The n-th read of recovery fails, once or from then on: the same table or none, and once is survived unless the path failed.
#[test]
fn a_read_that_fails_while_recovering_gives_no_other_table() {
    for spares in [1, 3] {
        let truth = moment(spares);
        let sizes: Vec<u64> = truth.image.spares.iter().map(|s| s.len() as u64).collect();
        let read = |from, fault, lasts| {
            let mut reader = Failing { image: &truth.image, reads: 0, from, fault, lasts };
            let found = recover(&mut reader, &sizes, false);
            (found, reader.reads)
        };
        let (found, reads) = read(0, Fault::Medium, false);
        must_be_the_same(found, &truth, "undisturbed");
        for from in 1..=reads {
            for fault in FAULTS {
                let what = format!("{spares} spares, read {from} fails with {fault:?}");
                let path = matches!(fault, Fault::Transport | Fault::Gone);
                match read(from, fault, false).0 {
                    Err(RecoveryError::Unreachable { .. }) if path => {}
                    found => must_be_the_same(found, &truth, &what),
                }
                if let (Ok(found), _) = read(from, fault, true) {
                    assert!(!path, "{what}, and all later ones");
                    must_be_the_same(Ok(found), &truth, &format!("{what}, and all later ones"));
                }
            }
        }
    }
}
