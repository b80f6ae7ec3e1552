//! What is stored on a device, told by the UUID of the file system, partition table or container that is found on it.
//!
//! Invariant: [`content_uuid`] only reads, looks at fixed places, and takes an unreadable place as one without a magic; a failing disk
//! still gets the identity that its readable parts give. Nothing is allocated.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

use core::fmt::{self, Write as _};

use arrayvec::ArrayString;

/// A kind and what names it, such as `ext:` and a UUID.
pub type ContentUuid = ArrayString<64>;

/// Bytes that a look needs.
pub const WORK_BYTES: usize = HEAD_BYTES + PIECE_BYTES;

/// Bytes at the start of a device in which all magics are, except the btrfs one.
const HEAD_BYTES: usize = 8192;
/// Pieces in which the head is read, so that one bad sector hides only its neighbours.
const PIECE_BYTES: usize = 4096;
const BTRFS_OFFSET: u64 = 0x10000;

/// What is stored on a device of `size` bytes with logical blocks of `logical_block` bytes, with its kind: `gpt:GUID`, `mbr:SIGNATURE`,
/// `ext:UUID`, `xfs:UUID`, `btrfs:UUID`, `luks:UUID`, `lvm2:UUID`, `md:UUID`, `swap:UUID`, `f2fs:UUID`, `ntfs:SERIAL`,
/// `exfat:SERIAL`, `vfat:SERIAL`. `read` fills a buffer from a byte offset on, if that can be read; `work` is where it reads to.
pub fn content_uuid(
    size: u64,
    logical_block: u32,
    work: &mut [u8; WORK_BYTES],
    read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
) -> Option<ContentUuid> {
    let (head, block) = work.split_first_chunk_mut::<HEAD_BYTES>()?;
    let mut known = 0;
    for piece in head.chunks_mut(PIECE_BYTES) {
        let at = known as u64;
        if at + PIECE_BYTES as u64 > size {
            break;
        }
        if !read(at, piece) {
            piece.fill(0);
        }
        known += piece.len();
    }
    let head = View(head.get(..known)?);
    if let Some(found) = gpt(&head, size, logical_block, block, read) {
        return Some(found);
    }
    if let Some(found) = container(&head).or_else(|| file_system(&head)) {
        return Some(found);
    }
    if size >= BTRFS_OFFSET + PIECE_BYTES as u64
        && read(BTRFS_OFFSET, block)
        && View(block).has(0x40, b"_BHRfS_M")
    {
        return View(block).uuid("btrfs", 0x20);
    }
    boot_sector(&head)
}

fn text(words: fmt::Arguments<'_>) -> Option<ContentUuid> {
    let mut text = ContentUuid::new();
    // The longest there is (`luks:` and 40 characters) has room.
    text.write_fmt(words).ok()?;
    Some(text)
}

/// A disk GUID: primary header, or the backup at the end when only the protective MBR is left.
fn gpt(
    head: &View<'_>,
    size: u64,
    logical_block: u32,
    last: &mut [u8],
    read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
) -> Option<ContentUuid> {
    if !head.has(510, b"\x55\xaa") || !(0..4).any(|entry| head.has(446 + entry * 16 + 4, b"\xee")) {
        return None;
    }
    let block = usize::try_from(logical_block).ok()?;
    if head.has(block, b"EFI PART") {
        return head.guid("gpt", block + 56);
    }
    let last = last.get_mut(..block)?;
    if !read(size.checked_sub(u64::from(logical_block))?, last) {
        return None;
    }
    let last = View(last);
    last.has(0, b"EFI PART").then(|| last.guid("gpt", 56))?
}

