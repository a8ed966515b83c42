//! What is known to do harm: a command that was found comes in, the class of what it does goes
//! out, with the words that the model reads.
//! What no row knows is merely unproven: the sandbox is for that. Compares names and options only;
//! never looks at the files that they name.

use std::path::{Component, Path, PathBuf};

use super::survey::{Found, Survey, Target};
use super::{Class, Harm};

mod git;
pub(super) use git::TAKES as GIT_TAKES;

/// A finding of the built-in list that nothing overrides.
const fn refused(rule: &'static str, reason: &'static str) -> Harm {
    Harm { deny: true, class: Class::Destructive, network: false, rule, reason }
}

const fn destructive(rule: &'static str, reason: &'static str) -> Harm {
    Harm { deny: false, class: Class::Destructive, network: false, rule, reason }
}

const fn escalates(rule: &'static str, reason: &'static str) -> Harm {
    Harm { deny: false, class: Class::Escalates, network: false, rule, reason }
}

const fn reaches_out(rule: &'static str, reason: &'static str) -> Harm {
    Harm { deny: false, class: Class::Escalates, network: true, rule, reason }
}

const NETWORK: Harm = reaches_out(
    "network",
    "it reaches the network; work with what is in the workspace, or let the user allow it",
);
const OUTSIDE: Harm = escalates(
    "other-folder",
    "it writes outside the workspace; name a path inside it, or below the temporary folder",
);
const SECRETS: Harm = escalates(
    "secrets",
    "it names files or processes that hold secrets or our own state; leave them alone",
);
const GIT_OWN: Harm = escalates(
    "git-own-files",
    "it changes what git later runs or trusts; use git's own commands for it",
);
const OTHER_USER: Harm = escalates(
    "other-user",
    "it acts as another user; run it as the user that you are, without that prefix",
);
const MACHINE: Harm =
    escalates("machine", "it acts on the machine beyond the workspace; leave that to the user");
const PROCESSES: Harm = escalates(
    "other-processes",
    "it ends processes by name, those of others too; use command_stop, or kill with a process id",
);
const FED: Harm = destructive(
    "unread-script",
    "what the shell would run cannot be read beforehand; write the commands out, or write them to \
     a file and run that",
);
const FORCED: Harm = refused(
    "forced-removal",
    "it removes by force what lies outside the workspace or is not written out; name the files \
     inside the workspace one by one, without -f",
);
const REMOVES: Harm = destructive(
    "removal",
    "it removes files for good; remove single files with apply_patch or with rm without -r and -f",
);
const EMPTIES: Harm =
    destructive("truncation", "it empties a file; write its new content with write_file");
const BY_FIND: Harm = destructive(
    "find-delete",
    "it removes whatever matches; run it without -delete and remove the files that it lists",
);
const FIND_WRITES: Harm = refused(
    "find-writes",
    "find writes its list outside the workspace; run it without -fprint and read its output",
);

/// Programs whose every use is of one kind.
const PROGRAMS: &[(&Harm, &[&str])] = &[
    (
        &NETWORK,
        &[
            "aria2c",
            "aws",
            "az",
            "bunx",
            "cloudflared",
            "curl",
            "dig",
            "flyctl",
            "ftp",
            "gcloud",
            "gh",
            "glab",
            "gsutil",
            "heroku",
            "host",
            "http",
            "https",
            "lftp",
            "lynx",
            "mosh",
            "nc",
            "ncat",
            "netcat",
            "netlify",
            "ngrok",
            "nmap",
            "npx",
            "nslookup",
            "ping",
            "pipx",
            "rclone",
            "rsh",
            "s3cmd",
            "scp",
            "sftp",
            "socat",
            "ssh",
            "ssh-copy-id",
            "telnet",
            "tftp",
            "traceroute",
            "tracepath",
            "uvx",
            "vercel",
            "w3m",
            "wget",
            "wget2",
            "whois",
            "wrangler",
            "xh",
        ],
    ),
    (
        &OTHER_USER,
        &[
            "chroot",
            "doas",
            "gosu",
            "machinectl",
            "newgrp",
            "nsenter",
            "passwd",
            "pkexec",
            "run0",
            "runuser",
            "setpriv",
            "sg",
            "su",
            "su-exec",
            "sudo",
            "sudoedit",
            "unshare",
            "useradd",
            "userdel",
            "usermod",
            "groupadd",
            "visudo",
        ],
    ),
    (
        &MACHINE,
        &[
            "apk",
            "apt",
            "apt-get",
            "aptitude",
            "at",
            "batch",
            "blkdiscard",
            "brew",
            "buildah",
            "cfdisk",
            "crontab",
            "cryptsetup",
            "dnf",
            "docker",
            "docker-compose",
            "dpkg",
            "fdisk",
            "flatpak",
            "halt",
            "helm",
            "init",
            "insmod",
            "ip6tables",
            "iptables",
            "kexec",
            "kubectl",
            "launchctl",
            "loginctl",
            "losetup",
            "lvremove",
            "mkswap",
            "modprobe",
            "mount",
            "nft",
            "nerdctl",
            "pacman",
            "parted",
            "podman",
            "poweroff",
            "pvremove",
            "reboot",
            "rmmod",
            "rpm",
            "service",
            "sfdisk",
            "sgdisk",
            "shutdown",
            "snap",
            "swapoff",
            "swapon",
            "sysctl",
            "systemctl",
            "systemd-run",
            "telinit",
            "tmux",
            "screen",
            "umount",
            "ufw",
            "vgremove",
            "wipefs",
            "yum",
            "zpool",
            "zfs",
            "zypper",
        ],
    ),
    (&PROCESSES, &["killall", "killall5", "pkill", "skill", "xkill"]),
    (&EMPTIES, &["shred", "truncate", "wipe"]),
];

