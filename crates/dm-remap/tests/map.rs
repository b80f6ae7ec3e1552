//! `map list`, `import` and `export`.

mod lab;

use lab::{Lab, SECTOR, connect, ddrescue_map, sha256, stamps};
use serde_json::Value;

const SECTORS: u64 = 16384;

fn lost(lab: &Lab) -> String {
    lab.dm_remap(&["map", "export", "SPARE", "--format", "list"]).ok()
}

#[test]
fn imported_sectors_are_lost_until_they_are_overwritten_and_remapped_blocks_keep_theirs() {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let server = lab.serve(&["--drill", "main:bad=sectors:800-807"]);
    connect(&server.uri()).write(800 * SECTOR, &stamps(2, 800..808), true).expect("a remap");
    server.stop();
    lab.file("lost.map", &ddrescue_map(SECTORS, &[10..11, 796..820, 16383..16384]));
    let import = ["map", "import", "--main", "main.img", "SPARE", "lost.map"];
    let main = sha256(&lab.main());
    lab.dm_remap(&import).ok();
    assert_eq!(sha256(&lab.main()), main, "an import writes nothing to the main device");
    assert_eq!(lost(&lab), "10\n796-799\n808-819\n16383\n");
    let listed: Value =
        serde_json::from_str(&lab.dm_remap(&["map", "list", "SPARE", "--json"]).ok()).unwrap();
    let moved = &listed["entries"].as_array().unwrap().iter().find(|e| e["block"] == 100).unwrap();
    assert_eq!((moved["state"].as_str(), moved["lost"].as_str()), (Some("remapped"), Some("0x0")));
    lab.dm_remap(&import).ok();
    assert_eq!(lost(&lab), "10\n796-799\n808-819\n16383\n", "importing twice changes nothing");
    let server = lab.serve(&[]);
    let mut client = connect(&server.uri());
    let mut sector = [0; 512];
    assert_eq!(
        client.read(10 * SECTOR, &mut sector).unwrap().len(),
        1,
        "the disk reads, the import does not"
    );
    client.write(10 * SECTOR, &stamps(3, 10..11), true).unwrap();
    assert!(client.read(10 * SECTOR, &mut sector).unwrap().is_empty());
    assert_eq!(sector.as_slice(), stamps(3, 10..11));
    let mut eight = vec![0; 4096];
    assert!(client.read(800 * SECTOR, &mut eight).unwrap().is_empty());
    assert_eq!(eight, stamps(2, 800..808), "the remapped block");
}

#[test]
fn exports_agree_offline_and_live() {
    let lab = Lab::with_main(SECTORS);
    lab.file("lost.map", &ddrescue_map(SECTORS, &[8..24, 101..103]));
    lab.adopt(&["--map", "lost.map"]);
    let formats = ["ddrescue", "badblocks", "list", "dmsetup"];
    let export = |source: &str, format: &str| {
        lab.dm_remap(&[
            "map",
            "export",
            source,
            "--format",
            format,
            "--main-path",
            "/dev/m",
            "--spare-path",
            "/dev/s",
        ])
        .ok()
    };
    let offline: Vec<String> = formats.iter().map(|format| export("SPARE", format)).collect();
    assert!(offline[0].contains("0x00001000  0x00002000  -"), "{}", offline[0]);
    assert_eq!(offline[1], "4\n5\n6\n7\n8\n9\n10\n11\n50\n51\n", "blocks of 1 KiB");
    assert_eq!(offline[2], "8-23\n101-102\n");
    assert_eq!(
        offline[3],
        "0 8 linear /dev/m 0\n8 16 error\n24 77 linear /dev/m 24\n101 2 error\n103 16281 linear /dev/m 103\n"
    );
    let server = lab.serve(&[]);
    let live: Vec<String> = formats.iter().map(|format| export("CONTROL", format)).collect();
    assert_eq!(live, offline);
    server.stop();
    let again = lab.path("again.map");
    lab.dm_remap(&["map", "export", "SPARE", "--format", "ddrescue", "--output", "again.map"]).ok();
    assert_eq!(std::fs::read_to_string(again).unwrap(), offline[0]);
}

#[test]
fn an_import_that_cannot_be_is_refused_and_writes_nothing() {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let before = sha256(&lab.spare());
    lab.file("broken.map", "# Mapfile\n0x0 + 1\n0x0 0x1000 +\nnonsense\n");
    let why = lab.dm_remap(&["map", "import", "--main", "main.img", "SPARE", "broken.map"]).fails();
    assert!(why.contains("broken.map") && why.contains("line 4"), "{why}");
    lab.file("beyond.txt", "16380-16390\n");
    let (_, why) = lab.dm_remap(&["map", "import", "--main", "main.img", "SPARE", "beyond.txt"]).code(4);
    assert!(why.contains("behind the end"), "{why}");
    lab::write_image(&lab.path("other.img"), SECTORS / 2, 7);
    lab.file("good.txt", "5\n");
    let (_, why) = lab.dm_remap(&["map", "import", "--main", "other.img", "SPARE", "good.txt"]).code(4);
    assert!(why.contains("is not the main device of volume 'lab'"), "{why}");
    let server = lab.serve(&[]);
    lab.dm_remap(&["map", "import", "--main", "main.img", "SPARE", "good.txt"]).code(5);
    server.stop();
    let (_, why) = lab.dm_remap(&["map", "export", "SPARE", "--format", "dmsetup"]).code(2);
    assert!(why.contains("--main-path"), "{why}");
    lab.dm_remap(&["map", "list", "nobody"]).code(7);
    assert_eq!(sha256(&lab.spare()), before, "refusals write nothing");
}
