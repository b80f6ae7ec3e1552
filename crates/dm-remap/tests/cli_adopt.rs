//! Command lines that are wrong, and `adopt`: what is refused, with which code, and that nothing is written then.

mod program;

use std::os::unix::process::ExitStatusExt as _;

use program::{Bench, exists};

#[test]
fn usage_errors_have_code_2_and_help_has_the_table() {
    let bench = Bench::create();
    for args in [
        &["--no-such-flag"] as &[&str],
        &[],
        &["adopt"],
        &["adopt", "main"],
        &["adopt", "main", "--spare", "s@1Q"],
        &["adopt", "main", "--spare", "s", "--block-size", "3K"],
        &["adopt", "main", "--spare", "s", "--name", "a/b"],
        &["serve", "main", "--spare", "s", "--drill", "nonsense"],
        &["serve", "main", "--spare", "s", "--drill", "main:nonsense=1"],
        &["serve", "main", "--spare", "s", "--drill", "spare7:rate=1"],
        &["serve", "main", "--spare", "s", "--tcp", "somewhere"],
        &["serve", "main", "--spare", "s", "--deadline", "0"],
        &["status", "v", "--json", "--line"],
        &["message", "v"],
        &["map", "export", "v"],
    ] {
        let said = bench.run(args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
    }
    let help = bench.run(&["--help"]).done().out;
    for line in ["0  done", "5  in use by somebody else", "8  done, but sectors", "Examples:"] {
        assert!(help.contains(line), "{line:?} is missing in {help}");
    }
    assert!(bench.run(&["--version"]).done().out.starts_with("dm-remap "));
    assert!(bench.run(&["serve", "--help"]).done().out.contains("--drill"));
}

#[test]
fn manual_and_completions_come_from_the_definition() {
    let bench = Bench::create();
    bench.run(&["generate-man", "man"]).done();
    for page in ["dm-remap.1", "dm-remap-adopt.1", "dm-remap-metadata-repair.1"] {
        assert!(bench.path("man").join(page).exists(), "{page}");
    }
    assert!(bench.run(&["generate-completions", "bash"]).done().out.contains("complete "));
}

#[test]
fn adopting_leaves_the_main_device_as_it_was() {
    let bench = Bench::create();
    let before = bench.adopted();
    assert!(bench.bytes("main") == before, "main was written to");
    assert_eq!(bench.bytes("spare").len(), 2 << 20);
    let said = bench.run(&["metadata", "check", "--spare", "spare", "--json"]).done();
    assert!(said.out.contains("\"good\""), "{said:?}");
}

#[test]
fn what_is_not_there_is_named() {
    let bench = Bench::create();
    bench.run(&["adopt", "main", "--spare", "spare"]).refused(7, &["main: there is no such file"]);
    bench.disk("main", 1 << 20);
    bench
        .run(&["adopt", "main", "--spare", "spare"])
        .refused(7, &["spare: there is no such file", "--create-spare"]);
    bench.run(&["adopt", ".", "--spare", "spare"]).refused(4, &["is a directory"]);
    bench.run(&["adopt", "main", "--spare", "main"]).refused(4, &["must not share a byte"]);
    bench.run(&["status", "nobody"]).refused(7, &["nobody: no such volume"]);
    assert_eq!(bench.run(&["status", "nobody", "--exit-code"]).code, Some(4));
    bench.run(&["message", "nobody", "ping"]).refused(7, &["nobody"]);
    assert!(bench.run(&["status"]).done().out.contains("no volume is being served"));
}

#[test]
fn a_spare_that_is_too_small_is_told_the_size_that_works() {
    let bench = Bench::create();
    let before = bench.disk("main", 1 << 20);
    let adopt = |size: u64| {
        let size = size.to_string();
        bench.run(&["adopt", "main", "--spare", "spare", "--create-spare", &size])
    };
    let said = adopt(8192).refused(4, &["spare: is too small", "8192 bytes"]);
    assert!(!exists(&bench.path("spare")), "the spare that was made for nothing is gone");
    let words: Vec<&str> = said.err.split_whitespace().collect();
    let at = words.windows(2).position(|pair| pair == ["at", "least"]).expect("the least size");
    let least: u64 = words[at + 2].parse().expect("a number");
    adopt(least - 4096).refused(4, &["is too small"]);
    adopt(least).done();
    assert!(bench.bytes("main") == before, "main was written to");
}

#[test]
fn spares_that_hold_something_are_kept() {
    let bench = Bench::create();
    bench.disk("main", 1 << 20);
    let mut foreign = vec![0_u8; 2 << 20];
    // The magic of an ext file system, and a UUID.
    foreign[1024 + 0x38..1024 + 0x3a].copy_from_slice(b"\x53\xef");
    foreign[1024 + 0x68..1024 + 0x78].fill(7);
    std::fs::write(bench.path("spare"), &foreign).unwrap();
    bench
        .run(&["adopt", "main", "--spare", "spare"])
        .refused(4, &["spare: holds something", "ext:", "--force"]);
    assert!(bench.bytes("spare") == foreign, "it was written to");
    bench.run(&["adopt", "main", "--spare", "spare", "--force", "--name", "first"]).done();
    let adopted = bench.bytes("spare");
    bench
        .run(&["adopt", "main", "--spare", "spare"])
        .refused(5, &["spare: already belongs to volume 'first'"]);
    assert!(bench.bytes("spare") == adopted, "it was written to");
}

#[test]
fn a_rehearsal_writes_nothing() {
    let bench = Bench::create();
    bench.disk("main", 1 << 20);
    let spare = bench.disk("spare", 2 << 20);
    let said = bench.run(&["adopt", "main", "--spare", "spare", "--force", "--dry-run"]).done();
    assert!(said.out.contains("can be adopted") && said.out.contains("slots"), "{said:?}");
    assert!(bench.bytes("spare") == spare, "it was written to");
    bench.run(&["adopt", "main", "--spare", "other", "--create-spare", "1M", "--dry-run"]).done();
    assert!(!exists(&bench.path("other")));
}

#[test]
fn lists_of_lost_sectors_are_checked_before_anything_is_written() {
    let bench = Bench::create();
    bench.disk("main", 1 << 20);
    let adopt = |list: &str| {
        std::fs::write(bench.path("list"), list).unwrap();
        bench.run(&["adopt", "main", "--spare", "spare", "--create-spare", "2M", "--map", "list"])
    };
    adopt("12\nnot a sector\n").refused(1, &["list: line 2", "4711"]);
    assert!(!exists(&bench.path("spare")));
    adopt("99999\n").refused(4, &["list: names sector 99999", "2048"]);
    let said = adopt("100-107\n2047\n").done();
    assert!(said.out.contains("9 sectors (4.5 KiB) in 3 blocks known to be lost"), "{said:?}");
}

#[test]
fn slices_of_one_file_can_be_spares() {
    let bench = Bench::create();
    bench.disk("main", 1 << 20);
    bench.disk("pool", 8 << 20);
    let (one, two) = ("pool@1M+2M", "pool@4M+2M");
    let before = bench.bytes("pool");
    bench
        .run(&["adopt", "main", "--spare", one, "--spare", "pool@2M"])
        .refused(4, &["must not share a byte"]);
    bench.run(&["adopt", "main", "--spare", one, "--spare", two, "--force"]).done();
    let after = bench.bytes("pool");
    for outside in [0..1 << 20, 3 << 20..4 << 20, 6 << 20..8 << 20] {
        assert!(before[outside.clone()] == after[outside.clone()], "{outside:?} was written to");
    }
    bench.run(&["metadata", "check", "--spare", two, "--spare", one]).done();
    bench.run(&["serve", "main", "--spare", one]).refused(4, &["2 spares", "--spare"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let bench = Bench::create();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = bench.command(&["generate-completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.signal(), Some(13), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
