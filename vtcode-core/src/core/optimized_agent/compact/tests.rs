//! Views that are made smaller, on conversations of the shapes that sessions have.

use proptest::prelude::*;

use super::*;
use crate::config::limits::Limits;
use crate::llm::message::{Image, ToolCall};

fn user(text: &str) -> Message {
    Message::user(text)
}

fn says(text: &str) -> Message {
    Message::Assistant { parts: vec![Part::Text { text: text.to_owned() }] }
}

/// One step: words, so many calls, and their results of so many bytes each.
fn step(results: &[usize]) -> [Message; 2] {
    let call = |n: usize| ToolCall {
        id: format!("c{n}"),
        name: "read_file".to_owned(),
        arguments: "{}".to_owned(),
    };
    let calls = (0..results.len()).map(|n| Part::ToolCall(call(n)));
    let parts = [Part::Text { text: "I look.".to_owned() }].into_iter().chain(calls).collect();
    let answers = results.iter().enumerate().map(|(n, bytes)| ToolAnswer {
        call_id: format!("c{n}"),
        name: "read_file".to_owned(),
        text: "line of it\n".repeat(bytes / 11 + 1)[..*bytes].to_owned(),
        is_error: false,
    });
    [Message::Assistant { parts }, Message::Tool { results: answers.collect() }]
}

fn session(steps: &[&[usize]]) -> Vec<Message> {
    std::iter::once(user("go")).chain(steps.iter().flat_map(|results| step(results))).collect()
}

fn limits(window_tokens: u64) -> ContextLimits {
    ContextLimits { window_tokens: Some(window_tokens), ..Limits::full().agent.context }
}

/// The next request, at four bytes a token.
fn size(messages: &[Message]) -> Size {
    let bytes: usize = messages.iter().map(bytes).sum();
    Size { bytes, input_tokens: bytes as u64 / 4 }
}

#[test]
fn the_bounds_follow_from_the_window() {
    let bounds = |window, answer, at, to| {
        let limits = ContextLimits {
            window_tokens: window,
            answer_tokens: answer,
            compact_at_percent: at,
            compact_to_percent: to,
        };
        (limits.most_tokens(), limits.target_tokens())
    };
    assert_eq!(bounds(None, 1000, 80, 40), (None, None));
    assert_eq!(bounds(Some(200_000), 16_000, 80, 40), (Some(160_000), Some(80_000)));
    assert_eq!(bounds(Some(200_000), 16_000, 0, 40), (None, None));
    // An answer needs room, but never all of it.
    assert_eq!(bounds(Some(100_000), 40_000, 80, 40), (Some(60_000), Some(40_000)));
    assert_eq!(bounds(Some(8_000), 16_000, 80, 40), (Some(4_000), Some(3_000)));
    // What is left is always less than what was too much.
    assert_eq!(bounds(Some(100_000), 1000, 20, 90), (Some(20_000), Some(15_000)));
}

#[test]
fn what_fits_or_nobody_can_measure_is_left_alone() {
    let messages = session(&[&[40_000], &[40_000], &[40_000], &[10]]);
    assert_eq!(fit(&messages, size(&messages), &limits(1_000_000)), Fit::AsItIs);
    let unknown = Limits::full().agent.context;
    assert_eq!(fit(&messages, size(&messages), &unknown), Fit::AsItIs);
    assert_eq!(fit(&[], Size { bytes: 0, input_tokens: u64::MAX }, &limits(2000)), Fit::AsItIs);
}

#[test]
fn the_oldest_results_leave_first_and_the_newest_stay() {
    let messages = session(&[&[40_000, 10], &[40_000], &[40_000], &[40_000], &[40_000]]);
    // 50,000 tokens in a window of 60,000: 24,000 are to be left.
    let Fit::PutAside(which) = fit(&messages, size(&messages), &limits(60_000)) else { panic!() };
    assert_eq!(which, [2, 4, 6]);
    assert_eq!(all_but_the_newest(&messages), [2, 4, 6, 8]);

    let mut view = messages.clone();
    let count = put_aside(&mut view, &which, |text| Some(format!("/spool/{}", text.len()).into()));
    assert_eq!(count, 3);
    let Message::Tool { results } = &view[2] else { panic!() };
    assert_eq!(
        results[0].text,
        "[put aside to save room: 40000 bytes in 3637 lines; read_file /spool/40000 has all of \
         it, by ranges too]\nline of it\n[…]\nline"
    );
    assert_eq!(results[1].text.len(), 10, "a short one stays");
    assert_eq!(view[8..], messages[8..]);
    // What was put aside cannot be put aside again.
    assert_eq!(all_but_the_newest(&view), [8]);
}

#[test]
fn what_cannot_be_kept_is_to_be_called_again() {
    let mut view = session(&[&[5000], &[10], &[10]]);
    assert_eq!(put_aside(&mut view, &[2, 99, 0], |_| None), 1);
    let Message::Tool { results } = &view[2] else { panic!() };
    assert!(results[0].text.contains("; make the call again if you need it]"));
}

