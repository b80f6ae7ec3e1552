//! `metadata check`, `dump`, `repair` and `restore`, on spares that were damaged on purpose.

mod lab;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lab::{Lab, SECTOR, assert_same, bytes, connect, sha256, stamps};
use remap_format::layout::CopyShape;
use serde_json::Value;

const SECTORS: u64 = 16384;
/// What the main device does not take.
const DRILL: &str = "main:bad=sectors:800-815;4096-4351;9000-9001,errno=ENODATA";

/// A volume with remapped blocks (800 to 816, 4096 to 4352) and lost sectors (9000 and 9001).
fn worn() -> Lab {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let server = lab.serve(&["--drill", DRILL]);
    let mut client = connect(&server.uri());
    for run in [800..816, 4096..4352] {
        client.write(run.start * SECTOR, &stamps(2, run), true).expect("heals by a remap");
    }
    let mut two = [0; 1024];
    assert_eq!(client.read(9000 * SECTOR, &mut two).expect("an answer").len(), 1);
    server.stop();
    lab
}

/// What a client reads of the volume, sector 9000 and 9001 left out; checks that these are lost.
fn read_all(lab: &Lab) -> Vec<u8> {
    let server = lab.serve(&["--drill", DRILL]);
    let mut client = connect(&server.uri());
    let mut found = vec![0; (SECTORS * SECTOR) as usize];
    let bad = client.read(0, &mut found).expect("an answer");
    let lost: Vec<(u64, u64)> = bad.iter().map(|r| (r.start / SECTOR, r.len / SECTOR)).collect();
    assert_eq!(lost, [(9000, 2)]);
    found[9000 * 512..9002 * 512].fill(0);
    server.stop();
    found
}

fn expected() -> Vec<u8> {
    let mut bytes = stamps(1, 0..SECTORS);
    for run in [800..816, 4096..4352] {
        let at = (run.start * SECTOR) as usize;
        let new = stamps(2, run);
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    bytes[9000 * 512..9002 * 512].fill(0);
    bytes
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn check(lab: &Lab, code: i32) -> Value {
    json(&lab.dm_remap(&["metadata", "check", "SPARE", "--json"]).code(code).0)
}

/// First bytes of the copies.
fn starts(lab: &Lab) -> Vec<u64> {
    let report = check(lab, 0);
    report["copies"].as_array().unwrap().iter().map(|c| c["start"].as_u64().unwrap()).collect()
}

fn smash(path: &Path, offset: u64, len: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0x5a; len], offset).unwrap();
}

#[test]
fn check_tells_good_repairable_and_refused_apart() {
    let lab = worn();
    let good = check(&lab, 0);
    assert_eq!(good["verdict"], "good");
    assert_eq!(good["schema_version"], 1);
    assert_eq!(good["copies"].as_array().unwrap().len(), 5);
    let starts = starts(&lab);
    for start in &starts[..4] {
        smash(&lab.spare(), *start, 8192);
    }
    let before = sha256(&lab.spare());
    let damaged = check(&lab, 1);
    assert_eq!(damaged["verdict"], "repairable");
    let flaws = damaged["copies"].as_array().unwrap().iter().filter(|c| !c["flaw"].is_null()).count();
    assert_eq!(flaws, 4);
    assert_eq!(damaged["copies"][1]["flaw"]["offset"].as_u64().unwrap() / 8192, starts[1] / 8192);
    assert_eq!(sha256(&lab.spare()), before, "a check only reads");
    assert_same(&read_all(&lab), &expected(), "four of five copies damaged");
    check(&lab, 0);
    for start in &starts {
        smash(&lab.spare(), *start, 8192);
    }
    let (text, _) = lab.dm_remap(&["metadata", "check", "SPARE"]).code(6);
    assert!(text.contains("cannot be believed") && text.contains("metadata restore"), "{text}");
}

