//! Results as tables for a terminal.
//!
//! Invariant: what was not measured is named.

use crate::groups::GROUPS;
use crate::load::CELLS;
use crate::record::{Figure, Goal, GroupResult, PlaceResult, Results, Row};

/// All of it, as text.
pub(crate) fn text(results: &Results) -> String {
    let machine = &results.machine;
    let mut out = format!(
        "{} ({} cores, {} MiB), {}\nload average {:.1} before, {:.1} after: trust ratios within a table, and them only when it is below 1\n",
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.load_before,
        machine.load_after
    );
    for (name, package) in &results.missing {
        out += &format!("not measured: {name} is not installed (package {package})\n");
    }
    for place in &results.places {
        out += &place_text(place);
    }
    results.groups.iter().for_each(|group| out += &group_text(group));
    out + &goals(results)
}

fn group_text(group: &GroupResult) -> String {
    let about = GROUPS.iter().find(|known| known.name == group.name).map_or("", |known| known.about);
    let mut out = format!("\n{}, {}: {about}\n", group.name, group.place);
    out += &format!(
        "  {:<58} {:<16} {:>8} {:>19} {:>10} {:>9}  {:<24} {}\n",
        "", "", "at", "median", "p99", "spread %", "in terms of", "goal"
    );
    group.figures.iter().for_each(|figure| out += &figure_line(figure));
    group.missing.iter().for_each(|missing| out += &format!("  not measured: {missing}\n"));
    out
}

fn figure_line(figure: &Figure) -> String {
    let or_none =
        |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    let against = figure.ratio.zip(figure.to.as_ref()).map(|(ratio, to)| format!("{ratio:.2} x {to}"));
    let line = format!(
        "  {:<58} {:<16} {:>8} {:>19} {:>10} {:>9}  {:<24} {}",
        figure.name,
        figure.who,
        figure.at.map_or("-".to_owned(), |at| at.to_string()),
        format!("{} {:<10}", digits(figure.p50), figure.unit),
        or_none(figure.p99, 0),
        or_none(figure.spread.map(|spread| spread * 100.0), 0),
        against.unwrap_or_default(),
        figure.goal.as_ref().map(goal_text).unwrap_or_default()
    );
    line.trim_end().to_owned() + "\n"
}

/// Three digits or more.
fn digits(value: f64) -> String {
    let behind = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.behind$}")
}

fn goal_text(goal: &Goal) -> String {
    format!("{} <= {}: {}", goal.of, goal.at_most, if goal.met { "met" } else { "MISSED" })
}

/// How many of the goals that have a number were met, and which were not.
fn goals(results: &Results) -> String {
    let all = || {
        let of = |group| -> Vec<(&GroupResult, &Figure, &Goal)> {
            let group: &GroupResult = group;
            group.figures.iter().filter_map(|f| f.goal.as_ref().map(|goal| (group, f, goal))).collect()
        };
        results.groups.iter().flat_map(of)
    };
    if all().next().is_none() {
        return String::new();
    }
    let met = all().filter(|(.., goal)| goal.met).count();
    let mut out = format!("\ngoals of the groups: {met} of {} met\n", all().count());
    for (group, figure, goal) in all().filter(|(.., goal)| !goal.met) {
        let at = figure.at.map_or(String::new(), |at| format!(", {at}"));
        out += &format!("  {} on {}, {}{at}: {}\n", group.name, group.place, figure.name, goal_text(goal));
    }
    out
}

fn place_text(place: &PlaceResult) -> String {
    let mut out = format!(
        "\n{}: {} MiB, {} rounds of {} s; medians; * best rival of the cell; range: slowest to fastest round\n",
        place.name,
        place.size_bytes >> 20,
        place.rounds,
        place.seconds
    );
    let mut cell = "";
    for row in &place.rows {
        if row.cell != cell {
            cell = &row.cell;
            out += &heading(row);
        }
        out += &line(row);
    }
    out + &starts(place)
}

fn heading(row: &Row) -> String {
    let about = CELLS.iter().find(|cell| cell.name == row.cell).map_or("", |cell| cell.about);
    let (rate, cpu) = if row.counts_requests { ("kIOPS", "cpu us/IO") } else { ("MB/s", "cpu s/GiB") };
    format!(
        "\n{}: {about}\n  {:<26} {rate:>8} {:>7} {:>7} {:>7} {:>8} {:>8} {cpu:>9} {:>7} {:>8}\n",
        row.cell, "", "x rival", "x floor", "x clean", "p50 us", "p99 us", "range %", "foreign"
    )
}

fn line(row: &Row) -> String {
    let ratio = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let rate = if row.counts_requests { row.iops / 1e3 } else { row.mb_s };
    let cpu = if row.counts_requests { row.cpu_us_per_io } else { row.cpu_s_per_gib };
    let star = if row.best_rival.as_ref() == Some(&row.contender) { "*" } else { "" };
    let cached = if row.part == "cached" { " (cached)" } else { "" };
    format!(
        "  {:<26} {rate:>8.1} {:>7} {:>7} {:>7} {:>8.0} {:>8.0} {cpu:>9.2} {:>7.0} {:>8.2}\n",
        format!("{}{star}{cached}", row.contender),
        ratio(row.to_rival),
        ratio(row.to_floor),
        ratio(row.to_clean),
        row.p50_us,
        row.p99_us,
        row.range * 100.0,
        row.foreign_cores
    )
}

/// A server starts anew for each run: its shortest way from there to the first connection.
fn starts(place: &PlaceResult) -> String {
    let mut out = "\nstart to first connection, best cell's median, ms:".to_owned();
    let mut seen: Vec<&str> = Vec::new();
    for row in place.rows.iter().filter(|row| row.start_ms > 0.0) {
        if !seen.contains(&row.contender.as_str()) {
            seen.push(&row.contender);
            let same = place.rows.iter().filter(|other| other.contender == row.contender);
            let best = same.map(|other| other.start_ms).fold(f64::INFINITY, f64::min);
            out += &format!("  {} {best:.0}", row.contender);
        }
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_told_with_its_goals_and_what_was_left_out() {
        let figure =
            Figure::of("commit", "us", &[2.0]).by("dm-remap").against("bare", &[1.5]).ratio_at_most(1.2);
        let group = GroupResult {
            name: "commit".into(),
            place: "disk".into(),
            figures: vec![figure],
            missing: vec!["xfs: mkfs.xfs (package xfsprogs)".into()],
        };
        let text = text(&Results { groups: vec![group], ..Results::default() });
        for part in
            ["1.50 x bare", "ratio <= 1.2: MISSED", "not measured: xfs: mkfs.xfs", "0 of 1 met", "2.00 us"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!([1234.5, 12.34, 0.1234, 0.0].map(digits), ["1234", "12.3", "0.123", "0.00"]);
    }
}
