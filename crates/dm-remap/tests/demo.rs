//! `demo`: that it runs, and that its report can be believed.

mod lab;

use std::fs;

use lab::{Lab, ddrescue_map};

/// Promises of a run that are printed as kept.
fn kept(said: &str) -> usize {
    said.lines().filter(|line| line.trim_start().starts_with("[ok]")).count()
}

fn e2fsprogs() -> bool {
    lab::can(&["mke2fs", "debugfs", "dumpe2fs", "e2fsck"])
}

#[test]
fn quick_demo_keeps_its_promises_and_cleans_up() {
    if !e2fsprogs() {
        return;
    }
    let lab = Lab::new();
    let said = lab.dm_remap(&["demo", "--quick", "--seed", "3", "--dir", "work"]).ok();
    for line in [
        "wrote nothing to disk.img",
        "exactly the bad sectors gave errors",
        "they read good at once",
        "kill -9",
        "no acknowledged write is missing",
        "e2fsck -fn finds nothing wrong",
        "files match their sha256",
        "12 of 12 promises were kept",
    ] {
        assert!(said.contains(line), "no '{line}' in:\n{said}");
    }
    assert_eq!(kept(&said), 12, "{said}");
    assert!(!said.contains("FAILED"), "{said}");
    assert!(!lab.path("work").exists(), "the directory is removed");
}

#[test]
fn a_map_is_taken_as_it_is() {
    if !e2fsprogs() {
        return;
    }
    let lab = Lab::new();
    let sectors = (96 << 20) / 512;
    // The last one lies behind the file system's last whole block.
    let bad = [60_000..60_024, 100_000..100_001, 150_001..150_009, sectors + 2..sectors + 3];
    lab.file("disk.map", &ddrescue_map(sectors + 3, &bad));
    let said = lab.dm_remap(&["demo", "--map", "disk.map", "--dir", "work", "--keep"]).ok();
    assert!(said.contains("34 sectors (17.0 KiB) in 4 clusters (4 runs)"), "{said}");
    assert!(said.contains("promises were kept") && !said.contains("FAILED"), "{said}");
    let list = fs::read_to_string(lab.path("work/bad-sectors.list")).unwrap();
    assert_eq!(list.lines().count(), 4, "--keep keeps: {list}");
}

#[test]
fn what_it_cannot_do_is_said_at_once() {
    if !e2fsprogs() {
        return;
    }
    let lab = Lab::new();
    lab.dm_remap(&["demo", "--size", "1M"]).code(2);
    lab.dm_remap(&["demo", "--map", "nowhere.map"]).code(7);
    lab.file("tiny.map", &ddrescue_map(100, &[5..6, 8..9]));
    let (_, why) = lab.dm_remap(&["demo", "--map", "tiny.map"]).code(4);
    assert!(why.contains("16 MiB"), "{why}");
    fs::create_dir(lab.path("full")).unwrap();
    lab.file("full/precious", "do not touch");
    lab.dm_remap(&["demo", "--quick", "--dir", "full"]).fails();
    assert_eq!(fs::read_to_string(lab.path("full/precious")).unwrap(), "do not touch");
}