#[test]
fn where_results_are_not_what_fills_it_a_summary_is_made() {
    let mut messages = vec![user("go")];
    for _ in 0..50 {
        messages.extend([says(&"word ".repeat(400)), user("and on")]);
    }
    let Fit::SumUp { before } = fit(&messages, size(&messages), &limits(30_000)) else { panic!() };
    assert!(matches!(messages[before], Message::Assistant { .. }));
    let view = summed_up(&messages, before, Some(" It is so. "), &["a.rs".to_owned()]);
    assert!(size(&view).input_tokens < size(&messages).input_tokens / 2);
    let Message::User { text, .. } = &view[0] else { panic!() };
    assert!(text.contains("Files changed so far: a.rs\n\nWhat was found out and done:\nIt is so."));
    assert_eq!(view[1..], messages[before..]);
}

#[test]
fn a_summary_of_a_summary_still_holds_every_prompt() {
    let prompts = ["first =-=-= prompt =-=-= of all", "second\n\nwith a blank", "third"];
    let mut view = Vec::new();
    for prompt in prompts {
        view.push(user(prompt));
        view.extend(step(&[300]));
        view.extend(step(&[300]));
        let before = recent(&view).unwrap();
        view = summed_up(&view, before, Some("So far."), &[]);
    }
    let Message::User { text, .. } = &view[0] else { panic!() };
    for prompt in ["first = prompt = of all", "second\n\nwith a blank", "third"] {
        assert_eq!(text.matches(prompt).count(), 1, "{text}");
    }
    assert_eq!(text.matches(SUMMARY_START).count(), 1);
}

#[test]
fn an_image_weighs_little_and_leaves_words_in_a_summary() {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.resize(1 << 20, 0);
    let image = Image::new(png).unwrap();
    let shown = Message::User { text: "look".to_owned(), images: vec![image.clone(), image] };
    assert_eq!(bytes(&shown), 4 + 2 * 6400);
    let messages = [vec![shown], step(&[300]).to_vec(), vec![user("and?")], step(&[300]).to_vec()];
    let messages = messages.concat();
    let view = summed_up(&messages, 3, Some("A red button."), &[]);
    assert!(view[0].images().is_empty());
    let Message::User { text, .. } = &view[0] else { panic!() };
    assert!(text.contains("look\n[images stood here and left to save room"), "{text}");
    // What is summed up once more does not tell of them twice.
    let view = summed_up(&[&view[..], &step(&[300])].concat(), 2, Some("Red."), &[]);
    let Message::User { text, .. } = &view[0] else { panic!() };
    assert_eq!(text.matches("images stood here").count(), 1, "{text}");
}

#[test]
fn prompts_of_any_length_leave_room() {
    let long: Vec<Message> = (0..100)
        .flat_map(|n| [user(&format!("{n} {}", "wörd ".repeat(2000))), says("yes")])
        .collect();
    let view = summed_up(&long, 198, None, &[]);
    assert!(bytes(&view[0]) < 2 * PROMPTS_BYTES, "{}", bytes(&view[0]));
    let Message::User { text, .. } = &view[0] else { panic!() };
    assert!(text.contains("98 wörd") && text.contains("[… older ones left out]"));
    assert!(text.contains("No summary could be made. 0 tool calls"));
}

#[test]
fn nothing_is_summed_up_for_nothing() {
    assert_eq!(recent(&[]), None);
    assert_eq!(recent(&[user("go")]), None);
    assert_eq!(recent(&session(&[&[100_000]])), None, "all of it is recent");
    // One message fills it all, and it is the newest: there is nothing to be done.
    let messages = session(&[&[400_000]]);
    assert_eq!(fit(&messages, size(&messages), &limits(60_000)), Fit::AsItIs);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a session is shaped, every result of a view stands behind its call, and a view that
    /// was made smaller is smaller.
    #[test]
    fn a_view_stays_a_conversation(
        steps in prop::collection::vec(prop::collection::vec(0usize..20_000, 0..4), 1..30),
        window in 2_000u64..200_000,
    ) {
        let mut messages = vec![user("go")];
        for results in &steps {
            let [said, answers] = step(results);
            messages.push(said);
            if !results.is_empty() {
                messages.push(answers);
            }
        }
        let view = match fit(&messages, size(&messages), &limits(window)) {
            Fit::AsItIs => messages.clone(),
            Fit::PutAside(which) => {
                let mut view = messages.clone();
                prop_assert!(put_aside(&mut view, &which, |_| None) > 0);
                prop_assert!(size(&view).bytes < size(&messages).bytes);
                view
            }
            Fit::SumUp { before } => summed_up(&messages, before, Some("short"), &[]),
        };
        let begins = matches!(view[0], Message::User { .. });
        prop_assert!(begins);
        for pair in view.windows(2) {
            if let Message::Tool { results } = &pair[1] {
                let Message::Assistant { parts } = &pair[0] else { panic!("no call") };
                prop_assert_eq!(tool_calls(parts).count(), results.len());
            }
        }
    }
}
