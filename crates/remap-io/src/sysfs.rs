//! What `/sys`, `/proc` and `/run/udev` tell about a block device, found by its device number.
//!
//! Invariant: everything here is best effort and read-only; an attribute that is missing or unreadable is `None`, never
//! an error, because the set of attributes differs with every driver and kernel.

use std::fs;
use std::path::{Path, PathBuf};

/// A block device, by number.
#[derive(Clone, Debug)]
pub(crate) struct BlockNode {
    major: u32,
    minor: u32,
    /// `/sys/devices/.../sda1`, if `/sys` is there.
    own: Option<PathBuf>,
    /// `/sys/devices/.../sda`: the same for a whole disk, the parent for a partition.
    disk: Option<PathBuf>,
}

impl BlockNode {
    pub(crate) fn find(major: u32, minor: u32) -> Self {
        let own = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
        let disk = own.as_ref().and_then(|path| {
            if path.join("partition").exists() {
                path.parent().map(Path::to_path_buf)
            } else {
                Some(path.clone())
            }
        });
        Self { major, minor, own, disk }
    }

    /// A text attribute of the whole disk.
    pub(crate) fn disk_text(&self, attribute: &str) -> Option<String> {
        tidy(&fs::read(self.disk.as_ref()?.join(attribute)).ok()?)
    }

    /// Is the device or partition set read-only?
    pub(crate) fn is_read_only(&self) -> bool {
        self.own
            .as_ref()
            .and_then(|own| fs::read(own.join("ro")).ok())
            .is_some_and(|text| text.starts_with(b"1"))
    }

    /// A number in the whole disk's `queue` directory.
    pub(crate) fn queue_number(&self, attribute: &str) -> Option<u64> {
        self.disk_text(&format!("queue/{attribute}"))?.parse().ok()
    }

    /// The NUMA node that its controller is on: told by the nearest of the devices above it.
    pub(crate) fn numa_node(&self) -> Option<u32> {
        let told =
            self.disk.as_ref()?.ancestors().find_map(|path| fs::read_to_string(path.join("numa_node")).ok());
        // -1: the machine has one, or does not say.
        told?.trim().parse().ok()
    }

    /// World-wide name: from the driver, else device-mapper or md, else udev.
    pub(crate) fn wwn(&self) -> Option<String> {
        (self.disk_text("wwid"))
            .or_else(|| self.disk_text("device/wwid"))
            .or_else(|| self.disk_text("dm/uuid"))
            .or_else(|| self.disk_text("md/uuid"))
            .or_else(|| self.udev("ID_WWN_WITH_EXTENSION"))
            .or_else(|| self.udev("ID_WWN"))
    }

    /// Serial number: from the driver, else the SCSI unit serial page, else udev.
    pub(crate) fn serial(&self) -> Option<String> {
        (self.disk_text("serial"))
            .or_else(|| self.disk_text("device/serial"))
            .or_else(|| self.disk_text("device/cid"))
            .or_else(|| unit_serial(&fs::read(self.disk.as_ref()?.join("device/vpd_pg80")).ok()?))
            .or_else(|| self.udev("ID_SERIAL_SHORT"))
    }

    /// Model name.
    pub(crate) fn model(&self) -> Option<String> {
        (self.disk_text("device/model"))
            .or_else(|| self.disk_text("device/name"))
            .or_else(|| self.udev("ID_MODEL"))
    }

    fn udev(&self, key: &str) -> Option<String> {
        let number = fs::read_to_string(self.disk.as_ref()?.join("dev")).ok()?;
        udev_property(&fs::read_to_string(format!("/run/udev/data/b{}", number.trim())).ok()?, key)
    }

    /// Who uses the device, its partitions or its parent, in words; empty when nobody tells.
    pub(crate) fn users(&self, path: &Path) -> Vec<String> {
        let mut nodes: Vec<PathBuf> = self.own.iter().cloned().collect();
        for entry in self.own.iter().filter_map(|own| fs::read_dir(own).ok()).flatten().flatten() {
            if entry.path().join("partition").exists() {
                nodes.push(entry.path());
            }
        }
        let mut users = Vec::new();
        for holder in nodes.iter().filter_map(|n| fs::read_dir(n.join("holders")).ok()).flatten().flatten() {
            users.push(held_by(&holder.path()));
        }
        let mut numbers: Vec<String> = (nodes.iter())
            .filter_map(|n| fs::read_to_string(n.join("dev")).ok())
            .map(|text| text.trim().to_owned())
            .collect();
        numbers.push(format!("{}:{}", self.major, self.minor));
        let names: Vec<String> = (nodes.iter().filter_map(|n| n.file_name()))
            .map(|name| format!("/dev/{}", name.to_string_lossy()))
            .chain([path.display().to_string()])
            .collect();
        if let Ok(text) = fs::read_to_string("/proc/self/mountinfo") {
            users.extend(mounts(&text, &numbers, &names));
        }
        if let Ok(text) = fs::read_to_string("/proc/swaps") {
            let swap = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
            users.extend(swap.filter(|d| names.iter().any(|n| n == d)).map(|d| format!("swap space on {d}")));
        }
        users.sort();
        users.dedup();
        users
    }
}

