//! `cargo xtask fuzz`: builds the fuzz targets with the stable toolchain, runs them, and counts what they ran.
//!
//! Invariant: every target that ran is in the table at the end with its number of executions, and a crash, a hang or a bound
//! that was passed makes the chore fail and names the input.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::tools;

/// What `cargo fuzz` passes to the compiler with `--sanitizer none`; all of it works on a stable toolchain. A target triple must
/// be given with it, or else build scripts and macros would be instrumented too, and not link.
const INSTRUMENT: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Without it glibc maps and unmaps every larger block anew, and the kernel's clearing of pages takes most of the time.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "2000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "4000000000"),
    ("MALLOC_TOP_PAD_", "33554432"),
];

/// One input may take this many seconds (they take well below a hundredth): more is a hang.
const HANG_SECONDS: u32 = 20;

/// The lane's executions of each target, the inputs in the tree among them: about as many as each manages in seven seconds. A
/// target that is not listed has [`LANE_RUNS_ELSE`].
const LANE_RUNS: [(&str, u64); 9] = [
    ("control", 1_000),
    ("journal", 5_000),
    ("map_files", 60_000),
    ("metadata", 60_000),
    ("nbd_handshake", 40_000),
    ("nbd_transmission", 60_000),
    ("recover", 5_000),
    ("table_lines", 20_000),
    ("tools", 700),
];
const LANE_RUNS_ELSE: u64 = 1_000;

/// Where the lane's search begins, so that CI says the same each time.
const LANE_SEED: u32 = 1;

/// Of a failed target's last words, this many lines are shown.
const LINES_SHOWN: usize = 80;

/// What to run, and how long.
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Only these targets (all that are in fuzz/fuzz_targets)
    #[arg(long, value_delimiter = ',', value_name = "TARGET")]
    target: Vec<String>,
    /// Seconds for each target
    #[arg(long, value_name = "N", conflicts_with = "runs", default_value_t = 60)]
    seconds: u64,
    /// Executions of each target instead
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Only the inputs that are in the tree: the corpus and what was found before
    #[arg(long, conflicts_with_all = ["runs", "seconds"])]
    replay: bool,
    /// Make the corpus of each target as small as it can be with the same coverage, and stop
    #[arg(long, conflicts_with_all = ["runs", "seconds", "replay"])]
    minimise: bool,
    /// What CI runs: the inputs in the tree, and from them the same search each time
    #[arg(long, conflicts_with_all = ["runs", "seconds", "replay", "minimise"])]
    lane: bool,
}

impl FuzzArgs {
    /// What the lane runs.
    pub(crate) fn lane() -> Self {
        Self { target: Vec::new(), seconds: 0, runs: None, replay: false, minimise: false, lane: true }
    }
}

/// A target's part in the report.
struct Row {
    target: String,
    executions: u64,
    seconds: f64,
    end: String,
    good: bool,
}

/// Builds and runs. True when nothing was found; the second value is the number of executions.
///
/// # Errors
/// Something to build with is missing, or the targets do not build.
pub(crate) fn run(root: &Path, args: &FuzzArgs) -> Result<(bool, u64)> {
    let home = root.join("fuzz");
    let targets = targets(&home, &args.target)?;
    let built = build(&home)?;
    let mut rows = Vec::new();
    for target in targets {
        let program = built.join(&target);
        rows.push(if args.minimise {
            minimise(&home, &program, target)?
        } else {
            search(&home, &program, target, args)?
        });
    }
    let total = rows.iter().map(|row| row.executions).sum();
    println!("\n{:<18} {:>12} {:>9} {:>9}  end", "target", "executions", "seconds", "per s");
    for Row { target, executions, seconds, end, .. } in &rows {
        let rate = *executions as f64 / seconds.max(0.001);
        println!("{target:<18} {executions:>12} {seconds:>9.1} {rate:>9.0}  {end}");
    }
    println!("{:<18} {total:>12}", "total");
    Ok((rows.iter().all(|row| row.good), total))
}

