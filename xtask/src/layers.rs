//! Which crate may use which.
//!
//! Invariant: arrows point down only, and a crate outside of a wall cannot reach what the wall hides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Tests that bring an allocator of their own, which cannot be written without `unsafe`.
const ALLOCATORS: [&str; 1] = ["remap-sim/tests/sweep_memory.rs"];

/// Crate, level, and whether it may hold `unsafe` in modules that say so. A crate uses only crates of lower levels.
const LEVELS: [(&str, u8, bool); 15] = [
    ("remap-format", 0, false),
    ("remap-content", 0, false),
    ("remap-core", 1, false),
    ("remap-words", 2, false),
    ("remap-io", 2, true),
    ("remap-health", 2, false),
    ("remap-runtime", 3, true),
    ("remap-nbd", 4, true),
    ("remap-ublk", 4, true),
    ("remap-api", 4, false),
    ("remap-sim", 5, false),
    ("dm-remap", 5, false),
    ("remap-chaos", 6, false),
    ("remap-bench", 6, true),
    ("uml-registers", 6, true),
];

/// A simulated world must hold no clock, thread or device, so it stays with the pure crates.
const PURE_ONLY: [&str; 1] = ["remap-sim"];

/// Dependencies that one wall hides from everybody else.
const WALLS: [(&str, &[&str]); 3] = [
    ("io-uring", &["remap-bench", "remap-io", "remap-ublk"]),
    ("serde_json", &["dm-remap", "remap-api", "remap-bench", "xtask"]),
    ("clap", &["dm-remap", "remap-bench", "remap-chaos", "remap-sim", "xtask"]),
];

/// Crates that a kernel uses too.
const NO_STD: [&str; 4] = ["remap-format", "remap-content", "remap-core", "remap-words"];

/// The feature that lets a test break the core. A workspace is built with all features that any of its crates turns on, so only the
/// same feature of another crate, by name on a command line, may turn it on.
const CANARIES: &str = "canaries";

/// The workspace as `cargo metadata` tells it.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// Name and kind (`normal`, `dev`, `build`).
    pub(crate) uses: Vec<(String, String)>,
    /// Names of integration tests that need no feature.
    pub(crate) tests: Vec<String>,
    /// It has a binary of its own name.
    pub(crate) binary: bool,
    /// Features and dependencies that turn on the canaries without being asked.
    plants: Vec<String>,
}

/// Reads the workspace.
///
/// # Errors
/// `cargo metadata` failed or said something unexpected.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cargo metadata does not start")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let all: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    all["packages"].as_array().context("cargo metadata lists no packages")?.iter().map(package).collect()
}

fn package(value: &Value) -> Result<Package> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let name = text(&value["name"]).context("a package without a name")?;
    let manifest = text(&value["manifest_path"]).context("a package without a manifest")?;
    let targets = value["targets"].as_array().context("a package without targets")?;
    let of_kind = |kind: &str| {
        let wanted = kind.to_owned();
        targets.iter().filter(move |target| target["kind"][0] == wanted.as_str())
    };
    Ok(Package {
        folder: Path::new(&manifest).parent().context("a manifest without a folder")?.to_owned(),
        uses: value["dependencies"]
            .as_array()
            .context("a package without dependencies")?
            .iter()
            .filter_map(|used| {
                Some((text(&used["name"])?, text(&used["kind"]).unwrap_or_else(|| "normal".to_owned())))
            })
            .collect(),
        tests: of_kind("test")
            .filter(|target| target["required-features"].is_null())
            .filter_map(|target| text(&target["name"]))
            .collect(),
        binary: of_kind("bin").any(|target| target["name"] == name.as_str()),
        plants: plants(value),
        name,
    })
}

fn plants(package: &Value) -> Vec<String> {
    let turns_on = |list: &Value| {
        let last = |feature: &Value| feature.as_str().and_then(|f| f.rsplit('/').next()) == Some(CANARIES);
        list.as_array().is_some_and(|list| list.iter().any(last))
    };
    let features = package["features"].as_object().into_iter().flatten();
    let features =
        features.filter(|(name, list)| *name != CANARIES && turns_on(list)).map(|(name, _)| name.clone());
    let uses = package["dependencies"].as_array().into_iter().flatten();
    let uses = uses.filter(|used| turns_on(&used["features"])).filter_map(|used| used["name"].as_str());
    features.chain(uses.map(str::to_owned)).collect()
}

/// Everything that breaks the rules.
///
/// # Errors
/// The workspace cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let packages = packages(root)?;
    let mut findings = Vec::new();
    for package in &packages {
        arrows(package, &mut findings);
        for by in &package.plants {
            findings.push(format!("layers: {}: `{by}` turns on the feature `{CANARIES}`", package.name));
        }
        unsafety(package, &mut findings)?;
    }
    for package in packages.iter().filter(|package| NO_STD.contains(&package.name.as_str())) {
        no_std(package, &mut findings)?;
    }
    Ok(findings)
}

