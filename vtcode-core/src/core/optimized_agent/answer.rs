//! What the last answer must be: a JSON schema goes in, and what a text is worth by it comes out.
//! Checks every keyword that a schema uses: one that it does not know is refused at the start, so
//! that "it fits" is never said of what was not looked at. Never asks a model.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::phase::Verdict;

/// How deep schemas and values are followed; a schema that refers to itself ends here.
const DEEPEST: usize = 64;
/// The most problems that are named.
const PROBLEMS: usize = 8;

/// The kind of JSON value that an answer must be, as a JSON Schema. It may use `type`, `enum`,
/// `const`, `properties`, `required`, `additionalProperties`, `items`, `anyOf`, `oneOf`, `allOf`,
/// `not`, `$ref` within itself and the bounds on numbers, lengths and counts; `format` and what
/// only describes is not checked, as the standard says.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerSchema {
    schema: Arc<Value>,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It is no JSON.
    #[error("the schema is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// A part of it is not what it must be.
    #[error("the schema cannot be used: `{at}` {problem}")]
    Unusable {
        /// Where, as a JSON pointer.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Keywords that say nothing of whether a value fits.
const WORDS: [&str; 13] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "$defs",
    "definitions",
];
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];
const NUMBERS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
const LISTS: [&str; 3] = ["anyOf", "oneOf", "allOf"];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

impl AnswerSchema {
    /// Reads a schema. Fails when the text is not JSON, and as [`new`](Self::new) does.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        Self::new(serde_json::from_str(text).map_err(SchemaError::NotJson)?)
    }

    /// Takes a schema; every keyword in it must be one that can be checked. Fails where one is
    /// not or has a value that makes no sense, where a part is no schema, and where the JSON
    /// pointer to a part has more than 64 steps.
    pub fn new(schema: Value) -> Result<Self, SchemaError> {
        usable(&schema, &schema, "#")?;
        Ok(Self { schema: Arc::new(schema) })
    }

    /// Returns the schema.
    pub fn schema(&self) -> Arc<Value> {
        Arc::clone(&self.schema)
    }

    /// Returns what is wrong with a value, at most 8 things; nothing when it fits.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        Check { root: &self.schema }.find(&self.schema, value, "$", 0, &mut problems);
        problems.truncate(PROBLEMS);
        problems
    }

    /// Says to the model what is asked of it.
    pub(super) fn instruction(&self) -> String {
        format!(
            "When the work is done, your last message must be one JSON value, with nothing before \
             or behind it, that fits this JSON schema: {}",
            self.schema
        )
    }

    /// Returns what a whole text is worth. One fence around the value, as many models write it, is
    /// taken off.
    pub(super) fn judge(&self, text: &str) -> Verdict {
        let json = without_fence(text.trim());
        let value: Value = match serde_json::from_str(json) {
            Ok(value) => value,
            Err(error) => return Verdict::Unfit(format!("it is not one JSON value ({error})")),
        };
        let problems = self.problems(&value);
        if problems.is_empty() {
            Verdict::Fits(json.to_owned())
        } else {
            Verdict::Unfit(problems.join("; "))
        }
    }
}

fn without_fence(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|text| text.strip_suffix("```"));
    let Some((word, rest)) = inside.and_then(|inside| inside.split_once('\n')) else { return text };
    if word.trim().chars().all(|c| c.is_ascii_alphanumeric()) { rest.trim() } else { text }
}

