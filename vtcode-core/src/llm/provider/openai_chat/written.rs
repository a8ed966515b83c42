//! Tool calls that a small model wrote as text, because its server knows no native ones.
//! Takes the text of an answer, gives the calls it holds: in the tags and fences in which models
//! write them, as its last lines, or as the whole text. Never finds a tool that was not offered.

use serde_json::{Map, Value, json};

use crate::llm::message::ToolChoice;
use crate::tools::tool::ToolSpec;

mod python;

/// A call: name and arguments.
type Call = (String, String);

/// What stands before and after a call in the texts of models whose servers did not hear it.
const TAGS: [(&str, &str); 4] = [
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|python_tag|>", "<|eom_id|>"),
    ("[TOOL_CALLS]", "\n\n"),
];

/// Returns name and arguments of each call, in order.
pub(super) fn calls(text: &str, tools: &[String]) -> Vec<Call> {
    // Thinking that the server did not take out may name calls that were only considered.
    let said = text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..]);
    let tagged: Vec<&str> =
        TAGS.iter().flat_map(|(open, close)| tagged(said, open, close)).collect();
    let found = all(&tagged, tools);
    let found = if found.is_empty() { functions(said, tools) } else { found };
    let found = if found.is_empty() { all(&fenced(said), tools) } else { found };
    let found = if found.is_empty() { block(said, tools) } else { found };
    if found.is_empty() { block(last_lines(said), tools) } else { found }
}

/// Returns the schema of a call that is written as JSON: of the tool chosen, or of any.
pub(super) fn schema(tools: &[ToolSpec], choice: &ToolChoice) -> Value {
    let chosen = |tool: &&ToolSpec| match choice {
        ToolChoice::Tool(name) => tool.name == *name,
        _ => true,
    };
    let call = |tool: &ToolSpec| {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    let calls: Vec<_> = tools.iter().filter(chosen).map(call).collect();
    json!({ "anyOf": calls })
}

fn all(blocks: &[&str], tools: &[String]) -> Vec<Call> {
    blocks.iter().flat_map(|text| block(text, tools)).collect()
}

/// Returns what stands between tags; the last may lack its end, as it is often the token at which
/// the server stops.
fn tagged<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let inside = |rest: &'a str| rest.split_once(close).map_or(rest, |(inside, _)| inside);
    text.split(open).skip(1).map(inside).collect()
}

/// Returns the calls in `<function=name>…</function>`, with JSON inside or `<parameter=name>` tags.
fn functions(text: &str, tools: &[String]) -> Vec<Call> {
    let call = |(name, inside): (&str, &str)| {
        let inside = inside.split_once("</function>").map_or(inside, |(inside, _)| inside);
        let name = name.trim().trim_matches('"');
        if !inside.contains("<parameter=") {
            let arguments = serde_json::from_str(inside.trim()).ok()?;
            return offered(name, &arguments, tools);
        }
        let mut arguments = Map::new();
        for (name, value) in inside.split("<parameter=").skip(1).filter_map(|p| p.split_once('>')) {
            let value = value.split_once("</parameter>").map_or(value, |(value, _)| value);
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            // What is a number or a list in JSON is meant as one; every other text as a text.
            let read = serde_json::from_str::<Value>(value).ok().filter(|read| !read.is_string());
            arguments.insert(name.trim().to_owned(), read.unwrap_or_else(|| value.into()));
        }
        offered(name, &arguments.into(), tools)
    };
    text.split("<function=")
        .skip(1)
        .filter_map(|rest| rest.split_once('>'))
        .filter_map(call)
        .collect()
}

/// Returns what stands in fences that are marked as what holds calls, or not at all.
fn fenced(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    // Odd pieces are inside a fence. JSON strings hold no line feeds, so a fence inside one does
    // not stand at the start of a line.
    for inside in text.split("\n```").skip(usize::from(!text.starts_with("```"))).step_by(2) {
        let inside = inside.strip_prefix("```").unwrap_or(inside);
        if let Some((mark, block)) = inside.split_once('\n')
            && matches!(mark.trim(), "" | "json" | "tool_call" | "tool_code" | "tool")
        {
            blocks.push(block);
        }
    }
    blocks
}

/// Lines that may begin a call, from the end, that are tried: a text of nothing else must not take
/// the square of its length.
const MAX_TRIED: usize = 32;

/// Returns the end of a text, from a line on that begins with a brace, if all of it is JSON.
fn last_lines(text: &str) -> &str {
    let text = text.trim_end();
    if !text.ends_with(['}', ']']) {
        return "";
    }
    let begins = |at: &usize| text[*at..].starts_with('{') || text[*at..].starts_with("[{");
    let lines = text.rmatch_indices('\n').map(|(at, _)| at + 1).filter(begins).take(MAX_TRIED);
    let from = lines.filter(|at| sound(&text[*at..])).last();
    from.map_or("", |at| &text[at..])
}

