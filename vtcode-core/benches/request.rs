//! What it takes to get the 200th request of a session ready for the socket, with 800 kB of history
//! on every wire: appending what is new and sharing the rest, against rendering, joining and
//! hashing all of it again, in turns. Asserts no time: a figure is read.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::conversation::Conversation;
use vtcode_core::llm::message::{Message, Part, Setup, ToolAnswer, ToolCall};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::llm::provider;

const ROUNDS: usize = 300;
const REQUESTS: usize = 200;
const HISTORY_BYTES: usize = 800_000;

/// Returns what one turn adds: a call, and what the tool said.
fn turn(number: usize) -> [Message; 2] {
    let id = format!("call_{number}");
    let call = ToolCall {
        id: id.clone(),
        name: "read_file".to_owned(),
        arguments: format!("{{\"path\":\"src/module_{number}.rs\"}}"),
    };
    let line = "    let value = map.get(\"key\").expect(\"it was just put there\");\n";
    let text = line.repeat(HISTORY_BYTES / REQUESTS / line.len());
    let said = Part::Text { text: "I look at the next file.".to_owned() };
    let answer = ToolAnswer { call_id: id, name: call.name.clone(), text, is_error: false };
    [
        Message::Assistant { parts: vec![said, Part::ToolCall(call)] },
        Message::Tool { results: vec![answer] },
    ]
}

fn quantile(all: &mut [Duration], percent: usize) -> f64 {
    all.sort_unstable();
    all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

fn main() {
    for wire in Wire::ALL {
        let provider = provider::for_wire(wire);
        let endpoint = Endpoint::new(wire, "http://127.0.0.1:1", "m");
        let client = OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client)
            .expect("the URL is one");
        let tools: std::sync::Arc<[String]> = ["read_file".to_owned()].into();
        let head = provider.head(&Setup {
            model: "m".to_owned(),
            system: "You work on code.".repeat(100),
            tools: Vec::new(),
            max_output_tokens: 1000,
            session_id: "s".to_owned(),
            ..Setup::default()
        });
        let mut messages: Vec<_> = (1..REQUESTS).flat_map(turn).collect();
        let mut before = Conversation::new(head.clone());
        for message in &messages {
            before.push(&provider.segment(message));
        }
        let last = turn(REQUESTS);
        messages.extend(last.clone());

        let (mut shared, mut again) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let mut conversation = before.clone();
            let began = Instant::now();
            for message in &last {
                conversation.push(&provider.segment(message));
            }
            let body = provider.frame(&conversation);
            bytes = body.len();
            black_box(body.key());
            let stream = black_box(client.send(body, &tools));
            shared.push(began.elapsed());
            drop(stream);

            let began = Instant::now();
            let mut conversation = Conversation::new(head.clone());
            for message in &messages {
                conversation.push(&provider.segment(message));
            }
            let body = provider.frame(&conversation).to_vec().expect("it lies in memory");
            let stream = black_box(client.send(body, &tools));
            again.push(began.elapsed());
            drop(stream);
        }
        println!("{wire}: request {REQUESTS}, {bytes} bytes, {ROUNDS} times, µs");
        for (name, all) in [("shared", &mut shared), ("rendered again", &mut again)] {
            let (half, most) = (quantile(all, 50), quantile(all, 95));
            println!("  {name:<16} median {half:8.1}, p95 {most:8.1}");
        }
    }
}
