//! Writes the documents of the configuration: the table of keys comes in, `docs/config.md` and
//! `vtcode.toml.example` go out. Holds no fact of its own about a key, so that a document cannot
//! disagree with what the program obeys.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use vtcode_core::config::endpoint::known::KNOWN;
use vtcode_core::config::layers::{KEYS, Key};

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    write_below(crate::root())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns each document's path in the repository and its text.
pub(crate) fn documents() -> [(&'static str, String); 2] {
    [("docs/config.md", reference()), ("vtcode.toml.example", example())]
}

pub(crate) fn write_below(root: &Path) -> anyhow::Result<()> {
    for (path, text) in documents() {
        let path = root.join(path);
        let folder = path.parent().context("a document lies in a folder")?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The keys by the table that they stand in, the tables in the order in which they first appear
/// after the keys that stand in none: TOML wants those first.
fn tables() -> Vec<(&'static str, Vec<(&'static str, &'static Key)>)> {
    let mut tables = vec![("", Vec::new())];
    for key in KEYS {
        let (table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        match tables.iter_mut().find(|(known, _)| *known == table) {
            Some((_, keys)) => keys.push((name, key)),
            None => tables.push((table, vec![(name, key)])),
        }
    }
    tables
}

const REFERENCE_OPENING: &str = "\
<!-- Written by `cargo xtask config-docs` from the table in vtcode-core/src/config/layers.rs. -->
# Configuration

A value comes from the last of these layers that names it:

1. the default, as shipped
2. the preset, if one is chosen
3. your file, `$XDG_CONFIG_HOME/vtcode/vtcode.toml` (without that variable `~/.config/vtcode/vtcode.toml`)
4. the workspace's file, `vtcode.toml` in the folder you work in
5. the environment
6. the command line

`vtcode config show` prints every value and the layer it came from, `vtcode config check` reads the files and runs
nothing, `vtcode config init` writes a file of comments to begin with. A key that does not exist and a value that does not fit are errors that say what was meant.
[vtcode.toml.example](../vtcode.toml.example) holds every key with its default, ready to copy.

While a session runs, your own file is looked at before each turn (a `stat`; it is read when it has changed). A key whose change holds *at
once* is taken over then, any other from the next run on, and the session says which, once. A file that cannot be used is told once and what
held before still does. No other layer is read again: a workspace's file cannot change anything in the middle of a session, and above your
own file it keeps what it said at the beginning. Where the session itself could write your file (`--sandbox off`, or it lies in the folder that
is worked in), it is not read again: a model must not raise its own limits.
";

fn reference() -> String {
    let mut text = REFERENCE_OPENING.to_owned();
    for (table, keys) in tables() {
        if table.is_empty() {
            text.push_str("\n## At the top\n\n");
        } else {
            let _ = write!(text, "\n## `[{table}]`\n\n");
        }
        text.push_str("| key | meaning | value | default | variable | a change holds |\n|---|---|---|---|---|---|\n");
        for (name, key) in keys {
            let whose = if key.workspace { "" } else { " (not in a workspace's file)" };
            let meaning = key.doc.replace('|', "\\|");
            let default = key.shipped_toml().map_or_else(|| key.shipped(), |v| format!("`{v}`"));
            let variable = key.env.map_or_else(String::new, |name| format!("`{name}`"));
            let wanted = key.wanted();
            let holds = if key.is_live() { "**at once**" } else { "next run" };
            let _ = writeln!(
                text,
                "| `{name}` | {meaning}{whose} | {wanted} | {default} | {variable} | {holds} |"
            );
        }
    }
    text + &named()
}

const NAMED: &str = "
## `[providers.NAME]`

A server of your own, chosen with `--provider NAME`. Only in your own file: a folder must not redirect your requests or name your keys.

```toml
[providers.work]
wire = \"openai\"                          # or responses, anthropic, gemini; openai unless set
base_url = \"https://gateway.example/v1\"  # as for `base_url`
key_env = \"WORK_KEY\"                     # the variable that holds the key; none: no key is sent
model = \"big-model\"                      # asked when no other is named
headers = { x-team = \"$TEAM\" }           # `$NAME`: what that variable holds; never shown
quirks = \"vllm\"                          # it has the habits of this known server
```

Known servers, each with its address, the variable of its key and its habits (which fields it needs or refuses), all over Chat
Completions; the habits hold, too, when `base_url` names the same host, or the same port of this machine:

| name | address | key |
|---|---|---|
";

const MODELS: &str = "
## `[models.\"NAME\"]`

What you know of a model goes before the list that is built in (`llm/models/table.rs`, with its date); what you leave out is as listed there. Only in your own file.

```toml
[models.\"my-model\"]
context_window = 131072   # tokens of a request and its answer
max_output = 16384        # tokens of an answer
input = 0.5               # US dollars for a million tokens, also `cached` and `output`
images = true             # it reads images
temperature = false       # it refuses to be told one
effort = \"levels\"       # how it is told how hard to think: none, levels, adaptive or budget
```
";

fn named() -> String {
    let mut text = NAMED.to_owned();
    for known in KNOWN {
        let key = known.key_env.map_or_else(|| "none".to_owned(), |key| format!("`{key}`"));
        let _ = writeln!(text, "| `{}` | {} | {key} |", known.name, known.base_url);
    }
    text + MODELS
}

const EXAMPLE_OPENING: &str = "\
# Every key with its default. Copy what you change to `~/.config/vtcode/vtcode.toml`, or to `vtcode.toml` in the
# folder you work in; docs/config.md says which wins. Written by `cargo xtask config-docs`.
";

fn example() -> String {
    let mut text = EXAMPLE_OPENING.to_owned();
    for (table, keys) in tables() {
        if !table.is_empty() {
            let _ = write!(text, "\n[{table}]");
        }
        for (name, key) in keys {
            let _ = write!(text, "\n# {}\n# {}", key.doc, key.wanted());
            if let Some(variable) = key.env {
                let _ = write!(text, "; also ${variable}");
            }
            if !key.workspace {
                text.push_str("; not in a workspace's file");
            }
            let _ = match key.shipped_toml() {
                Some(value) => writeln!(text, "\n#{name} = {value}"),
                None => writeln!(text, "\n#{name} =   # {}", key.shipped()),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use vtcode_core::config::env::Env;
    use vtcode_core::config::layers::{Settings, Sources};

    use super::*;

    fn resolve(text: String) -> Settings {
        let sources =
            Sources { user_file: Some(("vtcode.toml".into(), text)), ..Sources::default() };
        Settings::resolve(&sources, &Env::default()).unwrap()
    }

    fn shown(settings: &Settings) -> Vec<(&'static str, String)> {
        settings.show().map(|(key, value, _)| (key.name, value)).collect()
    }

    #[test]
    fn the_example_changes_nothing_as_it_stands() {
        assert_eq!(resolve(example()), Settings::default());
    }

    #[test]
    fn the_example_changes_nothing_when_its_defaults_are_taken() {
        let mut taken = 0;
        let lines: Vec<String> = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(set) if set.starts_with(char::is_alphabetic) && !set.contains("=   #") => {
                    taken += 1;
                    set.to_owned()
                }
                _ => line.to_owned(),
            })
            .collect();
        assert!(taken > KEYS.len() / 2, "{taken} keys have a default");
        let settings = resolve(lines.join("\n"));
        assert_eq!(shown(&settings), shown(&Settings::default()));
    }

    #[test]
    fn every_key_stands_in_both_documents_with_its_variable() {
        let (reference, example) = (reference(), example());
        for key in KEYS {
            let name = key.name.rsplit('.').next().unwrap();
            assert!(reference.contains(&format!("| `{name}` | ")), "{name}");
            assert!(example.contains(&format!("\n#{name} =")), "{name}");
            if let Some(variable) = key.env {
                assert!(reference.contains(&format!(" | `{variable}` |")), "{variable}");
                assert!(example.contains(&format!("; also ${variable}")), "{variable}");
            }
        }
    }
}
