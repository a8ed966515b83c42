//! A journal read by somebody who only looks: the session may be in use, and is not changed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::{JournalError, Sessions};
use crate::core::event::Event;

/// The longest record that is read.
const LINE_BYTES: u64 = 256 << 20;

impl Sessions {
    /// Gives each record of a session to `take`, in order, and returns the session's id. Fails as
    /// [`find`](Self::find) and [`look_at`] do.
    pub fn events(&self, id: &str, take: impl FnMut(Event)) -> Result<String, JournalError> {
        let id = self.find(id)?;
        look_at(&self.dir.join(&id).join("journal.jsonl"), take)?;
        Ok(id)
    }
}

/// Gives each record of a journal to `take`, in order. A last line that is not finished yet, or
/// never will be, is left out; a line longer than 256 MiB counts as one, and ends the reading.
/// Fails when the file cannot be read, or at a line that is no record; those before it were given.
pub fn look_at(path: &Path, mut take: impl FnMut(Event)) -> Result<(), JournalError> {
    let failed = |cause| JournalError::Unwritable { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut bounded = io::Read::take(&mut reader, LINE_BYTES);
        bounded.read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let event = serde_json::from_slice(&line).map_err(|e| JournalError::Unreadable {
            path: path.to_owned(),
            line: number,
            what: e.to_string(),
        })?;
        take(event);
    }
    Ok(())
}
