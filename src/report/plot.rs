//! Plots of what checkpoints cost: how large they are, and how long they take. Drawn here, in a few lines of SVG,
//! because a page without scripts needs no plotting library.

use std::fmt::Write;

use super::model::{Checkpoint, Job};
use super::text::{bytes, duration};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers at the left and below.
const LEFT: f64 = 62.0;
const BELOW: f64 = 26.0;
/// Points beyond this are thinned out evenly: more cannot be told apart.
const POINTS_MAX: usize = 2000;

/// The plots, if there are checkpoints.
pub fn plots(html: &mut String, jobs: &[Job]) {
    let all: Vec<&Checkpoint> = jobs.iter().flat_map(|job| &job.checkpoints).collect();
    if all.is_empty() {
        return;
    }
    let step = all.len().div_ceil(POINTS_MAX);
    let points: Vec<&Checkpoint> = all.iter().step_by(step).copied().collect();
    html.push_str("<h2 id=\"checkpoints\">What checkpoints cost</h2>\n<div class=\"plots\">\n");
    let sizes: Vec<f64> = all.iter().map(|checkpoint| checkpoint.bytes as f64).collect();
    let commits: Vec<f64> = all.iter().map(|checkpoint| checkpoint.commit).collect();
    let frozen: Vec<f64> = all.iter().map(|checkpoint| checkpoint.frozen).collect();
    let told = |values: &[f64], show: &dyn Fn(f64) -> String| {
        let (median, most) = (median(values), values.iter().copied().fold(0.0, f64::max));
        format!("median {}, most {}", show(median), show(most))
    };
    let size = |value: f64| bytes(value.max(0.0) as u64);
    scatter(
        html,
        &format!("How long it takes until they are on the disk: {}", told(&commits, &duration)),
        ("size", "time"),
        &points.iter().map(|point| (point.bytes as f64, point.commit)).collect::<Vec<_>>(),
        &size,
        &duration,
    );
    histogram(html, &format!("How large they are: {}", told(&sizes, &size)), "size", &sizes, &size);
    histogram(
        html,
        &format!("How long the program stood still: {}", told(&frozen, &duration)),
        "time",
        &frozen,
        &duration,
    );
    html.push_str("</div>\n");
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// A figure with its axes, which are named.
fn open(html: &mut String, caption: &str, across: &str, up: &str) {
    let (x, y) = ((LEFT + WIDTH) / 2.0, (HEIGHT - BELOW) / 2.0);
    let _ = write!(
        html,
        "<figure><figcaption>{caption}</figcaption>\n<svg class=\"axis\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{caption}\">\
         <line x1=\"{LEFT}\" y1=\"{base}\" x2=\"{WIDTH}\" y2=\"{base}\"/><line x1=\"{LEFT}\" y1=\"4\" x2=\"{LEFT}\" y2=\"{base}\"/>\
         <text x=\"{x}\" y=\"{at}\" text-anchor=\"middle\">{across}</text>\
         <text transform=\"translate(14 {y}) rotate(-90)\" text-anchor=\"middle\">{up}</text>",
        base = HEIGHT - BELOW,
        at = HEIGHT - 8.0,
    );
}

fn label(html: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = write!(html, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn scatter(
    html: &mut String,
    caption: &str,
    (across, up): (&str, &str),
    points: &[(f64, f64)],
    show_x: &dyn Fn(f64) -> String,
    show_y: &dyn Fn(f64) -> String,
) {
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
    let (x_most, y_most) =
        (most(&mut points.iter().map(|point| point.0)), most(&mut points.iter().map(|point| point.1)));
    open(html, caption, across, up);
    label(html, LEFT - 4.0, 12.0, "end", &show_y(y_most));
    label(html, LEFT - 4.0, HEIGHT - BELOW, "end", "0");
    label(html, LEFT, HEIGHT - 8.0, "start", "0");
    label(html, WIDTH, HEIGHT - 8.0, "end", &show_x(x_most));
    for (x, y) in points {
        let at_x = LEFT + (WIDTH - LEFT - 6.0) * x / x_most;
        let at_y = HEIGHT - BELOW - (HEIGHT - BELOW - 8.0) * y / y_most;
        let _ = write!(html, "<circle class=\"dot\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3.5\"/>");
    }
    html.push_str("</svg></figure>\n");
}

fn histogram(html: &mut String, caption: &str, across: &str, values: &[f64], show: &dyn Fn(f64) -> String) {
    const BINS: usize = 24;
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut bins = [0_usize; BINS];
    for value in values {
        let bin = (value.max(0.0) / most * BINS as f64) as usize;
        bins[bin.min(BINS - 1)] += 1;
    }
    let highest = bins.iter().copied().max().unwrap_or(1).max(1);
    open(html, caption, across, "checkpoints");
    label(html, LEFT - 4.0, 12.0, "end", &highest.to_string());
    label(html, LEFT - 4.0, HEIGHT - BELOW, "end", "0");
    label(html, LEFT, HEIGHT - 8.0, "start", "0");
    label(html, WIDTH, HEIGHT - 8.0, "end", &show(most));
    let width = (WIDTH - LEFT) / BINS as f64;
    for (number, count) in bins.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let height = (HEIGHT - BELOW - 8.0) * count as f64 / highest as f64;
        let _ = write!(
            html,
            "<rect class=\"uploading\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count} up to {}</title></rect>",
            LEFT + width * number as f64 + 0.5,
            HEIGHT - BELOW - height,
            width - 1.0,
            show(most * (number + 1) as f64 / BINS as f64)
        );
    }
    html.push_str("</svg></figure>\n");
}
