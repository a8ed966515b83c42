//! Checks the arguments of a call against the tool's own schema, before the call: the schema that
//! the model was shown is the one that is enforced. Every problem is named, with what would be
//! right, so that a model repairs the call in one step.
//!
//! Knows the part of JSON Schema that tools need: `type`, `properties`, `required`,
//! `additionalProperties: false`, `items`, `enum`, `minimum`. What it does not know it does not refuse.

use std::fmt::Write as _;

use serde_json::Value;

/// A schema, compiled for checking.
#[derive(Debug)]
pub(super) enum Shape {
    /// Anything fits.
    Any,
    Object {
        fields: Vec<Field>,
        closed: bool,
    },
    Array(Box<Shape>),
    Text {
        one_of: Vec<String>,
    },
    Integer {
        min: Option<i64>,
    },
    Number,
    Switch,
}

#[derive(Debug)]
pub(super) struct Field {
    name: String,
    shape: Shape,
    required: bool,
}

/// The most problems that one answer names.
const PROBLEMS: usize = 5;

impl Shape {
    /// Compiles a schema.
    pub(super) fn compile(schema: &Value) -> Self {
        match schema["type"].as_str() {
            Some("object") => {
                let required = |name: &str| {
                    schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name))
                };
                let properties = schema["properties"].as_object();
                let fields = properties.into_iter().flatten().map(|(name, schema)| Field {
                    name: name.clone(),
                    shape: Self::compile(schema),
                    required: required(name),
                });
                let closed = schema["additionalProperties"] == false;
                Self::Object { fields: fields.collect(), closed }
            }
            Some("array") => Self::Array(Box::new(Self::compile(&schema["items"]))),
            Some("string") => {
                let values = schema["enum"].as_array().into_iter().flatten();
                Self::Text {
                    one_of: values.filter_map(|v| v.as_str()).map(str::to_owned).collect(),
                }
            }
            Some("integer") => Self::Integer { min: schema["minimum"].as_i64() },
            Some("number") => Self::Number,
            Some("boolean") => Self::Switch,
            _ => Self::Any,
        }
    }

    /// Checks arguments. The error names every problem, up to a bound.
    pub(super) fn check(&self, args: &Value) -> Result<(), String> {
        let mut problems = Vec::new();
        self.find(At::Top, args, &mut problems);
        if problems.is_empty() {
            return Ok(());
        }
        let more = problems.len().saturating_sub(PROBLEMS);
        problems.truncate(PROBLEMS);
        let mut text = problems.join("; ");
        if more > 0 {
            let _ = write!(text, "; and {more} more");
        }
        Err(text)
    }

    fn find(&self, at: At<'_>, value: &Value, problems: &mut Vec<String>) {
        let fits = match (self, value) {
            (Self::Any, _) | (Self::Number, Value::Number(_)) | (Self::Switch, Value::Bool(_)) => {
                true
            }
            (Self::Integer { min }, Value::Number(number)) => {
                let enough = |n: i64| min.is_none_or(|min| n >= min);
                number.as_i64().map_or(number.is_u64(), enough)
            }
            (Self::Text { one_of }, Value::String(text)) => {
                one_of.is_empty() || one_of.contains(text)
            }
            (Self::Array(shape), Value::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    shape.find(At::Item(&at, n), item, problems);
                }
                true
            }
            (Self::Object { fields, closed }, Value::Object(given)) => {
                find_in_object(at, fields, *closed, given, problems);
                true
            }
            _ => false,
        };
        if !fits {
            let at = match at {
                At::Top => "the arguments".to_owned(),
                at => at.to_string(),
            };
            problems.push(format!("`{at}` must be {}, not {}", self.noun(), shown(value)));
        }
    }

    fn noun(&self) -> String {
        match self {
            Self::Any => "anything".to_owned(),
            Self::Object { .. } => "an object".to_owned(),
            Self::Array(_) => "an array".to_owned(),
            Self::Text { one_of } if one_of.is_empty() => "a string".to_owned(),
            Self::Text { one_of } => format!("one of {}", quoted(one_of.iter())),
            Self::Integer { min: None } => "an integer".to_owned(),
            Self::Integer { min: Some(min) } => format!("an integer from {min}"),
            Self::Number => "a number".to_owned(),
            Self::Switch => "true or false".to_owned(),
        }
    }
}

/// Where a value stands; put into words only where something is wrong with it.
#[derive(Clone, Copy)]
enum At<'a> {
    Top,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Field(Self::Top, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Item(above, n) => write!(f, "{above}[{n}]"),
        }
    }
}

