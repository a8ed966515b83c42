//! The process's environment, read once and handed on as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// A copy of the environment.
#[derive(Clone, Default)]
pub struct Env {
    vars: BTreeMap<OsString, OsString>,
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

    /// Returns a variable; none when it is unset, empty or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.vars.get(OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    /// Returns all variables.
    pub fn vars(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.vars.iter()
    }

    /// Returns the state folder, `$XDG_STATE_HOME/vtcode`; none without a home folder.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.dir("XDG_STATE_HOME", ".local/state")
    }

    /// Returns the user's configuration folder, `$XDG_CONFIG_HOME/vtcode`.
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
        Self { vars: vars.into_iter().collect() }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Env {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(vars: I) -> Self {
        let owned = |(name, value)| (OsString::from(name), OsString::from(value));
        vars.into_iter().map(owned).collect()
    }
}
