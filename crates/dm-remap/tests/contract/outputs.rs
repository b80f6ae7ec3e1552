//! Outputs that exist, and outputs for which there is no room.

use std::process::Command;

use crate::program::Said;
use crate::tools::TOOLS;
use crate::world::{NEW, World};

/// Every command that writes what it was told to with `--output` or the like.
const WRITERS: [(&str, &str); 7] = [
    ("metadata dump --spare spare --output", ""),
    ("metadata dump --spare spare --format text --output", ""),
    ("map export --spare spare --format ddrescue --output", ""),
    ("metadata repair --spare spare --output", ""),
    ("metadata rollback --spare spare --to dump --output", ""),
    ("release main --spare spare --to", "--yes"),
    ("adopt main --name other --create-spare 2M --spare", ""),
];

fn line<'a>((front, back): (&'a str, &'a str), output: &'a str) -> Vec<&'a str> {
    front.split(' ').chain([output]).chain(back.split(' ').filter(|w| !w.is_empty())).collect()
}

/// The program with files limited to `blocks` of 512 bytes: what a full disk is to it, without one.
fn cramped(world: &World, blocks: u32, args: &[&str]) -> Said {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    let inner = world.command(args);
    command.args(["-c", &script]).arg(inner.get_program()).args(inner.get_args());
    World::finish(world.inside(command))
}

#[test]
fn an_output_that_holds_something_is_refused() {
    let mut world = World::create();
    let letter = "a letter, half a mebibyte long\n".repeat(20_000);
    std::fs::write(world.bench.path("letter"), letter).expect("a file");
    world.note();
    for writer in WRITERS {
        let said = world.run(&line(writer, "letter"));
        assert!(matches!(said.code, Some(4 | 5)), "{writer:?}: {said:?}");
        said.refused_with(&["letter"]);
        world.unchanged();
    }
    // Another volume's spare, large enough for each of them.
    world.bench.disk("main2", 1 << 20);
    world.run(&["adopt", "main2", "--spare", "spare2", "--create-spare", "8M"]).done();
    world.note();
    for writer in WRITERS.iter().filter(|w| !w.0.starts_with("release")) {
        let said = world.run(&line(*writer, "spare2"));
        assert!(matches!(said.code, Some(4 | 5)), "{writer:?}: {said:?}");
        world.unchanged();
    }
    let lost_map = ["release", "main", "--spare", "spare", "--lost-map", "letter", "--yes"];
    world.run(&lost_map).refused(5, &["letter", "exists"]);
    world.unchanged();
}

#[test]
fn an_output_without_room_leaves_nothing_behind() {
    let world = World::create();
    for writer in WRITERS {
        let said = cramped(&world, 0, &line(writer, NEW));
        assert_ne!(said.code, Some(0), "{writer:?}: {said:?}");
        said.refused_with(&[NEW]);
        world.unchanged();
    }
}

#[test]
fn a_replacement_without_room_leaves_the_one_that_was_there() {
    let world = World::create();
    for writer in WRITERS.iter().take(3) {
        let args = [line(*writer, "dump"), vec!["--force"]].concat();
        cramped(&world, 0, &args).refused(1, &["dump", "cannot be written"]);
        world.unchanged();
    }
    world.run(&["metadata", "dump", "--spare", "spare", "--output", "dump", "--force"]).done();
    world.unchanged();
}

#[test]
fn metadata_that_cannot_be_written_are_not_half_written() {
    // The spare's first copy can be written, the others cannot: nothing was acknowledged, and the volume is as it was.
    let world = World::create();
    let said = cramped(&world, 600, &["map", "import", "--main", "main", "--spare", "spare", "list"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    let listed = world.run(&["metadata", "compare", "--spare", "spare", "--from", "dump"]).done();
    assert!(listed.out.contains("the two tables say the same"), "{listed:?}");
}

#[test]
fn a_directory_that_is_not_there() {
    let world = World::create();
    for writer in WRITERS {
        world.run(&line(writer, "nowhere/at-all")).refused(7, &["nowhere/at-all"]);
        world.unchanged();
    }
}

#[test]
fn those_that_only_read_change_nothing() {
    let readers =
        ["map list", "metadata check", "metadata analyze", "metadata generations", "metadata compare"];
    let world = World::create();
    for tool in TOOLS.iter().filter(|tool| readers.contains(&tool.words)) {
        let line = tool.line(None);
        world.run(&line.iter().map(String::as_str).collect::<Vec<_>>()).done();
        world.unchanged();
    }
    world.run(&["metadata", "rollback", "--spare", "spare", "--to", "dump", "--dry-run"]).done();
    world.run(&["release", "main", "--spare", "spare", "--dry-run"]).done();
    world.unchanged();
}