/// Programs of which some subcommands fetch: the name, and those.
const FETCHES: &[(&str, &[&str])] = &[
    ("bun", &["add", "i", "install", "publish", "update", "upgrade", "x", "create"]),
    ("bundle", &["install", "update", "add"]),
    ("cargo", &["install", "login", "owner", "publish", "search", "yank", "binstall"]),
    ("composer", &["install", "require", "update", "create-project", "global"]),
    ("conda", &["install", "create", "update"]),
    ("deno", &["install", "add", "publish", "upgrade"]),
    ("dotnet", &["add", "restore", "nuget"]),
    ("gem", &["install", "push", "update", "fetch"]),
    ("go", &["get", "install"]),
    (
        "npm",
        &[
            "add",
            "audit",
            "ci",
            "create",
            "exec",
            "i",
            "init",
            "install",
            "login",
            "publish",
            "unpublish",
            "update",
            "x",
            "view",
            "search",
        ],
    ),
    ("pip", &["download", "install", "search", "wheel"]),
    ("pip3", &["download", "install", "search", "wheel"]),
    ("pnpm", &["add", "create", "dlx", "exec", "i", "install", "publish", "update"]),
    ("poetry", &["add", "install", "publish", "update"]),
    ("rustup", &["component", "default", "install", "target", "toolchain", "update", "self"]),
    ("svn", &["checkout", "co", "commit", "update", "switch"]),
    ("hg", &["clone", "pull", "push", "incoming", "outgoing"]),
    ("uv", &["add", "pip", "publish", "sync", "tool"]),
    ("yarn", &["add", "create", "dlx", "install", "publish", "upgrade"]),
];

/// Programs whose operands are written, and those that write only the last.
const WRITE_ALL: &[&str] = &[
    "chgrp", "chmod", "chown", "dd", "ln", "mkdir", "mkfifo", "mknod", "mv", "patch", "rm",
    "rmdir", "setfacl", "shred", "tee", "touch", "truncate", "unlink", "link",
];
const WRITE_LAST: &[&str] = &["cp", "install", "rsync"];

/// Folders that a build makes again.
const MADE_AGAIN: &[&str] = &[
    ".mypy_cache",
    ".next",
    ".nuxt",
    ".parcel-cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".turbo",
    "__pycache__",
    "node_modules",
    "target",
];

/// Options that name what a program writes.
const OUTPUTS: &[&str] =
    &["-o", "-t", "-d", "--output", "--target-directory", "--output-document", "-fprint", "-fls"];

/// Returns the worst that a line does, if it is known to do harm.
pub(super) fn worst(survey: &Survey, cwd: &Path) -> Option<Harm> {
    let mut found = Vec::new();
    if survey.incomplete {
        found.push(destructive(
            "too-long",
            "it is too long or too deep to be read; write it to a file and run that",
        ));
    }
    if survey.multiplies {
        found.push(refused("fork-bomb", "a function in it calls itself without end"));
    }
    for command in &survey.commands {
        found.extend(of_command(command, cwd));
    }
    found.extend(survey.redirects.iter().filter_map(|target| of_redirect(target, cwd)));
    found.into_iter().max_by_key(|harm| (harm.deny, harm.class, !harm.network))
}

