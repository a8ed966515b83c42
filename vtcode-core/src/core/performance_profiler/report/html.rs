//! The page: a report comes in, HTML with inline SVG comes out. Everything that somebody else wrote
//! goes through [`Text`], which leaves no character that could begin markup. The page has no script
//! and loads nothing, and says so to the browser.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::SessionReport;
use crate::core::performance_profiler::turns::{Stage, TurnProfile, Waited};
use crate::core::performance_profiler::{Fallbacks, show};
use crate::llm::message::Outcome;

/// Turns that are drawn one by one, the newest ones; a page of thousands opens in no browser.
const DRAWN: usize = 200;
/// Of these, the slowest are open from the start.
const OPEN: usize = 3;
/// Calls of one turn that get a line.
const CALLS: usize = 40;
/// Lines of the ledger that are shown, the newest ones.
const LINES: usize = 100;

/// Somebody's words, as text of the page or the value of an attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(' ')?,
                // What turns the direction of text around could make a line say something else.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &SessionReport) -> String {
    let title = report.prompts.first().map_or("a session", String::as_str);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{} · VT Code profile</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        Text(title)
    );
    header(&mut page, report);
    whole(&mut page, report);
    turns(&mut page, report);
    stages(&mut page, report);
    tools(&mut page, report);
    ledger(&mut page, report);
    attached(&mut page, report);
    fallbacks(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn header(page: &mut String, report: &SessionReport) {
    let first = report.prompts.first().map_or("a session", String::as_str);
    let _ = write!(page, "<header>\n<h1>{}</h1>\n<p class=\"facts\">", Text(first));
    let turns = report.profile.turns.count();
    let usage = report.ledger.usage;
    let facts = [
        report.model.clone(),
        count(turns, "turn"),
        count(u64::from(report.profile.calls), "tool call"),
        format!(
            "{} tokens in ({} cached), {} out",
            usage.input_tokens, usage.cached_input_tokens, usage.output_tokens
        ),
        show(report.profile.total()),
    ];
    for fact in facts.iter().filter(|fact| !fact.is_empty()) {
        let _ = write!(page, "<span>{}</span> ", Text(fact));
    }
    let _ = writeln!(page, "<span class=\"id\">{}</span></p>", Text(&report.session_id));
    for prompt in report.prompts.iter().skip(1).take(20) {
        let _ = writeln!(page, "<p class=\"prompt\">then: {}</p>", Text(prompt));
    }
    page.push_str("</header>\n");
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Where all of the time went, as one bar with its legend.
fn whole(page: &mut String, report: &SessionReport) {
    let profile = &report.profile;
    let total = profile.total();
    let parts = [
        ("wait", "model, until it answers", profile.first_byte),
        ("stream", "model, while it answers", profile.streaming),
        ("tool", "tools, with no answer due", profile.tools),
        ("own", "vtcode itself", profile.own),
    ];
    page.push_str("<section>\n<h2>Where the time went</h2>\n");
    page.push_str("<svg class=\"bar\" width=\"100%\" height=\"28\" role=\"img\" aria-label=\"");
    for (_, name, took) in parts {
        let _ = write!(page, "{name} {}; ", show(took));
    }
    page.push_str("\">\n");
    let mut at = 0.0;
    for (class, name, took) in parts {
        let share = percent(took, total);
        if share > 0.0 {
            rect(page, class, at, share, 0, 28, &format!("{name}: {} ({share:.1} %)", show(took)));
        }
        at += share;
    }
    page.push_str("</svg>\n<ul class=\"legend\">\n");
    for (class, name, took) in parts {
        let share = percent(took, total);
        let took = show(took);
        let _ = writeln!(
            page,
            "<li><i class=\"{class}\"></i><span>{name}</span> <b>{took}</b> <small>{share:.1} %</small></li>"
        );
    }
    page.push_str("</ul>\n</section>\n");
}

fn percent(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { 100.0 * part.div_duration_f64(whole).clamp(0.0, 1.0) }
}

/// Draws a bar; places are shares of the width, so that text is never stretched.
fn rect(page: &mut String, class: &str, x: f64, width: f64, y: usize, height: usize, title: &str) {
    // What took no visible time is still there.
    let width = width.max(0.15);
    let x = x.min(100.0 - width);
    let _ = writeln!(
        page,
        "<rect class=\"{class}\" x=\"{x:.3}%\" y=\"{y}\" width=\"{width:.3}%\" height=\"{height}\">\
         <title>{}</title></rect>",
        Text(title)
    );
}

fn turns(page: &mut String, report: &SessionReport) {
    let all: Vec<&TurnProfile> = report.profile.turns.iter().collect();
    if all.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Turn by turn</h2>\n");
    let drawn = &all[all.len().saturating_sub(DRAWN)..];
    let left_out = report.profile.turns.count() - drawn.len() as u64;
    if left_out > 0 {
        let left_out = count(left_out, "earlier turn");
        let _ = writeln!(page, "<p class=\"note\">{left_out} not drawn; the sums count them.</p>");
    }
    page.push_str(
        "<p class=\"note\">Each turn has its own scale. The thin line below a turn is what its end \
         waited for.</p>\n",
    );
    let longest = drawn.iter().map(|turn| turn.total()).max().unwrap_or_default();
    let mut slowest: Vec<_> = drawn.iter().map(|turn| (turn.total(), turn.number)).collect();
    slowest.sort_unstable();
    let open: Vec<u64> = slowest.iter().rev().take(OPEN).map(|(_, number)| *number).collect();
    for turn in drawn {
        one_turn(page, report, turn, longest, open.contains(&turn.number));
    }
    page.push_str("</section>\n");
}

/// The height of a lane, and of its bar.
const LANE: usize = 34;
const BAR: usize = 14;

fn one_turn(
    page: &mut String,
    report: &SessionReport,
    turn: &TurnProfile,
    longest: Duration,
    open: bool,
) {
    let path = turn.critical_path();
    let _ = writeln!(
        page,
        "<details{}>\n<summary><b>turn {}</b> <span class=\"took\">{}</span> \
         <span class=\"share\"><i style=\"width:{:.2}%\"></i></span> \
         <span class=\"path\">{}</span></summary>",
        if open { " open" } else { "" },
        turn.number,
        show(turn.total()),
        percent(turn.total(), longest),
        Text(&path.to_string())
    );
    let at = |moment: Duration| percent(moment.saturating_sub(turn.began), turn.total());
    let span = |from: Duration, until: Duration| (at(from), (at(until) - at(from)).max(0.0));
    let calls = &turn.calls[..turn.calls.len().min(CALLS)];
    let height = LANE * (turn.attempts.len() + calls.len()) + 14;
    let _ = writeln!(
        page,
        "<svg width=\"100%\" height=\"{height}\" role=\"img\" aria-label=\"the attempts and calls of turn {}\">",
        turn.number
    );
    let mut lane = 0;
    let label = |page: &mut String, lane: usize, text: &str, took: Duration, failed: bool| {
        let class = if failed { " class=\"failed\"" } else { "" };
        let y = lane * LANE + 11;
        let _ = writeln!(
            page,
            "<text x=\"0\" y=\"{y}\"{class}>{}</text><text x=\"100%\" y=\"{y}\" class=\"end\">{}</text>",
            Text(text),
            show(took)
        );
    };
    for (number, attempt) in turn.attempts.iter().enumerate() {
        let ended = attempt.ended.unwrap_or(turn.ended);
        let first_byte = attempt.first_byte.unwrap_or(ended);
        let name = if turn.attempts.len() > 1 {
            format!("model, attempt {}", number + 1)
        } else {
            "model".to_owned()
        };
        label(page, lane, &name, ended.saturating_sub(attempt.sent), false);
        let y = lane * LANE + 16;
        let wait = first_byte.saturating_sub(attempt.sent);
        let (x, width) = span(attempt.sent, first_byte);
        rect(page, "wait", x, width, y, BAR, &format!("until it answers: {}", show(wait)));
        if ended > first_byte {
            let (x, width) = span(first_byte, ended);
            let took = show(ended.saturating_sub(first_byte));
            rect(page, "stream", x, width, y, BAR, &format!("while it answers: {took}"));
        }
        lane += 1;
    }
    for call in calls {
        let finished = call.finished.unwrap_or(turn.ended);
        let arguments = report.arguments(&call.call_id);
        let took = finished.saturating_sub(call.began);
        let shown: String = arguments.chars().take(48).collect();
        label(page, lane, &format!("{} {shown}", call.tool), took, call.failed);
        let y = lane * LANE + 16;
        if call.began > call.submitted {
            let (x, width) = span(call.submitted, call.began);
            let waited = show(call.began.saturating_sub(call.submitted));
            rect(page, "queue", x, width, y + 5, BAR - 10, &format!("waited: {waited}"));
        }
        let (x, width) = span(call.began, finished);
        let class = if call.failed { "tool bad" } else { "tool" };
        let title = format!("{} {arguments}: {}", call.tool, show(took));
        rect(page, class, x, width, y, BAR, &title);
        lane += 1;
    }
    for segment in &path.segments {
        let (class, name) = match &segment.on {
            Waited::Model => ("stream", "the model"),
            Waited::Tool(tool) => ("tool", tool.as_str()),
            Waited::Queue => ("queue", "leave or a slot"),
            Waited::Us => ("own", "vtcode"),
        };
        let (x, width) = span(segment.from, segment.until);
        let title = format!("waited for {name}: {}", show(segment.took()));
        rect(page, class, x, width, height - 8, 5, &title);
    }
    page.push_str("</svg>\n");
    if turn.calls.len() > calls.len() {
        let more = count((turn.calls.len() - calls.len()) as u64, "further call");
        let _ = writeln!(page, "<p class=\"note\">{more} not drawn.</p>");
    }
    page.push_str("</details>\n");
}

fn table_head(page: &mut String, title: &str, columns: &[&str]) {
    let _ =
        writeln!(page, "<section>\n<h2>{title}</h2>\n<div class=\"scroll\"><table>\n<thead><tr>");
    for column in columns {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}

fn row(page: &mut String, cells: &[String]) {
    page.push_str("<tr>");
    for cell in cells {
        let _ = write!(page, "<td>{}</td>", Text(cell));
    }
    page.push_str("</tr>\n");
}

fn table_end(page: &mut String) {
    page.push_str("</tbody>\n</table></div>\n</section>\n");
}

fn stages(page: &mut String, report: &SessionReport) {
    table_head(page, "Stages", &["stage", "n", "p50", "p95", "p99", "longest"]);
    for stage in Stage::ALL {
        let found = report.profile.turns.stage(stage);
        if found.count > 0 {
            let times = [found.p50, found.p95, found.p99, found.max].map(show);
            let [p50, p95, p99, max] = times;
            row(page, &[stage.name().to_owned(), found.count.to_string(), p50, p95, p99, max]);
        }
    }
    table_end(page);
}

fn tools(page: &mut String, report: &SessionReport) {
    let counts = &report.profile.counts;
    if counts.tools.is_empty() {
        return;
    }
    table_head(page, "Tools", &["tool", "ran", "failed", "p50", "p95", "p99"]);
    for tool in &counts.tools {
        let [p50, p95, p99] = [tool.p50, tool.p95, tool.p99].map(show);
        let (ran, failed) = (tool.ran.to_string(), tool.failed.to_string());
        row(page, &[tool.name.clone(), ran, failed, p50, p95, p99]);
    }
    table_end(page);
    let sizes = (1..).zip(&counts.batch_sizes).filter(|(_, n)| **n > 0);
    let batches: Vec<String> = sizes.map(|(size, n)| format!("{n} of {size}")).collect();
    let batches = if batches.is_empty() { "none".to_owned() } else { batches.join(", ") };
    let facts = [
        ("results served from the cache", counts.cache_hits.to_string()),
        ("taken from an identical call", counts.shared.to_string()),
        ("kept results found stale", counts.stale_rejected.to_string()),
        ("refused, too many waiting", counts.overloaded.to_string()),
        ("batches", batches),
    ];
    figures(page, &facts);
}

fn figures(page: &mut String, facts: &[(&str, String)]) {
    page.push_str("<dl class=\"figures\">\n");
    for (name, figure) in facts {
        let _ = writeln!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", Text(figure));
    }
    page.push_str("</dl>\n");
}

fn ledger(page: &mut String, report: &SessionReport) {
    let ledger = &report.ledger;
    let columns = [
        "ended at",
        "attempt",
        "model",
        "how",
        "in",
        "cached",
        "out",
        "cost",
        "first byte",
        "a token",
        "took",
    ];
    table_head(page, "Ledger of requests", &columns);
    let shown = &ledger.attempts[ledger.attempts.len().saturating_sub(LINES)..];
    for (at, attempt) in shown {
        let usage = attempt.usage;
        let how = match attempt.outcome {
            Outcome::Done => "done".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        row(
            page,
            &[
                show(*at),
                attempt.attempt.to_string(),
                attempt.model.clone(),
                how,
                usage.input_tokens.to_string(),
                usage.cached_input_tokens.to_string(),
                usage.output_tokens.to_string(),
                attempt.cost_usd.map_or_else(|| "–".to_owned(), |usd| format!("${usd:.4}")),
                attempt.first_byte.map_or_else(|| "–".to_owned(), show),
                attempt.per_token().map_or_else(|| "–".to_owned(), show),
                show(attempt.took),
            ],
        );
    }
    table_end(page);
    let reread: u64 = ledger.misses.iter().map(|miss| miss.tokens()).sum();
    let hit = match ledger.usage.input_tokens {
        0 => "–".to_owned(),
        all => format!("{:.1} %", 100.0 * ledger.usage.cached_input_tokens as f64 / all as f64),
    };
    let asked = &report.profile.asked.counts;
    let facts = [
        ("attempts, of these lost", format!("{}, {}", ledger.count, ledger.lost)),
        ("cost of all attempts whose price is known", format!("${:.4}", ledger.cost_usd)),
        ("input tokens out of the provider's cache", hit),
        ("tokens read anew against expectation", reread.to_string()),
        ("sent", format!("{:.1} kB", ledger.sent_bytes as f64 / 1e3)),
        ("answers that were kept and given again", asked.kept.to_string()),
        ("answers shared with an identical request", asked.shared.to_string()),
    ];
    figures(page, &facts);
}

/// What was shown to the model before it asked for it; nothing when nothing was.
fn attached(page: &mut String, report: &SessionReport) {
    let ledger = &report.profile.attached;
    if ledger.files == 0 {
        return;
    }
    page.push_str("<section>\n<h2>Ledger of attached files</h2>\n");
    let open = ledger.files.saturating_sub(ledger.used + ledger.asked);
    let facts = [
        ("attached before they were asked for", count(u64::from(ledger.files), "file")),
        ("used, and not asked for", ledger.used.to_string()),
        ("asked for all the same", ledger.asked.to_string()),
        ("not used, or not yet", open.to_string()),
        ("tokens, of these wasted", format!("{}, {}", ledger.tokens, ledger.wasted_tokens)),
        ("time saved, about", show(ledger.saved)),
    ];
    figures(page, &facts);
    if ledger.stopped {
        page.push_str("<p class=\"note\">It stopped, as too few were of use.</p>\n");
    }
    page.push_str("</section>\n");
}

/// What the session went on without; nothing when all went well.
fn fallbacks(page: &mut String, report: &SessionReport) {
    let found = report.profile.fallbacks();
    if found == Fallbacks::default() {
        return;
    }
    page.push_str("<section>\n<h2>What it went on without</h2>\n");
    let facts = [
        ("answers on the disk, times", found.answers_on_disk.to_string()),
        ("rate limits shared with other runs, requests", found.shared_limits.to_string()),
        ("tools that were not taken", found.tools.to_string()),
        ("warnings", found.warnings.to_string()),
    ];
    figures(page, &facts);
    page.push_str("</section>\n");
}
