//! `stress`: that it runs and cleans up, and that it finds what is wrong.

mod program;

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use program::{Bench, Said};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The commands, each for a second or so, on a small volume with bad places.
const SHORT: [&str; 6] = [
    "high-concurrency 300 1 --size 64M",
    "tb-scale 2000 0.02 --room 64M",
    "endurance 0.0005 4 --size 32M",
    "production 0 3 0.017 --size 64M",
    "production 2 2 0.017 --size 64M --block-size 64K",
    "production 3 4 0.017 --size 64M --policy remap-only",
];

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs `stress` with this line in a folder of its own; whatever comes of it, nothing is left there.
fn stress(bench: &Bench, line: &str) -> Said {
    let folder = bench.path("folder");
    fs::create_dir_all(&folder).expect("a folder");
    let said = bench.run(&[&["stress"], &words(line)[..], &["--folder", "folder", "--quiet"]].concat());
    assert!(is_empty(&folder), "{said:?}");
    said
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("a folder").next().is_none()
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn each_command_finds_nothing_wrong_with_a_volume_on_a_bad_disk() {
    let bench = Bench::create();
    for line in SHORT {
        let said = stress(&bench, &format!("{line} --bad 12 --json - --moves 50")).done();
        let report = json(&said);
        assert_eq!(report["verdict"], "good", "{line}: {said:?}");
        assert_eq!(report["verified"]["wrong_bytes"], 0);
        assert_eq!(report["errors"]["unexpected"], 0);
        assert_eq!(report["metadata"]["closed"], serde_json::json!(["good", "good"]));
        for counted in
            ["/operations", "/verified/bytes", "/verified/read_back_bytes", "/verified/read_again_bytes"]
        {
            assert!(report.pointer(counted).and_then(Value::as_u64) > Some(0), "{line}: {counted} {report}");
        }
        let all = report["latency"].as_array().and_then(|kinds| kinds.last()).expect("latencies");
        let us = |name: &str| all[name].as_f64().expect("a number");
        assert!(us("p50_us") > 0.0 && us("p50_us") <= us("p99_us") && us("p99_us") <= us("max_us"), "{all}");
    }
}

#[test]
fn drills_are_those_of_serve() {
    let bench = Bench::create();
    for drill in [
        "main:bad=sectors:0-999,heal",
        "main:bad=sectors:0-999,errno=ENODATA,after=200ops",
        "main:rate=0.01,errno=ENODATA",
        "main:gone-after=2000ops,gone-for=500ops",
        "spare0:volatile-cache=8M",
    ] {
        let line = format!("production 1 2 0.017 --size 64M --json - --drill {drill}");
        let said = stress(&bench, &line).done();
        assert_eq!(json(&said)["verdict"], "good", "{drill}: {said:?}");
    }
    stress(&bench, "high-concurrency 1 1 --drill spare1:rate=1").refused(2, &["there are only 1 spares"]);
    stress(&bench, "high-concurrency 1 1 --drill main:rat=1").refused(2, &["unknown key `rat`"]);
}

#[test]
fn the_text_says_how_it_was() {
    let bench = Bench::create();
    let said = stress(&bench, "high-concurrency 50 1 --size 32M --seed 7 --json report.json").done();
    for word in ["50 operations of 4 KiB in flight", "seed 7", "p99.9", "wrong bytes  0", "all well"] {
        assert!(said.out.contains(word), "{word:?} is missing in {said:?}");
    }
    let report: Value = serde_json::from_slice(&bench.bytes("report.json")).expect("JSON");
    assert_eq!((&report["schema_version"], &report["seed"]), (&1.into(), &7.into()));
    stress(&bench, "high-concurrency 50 1 --json report.json").refused(5, &["report.json", "exists"]);
    stress(&bench, "high-concurrency 1 1 --size 16M --json report.json --force").done();
}

#[test]
fn a_volume_with_data_is_left_alone() {
    let bench = Bench::create();
    let before = bench.adopted();
    let spare = bench.bytes("spare");
    let line = "stress production 0 1 0.017 --main main --spare spare --quiet";
    bench.run(&words(line)).refused(4, &["main", "--destroy"]);
    assert!(bench.bytes("main") == before && bench.bytes("spare") == spare, "nothing was changed");
    let said = bench.run(&words(&format!("{line} --destroy --bad 4"))).done();
    assert!(said.out.contains("given") && said.out.contains("all well"), "{said:?}");
    bench.run(&["metadata", "check", "--spare", "spare"]).done();
    // What never held anything needs no such word, and must not be too small.
    fs::File::create(bench.path("blank")).and_then(|file| file.set_len(32 << 20)).expect("a file");
    bench.run(&words("adopt blank --spare spare2 --create-spare 8M")).done();
    let line = "--main blank --spare spare2 --quiet";
    bench.run(&words(&format!("stress tb-scale 1 0.017 {line}"))).refused(4, &["blank", "32.0 MiB"]);
    bench.run(&words(&format!("stress endurance 0.0003 1 {line}"))).done();
}

#[test]
fn errors_that_nothing_explains_have_a_code_of_their_own() {
    let bench = Bench::create();
    bench.adopted();
    let said = bench.run(&words(
        "stress production 0 3 0.017 --main main --spare spare --destroy --quiet --moves 0 --drill \
         main:bad=sectors:0-8191,errno=ENODATA",
    ));
    assert_eq!(said.code, Some(9), "the spare is far too small: {said:?}");
    assert!(said.out.contains("no space") && said.out.contains("that no drill explains"), "{said:?}");
}

/// A run in the background; killed when dropped.
struct Running(Child);

impl Running {
    /// Returns once the load has begun.
    fn begin(bench: &Bench, line: &str) -> Self {
        let mut child = bench
            .command(&[&["stress"], &words(line)[..]].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        err.read_line(&mut line).expect("a line");
        assert!(line.contains("workers") || line.contains("worker"), "{line}");
        // Nobody else reads it, and a full pipe would hold the run up.
        std::thread::spawn(move || err.read_to_string(&mut String::new()));
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it lives");
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut out = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
        (self.0.wait().expect("an end").code(), out)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bytes_that_change_behind_the_volume_s_back_are_found() {
    let bench = Bench::create();
    bench.adopted();
    let mut run =
        Running::begin(&bench, "production 1 2 1000 --main main --spare spare --destroy --json report.json");
    let file = OpenOptions::new().write(true).open(bench.path("main")).expect("the image");
    let rot = vec![0xee; 4 << 20];
    while run.0.try_wait().expect("a state").is_none() {
        file.write_all_at(&rot, 0).expect("rot");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let (code, out) = run.end();
    assert_eq!(code, Some(9), "{out}");
    for word in ["FAILED", "wrong bytes: the run ended at once", "found bytes that nobody wrote"] {
        assert!(out.contains(word), "{word:?} is missing in {out}");
    }
    let report: Value = serde_json::from_slice(&bench.bytes("report.json")).expect("JSON");
    assert!(report["verified"]["wrong_bytes"].as_u64() > Some(0));
    assert_eq!((&report["verdict"], &report["exit_code"]), (&"failed".into(), &9.into()));
    assert_eq!(report["verified"]["read_back_bytes"], 0, "what is there is evidence");
}

#[test]
fn an_interrupt_ends_it_with_a_report_and_a_kill_leaves_what_the_next_run_removes() {
    let bench = Bench::create();
    let folder = bench.path("folder");
    fs::create_dir(&folder).expect("a folder");
    let line = "endurance 100 2 --size 32M --folder folder";
    let run = Running::begin(&bench, line);
    run.signal(Signal::INT);
    let (code, out) = run.end();
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("interrupted") && out.contains("all well"), "{out}");
    assert!(is_empty(&folder));
    let run = Running::begin(&bench, line);
    run.signal(Signal::KILL);
    assert_eq!(run.end().0, None);
    assert!(!is_empty(&folder), "nobody could remove it");
    stress(&bench, "high-concurrency 1 1 --size 16M").done();
}

#[test]
fn places_that_will_not_do_are_refused() {
    let bench = Bench::create();
    let line = |folder: &str| format!("stress high-concurrency 1 1 --quiet --folder {folder}");
    bench.run(&words(&line("nowhere"))).refused(7, &["nowhere"]);
    fs::write(bench.path("file"), "").expect("a file");
    bench.run(&words(&line("file"))).refused_with(&["file"]);
    stress(&bench, "high-concurrency 1 1 --size 16M --bad 9999").refused(2, &["--bad: 1 to 256", "not 9999"]);
}
