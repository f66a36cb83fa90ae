//! The page: one file without scripts or anything from elsewhere. Every picture stands beside the same figures in
//! words, for those who do not see it, and for tests.

use std::fmt::Write;

use super::model::{Job, Kind, Stretch, Sums};
use super::plot;
use super::text::{Time, bytes, cpu_time, duration, escaped, percent};

/// Width of a timeline in its own units; it is stretched to the room that there is.
const WIDTH: f64 = 1000.0;
/// Narrower than this, a stretch that is there could not be seen.
const NARROWEST: f64 = 1.2;
/// Jobs whose stretches are listed in words; those of thousands would make a page that no browser opens.
const LISTED: usize = 300;

/// What a page is about, beside its jobs.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The heading.
    pub title: String,
    /// Said below it; plain text.
    pub words: Vec<String>,
    /// How it was reckoned; plain text.
    pub notes: Vec<String>,
}

/// The whole page.
pub fn page(about: &About, jobs: &[Job]) -> String {
    let sums = Sums::of(jobs);
    let mut html = String::with_capacity(16 * 1024 + jobs.len() * 1024);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        title = escaped(&about.title),
        css = include_str!("page.css"),
    );
    for words in &about.words {
        let _ = writeln!(html, "<p>{}</p>", escaped(words));
    }
    summary(&mut html, &sums);
    if jobs.iter().any(|job| !job.stretches.is_empty()) {
        timelines(&mut html, jobs);
        clusters(&mut html, jobs);
        plot::plots(&mut html, jobs);
        words(&mut html, jobs);
    }
    if !about.notes.is_empty() {
        html.push_str("<h2 id=\"how\">How this is reckoned</h2>\n");
        for note in &about.notes {
            let _ = writeln!(html, "<p class=\"quiet\">{}</p>", escaped(note));
        }
    }
    // For programs; a closing tag inside would end it.
    let data = serde_json::to_string(&sums).unwrap_or_default().replace("</", "<\\/");
    let _ = write!(html, "</main>\n<script type=\"application/json\" id=\"sums\">{data}</script>\n</body>\n</html>\n");
    html
}

fn summary(html: &mut String, sums: &Sums) {
    let ran = sums.counted + sums.lost;
    let _ = write!(html, "<ul class=\"cards\" aria-label=\"Sums over all jobs\">");
    let mut card = |value: String, what: &str| {
        let _ = write!(html, "<li><b>{value}</b>{what}</li>");
    };
    card(format!("{} of {}", sums.done, sums.jobs), "jobs done");
    card(cpu_time(sums.counted, ran), "of computing counted");
    card(cpu_time(sums.lost, ran), "lost to evictions");
    card(cpu_time(sums.saved, ran), "saved by checkpoints");
    card(sums.evictions.to_string(), "evictions");
    card(sums.checkpoints.to_string(), "checkpoints in logs");
    html.push_str("</ul>\n");
    if ran <= 0.0 {
        return;
    }
    let without = sums.counted - sums.saved;
    let parts = [
        ("running", without, "counted, and would have without checkpoints"),
        ("saved", sums.saved, "counted because a checkpoint kept it"),
        ("lost", sums.lost, "lost to evictions"),
    ];
    let told: Vec<String> =
        parts.iter().map(|(_, seconds, what)| format!("{} {what}", percent(*seconds, ran))).collect();
    let _ = write!(html, "<div class=\"bar\" role=\"img\" aria-label=\"Of all computing: {}\">", told.join(", "));
    for (class, seconds, _) in parts {
        let _ = write!(html, "<span class=\"{class}\" style=\"width:{:.2}%\"></span>", 100.0 * seconds / ran);
    }
    html.push_str("</div>\n<ul class=\"legend\">");
    for ((class, _, _), told) in parts.iter().zip(&told) {
        let _ = write!(html, "<li><i class=\"{class}\"></i>{told}</li>");
    }
    html.push_str("</ul>\n");
}

fn span(jobs: &[Job]) -> (f64, f64) {
    let stretches = jobs.iter().flat_map(|job| &job.stretches);
    let (from, to) = stretches
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), stretch| (from.min(stretch.from), to.max(stretch.to)));
    // A span of nothing has no scale.
    (from, to.max(from + 1.0))
}

