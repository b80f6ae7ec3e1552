//! Disks of a guest: how people name them, and what that is to qemu or User-mode Linux.
//!
//! Invariant: what a kind of kernel cannot give is refused, never left out: User-mode Linux has plain disks only.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// ENODATA: what drivers of SCSI and NVMe disks make of a medium error, and what qemu makes one of.
const MEDIUM_ERROR: u32 = 61;

/// One rule of qemu for each bad sector: more take long.
const BAD_SECTORS_MAX: u64 = 10_000;

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Bus {
    #[default]
    Virtio,
    Scsi,
    Nvme,
}

/// What the disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Contents {
    /// Zeroes at first; bytes.
    Blank(u64),
    File(PathBuf),
}

/// `NAME=SIZE|FILE[,OPTION...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What scripts call it: `/disk/NAME`.
    pub(super) name: String,
    contents: Contents,
    pub(super) bus: Bus,
    /// What the disk says; else its name.
    pub(super) serial: String,
    /// World-wide name, SCSI only.
    wwn: Option<u64>,
    read_only: bool,
    /// Bytes of a logical block.
    block_size: Option<u32>,
    /// Sectors whose reads fail: first and count.
    bad_reads: Vec<(u64, u64)>,
    bad_writes: Vec<(u64, u64)>,
    errno: u32,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| format!("disk `{text}`: {error:#}"))
    }
}

impl Disk {
    fn parse(text: &str) -> Result<Self> {
        let (name, rest) =
            text.split_once('=').context("write it as NAME=SIZE or NAME=FILE, then options")?;
        let plain = !name.is_empty() && name.len() <= 16 && name.chars().all(|c| c.is_ascii_alphanumeric());
        ensure!(plain, "the name `{name}` is not 1 to 16 letters and digits");
        let mut words = rest.split(',');
        let contents = words.next().unwrap_or_default();
        ensure!(!contents.is_empty(), "no size and no file");
        let contents = match size(contents) {
            Some(bytes) => Contents::Blank(bytes),
            None => Contents::File(PathBuf::from(contents)),
        };
        let mut disk = Self {
            name: name.to_owned(),
            contents,
            bus: Bus::Virtio,
            serial: name.to_owned(),
            wwn: None,
            read_only: false,
            block_size: None,
            bad_reads: Vec::new(),
            bad_writes: Vec::new(),
            errno: MEDIUM_ERROR,
        };
        for word in words {
            disk.option(word).with_context(|| format!("option `{word}`"))?;
        }
        ensure!(disk.wwn.is_none() || disk.bus == Bus::Scsi, "only disks with bus=scsi have a wwn");
        ensure!(
            disk.bad_reads.iter().chain(&disk.bad_writes).map(|(_, count)| count).sum::<u64>()
                <= BAD_SECTORS_MAX,
            "more than {BAD_SECTORS_MAX} bad sectors"
        );
        Ok(disk)
    }

    fn option(&mut self, word: &str) -> Result<()> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "bus" => {
                self.bus = match value {
                    "virtio" => Bus::Virtio,
                    "scsi" => Bus::Scsi,
                    "nvme" => Bus::Nvme,
                    _ => bail!("there are virtio, scsi and nvme"),
                }
            }
            "serial" => {
                ensure!((1..=20).contains(&value.len()), "a serial number has 1 to 20 characters");
                value.clone_into(&mut self.serial);
            }
            "wwn" => {
                let digits = value.strip_prefix("0x").unwrap_or(value);
                self.wwn = Some(u64::from_str_radix(digits, 16).context("a wwn is a hexadecimal number")?);
            }
            "read-only" => self.read_only = true,
            "block" => self.block_size = Some(value.parse().context("a block's size is a number of bytes")?),
            "bad-read" => self.bad_reads.push(run(value)?),
            "bad-write" => self.bad_writes.push(run(value)?),
            "errno" => {
                self.errno = value.parse().context("a number, such as 61 (medium error) or 5 (EIO)")?
            }
            _ => bail!("there are bus, serial, wwn, read-only, block, bad-read, bad-write and errno"),
        }
        Ok(())
    }

    /// The file with the disk's bytes; made in `home` if it is one of ours and not there yet.
    pub(super) fn file(&self, home: &Path) -> Result<PathBuf> {
        match &self.contents {
            Contents::File(file) => {
                file.canonicalize().with_context(|| format!("disk {}: {}", self.name, file.display()))
            }
            Contents::Blank(bytes) => {
                let file = home.join(format!("{}.img", self.name));
                if !file.exists() {
                    let made = File::create(&file).and_then(|file| file.set_len(*bytes));
                    made.with_context(|| format!("making {}", file.display()))?;
                }
                Ok(file)
            }
        }
    }

    /// Arguments of qemu. `number` tells disks apart.
    pub(super) fn for_qemu(&self, number: usize, file: &Path) -> Vec<String> {
        let node = format!("disk{number}");
        // A power cut of the guest does not lose what qemu has written, so it need not wait for the machine's own disk.
        let mut below =
            json!({"driver": "file", "filename": file, "locking": "off", "cache": {"no-flush": true}});
        let errors: Vec<Value> = [("read", &self.bad_reads), ("write", &self.bad_writes)]
            .into_iter()
            .flat_map(|(kind, runs)| runs.iter().map(move |run| (kind, *run)))
            .flat_map(|(kind, (first, count))| (first..first + count).map(move |sector| (kind, sector)))
            .map(|(kind, sector)| json!({"event": "none", "iotype": kind, "errno": self.errno, "sector": sector}))
            .collect();
        if !errors.is_empty() {
            below = json!({"driver": "blkdebug", "image": below, "inject-error": errors});
        }
        let blockdev =
            json!({"node-name": node, "driver": "raw", "file": below, "read-only": self.read_only});
        let mut device = match self.bus {
            Bus::Virtio => format!("virtio-blk-pci,werror=report,rerror=report,id=dev{number}"),
            Bus::Scsi => format!("scsi-hd,bus=scsi.0,werror=report,rerror=report,id=dev{number}"),
            Bus::Nvme => format!("nvme,id=dev{number}"),
        };
        device += &format!(",drive={node},serial={}", self.serial);
        if let Some(wwn) = self.wwn {
            device += &format!(",wwn={wwn:#x}");
        }
        if let Some(bytes) = self.block_size {
            device += &format!(",logical_block_size={bytes},physical_block_size={bytes}");
        }
        ["-blockdev", &blockdev.to_string(), "-device", &device].map(str::to_owned).to_vec()
    }

    /// Argument of User-mode Linux.
    ///
    /// # Errors
    /// It has no such disks.
    pub(super) fn for_uml(&self, number: usize, file: &Path) -> Result<String> {
        let plain = self.bus == Bus::Virtio && self.wwn.is_none() && self.block_size.is_none();
        ensure!(
            plain && self.bad_reads.is_empty() && self.bad_writes.is_empty() && self.serial == self.name,
            "disk {}: User-mode Linux has plain disks only; take bad sectors from dm-dust, dm-error or scsi_debug",
            self.name
        );
        ensure!(number < 16, "User-mode Linux has 16 disks at most");
        Ok(format!("ubd{number}{}={}", if self.read_only { "r" } else { "" }, file.display()))
    }
}

