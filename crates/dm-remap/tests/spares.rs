//! Spares that join, leave and take each other's place while clients are served.

mod lab;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::{Lab, NAME, SECTOR, assert_same, connect, stamps, write_sparse};
use serde_json::Value;

const SECTORS: u64 = 16384;
/// What the main device does not take.
const BAD: std::ops::Range<u64> = 4096..4352;
const DRILL: &str = "main:bad=sectors:4096-4351,errno=ENODATA";

/// A served volume with 32 blocks on its spare; what a client must read.
fn worn() -> (Lab, lab::Server, Vec<u8>) {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let server = lab.serve(&["--drill", DRILL]);
    connect(&server.uri()).write(BAD.start * SECTOR, &stamps(2, BAD), true).expect("heals by a remap");
    let mut expected = stamps(1, 0..SECTORS);
    let at = (BAD.start * SECTOR) as usize;
    expected[at..at + stamps(2, BAD).len()].copy_from_slice(&stamps(2, BAD));
    (lab, server, expected)
}

fn read_all(uri: &str) -> Vec<u8> {
    let mut found = vec![0; (SECTORS * SECTOR) as usize];
    assert!(connect(uri).read(0, &mut found).expect("an answer").is_empty(), "nothing is lost");
    found
}

fn message(lab: &Lab, words: &[&str]) -> lab::Tool {
    let socket = lab.path("control");
    let socket = socket.to_str().expect("a path");
    lab.dm_remap(&[&["message", socket], words].concat())
}

fn status(lab: &Lab) -> Value {
    let text = lab.dm_remap(&["status", "CONTROL", "--json"]).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_larger_spare_takes_the_place_of_the_only_one_while_clients_write() {
    let (lab, server, mut expected) = worn();
    let larger = lab.path("larger.img");
    write_sparse(&larger, 256 << 20);
    let before = status(&lab);
    let done = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = connect(&server.uri());
            let mut seed = 3;
            while !done.load(Ordering::Relaxed) {
                client.write(4160 * SECTOR, &stamps(seed, 4160..4200), seed % 4 == 0).expect("a write");
                seed += 1;
            }
            seed - 1
        });
        let text = message(&lab, &["migrate", "larger.img"]).ok();
        assert!(
            text.contains("32 blocks moved") && text.contains("from now on start the volume with"),
            "{text}"
        );
        done.store(true, Ordering::Relaxed);
        writer.join().expect("the writer")
    });
    let at = (4160 * SECTOR) as usize;
    let written = stamps(last, 4160..4200);
    expected[at..at + written.len()].copy_from_slice(&written);
    assert_same(&read_all(&server.uri()), &expected, "in service");
    let after = status(&lab);
    assert_eq!(after["spares"].as_array().map(Vec::len), Some(1));
    assert_eq!(after["spares"][0]["number"], 1);
    assert!(after["slots"]["total"].as_u64() > before["slots"]["total"].as_u64());
    server.stop();

    let (_, text) = lab.dm_remap(&["serve", "MAIN", "SPARE"]).code(4);
    assert!(text.contains("no dm-remap metadata"), "{text}");
    fs::rename(&larger, lab.spare()).expect("the new spare in the old one's place");
    lab.dm_remap(&["metadata", "check", "SPARE"]).ok();
    let server = lab.serve(&["--drill", DRILL]);
    assert_same(&read_all(&server.uri()), &expected, "after a restart");
    server.stop();
}

#[test]
fn a_spare_joins_and_the_first_one_leaves() {
    let (lab, server, expected) = worn();
    let second = lab.path("second.img");
    write_sparse(&second, 64 << 20);
    let text = message(&lab, &["add-spare", "second.img"]).ok();
    assert!(text.contains("is spare 1 now"), "{text}");
    assert_eq!(status(&lab)["spares"].as_array().map(Vec::len), Some(2));
    server.stop();

    // Both are needed now, in any order.
    let (_, text) = lab.dm_remap(&["serve", "MAIN", "SPARE"]).code(4);
    assert!(text.contains("2 spares"), "{text}");
    let both = ["--drill", DRILL, "--spare", "second.img"];
    let server = lab.serve(&both);
    assert_same(&read_all(&server.uri()), &expected, "with two spares");
    let text = message(&lab, &["retire-spare", "0"]).ok();
    assert!(text.contains("spare.img has left the volume (32 blocks moved off it)"), "{text}");
    assert_same(&read_all(&server.uri()), &expected, "with one spare again");
    // It is free: it can join again, with another number.
    let text = message(&lab, &["add-spare", "spare.img", "force"]).ok();
    assert!(text.contains("is spare 2 now"), "{text}");
    message(&lab, &["retire-spare", "2"]).ok();
    server.stop();

    let (_, text) = lab.dm_remap(&["serve", "MAIN", "SPARE", "--spare", "second.img"]).code(4);
    assert!(text.contains("spare.img: no dm-remap metadata here"), "{text}");
    fs::rename(&second, lab.spare()).expect("the second spare in the first one's place");
    let server = lab.serve(&["--drill", DRILL]);
    assert_same(&read_all(&server.uri()), &expected, "after a restart");
    server.stop();
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let (lab, server, expected) = worn();
    let image = |name: &str, size: u64| write_sparse(&lab.path(name), size);
    image("tiny.img", 8192);
    image("other.img", 64 << 20);
    lab.file("text.img", "not empty");
    let cases: [(&[&str], &str); 9] = [
        (&["add-spare", "missing.img"], "missing.img"),
        (&["add-spare", "spare.img"], "is the same device as"),
        (&["add-spare", "main.img"], "is the same device as"),
        (&["add-spare", "tiny.img"], "too small"),
        (&["add-spare", "."], "is a directory"),
        (&["retire-spare", "0"], "only one"),
        (&["retire-spare", "7"], "no spare number 7"),
        (&["retire-spare", "x"], "not the number of a spare"),
        (&["migrate", "other.img", "5"], "no spare number 5"),
    ];
    for (words, reason) in cases {
        let (text, _) = message(&lab, words).code(1);
        assert!(text.starts_with("error: ") && text.contains(reason), "{words:?}: {text}");
    }
    // A refused device is not held: it can be used once it fits.
    image("tiny.img", 64 << 20);
    message(&lab, &["add-spare", "tiny.img"]).ok();
    let (text, _) = message(&lab, &["migrate", "other.img"]).code(1);
    assert!(text.contains("which spare is it to replace"), "{text}");
    assert_same(&read_all(&server.uri()), &expected, "afterwards");
    server.stop();
    // Another volume's spare is not taken.
    let stranger = Lab::with_main(SECTORS);
    stranger.adopt(&[]);
    let server = lab.serve(&["--spare", "tiny.img"]);
    let path = stranger.spare();
    let path = path.to_str().expect("a path");
    let (text, _) = message(&lab, &["add-spare", path]).code(1);
    assert!(text.contains(&format!("already belongs to volume '{NAME}'")), "{text}");
    assert!(message(&lab, &["add-spare", path, "force"]).ok().contains("is spare 2 now"));
    server.stop();
}