/// A holder in words: a mapped device also by the name that its owner knows.
fn held_by(holder: &Path) -> String {
    let device = holder.file_name().unwrap_or_default().to_string_lossy();
    match fs::read_to_string(holder.join("dm/name")) {
        Ok(name) => format!("held by the mapped device {} ({device})", name.trim()),
        Err(_) => format!("held by {device}"),
    }
}

/// Mount points in a `mountinfo` text of file systems on the devices (by number, or by name where the number is the file
/// system's own, as on btrfs).
fn mounts(mountinfo: &str, numbers: &[String], names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(2);
        let (Some(number), Some(point)) = (left.next(), left.nth(1)) else { continue };
        let source = right.split(' ').nth(1).unwrap_or_default();
        if numbers.iter().any(|n| n == number) || names.iter().any(|n| n == source) {
            found.push(format!("mounted on {}", unescape_octal(point)));
        }
    }
    found
}

/// mountinfo writes a blank as `\040`.
fn unescape_octal(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The serial number in a SCSI vital product data page 0x80.
fn unit_serial(page: &[u8]) -> Option<String> {
    let header = page.get(..4)?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[1] != 0x80 {
        return None;
    }
    tidy(page.get(4..4 + len).unwrap_or(&page[4..]))
}

/// A property in a udev database file (`E:KEY=VALUE` lines).
fn udev_property(text: &str, key: &str) -> Option<String> {
    let value =
        text.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))?;
    tidy(value.as_bytes())
}

/// Text of a device: printable, blanks collapsed, `None` when nothing is left.
fn tidy(raw: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(raw)
        .chars()
        .map(|c| if c.is_control() || c == '\u{fffd}' { ' ' } else { c })
        .collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_text_is_made_readable() {
        assert_eq!(tidy(b"  WDC  WD10\0\0\n"), Some("WDC WD10".into()));
        assert_eq!(tidy(b" \0\n"), None);
        assert_eq!(tidy(b"a\xffb"), Some("a b".into()));
    }

    #[test]
    fn unit_serial_page_is_bounded() {
        assert_eq!(unit_serial(b"\0\x80\0\x04 Z4X"), Some("Z4X".into()));
        assert_eq!(unit_serial(b"\0\x80\xff\xffZ4X"), Some("Z4X".into()));
        assert_eq!(unit_serial(b"\0\x83\0\x03Z4X"), None);
        assert_eq!(unit_serial(b"\0\x80"), None);
    }

    #[test]
    fn udev_keys_match_whole() {
        let text = "S:disk/by-id/x\nE:ID_SERIAL_SHORT=12\nE:ID_SERIAL=ab_12\n";
        assert_eq!(udev_property(text, "ID_SERIAL"), Some("ab_12".into()));
        assert_eq!(udev_property(text, "ID_WWN"), None);
    }

    #[test]
    fn a_mapped_device_is_told_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let holder = dir.path().join("dm-0");
        fs::create_dir_all(holder.join("dm")).unwrap();
        fs::write(holder.join("dm/name"), "disk\n").unwrap();
        assert_eq!(held_by(&holder), "held by the mapped device disk (dm-0)");
        assert_eq!(held_by(&dir.path().join("md0")), "held by md0");
    }

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let text = "36 35 98:0 /mnt1 /mnt/my\\040disk rw,noatime master:1 - ext3 /dev/root rw\n\
                    37 35 0:44 / /srv rw - btrfs /dev/sdb1 rw\nnonsense\n";
        assert_eq!(mounts(text, &["98:0".into()], &[]), ["mounted on /mnt/my disk"]);
        assert_eq!(mounts(text, &[], &["/dev/sdb1".into()]), ["mounted on /srv"]);
        assert!(mounts(text, &["98:1".into()], &["/dev/sdb".into()]).is_empty());
    }
}
