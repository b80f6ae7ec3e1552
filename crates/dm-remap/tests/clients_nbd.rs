//! libnbd's programs against the server: handshake, flags, commands, errors, ways to connect.

mod lab;

use std::net::TcpListener;
use std::ops::Range;

use lab::{Lab, SECTOR, Tool, assert_same, bytes, can, ddrescue_map, sha256, stamps, write_image};
use serde_json::Value;

const SECTORS: u64 = 16384;
const SIZE: u64 = SECTORS * SECTOR;

fn healthy() -> Lab {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    lab
}

fn with_lost(lost: &[Range<u64>]) -> Lab {
    let lab = Lab::with_main(SECTORS);
    let map = lab.file("lost.map", &ddrescue_map(SECTORS, lost));
    lab.adopt(&["--map", map.to_str().expect("a plain path")]);
    lab
}

#[test]
fn nbdinfo_tells_the_export() {
    if !can(&["nbdinfo"]) {
        return;
    }
    let lab = healthy();
    let server = lab.serve(&[]);
    let text = Tool::of("nbdinfo").arg("--json").arg(server.uri()).ok();
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(all["structured"], true, "{text}");
    let export = &all["exports"][0];
    assert_eq!(export["export-size"], SIZE, "{text}");
    assert_eq!(export["is_read_only"], false, "{text}");
    for able in ["can_flush", "can_fua", "can_zero", "can_df", "can_multi_conn", "can_cache"] {
        assert_eq!(export[able], true, "{able}: {text}");
    }
    let contexts = export["contexts"].as_array().expect("contexts");
    for context in ["base:allocation", "dm-remap:state"] {
        assert!(contexts.iter().any(|known| known == context), "{context}: {text}");
    }
    assert_eq!(Tool::of("nbdinfo").arg("--size").arg(server.uri()).ok().trim(), SIZE.to_string());
    server.stop();
}

#[test]
fn nbdinfo_lists_the_volume_and_refuses_another_name() {
    if !can(&["nbdinfo"]) {
        return;
    }
    let lab = healthy();
    let server = lab.serve(&[]);
    let list = Tool::of("nbdinfo").arg("--list").arg("--json").arg(server.uri()).ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let names: Vec<&Value> =
        list["exports"].as_array().expect("exports").iter().map(|export| &export["export-name"]).collect();
    assert_eq!(names, ["lab"]);
    let other = server.uri().replace("/lab?", "/other?");
    Tool::of("nbdinfo").arg(other).fails();
    let unnamed = server.uri().replace("/lab?", "/?");
    Tool::of("nbdinfo").arg(unnamed).ok();
    server.stop();
}

/// Offset, length and type of each line of `nbdinfo --map`.
fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let text = Tool::of("nbdinfo").arg(format!("--map={context}")).arg(uri).ok();
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).expect("a number");
    let rows: Vec<(u64, u64, u64)> = text
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (number(words.next()), number(words.next()), number(words.next()))
        })
        .collect();
    let end = rows.iter().fold(0, |at, (offset, len, _)| {
        assert_eq!(*offset, at, "gap in the map: {text}");
        at + len
    });
    assert_eq!(end, SIZE, "the map covers the volume: {text}");
    rows
}

#[test]
fn nbdinfo_maps_the_states() {
    if !can(&["nbdinfo"]) {
        return;
    }
    let lost = [0..1, 800..816, SECTORS - 1..SECTORS];
    let lab = with_lost(&lost);
    let server = lab.serve(&["--drill", "main:bad=sectors:800-815,errno=ENODATA"]);
    map(&server.uri(), "base:allocation");
    let of_state = |state: u64| -> Vec<(u64, u64)> {
        let rows = map(&server.uri(), "dm-remap:state").into_iter();
        rows.filter(|(_, _, is)| *is == state).map(|(at, len, _)| (at / SECTOR, len / SECTOR)).collect()
    };
    assert_eq!(of_state(3), [(0, 1), (800, 16), (SECTORS - 1, 1)]);
    assert_eq!(of_state(1), []);
    // The drill takes no writes at 800-815, so what is overwritten there moves.
    let mut client = lab::connect(&server.uri());
    client.write(808 * SECTOR, &stamps(2, 808..816), true).expect("a write to a bad block");
    assert_eq!(of_state(3), [(0, 1), (800, 8), (SECTORS - 1, 1)]);
    assert_eq!(of_state(1), [(808, 8)]);
    server.stop();
}

