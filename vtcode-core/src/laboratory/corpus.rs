//! Reads recorded sessions: a line of the corpus goes in, a session's steps come out.
//! Knows the shape of the records and nothing of what they are good for.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use serde::Deserialize;
use serde_json::Value;

/// One recorded session.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Session {
    /// The repository that it worked on.
    #[serde(default)]
    pub repo: String,
    /// The agent that ran it.
    #[serde(default)]
    pub agent: String,
    /// The model.
    #[serde(default)]
    pub model: Option<String>,
    /// Its id.
    pub session_id: String,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// One entry of a session.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// The user wrote something.
    User {
        /// How long it was, in bytes.
        #[serde(default)]
        bytes: u64,
        /// The paths it names, with a line behind them where it names one: `src/a.rs:12`.
        #[serde(default)]
        paths: Vec<String>,
    },
    /// The model answered.
    Llm {
        /// From the request to the last word, in milliseconds.
        #[serde(default)]
        llm_ms: Option<u64>,
        /// The tokens it wrote.
        #[serde(default)]
        out_tokens: Option<u64>,
        /// The paths that its words name, written the same way.
        #[serde(default)]
        paths: Vec<String>,
    },
    /// The calls of that answer ran.
    Tool {
        /// Each of them.
        calls: Vec<Call>,
    },
}

/// One tool call and what came of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Call {
    /// The tool, by the agent's name for it.
    pub name: String,
    /// Its arguments; long texts are hashes.
    #[serde(default)]
    pub args: Value,
    /// What kind of call it was: `ro`, `ro_net`, `test`, `write`, `poll`, `agent`, `human`, `meta`.
    #[serde(default)]
    pub cls: String,
    /// Whether it changed nothing.
    #[serde(default)]
    pub read_only: bool,
    /// How long it took, waits for permission included, in milliseconds.
    #[serde(default)]
    pub ms: Option<u64>,
    /// How long it took by the tool's own clock, in milliseconds.
    #[serde(default)]
    pub self_ms: Option<u64>,
    /// Whether it failed.
    #[serde(default)]
    pub error: bool,
    /// The files it changed.
    #[serde(default)]
    pub files: Vec<String>,
    /// The size of its result, in bytes.
    #[serde(default)]
    pub result_bytes: Option<u64>,
    /// A hash of its result; only compared with others of the same session.
    #[serde(default)]
    pub result_sha: Option<String>,
    /// The paths that its result names, with a line behind them where it names one: `src/a.rs:12`.
    #[serde(default)]
    pub result_paths: Vec<String>,
}

/// Why a text is no corpus.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is no recorded session: {what}; mend the line or leave it out")]
pub struct CorpusError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Call {
    /// Returns how long the call ran: by the tool's own clock where it has one. What waits for a
    /// human took no time of the machine's.
    pub fn ran(&self) -> Duration {
        if self.cls == "human" {
            return Duration::ZERO;
        }
        Duration::from_millis(self.self_ms.or(self.ms).unwrap_or(0))
    }
}

impl Step {
    /// Returns whether this is an answer of the model.
    pub fn is_llm(&self) -> bool {
        matches!(self, Self::Llm { .. })
    }
}

/// Reads all sessions of a corpus, one a line as JSON; empty lines are passed over. Fails at the
/// first line that is no session.
pub fn sessions(text: &str) -> Result<Vec<Session>, CorpusError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_str(line)
                .map_err(|error| CorpusError { line: at + 1, what: error.to_string() })
        })
        .collect()
}

/// The largest corpus that is read, unpacked.
const TEXT_BYTES: u64 = 1 << 30;

/// Reads the text of a corpus or of a journal, packed with zstd, in whatever frames, or not. Fails
/// when it cannot be read or unpacked, is larger than 1 GiB unpacked, or is not UTF-8.
pub fn text(mut packed_or_not: impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    if is_packed(packed_or_not.fill_buf()?) {
        unpack(&mut packed_or_not, &mut bytes)?;
    } else {
        packed_or_not.take(TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > TEXT_BYTES {
        return Err(io::Error::other("it is larger than 1 GiB; split it"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| {
        io::Error::other("it is no text (what is packed with anything but zstd must be unpacked)")
    })?;
    // Some programs begin a text with a mark that JSON does not know.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Returns whether a file begins as one of zstd's does, perhaps with a frame that holds no text.
fn is_packed(start: &[u8]) -> bool {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let is_skipped = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    start.starts_with(&ZSTD) || is_skipped
}

/// Unpacks all frames, one behind the other, until there is more than may be.
fn unpack(packed: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    let damaged = |error: &dyn std::fmt::Display| {
        let what = format!("it is damaged or not complete, so get it again ({error})");
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    while !packed.fill_buf()?.is_empty() && bytes.len() as u64 <= TEXT_BYTES {
        match StreamingDecoder::new(&mut *packed) {
            Ok(frame) => {
                let left = TEXT_BYTES + 1 - bytes.len() as u64;
                frame.take(left).read_to_end(bytes).map_err(|error| damaged(&error))?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = u64::from(length);
                if io::copy(&mut packed.take(length), &mut io::sink())? < length {
                    return Err(damaged(&"it ends early"));
                }
            }
            Err(error) => return Err(damaged(&error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs a text without making it smaller: a frame of one raw block.
    fn frame(text: &str) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, text.len() as u8];
        let header = (text.len() as u32) << 3 | 1;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(text.as_bytes());
        frame
    }

    #[test]
    fn a_packed_text_is_read_to_the_end_of_its_last_frame() {
        let mut packed = vec![0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 7, 7, 7];
        packed.extend(frame("one\n"));
        packed.extend(frame("two\n"));
        assert_eq!(text(packed.as_slice()).unwrap(), "one\ntwo\n");
        for length in 1..packed.len() {
            match text(&packed[..length]) {
                // Whole frames, or so few bytes that nobody knows what they are.
                Ok(text) => {
                    assert!(["", "one\n"].contains(&text.as_str()) || length < 4, "{length}");
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("not complete") || said.contains("no text"), "{said}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_corpus_says_what_to_do() {
        assert_eq!(text("\u{feff}{}".as_bytes()).unwrap(), "{}");
        let gzip = [0x1f, 0x8b, 8, 0, 0xff];
        assert!(text(gzip.as_slice()).unwrap_err().to_string().contains("must be unpacked"));
        let error = sessions("\n{\"session_id\":\"a\",\"steps\":[]}\nrubbish\n").unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.to_string().ends_with("; mend the line or leave it out"), "{error}");
    }
}
