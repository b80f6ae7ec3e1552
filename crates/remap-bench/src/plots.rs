//! Which charts a run gives.
//!
//! Invariant: a chart is written only from figures of this run; what the run left out has no chart.

mod groups;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::load::{CELLS, Cell};
use crate::record::{PlaceResult, Results, Row};
use crate::svg::{self, Bars, Lines};

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
        let small_title = format!("Small requests {at}: more is better");
        let large_title = format!("Large requests and copies {at}: more is better");
        let cpu_title = format!("Server's processor time for a small request {at}: less is better");
        for (file, title, axis, small, value) in [
            (small, small_title, "thousand requests a second", true, &rate as &dyn Fn(&Row) -> f64),
            (large, large_title, "MB/s", false, &rate),
            (format!("{name}-cpu.svg"), cpu_title, "microseconds", true, &|row: &Row| row.cpu_us_per_io),
        ] {
            if let Some(chart) = everybody(place, &title, axis, small, value) {
                save(&file, chart)?;
            }
        }
        for (file, title, axis, value) in [
            (
                format!("{name}-concurrency.svg"),
                format!("More requests in flight {at}: more is better"),
                "thousand requests a second",
                &rate as &dyn Fn(&Row) -> f64,
            ),
            (
                format!("{name}-concurrency-p99.svg"),
                format!("More requests in flight {at}, time of all but one in a hundred: less is better"),
                "microseconds",
                &|row: &Row| row.p99_us,
            ),
        ] {
            if let Some(chart) = over_depth(place, &title, axis, value) {
                save(&file, chart)?;
            }
        }
    }
    for group in &results.groups {
        for (file, chart) in groups::charts(group) {
            save(&file, chart)?;
        }
    }
    Ok(())
}

/// Our rows in terms of the best rival.
fn ratios(place: &PlaceResult) -> String {
    let ours = |row: &&Row| row.part == "ours";
    let series = names(place.rows.iter().filter(ours).map(|row| &row.contender));
    let cells = names(place.rows.iter().filter(in_bars).map(|row| &row.cell));
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
    let rows = place.rows.iter().filter(in_bars);
    let rows: Vec<&Row> = rows.filter(|row| row.counts_requests == counts_requests).collect();
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

/// Something of everybody over the requests in flight; `None` where fewer than two numbers of them were measured.
fn over_depth(place: &PlaceResult, title: &str, axis: &str, value: &dyn Fn(&Row) -> f64) -> Option<String> {
    let depth = |row: &Row| CELLS.iter().find(|cell| cell.name == row.cell).and_then(Cell::in_flight);
    let depths: BTreeSet<u32> = place.rows.iter().filter_map(depth).collect();
    let curve = |name: &String| {
        let at = |wanted: &u32| {
            let row = place.rows.iter().find(|r| r.contender == *name && depth(r) == Some(*wanted));
            row.map(value)
        };
        (name.clone(), depths.iter().map(at).collect())
    };
    let series = names(place.rows.iter().filter(|row| depth(row).is_some()).map(|row| &row.contender));
    (depths.len() > 1).then(|| {
        svg::lines(&Lines {
            title,
            across: "4 KiB random reads in flight, on one connection",
            axis,
            places: depths.iter().map(u32::to_string).collect(),
            series: series.iter().map(curve).collect(),
        })
    })
}

/// Rows that have a chart of their own only.
fn in_bars(row: &&Row) -> bool {
    !CELLS.iter().any(|cell| cell.name == row.cell && cell.is_of_a_curve_only())
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
