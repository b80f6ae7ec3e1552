//! `cargo xtask coverage`: which lines of the pure crates their tests run.
//!
//! Invariant: every line of the two crates that a compiler makes code of counts, but for the tests themselves and for the models,
//! which are built for the checkers only.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{run, tools};

/// Percent of the lines that must have run.
const LEAST: f64 = 95.0;

/// Whose lines count.
const CRATES: [&str; 2] = ["remap-format", "remap-core"];

/// What runs them, beside all of their own tests: those of the simulator that take seconds.
const SIMULATED: [&str; 3] = ["fixed_seeds", "regressions", "sweep_corruption"];

/// Hundreds of seeds: of no use for lines, and slow where every line stops once.
const TOO_LONG: &str = "no_seed_breaks_the_contract";

/// Optimised code has no line of its own for much of what is written; and few lists of a property test run every line already.
const SETTINGS: [(&str, &str); 2] = [("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("PROPTEST_CASES", "16")];

/// Minutes for building and running it all.
const LIMIT: u64 = 30;

/// Measures and prints, by file and in total. True when enough lines ran.
///
/// # Errors
/// The tool cannot be installed, or a test fails.
pub(crate) fn run(root: &Path) -> Result<bool> {
    tools::provide_from_cargo("cargo-tarpaulin")?;
    let folder = root.join("target/coverage");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let outcome = run::run(measure(root, &folder)?)?;
    ensure!(outcome.good, "measuring failed: {}", outcome.end);
    let path = folder.join("tarpaulin-report.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let report = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    Ok(tell(root, &report))
}

/// The names of the integration tests of the two crates.
fn tests(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in CRATES {
        let folder = root.join("crates").join(name).join("tests");
        let files = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        let paths = files.flatten().map(|file| file.path());
        let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        names.extend(sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())));
    }
    Ok(names)
}

fn measure(root: &Path, folder: &Path) -> Result<Command> {
    let folder = folder.to_string_lossy().into_owned();
    let mut args: Vec<String> =
        ["tarpaulin", "--engine", "ptrace", "--locked", "--skip-clean", "--lib"].map(String::from).into();
    let mut pair = |option: &str, value: &str| args.extend([option.to_owned(), value.to_owned()]);
    for name in CRATES {
        pair("--packages", name);
        pair("--include-files", &format!("crates/{name}/src/*"));
    }
    pair("--packages", "remap-sim");
    tests(root)?.iter().chain(&SIMULATED.map(String::from)).for_each(|name| pair("--test", name));
    pair("--exclude-files", "*models.rs");
    pair("--timeout", "300");
    pair("--target-dir", &folder);
    pair("--out", "Json");
    pair("--output-dir", &folder);
    pair("--", "--skip");
    args.push(TOO_LONG.to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = run::limited(root, Duration::from_secs(60 * LIMIT), env!("CARGO"), &args);
    command.envs(SETTINGS);
    Ok(command)
}

/// Prints the lines that ran, of those that there are; true when they are enough.
fn tell(root: &Path, report: &Value) -> bool {
    let mut total = (0, 0);
    println!("\n{:<48} {:>6} {:>6} {:>7}  lines that did not run", "file", "ran", "of", "%");
    for file in report["files"].as_array().into_iter().flatten() {
        let parts = file["path"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let path: std::path::PathBuf = parts.collect();
        let (ran, of) = (file["covered"].as_u64().unwrap_or(0), file["coverable"].as_u64().unwrap_or(0));
        if of == 0 {
            continue;
        }
        total = (total.0 + ran, total.1 + of);
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        println!("{name:<48} {ran:>6} {of:>6} {:>7.2}  {}", percent((ran, of)), missing(file));
    }
    let good = percent(total) >= LEAST;
    let word = if good { "ok" } else { "too few" };
    println!(
        "{:<48} {:>6} {:>6} {:>7.2}  at least {LEAST}: {word}",
        "total",
        total.0,
        total.1,
        percent(total)
    );
    good
}

/// The lines of a file that no test ran.
fn missing(file: &Value) -> String {
    let traces = file["traces"].as_array().into_iter().flatten();
    let never = traces.filter(|trace| trace["stats"]["Line"].as_u64() == Some(0));
    let lines: Vec<String> = never.filter_map(|trace| Some(trace["line"].as_u64()?.to_string())).collect();
    lines.join(" ")
}

/// Of nothing, all has run; but nothing at all was measured when there is no file.
fn percent((ran, of): (u64, u64)) -> f64 {
    if of == 0 { 0.0 } else { 100.0 * ran as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::{missing, percent, tell};
    use serde_json::json;
    use std::path::Path;

    fn file(covered: u64) -> serde_json::Value {
        let traces = json!([{ "line": 3, "stats": { "Line": 1 } }, { "line": 7, "stats": { "Line": 0 } }]);
        json!({ "path": ["/", "root", "a.rs"], "covered": covered, "coverable": 100, "traces": traces })
    }

    #[test]
    fn the_total_decides() {
        let report = |a, b| json!({ "files": [file(a), file(b)] });
        assert!(tell(Path::new("/root"), &report(91, 99)));
        assert!(!tell(Path::new("/root"), &report(90, 99)));
        assert!(!tell(Path::new("/root"), &json!({ "files": [] })), "nothing measured is not enough");
    }

    #[test]
    fn lines_that_did_not_run_are_named() {
        assert_eq!(missing(&file(1)), "7");
        assert!((percent((1, 4)) - 25.0).abs() < 0.01);
    }
}
