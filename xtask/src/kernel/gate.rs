//! What must hold of the Rust object before it goes near a kernel.
//!
//! Invariant: each finding names what was found and where. The panics that the optimizer could not prove away are a list in the tree,
//! function by function; the list may only be changed on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Places;
use super::disassembly::{Function, SECTION, deepest, reach, read};
use crate::run::output;

/// Relocations that the module loader knows.
const RELOCATIONS: [&str; 4] = ["R_X86_64_32S", "R_X86_64_64", "R_X86_64_PLT32", "R_X86_64_PC32"];

/// What the shim and the kernel give.
const IMPORTS: [&str; 16] = [
    "__x86_return_thunk",
    "bcmp",
    "dmr_alloc",
    "dmr_begin",
    "dmr_dealloc",
    "dmr_end_request",
    "dmr_log",
    "dmr_next",
    "dmr_panic",
    "dmr_random",
    "dmr_wait",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "strlen",
];
const THUNK: &str = "__x86_indirect_thunk_r";

/// Run in any context, on whatever stack there is: no panic, no memory, little stack.
const ANYWHERE: [&str; 2] = ["dmr_map", "dmr_blames_medium"];
const ANYWHERE_STACK: u64 = 512;
/// Of the stack of 192 KiB that all others run on; the rest is for what the shim does below them.
const OWNER_STACK: u64 = 128 << 10;

/// Functions of the library that never come back.
const RAISERS: [&str; 8] = [
    "core::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "core::slice::index::slice_",
    "alloc::alloc::handle_alloc_error",
    "alloc::raw_vec::handle_error",
    "alloc::raw_vec::capacity_overflow",
];

const LIST: &str = "kernel/rust/panics.txt";

/// Looks at the object.
///
/// # Errors
/// A tool is missing.
pub(crate) fn check(places: &Places<'_>, object: &Path, note_panics: bool) -> Result<Vec<String>> {
    let mut findings = relocations(&output(Command::new("readelf").arg("-rW").arg(object))?);
    findings.extend(symbols(&output(Command::new("nm").arg(object))?));
    let text = output(Command::new("objdump").args(["-drC", "--no-show-raw-insn"]).arg(object))?;
    let functions = read(&text);
    findings.extend(instructions(&functions));
    findings.extend(strays(&functions));
    findings.extend(stacks(&functions));
    let panics = panics(&functions);
    let total: usize = panics.values().sum();
    println!("object: {} functions, {total} places in {} of them can panic", functions.len(), panics.len());
    let list = places.root.join(LIST);
    if note_panics {
        fs::write(&list, written(&panics)).with_context(|| format!("writing {LIST}"))?;
    } else {
        findings.extend(differences(&fs::read_to_string(&list).unwrap_or_default(), &panics));
    }
    Ok(findings)
}

fn relocations(text: &str) -> Vec<String> {
    let words = text.split_whitespace().filter(|word| word.starts_with("R_X86_64_"));
    let odd: BTreeSet<&str> = words.filter(|word| !RELOCATIONS.contains(word)).collect();
    odd.into_iter().map(|kind| format!("relocation {kind}: a module cannot be loaded with it")).collect()
}

fn symbols(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().rev();
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { continue };
        let known = IMPORTS.contains(&name) || name.starts_with(THUNK);
        match kind {
            "U" if !known => findings.push(format!("undefined symbol {name}: the kernel has none for us")),
            "W" | "w" | "V" | "v" => findings.push(format!("weak symbol {name}")),
            _ => {}
        }
    }
    findings
}

fn instructions(functions: &BTreeMap<String, Function>) -> Vec<String> {
    let odd = functions.iter().flat_map(|(name, function)| function.odd.iter().map(move |code| (name, code)));
    odd.map(|(name, code)| {
        format!("{name}: `{code}`: no vectors, no bare returns or indirect branches, no red zone")
    })
    .collect()
}

/// Calls that the other findings cannot follow.
fn strays(functions: &BTreeMap<String, Function>) -> Vec<String> {
    let calls = functions.iter().flat_map(|(name, function)| function.calls.keys().map(move |to| (name, to)));
    let odd = calls.filter(|(_, to)| to.starts_with(SECTION));
    odd.map(|(name, to)| format!("{name}: calls {to}, where no function begins")).collect()
}