fn timelines(html: &mut String, jobs: &[Job]) {
    let (from, to) = span(jobs);
    let _ = writeln!(
        html,
        "<h2 id=\"timelines\">What each job did</h2>\n<p class=\"quiet\">From {} to {} UTC, {}. A tick below a line is a checkpoint of \
         condor-criu's log; hover over a stretch for its host and length.</p>",
        Time(from).full(),
        Time(to).full(),
        duration(to - from)
    );
    html.push_str("<ul class=\"legend\">");
    for kind in Kind::ALL.into_iter().filter(|kind| jobs.iter().any(|job| job.seconds(*kind) > 0.0)) {
        let _ = write!(html, "<li><i class=\"{0}\"></i><b>{0}</b>: {1}</li>", kind.word(), kind.meaning());
    }
    // The pattern of what is lost, and the lines of the times, for all pictures.
    let ticks = ticks(from, to);
    let lines: String = ticks.iter().map(|at| format!("M{:.1} 0V18", WIDTH * (at - from) / (to - from))).collect();
    let _ = writeln!(
        html,
        "</ul>\n<svg width=\"0\" height=\"0\" aria-hidden=\"true\" style=\"position:absolute\"><defs><pattern id=\"hatch\" width=\"6\" \
         height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" \
         style=\"fill:var(--lost)\"/><rect width=\"2\" height=\"6\" style=\"fill:var(--ground);opacity:.35\"/></pattern>\
         <path id=\"grid\" d=\"{lines}\"/></defs></svg>",
    );
    html.push_str("<div class=\"scroll\"><table>\n<thead><tr><th>job</th><th>");
    axis(html, &ticks, from, to);
    html.push_str("</th><th>state</th><th class=\"n\">evictions</th><th class=\"n\">counted</th><th class=\"n\">lost</th></tr></thead>\n<tbody>\n");
    for job in jobs {
        let name = escaped(&job.name);
        let _ = write!(html, "<tr><td>{name}</td><td class=\"line\">");
        timeline(html, job, from, to);
        let _ = writeln!(
            html,
            "</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escaped(&job.standing.to_string()),
            job.evictions,
            duration(job.seconds(Kind::Running)),
            duration(job.seconds(Kind::Lost)),
        );
    }
    html.push_str("</tbody></table></div>\n");
}

/// Round times of a span, a few.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    const MOST: f64 = 7.0;
    const DAY: f64 = 86_400.0;
    let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400].map(f64::from);
    let fits = |step: &f64| (to - from) / step <= MOST;
    let step = steps.into_iter().find(fits).unwrap_or_else(|| DAY * ((to - from) / DAY / MOST).ceil());
    let first = (from / step).ceil();
    // One more than fits, so that an odd number cannot make an endless row.
    (0..=MOST as usize).map(|number| (first + number as f64) * step).filter(|at| *at <= to).collect()
}

/// The times along the top; none so near to an end that it would stand over its neighbour.
fn axis(html: &mut String, ticks: &[f64], from: f64, to: f64) {
    html.push_str("<div class=\"times\" aria-hidden=\"true\">");
    for at in ticks {
        let place = 100.0 * (at - from) / (to - from);
        if (6.0..=94.0).contains(&place) {
            let _ = write!(html, "<span style=\"left:{place:.1}%\">{}</span>", Time(*at).short(to - from));
        }
    }
    html.push_str("</div>");
}

