//! The scripts of the suite and what each needs: the one place that says so.
//!
//! Invariant: every script in the tree's folders has a row. To add a script, add a row; docs/vm.md tells what a script may rely on.

/// What a script needs. [`PLAIN`] is the least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Where it is in the tree; its name is the file's.
    pub(super) file: &'static str,
    /// Under which kernels it runs.
    pub(super) kernels: &'static [&'static str],
    /// Under which of these in the lane of ci, whose time is short; none named: all.
    pub(super) lane: &'static [&'static str],
    /// Arguments in the lane: to do less of the same.
    pub(super) brief: &'static [&'static str],
    /// The module of `cargo xtask kernel build`.
    pub(super) module: bool,
    /// Modules of the kernel beside the usual ones.
    pub(super) more_modules: &'static [&'static str],
    /// Programs of Debian's packages.
    pub(super) programs: &'static [&'static str],
    /// Programs of ours.
    pub(super) ours: &'static [&'static str],
    /// Disks; see `cargo xtask vm run --help`.
    pub(super) disks: &'static [&'static str],
    /// It is run so often, on the same disks, with the number of the run as its argument. Every run but the last ends by a power cut or a reboot.
    pub(super) lives: u32,
    pub(super) udev: bool,
    /// Words for the kernel's command line.
    pub(super) boot: &'static [&'static str],
    /// The guest's clock counts instructions, and what the script measures is compared with this file.
    pub(super) measured: Option<&'static str>,
    pub(super) cpus: u32,
    /// MiB.
    pub(super) memory: u32,
    /// More is a hang; far above what it takes.
    pub(super) seconds: u64,
}

const PLAIN: Row = Row {
    file: "",
    kernels: &["uml", "6.1", "6.12"],
    lane: &[],
    brief: &[],
    module: false,
    more_modules: &[],
    programs: &[],
    ours: &[],
    disks: &[],
    lives: 1,
    udev: false,
    boot: &[],
    measured: None,
    cpus: 1,
    memory: 768,
    seconds: 300,
};

/// The kernels of Debian.
const DEBIAN: &[&str] = &["6.1", "6.12"];
/// Those that the kernel target is built for: also the newest of the backports.
const TARGETS: &[&str] = &["6.1", "6.12", "newest"];

/// Where a script that takes long, and is much the same everywhere, runs in the lane.
const LONG: &[&str] = &["6.12"];
const QUICKEST: &[&str] = &["uml"];

/// A script for the kernel target. In the lane the newest kernel has the first of them only.
const TARGET: Row = Row { kernels: TARGETS, lane: DEBIAN, module: true, cpus: 2, ..PLAIN };

/// A script for the kernel target that asks what a power cut leaves.
const CUT: Row = Row { ours: &["remap-chaos"], ..TARGET };

/// A power cut at every moment: 118 to 152 of them, up to 9 minutes on a busy machine. In the lane at twelve.
const EVERY_CUT: Row = Row { lane: LONG, brief: &["12"], seconds: 1800, ..CUT };

/// Has the allocator check what is done to memory: each object for writes beside it and after it was freed, and (6.12) some of them for reads, too.
/// lib.sh has a check that it does.
const MEMORY_CHECKED: &[&str] = &["slub_debug=FZPU", "kfence.sample_interval=10"];

/// What the documents' commands call.
const WALK: &[&str] = &["losetup", "mkfs.ext4", "e2fsck", "filefrag"];

/// A script for the server, as a block device over nbd.
const SERVED: Row = Row { programs: &["nbd-client", "mkfs.ext4", "e2fsck"], ours: &["dm-remap"], ..PLAIN };

