//! Settings that change while a session runs: a look before each request comes in, what the user's
//! own file now says goes out. Takes over what may change, tells of the rest once, and keeps what
//! held where the file cannot be used. Reads no other file again: what came with a folder, the
//! environment and the command line stay as they were when the session began.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::env::Env;
use crate::config::files::{self, SettingsError};
use crate::config::layers::{ConfigError, KEYS, Key, Origin, Settings, Sources};

/// The keys whose change is taken over while a session runs. What a request begins with, where it
/// goes and what the sandbox allows stay; so does what a part was built with.
const LIVE: [&str; 14] = [
    "limits.max_turns",
    "limits.max_repeats",
    "limits.max_tokens",
    "limits.max_cost_usd",
    "limits.max_wall_s",
    "context.compact_at_percent",
    "context.compact_to_percent",
    "permissions.allow",
    "permissions.ask",
    "permissions.deny",
    "optimization.memory_pool.enabled",
    "optimization.memory_pool.max_string_pool_size",
    "optimization.memory_pool.max_value_pool_size",
    "optimization.memory_pool.max_vec_pool_size",
];

impl Key {
    /// Returns whether a change of it in the user's file is taken over while a session runs.
    pub fn is_live(&self) -> bool {
        LIVE.contains(&self.name)
    }
}

/// Settings, and the user's file that they came from.
#[derive(Debug)]
pub struct Reload {
    path: Option<PathBuf>,
    seen: Option<Stamp>,
    /// As they were when the session began.
    sources: Sources,
    env: Env,
    /// What holds.
    settings: Settings,
    /// What a run would begin with that starts now.
    next_run: Settings,
    /// Folders that the session itself may change.
    writable: Vec<PathBuf>,
    told_of_writable: bool,
}

/// What tells one state of a file from another without reading it. The time of the last change to
/// its inode goes in, as no program can set it back.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// What a look at a changed file found.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What holds from now on, where it is not what held before.
    pub settings: Option<Settings>,
    /// What is different, in words.
    pub notes: Vec<String>,
    /// Why the file cannot be used, if so: all stays as it was.
    pub warning: Option<String>,
}

impl Reload {
    /// Reads the settings that hold in a folder, and fails and panics, as [`files::settings`] does.
    pub fn begin(
        folder: &Path,
        command_line: Vec<(&'static str, String, &'static str)>,
        env: &Env,
    ) -> Result<Self, SettingsError> {
        let path = files::user_file(env);
        // Before the text: a change in between is found at the first look.
        let seen = path.as_deref().and_then(stamp);
        let sources = files::sources(folder, command_line, env)?;
        let settings = Settings::resolve(&sources, env)?;
        Ok(Self {
            path,
            seen,
            sources,
            env: env.clone(),
            next_run: settings.clone(),
            settings,
            writable: Vec::new(),
            told_of_writable: false,
        })
    }

    /// Returns what holds.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Says what the session itself may write: a file that lies there is not read again, as its
    /// own model could raise its limits.
    #[must_use]
    pub fn with_writable(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.writable.extend(folders);
        self
    }

    /// Looks at the file; none while it is what it was. `settle` finishes what is to hold, or says
    /// why it cannot: then all stays as it was, as for a file that cannot be read or used, and the
    /// change says why.
    pub fn look(
        &mut self,
        settle: impl FnOnce(&mut Settings) -> Result<(), String>,
    ) -> Option<Change> {
        let path = self.path.clone()?;
        let now = stamp(&path);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        if self.is_writable(&path) {
            if std::mem::replace(&mut self.told_of_writable, true) {
                return None;
            }
            let note = format!(
                "{} changed; it lies where this session may write, so it is read by the next run",
                path.display()
            );
            return Some(Change { settings: None, notes: vec![note], warning: None });
        }
        Some(match self.read_again(&path, settle) {
            Ok((settings, notes)) => Change { settings: Some(settings), notes, warning: None },
            Err(why) => {
                let warning = Some(format!("the settings stay as they were: {why}"));
                Change { settings: None, notes: Vec::new(), warning }
            }
        })
    }

    fn is_writable(&self, path: &Path) -> bool {
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.writable.iter().any(|folder| target.starts_with(folder) || path.starts_with(folder))
    }