/// Things that hold other things.
fn container(head: &View<'_>) -> Option<ContentUuid> {
    if head.has(0, b"LUKS\xba\xbe") {
        return head.text("luks", 168, 40);
    }
    for sector in 0..4 {
        let label = sector * 512;
        if head.has(label, b"LABELONE") && head.has(label + 24, b"LVM2 001") {
            let header = label.checked_add(usize::try_from(head.le32(label + 20)?).ok()?)?;
            return head.text("lvm2", header, 32);
        }
    }
    for offset in [0, 4096] {
        if head.le32(offset) == Some(0xa92b_4efc) && head.le32(offset + 4) == Some(1) {
            return head.uuid("md", offset + 16);
        }
    }
    None
}

fn file_system(head: &View<'_>) -> Option<ContentUuid> {
    if head.has(0, b"XFSB") {
        return head.uuid("xfs", 32);
    }
    if head.has(1024 + 0x38, b"\x53\xef") {
        return head.uuid("ext", 1024 + 0x68);
    }
    if head.has(4086, b"SWAPSPACE2") {
        return head.uuid("swap", 1024 + 12);
    }
    if head.le32(1024) == Some(0xf2f5_2010) {
        return head.uuid("f2fs", 1024 + 108);
    }
    if head.has(3, b"NTFS    ") {
        let serial = u64::from(head.le32(0x4c)?) << 32 | u64::from(head.le32(0x48)?);
        return text(format_args!("ntfs:{serial:016X}"));
    }
    if head.has(3, b"EXFAT   ") {
        return text(format_args!("exfat:{:08X}", head.le32(0x64)?));
    }
    for (magic, serial) in [(82, 0x43), (54, 0x27)] {
        if head.has(magic, b"FAT") && head.has(510, b"\x55\xaa") {
            return text(format_args!("vfat:{:08X}", head.le32(serial)?));
        }
    }
    None
}

/// The disk signature of a partition table of the old kind.
fn boot_sector(head: &View<'_>) -> Option<ContentUuid> {
    let signature = head.le32(440)?;
    (head.has(510, b"\x55\xaa") && signature != 0).then(|| text(format_args!("mbr:{signature:08x}")))?
}

/// Bytes with checked look-ups; outside of them there is nothing.
struct View<'a>(&'a [u8]);

