//! `metadata generations`, `compare`, `rollback` and `analyze`, on volumes with a past.

mod lab;

use std::fs;

use lab::{Lab, SECTOR, assert_same, connect, sha256, stamps};
use serde_json::Value;

const SECTORS: u64 = 16384;
/// The drive takes no write at 800-815, and reallocates 9000-9001 when they are written.
const DRILL: [&str; 4] = [
    "--drill",
    "main:bad=sectors:800-815,errno=ENODATA",
    "--drill",
    "main:bad=sectors:9000-9001,errno=ENODATA,heal",
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn generations(lab: &Lab) -> Vec<u64> {
    let list = json(&lab.dm_remap(&["metadata", "generations", "SPARE", "--json"]).ok());
    assert_eq!(list["schema_version"], 1);
    let lines = list["generations"].as_array().unwrap();
    assert!(lines[0]["current"].as_bool().unwrap());
    lines.iter().map(|g| g["generation"].as_u64().unwrap()).collect()
}

/// Adopted, then: sector 9000 lost; and if `moved`, block 100 remapped.
fn lived(moved: bool) -> (Lab, u64) {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let server = lab.serve(&DRILL);
    let mut client = connect(&server.uri());
    // The server's first checkpoint is behind us.
    let before =
        json(&lab.dm_remap(&["status", "CONTROL", "--json"]).ok())["metadata"]["generation"].as_u64();
    let mut sector = [0; 512];
    assert_eq!(client.read(9000 * SECTOR, &mut sector).expect("an answer").len(), 1);
    if moved {
        client.write(800 * SECTOR, &stamps(2, 800..816), true).expect("heals by a remap");
    }
    drop(client);
    server.stop();
    (lab, before.expect("a generation"))
}

#[test]
fn a_table_whose_pending_marks_go_away_can_come_back() {
    let (lab, before) = lived(false);
    let listed = generations(&lab);
    assert!(listed.contains(&before) && listed[0] > before, "{listed:?} {before}");
    let before = before.to_string();
    let spare = sha256(&lab.spare());
    let compared = ["metadata", "compare", "SPARE", "--from", &before, "--json"];
    let compared = json(&lab.dm_remap(&compared).ok());
    assert_eq!(compared["changes"][0]["change"], "pending");
    assert_eq!(compared["changes"][0]["block"], 9000 / 8);
    assert_eq!(compared["changes"].as_array().unwrap().len(), 1);
    lab.dm_remap(&["metadata", "rollback", "SPARE", "--to", &before, "--dry-run"]).ok();
    let said = lab.dm_remap(&["metadata", "rollback", "SPARE", "--to", &before, "--output", "back.img"]).ok();
    assert!(said.contains("1 block would change and can go back, 0 blocks cannot"), "{said}");
    assert_eq!(sha256(&lab.spare()), spare, "the old spare is only read");
    fs::rename(lab.path("back.img"), lab.spare()).unwrap();
    assert!(lab.dm_remap(&["map", "list", "SPARE"]).ok().contains("every block is on the main device"));
    // The disk still answers for itself: an error as long as it is one, and all else as it was.
    let server = lab.serve(&DRILL);
    let mut client = connect(&server.uri());
    let mut found = vec![0; (SECTORS * SECTOR) as usize];
    let bad = client.read(0, &mut found).expect("an answer");
    let bad: Vec<(u64, u64)> = bad.iter().map(|r| (r.start / SECTOR, r.len / SECTOR)).collect();
    assert_eq!(bad, [(800, 16), (9000, 2)]);
    let mut expected = stamps(1, 0..SECTORS);
    for lost in [800..816, 9000..9002] {
        found[lost.start * 512..lost.end * 512].fill(0);
        expected[lost.start * 512..lost.end * 512].fill(0);
    }
    assert_same(&found, &expected, "after the rollback");
    server.stop();
}

#[test]
fn a_block_that_moved_cannot_go_back_and_the_reason_is_told() {
    let (lab, before) = lived(true);
    let spare = sha256(&lab.spare());
    let before = before.to_string();
    let (said, why) =
        lab.dm_remap(&["metadata", "rollback", "SPARE", "--to", &before, "--output", "back.img"]).code(1);
    assert!(said.contains("sectors 800-815: the newest contents are on the slot only"), "{said}");
    assert!(said.contains("1 block would change and can go back, 2 blocks cannot"), "{said}");
    assert!(why.contains("2 blocks cannot go back") && why.contains("nothing was written"), "{why}");
    assert!(!lab.path("back.img").exists());
    assert_eq!(sha256(&lab.spare()), spare);
    lab.dm_remap(&["metadata", "rollback", "SPARE", "--to", "999", "--dry-run"]).code(7);
}

#[test]
fn dumps_are_moments_too() {
    let (lab, _) = lived(false);
    lab.dm_remap(&["metadata", "dump", "SPARE", "--output", "one.json"]).ok();
    let server = lab.serve(&DRILL);
    let mut client = connect(&server.uri());
    client.write(800 * SECTOR, &stamps(2, 800..816), true).expect("heals by a remap");
    client.write(9000 * SECTOR, &stamps(2, 9000..9002), true).expect("heals in place");
    drop(client);
    server.stop();
    lab.dm_remap(&["metadata", "dump", "SPARE", "--output", "two.json"]).ok();
    let text = lab.dm_remap(&["metadata", "compare", "--from", "one.json", "--to", "two.json"]).ok();
    let line =
        |sectors: &str| text.lines().find(|l| l.starts_with(sectors)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("800-815 ").contains("remapped") && line("800-815 ").contains("spare 0 slot"), "{text}");
    assert!(line("9000-9007 ").contains("good"), "{text}");
    let same = lab.dm_remap(&["metadata", "compare", "SPARE", "--from", "two.json"]).ok();
    assert!(same.contains("the two tables say the same"), "{same}");
    // Healed since: the old mark would lose it again.
    let (said, _) = lab.dm_remap(&["metadata", "rollback", "SPARE", "--to", "one.json", "--dry-run"]).code(1);
    assert!(said.contains("their contents would be lost again"), "{said}");
    lab.dm_remap(&["metadata", "compare", "--from", "1", "--to", "two.json"]).code(2);
    let other = Lab::with_main(SECTORS);
    other.adopt(&[]);
    let strange = lab.path("two.json");
    let strange = ["metadata", "compare", "SPARE", "--from", strange.to_str().unwrap()];
    assert!(other.dm_remap(&strange).code(4).1.contains("two volumes"));
}

#[test]
fn the_analysis_adds_up() {
    let (lab, _) = lived(true);
    let found = json(&lab.dm_remap(&["metadata", "analyze", "SPARE", "--json"]).ok());
    assert_eq!(found["schema_version"], 1);
    assert_eq!(found["metadata"]["copies_in_step"], 5);
    assert_eq!(found["runs"]["remapped"]["blocks"], 2);
    assert_eq!(found["runs"]["pending"]["lost_sectors"], 1);
    let spare = &found["spares"][0];
    let slots = |name: &str| spare[name].as_u64().unwrap();
    assert_eq!(slots("used_slots"), 2);
    let all = ["used_slots", "free_slots", "retired_slots", "metadata_slots"].map(slots);
    assert_eq!(all.iter().sum::<u64>(), slots("size") / 4096);
    assert_eq!(found["hotspots"].as_array().unwrap().len(), 2);
    assert_eq!(found["clusters_total"], 2);
    let text = lab.dm_remap(&["metadata", "analyze", "SPARE"]).ok();
    assert!(text.contains("copies   5 of 5 in step") && text.contains("fragmentation: "), "{text}");
}