    /// Takes over what may change; returns what is different.
    fn read_again(
        &mut self,
        path: &Path,
        settle: impl FnOnce(&mut Settings) -> Result<(), String>,
    ) -> Result<(Settings, Vec<String>), String> {
        let words = |error: ConfigError| error.to_string();
        let file = files::read(path.to_owned()).map_err(|error| error.to_string())?;
        let with = |user_file| Sources {
            user_file,
            workspace_file: self.sources.workspace_file.clone(),
            command_line: self.sources.command_line.clone(),
        };
        let next_run = Settings::resolve(&with(file.clone()), &self.env).map_err(words)?;
        let text = |file: &Option<(PathBuf, String)>| {
            file.as_ref().map_or(String::new(), |(_, text)| text.clone())
        };
        let merged = merged(&text(&self.sources.user_file), &text(&file), path).map_err(words)?;
        let user_file = Some((path.to_owned(), merged));
        let settings = Settings::resolve(&with(user_file), &self.env).map_err(words)?;
        let mut settled = settings.clone();
        settle(&mut settled).map_err(|why| format!("{}: {why}", path.display()))?;
        let mut notes = Vec::new();
        for key in KEYS {
            let [before, now] = [&self.settings, &settings].map(|settings| key.value(settings));
            let [later_before, later] =
                [&self.next_run, &next_run].map(|settings| key.value(settings));
            if before != now {
                notes.push(format!("`{}` is {now} now, not {before}", key.name));
            } else if later_before != later {
                notes.push(format!("`{}` is {later} from the next run on", key.name));
            }
        }
        if self.next_run.named != next_run.named {
            notes.push("`[models]` and `[providers]` hold from the next run on".to_owned());
        }
        (self.settings, self.next_run) = (settings, next_run);
        Ok((settled, notes))
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    let (ino, size) = (data.ino(), data.size());
    Some((ino, size, data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()))
}

/// Returns the user's file as the session began, but with what may change as it is now.
fn merged(began: &str, now: &str, path: &Path) -> Result<String, ConfigError> {
    let parsed = |text: &str| -> Result<toml::Table, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| ConfigError::Syntax {
            origin: Origin::UserFile(path.to_owned()),
            what: error.to_string(),
        })
    };
    let (mut kept, now) = (parsed(began)?, parsed(now)?);
    for name in LIVE {
        let words: Vec<&str> = name.split('.').collect();
        let (last, tables) = words.split_last().expect("a name has a word");
        match at(&now, &words) {
            Some(value) => {
                let mut table = &mut kept;
                for word in tables {
                    let inner = table.entry(*word).or_insert_with(|| toml::Table::new().into());
                    // Both texts were read as settings: what stands there is a table.
                    let toml::Value::Table(inner) = inner else { unreachable!("a section") };
                    table = inner;
                }
                table.insert((*last).to_owned(), value.clone());
            }
            None => remove(&mut kept, &words),
        }
    }
    Ok(kept.to_string())
}

fn at<'a>(table: &'a toml::Table, words: &[&str]) -> Option<&'a toml::Value> {
    let (first, rest) = words.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_table()?, rest) }
}

