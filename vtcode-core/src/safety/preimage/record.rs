//! What is written down of a change: what a path was before and after it, one line of JSON each.
//! Names keep every byte, whatever their encoding. Never holds a file's content, only its hash.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// The BLAKE3 hash of its content, in hex: its name in the store.
        hash: String,
        /// Its length in bytes.
        bytes: u64,
        /// Its permissions, of the lowest nine bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Its text.
        #[serde(with = "name")]
        target: PathBuf,
    },
    /// A folder, whatever is in it.
    Folder {
        /// Its permissions, of the lowest nine bits.
        mode: u32,
    },
    /// Something that was not kept.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Record {
    /// A path was about to change, or was found changed by a command.
    Change(Change),
    /// A change that was announced did not happen.
    Cancelled { id: u64 },
    /// A file is about to be made under this name, to take another's place once it is whole.
    Aside {
        #[serde(with = "name")]
        path: PathBuf,
    },
    /// None of the files made so far lies aside any more.
    Swept,
    /// A command begins that may change anything.
    CommandStarted { turn: u32 },
    /// What commands changed up to here is written down.
    CommandsSettled,
    /// The turn `by` undid these turns.
    Undone { turns: Vec<u32>, by: u32 },
}

/// One change of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// Counts the changes of the session.
    pub(super) id: u64,
    pub(super) turn: u32,
    /// Absolute, without links in the folders above it.
    #[serde(with = "name")]
    pub(super) path: PathBuf,
    pub(super) before: State,
    pub(super) after: State,
}

/// Reads the lines of a log. A line that cannot be read is a torn one: its change is missing, and
/// what came after it on the same path shows that.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<Record>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    Ok(text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// A path as text where it is UTF-8, else as its bytes.
mod name {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => s.serialize_str(text),
            None => path.as_os_str().as_bytes().serialize(s),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        Ok(match Name::deserialize(d)? {
            Name::Text(text) => PathBuf::from(text),
            Name::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}
