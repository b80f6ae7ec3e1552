//! qemu's programs and fio against the server.

mod lab;

use lab::{Lab, SECTOR, Server, Tool, assert_same, bytes, can, stamps, write_image};
use serde_json::Value;

const SECTORS: u64 = 65536;
const SIZE: u64 = SECTORS * SECTOR;

/// Sectors that fail on the main device, reads and writes: scattered, in runs, off block boundaries.
const DRILL: &str = "main:bad=sectors:5000-5100;9001;9003;20000-20007;40000-42000,errno=ENODATA";

fn healthy() -> Lab {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    lab
}

/// A volume that has been written all over, with bad sectors below: some blocks live on the spare.
fn moved() -> (Lab, Server) {
    let lab = healthy();
    let server = lab.serve(&["--drill", DRILL]);
    let mut client = lab::connect(&server.uri());
    for begin in (0..SECTORS).step_by(2048) {
        client.write(begin * SECTOR, &stamps(3, begin..begin + 2048), false).expect("a write");
    }
    client.flush().expect("a flush");
    write_image(&lab.path("expected.img"), SECTORS, 3);
    (lab, server)
}

#[test]
fn qemu_img_compares_and_converts() {
    if !can(&["qemu-img"]) {
        return;
    }
    let (lab, server) = moved();
    let raw = ["-f", "raw", "-F", "raw"];
    let expected = lab.path("expected.img");
    Tool::of("qemu-img").arg("compare").args(raw).arg(&expected).arg(server.uri()).ok();
    let out = lab.path("out.qcow2");
    Tool::of("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(server.uri()).arg(&out).ok();
    Tool::of("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&expected).arg(&out).ok();
    // And back, over the bad sectors, into the existing volume.
    let newer = lab.path("newer.img");
    write_image(&newer, SECTORS, 4);
    let into = ["convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W"];
    Tool::of("qemu-img").args(into).arg(&newer).arg(server.uri()).ok();
    Tool::of("qemu-img").arg("compare").args(raw).arg(&newer).arg(server.uri()).ok();
    server.stop();
}

#[test]
fn qemu_img_tells_size_and_map() {
    if !can(&["qemu-img"]) {
        return;
    }
    let (_lab, server) = moved();
    let text = Tool::of("qemu-img").args(["info", "--output=json"]).arg(server.uri()).ok();
    let about: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(about["virtual-size"], SIZE, "{text}");
    let text = Tool::of("qemu-img").args(["map", "--output=json", "-f", "raw"]).arg(server.uri()).ok();
    let map: Value = serde_json::from_str(&text).expect("JSON");
    let rows = map.as_array().expect("rows");
    let covered: u64 = rows.iter().map(|row| row["length"].as_u64().expect("a length")).sum();
    assert_eq!(covered, SIZE, "{text}");
    assert!(rows.iter().all(|row| row["data"] == true), "what is there must not be called a hole: {text}");
    server.stop();
}

#[test]
fn qemu_io_blkverify_agrees_on_every_read() {
    if !can(&["qemu-io"]) {
        return;
    }
    let (lab, server) = moved();
    let image = format!("blkverify:{}:{}", lab.path("expected.img").display(), server.uri());
    let mut tool = Tool::of("qemu-io").arg("--discard=unmap");
    // Over the bad runs: whole, in part, not aligned to blocks, as zeroes; each read back, and all of it at the end.
    for command in [
        "write -P 0x11 2500k 64k",
        "write -P 0x12 2553344 512",
        "write -P 0x13 4608k 1536",
        "write -P 0 19m 1m",
        "read 2400k 512k",
        "aio_write -P 0x14 20m 256k",
        "aio_write -P 0x15 21m 256k",
        "aio_flush",
        "read 18m 4m",
        "flush",
        "read 0 16m",
        "read 16m 16m",
    ] {
        tool = tool.args(["-c", command]);
    }
    let (out, err) = tool.arg(image).code(0);
    assert!(!out.contains("failed") && !err.contains("blkverify: "), "{out}\n{err}");
    // blkverify compares what is read through it; this compares the rest.
    let copy = lab.path("copy.img");
    Tool::of("qemu-img").args(["convert", "-f", "raw", "-O", "raw"]).arg(server.uri()).arg(&copy).ok();
    assert_same(&bytes(&copy), &bytes(&lab.path("expected.img")), "after blkverify");
    server.stop();
}

#[test]
fn fio_verifies_at_depth_32() {
    if !can(&["fio"]) {
        return;
    }
    let lab = healthy();
    let server = lab.serve(&["--drill", DRILL]);
    let job = [
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=0",
        "--blockalign=512",
        "--size=32m",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
        "--randseed=1",
        "--output-format=json",
    ];
    let out = Tool::of("fio").folder(lab.folder()).args(job).arg(format!("--uri={}", server.uri())).ok();
    let report: Value = serde_json::from_str(&out[out.find('{').expect("JSON")..]).expect("JSON");
    let job = &report["jobs"][0];
    assert_eq!(job["error"], 0, "{out}");
    assert!(job["write"]["total_ios"].as_u64() > Some(100), "{out}");
    assert!(job["read"]["total_ios"].as_u64() > Some(100), "it verified something: {out}");
    // The table knows that blocks moved: otherwise this ran on good sectors only.
    let status = lab.dm_remap(&["status", "CONTROL", "--line"]).ok();
    assert!(status.contains("remap v2.0 ") && !status.contains("remap v2.0 0/"), "{status}");
    server.stop();
}
