//! A failing run as a small text file: comments, the rule that was broken, and all that the run depends on.
//!
//! Invariant: what [`write()`] gives, [`parse`] reads back to the same scenario; a file says everything, so it keeps its meaning when
//! the same seed comes to mean another scenario (not when the world itself throws its dice in another order).

use std::fmt::Write as _;

use remap_format::Policy;

use crate::Rule;
use crate::scenario::Scenario;

/// The scenario as lines of a word and its values. Each line of `about` becomes a comment.
#[must_use]
pub fn write(scenario: &Scenario, rule: Rule, about: &str) -> String {
    let mut text = String::new();
    for line in about.lines() {
        // A string takes all that is written to it.
        let _ = writeln!(text, "# {line}");
    }
    let mut row = |word: &str, value: &dyn core::fmt::Display| {
        let _ = writeln!(text, "{word:<14} {value}");
    };
    row("rule", &rule);
    row("seed", &scenario.seed);
    row("steps", &scenario.steps);
    if let Some(only) = &scenario.only {
        row("only", &ranges(only));
    }
    row("block_bytes", &(1u64 << scenario.block_shift));
    row("logical_block", &scenario.logical_block);
    row("main_sectors", &scenario.main_sectors);
    let spares: Vec<String> = scenario.spares.iter().map(u64::to_string).collect();
    row("spares", &spares.join(" "));
    row("policy", &scenario.policy.word());
    row("clients", &scenario.clients);
    let mut faults = scenario.faults;
    let faults: Vec<&str> = faults.kinds().iter().filter(|(_, on)| **on).map(|(word, _)| *word).collect();
    row("faults", &faults.join(" "));
    row("spoil_every", &scenario.spoil_every);
    row("life_steps", &scenario.life_steps);
    row("commands", &["none", "some", "many"][usize::from(scenario.commands) + usize::from(scenario.busy)]);
    text
}

/// Reads a scenario, and the rule that it broke.
///
/// # Errors
/// The line that makes no sense, or the word that is missing.
pub fn parse(text: &str) -> Result<(Scenario, Rule), String> {
    let mut scenario = Scenario::of_seed(0, 0);
    scenario.faults = crate::scenario::Faults::default();
    let mut rule = None;
    let mut seen = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.trim();
        let number = || value.parse::<u64>().map_err(|e| format!("'{line}': {e}"));
        match word {
            "rule" => rule = Rule::ALL.into_iter().find(|r| r.to_string() == value),
            "seed" => scenario.seed = number()?,
            "steps" => scenario.steps = number()?,
            "only" => {
                scenario.only = Some(steps(value).ok_or_else(|| format!("'{line}': no list of steps"))?)
            }
            "block_bytes" => scenario.block_shift = number()?.max(1).ilog2() as u8,
            "logical_block" => scenario.logical_block = number()? as u32,
            "main_sectors" => scenario.main_sectors = number()?,
            "spares" => {
                let sizes = value.split_whitespace().map(str::parse).collect::<Result<_, _>>();
                scenario.spares = sizes.map_err(|e| format!("'{line}': {e}"))?;
            }
            "policy" => {
                let policies = [Policy::RewriteThenRemap, Policy::RemapOnly];
                let named = policies.into_iter().find(|p| p.word() == value);
                scenario.policy = named.ok_or_else(|| format!("'{line}': no such policy"))?;
            }
            "clients" => scenario.clients = number()? as usize,
            "faults" => {
                for named in value.split_whitespace() {
                    let mut kinds = scenario.faults.kinds();
                    let kind = kinds.iter_mut().find(|(word, _)| *word == named);
                    *kind.ok_or_else(|| format!("'{named}': no such fault"))?.1 = true;
                }
            }
            "spoil_every" => scenario.spoil_every = number()?,
            "life_steps" => scenario.life_steps = number()?,
            "commands" => {
                scenario.commands = value != "none";
                scenario.busy = value == "many";
            }
            _ => return Err(format!("'{line}': what is that?")),
        }
        seen.push(word);
    }
    let needed = ["seed", "steps", "block_bytes", "main_sectors", "spares", "policy", "faults"];
    match needed.into_iter().find(|word| !seen.contains(word)) {
        Some(missing) => Err(format!("no line '{missing}'")),
        None => Ok((scenario, rule.ok_or("no rule is named")?)),
    }
}

/// `[3, 7, 8, 9]` as `3 7-9`.
fn ranges(sorted: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &step in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == step => *last = step,
            _ => runs.push((step, step)),
        }
    }
    let word = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn steps(text: &str) -> Option<Vec<u64>> {
    let mut all = Vec::new();
    for word in text.split_whitespace() {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        all.extend(first.parse::<u64>().ok()?..=last.parse().ok()?);
    }
    all.is_sorted().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_everything() {
        for seed in 0..200 {
            let mut scenario = Scenario::of_seed(seed, 77);
            scenario.busy &= scenario.commands;
            scenario.only = (seed % 2 == 0).then(|| vec![1, 2, 3, 9, seed + 10]);
            let text = write(&scenario, Rule::C5, "what happened\nand why");
            let (read, rule) = parse(&text).expect("what was written can be read");
            assert_eq!((format!("{read:?}"), rule), (format!("{scenario:?}"), Rule::C5), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = write(&Scenario::of_seed(1, 10), Rule::C1, "");
        for (from, to) in [
            ("rule", "ruler"),
            ("C1", "C12"),
            ("seed ", "# "),
            ("policy ", "policy x"),
            ("faults ", "faults x "),
        ] {
            assert!(parse(&good.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
        assert_eq!(steps("5 3-4"), None);
    }
}
