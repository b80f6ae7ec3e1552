//! The lanes of `cargo xtask ci`, in order, and the report at their end.
//!
//! Invariant: a lane that fails does not keep the next ones from running, and the last line counts everything.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{fuzz, kernel, layers, memcheck, run, tidy, vm};

/// Integration tests with real clients are named so.
const CLIENTS: &str = "clients_";

/// Kills of the real server on each of raw, ext4, xfs and btrfs, without and with a cache that loses what was not flushed.
const KILLS: &str = "15";

/// Seeds of the simulator that every run takes.
const SEEDS: &str = "0..500";

/// Crashes that there must be among them.
const LEAST_CRASHES: &str = "20000";

/// Tests that cannot run here write their reason into the file that this variable names.
const SKIPS: &str = "DM_REMAP_SKIPS";

/// What `cargo` needs to give the same result everywhere.
const CARGO: &str = env!("CARGO");

struct Lane {
    name: &'static str,
    about: &'static str,
    run: fn(&Stage<'_>) -> Result<Verdict>,
}

const LANES: &[Lane] = &[
    Lane { name: "tidy", about: "sizes, names, documents", run: |stage| found(&tidy::check(stage.root)?) },
    Lane { name: "layers", about: "which crate may use which", run: |s| found(&layers::check(s.root)?) },
    Lane { name: "fmt", about: "formatting", run: |stage| stage.cargo(3, &["fmt", "--all", "--check"]) },
    Lane { name: "clippy", about: "lints, warnings are errors", run: clippy },
    Lane { name: "docs", about: "rustdoc, warnings are errors", run: docs },
    Lane { name: "no-std", about: "the pure crates without std", run: no_std },
    Lane { name: "tests", about: "unit and integration tests", run: |stage| stage.tests(Which::Plain) },
    Lane { name: "doc-tests", about: "examples in the documentation", run: doc_tests },
    Lane {
        name: "kernel",
        about: "the kernel module for 6.1, 6.12 and the newest of the backports, its Rust side and its gates, the DKMS package",
        run: kernel_module,
    },
    Lane {
        name: "vm",
        about: "guests under User-mode Linux, 6.1, 6.12 and the newest: the target, the server, disks with medium errors, power cuts",
        run: guests,
    },
    Lane { name: "models", about: "lock-free code under loom and shuttle", run: models },
    Lane { name: "canaries", about: "the simulator finds broken cores", run: canaries },
    Lane { name: "simulator", about: "a fixed set of seeds", run: simulator },
    Lane { name: "sweeps", about: "all that can go wrong in short scripted lives", run: sweeps },
    Lane {
        name: "fuzz",
        about: "every fuzz target: the inputs in the tree, and a fixed search",
        run: fuzzing,
    },
    Lane {
        name: "instructions",
        about: "instructions of look-ups, inserts and records, under valgrind, against the counts in the tree",
        run: |stage| {
            stage.cargo(
                20,
                &["run", "--release", "--locked", "--package", "remap-bench", "--", "--instructions"],
            )
        },
    },
    Lane { name: "memcheck", about: "buffers, threads and volumes under valgrind", run: memory },
    Lane {
        name: "clients",
        about: "nbdinfo, nbdcopy, libnbd, qemu-img, qemu-io, fio, nbdkit",
        run: |stage| stage.tests(Which::Clients),
    },
    Lane {
        name: "crash",
        about: "kill -9 and power cuts of the real server: raw, ext4, xfs, btrfs",
        run: crash,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Plain,
    Clients,
}

/// How a lane ended.
struct Verdict {
    good: bool,
    note: String,
    tally: Tally,
}

struct Stage<'a> {
    root: &'a Path,
    packages: Vec<layers::Package>,
    nextest: bool,
    skips: PathBuf,
    /// The end of what the last child that failed had printed.
    last: RefCell<Vec<String>>,
}

/// Prints the lanes.
pub(crate) fn list() {
    for lane in LANES {
        println!("{:<12} {}", lane.name, lane.about);
    }
}

/// Runs the lanes (all, or those named) and reports. True when all is well.
///
/// # Errors
/// An unknown lane, or a workspace that cannot be read.
pub(crate) fn run(root: &Path, only: &[String]) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| !LANES.iter().any(|lane| lane.name == **name)) {
        bail!("no lane `{unknown}`; see `cargo xtask lanes`");
    }
    let skips = env::temp_dir().join(format!("dm-remap-skips-{}", std::process::id()));
    fs::write(&skips, "").with_context(|| format!("writing {}", skips.display()))?;
    let nextest = Command::new(CARGO).args(["nextest", "--version"]).output();
    let stage = Stage {
        root,
        packages: layers::packages(root)?,
        nextest: nextest.is_ok_and(|output| output.status.success()),
        skips,
        last: RefCell::default(),
    };
    let begin = Instant::now();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for lane in LANES.iter().filter(|lane| only.is_empty() || only.iter().any(|name| name == lane.name)) {
        println!("\n==== {}: {}", lane.name, lane.about);
        let start = Instant::now();
        let verdict = (lane.run)(&stage).unwrap_or_else(|error| Verdict {
            good: false,
            note: format!("{error:#}"),
            tally: Tally::default(),
        });
        if !verdict.good {
            failures.push((lane.name, stage.last.take()));
        }
        rows.push((lane.name, verdict, start.elapsed()));
    }
    let skipped = fs::read_to_string(&stage.skips).unwrap_or_default();
    // A leftover in the temporary folder hurts nobody.
    let _ = fs::remove_file(&stage.skips);
    for (name, last) in failures {
        println!("\n==== {name} FAILED; the end of what it printed, once more\n{}", last.concat());
    }
    Ok(report(&rows, &skipped, begin.elapsed(), &stage))
}

