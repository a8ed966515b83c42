//! What is known of git's subcommands: the arguments come in, the harm that they do goes out.
//! Options that make git run a program are never let through; what only loses or sends work is
//! the user's to say.

use super::super::Harm;
use super::{NETWORK, OUTSIDE, destructive, escalates, refused};

const RUNS: Harm = refused(
    "git-runs-a-program",
    "this option makes git run a program of its own choosing; run git without it",
);
const ELSEWHERE: Harm = escalates(
    "git-elsewhere",
    "it makes git work in another repository, and git obeys the configuration that it finds there; \
     run it in the workspace without -C, --git-dir and --work-tree",
);
const LOSES: Harm = destructive(
    "git-loses-work",
    "it throws away changes that are not committed; commit or stash them first, or change the \
     files with edit_file",
);
const HISTORY: Harm = destructive(
    "git-rewrites-history",
    "it removes or rewrites history; make a new commit instead (`git revert`)",
);
const CONFIG: Harm =
    escalates("git-config", "it sets what git later runs or obeys; leave that to the user");

/// Global options that take a word.
pub(in super::super) const TAKES: &[&str] = &[
    "-C",
    "-c",
    "--git-dir",
    "--work-tree",
    "--namespace",
    "--exec-path",
    "--config-env",
    "--super-prefix",
    "--attr-source",
    "--list-cmds",
];

/// Keys of the configuration that name no program and no place.
const PLAIN_KEYS: &[&str] = &[
    "advice.",
    "branch.autosetup",
    "color.",
    "column.",
    "commit.gpgsign",
    "commit.verbose",
    "core.abbrev",
    "core.autocrlf",
    "core.bare",
    "core.compression",
    "core.eol",
    "core.filemode",
    "core.ignorecase",
    "core.longpaths",
    "core.precomposeunicode",
    "core.preloadindex",
    "core.quotepath",
    "core.safecrlf",
    "core.symlinks",
    "core.whitespace",
    "diff.algorithm",
    "diff.colormoved",
    "diff.context",
    "diff.mnemonicprefix",
    "diff.noprefix",
    "diff.renames",
    "diff.renamelimit",
    "fetch.prune",
    "format.pretty",
    "gc.auto",
    "init.defaultbranch",
    "log.",
    "merge.conflictstyle",
    "merge.ff",
    "pull.ff",
    "pull.rebase",
    "push.default",
    "rebase.autosquash",
    "rebase.autostash",
    "status.",
    "tag.gpgsign",
    "user.email",
    "user.name",
];

