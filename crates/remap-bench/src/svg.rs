//! Charts as SVG, by hand: bars in groups, and lines over a logarithmic axis.
//!
//! Invariant: every chart has a title, a unit on each axis and a legend, on a light ground, and can be read without the page around it.

use std::fmt::Write as _;

/// Colours of series, in order; far enough apart in lightness to survive a black and white print.
const COLOURS: [&str; 8] =
    ["#0b5cad", "#6fb1ee", "#c2571a", "#e8a33d", "#7a4aa0", "#4d9a57", "#8a8a8a", "#c9c9c9"];
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 64.0;

/// Bars side by side for each label; `None`: nothing was measured.
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    /// What the height is, with its unit.
    pub(crate) axis: &'a str,
    pub(crate) series: Vec<String>,
    pub(crate) groups: Vec<(String, Vec<Option<f64>>)>,
    /// A height to compare with, drawn as a line.
    pub(crate) mark: Option<f64>,
}

/// Lines through points; both axes logarithmic.
pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    pub(crate) axis: &'a str,
    /// Places on the axis, evenly spaced, with what is written there.
    pub(crate) places: Vec<String>,
    /// Name and a height at each place.
    pub(crate) series: Vec<(String, Vec<Option<f64>>)>,
}

/// The chart as a file.
pub(crate) fn bars(chart: &Bars<'_>) -> String {
    let heights = chart.groups.iter().flat_map(|(_, bars)| bars.iter().flatten());
    let most = heights.chain(&chart.mark).copied().fold(0.0, f64::max);
    let step = step_of(most);
    let top = (most / step).ceil().max(1.0) * step;
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut out = frame(chart.title, chart.axis, chart.series.iter().map(String::as_str));
    for n in 0..=(top / step).round() as u32 {
        grid(&mut out, y(f64::from(n) * step), &number(f64::from(n) * step));
    }
    let wide = (WIDTH - LEFT - RIGHT) / chart.groups.len().max(1) as f64;
    // Labels that would run into each other.
    let slant = chart.groups.iter().any(|(label, _)| width(label) > wide);
    let bar = wide * 0.82 / chart.series.len().max(1) as f64;
    for (at, (label, values)) in chart.groups.iter().enumerate() {
        let left = LEFT + wide * at as f64 + wide * 0.09;
        for (which, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (x, height) = (left + bar * which as f64, HEIGHT - BOTTOM - y(*value));
            let _ = writeln!(
                out,
                r#"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{height:.1}" fill="{}"><title>{} {}: {}</title></rect>"#,
                y(*value),
                bar * 0.92,
                colour(which),
                escape(label),
                escape(chart.series.get(which).map_or("", |name| name)),
                number(*value)
            );
        }
        let middle = left + wide * 0.41;
        if slant {
            slanted(&mut out, middle + 6.0, HEIGHT - BOTTOM + 16.0, label);
        } else {
            text(&mut out, middle, HEIGHT - BOTTOM + 20.0, "middle", label);
        }
    }
    if let Some(mark) = chart.mark {
        let at = y(mark);
        let _ = writeln!(
            out,
            r##"<path d="M{LEFT} {at:.1}H{:.1}" stroke="#222" stroke-width="1.5" stroke-dasharray="6 4"/>"##,
            WIDTH - RIGHT
        );
    }
    out + "</svg>\n"
}

/// The chart as a file.
pub(crate) fn lines(chart: &Lines<'_>) -> String {
    let all = || chart.series.iter().flat_map(|(_, values)| values.iter().flatten()).filter(|v| **v > 0.0);
    let low = all().copied().fold(f64::INFINITY, f64::min).log10().floor();
    let high = all().copied().fold(f64::MIN_POSITIVE, f64::max).log10().ceil().max(low + 1.0);
    let y = |value: f64| HEIGHT - BOTTOM - (value.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let wide = (WIDTH - LEFT - RIGHT) / chart.places.len().max(1) as f64;
    let x = |at: usize| LEFT + wide * (at as f64 + 0.5);
    let mut out = frame(chart.title, chart.axis, chart.series.iter().map(|(name, _)| name.as_str()));
    let mut power = low;
    while power.is_finite() && power <= high {
        grid(&mut out, y(10_f64.powf(power)), &number(10_f64.powf(power)));
        power += 1.0;
    }
    for (at, label) in chart.places.iter().enumerate() {
        text(&mut out, x(at), HEIGHT - BOTTOM + 20.0, "middle", label);
    }
    text(&mut out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 16.0, "middle", chart.across);
    for (which, (name, values)) in chart.series.iter().enumerate() {
        let points: Vec<(f64, f64, f64)> = values
            .iter()
            .enumerate()
            .filter_map(|(at, value)| {
                value.filter(|value| *value > 0.0).map(|value| (x(at), y(value), value))
            })
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let colour = colour(which);
        let _ = writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#,
            path.join(" ")
        );
        for (x, y, value) in points {
            let _ = writeln!(
                out,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"><title>{}: {}</title></circle>"#,
                escape(name),
                number(value)
            );
            text(&mut out, x, y - 8.0, "middle", &number(value));
        }
    }
    out + "</svg>\n"
}

