//! Tool calls that a small model wrote as text, because its server knows no native ones.
//! Takes the text of an answer, gives the calls it holds: in `<tool_call>` tags, in fenced JSON,
//! or as the whole text. Never finds a tool that was not offered.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::arguments::is_object;
use super::super::text::Text;

/// Returns name and arguments of each call, in order.
pub(super) fn calls(text: &str, tools: &[String]) -> Vec<(String, String)> {
    // Thinking that the server did not take out may name calls that were only considered.
    let said = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]);
    let tagged = tagged(said);
    let blocks = if tagged.is_empty() { fenced(said) } else { tagged };
    let blocks = if blocks.is_empty() { vec![said] } else { blocks };
    blocks.into_iter().flat_map(|block| parse(single_braces(block), tools)).collect()
}

/// Takes off the second pair of braces in `{{"name": …}}`: some chat templates show calls like
/// this, with the escapes of the language that they are written in, and models copy them.
fn single_braces(block: &str) -> &str {
    let trimmed = block.trim();
    let doubled = trimmed.starts_with("{{") && trimmed.ends_with("}}");
    if doubled { &trimmed[1..trimmed.len() - 1] } else { block }
}

/// Returns what stands between `<tool_call>` tags; the last may lack its end, as it is often the
/// token at which the server stops.
fn tagged(text: &str) -> Vec<&str> {
    text.split("<tool_call>")
        .skip(1)
        .map(|rest| rest.split_once("</tool_call>").map_or(rest, |(inside, _)| inside))
        .collect()
}

/// Returns what stands in fences that are marked as JSON or not at all.
fn fenced(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    // Odd pieces are inside a fence. JSON strings hold no line feeds, so a fence inside one does
    // not stand at the start of a line.
    for inside in text.split("\n```").skip(usize::from(!text.starts_with("```"))).step_by(2) {
        let inside = inside.strip_prefix("```").unwrap_or(inside);
        if let Some((mark, block)) = inside.split_once('\n')
            && matches!(mark.trim(), "" | "json" | "tool_call")
        {
            blocks.push(block);
        }
    }
    blocks
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, alias = "parameters")]
    arguments: &'a RawValue,
}

/// Returns the calls of a block, which holds objects, or lists of them, and nothing else.
fn parse(block: &str, tools: &[String]) -> Vec<(String, String)> {
    let mut calls = Vec::new();
    for value in serde_json::Deserializer::from_str(block).into_iter::<&RawValue>() {
        let Ok(value) = value else { return Vec::new() };
        let items = serde_json::from_str::<Vec<Written<'_>>>(value.get())
            .or_else(|_| serde_json::from_str::<Written<'_>>(value.get()).map(|item| vec![item]));
        for item in items.unwrap_or_default() {
            if tools.iter().any(|tool| *tool == *item.name.0) && is_object(item.arguments.get()) {
                calls.push((item.name.0.into_owned(), item.arguments.get().to_owned()));
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let tools = ["read_file".to_owned(), "list_files".to_owned()];
        calls(text, &tools).into_iter().map(|(name, args)| format!("{name}{args}")).collect()
    }

    #[test]
    fn calls_are_found_in_each_form_that_models_write() {
        let read = r#"{"name": "read_file", "arguments": {"path": "a"}}"#;
        let list = r#"{"name": "list_files", "parameters": {}}"#;
        let one = [r#"read_file{"path": "a"}"#];
        let two = [r#"read_file{"path": "a"}"#, "list_files{}"];

        assert_eq!(found(read), one);
        assert_eq!(found(&format!("\n {read}\n")), one);
        assert_eq!(found(&format!("{read}\n{list}")), two);
        assert_eq!(found(&format!("[{read},{list}]")), two);
        assert_eq!(found(&format!("```json\n{read}\n```")), one);
        assert_eq!(found(&format!("I look.\n\n```json\n{read}\n```\nThen I go on.")), one);
        assert_eq!(found(&format!("```\n{read}\n```\nand\n```json\n{list}\n```")), two);
        assert_eq!(found(&format!("```json\n{read}")), one);
        assert_eq!(found(&format!("<tool_call>\n{read}\n</tool_call>")), one);
        assert_eq!(found(&format!("ok\n<tool_call>{read}</tool_call><tool_call>{list}")), two);
        assert_eq!(found(&format!("<think>{list}</think>\n{read}")), one);
        // Qwen2.5-Coder 1.5B behind llama.cpp wrote this.
        assert_eq!(found(&format!("{{{read}}}")), one);
        assert_eq!(found(&format!("<tool_call>\n{{{read}}}\n</tool_call>")), one);
    }

    #[test]
    fn arguments_may_hold_fences() {
        let call = r#"{"name":"read_file","arguments":{"path":"```\n```json\n"}}"#;
        assert_eq!(
            found(&format!("```json\n{call}\n```")),
            [r#"read_file{"path":"```\n```json\n"}"#]
        );
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "",
            "plain words",
            r#"{"name": "rm_rf", "arguments": {}}"#,
            r#"{"name": "read_file"}"#,
            r#"{"name": "read_file", "arguments": "a"}"#,
            r#"{"name": "read_file", "arguments": {"path": "a"#,
            r#"Call {"name": "read_file", "arguments": {}} now"#,
            "```rust\n{\"name\": \"read_file\", \"arguments\": {}}\n```",
            "```json\n{\"name\": \"read_file\", \"arguments\": {}} // so\n```",
            "```json\n{\"version\": 1}\n```",
            "```json",
            "```",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