pub(super) const ROWS: &[Row] = &[
    Row { file: "kernel/tests/basic.sh", lane: TARGETS, ..TARGET },
    Row { file: "kernel/tests/refusals.sh", programs: &["mkfs.ext4"], ..TARGET },
    Row { file: "kernel/tests/load.sh", lane: LONG, seconds: 600, ..TARGET },
    Row {
        file: "kernel/tests/disks.sh",
        programs: &["mkfs.ext4"],
        disks: &["main=32M,bus=scsi,bad-read=2000,bad-write=3000+8", "spare=32M"],
        ..TARGET
    },
    Row { file: "kernel/tests/shown.sh", lane: LONG, ..TARGET },
    Row { file: "kernel/tests/spares.sh", lane: LONG, ..TARGET },
    Row { file: "kernel/tests/handover.sh", programs: &["nbd-client"], ours: &["dm-remap"], ..TARGET },
    Row { file: "kernel/tests/scenarios.sh", lane: LONG, programs: &["blkdiscard"], seconds: 600, ..TARGET },
    Row { file: "kernel/tests/under_load.sh", lane: LONG, seconds: 600, ..TARGET },
    Row { file: "kernel/tests/failed.sh", lane: LONG, brief: &["2", "31", "260"], seconds: 600, ..TARGET },
    Row { file: "kernel/tests/pulled.sh", lane: LONG, seconds: 600, ..TARGET },
    Row { file: "kernel/tests/leaks.sh", lane: LONG, boot: MEMORY_CHECKED, seconds: 600, ..TARGET },
    Row { file: "kernel/tests/flushes.sh", lane: LONG, seconds: 600, ..CUT },
    Row { file: "kernel/tests/logwrites_ext4.sh", programs: &["mkfs.ext4", "e2fsck"], ..EVERY_CUT },
    Row { file: "kernel/tests/logwrites_xfs.sh", programs: &["mkfs.xfs", "xfs_repair"], ..EVERY_CUT },
    Row { file: "kernel/tests/logwrites_btrfs.sh", programs: &["mkfs.btrfs", "btrfs"], ..EVERY_CUT },
    Row {
        file: "kernel/tests/resets.sh",
        lane: LONG,
        programs: &["mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair", "mkfs.btrfs", "btrfs"],
        disks: &["main=96M", "spare=32M", "note=1M"],
        lives: 5,
        seconds: 600,
        ..CUT
    },
    Row {
        file: "kernel/tests/stack_md.sh",
        lane: LONG,
        programs: &["mdadm", "mkfs.ext4", "e2fsck"],
        ..TARGET
    },
    Row {
        file: "kernel/tests/stack_lvm.sh",
        lane: LONG,
        programs: &["lvm", "mkfs.ext4", "e2fsck"],
        ..TARGET
    },
    Row {
        file: "kernel/tests/stack_luks.sh",
        lane: LONG,
        programs: &["cryptsetup", "mkfs.ext4", "e2fsck"],
        ..TARGET
    },
    Row { file: "kernel/tests/stack_multipath.sh", lane: LONG, ..TARGET },
    Row {
        file: "kernel/tests/stack_partitions.sh",
        lane: LONG,
        programs: &["sfdisk", "losetup", "blkdiscard", "mkfs.ext4", "e2fsck"],
        ..TARGET
    },
    Row {
        file: "kernel/tests/golden.sh",
        programs: &["nbd-client"],
        ours: &["dm-remap", "remap-chaos"],
        ..TARGET
    },
    Row { file: "guest/nbd.sh", lane: QUICKEST, ..SERVED },
    Row { file: "guest/dust.sh", kernels: &["uml"], ..SERVED },
    Row { file: "guest/medium.sh", lane: QUICKEST, ..SERVED },
    Row { file: "guest/table.sh", lane: QUICKEST, ..SERVED },
    Row {
        file: "guest/drives.sh",
        lane: LONG,
        kernels: DEBIAN,
        disks: &[
            "scsi=32M,bus=scsi,serial=DRIVE-scsi,bad-read=2000,bad-write=3000+8",
            "nvme=32M,bus=nvme,serial=DRIVE-nvme,bad-read=2000,bad-write=3000+8",
            "spare=32M",
        ],
        cpus: 2,
        ..SERVED
    },
    Row {
        file: "guest/identity.sh",
        lane: LONG,
        kernels: DEBIAN,
        disks: &[
            "scsi=16M,bus=scsi,serial=DRIVE-scsi,wwn=0x5000c500a1b2c3d4",
            "scsicopy=16M,bus=scsi,serial=COPY-scsi,wwn=0x5000c500a1b2c3d5",
            "nvme=16M,bus=nvme,serial=DRIVE-nvme",
            "nvmecopy=16M,bus=nvme,serial=COPY-nvme",
            "virtio=16M,serial=DRIVE-virtio",
            "virtiocopy=16M,serial=COPY-virtio",
            "spare=32M",
        ],
        ..SERVED
    },
    Row {
        file: "guest/powercut.sh",
        lane: QUICKEST,
        disks: &["main=32M", "spare=32M", "log=1M"],
        lives: 3,
        ..SERVED
    },
    Row { file: "guest/stock.sh", lane: QUICKEST, seconds: 600, ..SERVED },
    Row { file: "guest/stock-policy.sh", kernels: &["uml"], ..SERVED },
    Row {
        file: "guest/stock-kill.sh",
        lane: QUICKEST,
        brief: &["15", "50"],
        cpus: 2,
        seconds: 900,
        ..SERVED
    },
    Row {
        file: "guest/stock-disks.sh",
        lane: LONG,
        kernels: DEBIAN,
        disks: &["main=32M,bus=scsi,bad-read=2000,bad-write=3000+8", "spare=32M"],
        cpus: 2,
        ..SERVED
    },
    Row { file: "guest/stock-many.sh", lane: QUICKEST, brief: &["fewer"], seconds: 600, ..SERVED },
    Row { file: "guest/stock-handover.sh", lane: LONG, module: true, kernels: TARGETS, ..SERVED },
    Row {
        file: "guest/stock-reboot.sh",
        lane: QUICKEST,
        disks: &["main=32M", "spare=32M", "log=1M"],
        lives: 2,
        ..SERVED
    },
    Row {
        file: "guest/boot.sh",
        lane: LONG,
        programs: &["systemctl", "mount", "umount", "blockdev", "mkfs.ext4", "dumpe2fs"],
        ours: &["dm-remap"],
        disks: &["main=32M,serial=MAIN-1", "spare=32M,serial=SPARE-1"],
        lives: 3,
        module: true,
        kernels: DEBIAN,
        cpus: 2,
        udev: true,
        seconds: 600,
        ..SERVED
    },
    Row {
        file: "guest/walk.sh",
        lane: LONG,
        programs: WALK,
        ours: &["dm-remap"],
        disks: &["store=512M"],
        lives: 3,
        module: true,
        kernels: DEBIAN,
        cpus: 2,
        seconds: 600,
        ..SERVED
    },
    Row {
        file: "guest/stock-walk.sh",
        lane: QUICKEST,
        programs: WALK,
        disks: &["store=512M"],
        lives: 2,
        ..SERVED
    },
    Row {
        file: "kernel/tests/speed.sh",
        lane: LONG,
        programs: &["fio"],
        measured: Some("kernel/tests/speed.txt"),
        seconds: 900,
        ..TARGET
    },
];

