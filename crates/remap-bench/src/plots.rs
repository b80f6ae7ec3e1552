//! Which charts a run gives.
//!
//! Invariant: a chart is written only from figures of this run; what the run left out has no chart.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::record::{Figure, PlaceResult, Results, Row};
use crate::svg::{self, Bars, Lines};

/// What of the table is drawn over its size.
const CURVES: [&str; 5] = [
    "look-up, miss",
    "look-up, hit after hit",
    "look-up, miss of 256 blocks",
    "insert",
    "insert, two readers",
];

/// Writes them all into a folder.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    for place in &results.places {
        let name = &place.name;
        save(&format!("{name}-ratio.svg"), ratios(place))?;
        let rate = |row: &Row| if row.counts_requests { row.iops / 1e3 } else { row.mb_s };
        let (small, large) = (format!("{name}-iops.svg"), format!("{name}-throughput.svg"));
        let at = format!("on {name}");
        let small_title = format!("4 KiB requests {at}: more is better");
        let large_title = format!("Large requests and copies {at}: more is better");
        let cpu_title = format!("Server's processor time for a 4 KiB request {at}: less is better");
        for (file, title, axis, small, value) in [
            (small, small_title, "thousand requests a second", true, &rate as &dyn Fn(&Row) -> f64),
            (large, large_title, "MB/s", false, &rate),
            (format!("{name}-cpu.svg"), cpu_title, "microseconds", true, &|row: &Row| row.cpu_us_per_io),
        ] {
            if let Some(chart) = everybody(place, &title, axis, small, value) {
                save(&file, chart)?;
            }
        }
    }
    if !results.micro.is_empty() {
        save("table-size.svg", sizes(&results.micro))?;
    }
    Ok(())
}

/// Our rows in terms of the best rival.
fn ratios(place: &PlaceResult) -> String {
    let ours = |row: &&Row| row.part == "ours";
    let series = names(place.rows.iter().filter(ours).map(|row| &row.contender));
    let cells = names(place.rows.iter().map(|row| &row.cell));
    let group = |cell: String| {
        let of = |name: &String| {
            place.rows.iter().find(|r| r.cell == cell && r.contender == *name).and_then(|r| r.to_rival)
        };
        let values = series.iter().map(of).collect();
        (cell, values)
    };
    svg::bars(&Bars {
        title: &format!(
            "dm-remap against the best rival of each cell, on {}: above the line we are ahead",
            place.name
        ),
        axis: "rate in terms of the best rival's",
        groups: cells.into_iter().map(group).collect(),
        mark: Some(1.0),
        series,
    })
}

/// Everybody's rows in the cells of one kind; `None` when there are none.
fn everybody(
    place: &PlaceResult,
    title: &str,
    axis: &str,
    counts_requests: bool,
    value: &dyn Fn(&Row) -> f64,
) -> Option<String> {
    let rows: Vec<&Row> = place.rows.iter().filter(|row| row.counts_requests == counts_requests).collect();
    let series = names(rows.iter().map(|row| &row.contender));
    let cells = names(rows.iter().map(|row| &row.cell));
    let group = |cell: String| {
        let of =
            |name: &String| rows.iter().find(|r| r.cell == cell && r.contender == *name).map(|r| value(r));
        let values = series.iter().map(of).collect();
        (cell, values)
    };
    let groups: Vec<_> = cells.into_iter().map(group).collect();
    (!groups.is_empty()).then(|| svg::bars(&Bars { title, axis, groups, mark: None, series }))
}

/// Costs over the size of the table.
fn sizes(figures: &[Figure]) -> String {
    let mut sizes: Vec<u64> = figures.iter().filter_map(|figure| figure.remaps).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let curve = |name: &&str| {
        let at = |size: &u64| {
            figures.iter().find(|f| f.name == *name && f.remaps == Some(*size)).map(|figure| figure.p50)
        };
        ((*name).to_owned(), sizes.iter().map(at).collect())
    };
    svg::lines(&Lines {
        title: "What the table costs with its size: lower is better",
        across: "scattered remaps in the table",
        axis: "nanoseconds, median",
        places: sizes.iter().map(u64::to_string).collect(),
        series: CURVES.iter().map(curve).collect(),
    })
}

/// Each once, in order of appearance.
fn names<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in all {
        if !found.contains(name) {
            found.push(name.clone());
        }
    }
    found
}
