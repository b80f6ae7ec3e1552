//! The suite: every row of the table under each of its kernels, some guests at once.
//!
//! Invariant: what is in the table runs, or the suite fails. A line for each script; of one that failed, what it said last.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::checks::Checks;
use super::kernels::{Booted, Kernel};
use super::machine::{self, End};
use super::table::{ROWS, Row};
use super::tree::Tree;
use super::{Job, TestArgs, tail};
use crate::tally::Tally;
use crate::{kernel, run};

/// What a ratio may differ from the one in the tree: ten thousandths. Most repeat to 10; 48 were seen, of writes at many places.
const DRIFT: u64 = 80;

/// Lines of a script's output that are kept to be shown.
const KEPT: usize = 60;

const RUNS: &str = "target/vm/runs/suite";

/// One script under one kernel.
struct Case {
    row: &'static Row,
    kernel: Kernel,
    brief: bool,
}

/// What all cases share.
struct Bench<'a> {
    root: &'a Path,
    tree: Tree,
    kernels: BTreeMap<Kernel, Booted>,
    /// Programs of ours, without what only a debugger reads.
    ours: PathBuf,
}

/// What became of a case.
struct Outcome {
    checks: Checks,
    last: VecDeque<String>,
    took: Duration,
}

/// Prints the table.
pub(super) fn list() {
    for row in ROWS {
        let mut needs = vec![row.kernels.join(" ")];
        needs.extend((!row.lane.is_empty()).then(|| format!("in the lane {}", row.lane.join(" "))));
        needs.extend(row.module.then(|| "module".to_owned()));
        needs.extend(row.ours.iter().chain(row.programs).map(|name| (*name).to_owned()));
        needs.extend(row.disks.iter().map(|disk| format!("disk {disk}")));
        needs.extend((row.lives > 1).then(|| format!("{} lives", row.lives)));
        needs.extend(row.udev.then(|| "udev".to_owned()));
        needs.extend(row.boot.iter().map(|word| format!("booted with {word}")));
        needs.extend(row.measured.map(|file| format!("compared with {file}")));
        println!("{:<12} {}", row.name(), needs.join(", "));
    }
}

/// Runs the suite and counts.
///
/// # Errors
/// A script or kernel is not known, or something that they need cannot be had.
pub(crate) fn test(root: &Path, args: &TestArgs) -> Result<Tally> {
    ensure!(args.jobs > 0, "--jobs 0 runs nothing");
    let cases = cases(args)?;
    // One suite at a time: they would use the same folders.
    fs::create_dir_all(root.join("target/vm")).context("making target/vm")?;
    let lock = File::create(root.join("target/vm/lock")).context("making a lock for the suite")?;
    lock.lock().context("locking the suite")?;
    let bench = prepare(root, &cases)?;
    let queue = Mutex::new(VecDeque::from(cases));
    let total = Mutex::new((Tally::default(), Duration::ZERO));
    let start = Instant::now();
    let measured = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(case) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let outcome = bench.run(&case, args.note_speed);
                    if let Ok(mut total) = total.lock() {
                        total.0 += outcome.checks.tally;
                        total.1 += outcome.took;
                        show(&case, &outcome);
                    }
                    if let (Some(file), Ok(mut measured)) = (case.row.measured, measured.lock()) {
                        for ratio in outcome.checks.ratios {
                            let line = (format!("{} {}", case.kernel, ratio.what), ratio.value);
                            measured.entry(file).or_insert_with(Vec::new).push(line);
                        }
                    }
                }
            });
        }
    });
    if args.note_speed {
        for (file, lines) in measured.into_inner().unwrap_or_default() {
            note(&root.join(file), &lines)?;
        }
    }
    let (tally, took) = total.into_inner().ok().context("a thread that ran guests panicked")?;
    let (took, wall) = (took.as_secs(), start.elapsed().as_secs());
    println!("vm: guests took {took} s together, {} at once, and {wall} s have passed", args.jobs);
    Ok(tally)
}

fn cases(args: &TestArgs) -> Result<Vec<Case>> {
    if let Some(unknown) = args.names.iter().find(|name| !ROWS.iter().any(|row| row.name() == **name)) {
        bail!("no script `{unknown}`; see `cargo xtask vm list`");
    }
    let mut cases = Vec::new();
    for row in
        ROWS.iter().filter(|row| args.names.is_empty() || args.names.iter().any(|name| name == row.name()))
    {
        for name in row.kernels.iter().filter(|name| !args.brief || row.is_in_lane(name)) {
            let kernel: Kernel = name.parse().map_err(anyhow::Error::msg)?;
            if args.kernels.is_empty() || args.kernels.contains(&kernel) {
                cases.push(Case { row, kernel, brief: args.brief });
            }
        }
    }
    ensure!(!cases.is_empty(), "no script that is named runs under such a kernel; see `cargo xtask vm list`");
    // The long ones first, so that no processor waits for another at the end.
    cases.sort_by_key(|case| std::cmp::Reverse(case.row.seconds));
    Ok(cases)
}

/// Fetches and builds what the cases need.
fn prepare<'a>(root: &'a Path, cases: &[Case]) -> Result<Bench<'a>> {
    let tree = Tree::provide(root, &[])?;
    let mut kernels = BTreeMap::new();
    for Case { kernel, .. } in cases {
        if !kernels.contains_key(kernel) {
            kernels.insert(kernel.clone(), Booted::provide(root, &tree, kernel)?);
        }
    }
    let with_module =
        kernels.keys().filter(|kernel| cases.iter().any(|case| case.row.module && case.kernel == **kernel));
    let with_module: Vec<String> = with_module.map(ToString::to_string).collect();
    if !with_module.is_empty() {
        ensure!(kernel::build(root, &with_module, false)?, "the module does not build");
    }
    let ours = root.join("target/vm/ours");
    let mut names: Vec<&str> = cases.iter().flat_map(|case| case.row.ours.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    programs(root, &ours, &names)?;
    let runs = root.join(RUNS);
    if runs.exists() {
        fs::remove_dir_all(&runs).context("removing what an earlier run left")?;
    }
    Ok(Bench { root, tree, kernels, ours })
}

