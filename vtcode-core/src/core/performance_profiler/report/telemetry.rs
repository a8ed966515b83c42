//! A session's figures for other people's dashboards, by the names of OpenTelemetry's conventions
//! for generative AI: a report comes in, Prometheus' text and OTLP's JSON come out, and what is for
//! a collector is sent to it over plain HTTP. Behind the feature `telemetry`, and own code, because
//! the usual crates bring ninety others with them. Sends no prompt, no answer and no argument.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::SessionReport;
use crate::llm::message::{Attempt, Outcome};

/// The conventions' bounds for durations, in seconds.
const SECONDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// And for tokens.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of its answer.
const ANSWER_BYTES: u64 = 64 * 1024;

type Attributes = Vec<(&'static str, String)>;

/// One histogram, a row for each set of attributes.
struct Metric {
    name: &'static str,
    unit: &'static str,
    bounds: &'static [f64],
    rows: Vec<(Attributes, Vec<f64>)>,
}

impl Metric {
    fn new(name: &'static str, unit: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, unit, bounds, rows: Vec::new() }
    }

    fn add(&mut self, attributes: Attributes, value: f64) {
        match self.rows.iter_mut().find(|(found, _)| *found == attributes) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((attributes, vec![value])),
        }
    }

    /// How many values lie in each bucket; the last one holds what is beyond every bound.
    fn buckets(&self, values: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; self.bounds.len() + 1];
        for value in values {
            counts[self.bounds.partition_point(|bound| bound < value)] += 1;
        }
        counts
    }
}

fn request(report: &SessionReport, attempt: &Attempt) -> Attributes {
    let (provider, model) = report.model.split_once(' ').unwrap_or(("", &report.model));
    let mut attributes = vec![
        ("gen_ai.operation.name", "chat".to_owned()),
        ("gen_ai.provider.name", provider.to_owned()),
        ("gen_ai.request.model", model.to_owned()),
    ];
    if attempt.outcome != Outcome::Done {
        attributes.push(("error.type", format!("{:?}", attempt.outcome).to_lowercase()));
    }
    attributes
}

fn metrics(report: &SessionReport) -> [Metric; 4] {
    let mut duration = Metric::new("gen_ai.client.operation.duration", "s", &SECONDS);
    let mut first = Metric::new("gen_ai.client.operation.time_to_first_chunk", "s", &SECONDS);
    let mut tokens = Metric::new("gen_ai.client.token.usage", "{token}", &TOKENS);
    let mut tools = Metric::new("gen_ai.execute_tool.duration", "s", &SECONDS);
    for (_, attempt) in &report.ledger.attempts {
        let attributes = request(report, attempt);
        duration.add(attributes.clone(), attempt.took.as_secs_f64());
        if let Some(took) = attempt.first_byte {
            first.add(attributes.clone(), took.as_secs_f64());
        }
        let used = [("input", attempt.usage.input_tokens), ("output", attempt.usage.output_tokens)];
        for (kind, count) in used.into_iter().filter(|(_, count)| *count > 0) {
            let mut attributes = attributes.clone();
            attributes.push(("gen_ai.token.type", kind.to_owned()));
            tokens.add(attributes, count as f64);
        }
    }
    for call in report.profile.turns.iter().flat_map(|turn| &turn.calls) {
        let Some(finished) = call.finished else { continue };
        let mut attributes = vec![
            ("gen_ai.operation.name", "execute_tool".to_owned()),
            ("gen_ai.tool.name", call.tool.clone()),
        ];
        if call.failed {
            attributes.push(("error.type", "tool".to_owned()));
        }
        tools.add(attributes, finished.saturating_sub(call.began).as_secs_f64());
    }
    [duration, first, tokens, tools]
}

/// Returns the metrics in Prometheus' text format.
pub(super) fn prometheus(report: &SessionReport) -> String {
    let mut text = String::new();
    for metric in metrics(report).iter().filter(|metric| !metric.rows.is_empty()) {
        let unit = if metric.unit == "s" { "_seconds" } else { "" };
        let name = format!("{}{unit}", metric.name.replace('.', "_"));
        let _ = writeln!(text, "# TYPE {name} histogram");
        for (attributes, values) in &metric.rows {
            let labels: Vec<String> =
                attributes.iter().map(|(name, value)| label(name, value)).collect();
            let labels = labels.join(",");
            let mut sum = 0;
            for (at, count) in metric.buckets(values).into_iter().enumerate() {
                sum += count;
                let bound = metric.bounds.get(at).map_or("+Inf".to_owned(), ToString::to_string);
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
            }
            let total: f64 = values.iter().sum();
            let _ = writeln!(text, "{name}_sum{{{labels}}} {total}");
            let _ = writeln!(text, "{name}_count{{{labels}}} {}", values.len());
        }
    }
    text
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{}=\"{value}\"", name.replace('.', "_"))
}

