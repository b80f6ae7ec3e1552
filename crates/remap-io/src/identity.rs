//! What tells one device from another: names of the hardware, and the UUID of what is stored on it.
//!
//! Invariant: [`content_uuid`] only reads, looks at fixed places, and takes an unreadable place as one without a magic;
//! a failing disk still gets the identity that its readable parts give.

use crate::sysfs::BlockNode;

/// What tells this device from another. Two devices with different identities are never the same; equal identities with
/// nothing but a size in them prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Bytes (of the slice).
    pub size: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// World-wide name, as the driver writes it (`naa.5000...`, `eui.0025...`; device-mapper and md: their UUID).
    /// A partition has its disk's.
    pub wwn: Option<String>,
    /// Serial number of the disk.
    pub serial: Option<String>,
    /// Model of the disk.
    pub model: Option<String>,
    /// What was found in the contents, with its kind: `gpt:GUID`, `mbr:SIGNATURE`, `ext:UUID`, `xfs:UUID`, `btrfs:UUID`,
    /// `luks:UUID`, `lvm2:UUID`, `md:UUID`, `swap:UUID`, `f2fs:UUID`, `ntfs:SERIAL`, `exfat:SERIAL`, `vfat:SERIAL`.
    pub content_uuid: Option<String>,
}

impl Identity {
    /// Of a device whose hardware is `node` (`None` for a file); `read` gives bytes at an offset, if they are readable.
    pub(crate) fn of(
        size: u64,
        logical_block: u32,
        node: Option<&BlockNode>,
        read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Self {
        Self {
            size,
            logical_block,
            wwn: node.and_then(BlockNode::wwn),
            serial: node.and_then(BlockNode::serial),
            model: node.and_then(BlockNode::model),
            content_uuid: content_uuid(size, logical_block, read),
        }
    }
}

/// Bytes at the start of a device in which all magics are, except the btrfs one.
const HEAD_BYTES: usize = 8192;
/// Pieces in which the head is read, so that one bad sector hides only its neighbours.
const PIECE_BYTES: usize = 4096;
const BTRFS_OFFSET: u64 = 0x10000;

fn content_uuid(
    size: u64,
    logical_block: u32,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<String> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    for offset in (0..HEAD_BYTES).step_by(PIECE_BYTES) {
        let at = u64::try_from(offset).ok()?;
        if at + 4096 > size {
            break;
        }
        head.extend(read(at, PIECE_BYTES).unwrap_or_else(|| vec![0; PIECE_BYTES]));
    }
    let head = View(&head);
    if let Some(found) = gpt(&head, size, logical_block, read) {
        return Some(found);
    }
    if let Some(found) = container(&head).or_else(|| file_system(&head)) {
        return Some(found);
    }
    if size >= BTRFS_OFFSET + 4096 {
        let block = read(BTRFS_OFFSET, PIECE_BYTES).unwrap_or_default();
        if View(&block).has(0x40, b"_BHRfS_M") {
            return Some(format!("btrfs:{}", View(&block).uuid(0x20)?));
        }
    }
    boot_sector(&head)
}

/// A disk GUID: primary header, or the backup at the end when only the protective MBR is left.
fn gpt(
    head: &View<'_>,
    size: u64,
    logical_block: u32,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<String> {
    if !head.has(510, b"\x55\xaa") || !(0..4).any(|entry| head.has(446 + entry * 16 + 4, b"\xee")) {
        return None;
    }
    let block = usize::try_from(logical_block).ok()?;
    if head.has(block, b"EFI PART") {
        return Some(format!("gpt:{}", head.guid(block + 56)?));
    }
    let last = read(size.checked_sub(u64::from(logical_block))?, block)?;
    let last = View(&last);
    last.has(0, b"EFI PART").then(|| last.guid(56))?.map(|guid| format!("gpt:{guid}"))
}

/// Things that hold other things.
fn container(head: &View<'_>) -> Option<String> {
    if head.has(0, b"LUKS\xba\xbe") {
        return Some(format!("luks:{}", head.text(168, 40)?));
    }
    for sector in 0..4 {
        let label = sector * 512;
        if head.has(label, b"LABELONE") && head.has(label + 24, b"LVM2 001") {
            let header = label.checked_add(usize::try_from(head.le32(label + 20)?).ok()?)?;
            return Some(format!("lvm2:{}", head.text(header, 32)?));
        }
    }
    for offset in [0, 4096] {
        if head.le32(offset) == Some(0xa92b_4efc) && head.le32(offset + 4) == Some(1) {
            return Some(format!("md:{}", head.uuid(offset + 16)?));
        }
    }
    None
}

fn file_system(head: &View<'_>) -> Option<String> {
    if head.has(0, b"XFSB") {
        return Some(format!("xfs:{}", head.uuid(32)?));
    }
    if head.has(1024 + 0x38, b"\x53\xef") {
        return Some(format!("ext:{}", head.uuid(1024 + 0x68)?));
    }
    if head.has(4086, b"SWAPSPACE2") {
        return Some(format!("swap:{}", head.uuid(1024 + 12)?));
    }
    if head.le32(1024) == Some(0xf2f5_2010) {
        return Some(format!("f2fs:{}", head.uuid(1024 + 108)?));
    }
    if head.has(3, b"NTFS    ") {
        return Some(format!(
            "ntfs:{:016X}",
            u64::from(head.le32(0x4c)?) << 32 | u64::from(head.le32(0x48)?)
        ));
    }
    if head.has(3, b"EXFAT   ") {
        return Some(format!("exfat:{:08X}", head.le32(0x64)?));
    }
    for (magic, serial) in [(82, 0x43), (54, 0x27)] {
        if head.has(magic, b"FAT") && head.has(510, b"\x55\xaa") {
            return Some(format!("vfat:{:08X}", head.le32(serial)?));
        }
    }
    None
}

/// The disk signature of a partition table of the old kind.
fn boot_sector(head: &View<'_>) -> Option<String> {
    let signature = head.le32(440)?;
    (head.has(510, b"\x55\xaa") && signature != 0).then(|| format!("mbr:{signature:08x}"))
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
    fn text(&self, offset: usize, len: usize) -> Option<String> {
        let bytes = self.0.get(offset..offset.checked_add(len)?)?;
        let bytes = bytes.split(|&b| b == 0).next()?;
        let printable = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        printable.then(|| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A UUID in the order in which it is written; none when it is all zeroes.
    fn uuid(&self, offset: usize) -> Option<String> {
        self.0.get(offset..)?.first_chunk().and_then(hyphenate)
    }

    /// A GUID: its first three fields are little endian.
    fn guid(&self, offset: usize) -> Option<String> {
        let mut bytes: [u8; 16] = *self.0.get(offset..)?.first_chunk()?;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        hyphenate(&bytes)
    }
}

fn hyphenate(bytes: &[u8; 16]) -> Option<String> {
    if bytes == &[0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const UUID_TEXT: &str = "12345678-0102-0304-0506-0708090a0b0c";

    fn probe(image: &[u8]) -> Option<String> {
        content_uuid(image.len() as u64, 512, &mut |offset, len| {
            image.get(offset as usize..offset as usize + len).map(<[u8]>::to_vec)
        })
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
        assert_eq!(content_uuid(1 << 20, 512, &mut |_, _| None), None);
        let wild = [(512, &b"LABELONE"[..]), (532, &[0xff; 4]), (536, b"LVM2 001")];
        assert_eq!(probe(&image(&wild)), None);
        assert_eq!(probe(&image(&[(0, b"XFSB")])), None, "an all-zero UUID names nothing");
        assert_eq!(probe(&[0; 100]), None);
    }
}
