//! What is known of programs: a simple command comes in, whether it only reads goes out.
//! Each row says which programs, and what must not stand among their arguments. A program or a
//! form that no row knows is not proven. Never looks at the files that the words name.

use std::path::Path;

use super::command_line::{Redirect, SimpleCommand, Word};

/// Programs of which no argument makes anything but a reader.
const READERS: &[&str] = &[
    "b2sum",
    "basename",
    "cat",
    "cksum",
    "cmp",
    "column",
    "comm",
    "cut",
    "df",
    "dirname",
    "du",
    "echo",
    "egrep",
    "false",
    "fgrep",
    "fold",
    "grep",
    "head",
    "hexdump",
    "id",
    "join",
    "ls",
    "md5sum",
    "nl",
    "nproc",
    "od",
    "paste",
    "pwd",
    "readlink",
    "realpath",
    "rev",
    "seq",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "sleep",
    "stat",
    "tac",
    "tr",
    "true",
    "type",
    "uname",
    "wc",
    "which",
    "whoami",
];

/// Programs that are readers without certain options.
const READERS_WITHOUT: &[Without] = &[
    Without { name: "base64", short: "o", long: &["--output"] },
    // The pages are made by running `pr`.
    Without { name: "diff", short: "l", long: &["--paginate"] },
    // It compiles a file, or runs a program that unpacks.
    Without {
        name: "file",
        short: "CzZ",
        long: &["--compile", "--uncompress", "--uncompress-noreport"],
    },
    Without { name: "rg", short: "z", long: &["--pre", "--hostname-bin", "--search-zip"] },
    Without {
        name: "sort",
        short: "oT",
        long: &["--output", "--temporary-directory", "--compress-program"],
    },
    // These do not end by themselves.
    Without { name: "tail", short: "fF", long: &["--follow", "--retry"] },
    // With -R it runs itself, each run with an output file.
    Without { name: "tree", short: "oR", long: &["--output"] },
];

/// A row: a program, and the letters and names of the options that it must not get.
struct Without {
    name: &'static str,
    short: &'static str,
    long: &'static [&'static str],
}

/// Arguments of `find` that act; it has no short forms of them.
const FIND_ACTS: &[&str] = &["-exec", "-ok", "-delete", "-fprint", "-fls"];

/// Subcommands of git that read, with the options that make them write or run something.
const GIT_READS: &[&str] = &["blame", "diff", "log", "ls-files", "rev-parse", "show", "status"];
const GIT_ACTS: &[&str] =
    &["--output", "--ext-diff", "--textconv", "--show-signature", "--exec-path", "--paginate"];
const GIT_BRANCH_LISTS: &[&str] =
    &["--list", "--all", "--remotes", "--verbose", "--show-current", "-a", "-r", "-v", "-vv", "-l"];

/// Returns whether `command`, run in the folder `cwd`, only reads.
pub(super) fn only_reads(command: &SimpleCommand, cwd: &Path) -> bool {
    let Some((name, args)) = command.words.split_first() else { return false };
    command.redirects.iter().all(harmless) && {
        match name.text.as_str() {
            name if READERS.contains(&name) => true,
            "[" | "test" => test(args),
            "cd" => cd(args, cwd),
            "date" => date(args),
            "find" => find(args),
            "git" => git(args),
            "printf" => printf(args),
            "hostname" => args.is_empty(),
            "jq" => jq(args),
            "ps" => ps(args),
            "sed" => sed(args),
            "uniq" => one_operand(args),
            "xxd" => one_operand(args) && without(args, "r", &["-revert"]),
            name => READERS_WITHOUT
                .iter()
                .find(|row| row.name == name)
                .is_some_and(|row| without(args, row.short, row.long)),
        }
    }
}

/// Returns whether a redirection only reads, or throws away.
pub(super) fn harmless(redirect: &Redirect) -> bool {
    let target = &redirect.target;
    // Nothing stands where a target should: whatever the parser made of it is not what bash does.
    if target.glob || target.tilde || target.text.is_empty() {
        return false;
    }
    match redirect.operator.as_str() {
        // Below /dev bash itself knows names that open network connections.
        "<" | "0<" => !target.text.contains("/dev/") || target.text == "/dev/null",
        ">" | "1>" | "2>" | ">>" | "1>>" | "2>>" | "&>" | "&>>" => target.text == "/dev/null",
        ">&" | "1>&" | "2>&" => matches!(target.text.as_str(), "1" | "2"),
        _ => false,
    }
}

/// Returns whether no argument can be one of these options. Letters may be bundled, long names be
/// cut short, and options stand anywhere; after `--` too, which costs little.
fn without(args: &[Word], short: &str, long: &[&str]) -> bool {
    !args.iter().any(|arg| {
        if may_be_option(arg) {
            return true;
        }
        match arg.text.strip_prefix('-') {
            Some(rest) if rest.starts_with('-') => is_long(&arg.text, long),
            // `-name` of a program whose long options have one dash counts as both.
            Some(rest) => rest.contains(|c| short.contains(c)) || is_long(&arg.text, long),
            None => false,
        }
    })
}

/// Returns whether `arg` is one of `names`, or short for one.
fn is_long(arg: &str, names: &[&str]) -> bool {
    let given = arg.split_once('=').map_or(arg, |(name, _)| name);
    given.len() > 2 && names.iter().any(|name| name.starts_with(given))
}

