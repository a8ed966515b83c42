//! Calls as Python writes them: `[read_file(path="a"), list_files()]`, with literals alone.
//! A text comes in; calls go out if all of it is such calls. Runs nothing.

use serde_json::{Map, Number, Value};

/// Returns name and arguments of each call, if the text is nothing but calls.
pub(super) fn calls(text: &str) -> Option<Vec<(String, Value)>> {
    let mut reader = Reader { rest: text };
    let listed = reader.takes("[");
    let mut calls = Vec::new();
    loop {
        let name = reader.name()?.to_owned();
        reader.must("(")?;
        calls.push((name, Value::Object(reader.fields(")")?)));
        // Without a list, one stands on each line.
        let more = if listed { reader.takes(",") } else { !reader.at_end() };
        if !more {
            break;
        }
    }
    if listed {
        reader.must("]")?;
    }
    reader.at_end().then_some(calls)
}

/// How deep lists and dictionaries may be nested.
const MAX_DEPTH: u8 = 16;

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn at_end(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    fn takes(&mut self, mark: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(mark);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn must(&mut self, mark: &str) -> Option<()> {
        self.takes(mark).then_some(())
    }

    fn name(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let other = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let end = self.rest.find(other).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
    }

    /// Reads `name=value, …` to the closing mark.
    fn fields(&mut self, close: &str) -> Option<Map<String, Value>> {
        let mut fields = Map::new();
        while !self.takes(close) {
            let name = self.name()?.to_owned();
            self.must("=")?;
            fields.insert(name, self.value(MAX_DEPTH)?);
            if !self.takes(",") {
                self.must(close)?;
                break;
            }
        }
        Some(fields)
    }

    fn value(&mut self, depth: u8) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            quote @ ('"' | '\'') => self.text(quote).map(Value::from),
            '[' => {
                self.rest = &self.rest[1..];
                let mut items = Vec::new();
                while !self.takes("]") {
                    items.push(self.value(depth)?);
                    if !self.takes(",") {
                        self.must("]")?;
                        break;
                    }
                }
                Some(items.into())
            }
            '{' => {
                self.rest = &self.rest[1..];
                let mut fields = Map::new();
                while !self.takes("}") {
                    let Value::String(name) = self.value(depth)? else { return None };
                    self.must(":")?;
                    fields.insert(name, self.value(depth)?);
                    if !self.takes(",") {
                        self.must("}")?;
                        break;
                    }
                }
                Some(fields.into())
            }
            '-' | '0'..='9' => {
                let other =
                    |c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'));
                let end = self.rest.find(other).unwrap_or(self.rest.len());
                let (number, rest) = self.rest.split_at(end);
                self.rest = rest;
                number.parse::<Number>().ok().map(Value::from)
            }
            _ => match self.name()? {
                "True" | "true" => Some(true.into()),
                "False" | "false" => Some(false.into()),
                "None" | "null" => Some(Value::Null),
                _ => None,
            },
        }
    }

    fn text(&mut self, quote: char) -> Option<String> {
        let long = if quote == '"' { "\"\"\"" } else { "'''" };
        let close = if self.rest.starts_with(long) { long } else { &long[..1] };
        self.rest = &self.rest[close.len()..];
        let mut said = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Some(said);
            }
            let mut letters = self.rest.chars();
            match letters.next()? {
                '\\' => match letters.next()? {
                    'n' => said.push('\n'),
                    't' => said.push('\t'),
                    'r' => said.push('\r'),
                    same @ ('\\' | '"' | '\'') => said.push(same),
                    other => said.extend(['\\', other]),
                },
                '\n' if close.len() == 1 => return None,
                letter => said.push(letter),
            }
            self.rest = letters.as_str();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        let calls = calls(text)?;
        Some(calls.iter().map(|(name, args)| format!("{name}{args}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn calls_with_literals_are_read_and_nothing_else_is() {
        assert_eq!(
            read(r#"[f(a="x\n\"y\"", b=-1.5, c=[1, 'z'], d={"k": None}), g()]"#).as_deref(),
            Some(r#"f{"a":"x\n\"y\"","b":-1.5,"c":[1,"z"],"d":{"k":null}} g{}"#)
        );
        assert_eq!(
            read("f(a=True,)\ng(b='''two\nlines''')").as_deref(),
            Some(r#"f{"a":true} g{"b":"two\nlines"}"#)
        );
        for other in [
            "",
            "f",
            "f(",
            "f(1)",
            "f(a=b)",
            "f(a=g())",
            "f() + 1",
            "[f()",
            "f(a='x)",
            "print(f(a=1))",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(read(&format!("f(a={})", "[".repeat(50))), None);
    }
}