/// `32M`: bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit)
}

/// `FIRST` or `FIRST+COUNT`: sectors.
fn run(text: &str) -> Result<(u64, u64)> {
    let (first, count) = text.split_once('+').unwrap_or((text, "1"));
    let number = |text: &str| text.parse::<u64>().context("sectors are written as FIRST or FIRST+COUNT");
    let (first, count) = (number(first)?, number(count)?);
    ensure!(count > 0 && first.checked_add(count).is_some(), "no sectors");
    Ok((first, count))
}

#[cfg(test)]
mod tests {
    use super::{Bus, Contents, Disk, size};
    use std::path::Path;

    fn disk(text: &str) -> Disk {
        text.parse().expect("a disk")
    }

    fn refusal(text: &str) -> String {
        text.parse::<Disk>().expect_err("it is refused")
    }

    #[test]
    fn disks_are_read() {
        let main = disk(
            "main=32M,bus=scsi,serial=WD-1,wwn=0x5000c500a1b2c3d4,bad-read=2000,bad-write=3000+8,errno=5",
        );
        assert_eq!((main.bus, main.errno, main.wwn), (Bus::Scsi, 5, Some(0x5000_c500_a1b2_c3d4)));
        assert_eq!(
            (main.bad_reads.as_slice(), main.bad_writes.as_slice()),
            (&[(2000, 1)][..], &[(3000, 8)][..])
        );
        assert_eq!(main.contents, Contents::Blank(32 << 20));
        assert_eq!(disk("a=./x.img,read-only").contents, Contents::File("./x.img".into()));
        assert_eq!(disk("a=1G").serial, "a");
        assert_eq!(size("12Q"), None);
        assert_eq!(size("99999999999999999999"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(refusal("32M").contains("NAME=SIZE"));
        assert!(refusal("a b=32M").contains("letters and digits"));
        assert!(refusal("a=32M,bus=ide").contains("virtio, scsi and nvme"));
        assert!(refusal("a=32M,bad-read=1-8").contains("FIRST+COUNT"));
        assert!(refusal("a=32M,bad-read=1+0").contains("no sectors"));
        assert!(refusal("a=32M,wwn=0x5").contains("bus=scsi"));
        assert!(refusal("a=32M,colour=red").contains("there are bus"));
        assert!(refusal("a=32M,bad-read=0+99999").contains("bad sectors"));
    }

    #[test]
    fn every_bad_sector_is_a_rule_of_qemu() {
        let args = disk("a=1M,bus=nvme,bad-read=7,bad-write=9+2").for_qemu(3, Path::new("/t/a.img"));
        assert_eq!(args[1].matches("\"sector\"").count(), 3);
        assert!(args[1].contains("\"errno\":61") && args[1].contains("blkdebug"));
        assert!(args[3].starts_with("nvme,") && args[3].contains("serial=a"));
        assert!(!disk("a=1M").for_qemu(0, Path::new("a"))[1].contains("blkdebug"));
    }

    #[test]
    fn user_mode_linux_has_plain_disks() {
        let file = Path::new("/t/a.img");
        assert_eq!(disk("a=1M,read-only").for_uml(1, file).expect("a plain one"), "ubd1r=/t/a.img");
        for text in ["a=1M,bus=scsi", "a=1M,bad-read=1", "a=1M,serial=x", "a=1M,block=4096"] {
            assert!(disk(text).for_uml(0, file).is_err(), "{text}");
        }
    }
}