/// Returns whether a pattern may match a file that is named like an option.
fn may_be_option(arg: &Word) -> bool {
    arg.glob && arg.text.starts_with(['*', '?', '[', '-'])
}

/// Returns whether there is at most one operand: a second would be written. Values of options are
/// taken for operands.
fn one_operand(args: &[Word]) -> bool {
    let operands = args.iter().filter(|arg| arg.text == "-" || !arg.text.starts_with('-')).count();
    operands <= 1 && !args.iter().any(|arg| arg.glob || arg.text == "--")
}

/// `-v` and `-R` take a variable's name, and bash runs what an index in it says.
fn test(args: &[Word]) -> bool {
    !args.iter().any(|arg| may_be_option(arg) || matches!(arg.text.as_str(), "-v" | "-R"))
}

/// Stays below the folder, so that what the other commands name relatively does too.
fn cd(args: &[Word], cwd: &Path) -> bool {
    let [Word { text, glob: false, tilde: false }] = args else { return false };
    let path = Path::new(text);
    !text.is_empty()
        && !text.starts_with('-')
        && !text.contains("..")
        && (path.is_relative() || path.starts_with(cwd))
}

/// An operand without `+` is a new date.
fn date(args: &[Word]) -> bool {
    without(args, "s", &["--set"]) && {
        let mut is_value = false;
        args.iter().all(|arg| {
            let fits = is_value || arg.text.starts_with(['+', '-']);
            is_value = matches!(arg.text.as_str(), "-d" | "-r" | "-f" | "--date" | "--reference");
            fits && !arg.glob
        })
    }
}

/// `-v` and `%n` set variables, `PATH` for one; with `-v`, bash also runs what an index in the
/// variable's name says.
fn printf(args: &[Word]) -> bool {
    let prints = |format: &Word| {
        format.text.split("%%").flat_map(|part| part.split('%').skip(1)).all(|conversion| {
            let letter = conversion.trim_start_matches(|c| "-+ #0123456789.*hlLjzt'".contains(c));
            letter.starts_with(|c| "sdiouxXeEfFgGaAcbq(".contains(c))
        })
    };
    without(args, "v", &[]) && args.first().is_none_or(|format| !format.glob && prints(format))
}

/// `env` and `$ENV` show the environment; what stands in a file or a module is not looked at.
fn jq(args: &[Word]) -> bool {
    let names = |text: &str| {
        let part = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
        // `.env` is a key, `env.HOME` is not.
        let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        text.split(part).any(|name| matches!(&*first(name), "env" | "ENV" | "import" | "include"))
    };
    without(args, "if", &["--in-place", "--from-file"]) && !args.iter().any(|arg| names(&arg.text))
}

/// With `e` it shows the environment of every process, and the secrets in it.
fn ps(args: &[Word]) -> bool {
    let args: Vec<_> = args.iter().map(|arg| (!arg.glob).then(|| arg.text.clone())).collect();
    !super::harm::shows_environment(&args)
}

fn find(args: &[Word]) -> bool {
    !args
        .iter()
        .any(|arg| may_be_option(arg) || FIND_ACTS.iter().any(|act| arg.text.starts_with(act)))
}

fn git(args: &[Word]) -> bool {
    if args.iter().any(may_be_option) {
        return false;
    }
    let args = match args {
        [first, rest @ ..] if first.text == "--no-pager" => rest,
        all => all,
    };
    let Some((subcommand, args)) = args.split_first() else { return false };
    match subcommand.text.as_str() {
        "branch" => args.iter().all(|arg| GIT_BRANCH_LISTS.contains(&arg.text.as_str())),
        name => GIT_READS.contains(&name) && without(args, "", GIT_ACTS),
    }
}

/// Prints lines by number or pattern, and nothing else: `sed -n '1,20p;/re/=' files`.
fn sed(args: &[Word]) -> bool {
    let quiet = |arg: &Word| matches!(arg.text.as_str(), "-n" | "-nE" | "-En" | "-nr" | "-rn");
    let mut scripts = Vec::new();
    let mut operands = Vec::new();
    let mut is_quiet = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.text.as_str() {
            _ if may_be_option(arg) => return false,
            _ if quiet(arg) => is_quiet = true,
            "-E" | "-r" => {}
            "-e" => match args.next() {
                Some(script) => scripts.push(script),
                None => return false,
            },
            text if text.starts_with('-') => return false,
            _ => operands.push(arg),
        }
    }
    if scripts.is_empty() {
        // The first operand is the script.
        match operands.first() {
            Some(script) => scripts.push(script),
            None => return false,
        }
    }
    is_quiet && scripts.iter().all(|script| !script.glob && prints_lines(&script.text))
}

/// Returns whether a sed script is a list of `p`, `=` and `q`, with or without addresses.
fn prints_lines(script: &str) -> bool {
    script.split([';', '\n']).all(|command| {
        let mut rest = command.trim_matches(' ');
        if let Some(after) = after_address(rest) {
            rest = after;
            if let Some(second) = rest.strip_prefix(',') {
                match after_address(second) {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
        }
        matches!(rest.trim_start_matches(' '), "" | "p" | "=" | "q")
    })
}

/// Returns what follows an address: a number, `$` or `/pattern/`.
fn after_address(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('$') {
        return Some(rest);
    }
    if let Some(pattern) = text.strip_prefix('/') {
        let mut escaped = false;
        for (at, c) in pattern.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '/' => return Some(&pattern[at + 1..]),
                _ => {}
            }
        }
        return None;
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}