fn of_redirect(target: &Target, cwd: &Path) -> Option<Harm> {
    // One that cannot be known: the sandbox is for that.
    let path = target.path.as_deref()?;
    if path.starts_with("/dev/tcp/") || path.starts_with("/dev/udp/") {
        return Some(NETWORK);
    }
    if is_secret(path) {
        return Some(SECRETS);
    }
    if !target.writes {
        return None;
    }
    match place(path, cwd) {
        Place::Outside if is_device(path) => Some(MACHINE),
        Place::Outside => Some(OUTSIDE),
        _ if in_git(path) => Some(GIT_OWN),
        _ if target.bare => Some(EMPTIES),
        _ => None,
    }
}

/// Returns everything that is known against a command.
pub(super) fn of_command(command: &Found, cwd: &Path) -> Vec<Harm> {
    let mut found = Vec::new();
    if command.fed {
        found.push(FED);
    }
    let words: Vec<&str> = command.words.iter().flatten().map(String::as_str).collect();
    if names_secret(&words) {
        found.push(SECRETS);
    }
    let Some(name) = command.name() else { return found };
    let args = &command.words[1..];
    let known: Vec<&str> = args.iter().flatten().map(String::as_str).collect();
    let rows = PROGRAMS.iter().filter(|(_, names)| names.contains(&name));
    found.extend(rows.map(|(harm, _)| **harm));
    if name.starts_with("mkfs") || name.starts_with("fsck") {
        found.push(MACHINE);
    }
    let subcommand = known.iter().find(|arg| !arg.starts_with(['-', '+']));
    let fetches = FETCHES.iter().find(|(program, _)| *program == name);
    if fetches.is_some_and(|(_, words)| subcommand.is_some_and(|word| words.contains(word)))
        || name == "yarn" && args.is_empty()
    {
        found.push(NETWORK);
    }
    match name {
        "rm" => found.extend(rm(args, command.open, cwd)),
        "git" => found.extend(git::harm(args)),
        "find" => found.extend(find(&known, cwd)),
        "rsync" => {
            let remote = known
                .iter()
                .any(|arg| arg.contains("::") || arg.starts_with("rsync://") || arg.contains(':'));
            if remote {
                found.push(NETWORK);
            }
            if known
                .iter()
                .any(|arg| arg.starts_with("--delete") || *arg == "--remove-source-files")
            {
                found.push(REMOVES);
            }
        }
        "kill" if known.contains(&"-1") && (known.len() > 1) => found.push(MACHINE),
        "python" | "python3"
            if known.windows(2).any(|pair| pair == ["-m", "pip"])
                && known.iter().any(|arg| matches!(*arg, "install" | "download" | "wheel")) =>
        {
            found.push(NETWORK);
        }
        "ps" if shows_environment(args) => found.push(SECRETS),
        "dd" if known.iter().any(|arg| arg.starts_with("of=/dev/") && is_device(&arg[3..])) => {
            found.push(MACHINE);
        }
        _ => {}
    }
    found.extend(written_outside(name, &known, cwd));
    found
}

/// `rm`: by force outside or of what is not written out, never; by force or whole folders inside,
/// only when somebody says so.
fn rm(args: &[Option<String>], open: bool, cwd: &Path) -> Option<Harm> {
    let mut forced = false;
    let mut whole = false;
    let mut names = Vec::new();
    let mut only_names = false;
    let mut unknown = open;
    for arg in args {
        match arg.as_deref() {
            None => unknown = true,
            Some("--") if !only_names => only_names = true,
            Some(option) if !only_names && option.starts_with("--") => {
                forced |= option.len() > 2 && "--force".starts_with(option);
                whole |= option.len() > 2 && "--recursive".starts_with(option);
                if option == "--no-preserve-root" {
                    return Some(FORCED);
                }
            }
            Some(option) if !only_names && option.len() > 1 && option.starts_with('-') => {
                forced |= option.contains('f');
                whole |= option.contains(['r', 'R']);
            }
            Some(name) => names.push(name),
        }
    }
    let outside = names.iter().any(|name| place(name, cwd) != Place::Inside);
    // `*` alone and the folder itself: all that there is.
    if forced && (outside || unknown) {
        return Some(FORCED);
    }
    if whole && names.iter().any(|name| is_root(name, cwd)) {
        return Some(FORCED);
    }
    let made_again = !unknown
        && !names.is_empty()
        && names.iter().all(|name| {
            let last = Path::new(name).file_name().and_then(|last| last.to_str());
            last.is_some_and(|last| MADE_AGAIN.contains(&last)) && !name.contains("..")
        });
    ((forced || whole) && !made_again).then_some(REMOVES)
}