fn remove(table: &mut toml::Table, words: &[&str]) {
    match words {
        [last] => {
            table.remove(*last);
        }
        [first, rest @ ..] => {
            if let Some(toml::Value::Table(inner)) = table.get_mut(*first) {
                remove(inner, rest);
            }
        }
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(folder: &Path, user: &str, workspace: &str) -> Reload {
        let config = folder.join("config/vtcode");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::create_dir_all(folder.join("work")).unwrap();
        std::fs::write(config.join("vtcode.toml"), user).unwrap();
        std::fs::write(folder.join("work/vtcode.toml"), workspace).unwrap();
        let home = folder.join("config").to_str().unwrap().to_owned();
        let env: Env = [("XDG_CONFIG_HOME", home.as_str())].into_iter().collect();
        Reload::begin(&folder.join("work").canonicalize().unwrap(), Vec::new(), &env).unwrap()
    }

    fn look(reload: &mut Reload) -> Option<Change> {
        reload.look(|_| Ok(()))
    }

    fn write(folder: &Path, text: &str) {
        // As an editor does it: another file in its place.
        let path = folder.join("config/vtcode/vtcode.toml");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    #[test]
    fn every_live_key_is_one_of_the_table_and_none_of_them_opens_a_door() {
        for name in LIVE {
            assert!(KEYS.iter().any(|key| key.name == name), "{name}");
        }
        for door in ["base_url", "sandbox.", "client.", "permissions.approval", "provider", "model"]
        {
            assert!(
                KEYS.iter().all(|key| !(key.name.starts_with(door) && key.is_live())),
                "{door}"
            );
        }
    }

    #[test]
    fn each_live_key_is_taken_over_set_changed_and_taken_back() {
        for name in LIVE {
            let folder = tempfile::tempdir().unwrap();
            let mut reload = begin(folder.path(), "model = \"m\"\n", "");
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            let before = key.value(reload.settings());
            let other = match &*key.wanted() {
                "true or false" => "false",
                "a list of texts" => "[\"ls\"]",
                _ => "7",
            };
            write(folder.path(), &format!("model = \"m\"\n{name} = {other}\n"));
            let change = look(&mut reload).unwrap();
            assert_eq!((change.notes.len(), change.warning), (1, None), "{name}");
            assert_ne!(key.value(&change.settings.unwrap()), before, "{name}");
            assert_eq!(look(&mut reload), None, "it is read when it changes, and not again");
            write(folder.path(), "model = \"m\"\n");
            let change = look(&mut reload).unwrap();
            assert_eq!(key.value(&change.settings.unwrap()), before, "{name}");
        }
    }

    #[test]
    fn any_other_key_is_told_once_and_holds_from_the_next_run_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut reload = begin(folder.path(), "", "");
        write(folder.path(), "model = \"other\"\nlimits.max_turns = 9\npreset = \"debug\"\n");
        let Change { settings, notes, .. } = look(&mut reload).unwrap();
        let settings = settings.unwrap();
        assert_eq!((settings.model, settings.limits.agent.max_turns), (None, 9));
        let says = |notes: &[String], words: &str| notes.iter().any(|note| note.contains(words));
        assert!(says(&notes, "`model` is other from the next run on"), "{notes:?}");
        assert!(says(&notes, "`limits.max_turns` is 9 now, not 100"), "{notes:?}");
        // A preset is none of the live keys, whatever it says of them.
        assert!(says(&notes, "`optimization.memory_pool.enabled` is false from"), "{notes:?}");
        assert!(settings.optimization.memory_pool.enabled);
        write(folder.path(), "model = \"other\"\nlimits.max_turns = 8\npreset = \"debug\"\n");
        let notes = look(&mut reload).unwrap().notes;
        assert_eq!(notes, ["`limits.max_turns` is 8 now, not 9"], "the rest was told");
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing_and_one_that_is_gone_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut reload = begin(folder.path(), "limits.max_turns = 5\n", "");
        let broken = ["limits.max_turns = \"many\"", "= 3", "max_turn = 3", "model = 7"];
        for (nth, text) in broken.into_iter().enumerate() {
            write(folder.path(), &format!("# {nth}\nlimits.max_tokens = 7\n{text}\n"));
            let Change { settings, notes, warning } = look(&mut reload).unwrap();
            assert!(
                warning.unwrap().starts_with("the settings stay") && notes.is_empty(),
                "{text}"
            );
            assert_eq!((settings, reload.settings().limits.agent.max_tokens), (None, None));
            assert_eq!(reload.settings().limits.agent.max_turns, 5);
            assert_eq!(look(&mut reload), None, "it is told once");
        }
        std::fs::remove_file(folder.path().join("config/vtcode/vtcode.toml")).unwrap();
        assert_eq!(look(&mut reload).unwrap().warning, None);
        assert_eq!(reload.settings().limits.agent.max_turns, 100);
        // What cannot be settled is not taken either.
        write(folder.path(), "limits.max_turns = 9\n");
        let change = reload.look(|_| Err("nobody knows the price".to_owned())).unwrap();
        assert!(change.warning.unwrap().contains("vtcode.toml: nobody knows the price"));
        assert_eq!(reload.settings().limits.agent.max_turns, 100);
    }

    #[test]
    fn the_file_of_the_folder_is_not_read_again_and_still_lies_above() {
        let folder = tempfile::tempdir().unwrap();
        let mut reload = begin(folder.path(), "", "limits.max_turns = 5\n");
        std::fs::write(folder.path().join("work/vtcode.toml"), "limits.max_turns = 500\n").unwrap();
        assert_eq!(look(&mut reload), None);
        write(folder.path(), "limits.max_turns = 50\nlimits.max_tokens = 7\n");
        let limits = look(&mut reload).unwrap().settings.unwrap().limits.agent;
        assert_eq!((limits.max_turns, limits.max_tokens), (5, Some(7)));
    }

    #[test]
    fn a_file_that_the_session_may_write_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut reload = begin(&root, "", "").with_writable([root.clone()]);
        for turns in [50, 60] {
            write(&root, &format!("limits.max_turns = {turns}\n"));
            let told = look(&mut reload);
            assert_eq!(told.is_some(), turns == 50, "told once");
            assert_eq!(reload.settings().limits.agent.max_turns, 100);
        }
        // So is one that is a link into it.
        let elsewhere = tempfile::tempdir().unwrap();
        let mut reload = begin(elsewhere.path(), "", "").with_writable([root.clone()]);
        std::fs::write(root.join("mine.toml"), "limits.max_turns = 50\n").unwrap();
        let path = elsewhere.path().join("config/vtcode/vtcode.toml");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(root.join("mine.toml"), &path).unwrap();
        assert!(look(&mut reload).is_some());
        assert_eq!(reload.settings().limits.agent.max_turns, 100);
    }
}
