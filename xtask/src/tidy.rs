//! Sizes, names and documents.
//!
//! Invariant: what this file forbids it does not contain itself; words that must not occur are put together from parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::layers;

/// Lines that a source file may have.
const LINES_MAX: usize = 650;

/// Words that say nothing, in no name of ours.
const EMPTY_WORDS: [&str; 6] = ["manager", "helper", "utils", "enhanced", "enterprise", "optimized"];

/// Words that introduce a name.
const DECLARE: [&str; 9] = ["fn", "struct", "enum", "mod", "trait", "const", "static", "type", "let"];

/// Marks of unfinished work.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Everything that is not tidy.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files(root, &["rs", "md", "toml", "sh", "py", "yml"])? {
        let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let text = fs::read_to_string(&file).with_context(|| format!("reading {place}"))?;
        name_of_file(&place, &mut findings);
        lines(&place, &text, &mut findings);
        if place.ends_with(".rs") {
            source(&place, &text, &mut findings);
        }
    }
    documents(root, &mut findings)?;
    Ok(findings)
}

/// Files below `folder` with one of these extensions, in order, without build results.
pub(crate) fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("looking at {}", path.display()))?;
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn name_of_file(place: &str, findings: &mut Vec<String>) {
    for part in place.split(['/', '.']) {
        if let Some(word) = empty_word(part) {
            findings.push(format!("tidy: {place}: `{word}` in a name says nothing; name what it is"));
        }
    }
}

fn lines(place: &str, text: &str, findings: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        for mark in UNFINISHED {
            if line.split(|c: char| !c.is_alphanumeric()).any(|word| word == mark) {
                findings.push(format!("tidy: {place}:{number}: {mark}: do it, or file an issue"));
            }
        }
        for path in MACHINE_PATHS {
            if line.contains(path) {
                findings.push(format!("tidy: {place}:{number}: `{path}` exists on one machine only"));
            }
        }
        if line.ends_with([' ', '\t']) && !place.ends_with(".md") {
            findings.push(format!("tidy: {place}:{number}: white space at the end"));
        }
    }
}

fn source(place: &str, text: &str, findings: &mut Vec<String>) {
    let count = text.lines().count();
    if count > LINES_MAX {
        findings.push(format!("tidy: {place}: {count} lines; split it (at most {LINES_MAX})"));
    }
    let before =
        |line: &str| line.trim().is_empty() || line.starts_with("#![") || line.starts_with("// SPDX-");
    let first = text.lines().find(|line| !before(line));
    let tests = place.ends_with("/tests.rs");
    if !tests && !first.is_some_and(|line| line.starts_with("//!")) {
        findings.push(format!("tidy: {place}: a module opens with what it is and its invariant (`//!`)"));
    }
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut words =
            code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if !DECLARE.contains(&word) {
                continue;
            }
            let name = words.find(|word| *word != "mut" && *word != "fn");
            if let Some(empty) = name.and_then(empty_word) {
                findings.push(format!(
                    "tidy: {place}:{}: `{empty}` in a name says nothing; name what it is",
                    index + 1
                ));
            }
        }
    }
}

/// A word of the name that says nothing.
fn empty_word(name: &str) -> Option<&'static str> {
    let mut parts = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c == '-' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c.is_alphanumeric() {
            parts.last_mut()?.extend(c.to_lowercase());
        }
    }
    let shouted = name.to_lowercase();
    EMPTY_WORDS.into_iter().find(|word| {
        let same = |part: &str| part == *word || part.strip_suffix('s') == Some(word);
        parts.iter().any(|part| same(part)) || shouted.split('_').any(same)
    })
}

fn documents(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let changes = fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default();
    if !changes.lines().any(|line| line.starts_with("## Unreleased") || line.starts_with("## [Unreleased]")) {
        findings.push("tidy: CHANGELOG.md has no section `## Unreleased`".to_owned());
    }
    let mut decisions = String::new();
    for file in files(&root.join("docs/decisions"), &["md"])? {
        decisions += &fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    }
    let packages = layers::packages(root)?;
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let used: BTreeSet<&str> =
        packages.iter().flat_map(|package| &package.uses).map(|(name, _)| name.as_str()).collect();
    for name in used.difference(&ours).filter(|name| !decisions.contains(&format!("`{name}`"))) {
        findings.push(format!("tidy: docs/decisions does not say why `{name}` is a dependency"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, empty_word, files, lines, source};

    fn in_source(text: &str) -> usize {
        let mut findings = Vec::new();
        source("a.rs", text, &mut findings);
        findings.len()
    }

    #[test]
    fn empty_words_are_found_in_every_case() {
        assert_eq!(empty_word("SlotManager"), Some("manager"));
        assert_eq!(empty_word("read_helpers"), Some("helper"));
        assert_eq!(empty_word("MAX_UTILS"), Some("utils"));
        assert_eq!(empty_word("manageress"), None);
        assert_eq!(empty_word("outils"), None);
    }

    #[test]
    fn declarations_are_read_and_uses_are_not() {
        assert_eq!(in_source("//! A.\nfn slot_manager() {}\n"), 1);
        assert_eq!(in_source("//! A.\nlet mut helper = 1;\n"), 1);
        assert_eq!(in_source("//! A.\nfn slots() { a.manager(); } // fn helper\n"), 0);
    }

    #[test]
    fn modules_open_with_their_purpose_and_stay_short() {
        assert_eq!(in_source("fn slots() {}\n"), 1);
        assert_eq!(in_source("// SPDX-License-Identifier: GPL-2.0\n#![allow(dead_code)]\n//! A.\n"), 0);
        assert_eq!(in_source(&format!("//! A.\n{}", "\n".repeat(LINES_MAX))), 1);
    }

    #[test]
    fn marks_and_machine_paths_are_found() {
        let mut findings = Vec::new();
        lines("a.rs", concat!("// TO", "DO: x\nlet p = \"/wo", "rk/x\"; \nTODOS\n"), &mut findings);
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn build_results_are_not_looked_at() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for place in ["target/a.rs", ".git/b.rs", "src/c.rs", "src/d.txt"] {
            let file = folder.path().join(place);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
            std::fs::write(file, "x").expect("a file");
        }
        let found = files(folder.path(), &["rs"]).expect("a listing");
        assert_eq!(found, [folder.path().join("src/c.rs")]);
    }
}