/// Fails unless every keyword is known and what it must be.
fn usable(root: &Value, schema: &Value, at: &str) -> Result<(), SchemaError> {
    let unusable = |at: &str, problem: &str| {
        Err(SchemaError::Unusable { at: at.to_owned(), problem: problem.to_owned() })
    };
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return unusable(at, "must be an object, true or false"),
    };
    if at.matches('/').count() > DEEPEST {
        return unusable(at, "lies too deep");
    }
    for (keyword, wanted) in keywords {
        let at = format!("{at}/{keyword}");
        let below = |wanted: &Value| -> Result<(), SchemaError> {
            for (name, schema) in wanted.as_object().into_iter().flatten() {
                usable(root, schema, &format!("{at}/{name}"))?;
            }
            Ok(())
        };
        match keyword.as_str() {
            "$defs" | "definitions" | "properties" if wanted.is_object() => below(wanted)?,
            "additionalProperties" | "items" | "not" => usable(root, wanted, &at)?,
            "type" if types(wanted).is_some() => {}
            "enum" | "required" if wanted.is_array() => {}
            "uniqueItems" if wanted.is_boolean() => {}
            "multipleOf" if wanted.as_f64().is_some_and(|n| n > 0.0) => {}
            "$ref" => {
                let found = wanted.as_str().and_then(|to| referred(root, to));
                if found.is_none() {
                    return unusable(&at, "must name a part of this schema, such as `#/$defs/a`");
                }
            }
            list if LISTS.contains(&list) && wanted.as_array().is_some_and(|l| !l.is_empty()) => {
                for (n, schema) in wanted.as_array().into_iter().flatten().enumerate() {
                    usable(root, schema, &format!("{at}/{n}"))?;
                }
            }
            count if COUNTS.contains(&count) && wanted.is_u64() => {}
            number if NUMBERS.contains(&number) && wanted.is_number() => {}
            "const" => {}
            word if WORDS.contains(&word) && !["$defs", "definitions"].contains(&word) => {}
            known if is_known(known) => return unusable(&at, "has a value that makes no sense"),
            _ => return unusable(&at, "is a keyword that is not checked here; leave it out"),
        }
    }
    Ok(())
}

fn is_known(keyword: &str) -> bool {
    let own = ["properties", "type", "enum", "required", "uniqueItems", "multipleOf"];
    let lists: [&[&str]; 5] = [&own, &WORDS, &COUNTS, &NUMBERS, &LISTS];
    lists.iter().any(|list| list.contains(&keyword))
}

/// Returns the types that a schema allows; none when it names one that there is not.
fn types(wanted: &Value) -> Option<Vec<&str>> {
    let one = |value: &'_ Value| -> Option<&'static str> {
        TYPES.into_iter().find(|name| value.as_str() == Some(name))
    };
    match wanted {
        Value::Array(names) if !names.is_empty() => names.iter().map(one).collect(),
        name => Some(vec![one(name)?]),
    }
}

