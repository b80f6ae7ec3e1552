//! Charts of groups.
//!
//! Invariant: a group is drawn where a picture tells more than its rows; nothing is drawn of what it left out.

use std::collections::BTreeSet;

use super::names;
use crate::record::{Figure, GroupResult};
use crate::svg::{self, Bars, Lines};

/// What of the table is drawn over its size.
const CURVES: [&str; 5] = [
    "look-up, miss",
    "look-up, hit after hit",
    "look-up, miss of 256 blocks",
    "insert",
    "insert, two readers",
];

/// File names and charts.
pub(super) fn charts(group: &GroupResult) -> Vec<(String, String)> {
    let place = &group.place;
    let one = |name: &str, chart: Option<String>| {
        chart.map(|chart| (format!("{place}-{name}.svg"), chart)).into_iter().collect()
    };
    match group.name.as_str() {
        "parts" => {
            let drawn = |figure: &&Figure| CURVES.contains(&figure.name.as_str());
            let title = "What the table costs with its size: lower is better";
            let chart = curves(group, drawn, [title, "scattered remaps in the table", "nanoseconds, median"]);
            chart.map(|chart| ("table-size.svg".to_owned(), chart)).into_iter().collect()
        }
        "size" => {
            let drawn = |figure: &&Figure| figure.more_is_better();
            let title = "Random reads of a volume by the size of its table: more is better";
            let axes = [title, "scattered remaps in the table", "thousand reads a second"];
            one("table-size", curves(group, drawn, axes))
        }
        "scale" => {
            let drawn = |figure: &&Figure| figure.name.ends_with(": assembly");
            let title =
                "From files to a volume in service, beside a bare read of its metadata: lower is better";
            one("assembly", curves(group, drawn, [title, "scattered remaps in the table", "milliseconds"]))
        }
        "commit" => {
            let title = format!("One record to five copies and a flush, on {place}: less is better");
            let value = |figure: &Figure| Some(figure.p50);
            one("commit", bars(group, |_| true, &title, "microseconds, median", None, value))
        }
        "storm" => {
            let title = format!("A thousand bad blocks fail, on {place}: what healthy requests feel");
            let (drawn, value) = (|figure: &&Figure| figure.unit == "us", |figure: &Figure| Some(figure.p50));
            one("storm", bars(group, drawn, &title, "microseconds, 99 of 100 requests", None, value))
        }
        "filesystems" => filesystems(group),
        _ => Vec::new(),
    }
}

/// A chart for each file system, in terms of the plain file.
fn filesystems(group: &GroupResult) -> Vec<(String, String)> {
    let kind = |figure: &Figure| figure.name.split(':').next().unwrap_or_default().to_owned();
    let kinds: BTreeSet<String> = group.figures.iter().map(kind).collect();
    let chart = |name: String| {
        let title =
            format!("{name} on {}: above the line we are ahead of a loop device on the file", group.place);
        let drawn = |figure: &&Figure| kind(figure) == name && figure.ratio.is_some();
        let chart = bars(group, drawn, &title, "rate in terms of the plain file's", Some(1.0), |f| f.ratio);
        chart.map(|chart| (format!("{}-{name}.svg", group.place), chart))
    };
    kinds.into_iter().filter_map(chart).collect()
}

/// A curve for each name, and for each of whom where there are several.
fn curves(
    group: &GroupResult,
    drawn: impl Fn(&&Figure) -> bool,
    [title, across, axis]: [&str; 3],
) -> Option<String> {
    let figures: Vec<&Figure> = group.figures.iter().filter(drawn).collect();
    let places: BTreeSet<u64> = figures.iter().filter_map(|figure| figure.at).collect();
    let label = |figure: &Figure| match figure.who.as_str() {
        "" => figure.name.clone(),
        who => format!("{}, {who}", figure.name),
    };
    let labels: Vec<String> = figures.iter().map(|figure| label(figure)).collect();
    let curve = |name: String| {
        let at = |place: &u64| {
            let figure = figures.iter().find(|f| label(f) == name && f.at == Some(*place));
            figure.map(|figure| figure.p50)
        };
        let heights = places.iter().map(at).collect();
        (name, heights)
    };
    let series = names(labels.iter()).into_iter().map(curve).collect();
    (!figures.is_empty()).then(|| {
        svg::lines(&Lines {
            title,
            across,
            axis,
            places: places.iter().map(u64::to_string).collect(),
            series,
        })
    })
}

/// A group of bars for each name, a bar for each of whom.
fn bars(
    group: &GroupResult,
    drawn: impl Fn(&&Figure) -> bool,
    title: &str,
    axis: &str,
    mark: Option<f64>,
    value: impl Fn(&Figure) -> Option<f64>,
) -> Option<String> {
    let figures: Vec<&Figure> = group.figures.iter().filter(drawn).collect();
    let series = names(figures.iter().map(|figure| &figure.who));
    let heights = |name: String| {
        let of =
            |who: &String| figures.iter().find(|f| f.name == name && f.who == *who).and_then(|f| value(f));
        let short = name.split_once(": ").map_or(name.clone(), |(_, rest)| rest.to_owned());
        (short, series.iter().map(of).collect())
    };
    let groups: Vec<_> = names(figures.iter().map(|figure| &figure.name)).into_iter().map(heights).collect();
    (!groups.is_empty()).then(|| svg::bars(&Bars { title, axis, groups, mark, series: series.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, figures: Vec<Figure>) -> GroupResult {
        GroupResult { name: name.into(), place: "disk".into(), figures, missing: Vec::new() }
    }

    #[test]
    fn groups_have_charts_of_what_they_measured() {
        let figure = |name: &str, who: &str| Figure::of(name, "us", &[2.0]).by(who).against("x", &[0.5]);
        let commit = group("commit", vec![figure("a", "dm-remap"), figure("a", "bare")]);
        let [(file, chart)] = charts(&commit).try_into().expect("one chart");
        assert_eq!((file.as_str(), chart.matches("<title>").count()), ("disk-commit.svg", 2));
        let systems = group("filesystems", vec![figure("ext4: w", "dm-remap"), figure("xfs: w", "dm-remap")]);
        let files: Vec<String> = charts(&systems).into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["disk-ext4.svg", "disk-xfs.svg"]);
        let parts = group("parts", vec![figure("insert", "").at(0), figure("insert", "").at(10)]);
        assert_eq!(charts(&parts)[0].1.matches("<circle").count(), 2);
        for name in ["commit", "storm", "filesystems", "parts", "size", "scale", "lifecycle"] {
            assert!(charts(&group(name, Vec::new())).is_empty(), "{name}");
        }
    }
}
