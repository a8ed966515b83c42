//! The configuration's files: a folder and the environment in, [`Settings`] out.
//! Reads the user's own file and that of the folder, bounded, and lays them with the environment.
//! Never follows a folder's file out of the folder.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::credentials;
use crate::config::env::Env;
use crate::config::layers::{ConfigError, Settings, Sources};

/// What the files are called.
const NAME: &str = "vtcode.toml";

/// The longest configuration file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Settings that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {why}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// What was written cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Returns the settings that hold in a folder, which must be canonical. `command_line` has key,
/// value and option of each setting that was made there. Fails when a file is there but cannot be
/// read, is longer than 1 MiB or leads out of the folder, and when what was written cannot be used.
/// Panics when the command line names a key that there is not.
pub fn settings(
    folder: &Path,
    command_line: Vec<(&'static str, String, &'static str)>,
    env: &Env,
) -> Result<Settings, SettingsError> {
    Ok(Settings::resolve(&sources(folder, command_line, env)?, env)?)
}

/// Reads what the settings are made of.
pub(super) fn sources(
    folder: &Path,
    command_line: Vec<(&'static str, String, &'static str)>,
    env: &Env,
) -> Result<Sources, SettingsError> {
    Ok(Sources {
        user_file: user_file(env).map(read).transpose()?.flatten(),
        workspace_file: read(inside(folder)?)?,
        command_line,
    })
}

/// Returns where the user's own file is, whether it is there or not.
pub(super) fn user_file(env: &Env) -> Option<PathBuf> {
    env.config_dir().map(|dir| dir.join(NAME))
}

/// What the file of the user's keys is called.
const CREDENTIALS: &str = "credentials.toml";

/// Adds the keys of the user's own file, `$XDG_CONFIG_HOME/vtcode/credentials.toml`, if there is
/// one. Fails when it cannot be read, is longer than 1 MiB, may be used by others, or holds
/// anything but keys.
pub fn with_credentials(env: Env) -> Result<Env, SettingsError> {
    let Some(path) = env.config_dir().map(|dir| dir.join(CREDENTIALS)) else { return Ok(env) };
    let Some((path, text)) = read(path)? else { return Ok(env) };
    let cannot = |why: String| SettingsError::Unreadable { path: path.clone(), why };
    let mode = std::fs::metadata(&path).map_err(|e| cannot(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "it holds keys, and others may read it (mode {:o}); take that back with chmod 600",
            mode & 0o777
        );
        return Err(cannot(why));
    }
    let keys = credentials::parse(&text).map_err(cannot)?;
    Ok(env.with_keys(keys))
}

/// Returns the path of a folder's own file. What an error quotes from it may be read by others,
/// so a repository must not make it a link to a file of the user's.
fn inside(folder: &Path) -> Result<PathBuf, SettingsError> {
    let path = folder.join(NAME);
    match path.canonicalize() {
        Ok(target) if !target.starts_with(folder) => {
            let why = "it is a link out of the folder".to_owned();
            Err(SettingsError::Unreadable { path, why })
        }
        // One that is not there, or cannot be read, is told when it is read.
        _ => Ok(path),
    }
}

pub(super) fn read(path: PathBuf) -> Result<Option<(PathBuf, String)>, SettingsError> {
    let cannot = |why: String| SettingsError::Unreadable { path: path.clone(), why };
    match std::fs::metadata(&path) {
        // To open a pipe would wait for its writer.
        Ok(data) if !data.is_file() => return Err(cannot("it is not a file".to_owned())),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e.to_string())),
    }
    let mut text = String::new();
    let read = std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    read.map_err(|e| cannot(e.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(cannot("it is longer than 1 MiB".to_owned()));
    }
    Ok(Some((path, text)))
}
