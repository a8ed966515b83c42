//! A journal read by somebody who only looks: the session may be in use, and is not changed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::{FORMAT, JournalError, Sessions};
use crate::core::event::{Event, EventKind, SessionHeader};

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

/// Reads a line of a journal; the error says why it is no record of one that we know.
pub(super) fn record(line: &[u8]) -> Result<Event, String> {
    let event: Event = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match &event.kind {
        EventKind::SessionStarted(SessionHeader { format, .. }) if *format != FORMAT => {
            Err(format!("its format is {format}, not {FORMAT}"))
        }
        _ => Ok(event),
    }
}

/// Gives each record of a journal to `take`, in order. A last line that is not finished yet, or
/// never will be, is left out; a line longer than 256 MiB counts as one, and ends the reading.
/// Fails when the file cannot be read, or at a line that is no record or tells of another format
/// than [`FORMAT`](super::FORMAT); those before it were given.
pub fn look_at(path: &Path, mut take: impl FnMut(Event)) -> Result<(), JournalError> {
    let failed = |cause| JournalError::Lost { path: path.to_owned(), cause };
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
        let event = record(&line).map_err(|what| JournalError::Unreadable {
            path: path.to_owned(),
            line: number,
            what,
        })?;
        take(event);
    }
    Ok(())
}