fn sound(text: &str) -> bool {
    serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>().all(|v| v.is_ok())
}

/// Takes off the second pair of braces in `{{"name": …}}`: some chat templates show calls like
/// this, with the escapes of the language that they are written in, and models copy them.
fn single_braces(block: &str) -> &str {
    let trimmed = block.trim();
    let doubled = trimmed.starts_with("{{") && trimmed.ends_with("}}");
    if doubled { &trimmed[1..trimmed.len() - 1] } else { block }
}

/// Returns the calls of a block, which holds objects, or lists of them, and nothing else; or calls
/// as Python writes them, and nothing else.
fn block(text: &str, tools: &[String]) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut values = serde_json::Deserializer::from_str(single_braces(text)).into_iter::<Value>();
    let all_read = values.all(|value| {
        let Ok(value) = value else { return false };
        match value {
            Value::Array(items) => {
                calls.extend(items.iter().filter_map(|item| written(item, tools)));
            }
            value => calls.extend(written(&value, tools)),
        }
        true
    });
    if !all_read {
        let read = python::calls(text.trim()).unwrap_or_default();
        calls = read.iter().filter_map(|(name, args)| offered(name, args, tools)).collect();
    }
    calls
}

/// Returns the call that an object is, in the shapes that models have seen.
fn written(value: &Value, tools: &[String]) -> Option<Call> {
    let fields = match value.get("function") {
        Some(function @ Value::Object(_)) => function,
        _ => value,
    };
    let named = |names: &[&str]| names.iter().find_map(|name| fields.get(*name));
    let name = named(&["name", "tool", "tool_name", "function"])?.as_str()?;
    let arguments = named(&["arguments", "parameters", "args", "input"])?;
    match arguments {
        // Written as the wire sends them: as a text that is JSON.
        Value::String(text) => offered(name, &serde_json::from_str(text).ok()?, tools),
        arguments => offered(name, arguments, tools),
    }
}

fn offered(name: &str, arguments: &Value, tools: &[String]) -> Option<Call> {
    let offered = tools.iter().any(|tool| tool == name) && arguments.is_object();
    offered.then(|| (name.to_owned(), arguments.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let tools = ["read_file".to_owned(), "list_files".to_owned()];
        calls(text, &tools).into_iter().map(|(name, args)| format!("{name}{args}")).collect()
    }

    const READ: &str = r#"{"name": "read_file", "arguments": {"path": "a"}}"#;
    const LIST: &str = r#"{"name": "list_files", "parameters": {}}"#;
    const ONE: [&str; 1] = [r#"read_file{"path":"a"}"#];
    const TWO: [&str; 2] = [r#"read_file{"path":"a"}"#, "list_files{}"];

    #[test]
    fn calls_are_found_in_each_form_that_models_write() {
        let (read, list, one, two) = (READ, LIST, ONE, TWO);
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
    fn the_formats_of_other_families_are_known() {
        for text in [
            // Llama 3, Mistral, Qwen3-Coder, Llama 3's own functions, Llama 4, Gemma.
            r#"<|python_tag|>{"name": "read_file", "parameters": {"path": "a"}}<|eom_id|>"#,
            r#"[TOOL_CALLS][{"name": "read_file", "arguments": {"path": "a"}}]"#,
            "<tool_call>\n<function=read_file>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>",
            r#"<function=read_file>{"path": "a"}</function>"#,
            r#"[read_file(path="a")]"#,
            "```tool_code\nread_file(path='a')\n```",
            // As the wires write them.
            r#"{"type": "function", "function": {"name": "read_file", "arguments": "{\"path\": \"a\"}"}}"#,
            r#"{"tool": "read_file", "args": {"path": "a"}}"#,
            // Words, then the call.
            "I will look at it.\n\n{\"name\": \"read_file\",\n \"arguments\": {\n  \"path\": \"a\"\n }}",
        ] {
            assert_eq!(found(text), ONE, "{text}");
        }
        assert_eq!(found(r#"[read_file(path="a"), list_files()]"#), TWO);
        assert_eq!(
            found(
                "<function=read_file><parameter=start>3</parameter><parameter=path>\nx: \"y\"\n\n</parameter></function>"
            ),
            [r#"read_file{"path":"x: \"y\"\n","start":3}"#]
        );
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
            r#"Then call {"name": "read_file", "arguments": {}}"#,
            "Use read_file(path=\"a\") for that.",
            "[rm_rf(path=\"a\")]",
            "read_file(open(\"a\"))",
            "<function=rm_rf>{}</function>",
            "```rust\n{\"name\": \"read_file\", \"arguments\": {}}\n```",
            "```python\nread_file(path='a')\n```",
            "```json\n{\"name\": \"read_file\", \"arguments\": {}} // so\n```",
            "```json\n{\"version\": 1}\n```",
            "An object:\n{\"version\": 1}",
            "```json",
            "```",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