/// The targets in the tree, or those of them that are wanted.
fn targets(home: &Path, wanted: &[String]) -> Result<Vec<String>> {
    let folder = home.join("fuzz_targets");
    let all: BTreeSet<String> = fs::read_dir(&folder)
        .with_context(|| format!("listing {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(*name)) {
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        bail!("no fuzz target `{unknown}`; there are: {}", names.join(", "));
    }
    Ok(all.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect())
}

/// Builds all targets; gives the folder that they are in.
fn build(home: &Path) -> Result<PathBuf> {
    // libFuzzer itself is C++.
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    ensure!(
        tools::find(&compiler).is_some() || Path::new(&compiler).is_file(),
        "no C++ compiler (`{compiler}`), which libFuzzer is built with: install g++, or set CXX"
    );
    let host = tools::host(home)?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--target", &host])
        .current_dir(home)
        .env("RUSTFLAGS", INSTRUMENT)
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(home.join("target").join(host).join("release"))
}

/// Replays what is in the tree, then searches; what a search finds worth keeping stays out of the tree (see `minimise`).
fn search(home: &Path, program: &Path, target: String, args: &FuzzArgs) -> Result<Row> {
    // What other searches found is not in the tree, and would make each search of the lane another one.
    let found = home.join(if args.lane { "target/lane" } else { "target/found" }).join(&target);
    if args.lane {
        empty(&found)?;
    }
    let artifacts = home.join("artifacts").join(&target);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut command = fuzzer(home, program, &target, &artifacts);
    match args.runs {
        _ if args.replay => command.arg("-runs=0"),
        _ if args.lane => {
            let runs = LANE_RUNS.iter().find(|(name, _)| *name == target).map_or(LANE_RUNS_ELSE, |(_, n)| *n);
            command.arg(format!("-runs={runs}")).arg(format!("-seed={LANE_SEED}"))
        }
        Some(runs) => command.arg(format!("-runs={runs}")),
        None => command.arg(format!("-max_total_time={}", args.seconds)),
    };
    if !args.replay {
        command.arg(found);
    }
    for folder in ["corpus", "regressions"].map(|kind| home.join(kind).join(&target)) {
        if folder.is_dir() {
            command.arg(folder);
        }
    }
    watch(command, target)
}

/// Puts the least set of inputs with all the coverage that is known into the tree.
fn minimise(home: &Path, program: &Path, target: String) -> Result<Row> {
    let corpus = home.join("corpus").join(&target);
    let fresh = home.join("target/minimised").join(&target);
    empty(&fresh)?;
    let artifacts = home.join("artifacts").join(&target);
    fs::create_dir_all(&artifacts).with_context(|| format!("making {}", artifacts.display()))?;
    let mut command = fuzzer(home, program, &target, &artifacts);
    command.arg("-merge=1").arg(&fresh);
    for folder in [home.join("target/found").join(&target), corpus.clone()] {
        if folder.is_dir() {
            command.arg(folder);
        }
    }
    let row = watch(command, target)?;
    if row.good {
        empty(&corpus)?;
        for entry in fs::read_dir(&fresh)? {
            let from = entry?.path();
            let to = corpus.join(from.file_name().unwrap_or_default());
            fs::copy(&from, &to).with_context(|| format!("writing {}", to.display()))?;
        }
    }
    Ok(row)
}

/// Makes it a folder without files.
fn empty(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

fn fuzzer(home: &Path, program: &Path, target: &str, artifacts: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(home)
        .envs(MALLOC)
        .arg(format!("-timeout={HANG_SECONDS}"))
        .arg("-rss_limit_mb=2048")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let words = home.join("dict").join(format!("{target}.dict"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    command
}

/// Runs a fuzzer, and takes its figures; shows what it said last if it failed.
fn watch(mut command: Command, target: String) -> Result<Row> {
    println!("\n==== fuzz: {target}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{target} does not start"))?;
    let mut executions = 0;
    let mut input = None;
    let mut last: VecDeque<String> = VecDeque::new();
    if let Some(pipe) = child.stderr.take() {
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line.context("reading what the fuzzer says")?;
            let line = String::from_utf8_lossy(&line);
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                executions = count.trim().parse().unwrap_or(0);
            }
            if let Some((_, file)) = line.split_once("Test unit written to ") {
                input = Some(file.to_owned());
            }
            // New inputs are many, and nobody reads them.
            let chatter =
                ["NEW", "REDUCE", "RELOAD", "stat::", "Uses:"].iter().any(|word| line.contains(word));
            if !chatter {
                if last.len() == LINES_SHOWN {
                    last.pop_front();
                }
                last.push_back(line.into_owned());
            }
        }
    }
    let status = child.wait().context("waiting for the fuzzer")?;
    let good = status.success();
    let shown =
        if good { last.iter().filter(|line| line.contains("DONE")).collect() } else { Vec::from_iter(&last) };
    for line in shown {
        println!("{line}");
    }
    let end = match input {
        _ if good => "ok".to_owned(),
        Some(input) => format!("FOUND SOMETHING: {input}"),
        None => format!("FAILED: {status}"),
    };
    Ok(Row { target, executions, seconds: start.elapsed().as_secs_f64(), end, good })
}
