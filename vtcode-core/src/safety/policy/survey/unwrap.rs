//! Commands that run others: a command comes in, what it runs goes out.
//! Knows how many words of its own each of them takes before the other command begins.

use super::{Found, SHELLS};

/// What a command runs.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Runs {
    Nothing,
    /// Other commands.
    Commands(Vec<Found>),
    /// Command lines; none: one that is not known.
    Lines(Vec<Option<String>>),
    /// What its input says.
    Input,
}

/// A program that runs the command that follows its own words.
struct Wrapper {
    name: &'static str,
    /// Letters and names of its options that take a word.
    takes: &'static [&'static str],
    /// How many words of its own follow the options.
    operands: usize,
    /// It appends words of its own.
    appends: bool,
}

const fn wrapper(name: &'static str, takes: &'static [&'static str], operands: usize) -> Wrapper {
    Wrapper { name, takes, operands, appends: false }
}

const WRAPPERS: &[Wrapper] = &[
    wrapper("builtin", &[], 0),
    wrapper("busybox", &[], 0),
    wrapper("toybox", &[], 0),
    wrapper("chronic", &[], 0),
    wrapper("chrt", &["-T", "-P", "-D"], 1),
    wrapper("command", &[], 0),
    wrapper("coproc", &[], 0),
    wrapper("doas", &["-u", "-C"], 0),
    wrapper("env", &["-u", "--unset", "-C", "--chdir"], 0),
    wrapper("exec", &["-a"], 0),
    wrapper("flock", &["-w", "--timeout", "-E"], 1),
    wrapper("ionice", &["-c", "-n", "--class", "--classdata"], 0),
    wrapper("nice", &["-n", "--adjustment"], 0),
    wrapper("nohup", &[], 0),
    wrapper("nsenter", &["-t", "-S", "-G"], 0),
    wrapper("pkexec", &["--user"], 0),
    wrapper("proxychains", &["-f"], 0),
    wrapper("runuser", &["-u", "-g", "-G"], 0),
    wrapper("script", &["-c"], 0),
    wrapper("setarch", &[], 1),
    wrapper("setsid", &[], 0),
    wrapper("stdbuf", &["-i", "-o", "-e", "--input", "--output", "--error"], 0),
    wrapper("strace", &["-e", "-o", "-p", "-s", "-u"], 0),
    wrapper(
        "sudo",
        &["-u", "-g", "-h", "-p", "-C", "-r", "-t", "-T", "-U", "-D", "-R", "--user", "--group"],
        0,
    ),
    wrapper("taskset", &[], 1),
    wrapper("time", &["-f", "-o", "--format", "--output"], 0),
    wrapper("timeout", &["-k", "-s", "--kill-after", "--signal"], 1),
    wrapper("unshare", &["-S", "-G", "-R", "-w"], 0),
    wrapper("watch", &["-n", "--interval"], 0),
    Wrapper {
        name: "xargs",
        takes: &[
            "-a",
            "-d",
            "-E",
            "-I",
            "-L",
            "-n",
            "-P",
            "-s",
            "--arg-file",
            "--delimiter",
            "--max-args",
            "--max-lines",
            "--max-procs",
            "--max-chars",
            "--process-slot-var",
        ],
        operands: 0,
        appends: true,
    },
    Wrapper { name: "parallel", takes: &["-j", "--jobs", "-a", "-S"], operands: 0, appends: true },
];

/// Returns what a command runs.
pub(in super::super) fn runs(found: &Found) -> Runs {
    let Some(name) = found.name() else { return Runs::Nothing };
    let args = &found.words[1..];
    if SHELLS.contains(&name) {
        return shell(args);
    }
    let inner = |words: &[Option<String>], open: bool| {
        if words.is_empty() {
            return Runs::Nothing;
        }
        Runs::Commands(vec![Found {
            words: words.to_vec(),
            inner: true,
            open: open || found.open,
            ..Found::default()
        }])
    };
    match name {
        "eval" => return Runs::Lines(vec![joined(args)]),
        "trap" => return Runs::Lines(args.first().cloned().into_iter().collect()),
        "." | "source" => {
            let known = args.first().is_some_and(|file| {
                file.as_ref().is_some_and(|file| !file.starts_with("/dev/") && file != "-")
            });
            return if known { Runs::Nothing } else { Runs::Input };
        }
        "su" => return option_value(args, &["-c", "--command"]),
        "find" | "fd" | "fdfind" => return find(args, found),
        "env" => {
            for (at, arg) in args.iter().enumerate() {
                let Some(text) = arg.as_deref() else { continue };
                let split = text.strip_prefix("--split-string=").or(text.strip_prefix("-S"));
                match split {
                    Some("") => return Runs::Lines(vec![args.get(at + 1).cloned().flatten()]),
                    Some(line) => return Runs::Lines(vec![Some(line.to_owned())]),
                    None => {}
                }
            }
        }
        _ => {}
    }
    let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == name) else {
        return Runs::Nothing;
    };
    let at = wrapper.inner_at(args);
    inner(&args[at.min(args.len())..], wrapper.appends)
}