fn stacks(functions: &BTreeMap<String, Function>) -> Vec<String> {
    let mut findings = Vec::new();
    for name in functions.keys().filter(|name| name.starts_with("dmr_")) {
        let anywhere = ANYWHERE.contains(&name.as_str());
        let (bytes, most) = (deepest(functions, name), if anywhere { ANYWHERE_STACK } else { OWNER_STACK });
        if bytes > most {
            findings.push(format!("{name}: takes up to {bytes} bytes of stack, {most} are allowed"));
        }
        let reached = if anywhere { reach(functions, name) } else { Vec::new() };
        for bad in reached.into_iter().filter(|called| is_raiser(called) || called.starts_with("dmr_alloc")) {
            findings.push(format!("{name}: can get to {bad}, and runs in any context"));
        }
    }
    for name in ANYWHERE.iter().filter(|name| !functions.contains_key(**name)) {
        findings.push(format!("{name}: is not in the object"));
    }
    findings
}

fn is_raiser(name: &str) -> bool {
    RAISERS.iter().any(|raiser| name.starts_with(raiser))
}

/// How many places in each function can panic.
fn panics(functions: &BTreeMap<String, Function>) -> BTreeMap<String, usize> {
    let raised = |function: &Function| -> usize {
        function.calls.iter().filter(|(name, _)| is_raiser(name)).map(|(_, times)| times).sum()
    };
    let ours = functions.iter().filter(|(name, _)| !is_raiser(name));
    ours.map(|(name, function)| (name.clone(), raised(function))).filter(|(_, times)| *times > 0).collect()
}

fn written(panics: &BTreeMap<String, usize>) -> String {
    let head = "# SPDX-License-Identifier: GPL-2.0\n\
                # Places that can panic, as far as the optimizer knows, by function: `cargo xtask kernel build --note-panics`.\n";
    let lines = panics.iter().map(|(name, times)| format!("{times} {name}\n"));
    head.to_owned() + &lines.collect::<String>()
}

fn differences(list: &str, found: &BTreeMap<String, usize>) -> Vec<String> {
    let lines = list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let noted: BTreeMap<&str, usize> =
        lines.filter_map(|(times, name)| Some((name, times.parse().ok()?))).collect();
    let mut findings = Vec::new();
    for (name, times) in found {
        let then = noted.get(name.as_str()).copied().unwrap_or(0);
        if *times > then {
            findings.push(format!("{name}: {times} places can panic, {then} in {LIST}"));
        }
    }
    for (name, then) in noted {
        let times = found.get(name).copied().unwrap_or(0);
        if times < then {
            findings.push(format!(
                "{name}: only {times} places can panic, {then} in {LIST}: note that with --note-panics"
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_kernel_takes_is_found() {
        assert_eq!(relocations("00 01 R_X86_64_PLT32 x\n00 01 R_X86_64_GOTPCREL y\n").len(), 1);
        assert_eq!(symbols("                 U memcpy\n  U __x86_indirect_thunk_r11\n  U __udivti3\n00 W weak\n00 T dmr_map\n").len(), 2);
    }

    #[test]
    fn a_call_that_leads_to_no_known_function_is_found() {
        let called = |name: &str| {
            let function = Function { calls: BTreeMap::from([(name.to_owned(), 1)]), ..Function::default() };
            BTreeMap::from([("dmr_map".to_owned(), function)])
        };
        assert_eq!(strays(&called("dmr_alloc")), Vec::<String>::new());
        assert_eq!(strays(&called(".text.unlikely.+0x2d")).len(), 1);
    }

    #[test]
    fn look_ups_can_neither_panic_nor_allocate() {
        let call = |names: &[&str]| Function {
            calls: names.iter().map(|name| ((*name).to_owned(), 2)).collect(),
            ..Function::default()
        };
        let mut functions = BTreeMap::from([
            ("dmr_map".to_owned(), call(&["look"])),
            ("dmr_blames_medium".to_owned(), call(&[])),
            ("dmr_complete".to_owned(), call(&["core::panicking::panic_fmt"])),
        ]);
        assert!(stacks(&functions).is_empty());
        functions.insert("look".into(), call(&["core::option::unwrap_failed", "dmr_alloc"]));
        assert_eq!(stacks(&functions).len(), 2);
        functions.insert("look".into(), Function { frame: 600, ..Function::default() });
        assert_eq!(stacks(&functions).len(), 1);
        let found = panics(&functions);
        assert_eq!(found, BTreeMap::from([("dmr_complete".to_owned(), 2)]));
        assert!(differences(&written(&found), &found).is_empty());
        assert_eq!(differences("1 dmr_complete\n", &found).len(), 1);
        assert_eq!(differences("2 dmr_complete\n1 gone\n", &found).len(), 1);
    }
}