fn find_in_object(
    at: At<'_>,
    fields: &[Field],
    closed: bool,
    given: &serde_json::Map<String, Value>,
    problems: &mut Vec<String>,
) {
    for field in fields {
        match given.get(&field.name) {
            // Many models write null for what they leave out.
            Some(Value::Null) | None if !field.required => {}
            Some(value) => field.shape.find(At::Field(&at, &field.name), value, problems),
            None => {
                let name = At::Field(&at, &field.name);
                problems.push(format!("missing field `{name}`: {}", field.shape.noun()));
            }
        }
    }
    if !closed {
        return;
    }
    for name in given.keys().filter(|name| fields.iter().all(|field| field.name != **name)) {
        let free = fields.iter().filter(|field| !given.contains_key(&field.name));
        let nearest = free
            .map(|field| (likeness(&field.name, name), &field.name))
            .filter(|(score, _)| *score > 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean `{}`?", At::Field(&at, nearest)),
            None => format!("there are {}", quoted(fields.iter().map(|field| &field.name))),
        };
        let name = shortened(name);
        problems.push(format!("unknown field `{}`; {hint}", At::Field(&at, &name)));
    }
}

/// Returns how alike two names are, 1 being the same. `file_path` means `path`, not `files`.
fn likeness(field: &str, name: &str) -> f64 {
    if name.contains(field) || field.contains(name) {
        return 0.95;
    }
    strsim::jaro_winkler(field, name)
}

fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Writes a value as a model will know it again, shortened.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "null".to_owned(),
        Value::Array(_) => return "an array".to_owned(),
        Value::Object(_) => return "an object".to_owned(),
        Value::String(_) => format!("the string {value}"),
        other => other.to_string(),
    };
    shortened(&text)
}

/// Cuts what a model wrote to what it needs to know it again. Not every wire takes a NUL.
fn shortened(text: &str) -> String {
    let text = text.replace('\0', "␀");
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::needless_pass_by_value, reason = "each case is written in place")]
    fn check(args: Value) -> String {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["path"],
            "properties": {
                "path": {"type": "string"},
                "start": {"type": "integer"},
                "literal": {"type": "boolean"},
                "mode": {"type": "string", "enum": ["content", "files"]},
                "files": {"type": "array", "items": {
                    "type": "object", "additionalProperties": false, "required": ["path"],
                    "properties": {"path": {"type": "string"}, "end": {"type": "integer"}},
                }},
            },
        });
        Shape::compile(&schema).check(&args).err().unwrap_or_else(|| "fits".to_owned())
    }

    #[test]
    fn what_fits_passes() {
        assert_eq!(
            check(json!({"path": "a", "start": 3, "mode": "files", "literal": true})),
            "fits"
        );
        assert_eq!(check(json!({"path": "a", "files": [{"path": "b", "end": 2}]})), "fits");
        assert_eq!(check(json!({"path": "a", "start": null})), "fits");
    }

    #[test]
    fn every_problem_is_named_with_what_would_be_right() {
        assert_eq!(
            check(json!({"file_path": "a"})),
            "missing field `path`: a string; unknown field `file_path`; did you mean `path`?"
        );
        assert_eq!(
            check(json!({"path": "a", "start": "3", "mode": "all", "literal": 1})),
            "`literal` must be true or false, not 1; `mode` must be one of `content`, `files`, not \
             the string \"all\"; `start` must be an integer, not the string \"3\""
        );
        assert_eq!(
            check(json!({"path": "a", "files": [{"path": "b"}, {"ende": 1.5}, "c"]})),
            "missing field `files[1].path`: a string; unknown field `files[1].ende`; did you mean \
             `files[1].end`?; `files[2]` must be an object, not the string \"c\""
        );
        assert_eq!(check(json!([])), "`the arguments` must be an object, not an array");
        assert_eq!(check(json!({"path": null})), "`path` must be a string, not null");
        assert_eq!(
            check(json!({"path": "a", "zzz": 1})),
            "unknown field `zzz`; there are `files`, `literal`, `mode`, `path`, `start`"
        );
    }

    #[test]
    fn a_field_whose_name_is_a_text_is_not_repeated_whole() {
        let told = check(json!({"path": "a", "\0é".repeat(50_000): 1}));
        assert!(told.starts_with("unknown field `␀é") && told.len() < 500, "{told}");
    }

    #[test]
    fn a_flood_of_problems_is_cut() {
        let fields: serde_json::Map<_, _> = (0..99).map(|n| (format!("q{n}"), json!(n))).collect();
        assert!(check(Value::Object(fields)).ends_with("; and 95 more"));
    }
}
