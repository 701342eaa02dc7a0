//! The open loop's latencies over its rates, as a picture (SVG). Both axes are logarithmic.

use std::fmt::Write as _;

use super::Summary;
use crate::subject::{Subject, Workload};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Room for what stands beside the axes.
const MARGIN: f64 = 60.0;
/// Messages a second, and milliseconds: where the axes begin and end.
const RATES: (f64, f64) = (100.0, 30_000.0);
const LATENCIES: (f64, f64) = (1.0, 10_000.0);

/// The picture, if the open loop was measured.
pub(super) fn latencies(summaries: &[Summary]) -> Option<String> {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (from, is_rate) in [(RATES, true), (LATENCIES, false)] {
        for tick in (0..5).map(|power| 10_f64.powi(power)).filter(|tick| (from.0..=from.1).contains(tick)) {
            let ((x1, y1), (x2, y2)) = if is_rate {
                (point(tick, LATENCIES.0), point(tick, LATENCIES.1))
            } else {
                (point(RATES.0, tick), point(RATES.1, tick))
            };
            let (x, y, anchor) = if is_rate { (x1, y1 + 18.0, "middle") } else { (x1 - 8.0, y1 + 4.0, "end") };
            let _ = writeln!(
                text,
                "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{tick}</text>"
            );
        }
    }
    let _ = write!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">messages a second</text>\n\
         <text x=\"{MARGIN}\" y=\"20\">answers after, ms: 99th percentile, and median (dashed)</text>\n",
        WIDTH / 2.0,
        HEIGHT - 15.0,
    );
    let mut lines = 0;
    for (subject, colour) in [(Subject::Holdfast, "#c40"), (Subject::Before, "#888"), (Subject::Twin, "#06a")] {
        for (quantile, dashes) in [("p99", "none"), ("p50", "5 4")] {
            let points = points(summaries, subject, quantile);
            let Some(last) = points.last() else { continue };
            let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let path = path.join("L");
            let _ = writeln!(
                text,
                "<path d=\"M{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>"
            );
            if quantile == "p99" {
                let (x, y) = (last.0 + 6.0, last.1 + 4.0);
                let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{subject}</text>");
            }
            lines += 1;
        }
    }
    text.push_str("</svg>\n");
    (lines > 0).then_some(text)
}

/// A subject's medians, by rising rate.
fn points(summaries: &[Summary], subject: Subject, quantile: &str) -> Vec<(f64, f64)> {
    let of_it = summaries.iter().filter(|one| one.workload == Workload::Open && one.subject == subject);
    let mut points: Vec<(f64, f64)> = of_it
        .filter_map(|one| {
            let (rate, of) = one.name.split_once("/s: ")?;
            (of == format!("answer {quantile}, ms")).then_some((rate.parse().ok()?, one.median))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.into_iter().map(|(rate, latency)| point(rate, latency)).collect()
}

fn point(rate: f64, latency: f64) -> (f64, f64) {
    let part = |value: f64, (from, to): (f64, f64)| ((value / from).ln() / (to / from).ln()).clamp(0.0, 1.0);
    let x = MARGIN + part(rate, RATES) * (WIDTH - 2.0 * MARGIN);
    (x, HEIGHT - MARGIN - part(latency, LATENCIES) * (HEIGHT - 2.0 * MARGIN))
}
