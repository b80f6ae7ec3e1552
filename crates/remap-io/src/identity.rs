//! What tells one device from another: names of the hardware, and the UUID of what is stored on it.
//!
//! Invariant: finding it out only reads; a failing disk still gets the identity that its readable parts give.

use remap_content::{WORK_BYTES, content_uuid};

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
        let mut fill = |offset, into: &mut [u8]| {
            let bytes = read(offset, into.len()).filter(|bytes| bytes.len() == into.len());
            bytes.inspect(|bytes| into.copy_from_slice(bytes)).is_some()
        };
        let content_uuid = content_uuid(size, logical_block, &mut [0; WORK_BYTES], &mut fill);
        Self {
            size,
            logical_block,
            wwn: node.and_then(BlockNode::wwn),
            serial: node.and_then(BlockNode::serial),
            model: node.and_then(BlockNode::model),
            content_uuid: content_uuid.map(|found| found.to_string()),
        }
    }
}
