//! What a provider's answer says of its limits: headers in, numbers out. Knows the names that
//! OpenAI and those who follow it use (`x-ratelimit-*`), and Anthropic's (`anthropic-ratelimit-*`).
//! A header that makes no sense is as good as none.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

use super::{INPUT, KINDS, OUTPUT, REQUESTS};

/// What an answer said; an entry for each limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Told {
    /// Units that a minute allows.
    pub(super) limit: [Option<u64>; KINDS],
    /// Units that are left now.
    pub(super) remaining: [Option<u64>; KINDS],
    /// When a limit that is used up is there again.
    pub(in super::super) reset: Option<Duration>,
}

const NAMES: [(&str, usize); 6] = [
    ("x-ratelimit-X-requests", REQUESTS),
    ("x-ratelimit-X-tokens", INPUT),
    ("anthropic-ratelimit-requests-X", REQUESTS),
    ("anthropic-ratelimit-input-tokens-X", INPUT),
    ("anthropic-ratelimit-output-tokens-X", OUTPUT),
    ("anthropic-ratelimit-tokens-X", INPUT),
];

impl Told {
    /// Reads an answer's headers.
    pub(in super::super) fn read(headers: &HeaderMap, now: SystemTime) -> Self {
        let mut told = Self::default();
        for (name, kind) in NAMES {
            let Some((before, after)) = name.split_once('X') else { continue };
            let text = |what| {
                let is_it = |name: &str| {
                    name.strip_prefix(before).and_then(|name| name.strip_suffix(after))
                        == Some(what)
                };
                let (_, value) = headers.iter().find(|(name, _)| is_it(name.as_str()))?;
                value.to_str().ok().map(str::trim)
            };
            let number = |what| text(what)?.parse::<u64>().ok();
            let limit = number("limit").filter(|limit| *limit > 0);
            told.limit[kind] = told.limit[kind].or(limit);
            let remaining = number("remaining");
            told.remaining[kind] = told.remaining[kind].or(remaining);
            if remaining == Some(0) {
                // Of several that are used up, the last to come back counts.
                told.reset = told.reset.max(text("reset").and_then(|text| wait(text, now)));
            }
        }
        told
    }
}

/// Reads a wait: `6m0s`, `1.5s`, `20ms`, seconds, or a time such as `2026-01-31T10:00:00Z`.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    if let Some(at) = time(text) {
        return Some(at.duration_since(now).unwrap_or_default());
    }
    let (mut left, mut total) = (text, Duration::ZERO);
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = left.split_at(digits);
        let letters = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, rest) = unit.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        left = rest;
    }
    (!text.is_empty()).then_some(total)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Reads an RFC 3339 time in UTC, whose date an HTTP date's reader understands, too.
fn time(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.split_once(['T', ' '])?;
    let clock = clock.strip_suffix('Z').or_else(|| clock.strip_suffix("+00:00"))?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut numbers = date.splitn(3, '-');
    let (year, month, day) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
    // It checks the weekday, too, which is not told.
    let mut weekdays = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].into_iter();
    let seconds = weekdays.find_map(|weekday| {
        httpdate::parse_http_date(&format!("{weekday}, {day} {month} {year} {clock} GMT")).ok()
    })?;
    let fraction = format!("0.{fraction}").parse().ok()?;
    seconds.checked_add(Duration::try_from_secs_f64(fraction).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Told {
        let headers = headers.iter().map(|(name, value)| {
            (reqwest::header::HeaderName::from_static(name), value.parse().unwrap())
        });
        Told::read(&headers.collect(), at(0))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn both_families_of_names_are_known() {
        let told = read(&[
            ("x-ratelimit-limit-requests", "500"),
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-limit-tokens", "30000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1m1.5s"),
        ]);
        assert_eq!(told.limit, [Some(500), Some(30_000), None]);
        assert_eq!(told.remaining, [Some(499), Some(0), None]);
        assert_eq!(told.reset, Some(Duration::from_millis(61_500)));

        let told = read(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2023-11-14T22:13:40Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2023-11-14T22:13:30.5Z"),
            ("anthropic-ratelimit-output-tokens-limit", "8000"),
        ]);
        assert_eq!(told.limit, [Some(50), None, Some(8000)]);
        assert_eq!(told.reset, Some(Duration::from_secs(20)));
    }

    #[test]
    fn what_makes_no_sense_is_as_good_as_nothing() {
        for odd in ["", "-1", "soon", "1e400", "\u{7f}", "0", "99999999999999999999999"] {
            let told =
                read(&[("x-ratelimit-limit-requests", if odd == "\u{7f}" { "x" } else { odd })]);
            assert_eq!(told, Told::default(), "{odd}");
        }
        for odd in ["", "1x", "m", "-5s", "2023-13-01T00:00:00Z", "2023-01-01", "NaN", "1h1"] {
            assert_eq!(wait(odd, at(0)), None, "{odd}");
        }
        assert_eq!(wait("2020-01-01T00:00:00Z", at(0)), Some(Duration::ZERO));
    }
}