#[test]
fn a_dump_brings_back_metadata_that_are_gone() {
    let lab = worn();
    lab.dm_remap(&["metadata", "dump", "SPARE", "--output", "dump.json"]).ok();
    let listed = lab.dm_remap(&["map", "list", "SPARE"]).ok();
    for start in starts(&lab) {
        smash(&lab.spare(), start, 256 << 10);
    }
    lab.dm_remap(&["map", "list", "SPARE"]).fails();
    lab.dm_remap(&["metadata", "restore", "dump.json", "SPARE", "--main", "MAIN"]).ok();
    check(&lab, 0);
    let again = lab.dm_remap(&["map", "list", "SPARE"]).ok();
    let rows = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rows(&again), rows(&listed));
    assert!(rows(&again).len() > 2, "{again}");
    assert_same(&read_all(&lab), &expected(), "restored");
}

#[test]
fn restore_refuses_what_needs_none_and_what_does_not_fit() {
    let lab = worn();
    lab.dm_remap(&["metadata", "dump", "SPARE", "--output", "dump.json"]).ok();
    let before = sha256(&lab.spare());
    let (_, why) = lab.dm_remap(&["metadata", "restore", "dump.json", "SPARE"]).code(1);
    assert!(why.contains("nothing to restore") && why.contains("--force"), "{why}");
    let other = Lab::with_main(SECTORS);
    other.adopt(&[]);
    let dump = lab.path("dump.json");
    let (_, why) = other.dm_remap(&["metadata", "restore", dump.to_str().unwrap(), "SPARE"]).code(4);
    assert!(why.contains("belongs to volume"), "{why}");
    let text = fs::read_to_string(&dump).unwrap().replace("\"remapped\"", "\"elsewhere\"");
    lab.file("broken.json", &text);
    let why = lab.dm_remap(&["metadata", "restore", "broken.json", "SPARE", "--force"]).fails();
    assert!(why.contains("unknown state 'elsewhere'") && why.contains("entry number"), "{why}");
    assert_eq!(sha256(&lab.spare()), before, "a refusal writes nothing");
    lab.dm_remap(&["metadata", "restore", "dump.json", "SPARE", "--force"]).ok();
    assert_same(&read_all(&lab), &expected(), "restored by force");
}

#[test]
fn repair_makes_a_complete_new_spare_and_leaves_the_old_one_alone() {
    let lab = worn();
    let starts = starts(&lab);
    for start in &starts[..2] {
        smash(&lab.spare(), *start, 64 << 10);
    }
    let before = sha256(&lab.spare());
    lab.dm_remap(&["metadata", "repair", "SPARE", "--output", "repaired.img"]).ok();
    assert_eq!(sha256(&lab.spare()), before, "the old spare is only read");
    fs::rename(lab.path("repaired.img"), lab.spare()).unwrap();
    check(&lab, 0);
    assert_same(&read_all(&lab), &expected(), "on the new spare");
}

#[test]
fn repair_names_what_cannot_be_had() {
    let lab = worn();
    let starts = starts(&lab);
    let dump = json(&lab.dm_remap(&["metadata", "dump", "SPARE"]).ok());
    let pages = |name: &str| u32::try_from(dump["volume"][name].as_u64().unwrap()).unwrap();
    let shape = CopyShape { area_pages: pages("area_pages"), journal_pages: pages("journal_pages") };
    // The journal's first record in every copy: what came after the last checkpoint is in doubt.
    for start in &starts {
        smash(&lab.spare(), start + shape.journal_at(0), 4096);
    }
    let report = check(&lab, 6);
    assert_eq!(report["verdict"], "refused");
    let before = sha256(&lab.spare());
    let (said, _) = lab.dm_remap(&["metadata", "repair", "SPARE", "--output", "repaired.img"]).code(8);
    assert!(said.contains("not to be had") && said.contains("journal records"), "{said}");
    assert_eq!(sha256(&lab.spare()), before, "the old spare is only read");
    fs::rename(lab.path("repaired.img"), lab.spare()).unwrap();
    check(&lab, 0);
    // No stale byte: every sector is either right or an error.
    let server = lab.serve(&["--drill", DRILL]);
    let mut client = connect(&server.uri());
    let (mut sector, expected) = ([0; 512], expected());
    let mut lost = 0;
    for n in (800..816).chain(4096..4352) {
        if client.read(n * SECTOR, &mut sector).expect("an answer").is_empty() {
            let at = (n * SECTOR) as usize;
            assert_same(&sector, &expected[at..at + 512], "a sector that reads");
        } else {
            lost += 1;
        }
    }
    assert!(lost > 0, "the drill's sectors are lost when the record of their move is");
}