pub(super) fn harm(args: &[Option<String>]) -> Vec<Harm> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(Some(arg)) = args.get(at) {
        if !arg.starts_with('-') {
            break;
        }
        let (option, joined) = match arg.split_once('=') {
            Some((option, value)) if arg.starts_with("--") => (option, Some(value)),
            _ => (arg.as_str(), None),
        };
        let next = args.get(at + 1).and_then(Option::as_deref);
        let takes = TAKES.contains(&option);
        match option {
            // One that is not known may be any.
            "-c" | "--config-env" if joined.or(next).is_some_and(is_plain) => {}
            "-c" | "--config-env" => found.push(RUNS),
            "--exec-path" if joined.is_some() => found.push(RUNS),
            "--git-dir" | "--work-tree" | "-C" if joined.or(next) != Some(".") => {
                found.push(ELSEWHERE);
            }
            _ if !option.starts_with("--") => {
                // Git knows no such spelling yet.
                let setting = option.strip_prefix("-c");
                found.extend(setting.filter(|setting| !is_plain(setting)).map(|_| RUNS));
            }
            _ => {}
        }
        at += 1 + usize::from(takes && joined.is_none() && option != "--exec-path");
    }
    let Some(Some(subcommand)) = args.get(at) else { return found };
    let rest: Vec<&str> = args[at + 1..].iter().flatten().map(String::as_str).collect();
    let has = |names: &[&str]| {
        rest.iter().any(|arg| names.contains(&arg.split_once('=').map_or(*arg, |(name, _)| name)))
    };
    // Bundled letters: `-fd`.
    let letter = |letter: char| {
        rest.iter()
            .any(|arg| arg.starts_with('-') && !arg.starts_with("--") && arg[1..].contains(letter))
    };
    let first = rest.iter().find(|arg| !arg.starts_with('-')).copied().unwrap_or_default();
    if has(&["--upload-pack", "--receive-pack"])
        || rest.iter().any(|arg| arg.starts_with("ext::") || arg.contains("=ext::"))
        || matches!(&**subcommand, "clone" | "fetch" | "ls-remote" | "pull") && has(&["-u"])
        || matches!(&**subcommand, "archive" | "push" | "bisect") && has(&["--exec"])
    {
        found.push(RUNS);
    }
    match &**subcommand {
        "reset" if has(&["--hard", "--merge", "--keep"]) => found.push(LOSES),
        "checkout" => {
            let paths = rest.contains(&"--") || rest.iter().any(|arg| matches!(*arg, "." | ":/"));
            let operands = rest.iter().filter(|arg| !arg.starts_with('-')).count();
            let makes_a_branch = letter('b') || has(&["--orphan", "--track"]);
            let forced = has(&["--force", "--ours", "--theirs"]) || letter('f');
            if paths || forced || operands > 1 && !makes_a_branch {
                found.push(LOSES);
            }
            if letter('B') {
                found.push(HISTORY);
            }
        }
        "switch" if has(&["--force", "--discard-changes"]) || letter('f') => found.push(LOSES),
        "switch" if letter('C') || has(&["--force-create"]) => found.push(HISTORY),
        "restore" if !has(&["--staged"]) && !letter('S') || has(&["--worktree"]) || letter('W') => {
            found.push(LOSES);
        }
        "clean" if !has(&["--dry-run"]) && !letter('n') => found.push(LOSES),
        "stash" if matches!(first, "drop" | "clear") => found.push(LOSES),
        "worktree" if first == "remove" => found.push(LOSES),
        "submodule" if first == "deinit" => found.push(LOSES),
        "merge" | "cherry-pick" | "revert" | "am" if has(&["--abort", "--quit"]) => {
            found.push(LOSES);
        }
        "read-tree" if has(&["--reset"]) || letter('u') => found.push(LOSES),
        "rm" | "checkout-index" if letter('f') || has(&["--force"]) => found.push(LOSES),
        "branch"
            if has(&["--delete", "--force", "--move"])
                || letter('D')
                || letter('d')
                || letter('M')
                || letter('f')
                || letter('C') =>
        {
            found.push(HISTORY);
        }
        "tag" if has(&["--delete", "--force"]) || letter('d') || letter('f') => found.push(HISTORY),
        "commit" if has(&["--amend"]) => found.push(HISTORY),
        "reflog" if matches!(first, "expire" | "delete") => found.push(HISTORY),
        "gc" if has(&["--prune"]) => found.push(HISTORY),
        "update-ref" | "filter-branch" | "filter-repo" | "rebase" | "replace" | "prune"
        | "symbolic-ref" => found.push(HISTORY),
        "push" => {
            found.push(NETWORK);
            let forced = has(&["--force", "--force-with-lease", "--mirror", "--delete", "--prune"])
                || letter('f')
                || letter('d')
                || rest.iter().any(|arg| arg.starts_with(['+', ':']));
            if forced {
                found.push(HISTORY);
            }
        }
        "fetch" | "pull" | "clone" | "ls-remote" | "fetch-pack" | "send-pack" | "svn" | "p4"
        | "request-pull" | "send-email" | "imap-send" | "lfs" | "daemon" | "http-push" => {
            found.push(NETWORK);
        }
        "remote" if matches!(first, "update" | "prune" | "show") => found.push(NETWORK),
        "submodule" if matches!(first, "update" | "add" | "foreach") => found.push(NETWORK),
        "archive" if has(&["--remote"]) => found.push(NETWORK),
        "config" => {
            if has(&["--global", "--system"]) {
                found.push(OUTSIDE);
            }
            let reads = has(&["--get", "--get-all", "--get-regexp", "--list", "--get-urlmatch"])
                || letter('l')
                || matches!(first, "get" | "list");
            let key = match first {
                "set" | "unset" => rest.iter().filter(|arg| !arg.starts_with('-')).nth(1).copied(),
                key => Some(key),
            };
            let operands = rest.iter().filter(|arg| !arg.starts_with('-')).count();
            if !reads && operands > 1 && !key.is_some_and(is_plain) || has(&["--edit"]) {
                found.push(CONFIG);
            }
        }
        _ => {}
    }
    found
}

/// Returns whether a setting (`key` or `key=value`) makes git neither run nor trust anything.
fn is_plain(setting: &str) -> bool {
    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
    let key = key.to_ascii_lowercase();
    if key == "core.pager" || key.starts_with("pager.") {
        // No pager at all, which is what agents mean by it.
        return setting.contains('=') && matches!(value, "" | "cat" | "false");
    }
    PLAIN_KEYS.iter().any(|plain| key == *plain || plain.ends_with('.') && key.starts_with(plain))
}