fn referred<'a>(root: &'a Value, to: &str) -> Option<&'a Value> {
    root.pointer(to.strip_prefix('#')?)
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn find(&self, schema: &Value, value: &Value, at: &str, depth: usize, out: &mut Vec<String>) {
        let keywords = match schema {
            Value::Bool(true) => return,
            Value::Object(keywords) => keywords,
            _ => return out.push(format!("{at} must not be there")),
        };
        if depth > DEEPEST {
            return out.push(format!("{at} is nested too deep to be checked"));
        }
        if out.len() > PROBLEMS {
            return;
        }
        for (keyword, wanted) in keywords {
            let mut must = |holds: bool, what: &dyn Fn() -> String| {
                if !holds {
                    out.push(format!("{at} must be {}, not {}", what(), shown(value)));
                }
            };
            match keyword.as_str() {
                "type" => {
                    let types = types(wanted).unwrap_or_default();
                    must(types.iter().any(|name| is_a(value, name)), &|| types.join(" or "));
                }
                "enum" => {
                    let one_of = wanted.as_array().is_some_and(|all| all.contains(value));
                    must(one_of, &|| format!("one of {wanted}"));
                }
                "const" => must(value == wanted, &|| wanted.to_string()),
                "not" => {
                    must(!self.fits(wanted, value, depth), &|| format!("none of {wanted}"));
                }
                "anyOf" => {
                    let any = list(wanted).any(|schema| self.fits(schema, value, depth));
                    must(any, &|| format!("of one of the kinds {wanted}"));
                }
                "oneOf" => {
                    let fit = list(wanted).filter(|schema| self.fits(schema, value, depth));
                    must(fit.count() == 1, &|| format!("of exactly one of the kinds {wanted}"));
                }
                "allOf" => {
                    list(wanted).for_each(|schema| self.find(schema, value, at, depth + 1, out));
                }
                "$ref" => {
                    if let Some(schema) = wanted.as_str().and_then(|to| referred(self.root, to)) {
                        self.find(schema, value, at, depth + 1, out);
                    }
                }
                bound => {
                    if let Some(what) = out_of_bounds(bound, wanted, value) {
                        must(false, &|| what.clone());
                    }
                }
            }
        }
        match value {
            Value::Object(fields) => self.find_in_object(keywords, fields, at, depth, out),
            Value::Array(items) => {
                if let Some(schema) = keywords.get("items") {
                    for (n, item) in items.iter().enumerate() {
                        self.find(schema, item, &format!("{at}[{n}]"), depth + 1, out);
                    }
                }
            }
            _ => {}
        }
    }

    fn find_in_object(
        &self,
        keywords: &Map<String, Value>,
        fields: &Map<String, Value>,
        at: &str,
        depth: usize,
        out: &mut Vec<String>,
    ) {
        let required = keywords.get("required").into_iter().flat_map(list);
        for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
            out.push(format!("{at}.{name} is missing"));
        }
        let properties = keywords.get("properties");
        for (name, value) in fields {
            let own = properties.and_then(|properties| properties.get(name));
            if let Some(schema) = own.or_else(|| keywords.get("additionalProperties")) {
                self.find(schema, value, &format!("{at}.{name}"), depth + 1, out);
            }
        }
    }

    fn fits(&self, schema: &Value, value: &Value, depth: usize) -> bool {
        let mut problems = Vec::new();
        self.find(schema, value, "", depth + 1, &mut problems);
        problems.is_empty()
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        // A whole number is one however it is written.
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Returns the bound that a value does not keep, in words.
fn out_of_bounds(keyword: &str, wanted: &Value, value: &Value) -> Option<String> {
    let count = |least: bool, count: Option<usize>, what: &str| {
        let (count, bound) = (count? as u64, wanted.as_u64()?);
        let holds = if least { count >= bound } else { count <= bound };
        let side = if least { "at least" } else { "at most" };
        (!holds).then(|| format!("{side} {bound} {what}"))
    };
    let number = |holds: fn(f64, f64) -> bool, what: &str| {
        let (number, bound) = (value.as_f64()?, wanted.as_f64()?);
        (!holds(number, bound)).then(|| format!("{what} {bound}"))
    };
    let letters = value.as_str().map(|text| text.chars().count());
    let items = value.as_array().map(Vec::len);
    let fields = value.as_object().map(Map::len);
    match keyword {
        "minLength" => count(true, letters, "letters long"),
        "maxLength" => count(false, letters, "letters long"),
        "minItems" => count(true, items, "items long"),
        "maxItems" => count(false, items, "items long"),
        "minProperties" => count(true, fields, "fields large"),
        "maxProperties" => count(false, fields, "fields large"),
        "minimum" => number(|n, bound| n >= bound, "at least"),
        "maximum" => number(|n, bound| n <= bound, "at most"),
        "exclusiveMinimum" => number(|n, bound| n > bound, "more than"),
        "exclusiveMaximum" => number(|n, bound| n < bound, "less than"),
        "multipleOf" => number(|n, of| (n / of).fract() == 0.0, "a multiple of"),
        "uniqueItems" if wanted == true => {
            let items = value.as_array()?;
            let twice = items.iter().enumerate().any(|(n, item)| items[..n].contains(item));
            twice.then(|| "without an item twice".to_owned())
        }
        _ => None,
    }
}

/// The beginning of a value: enough to know it by.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => {
            let mut cut = text[..at].to_owned();
            let _ = write!(cut, "…");
            cut
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(schema: Value) -> AnswerSchema {
        AnswerSchema::new(schema).unwrap()
    }

    #[test]
    fn each_keyword_is_checked() {
        let cases = [
            (json!({"type": "integer"}), json!(3.0), json!(3.5)),
            (json!({"type": ["string", "null"]}), json!(null), json!(1)),
            (json!({"enum": [1, "a"]}), json!("a"), json!("b")),
            (json!({"const": {"a": 1}}), json!({"a": 1}), json!({"a": 2})),
            (json!({"properties": {"a": {"type": "null"}}}), json!({"b": 1}), json!({"a": 1})),
            (json!({"required": ["a"]}), json!({"a": null}), json!({})),
            (json!({"additionalProperties": false}), json!({}), json!({"a": 1})),
            (
                json!({"properties": {"a": true}, "additionalProperties": {"type": "string"}}),
                json!({"a": 1, "b": "x"}),
                json!({"b": 1}),
            ),
            (json!({"items": {"minimum": 1}}), json!([1, 2]), json!([1, 0])),
            (json!({"anyOf": [{"type": "null"}, {"minimum": 3}]}), json!(3), json!(2)),
            (json!({"oneOf": [{"minimum": 1}, {"minimum": 3}]}), json!(2), json!(3)),
            (json!({"allOf": [{"minimum": 1}, {"maximum": 3}]}), json!(3), json!(4)),
            (json!({"not": {"type": "string"}}), json!(1), json!("x")),
            (json!({"$defs": {"n": {"type": "number"}}, "$ref": "#/$defs/n"}), json!(1), json!("")),
            (json!({"minLength": 2, "maxLength": 3}), json!("äö"), json!("ä")),
            (json!({"minItems": 1}), json!([0]), json!([])),
            (json!({"maxItems": 1, "uniqueItems": true}), json!([0]), json!([0, 1])),
            (json!({"uniqueItems": true}), json!([0, 1]), json!([0, 0])),
            (json!({"minProperties": 1}), json!({"a": 1}), json!({})),
            (json!({"maxProperties": 1}), json!({"a": 1}), json!({"a": 1, "b": 1})),
            (json!({"exclusiveMinimum": 1}), json!(1.5), json!(1)),
            (json!({"exclusiveMaximum": 1}), json!(0), json!(1)),
            (json!({"multipleOf": 5}), json!(10), json!(11)),
        ];
        for (wanted, good, bad) in cases {
            let schema = schema(wanted.clone());
            assert_eq!(schema.problems(&good), Vec::<String>::new(), "{wanted}");
            assert_eq!(schema.problems(&bad).len(), 1, "{wanted}: {:?}", schema.problems(&bad));
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused_at_the_start() {
        let cases = [
            (json!({"pattern": "^a"}), "#/pattern"),
            (json!({"properties": {"a": {"if": true}}}), "#/properties/a/if"),
            (json!({"type": "text"}), "#/type"),
            (json!({"items": 3}), "#/items"),
            (json!({"anyOf": []}), "#/anyOf"),
            (json!({"$ref": "https://example.com/a"}), "#/$ref"),
            (json!({"$ref": "#/$defs/none"}), "#/$ref"),
            (json!({"minItems": -1}), "#/minItems"),
            (json!([]), "#"),
        ];
        for (schema, place) in cases {
            match AnswerSchema::new(schema.clone()) {
                Err(SchemaError::Unusable { at, .. }) => assert_eq!(at, place),
                other => panic!("{schema}: {other:?}"),
            }
        }
        assert!(matches!(AnswerSchema::parse("{"), Err(SchemaError::NotJson(_))));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let tree = schema(json!({
            "type": "object",
            "properties": {"next": {"$ref": "#"}},
            "additionalProperties": false,
        }));
        assert!(tree.problems(&json!({"next": {"next": {}}})).is_empty());
        assert_eq!(tree.problems(&json!({"next": {"nxt": {}}})), ["$.next.nxt must not be there"]);
        assert_eq!(schema(json!({"$ref": "#"})).problems(&json!(1)).len(), 1);
    }

    #[test]
    fn a_text_is_judged_with_or_without_a_fence() {
        let schema = schema(json!({"type": "object"}));
        for text in ["{}", " {}\n", "```json\n{}\n```", "```\n{}\n```"] {
            assert_eq!(schema.judge(text), Verdict::Fits("{}".to_owned()), "{text:?}");
        }
        for text in ["", "Here: {}", "{} {}", "[]", "```json\n{}", "```\n{}\n``` so", "{"] {
            assert!(matches!(schema.judge(text), Verdict::Unfit(_)), "{text:?}");
        }
    }
}