fn report(rows: &[(&str, Verdict, Duration)], skipped: &str, whole: Duration, stage: &Stage<'_>) -> bool {
    println!("\n==== report");
    let mut total = Tally::default();
    for (name, Verdict { good, note, tally }, took) in rows {
        let mut tally = *tally;
        // A lane without tests of its own is one check; one that failed before its tests ran has failed once.
        if tally == Tally::default() || (!good && tally.failed == 0) {
            tally += if *good { Tally { passed: 1, failed: 0 } } else { Tally { passed: 0, failed: 1 } };
        }
        total += tally;
        let word = if *good { "ok" } else { "FAILED" };
        println!("{name:<12} {word:<7} {:>7.1} s  {note}", took.as_secs_f64());
    }
    if !stage.nextest {
        println!("(cargo-nextest is not installed; `cargo test` ran the tests)");
    }
    let skips: Vec<&str> = skipped.lines().collect();
    for skip in &skips {
        println!("skipped: {skip}");
    }
    let strict = env::var("CI").is_ok_and(|value| value == "true");
    if strict && !skips.is_empty() {
        println!("CI=true: what was skipped counts as failed");
    }
    // A test that skips itself ends well for its runner.
    let gone = skips.len() as u64;
    let passed = total.passed.saturating_sub(gone);
    let failed = total.failed + if strict { gone } else { 0 };
    println!(
        "     Summary [{:>8.3}s] {} tests run: {passed} passed, {failed} failed, {gone} skipped",
        whole.as_secs_f64(),
        passed + failed,
    );
    failed == 0
}