fn attributes(of: &[(&'static str, String)]) -> Value {
    of.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect()
}

fn resource() -> Value {
    let service = [
        ("service.name", "vtcode".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    json!({ "attributes": attributes(&service) })
}

/// Nanoseconds since 1970, as text: JSON's numbers do not hold them.
fn nanos(report: &SessionReport, at: Duration) -> String {
    (u128::from(report.started_at_ms) * 1_000_000 + at.as_nanos()).to_string()
}

/// Returns the body of a request to `/v1/metrics`.
pub(super) fn otlp_metrics(report: &SessionReport) -> Value {
    let point = |metric: &Metric, (of, values): &(Attributes, Vec<f64>)| {
        let buckets: Vec<String> = metric.buckets(values).iter().map(u64::to_string).collect();
        json!({
            "attributes": attributes(of),
            "startTimeUnixNano": nanos(report, Duration::ZERO),
            "timeUnixNano": nanos(report, report.last),
            "count": values.len().to_string(),
            "sum": values.iter().sum::<f64>(),
            "bucketCounts": buckets,
            "explicitBounds": metric.bounds,
        })
    };
    let metric = |metric: &Metric| {
        let points: Vec<Value> = metric.rows.iter().map(|row| point(metric, row)).collect();
        // 2: cumulative since the session's start.
        json!({
            "name": metric.name, "unit": metric.unit,
            "histogram": {"aggregationTemporality": 2, "dataPoints": points},
        })
    };
    let metrics: Vec<Value> =
        metrics(report).iter().filter(|found| !found.rows.is_empty()).map(metric).collect();
    json!({"resourceMetrics": [{
        "resource": resource(),
        "scopeMetrics": [{"scope": {"name": "vtcode"}, "metrics": metrics}],
    }]})
}

/// Returns the body of a request to `/v1/traces`: the session, in it each request with its attempts
/// and each call of a tool.
pub(super) fn otlp_traces(report: &SessionReport) -> Value {
    let id = |what: &str, bytes: usize| {
        let name = format!("{} {what}", report.session_id);
        blake3::hash(name.as_bytes()).to_hex()[..2 * bytes].to_owned()
    };
    let trace = id("trace", 16);
    let span = |own: &str,
                parent: Option<&str>,
                name: String,
                kind: u8,
                from,
                until,
                of: Attributes,
                failed: bool| {
        json!({
            "traceId": trace, "spanId": id(own, 8),
            "parentSpanId": parent.map(|parent| id(parent, 8)).unwrap_or_default(),
            "name": name, "kind": kind,
            "startTimeUnixNano": nanos(report, from), "endTimeUnixNano": nanos(report, until),
            "attributes": attributes(&of),
            "status": {"code": if failed { 2 } else { 1 }},
        })
    };
    let (provider, model) = report.model.split_once(' ').unwrap_or(("", &report.model));
    let named = |operation: &str| {
        vec![
            ("gen_ai.operation.name", operation.to_owned()),
            ("gen_ai.provider.name", provider.to_owned()),
            ("gen_ai.request.model", model.to_owned()),
            ("gen_ai.conversation.id", report.session_id.clone()),
        ]
    };
    let (internal, client) = (1, 3);
    let agent = named("invoke_agent");
    let mut spans = vec![span(
        "session",
        None,
        "invoke_agent vtcode".to_owned(),
        internal,
        Duration::ZERO,
        report.last,
        agent,
        false,
    )];
    for turn in report.profile.turns.iter() {
        let own = format!("turn {}", turn.number);
        let answered = turn.answered().unwrap_or(turn.ended);
        let name = format!("chat {model}");
        spans.push(span(
            &own,
            Some("session"),
            name,
            client,
            turn.sent(),
            answered,
            named("chat"),
            false,
        ));
        for (number, attempt) in turn.attempts.iter().enumerate() {
            let until = attempt.ended.unwrap_or(turn.ended);
            let lost = number + 1 < turn.attempts.len();
            let name = format!("attempt {}", number + 1);
            let attempt_of = format!("{own} {name}");
            spans.push(span(
                &attempt_of,
                Some(&own),
                name,
                client,
                attempt.sent,
                until,
                named("chat"),
                lost,
            ));
        }
        for (number, call) in turn.calls.iter().enumerate() {
            let until = call.finished.unwrap_or(turn.ended).max(call.began);
            let of = vec![
                ("gen_ai.operation.name", "execute_tool".to_owned()),
                ("gen_ai.tool.name", call.tool.clone()),
                ("gen_ai.tool.call.id", call.call_id.clone()),
            ];
            let name = format!("execute_tool {}", call.tool);
            let call_of = format!("{own} call {number}");
            spans.push(span(
                &call_of,
                Some("session"),
                name,
                internal,
                call.began,
                until,
                of,
                call.failed,
            ));
        }
    }
    json!({"resourceSpans": [{
        "resource": resource(),
        "scopeSpans": [{"scope": {"name": "vtcode"}, "spans": spans}],
    }]})
}

/// Sends both to a collector, such as `http://127.0.0.1:4318`. Blocks.
pub(super) fn send(report: &SessionReport, base_url: &str) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let rest = base_url.strip_prefix("http://").ok_or_else(|| {
        wrong("a collector is reached by http:// here; let one nearby pass it on")
    })?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || !rest.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong("this is no address of a collector"));
    }
    let path = path.trim_end_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
    post(host, &format!("{prefix}/v1/metrics"), &otlp_metrics(report))?;
    post(host, &format!("{prefix}/v1/traces"), &otlp_traces(report))
}

fn post(host: &str, path: &str, body: &Value) -> io::Result<()> {
    let place = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = place.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    let line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default())
            .into_owned();
    let done = line.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
    if done { Ok(()) } else { Err(io::Error::other(format!("the collector answered `{line}`"))) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::tests::report;
    use super::*;

    /// Takes two requests and returns their paths and bodies.
    fn sink(listener: &TcpListener, answer: &str) -> Vec<(String, Value)> {
        let mut taken = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            let (head, length) = loop {
                let mut some = [0; 4096];
                let count = stream.read(&mut some).unwrap();
                assert!(count > 0, "the request ended early");
                bytes.extend_from_slice(&some[..count]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                break (head.to_owned(), length.unwrap().parse::<usize>().unwrap());
            };
            let mut body = bytes[head.len() + 4..].to_vec();
            let mut rest = vec![0; length - body.len()];
            stream.read_exact(&mut rest).unwrap();
            body.extend(rest);
            write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 2\r\n\r\n{{}}").unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            taken.push((path, serde_json::from_slice(&body).unwrap()));
            if !answer.starts_with('2') {
                break;
            }
        }
        taken
    }

    #[test]
    fn a_collector_gets_metrics_and_a_span_for_each_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let taken = std::thread::scope(|scope| {
            let sink = scope.spawn(|| sink(&listener, "200 OK"));
            send(&report(), &url).unwrap();
            sink.join().unwrap()
        });
        let paths: Vec<_> = taken.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/v1/metrics", "/v1/traces"]);

        let metrics = taken[0].1["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array();
        let metrics = metrics.unwrap();
        let names: Vec<_> = metrics.iter().map(|metric| metric["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "gen_ai.client.operation.duration",
                "gen_ai.client.operation.time_to_first_chunk",
                "gen_ai.client.token.usage",
                "gen_ai.execute_tool.duration"
            ]
        );
        for point in metrics.iter().flat_map(|m| m["histogram"]["dataPoints"].as_array().unwrap()) {
            let counts = point["bucketCounts"].as_array().unwrap();
            let sum: u64 = counts.iter().map(|n| n.as_str().unwrap().parse::<u64>().unwrap()).sum();
            assert_eq!(sum.to_string(), point["count"].as_str().unwrap());
            assert_eq!(counts.len(), point["explicitBounds"].as_array().unwrap().len() + 1);
        }

        let spans = taken[1].1["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let named = |start: &str| {
            let starts = |span: &&Value| span["name"].as_str().unwrap().starts_with(start);
            spans.iter().filter(starts).collect::<Vec<_>>()
        };
        assert_eq!((named("invoke_agent").len(), named("chat ").len()), (1, 4));
        assert_eq!((named("attempt ").len(), named("execute_tool ").len()), (6, 4));
        let mut ids: Vec<_> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
        let parents = named("attempt ");
        assert!(parents.iter().all(|span| ids.contains(&span["parentSpanId"].as_str().unwrap())));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), spans.len());
        let sent = taken[1].1.to_string() + &taken[0].1.to_string();
        assert!(!sent.contains("path"), "no argument leaves the machine");
    }

    #[test]
    fn a_collector_that_refuses_or_cannot_be_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let error = std::thread::scope(|scope| {
            let sink = scope.spawn(|| sink(&listener, "503 Busy"));
            let error = send(&report(), &url).unwrap_err();
            sink.join().unwrap();
            error
        });
        assert!(error.to_string().contains("503 Busy"), "{error}");
        for url in ["https://a.example", "ftp://a", "http://", "http://a b"] {
            assert!(send(&report(), url).is_err(), "{url}");
        }
    }

    #[test]
    fn prometheus_reads_every_line_whatever_a_tool_is_called() {
        let text = prometheus(&report());
        assert!(text.contains("# TYPE gen_ai_execute_tool_duration_seconds histogram"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.ends_with('}') && series.contains('{'), "{line}");
            let quotes = series.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(quotes.matches('"').count() % 2, 0, "{line}");
        }
        assert!(text.contains("gen_ai_client_operation_duration_seconds_count"));
    }
}