impl Wrapper {
    /// Returns where among the arguments the other command begins.
    fn inner_at(&self, args: &[Option<String>]) -> usize {
        let mut at = 0;
        let mut operands = self.operands;
        while let Some(arg) = args.get(at) {
            let Some(text) = arg.as_deref() else { break };
            if text == "--" {
                at += 1;
                return at + operands;
            }
            if text.starts_with('-') && text.len() > 1 {
                at += if self.takes.contains(&text) { 2 } else { 1 };
            } else if self.name == "env" && text.contains('=')
                || self.name == "sudo" && text.contains('=')
            {
                at += 1;
            } else if operands > 0 {
                operands -= 1;
                at += 1;
            } else {
                break;
            }
        }
        at
    }
}

/// A shell: `-c` and a line, a file, or else its input.
fn shell(args: &[Option<String>]) -> Runs {
    let mut at = 0;
    let mut wants_line = false;
    while let Some(arg) = args.get(at) {
        let Some(text) = arg.as_deref() else { break };
        if text == "--" {
            at += 1;
            break;
        }
        if !text.starts_with(['-', '+']) || text == "-" {
            break;
        }
        wants_line |= !text.starts_with("--") && text.contains('c');
        let takes_word = matches!(text, "-o" | "+o" | "-O" | "+O" | "--rcfile" | "--init-file");
        at += if takes_word { 2 } else { 1 };
    }
    match args.get(at) {
        line if wants_line => Runs::Lines(vec![line.cloned().flatten()]),
        Some(Some(file)) if !file.starts_with("/dev/") && file != "-" => Runs::Nothing,
        // Nothing, or what is not known: `bash <(curl …)`.
        _ => Runs::Input,
    }
}

/// Returns the words as one line; none when one is not known.
fn joined(args: &[Option<String>]) -> Option<String> {
    args.iter().cloned().collect::<Option<Vec<_>>>().map(|words| words.join(" "))
}

fn option_value(args: &[Option<String>], names: &[&str]) -> Runs {
    let at = args.iter().position(|arg| arg.as_deref().is_some_and(|arg| names.contains(&arg)));
    match at {
        Some(at) => Runs::Lines(vec![args.get(at + 1).cloned().flatten()]),
        None => Runs::Nothing,
    }
}

/// `find … -exec rm {} ;`: the name stands for whatever lies below where the search begins.
fn find(args: &[Option<String>], found: &Found) -> Runs {
    let acts: &[&str] =
        &["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"];
    // What stands before the first test are folders; one that is not known may be any.
    let start = match args.first() {
        Some(Some(path)) if !path.starts_with(['-', '(', '!']) && found.name() == Some("find") => {
            Some(path.as_str())
        }
        Some(None) => None,
        _ => Some("."),
    };
    let named = |word: &Option<String>| match word.as_deref() {
        Some("{}") => start.map(|start| format!("{start}/found")),
        Some(text) if text.contains("{}") => None,
        _ => word.clone(),
    };
    let is = |arg: &Option<String>, names: &[&str]| {
        arg.as_deref().is_some_and(|arg| names.contains(&arg))
    };
    let mut commands = Vec::new();
    let mut rest = args;
    while let Some(at) = rest.iter().position(|arg| is(arg, acts)) {
        rest = &rest[at + 1..];
        let end = rest.iter().position(|arg| is(arg, &[";", "+"])).unwrap_or(rest.len());
        let words: Vec<_> = rest[..end].iter().map(named).collect();
        if !words.is_empty() {
            commands.push(Found { words, inner: true, ..Found::default() });
        }
        rest = &rest[end..];
    }
    if commands.is_empty() { Runs::Nothing } else { Runs::Commands(commands) }
}