impl View<'_> {
    fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.0.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    }

    fn le32(&self, offset: usize) -> Option<u32> {
        self.0.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Printable ASCII up to a NUL.
    fn text(&self, kind: &str, offset: usize, len: usize) -> Option<ContentUuid> {
        let bytes = self.0.get(offset..offset.checked_add(len)?)?;
        let bytes = bytes.split(|&b| b == 0).next()?;
        let printable = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        let found = core::str::from_utf8(bytes).ok().filter(|_| printable)?;
        text(format_args!("{kind}:{found}"))
    }

    /// A UUID in the order in which it is written; none when it is all zeroes.
    fn uuid(&self, kind: &str, offset: usize) -> Option<ContentUuid> {
        self.0.get(offset..)?.first_chunk().and_then(|bytes| hyphenate(kind, bytes))
    }

    /// A GUID: its first three fields are little endian.
    fn guid(&self, kind: &str, offset: usize) -> Option<ContentUuid> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *self.0.get(offset..)?.first_chunk::<16>()?;
        let [i, j, k, l, m, n, o, p] = rest;
        hyphenate(kind, &[d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }
}

fn hyphenate(kind: &str, bytes: &[u8; 16]) -> Option<ContentUuid> {
    if bytes == &[0; 16] {
        return None;
    }
    let mut out = text(format_args!("{kind}:"))?;
    for (index, byte) in bytes.iter().enumerate() {
        let hyphen = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(out, "{hyphen}{byte:02x}").ok()?;
    }
    Some(out)
}

#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString as _};
    use std::vec::Vec;
    use std::{format, vec};

    const UUID: [u8; 16] = [0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const UUID_TEXT: &str = "12345678-0102-0304-0506-0708090a0b0c";

    fn probe(image: &[u8]) -> Option<String> {
        let read = |offset: u64, into: &mut [u8]| {
            let from = image.get(offset as usize..offset as usize + into.len());
            from.inspect(|from| into.copy_from_slice(from)).is_some()
        };
        content_uuid(image.len() as u64, 512, &mut [0; WORK_BYTES], &mut { read })
            .map(|found| found.to_string())
    }

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; 128 << 10];
        for (offset, bytes) in parts {
            image[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    #[test]
    fn every_kind_is_found_at_its_place() {
        type Parts<'a> = &'a [(usize, &'a [u8])];
        let table: [(Parts<'_>, String); 13] = [
            (&[(1024 + 0x38, b"\x53\xef"), (1024 + 0x68, &UUID)], format!("ext:{UUID_TEXT}")),
            (&[(0, b"XFSB"), (32, &UUID)], format!("xfs:{UUID_TEXT}")),
            (&[(0x10040, b"_BHRfS_M"), (0x10020, &UUID)], format!("btrfs:{UUID_TEXT}")),
            (&[(4086, b"SWAPSPACE2"), (1036, &UUID)], format!("swap:{UUID_TEXT}")),
            (&[(1024, &0xf2f5_2010_u32.to_le_bytes()), (1132, &UUID)], format!("f2fs:{UUID_TEXT}")),
            (&[(0, b"LUKS\xba\xbe"), (168, UUID_TEXT.as_bytes())], format!("luks:{UUID_TEXT}")),
            (
                &[
                    (512, b"LABELONE"),
                    (532, &32_u32.to_le_bytes()),
                    (536, b"LVM2 001"),
                    (544, b"abcdefghijklmnopqrstuvwxyz012345"),
                ],
                "lvm2:abcdefghijklmnopqrstuvwxyz012345".into(),
            ),
            (&[(4096, b"\xfc\x4e\x2b\xa9\x01"), (4112, &UUID)], format!("md:{UUID_TEXT}")),
            (&[(3, b"NTFS    "), (0x48, &[1, 2, 3, 4, 5, 6, 7, 8])], "ntfs:0807060504030201".into()),
            (&[(3, b"EXFAT   "), (0x64, &[1, 2, 3, 4])], "exfat:04030201".into()),
            (&[(82, b"FAT32"), (510, b"\x55\xaa"), (0x43, &[1, 2, 3, 4])], "vfat:04030201".into()),
            (&[(510, b"\x55\xaa"), (440, &[1, 2, 3, 4])], "mbr:04030201".into()),
            (
                &[(450, b"\xee"), (510, b"\x55\xaa"), (512, b"EFI PART"), (568, &UUID)],
                "gpt:78563412-0201-0403-0506-0708090a0b0c".into(),
            ),
        ];
        for (parts, expected) in table {
            assert_eq!(probe(&image(parts)), Some(expected));
        }
        assert_eq!(probe(&image(&[])), None);
    }

    #[test]
    fn the_backup_of_a_partition_table_is_used_when_the_first_is_lost() {
        let end = (128 << 10) - 512;
        let parts: [(usize, &[u8]); 4] =
            [(450, b"\xee"), (510, b"\x55\xaa"), (end, b"EFI PART"), (end + 56, &UUID)];
        assert_eq!(probe(&image(&parts)).as_deref(), Some("gpt:78563412-0201-0403-0506-0708090a0b0c"));
        // Without the protective MBR it is a left-over.
        assert_eq!(probe(&image(&parts[2..])), None);
    }

    #[test]
    fn unreadable_places_and_hostile_offsets_are_nothing() {
        assert_eq!(content_uuid(1 << 20, 512, &mut [0; WORK_BYTES], &mut |_, _| false), None);
        let wild = [(512, &b"LABELONE"[..]), (532, &[0xff; 4]), (536, b"LVM2 001")];
        assert_eq!(probe(&image(&wild)), None);
        assert_eq!(probe(&image(&[(0, b"XFSB")])), None, "an all-zero UUID names nothing");
        assert_eq!(probe(&[0; 100]), None);
    }
}