/// Returns whether a name is the root, a home or a folder above the workspace.
fn is_root(name: &str, cwd: &Path) -> bool {
    if name == "*" {
        return false;
    }
    let name = name.trim_end_matches(['*', '/']);
    if name.is_empty() || name == "~" {
        return true;
    }
    Path::new(name).is_absolute() && normalized(name, cwd).is_some_and(|path| cwd.starts_with(path))
}

fn find(args: &[&str], cwd: &Path) -> Option<Harm> {
    if args.contains(&"-delete") {
        return Some(BY_FIND);
    }
    let writes = |arg: &str| arg.starts_with("-fprint") || arg == "-fls";
    let outside =
        args.windows(2).any(|pair| writes(pair[0]) && place(pair[1], cwd) != Place::Inside);
    outside.then_some(FIND_WRITES)
}

/// Finds what a program writes where it may not.
fn written_outside(name: &str, args: &[&str], cwd: &Path) -> Option<Harm> {
    let mut written: Vec<&str> = Vec::new();
    let operand = |arg: &&&str| !arg.starts_with('-');
    if WRITE_ALL.contains(&name) || name == "sed" && args.iter().any(|arg| in_place(arg)) {
        written
            .extend(args.iter().filter(operand).map(|arg| arg.strip_prefix("of=").unwrap_or(arg)));
        written.retain(|arg| !arg.starts_with("if="));
    }
    if WRITE_LAST.contains(&name) {
        written.extend(args.iter().rfind(operand));
    }
    let writes_files = written.is_empty() && !matches!(name, "rm" | "grep" | "ls" | "test" | "[");
    if writes_files || WRITE_LAST.contains(&name) {
        for (at, arg) in args.iter().enumerate() {
            if OUTPUTS.contains(arg) {
                written.extend(args.get(at + 1).filter(|next| next.contains('/')));
            } else if let Some((option, value)) = arg.split_once('=')
                && OUTPUTS.contains(&option)
            {
                written.push(value);
            } else if let Some(value) = arg.strip_prefix("-o").filter(|value| value.contains('/')) {
                written.push(value);
            }
        }
    }
    if matches!(name, "tar" | "bsdtar" | "unzip") {
        let folder = args.windows(2).filter(|w| matches!(w[0], "-C" | "--directory" | "-d"));
        written.extend(folder.map(|pair| pair[1]));
        written.extend(args.iter().filter_map(|arg| arg.strip_prefix("--directory=")));
        if args.iter().any(|arg| matches!(*arg, "-P" | "--absolute-names")) {
            return Some(OUTSIDE);
        }
    }
    for path in written {
        match place(path, cwd) {
            Place::Outside if is_device(path) => return Some(MACHINE),
            Place::Outside => return Some(OUTSIDE),
            _ if in_git(path) => return Some(GIT_OWN),
            _ => {}
        }
    }
    None
}

fn in_place(option: &str) -> bool {
    option.starts_with("--in-place")
        || option.starts_with('-') && !option.starts_with("--") && option.contains('i')
}

/// Where a path leads, as far as its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    /// Where every program may write, and where nothing of worth lies.
    Temporary,
    Outside,
}

fn place(path: &str, cwd: &Path) -> Place {
    if matches!(path, "/dev/null" | "/dev/stdout" | "/dev/stderr" | "/dev/stdin" | "/dev/tty") {
        return Place::Inside;
    }
    if path.starts_with('~') {
        return Place::Outside;
    }
    match normalized(path, cwd) {
        Some(path) if path.starts_with(cwd) => Place::Inside,
        Some(path) if path.starts_with("/tmp") || path.starts_with("/var/tmp") => Place::Temporary,
        _ => Place::Outside,
    }
}

