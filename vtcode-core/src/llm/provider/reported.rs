//! Errors as providers and the servers in front of them word them: JSON in, one sentence out.
//! Also tells which of them a provider calls temporary.
//! Never trusts a shape: what it does not know gives nothing.

use serde_json::Value;

use super::DecodeError;

/// Returns what an error body says, whichever of the usual shapes it has.
pub(super) fn message(body: &[u8]) -> Option<String> {
    words(&serde_json::from_slice(body).ok()?)
}

/// Returns the error that an event of a stream reports.
pub(super) fn in_stream(event: &str) -> DecodeError {
    // It was read before; what cannot be read again is told as it stands.
    in_event(&serde_json::from_str(event).unwrap_or_else(|_| event.into()))
}

fn in_event(event: &Value) -> DecodeError {
    let error = event.get("error").unwrap_or(event);
    DecodeError::Reported {
        message: words(event).unwrap_or_else(|| error.to_string()),
        temporary: ["type", "code", "status"].iter().any(|key| is_temporary(&error[*key])),
    }
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Array(items) => items.iter().find_map(words),
        Value::Object(fields) => {
            ["error", "message", "detail", "msg"].iter().find_map(|key| words(fields.get(*key)?))
        }
        _ => None,
    }
}

fn is_temporary(mark: &Value) -> bool {
    match mark {
        Value::Number(code) => {
            matches!(code.as_u64(), Some(408 | 409 | 429 | 500..=599))
        }
        Value::String(name) => [
            "overloaded",
            "rate_limit",
            "api_error",
            "server_error",
            "internal_error",
            "timeout",
            "unavailable",
        ]
        .iter()
        .any(|word| name.contains(word)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_usual_shapes_of_error_bodies_are_read() {
        for body in [
            r#"{"error":{"message":"no","type":"invalid_request_error","code":null}}"#,
            r#"{"type":"error","error":{"type":"not_found_error","message":"no"}}"#,
            r#"{"error":"no"}"#,
            r#"{"detail":"no"}"#,
            r#"{"detail":[{"loc":["body"],"msg":"no"}]}"#,
            r#"{"object":"error","message":"no","code":400}"#,
            r#"[{"error":{"code":400,"message":"no"}}]"#,
        ] {
            assert_eq!(message(body.as_bytes()).as_deref(), Some("no"), "{body}");
        }
        for body in ["", "<html>no</html>", "{}", r#"{"error":null}"#, "3"] {
            assert_eq!(message(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn only_what_may_pass_is_temporary() {
        let temporary = |event: Value| match in_event(&event) {
            DecodeError::Reported { temporary, .. } => temporary,
            other => panic!("{other}"),
        };
        assert!(temporary(json!({"error": {"type": "overloaded_error", "message": "x"}})));
        assert!(temporary(json!({"error": {"code": 502, "message": "x"}})));
        assert!(temporary(json!({"error": {"code": "rate_limit_exceeded", "message": "x"}})));
        assert!(!temporary(json!({"error": {"type": "invalid_request_error", "message": "x"}})));
        assert!(!temporary(json!({"error": {"code": 400, "message": "x"}})));
        assert!(!temporary(json!({"error": "x"})));
    }
}
