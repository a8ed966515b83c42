//! JSON schemas as the wires take them for an answer: a schema comes in, what may be promised of it
//! goes out. Some servers hold an answer only to a schema whose objects are closed, and refuse a
//! request with any other. Never changes a schema.

use serde_json::Value;

/// Returns whether every object of a schema names all its fields and refuses others.
pub(super) fn is_closed(schema: &Value) -> bool {
    every_object(schema, &|object| object.get("additionalProperties") == Some(&Value::Bool(false)))
}

/// Returns whether, besides, every field is required: what OpenAI calls strict.
pub(super) fn is_strict(schema: &Value) -> bool {
    is_closed(schema)
        && every_object(schema, &|object| {
            let fields = object.get("properties").and_then(Value::as_object);
            let required = object.get("required").and_then(Value::as_array);
            fields.into_iter().flatten().all(|(name, _)| {
                required.is_some_and(|required| required.iter().any(|r| r.as_str() == Some(name)))
            })
        })
}

/// Returns whether something holds for every schema of an object inside this one.
fn every_object(schema: &Value, holds: &impl Fn(&serde_json::Map<String, Value>) -> bool) -> bool {
    match schema {
        Value::Object(fields) => {
            let is_object = match fields.get("type") {
                Some(Value::String(kind)) => kind == "object",
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
                _ => fields.get("properties").is_some_and(Value::is_object),
            };
            (!is_object || holds(fields)) && fields.values().all(|value| every_object(value, holds))
        }
        Value::Array(items) => items.iter().all(|item| every_object(item, holds)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn closed_is_told_from_open_and_strict_from_optional() {
        let told = |schema: Value| (is_closed(&schema), is_strict(&schema));
        let (a, required) = (json!({"a": {"type": "string"}}), json!(["a"]));
        assert_eq!(told(json!({"type": "string"})), (true, true));
        assert_eq!(told(json!({"type": "object", "properties": a})), (false, false));
        let closed = json!({"type": "object", "properties": a, "additionalProperties": false});
        assert_eq!(told(closed.clone()), (true, false));
        let mut strict = closed.clone();
        strict["required"] = required;
        assert_eq!(told(strict.clone()), (true, true));
        // What is inside counts, wherever it stands; a field may be called `type`.
        assert_eq!(told(json!({"type": "array", "items": closed})), (true, false));
        strict["properties"]["a"] = json!({"anyOf": [{"type": ["object", "null"]}]});
        assert_eq!(told(strict.clone()), (false, false));
        strict["properties"] = json!({"type": {"type": "string"}});
        assert_eq!(told(strict), (true, false));
    }
}