#[test]
fn repair_believes_whole_pages_and_names_the_blocks_of_lost_ones() {
    let lab = Lab::with_main(SECTORS);
    // 200 runs: three pages in the table.
    let list: String = (0..200).map(|n| format!("{}\n", 16 * n)).collect();
    lab.file("lost.txt", &list);
    lab.adopt(&["--map", "lost.txt"]);
    let dump = json(&lab.dm_remap(&["metadata", "dump", "SPARE"]).ok());
    let pages = |name: &str| u32::try_from(dump["volume"][name].as_u64().unwrap()).unwrap();
    let shape = CopyShape { area_pages: pages("area_pages"), journal_pages: pages("journal_pages") };
    for start in starts(&lab) {
        smash(&lab.spare(), start + shape.page_at(0, 1), 4096);
        smash(&lab.spare(), start + shape.page_at(1, 1), 4096);
    }
    check(&lab, 6);
    let (said, _) = lab.dm_remap(&["metadata", "repair", "SPARE", "--output", "repaired.img"]).code(8);
    let per_page = remap_format::PAGE_ENTRIES as u64;
    let (first, next) = (2 * (per_page - 1) + 1, 2 * (2 * per_page));
    assert!(said.contains(&format!("the entries of blocks {first} to {} are damaged", next - 1)), "{said}");
    fs::rename(lab.path("repaired.img"), lab.spare()).unwrap();
    let kept = lab.dm_remap(&["map", "export", "SPARE", "--format", "list"]).ok();
    let kept: Vec<u64> = kept.lines().map(|l| l.parse().unwrap()).collect();
    let expected: Vec<u64> =
        (0..200).filter(|n| !(per_page..2 * per_page).contains(n)).map(|n| 16 * n).collect();
    assert_eq!(kept, expected);
}

#[test]
fn repair_of_two_volumes_together_is_refused() {
    let (lab, other) = (worn(), worn());
    let spare = other.spare();
    let spares = ["SPARE", "--spare", spare.to_str().unwrap()];
    let (_, why) = lab
        .dm_remap(
            &[&["metadata", "repair"], &spares[..], &["--output", "a.img", "--output", "b.img"]].concat(),
        )
        .code(4);
    assert!(why.contains("volume"), "{why}");
    assert!(!lab.path("a.img").exists(), "nothing is left behind");
}

#[test]
fn repair_refuses_outputs_that_hold_something_or_are_the_spare() {
    let lab = worn();
    let other = Lab::with_main(SECTORS);
    other.adopt(&[]);
    let taken = other.spare();
    let before = bytes(&taken);
    let (_, why) =
        lab.dm_remap(&["metadata", "repair", "SPARE", "--output", taken.to_str().unwrap()]).code(5);
    assert!(why.contains("holds volume 'lab'") && why.contains("--force"), "{why}");
    assert_same(&bytes(&taken), &before, "a refused output");
    let spare = lab.spare();
    lab.dm_remap(&["metadata", "repair", "SPARE", "--output", spare.to_str().unwrap()]).code(4);
    lab.file("small.img", "too small");
    lab.dm_remap(&["metadata", "repair", "SPARE", "--output", "small.img"]).fails();
    assert_same(&read_all(&lab), &expected(), "after three refusals");
}
