//! What speaks for a file: a session's state goes in, the features that hold come out.

#[allow(clippy::enum_glob_use, reason = "nearly all of some ninety are named here")]
use super::weights::Feature::{self, *};
use super::{Predictor, Source, Span, folder_of, name_of};

/// Where the session stands.
#[derive(Debug, Default)]
pub(super) struct Setting {
    /// Counts the model's steps, from 1.
    pub(super) step: u32,
    prompt_step: u32,
    /// What the latest result was of, and in which step.
    last: Option<(Source, bool)>,
    told_step: u32,
    results: u32,
    /// The file read last, and the one edited last.
    pub(super) read: Option<usize>,
    pub(super) edited: Option<usize>,
}

impl Setting {
    pub(super) fn prompt(&mut self) {
        self.prompt_step = self.step;
        self.last = None;
    }

    pub(super) fn next(&mut self) {
        self.step += 1;
    }

    pub(super) fn told(&mut self, source: Source, failed: bool) {
        if self.told_step != self.step {
            (self.told_step, self.results) = (self.step, 0);
        }
        self.results += 1;
        self.last = Some((source, failed));
    }
}

impl Predictor {
    /// Gives each feature that holds for a file.
    pub(super) fn features(&self, id: usize, mut give: impl FnMut(Feature)) {
        let (file, setting) = (&self.files[id], &self.setting);
        let now = setting.step;
        let is_now = |step: Option<u32>| step == Some(now);
        give(Always);
        give(file.class);

        // What the latest result was, together with what this file has to do with it.
        let read_step = file.read.map(|read| read.step);
        let mentioned = file.mentioned;
        let relation = if is_now(file.edited_step) {
            0
        } else if is_now(read_step) {
            1
        } else if mentioned.is_some_and(|m| m.step == now && m.source != Source::Words) {
            2
        } else if mentioned.is_some_and(|m| m.step == now) {
            3
        } else {
            4
        };
        let row: [Feature; 5] = match setting.last {
            None => [AfterPrompt; 5],
            Some((Source::Search, _)) => {
                [SearchOther, SearchSame, SearchNamed, SearchSaid, SearchOther]
            }
            Some((Source::List, _)) => [ListOther, ListOther, ListNamed, ListSaid, ListOther],
            Some((Source::Git, _)) => [GitOther, GitOther, GitNamed, GitSaid, GitOther],
            Some((Source::Check, true)) => {
                [FailureOther, FailureOther, FailureNamed, FailureSaid, FailureOther]
            }
            Some((Source::Check, false)) => {
                [CheckOther, CheckOther, CheckNamed, CheckSaid, CheckOther]
            }
            Some((Source::Text, _)) => [TextSame, TextSame, TextNamed, TextSaid, TextOther],
            Some((Source::Edit, true)) => [EditFailed, EditFailed, EditOther, EditOther, EditOther],
            Some((Source::Edit, false)) => [EditSame, EditSame, EditOther, EditSaid, EditOther],
            Some(_) => [CommandOther, CommandOther, CommandNamed, CommandSaid, CommandOther],
        };
        give(row[relation]);

        if let Some(m) = mentioned {
            give(match now - m.step {
                0 => MentionedNow,
                1 => Mentioned1,
                2 => Mentioned2,
                3..=5 => Mentioned5,
                6..=15 => Mentioned15,
                _ => MentionedLong,
            });
            if m.step != now {
                give(match m.source {
                    Source::Prompt => WasInPrompt,
                    Source::Words => WasInWords,
                    Source::Search => WasInSearch,
                    Source::List => WasInList,
                    Source::Git => WasInGit,
                    Source::Check => WasInCheck,
                    Source::Text => WasInText,
                    Source::Edit => WasInEdit,
                    Source::Command => WasInCommand,
                });
            }
            give(match m.rank {
                0 => Rank1,
                1..=2 => Rank3,
                3..=7 => Rank8,
                _ => RankLow,
            });
            give(match m.of {
                0..=1 => Alone,
                2..=3 => Of3,
                4..=8 => Of8,
                _ => OfMany,
            });
            if m.line.is_some() {
                give(HasLine);
            }
        } else {
            give(NeverMentioned);
        }
        give(match file.mentions {
            0..=1 => Mentions1,
            2 => Mentions2,
            3..=5 => Mentions5,
            _ => MentionsMany,
        });
        if file.in_prompt {
            give(InPrompt);
        }

        match file.read {
            None => give(NeverRead),
            Some(read) => {
                give(match file.reads {
                    1 => Reads1,
                    2..=3 => Reads3,
                    _ => ReadsMany,
                });
                give(match now - read.step {
                    0 => ReadNow,
                    1 => Read1,
                    2..=3 => Read3,
                    4..=10 => Read10,
                    _ => ReadLong,
                });
                let changed = file.edited_step.is_some_and(|edited| edited >= read.step);
                give(match (read.span, changed) {
                    (Span::Whole, false) => ReadWhole,
                    (Span::Lines { .. }, false) => ReadPart,
                    (_, true) => ReadChanged,
                });
            }
        }
        if let Some(step) = file.edited_step {
            give(match now - step {
                0 => EditedNow,
                1 => Edited1,
                2..=3 => Edited3,
                4..=10 => Edited10,
                _ => EditedLong,
            });
            give(if file.edits == 1 { Edits1 } else { EditsMany });
        }

        for (other, folder, pair) in
            [(setting.read, NearRead, PairOfRead), (setting.edited, NearEdited, PairOfEdited)]
        {
            let Some(other) = other.filter(|&other| other != id) else { continue };
            let other = &self.files[other].path;
            if folder_of(other) == folder_of(&file.path) {
                give(folder);
            }
            if is_pair(name_of(other), name_of(&file.path)) {
                give(pair);
            }
        }
        if !file.path.contains('/') {
            give(BareName);
        }
        give(match now - setting.prompt_step {
            0..=2 => Early,
            3..=8 => Midway,
            _ => Late,
        });
        if setting.results > 1 {
            give(SeveralResults);
        }
    }
}

/// Returns whether one file tests the other, by their names.
fn is_pair(a: &str, b: &str) -> bool {
    let (a, b) = (stem(a), stem(b));
    if a == b {
        return false;
    }
    let tests = |test: &str, tested: &str| {
        let bare = test
            .strip_suffix("_test")
            .or_else(|| test.strip_suffix(".test"))
            .or_else(|| test.strip_suffix(".spec"))
            .or_else(|| test.strip_suffix("_spec"))
            .or_else(|| test.strip_suffix("Test"))
            .or_else(|| test.strip_prefix("test_"));
        bare == Some(tested)
    };
    tests(a, b) || tests(b, a)
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Returns what kind of file a path names.
pub(super) fn class_of(path: &str) -> Feature {
    let name = name_of(path);
    let stem = stem(name);
    let is_test = stem.ends_with("_test")
        || matches!(stem.rsplit_once('.'), Some((_, "test" | "spec")))
        || stem.starts_with("test_")
        || path.split('/').any(|part| matches!(part, "tests" | "test" | "__tests__"));
    let Some((_, extension)) = name.rsplit_once('.') else { return IsOther };
    match extension {
        "md" | "txt" | "rst" | "adoc" | "mdx" => IsDoc,
        "json" | "toml" | "yaml" | "yml" | "ini" | "cfg" | "lock" | "mod" | "sum" | "xml" => {
            IsConfig
        }
        "log" | "output" | "out" | "png" | "jpg" | "svg" | "pdf" | "zip" | "gz" => IsOther,
        _ if is_test => IsTest,
        _ => IsSource,
    }
}
