//! Reads recorded sessions: a line of the corpus goes in, a session's steps come out.
//! Knows the shape of the records and nothing of what they are good for.

use std::io::{self, BufRead, Read};
use std::time::Duration;

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
#[error("line {line} is no recorded session: {what}")]
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

/// Reads the text of a corpus or of a journal, packed with zstd or not. Fails when it cannot be
/// read or unpacked, is larger than 1 GiB unpacked, or is not UTF-8.
pub fn text(mut packed_or_not: impl BufRead) -> io::Result<String> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let packed = packed_or_not.fill_buf()?.starts_with(&ZSTD);
    let mut bytes = Vec::new();
    if packed {
        let unpacked = ruzstd::decoding::StreamingDecoder::new(packed_or_not);
        let unpacked = unpacked.map_err(|error| io::Error::other(error.to_string()))?;
        unpacked.take(TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        packed_or_not.take(TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > TEXT_BYTES {
        return Err(io::Error::other("it is larger than 1 GiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))
}
