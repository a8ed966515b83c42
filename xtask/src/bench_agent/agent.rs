//! The agent as a command line: a template comes in, a command for one run comes out, with an
//! environment in which it finds the model, a new home and nothing of the user's.
//! Never starts anything but the build of our own agent.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use vtcode_testkit::ScriptedModel;

use super::Wire;

/// An agent and how to talk to it.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    /// The command line, with `{url}`, `{prompt}` and `{dir}`.
    pub(super) words: Vec<String>,
    pub(super) wire: Wire,
    /// Its shell tool.
    pub(super) tool: String,
    /// The field of the tool's arguments that takes the command line.
    pub(super) field: String,
    /// Files for its home folder.
    pub(super) home: Option<PathBuf>,
    /// How long a run may take.
    pub(super) timeout: Duration,
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

impl Agent {
    /// Returns the command of a run whose home is `home`, an empty folder.
    pub(super) fn command(
        &self,
        model: &ScriptedModel,
        prompt: &str,
        dir: &Path,
        home: &Path,
    ) -> anyhow::Result<Command> {
        let url = match self.wire {
            Wire::Chat => model.openai_url(),
            Wire::Anthropic => model.anthropic_url(),
        };
        let dir_text = dir.to_str().context("the temporary folder's path is not UTF-8")?;
        let fill =
            |word: &String| fill(word, &[("url", &url), ("prompt", prompt), ("dir", dir_text)]);
        let mut words = self.words.iter().map(fill);
        let program = words.next().context("the agent's command line is empty")?;
        if let Some(from) = &self.home {
            copy_filled(from, home, &url)
                .with_context(|| format!("cannot copy `{}`", from.display()))?;
        }
        let mut command = Command::new(program);
        command.args(words).current_dir(dir);
        for (name, _) in std::env::vars_os() {
            // What the user set for their own vtcode is not what is measured.
            if name.to_string_lossy().starts_with("VTCODE_") {
                command.env_remove(name);
            }
        }
        for name in ["CONFIG", "DATA", "STATE", "CACHE"] {
            command.env(format!("XDG_{name}_HOME"), home.join(name.to_lowercase()));
        }
        command
            .env("HOME", home)
            .env("OPENAI_BASE_URL", model.openai_url())
            .env("OPENAI_API_KEY", "test")
            .env("ANTHROPIC_BASE_URL", model.anthropic_url())
            .env("ANTHROPIC_API_KEY", "test")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        Ok(command)
    }
}

/// Puts the values in the places of their names. What a value contains is not filled in again.
fn fill(word: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = word;
    'next: while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        for (name, value) in values {
            let after = rest[1..].strip_prefix(name).and_then(|rest| rest.strip_prefix('}'));
            if let Some(after) = after {
                filled.push_str(value);
                rest = after;
                continue 'next;
            }
        }
        filled.push('{');
        rest = &rest[1..];
    }
    filled + rest
}

/// Copies a folder's files, with the model's address filled in where a file is text.
fn copy_filled(from: &Path, to: &Path, url: &str) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, to) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy_filled(&path, &to, url)?;
        } else {
            let bytes = match String::from_utf8(fs::read(&path)?) {
                Ok(text) => fill(&text, &[("url", url)]).into_bytes(),
                Err(error) => error.into_bytes(),
            };
            fs::write(to, bytes)?;
        }
    }
    Ok(())
}

/// Splits a command line at its spaces, but not inside quotes; there are no escapes.
pub(super) fn split(line: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quote in the agent's command line is not closed");
    words.extend(word);
    ensure!(!words.is_empty(), "the agent's command line is empty");
    Ok(words)
}

/// Returns the command line of our own agent.
pub(super) fn vtcode(program: &Path, wire: Wire) -> Vec<String> {
    let provider = match wire {
        Wire::Chat => "openai",
        Wire::Anthropic => "anthropic",
    };
    let program = program.to_string_lossy();
    [&program, "exec", "--provider", provider, "--base-url", "{url}", "-m", "bench", "-C", "{dir}"]
        .into_iter()
        .chain(["{prompt}"])
        .map(str::to_owned)
        .collect()
}

/// Builds the workspace's programs for release and returns where this one is. All of them, because
/// cargo unites what they ask of their dependencies: alone, some would be compiled once more.
pub(crate) fn build_for_release(program: &str) -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        // `cargo xtask` told these about xtask. Build scripts that look at them would run again,
        // and half the tree would be built again after them.
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "--release", "--locked", "--bins"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(built.status.success(), "{program} could not be built");
    match executable(&String::from_utf8_lossy(&built.stdout), program) {
        Some(path) => Ok(path),
        None => bail!("cargo built {program}, but did not say where it is"),
    }
}

/// Finds the program in what cargo says about a build.
fn executable(messages: &str, program: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == program)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_a_word_together() {
        let words = split(r#"  pi --say "two  words" 'a "quoted" one' --x='y z' '' "#).unwrap();
        assert_eq!(words, ["pi", "--say", "two  words", r#"a "quoted" one"#, "--x=y z", ""]);
        assert!(split("pi 'open").unwrap_err().to_string().contains("not closed"));
        assert!(split("   ").unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn a_prompt_that_names_a_placeholder_is_left_alone() {
        let values = [("url", "http://x"), ("prompt", "say {url} and {dir}"), ("dir", "/d")];
        assert_eq!(fill("{prompt}", &values), "say {url} and {dir}");
        assert_eq!(fill("--at={url}/v1:{dir}", &values), "--at=http://x/v1:/d");
        assert_eq!(fill("{{dir} {unknown} {", &values), "{/d {unknown} {");
    }

    #[test]
    fn a_home_is_copied_with_the_address_in_its_files() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join(".agent")).unwrap();
        fs::write(from.path().join(".agent/config.json"), r#"{"baseUrl": "{url}"}"#).unwrap();
        fs::write(from.path().join("binary"), b"\xff{url}").unwrap();
        copy_filled(from.path(), to.path(), "http://x").unwrap();
        let read = |name| fs::read(to.path().join(name)).unwrap();
        assert_eq!(read(".agent/config.json"), br#"{"baseUrl": "http://x"}"#);
        assert_eq!(read("binary"), b"\xff{url}");
    }

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"vtcode"},"executable":"/t/release/vtcode"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "vtcode"), Some(PathBuf::from("/t/release/vtcode")));
        assert_eq!(executable(r#"{"reason":"build-finished"}"#, "vtcode"), None);
    }
}
