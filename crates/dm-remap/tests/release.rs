//! `release`, back to the main device and on to another one.

mod lab;

use std::fs;

use lab::{Lab, SECTOR, assert_same, bytes, connect, sha256, stamps};

const SECTORS: u64 = 16384;

/// A volume with remapped blocks (800 to 816) and, if asked, lost sectors (9000 and 9001).
fn worn(lost: bool) -> Lab {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let server = lab.serve(&["--drill", "main:bad=sectors:800-815;9000-9001,errno=ENODATA"]);
    let mut client = connect(&server.uri());
    client.write(800 * SECTOR, &stamps(2, 800..816), true).expect("a remap");
    client.write(12000 * SECTOR, &stamps(2, 12000..12100), true).expect("a plain write");
    if lost {
        let mut two = [0; 1024];
        assert_eq!(client.read(9000 * SECTOR, &mut two).expect("an answer").len(), 1);
        // Its old bytes are out of date from now on, wherever they may be read.
        server.stop();
        lab.file("lost.txt", "9000-9001\n");
        lab.dm_remap(&["map", "import", "--main", "main.img", "SPARE", "lost.txt"]).ok();
    }
    lab
}

fn expected() -> Vec<u8> {
    let mut bytes = stamps(1, 0..SECTORS);
    for run in [800..816, 12000..12100] {
        let at = (run.start * SECTOR) as usize;
        let new = stamps(2, run);
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    bytes
}

#[test]
fn back_to_the_main_device_byte_for_byte() {
    let lab = worn(false);
    let (main, spare) = (sha256(&lab.main()), sha256(&lab.spare()));
    let (_, why) = lab.dm_remap(&["release", "MAIN", "SPARE"]).code(2);
    assert!(why.contains("--yes"), "{why}");
    let said = lab.dm_remap(&["release", "MAIN", "SPARE", "--dry-run"]).ok();
    assert!(said.contains("2 blocks"), "{said}");
    assert_eq!((sha256(&lab.main()), sha256(&lab.spare())), (main, spare), "nothing was done yet");
    let said = lab.dm_remap(&["release", "MAIN", "SPARE", "--yes"]).ok();
    assert!(said.contains("2 blocks are back") && said.contains("stands alone again"), "{said}");
    assert_same(&bytes(&lab.main()), &expected(), "the main device");
    let (_, why) = lab.dm_remap(&["serve", "MAIN", "SPARE"]).code(4);
    assert!(why.contains("released"), "{why}");
    lab.dm_remap(&["release", "MAIN", "SPARE", "--yes"]).code(4);
}

#[test]
fn lost_sectors_are_listed_and_stay_lost() {
    let lab = worn(true);
    let said = lab.dm_remap(&["release", "MAIN", "SPARE", "--yes", "--lost-map", "lost.map"]).code(8).0;
    assert!(said.contains("9000-9001") && said.contains("2 sectors"), "{said}");
    let map = fs::read_to_string(lab.path("lost.map")).unwrap();
    assert!(map.contains("0x00465000  0x00000400  -"), "{map}");
    assert_same(&bytes(&lab.main()), &expected(), "the main device (its lost sectors are as they were)");
}

#[test]
fn to_another_device_as_a_client_would_read_it() {
    let lab = worn(true);
    let main = sha256(&lab.main());
    let (said, _) = lab
        .dm_remap(&["release", "MAIN", "SPARE", "--to", "whole.img", "--yes", "--lost-map", "lost.map"])
        .code(8);
    assert!(said.contains("zero on the destination") && said.contains("9000-9001"), "{said}");
    let mut expected = expected();
    expected[9000 * 512..9002 * 512].fill(0);
    assert_same(&bytes(&lab.path("whole.img")), &expected, "the destination");
    assert_eq!(sha256(&lab.main()), main, "the main device is only read");
    let dump = lab.dm_remap(&["metadata", "dump", "SPARE"]).ok();
    assert!(dump.contains("\"released\": true"), "{dump}");
    assert!(dump.contains("\"remapped\""), "the entries are still there: {dump}");
}

#[test]
fn destinations_that_will_not_do_are_refused() {
    let lab = worn(false);
    let (main, spare) = (sha256(&lab.main()), sha256(&lab.spare()));
    fs::write(lab.path("small.img"), vec![0; 4096]).unwrap();
    let (_, why) = lab.dm_remap(&["release", "MAIN", "SPARE", "--to", "small.img", "--yes"]).code(4);
    assert!(why.contains("the volume needs 8388608"), "{why}");
    for own in ["main.img", "spare.img", "./main.img"] {
        lab.dm_remap(&["release", "MAIN", "SPARE", "--to", own, "--yes"]).code(4);
    }
    let server = lab.serve(&[]);
    lab.dm_remap(&["release", "MAIN", "SPARE", "--yes"]).code(5);
    server.stop();
    assert_eq!(sha256(&lab.main()), main);
    assert_eq!(fs::metadata(lab.path("small.img")).unwrap().len(), 4096);
    // Starting and stopping a server writes nothing either.
    assert_eq!(sha256(&lab.spare()), spare);
}