fn timeline(html: &mut String, job: &Job, from: f64, to: f64) {
    let x = |at: f64| WIDTH * (at - from) / (to - from);
    let label = in_words(job);
    let _ = write!(
        html,
        "<svg viewBox=\"0 0 {WIDTH} 18\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\
         <use href=\"#grid\"/>",
        escaped(&label)
    );
    // What is short, and matters, on top of what is long.
    let mut stretches: Vec<&Stretch> = job.stretches.iter().collect();
    stretches.sort_by_key(|stretch| matches!(stretch.kind, Kind::Frozen | Kind::Lost | Kind::Uploading));
    for stretch in stretches {
        let width = (x(stretch.to) - x(stretch.from)).max(NARROWEST);
        let host = stretch.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
        let _ = write!(
            html,
            "<rect class=\"{kind}\" x=\"{:.1}\" y=\"0\" width=\"{width:.1}\" height=\"14\"><title>{kind} {}{}</title></rect>",
            x(stretch.from),
            duration(stretch.seconds()),
            escaped(&host),
            kind = stretch.kind.word(),
        );
    }
    for checkpoint in &job.checkpoints {
        let _ = write!(
            html,
            "<rect class=\"mark\" x=\"{:.1}\" y=\"14.5\" width=\"1.6\" height=\"3.5\"><title>checkpoint {}, {}</title></rect>",
            x(checkpoint.at),
            checkpoint.generation,
            bytes(checkpoint.bytes)
        );
    }
    html.push_str("</svg>");
}

/// `running 60 s in 2 parts on ep1, ep2; waiting 5 s`
fn in_words(job: &Job) -> String {
    let mut parts = Vec::new();
    for kind in Kind::ALL {
        let seconds = job.seconds(kind);
        if seconds > 0.0 {
            parts.push(format!("{} {}", kind.word(), duration(seconds)));
        }
    }
    format!("Job {}: {}; {} evictions, {}", job.name, parts.join(", "), job.evictions, job.standing)
}

fn clusters(html: &mut String, jobs: &[Job]) {
    let clusters = Sums::by_cluster(jobs);
    // A cluster of one job says nothing that its timeline does not.
    if clusters.len() == jobs.len() {
        return;
    }
    html.push_str(
        "<h2 id=\"clusters\">By cluster</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>cluster</th><th class=\"n\">jobs</th>\
         <th class=\"n\">done</th><th class=\"n\">evictions</th><th class=\"n\">cpu time counted</th><th class=\"n\">lost</th>\
         <th class=\"n\">saved</th><th class=\"n\">checkpoints</th><th class=\"n\">bytes</th><th class=\"n\">frozen</th>\
         <th class=\"n\">uploading</th></tr></thead>\n<tbody>\n",
    );
    let most = clusters.values().map(|sums| sums.counted + sums.lost).fold(0.0, f64::max);
    for (name, sums) in clusters {
        let numbers = [
            sums.jobs.to_string(),
            sums.done.to_string(),
            sums.evictions.to_string(),
            cpu_time(sums.counted, most),
            cpu_time(sums.lost, most),
            cpu_time(sums.saved, most),
            sums.checkpoints.to_string(),
            bytes(sums.bytes),
            duration(sums.frozen),
            duration(sums.uploading),
        ];
        let _ = write!(html, "<tr><td>{}</td>", escaped(&name));
        for number in numbers {
            let _ = write!(html, "<td class=\"n\">{number}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

/// Every stretch of every job, to be opened.
fn words(html: &mut String, jobs: &[Job]) {
    html.push_str("<h2 id=\"words\">Every job in words</h2>\n");
    for job in jobs.iter().take(LISTED) {
        let name = escaped(&job.name);
        let _ = write!(
            html,
            "<details><summary>{name}: {} stretches, {} checkpoints</summary>\n<div class=\"scroll\"><table>\n\
             <thead><tr><th>from (UTC)</th><th class=\"n\">for</th><th>what</th><th>where</th></tr></thead><tbody>\n",
            job.stretches.len(),
            job.checkpoints.len()
        );
        for stretch in &job.stretches {
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>",
                Time(stretch.from).full(),
                duration(stretch.seconds()),
                stretch.kind.word(),
                escaped(stretch.host.as_deref().unwrap_or_default())
            );
        }
        html.push_str("</tbody></table></div></details>\n");
    }
    if jobs.len() > LISTED {
        let _ =
            writeln!(html, "<p class=\"quiet\">The other {} jobs are in the timelines only.</p>", jobs.len() - LISTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_round_and_few() {
        assert_eq!(ticks(36_010.0, 37_000.0), [36_300.0, 36_600.0, 36_900.0]);
        for span in [1.0, 8.0, 90.0, 2400.0, 1e4, 2e5, 1e7, 1e9] {
            let found = ticks(5.0, 5.0 + span).len();
            assert!((1..=8).contains(&found), "{found} in {span} s");
        }
    }
}