impl Stage<'_> {
    /// Runs cargo with a limit in minutes.
    fn cargo(&self, minutes: u64, args: &[&str]) -> Result<Verdict> {
        self.cargo_with(minutes, args, &[])
    }

    fn cargo_with(&self, minutes: u64, args: &[&str], set: &[(&str, &str)]) -> Result<Verdict> {
        let mut command = run::limited(self.root, Duration::from_secs(60 * minutes), CARGO, args);
        command.envs(set.iter().copied()).env(SKIPS, &self.skips);
        let outcome = run::run(command)?;
        let note = if outcome.good { String::new() } else { format!("cargo {}: {}", args[0], outcome.end) };
        if !outcome.good {
            self.last.replace(outcome.last.into());
        }
        Ok(Verdict { good: outcome.good, note, tally: outcome.tally })
    }

    fn tests(&self, which: Which) -> Result<Verdict> {
        let mut verdict = if self.nextest { self.with_nextest(which)? } else { self.with_libtest(which)? };
        let Tally { passed, failed } = verdict.tally;
        if verdict.good {
            verdict.note = format!("{passed} tests");
        } else {
            verdict.note = format!("{failed} of {} tests failed; {}", passed + failed, verdict.note);
        }
        Ok(verdict)
    }

    fn with_nextest(&self, which: Which) -> Result<Verdict> {
        let wanted = match which {
            Which::Plain => format!("not binary(/^{CLIENTS}/)"),
            Which::Clients => format!("binary(/^{CLIENTS}/)"),
        };
        let args = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--filterset", &wanted];
        self.cargo(30, &args)
    }

    fn with_libtest(&self, which: Which) -> Result<Verdict> {
        let mut args = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
        if which == Which::Plain {
            args.extend(["--lib", "--bins"]);
        }
        for name in self.packages.iter().flat_map(|package| &package.tests) {
            let is = if name.starts_with(CLIENTS) { Which::Clients } else { Which::Plain };
            if is == which {
                args.extend(["--test", name]);
            }
        }
        self.cargo(30, &args)
    }
}

fn found(findings: &[String]) -> Result<Verdict> {
    for finding in findings {
        println!("{finding}");
    }
    let note = if findings.is_empty() { String::new() } else { format!("{} findings", findings.len()) };
    Ok(Verdict { good: findings.is_empty(), note, tally: Tally::default() })
}

fn clippy(stage: &Stage<'_>) -> Result<Verdict> {
    stage.cargo(20, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

fn docs(stage: &Stage<'_>) -> Result<Verdict> {
    let args = ["doc", "--workspace", "--no-deps", "--locked"];
    stage.cargo_with(20, &args, &[("RUSTDOCFLAGS", "-D warnings")])
}

/// The sources are looked at by the lane `layers`; with the bare target's core library a compiler says it better. The format's tests are run
/// once more, with what it does without `std`.
fn no_std(stage: &Stage<'_>) -> Result<Verdict> {
    let verdict = stage.cargo(10, &["test", "--package", "remap-format", "--locked"])?;
    if !verdict.good {
        return Ok(verdict);
    }
    const TARGET: &str = "x86_64-unknown-none";
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).current_dir(stage.root).output();
    let sysroot = rustc.context("rustc does not start")?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        let note = format!("by the sources only; `rustup target add {TARGET}` lets a compiler look");
        return Ok(Verdict { good: true, note, tally: Tally::default() });
    }
    let pure = ["-p", "remap-format", "-p", "remap-content", "-p", "remap-core", "-p", "remap-words"];
    stage.cargo(10, &[&["check"], &pure[..], &["--locked", "--target", TARGET]].concat())
}

/// What runs in a kernel is tested here, then built for one, looked at, and linked by the kernels' own builds without a warning.
fn kernel_module(stage: &Stage<'_>) -> Result<Verdict> {
    let manifest = ["--manifest-path", "kernel/rust/Cargo.toml"];
    let glue = [&manifest[..], &["--package", "remap-glue", "--locked"]].concat();
    let steps = [
        [&["fmt", "--all", "--check"], &manifest[..]].concat(),
        [&["clippy", "--all-targets"], &glue[..], &["--", "-D", "warnings"]].concat(),
    ];
    for step in steps {
        let verdict = stage.cargo(10, &step)?;
        if !verdict.good {
            return Ok(verdict);
        }
    }
    let mut verdict = stage.cargo(10, &[&["test"], &glue[..]].concat())?;
    if verdict.good {
        verdict.good = kernel::dkms(stage.root, &["6.1", "6.12", "newest"].map(str::to_owned))?;
    }
    Ok(verdict)
}

/// The suite of guests builds the module once more, which takes seconds when the lane before did.
fn guests(stage: &Stage<'_>) -> Result<Verdict> {
    let tally = vm::test(stage.root, &vm::TestArgs::lane())?;
    Ok(Verdict { good: tally.failed == 0, note: format!("{} checks", tally.passed + tally.failed), tally })
}

