//! The process's environment, read once and handed on as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

/// A copy of the environment.
#[derive(Clone, Default)]
pub struct Env {
    vars: BTreeMap<OsString, OsString>,
    /// Keys out of the user's file, which no other process inherits.
    keys: BTreeMap<String, SecretString>,
}

/// Prints the names alone: the values hold keys.
impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.vars.keys()).finish()
    }
}

impl Env {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// Adds keys; where the environment has one itself, that one holds.
    pub(super) fn with_keys(self, keys: BTreeMap<String, SecretString>) -> Self {
        Self { keys, ..self }
    }

    /// Returns a variable, or a key of this name; none when it is unset, empty or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        let own = self.vars.get(OsStr::new(name)).and_then(|value| value.to_str());
        let key = || self.keys.get(name).map(SecretString::expose_secret);
        own.filter(|value| !value.is_empty()).or_else(key)
    }

    /// Returns all variables, without the keys out of the user's file.
    pub fn vars(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.vars.iter()
    }

    /// Returns the state folder, `$XDG_STATE_HOME/vtcode`; none without a home folder.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.dir("XDG_STATE_HOME", ".local/state")
    }

    /// Returns the user's configuration folder, `$XDG_CONFIG_HOME/vtcode`; none without a home
    /// folder.
    pub fn config_dir(&self) -> Option<PathBuf> {
        self.dir("XDG_CONFIG_HOME", ".config")
    }

    /// The XDG rules: a relative path counts as unset.
    fn dir(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let path = |name: &str| {
            let path = PathBuf::from(self.vars.get(OsStr::new(name))?);
            path.is_absolute().then_some(path)
        };
        let base = path(variable).or_else(|| path("HOME").map(|home| home.join(below_home)))?;
        Some(base.join("vtcode"))
    }
}

impl FromIterator<(OsString, OsString)> for Env {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(vars: I) -> Self {
        Self { vars: vars.into_iter().collect(), keys: BTreeMap::new() }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Env {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(vars: I) -> Self {
        let owned = |(name, value)| (OsString::from(name), OsString::from(value));
        vars.into_iter().map(owned).collect()
    }
}
