//! The file of the user's keys: a text comes in, names and keys go out.
//! Never quotes what the file holds, and takes only names that a key's variable has.

use std::collections::BTreeMap;

use secrecy::SecretString;

/// Keys by the names of the variables that would hold them.
pub(super) type Credentials = BTreeMap<String, SecretString>;

/// Reads the file's text. The error says where it is wrong, without what stands there.
pub(super) fn parse(text: &str) -> Result<Credentials, String> {
    let wanted = "a line like OPENAI_API_KEY = \"…\"";
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
        format!("line {} is not {wanted}", before.matches('\n').count() + 1)
    })?;
    let mut credentials = Credentials::new();
    for (name, value) in table {
        let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let named = name.ends_with("_KEY") || name.ends_with("_TOKEN");
        // A name may be a key that was pasted at the wrong place, so it is not told either.
        if !named || !name.chars().all(letters) {
            return Err(format!("it holds a name that is no key's variable; it takes {wanted}"));
        }
        let toml::Value::String(key) = value else {
            return Err(format!("{name} is not a text; it takes {wanted}"));
        };
        if !key.trim().is_empty() {
            credentials.insert(name, SecretString::from(key.trim().to_owned()));
        }
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn keys_are_read_by_their_variables_names() {
        let read =
            parse("# mine\nOPENAI_API_KEY = \" k1 \"\nGATE_TOKEN = 'k2'\nX_KEY = ''").unwrap();
        let read: Vec<_> = read.iter().map(|(n, key)| (n.as_str(), key.expose_secret())).collect();
        assert_eq!(read, [("GATE_TOKEN", "k2"), ("OPENAI_API_KEY", "k1")]);
    }

    #[test]
    fn what_is_wrong_is_told_without_what_stands_there() {
        for (text, told) in [
            ("A_KEY = \"x\"\nsk-secret", "line 2"),
            ("A_KEY = sk-secret", "line 1"),
            ("sk-secret = \"x\"", "no key's variable"),
            ("PATH = \"sk-secret\"", "no key's variable"),
            ("A_KEY = { x = \"sk-secret\" }", "A_KEY is not a text"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