fn frame<'a>(title: &str, axis: &str, series: impl Iterator<Item = &'a str>) -> String {
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fdfdfb"/>
<text x="{LEFT}" y="26" font-size="17" font-weight="bold">{}</text>
<text transform="translate(18 {:.1}) rotate(-90)" text-anchor="middle">{}</text>
"##,
        escape(title),
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(axis)
    );
    let (mut x, mut y) = (LEFT, 42.0);
    for (which, name) in series.enumerate() {
        let wide = 34.0 + width(name);
        if x + wide > WIDTH - RIGHT {
            (x, y) = (LEFT, y + 18.0);
        }
        let _ =
            writeln!(out, r#"<rect x="{x:.1}" y="{y:.1}" width="12" height="12" fill="{}"/>"#, colour(which));
        text(&mut out, x + 17.0, y + 10.5, "start", name);
        x += wide;
    }
    out
}

fn grid(out: &mut String, y: f64, label: &str) {
    let _ = writeln!(out, r##"<path d="M{LEFT} {y:.1}H{:.1}" stroke="#d8d8d4"/>"##, WIDTH - RIGHT);
    text(out, LEFT - 8.0, y + 4.0, "end", label);
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(words));
}

/// The end of the words is at this place, their beginning below and to the left of it.
fn slanted(out: &mut String, x: f64, y: f64, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        out,
        r#"<text transform="translate({x:.1} {y:.1}) rotate(-30)" text-anchor="end">{words}</text>"#
    );
}

/// How wide words are. No fonts are known here: seven units a letter are enough for most.
fn width(words: &str) -> f64 {
    7.0 * words.chars().count() as f64
}

fn colour(which: usize) -> &'static str {
    COLOURS[which % COLOURS.len()]
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A distance of grid lines that people count in, for about six of them.
fn step_of(most: f64) -> f64 {
    let rough = (most / 6.0).max(1e-3);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough)
}

fn number(value: f64) -> String {
    let text = match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_what_was_measured() {
        let chart = Bars {
            title: "A < B",
            axis: "kIOPS",
            series: vec!["one".into(), "two".into()],
            groups: vec![("x".into(), vec![Some(3.0), None]), ("y".into(), vec![Some(1.0), Some(2.0)])],
            mark: Some(1.0),
        };
        let svg = bars(&chart);
        assert!(svg.contains("A &lt; B") && svg.contains("kIOPS"));
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(!svg.contains("rotate(-30)"), "there is room for short labels");
        let crowd = (0..20).map(|n| (format!("a long label {n}"), vec![Some(1.0), None])).collect();
        assert_eq!(bars(&Bars { groups: crowd, ..chart }).matches("rotate(-30)").count(), 20);
        let chart = Lines {
            title: "t",
            across: "remaps",
            axis: "ns",
            places: vec!["0".into(), "1k".into()],
            series: vec![
                ("miss".into(), vec![Some(1.5), Some(200.0)]),
                ("hit".into(), vec![None, Some(20.0)]),
            ],
        };
        let svg = lines(&chart);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(!lines(&Lines { series: Vec::new(), ..chart }).contains("NaN"));
    }

    #[test]
    fn numbers_are_short_and_steps_round() {
        assert_eq!([0.5, 1.0, 12.34, 1234.5].map(number), ["0.5", "1", "12.3", "1234"].map(str::to_owned));
        assert_eq!([6.0, 7.0, 100.0].map(step_of), [1.0, 2.0, 20.0]);
    }
}
