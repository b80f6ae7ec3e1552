//! The units that bring volumes up at boot, as systemd reads them.

mod lab;
mod program;

use std::fs;
use std::process::Command;

use lab::needs;
use program::{Bench, Said};

#[test]
fn systemd_finds_nothing_wrong_with_them() {
    if !needs::can(&["systemd-analyze"]) {
        return;
    }
    let bench = Bench::create();
    bench.run(&["generate-units", "units"]).done();
    let mut names = Vec::new();
    for entry in fs::read_dir(bench.path("units")).expect("a folder of units") {
        let file = entry.expect("a unit").path();
        let text = fs::read_to_string(&file).expect("text");
        // It looks for the programs where they are installed; these may not be.
        let text: String = text.lines().map(|line| format!("{}\n", with_a_program(line))).collect();
        fs::write(&file, text).expect("written");
        names.push(file.file_name().expect("a name").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["dm-remap-stock@.service", "dm-remap-target@.service", "dm-remap@.service"]);
    for name in names {
        let instance = bench.path("units").join(name.replace('@', "@some-disk"));
        let said = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(instance)
            .output()
            .expect("runs");
        let said = Said::of(said).done();
        assert_eq!(said.err, "", "{name}");
    }
}

/// The line, with a program that is everywhere.
fn with_a_program(line: &str) -> String {
    match line.split_once('=') {
        Some((key, command)) if key.starts_with("Exec") => {
            let (program, rest) = command.split_once(' ').expect("a program and its arguments");
            let dash = if program.starts_with('-') { "-" } else { "" };
            format!("{key}={dash}/bin/sh {rest}")
        }
        _ => line.to_owned(),
    }
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let bench = Bench::create();
    bench.disk("file", 512);
    bench.run(&["generate-units", "file/units"]).refused_with(&["file/units", "cannot be made"]);
}