impl Row {
    pub(super) fn is_in_lane(&self, kernel: &str) -> bool {
        self.lane.is_empty() || self.lane.contains(&kernel)
    }

    pub(super) fn name(&self) -> &'static str {
        let file = self.file.rsplit('/').next().unwrap_or(self.file);
        file.strip_suffix(".sh").unwrap_or(file)
    }
}

#[cfg(test)]
mod tests {
    use super::ROWS;
    use crate::vm::disks::Disk;
    use crate::vm::kernels::Kernel;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_script_has_a_row_and_every_row_a_script() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut scripts = BTreeSet::new();
        for folder in ["kernel/tests", "guest"] {
            for entry in std::fs::read_dir(root.join(folder)).expect("a folder of scripts") {
                let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
                if name.ends_with(".sh") && name != "lib.sh" {
                    scripts.insert(format!("{folder}/{name}"));
                }
            }
        }
        let rows: BTreeSet<String> = ROWS.iter().map(|row| row.file.to_owned()).collect();
        assert_eq!(scripts, rows);
        let names: BTreeSet<&str> = ROWS.iter().map(super::Row::name).collect();
        assert_eq!(names.len(), ROWS.len(), "two scripts with one name");
    }

    #[test]
    fn rows_can_be_read() {
        for row in ROWS {
            for kernel in row.kernels {
                assert!(kernel.parse::<Kernel>().is_ok(), "{}: {kernel}", row.name());
            }
            for (number, disk) in row.disks.iter().enumerate() {
                let disk: Disk = disk.parse().expect("a disk");
                if row.kernels.contains(&"uml") {
                    disk.for_uml(number, Path::new("x")).expect("a plain disk");
                }
            }
            assert!(row.lane.iter().all(|name| row.kernels.contains(name)), "{}: not under that", row.name());
            assert!(row.brief.is_empty() || row.lives == 1, "{}: its argument is the life", row.name());
            assert!(row.lives > 0 && !row.kernels.is_empty(), "{}", row.name());
            assert!(
                !row.module || !row.kernels.contains(&"uml"),
                "{}: the module is not built for uml",
                row.name()
            );
            assert!(
                row.measured.is_none() || !row.kernels.contains(&"uml"),
                "{}: uml counts nothing",
                row.name()
            );
        }
    }
}