/// Builds programs of ours, with the checks of a build for development.
fn programs(root: &Path, to: &Path, names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let target = root.join("target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target).current_dir(root);
    for name in names {
        cargo.args(["--package", name]);
    }
    run::output(&mut cargo)?;
    fs::create_dir_all(to)?;
    for name in names {
        let mut strip = Command::new("strip");
        run::output(strip.arg("-o").arg(to.join(name)).arg(target.join("debug").join(name)))
            .context("`strip` is of the package binutils")?;
    }
    Ok(())
}

impl Bench<'_> {
    fn run(&self, case: &Case, note_speed: bool) -> Outcome {
        let start = Instant::now();
        let mut outcome = Outcome { checks: Checks::default(), last: VecDeque::new(), took: Duration::ZERO };
        if let Err(error) = self.lives(case, &mut outcome) {
            outcome.checks.wrong(format!("{error:#}"));
        }
        if let Some(file) = case.row.measured.filter(|_| !note_speed && outcome.checks.tally.failed == 0) {
            let known = fs::read_to_string(self.root.join(file)).unwrap_or_default();
            outcome.checks.compare(&case.kernel.to_string(), &known, DRIFT);
        }
        outcome.took = start.elapsed();
        outcome
    }

    fn lives(&self, case: &Case, outcome: &mut Outcome) -> Result<()> {
        let kernel = self.kernels.get(&case.kernel).context("a kernel that is not here")?;
        let home = self.root.join(home(case));
        for life in 1..=case.row.lives {
            let job = self.job(case, kernel, life)?;
            let Outcome { checks, last, .. } = outcome;
            let mut run = || {
                machine::run(&job, &self.tree, kernel, &home, &mut |line| {
                    checks.line(line);
                    if last.len() == KEPT {
                        last.pop_front();
                    }
                    last.push_back(line.to_owned());
                })
            };
            let mut end = run()?;
            if let End::NeverBegan(how) = &end {
                // Seen: an emulated processor that ran into code which another one was just patching, and one whose timer stood still. Nothing of the
                // script had run.
                let name = case.row.name();
                println!(
                    "vm: {} {name}: the guest did not come to its script ({how}); once more",
                    case.kernel
                );
                end = run()?;
            }
            checks.ended(&end, life == case.row.lives, job.seconds);
            let expected = life < case.row.lives && matches!(end, End::Died(_));
            if !expected && end != End::Script(0) {
                let log = fs::read_to_string(home.join(machine::CONSOLE)).unwrap_or_default();
                last.extend(tail(&log).map(|line| format!("kernel: {line}")));
                break;
            }
        }
        if outcome.checks.tally.failed == 0 {
            fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
        }
        Ok(())
    }

    fn job(&self, case: &Case, kernel: &Booted, life: u32) -> Result<Job> {
        let row = case.row;
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut disks = Vec::new();
        for disk in row.disks.iter().copied().chain([machine::REPORT]) {
            disks.push(disk.parse().map_err(anyhow::Error::msg)?);
        }
        let less = if case.brief { owned(row.brief) } else { Vec::new() };
        let module = self.root.join("target/kernel/module").join(&kernel.release).join("dm-remap.ko");
        Ok(Job {
            root: self.root.to_owned(),
            kernel: case.kernel.clone(),
            script: self.root.join(row.file),
            arguments: if row.lives > 1 { vec![life.to_string()] } else { less },
            environment: Vec::new(),
            disks,
            modules: if row.module { vec![module] } else { Vec::new() },
            more_modules: owned(row.more_modules),
            programs: owned(row.programs),
            files: row.ours.iter().map(|name| (self.ours.join(name), format!("/usr/bin/{name}"))).collect(),
            out: None,
            udev: row.udev,
            boot: owned(row.boot),
            icount: row.measured.is_some(),
            cpus: row.cpus,
            memory: row.memory,
            seconds: row.seconds,
        })
    }
}

/// Where a case has its disks and logs; they stay if it fails.
fn home(case: &Case) -> PathBuf {
    Path::new(RUNS).join(format!("{}-{}", case.row.name(), case.kernel))
}

fn show(case: &Case, outcome: &Outcome) {
    let Tally { passed, failed } = outcome.checks.tally;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let took = outcome.took.as_secs_f64();
    println!(
        "vm: {:<5} {:<12} {word:<7} {:>4} checks {took:>6.1} s",
        case.kernel.to_string(),
        case.row.name(),
        passed + failed
    );
    for ratio in &outcome.checks.ratios {
        println!("      {}: {}.{:02} %", ratio.what, ratio.value / 100, ratio.value % 100);
    }
    if failed > 0 {
        for line in &outcome.last {
            println!("    | {line}");
        }
        for fault in &outcome.checks.faults {
            println!("    {fault}");
        }
        println!("    all that it said is in {}", home(case).display());
    }
}

/// Writes what was measured into the tree; what was not measured now stays.
fn note(file: &Path, lines: &[(String, u64)]) -> Result<()> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        if let Some((what, value)) = line.rsplit_once(": ") {
            known.insert(what.to_owned(), value.to_owned());
        }
    }
    known.extend(lines.iter().map(|(what, value)| (what.clone(), value.to_string())));
    let text: String = known.iter().map(|(what, value)| format!("{what}: {value}\n")).collect();
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