/// Resolves a path on its text; none when it climbs above the root.
fn normalized(path: &str, cwd: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in cwd.join(path).components() {
        match component {
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Some(clean)
}

fn is_device(path: &str) -> bool {
    let harmless = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
        "/dev/tty",
        "/dev/random",
        "/dev/urandom",
    ];
    path.starts_with("/dev/")
        && !harmless.contains(&path)
        && !path.starts_with("/dev/fd/")
        && !path.starts_with("/dev/shm/")
}

/// Returns whether a path lies in what git keeps for itself, and runs.
fn in_git(path: &str) -> bool {
    Path::new(path).components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git"))
}

/// Returns whether a command names something that holds secrets. What it only prints or searches
/// for is no name of a file.
pub(super) fn names_secret(words: &[&str]) -> bool {
    let Some((name, args)) = words.split_first() else { return false };
    if matches!(*name, "echo" | "printf") {
        return false;
    }
    let skipped = pattern_at(words);
    args.iter().enumerate().any(|(at, arg)| Some(at) != skipped && is_secret(arg))
}

/// Returns which argument is what a command searches for.
pub(super) fn pattern_at(words: &[&str]) -> Option<usize> {
    let (name, args) = words.split_first()?;
    if !matches!(*name, "grep" | "egrep" | "fgrep" | "rg") {
        return None;
    }
    // `-e` and `-f` make a file of what else is the pattern; joined to others, too.
    let given = args.iter().any(|arg| {
        arg.starts_with("--") && arg.len() > 2 || arg.starts_with('-') && arg.contains(['e', 'f'])
    });
    args.iter().position(|arg| !arg.starts_with('-')).filter(|_| !given)
}

/// Files that hold secrets, by a piece of their path.
const SECRET_FILES: &[&str] = &[
    "/.aws/",
    "/.azure/",
    "/.config/gcloud",
    "/.config/gh/",
    "/.config/vtcode",
    "/.docker/config",
    "/.git-credentials",
    "/.gnupg",
    "/.kube/config",
    "/.local/state/vtcode",
    "/.netrc",
    "/.npmrc",
    "/.pypirc",
    "/.ssh",
    "/etc/gshadow",
    "/etc/shadow",
    "/etc/sudoers",
    "/.cargo/credentials",
    "/.pgpass",
];

/// What of `/proc` says something about the machine and nothing about anybody's memory.
const PROC_PLAIN: &[&str] = &[
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "mounts",
    "stat",
    "swaps",
    "sys",
    "uptime",
    "version",
    "vmstat",
];

/// Returns whether a word names something that holds secrets. The state folder keeps the outputs
/// that a model was told to read there, so only its journals are meant.
pub(super) fn is_secret(word: &str) -> bool {
    // `/etc//shadow` and `/etc/./shadow` are the same file.
    let mut plain = word.to_owned();
    while plain.contains("//") || plain.contains("/./") {
        plain = plain.replace("/./", "/").replace("//", "/");
    }
    let word = plain.as_str();
    // Disks, memory, and the terminals that people type on.
    if is_device(word) {
        return true;
    }
    // `~/.ssh` and `--file=/etc/shadow` too.
    let rooted = |piece: &str| {
        word.match_indices(piece).any(|(at, _)| {
            let end = word.as_bytes().get(at + piece.len());
            piece.ends_with('/') || end.is_none_or(|b| !b.is_ascii_lowercase())
        })
    };
    let in_secret = SECRET_FILES.iter().any(|piece| {
        if *piece == "/.local/state/vtcode" {
            return rooted(piece) && word.contains("journal");
        }
        rooted(piece)
    });
    let in_proc = word.match_indices("/proc").any(|(at, _)| {
        let rest = &word[at + 5..];
        let before = &word[..at];
        let is_root = before.is_empty() || before.ends_with(['=', '/', ':', '@']);
        let first = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
        is_root
            && (rest.is_empty() || rest.starts_with('/'))
            && !word.contains("..")
            && !PROC_PLAIN.contains(&first)
            && !(first == "self" && rest.ends_with("/status"))
            || is_root && rest.starts_with('/') && word.contains("..")
    });
    // A pattern in the place of the names above: `/pro?/1/environ`, `/*/1/environ`.
    let masked = word.starts_with('/')
        && word.contains(['*', '?', '['])
        && (word.contains("environ") || {
            let literal = &word[..word.find(['*', '?', '[']).unwrap_or(0)];
            ["/proc/", "/dev/"].iter().any(|place| place.starts_with(literal))
                && word[literal.len()..].contains('/')
        });
    in_secret || in_proc || masked
}

/// `ps e` shows everybody's environment, `ps -e` every process.
pub(super) fn shows_environment(args: &[Option<String>]) -> bool {
    let mut takes_value = false;
    args.iter().any(|arg| {
        let Some(arg) = arg.as_deref() else { return true };
        let is_value = std::mem::replace(
            &mut takes_value,
            matches!(
                arg,
                "-C" | "-o" | "-O" | "-p" | "-q" | "-t" | "-u" | "-U" | "-g" | "-G" | "-s"
            ) || arg.starts_with("--") && !arg.contains('='),
        );
        // A column of that name shows it, too.
        let column = arg.to_ascii_lowercase().contains("environ");
        column
            || !is_value
                && (arg == "-E"
                    || !arg.starts_with('-')
                        && arg.contains('e')
                        && arg.bytes().all(|b| b.is_ascii_alphabetic()))
    })
}
