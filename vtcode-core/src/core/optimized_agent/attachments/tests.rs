use super::*;
use crate::config::limits::Limits;

fn attachments() -> Attachments {
    let mut limits = Limits::full().agent;
    (limits.attached_tokens, limits.second_tokens) = (3000, 20_000);
    Attachments::after(&[], &limits)
}

fn answer(calls: &[(&str, &str)]) -> Message {
    let part = |(nth, (name, arguments)): (usize, &(&str, &str))| {
        let (id, name) = (format!("c{nth}"), (*name).to_owned());
        Part::ToolCall(ToolCall { id, name, arguments: (*arguments).to_owned() })
    };
    Message::Assistant { parts: calls.iter().enumerate().map(part).collect() }
}

fn result(name: &str, text: &str) -> Message {
    let (call_id, name, text) = ("c0".to_owned(), name.to_owned(), text.to_owned());
    Message::Tool { results: vec![ToolAnswer { call_id, name, text, is_error: false }] }
}

fn wishes(attachments: &mut Attachments, bytes: u64) -> Vec<Wish> {
    let sized = attachments.candidates(1000).into_iter().map(|c| (c, Some(bytes))).collect();
    attachments.wishes(sized, 1000)
}

fn wished(attachments: &mut Attachments) -> Vec<String> {
    wishes(attachments, 2000).into_iter().map(|wish| wish.path).collect()
}

#[test]
fn a_search_makes_a_wish_with_the_lines_round_its_match() {
    let mut attachments = attachments();
    attachments.take(&answer(&[("grep_file", r#"{"pattern":"x"}"#)]));
    attachments.take(&result("grep_file", "src/a.rs\n200:x\n\n(1 match in 1 file)\n"));
    let large = wishes(&mut attachments, 1_000_000);
    assert_eq!(large[0].path, "src/a.rs");
    assert_eq!(large[0].span, Span::Lines { first: 170, last: 289 });
    assert_eq!(wishes(&mut attachments, 2000)[0].span, Span::Whole);
    assert_eq!(wishes(&mut attachments, 0), [], "nothing in it");
}

#[test]
fn what_this_step_reads_and_what_was_read_whole_is_no_wish() {
    let mut attachments = attachments();
    attachments.take(&answer(&[("grep_file", "{}"), ("read_file", r#"{"path":"src/a.rs"}"#)]));
    attachments.take(&result("grep_file", "src/a.rs\n1:x\nsrc/b.rs\n1:x\n"));
    assert_eq!(wished(&mut attachments), ["src/b.rs"]);
    attachments.take(&answer(&[("grep_file", "{}")]));
    attachments.take(&result("grep_file", "src/a.rs\n1:x\n"));
    assert!(!wished(&mut attachments).contains(&"src/a.rs".to_owned()));
    attachments.take(&answer(&[("edit_file", r#"{"path":"src/a.rs"}"#)]));
    attachments.take(&result("edit_file", "edited src/a.rs\n"));
    attachments.take(&answer(&[("grep_file", "{}")]));
    attachments.take(&result("grep_file", "src/a.rs\n1:x\n"));
    assert!(wished(&mut attachments).contains(&"src/a.rs".to_owned()), "it changed since");
}

#[test]
fn a_resumed_conversation_knows_what_is_attached() {
    let wish = Wish { path: "src/a.rs".into(), span: Span::Whole, probability: 0.5 };
    let text = format!("src/a.rs\n1:x\nsrc/b.rs\n1:x\n{}", block(&wish, "1\tx\n"));
    let messages = [answer(&[("grep_file", "{}")]), result("grep_file", &text)];
    let mut limits = Limits::full().agent;
    (limits.attached_tokens, limits.second_tokens) = (3000, 20_000);
    assert_eq!(wished(&mut Attachments::after(&messages, &limits)), ["src/b.rs"]);
}

#[test]
fn a_name_counts_only_as_a_word_of_its_own() {
    assert!(names("fixed in `a.rs`.", "src/a.rs"));
    assert!(names(r#"{"path":"src/a.rs"}"#, "src/a.rs"));
    assert!(!names("fixed in data.rs", "src/a.rs"));
    assert!(!names("fixed in a.rson", "src/a.rs"));
}

#[test]
fn a_patch_names_what_it_changes() {
    let patch = "*** Begin Patch\n*** Update File: a.rs\n@@\n*** Add File: b.rs\n*** End Patch";
    let arguments = serde_json::json!({ "patch": patch }).to_string();
    let call = ToolCall { id: "c".into(), name: "apply_patch".into(), arguments };
    assert_eq!(edits(&call), ["a.rs", "b.rs"]);
}

#[test]
fn what_cannot_be_read_is_not_wished_for_again() {
    let mut attachments = attachments();
    attachments.take(&answer(&[("grep_file", "{}")]));
    attachments.take(&result("grep_file", "src/a.rs\n1:x\n"));
    let sized = attachments.candidates(1000).into_iter().map(|c| (c, None)).collect();
    assert_eq!(attachments.wishes(sized, 1000), []);
    assert_eq!(attachments.candidates(1000), []);
}
