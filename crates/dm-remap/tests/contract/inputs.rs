//! Inputs that are not there, are something else, or may not be read.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use crate::tools::{TOOLS, Tool};
use crate::world::World;

const NOBODY: u32 = 65534;

/// Each tool with each of its inputs.
fn each(mut test: impl FnMut(&Tool, &str)) {
    for tool in &TOOLS {
        tool.inputs.iter().for_each(|input| test(tool, input));
    }
}

fn words(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

/// Every command with `other` as each of its inputs ends with this code and one line that names it; nothing is changed.
fn refused(world: &World, other: &str, code: i32) {
    each(|tool, input| {
        let line = tool.line(Some((input, other)));
        world.run(&words(&line)).refused(code, &[other]);
    });
    world.unchanged();
}

#[test]
fn missing_inputs() {
    refused(&World::create(), "nowhere/at-all", 7);
}

#[test]
fn directories() {
    refused(&World::create(), "directory", 4);
}

#[test]
fn pipes_that_nobody_writes_to() {
    refused(&World::create(), "pipe", 4);
}

#[test]
fn devices_without_an_end() {
    refused(&World::create(), "/dev/zero", 4);
}

#[test]
fn empty_files() {
    let mut world = World::create();
    std::fs::write(world.bench.path("empty"), "").expect("a file");
    world.note();
    each(|tool, input| {
        // A list that names no sector is one.
        if input != "LIST" {
            let line = tool.line(Some((input, "empty")));
            world
                .run(&words(&line))
                .refused(if matches!(input, "DUMP" | "DDRESCUE") { 1 } else { 4 }, &["empty"]);
        }
    });
    world.unchanged();
}

#[test]
fn inputs_that_may_not_be_read() {
    let mut world = World::create();
    // Root may read everything: it becomes nobody, who needs a program and a place that he can reach.
    let root = rustix::process::geteuid().is_root();
    let program = world.bench.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_dm-remap"), &program).expect("a copy");
    std::fs::set_permissions(world.bench.path(""), Permissions::from_mode(0o777)).expect("allowed");
    let open = Permissions::from_mode(0o666);
    for file in ["main", "spare", "dump", "list", "ddrescue"] {
        std::fs::set_permissions(world.bench.path(file), open.clone()).expect("allowed");
    }
    let secret = world.bench.path("secret");
    std::fs::copy(world.bench.path("spare"), &secret).expect("a copy");
    world.note();
    std::fs::set_permissions(&secret, Permissions::from_mode(0o000)).expect("forbidden");
    each(|tool, input| {
        let mut command = std::process::Command::new("timeout");
        command.arg("120").arg(&program).args(tool.line(Some((input, "secret"))));
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        World::finish(world.inside(command)).refused(3, &["secret"]);
    });
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("allowed");
    world.unchanged();
}

#[test]
fn the_same_file_twice() {
    let world = World::create();
    for line in [
        "adopt main --spare main",
        "serve main --spare main --stdio",
        "map import --main spare --spare spare list",
        "metadata check --spare spare --spare spare",
        "metadata repair --spare spare --output spare",
        "metadata rollback --spare spare --to dump --output spare",
        "release main --spare spare --to main --yes",
        "release main --spare spare --to spare --yes",
    ] {
        world.run(&line.split(' ').collect::<Vec<_>>()).refused(4, &[]);
    }
    world.unchanged();
}