fn doc_tests(stage: &Stage<'_>) -> Result<Verdict> {
    stage.cargo(20, &["test", "--workspace", "--doc", "--locked", "--no-fail-fast"])
}

/// In a build of its own: a workspace is built with all features that any of its crates asks for.
fn canaries(stage: &Stage<'_>) -> Result<Verdict> {
    let with = ["--package", "remap-sim", "--features", "canaries", "--locked"];
    let lints = [&["clippy", "--all-targets"], &with[..], &["--", "-D", "warnings"]].concat();
    let verdict = stage.cargo(10, &lints)?;
    if !verdict.good {
        return Ok(verdict);
    }
    let mut verdict = stage.cargo(15, &[&["test", "--test", "core_canaries"], &with[..]].concat())?;
    if verdict.good {
        verdict.note = format!("{} broken cores", verdict.tally.passed);
    }
    Ok(verdict)
}

/// The checkers replace the atomics of the crates that they look at, so each has its own build.
fn models(stage: &Stage<'_>) -> Result<Verdict> {
    let mut whole = Verdict { good: true, note: String::new(), tally: Tally::default() };
    for checker in ["loom", "shuttle"] {
        let (flags, target) = (format!("--cfg {checker}"), stage.root.join("target").join(checker));
        let build = ["test", "--release", "--locked", "--lib", "-p", "remap-core", "-p", "remap-runtime"];
        // Models that must fail do so on every run: nobody wants their backtraces.
        let set = [
            ("RUSTFLAGS", flags.as_str()),
            ("CARGO_TARGET_DIR", &target.to_string_lossy()),
            ("RUST_BACKTRACE", "0"),
        ];
        let verdict =
            stage.cargo_with(15, &[&build[..], &["models::", "--", "--nocapture"]].concat(), &set)?;
        whole.good &= verdict.good;
        whole.note.push_str(&verdict.note);
        whole.tally += verdict.tally;
    }
    Ok(whole)
}

fn simulator(stage: &Stage<'_>) -> Result<Verdict> {
    if !stage.packages.iter().any(|package| package.name == "remap-sim" && package.binary) {
        bail!("remap-sim has no binary");
    }
    let command = ["run", "--locked", "--package", "remap-sim", "--", "run", "--seeds", SEEDS];
    let mut verdict = stage.cargo(15, &[&command[..], &["--least-crashes", LEAST_CRASHES]].concat())?;
    if verdict.good {
        verdict.note = format!("seeds {SEEDS}, {LEAST_CRASHES} crashes and more");
    }
    Ok(verdict)
}

fn sweeps(stage: &Stage<'_>) -> Result<Verdict> {
    stage.cargo(15, &["run", "--locked", "--package", "remap-sim", "--", "sweep"])
}

fn fuzzing(stage: &Stage<'_>) -> Result<Verdict> {
    let (good, executions) = fuzz::run(stage.root, &fuzz::FuzzArgs::lane())?;
    Ok(Verdict { good, note: format!("{executions} executions"), tally: Tally::default() })
}

fn memory(stage: &Stage<'_>) -> Result<Verdict> {
    let mut whole = Verdict { good: true, note: String::new(), tally: Tally::default() };
    whole.good = memcheck::check(stage.root, |args, set| {
        let verdict = stage.cargo_with(10, args, set)?;
        whole.note.push_str(&verdict.note);
        whole.tally += verdict.tally;
        Ok(verdict.good)
    })?;
    Ok(whole)
}

fn crash(stage: &Stage<'_>) -> Result<Verdict> {
    // In a run of its own, so that the product is built as its users build it.
    let built = stage.cargo(20, &["build", "--locked", "--package", "dm-remap"])?;
    if !built.good {
        return Ok(built);
    }
    let args = ["run", "--locked", "--package", "remap-chaos", "--", "run", "--kills", KILLS];
    let mut verdict = stage.cargo(25, &[&args[..], &["--seconds-between", "0.1..0.8"]].concat())?;
    if verdict.good {
        verdict.note = format!("{KILLS} kills each");
    }
    Ok(verdict)
}