fn level(name: &str) -> Option<u8> {
    LEVELS.iter().find(|(known, _, _)| *known == name).map(|(_, level, _)| *level)
}

fn arrows(package: &Package, findings: &mut Vec<String>) {
    let name = package.name.as_str();
    let own = level(name);
    if own.is_none() && name != "xtask" {
        findings.push(format!("layers: {name} has no level; give it one in xtask/src/layers.rs"));
    }
    for (used, kind) in &package.uses {
        if let Some(below) = level(used) {
            let down = own.is_some_and(|own| below < own);
            let pure = !PURE_ONLY.contains(&name) || NO_STD.contains(&used.as_str());
            if !down || !pure {
                findings.push(format!("layers: {name} uses {used} ({kind}): arrows point down only"));
            }
        }
        let wall = WALLS.iter().find(|(hidden, _)| hidden == used);
        if let Some((_, allowed)) = wall.filter(|(_, allowed)| kind != "dev" && !allowed.contains(&name)) {
            findings.push(format!("layers: {name} uses {used}; only {} may", allowed.join(", ")));
        }
    }
}

fn unsafety(package: &Package, findings: &mut Vec<String>) -> Result<()> {
    let allowed = LEVELS.iter().any(|(name, _, allowed)| *allowed && package.name == *name);
    let mark = concat!("allow(unsafe", "_code)");
    for file in crate::tidy::files(&package.folder, &["rs"])? {
        let text = read(&file)?;
        let allowed = allowed || ALLOCATORS.iter().any(|test| file.ends_with(test));
        if !allowed && text.contains(mark) {
            findings.push(format!("layers: {}: {} may hold no unsafe code", file.display(), package.name));
        }
    }
    Ok(())
}

fn no_std(package: &Package, findings: &mut Vec<String>) -> Result<()> {
    let lib = package.folder.join("src/lib.rs");
    let top = read(&lib)?;
    if !top.lines().any(|line| matches!(line.trim(), "#![no_std]" | "#![cfg_attr(not(test), no_std)]")) {
        findings.push(format!("layers: {}: no `#![no_std]`", lib.display()));
    }
    for file in crate::tidy::files(&package.folder.join("src"), &["rs"])? {
        // Models are built for a model checker only, never for a program.
        let test = file.file_stem().is_some_and(|stem| stem == "tests" || stem == "models")
            || file.components().any(|part| part.as_os_str() == "tests");
        if test {
            continue;
        }
        let text = read(&file)?;
        // Unit tests come last in a file.
        let body = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (index, line) in body.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("std::") && !code.contains("no_std") {
                findings.push(format!("layers: {}:{}: `std` in a no_std crate", file.display(), index + 1));
            }
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{Package, arrows};

    fn findings(name: &str, used: &str, kind: &str) -> Vec<String> {
        let uses = vec![(used.to_owned(), kind.to_owned())];
        let (name, tests, plants) = (name.to_owned(), Vec::new(), Vec::new());
        let package = Package { name, folder: "x".into(), uses, tests, binary: false, plants };
        let mut findings = Vec::new();
        arrows(&package, &mut findings);
        findings
    }

    #[test]
    fn arrows_point_down() {
        assert!(findings("remap-nbd", "remap-runtime", "normal").is_empty());
        assert_eq!(findings("remap-runtime", "remap-nbd", "normal").len(), 1);
        assert_eq!(findings("remap-format", "remap-core", "dev").len(), 1);
        assert_eq!(findings("remap-io", "remap-health", "normal").len(), 1);
        assert_eq!(findings("xtask", "remap-core", "normal").len(), 1);
    }

    #[test]
    fn walls_stand() {
        assert_eq!(findings("remap-nbd", "io-uring", "normal").len(), 1);
        assert!(findings("remap-io", "io-uring", "normal").is_empty());
        assert_eq!(findings("remap-core", "serde_json", "normal").len(), 1);
        assert_eq!(findings("remap-sim", "remap-io", "normal").len(), 1);
        assert!(findings("remap-sim", "remap-core", "normal").is_empty());
    }

    #[test]
    fn canaries_are_asked_for_by_name() {
        let on = |package: &str| super::plants(&serde_json::from_str(package).expect("JSON")).len();
        assert_eq!(on(r#"{"features": {"canaries": ["remap-core/canaries"]}}"#), 0);
        assert_eq!(on(r#"{"features": {"default": ["canaries"]}}"#), 1);
        assert_eq!(on(r#"{"dependencies": [{"name": "remap-core", "features": ["canaries"]}]}"#), 1);
    }

    #[test]
    fn a_crate_without_a_level_is_found() {
        assert_eq!(findings("remap-other", "anyhow", "normal").len(), 1);
    }
}