#[test]
fn nbdcopy_in_and_out() {
    if !can(&["nbdcopy"]) {
        return;
    }
    let lab = healthy();
    let (source, copy) = (lab.path("source.img"), lab.path("copy.img"));
    write_image(&source, SECTORS, 7);
    let server = lab.serve(&["--drill", "main:bad=sectors:5000-5100;9000,errno=ENODATA"]);
    let many = ["--connections=4", "--requests=32", "--request-size=65536", "--flush"];
    Tool::of("nbdcopy").args(many).arg(&source).arg(server.uri()).ok();
    Tool::of("nbdcopy").args(many).arg(server.uri()).arg(&copy).ok();
    assert_same(&bytes(&copy), &bytes(&source), "nbdcopy there and back");
    server.stop();
    let server = lab.serve(&["--drill", "main:bad=sectors:5000-5100;9000,errno=ENODATA"]);
    Tool::of("nbdcopy").arg(server.uri()).arg(&copy).ok();
    assert_same(&bytes(&copy), &bytes(&source), "after a restart");
    server.stop();
}

#[test]
fn nbdcopy_stops_at_a_lost_sector() {
    if !can(&["nbdcopy"]) {
        return;
    }
    let lost = 4711..4712;
    let lab = with_lost(std::slice::from_ref(&lost));
    let server = lab.serve(&[]);
    Tool::of("nbdcopy").arg(server.uri()).arg(lab.path("copy.img")).fails();
    server.stop();
}

fn python(script: &str, lab: &Lab, uri: &str, more: &[&str]) {
    let size = SIZE.to_string();
    let tool = Tool::python(script).folder(lab.folder()).arg(uri).arg(size).args(more);
    assert_eq!(tool.ok().trim(), "fine");
}

#[test]
fn libnbd_finds_every_flag_and_command() {
    if !can(&["python-nbd"]) {
        return;
    }
    let lab = healthy();
    let server = lab.serve(&[]);
    python(include_str!("lab/flags.py"), &lab, &server.uri(), &[]);
    server.stop();
}

#[test]
fn libnbd_is_refused_what_is_out_of_bounds() {
    if !can(&["python-nbd"]) {
        return;
    }
    let lab = healthy();
    let server = lab.serve(&[]);
    python(include_str!("lab/errors.py"), &lab, &server.uri(), &["limits"]);
    server.stop();
    assert_same(&bytes(&lab.main()), &stamps(1, 0..SECTORS), "refused requests change nothing");
}

#[test]
fn libnbd_gets_the_good_bytes_around_lost_sectors() {
    if !can(&["python-nbd"]) {
        return;
    }
    let lab = with_lost(&[100..104, 109..110]);
    std::fs::copy(lab.main(), lab.path("original.img")).expect("a copy");
    let server = lab.serve(&[]);
    python(include_str!("lab/errors.py"), &lab, &server.uri(), &["lost", "original.img"]);
    server.stop();
}

#[test]
fn read_only_takes_no_write() {
    if !can(&["python-nbd", "nbdinfo"]) {
        return;
    }
    let lab = healthy();
    let before = (sha256(&lab.main()), sha256(&lab.spare()));
    let server = lab.serve(&["--read-only"]);
    assert!(Tool::of("nbdinfo").arg(server.uri()).ok().contains("is_read_only: true"));
    python(include_str!("lab/errors.py"), &lab, &server.uri(), &["read-only"]);
    server.stop();
    assert!(before == (sha256(&lab.main()), sha256(&lab.spare())), "read-only writes nothing anywhere");
}

#[test]
fn socket_activation_by_nbdinfo() {
    if !can(&["nbdinfo"]) {
        return;
    }
    let lab = healthy();
    let tool =
        Tool::of("nbdinfo").args(["--size", "--", "["]).arg(env!("CARGO_BIN_EXE_dm-remap")).arg("serve");
    let tool = tool.arg(lab.main()).arg("--spare").arg(lab.spare()).arg("--control").arg(lab.path("control"));
    // Standard output is nbdinfo's alone.
    assert_eq!(tool.arg("]").ok().trim(), SIZE.to_string());
}

#[test]
fn stdio_serves_one_client() {
    if !can(&["python-nbd"]) {
        return;
    }
    let lab = healthy();
    let script = "
import sys, nbd
h = nbd.NBD()
h.connect_command(sys.argv[2:])
assert h.get_size() == int(sys.argv[1])
h.pwrite(b'over stdio. ' * 512, 512 * 40)
h.flush()
assert h.pread(6144, 512 * 40) == b'over stdio. ' * 512
h.shutdown()
print('fine')
";
    let tool = Tool::python(script).arg(SIZE.to_string()).arg(env!("CARGO_BIN_EXE_dm-remap"));
    let tool = tool.args(["serve", "--stdio", "--spare"]).arg(lab.spare()).arg(lab.main());
    assert_eq!(tool.arg("--control").arg(lab.path("control")).ok().trim(), "fine");
}

#[test]
fn tcp_on_this_machine() {
    if !can(&["nbdcopy"]) {
        return;
    }
    let lab = healthy();
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let server = lab.serve(&["--tcp", &free.to_string()]);
    let copy = lab.path("copy.img");
    Tool::of("nbdcopy").arg(format!("nbd://{free}/lab")).arg(&copy).ok();
    assert_same(&bytes(&copy), &stamps(1, 0..SECTORS), "a copy over TCP");
    server.stop();
}
