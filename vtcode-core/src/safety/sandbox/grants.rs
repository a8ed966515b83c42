//! Which files commands may use: the user's folders and environment come in, opened paths with the
//! rights that commands have below them go out.
//! What holds keys is left out wherever it lies: a folder above it is granted child by child.
//! Never grants what was not there when the session began, but below what it grants.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::config::safety::{SandboxMode, SandboxSettings};
use crate::safety::workspace::{Workspace, WorkspacePath};

/// Rights, as Landlock counts them.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

/// What the first version knows: everything up to making symbolic links.
const FIRST: u64 = (1 << 13) - 1;

pub(super) const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
/// All but making devices.
pub(super) const WRITE: u64 = (FIRST | REFER | TRUNCATE) & !(MAKE_CHAR | MAKE_BLOCK);
pub(super) const DEVICE: u64 = READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV | TRUNCATE;
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// Returns the rights that a kernel of this version can withhold.
pub(super) fn handled(abi: u32) -> u64 {
    let since = |version, right| if abi >= version { right } else { 0 };
    FIRST | since(2, REFER) | since(3, TRUNCATE) | since(5, IOCTL_DEV)
}

/// Folders of the system that may be read.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix",
    "/gnu",
    "/snap",
    "/proc",
    "/sys",
    "/home/linuxbrew/.linuxbrew",
    "/run/current-system",
    "/run/systemd/resolve",
    "/var/cache/fontconfig",
    "/var/lib/dpkg",
    "/var/lib/texmf",
];

const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What of the system is not for everybody, and root may read.
const SYSTEM_SECRETS: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/letsencrypt",
    "/etc/kubernetes",
    "/etc/NetworkManager/system-connections",
    "/opt/vault",
];

/// What holds keys, below the home folder.
const SECRETS: &[&str] = &[
    ".ssh",
    ".aws",
    ".azure",
    ".gnupg",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".git-credentials",
    ".vault-token",
    ".terraform.d",
    ".password-store",
    ".bash_history",
    ".zsh_history",
    ".mozilla",
    ".thunderbird",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".config/gh",
    ".config/git/credentials",
    ".config/gcloud",
    ".config/google-chrome",
    ".config/chromium",
    ".config/op",
    ".config/rclone",
    ".config/vtcode",
    ".local/share/keyrings",
    ".local/state/vtcode",
    ".gem/credentials",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
];

/// Tools and their settings, below the home folder.
const TOOLS: &[&str] = &[
    ".cargo",
    ".rustup",
    ".nvm",
    ".pyenv",
    ".rbenv",
    ".asdf",
    ".volta",
    ".sdkman",
    ".deno",
    ".bun",
    ".juliaup",
    ".julia",
    ".ghcup",
    ".opam",
    ".elan",
    ".dotnet",
    ".nix-profile",
    ".gitconfig",
    ".config/git",
    ".config/pip",
    ".local/bin",
    ".local/lib",
    ".local/pipx",
    ".local/share/mise",
    ".local/share/fnm",
    ".local/share/uv",
    ".local/share/pnpm",
    ".local/share/pipx",
    ".gem",
    ".m2",
    ".gradle",
    "go",
    "miniconda3",
    "anaconda3",
    "perl5",
];

/// What tools download once, below the home folder.
const CACHES: &[&str] = &[
    ".cargo/registry",
    ".cargo/git",
    ".cargo/.package-cache",
    ".cargo/.package-cache-mutate",
    ".cargo/.global-cache",
    ".cache/go-build",
    ".cache/golangci-lint",
    ".cache/pip",
    ".cache/uv",
    ".cache/pypoetry",
    ".cache/yarn",
    ".cache/pnpm",
    ".cache/ccache",
    ".cache/sccache",
    ".cache/deno",
    ".cache/node",
    ".cache/zig",
    ".npm/_cacache",
    ".npm/_logs",
    ".gradle/caches",
    ".gradle/daemon",
    ".gradle/wrapper",
    ".m2/repository",
    ".nuget/packages",
    "go/pkg",
];

/// Variables that name a tool's folder.
const TOOL_VARIABLES: &[&str] = &[
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "GOROOT",
    "NVM_DIR",
    "PYENV_ROOT",
    "RBENV_ROOT",
    "ASDF_DIR",
    "ASDF_DATA_DIR",
    "VOLTA_HOME",
    "BUN_INSTALL",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "JAVA_HOME",
    "DOTNET_ROOT",
    "NIX_PROFILES",
];

/// Variables that name a cache.
const CACHE_VARIABLES: &[&str] =
    &["GOCACHE", "GOMODCACHE", "PIP_CACHE_DIR", "CCACHE_DIR", "SCCACHE_DIR", "CARGO_TARGET_DIR"];

/// An opened path and the rights below it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) path: OwnedFd,
    pub(super) rights: u64,
}

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) settings: &'a SandboxSettings,
    pub(super) workspace: &'a Workspace,
    /// A folder in it that is written whatever the mode.
    pub(super) build: Option<&'a WorkspacePath>,
    /// The folders of our own state and configuration.
    pub(super) private: &'a [PathBuf],
    pub(super) env: &'a [(OsString, OsString)],
    /// The session's temporary folder.
    pub(super) tmp: &'a Path,
    pub(super) abi: u32,
}

/// Returns everything that commands may use.
pub(super) fn grants(asker: &Asker<'_>) -> Vec<Grant> {
    let variable = |name: &str| {
        let found = asker.env.iter().rev().find(|(key, _)| key == OsStr::new(name));
        found.map(|(_, value)| Path::new(value)).filter(|path| path.is_absolute())
    };
    let home = variable("HOME").map(Path::to_owned);
    let below_home = |names: &[&str]| -> Vec<PathBuf> {
        let home = home.as_deref();
        names.iter().filter_map(|name| Some(home?.join(name))).collect()
    };
    let mut secrets = below_home(SECRETS);
    secrets.extend(asker.private.iter().cloned());
    secrets.extend(SYSTEM_SECRETS.iter().map(PathBuf::from));
    if let Some(cargo) = variable("CARGO_HOME") {
        secrets.extend(["credentials", "credentials.toml"].map(|name| cargo.join(name)));
    }
    // Where it really lies counts, too.
    secrets.extend(secrets.iter().filter_map(|path| path.canonicalize().ok()).collect::<Vec<_>>());
    let mut list = List { secrets, abi: asker.abi, granted: Vec::new(), grants: Vec::new() };

    for path in SYSTEM.iter().map(PathBuf::from).chain(below_home(TOOLS)) {
        list.add(&path, READ);
    }
    for name in TOOL_VARIABLES {
        if let Some(path) = variable(name) {
            list.add_tool(path, home.as_deref());
        }
    }
    let path = asker.env.iter().rev().find(|(name, _)| name == "PATH");
    for dir in path.into_iter().flat_map(|(_, dirs)| std::env::split_paths(dirs)) {
        if dir.is_absolute() {
            list.add_tool(&dir, home.as_deref());
            // What is started there loads what lies beside it.
            if let (Some("bin"), Some(above)) =
                (dir.file_name().and_then(OsStr::to_str), dir.parent())
            {
                for name in ["lib", "lib64", "libexec", "share", "include"] {
                    list.add_tool(&above.join(name), home.as_deref());
                }
            }
        }
    }
    for path in DEVICES {
        list.add(Path::new(path), DEVICE);
    }

    let writes = asker.settings.mode == SandboxMode::WorkspaceWrite;
    for (path, writable) in asker.workspace.folders() {
        list.add_root(path, if writable && writes { WRITE | READ } else { READ });
    }
    list.add_root(asker.tmp, WRITE | READ);
    if let Some(folder) = asker.build.and_then(|path| path.open_folder().ok()) {
        // By what was opened, and not by a name that may lead elsewhere by now.
        let rights = (WRITE | READ) & handled(asker.abi);
        list.grants.push(Grant { path: folder.into_fd(), rights });
    }
    if writes {
        let caches = CACHE_VARIABLES.iter().filter_map(|name| variable(name).map(Path::to_owned));
        let of_cargo =
            variable("CARGO_HOME").map(|cargo| ["registry", "git"].map(|n| cargo.join(n)));
        for path in
            below_home(CACHES).into_iter().chain(caches).chain(of_cargo.into_iter().flatten())
        {
            list.add(&path, WRITE | READ);
        }
        for path in &asker.settings.write {
            let path = match (path.strip_prefix("~"), &home) {
                (Ok(below), Some(home)) => home.join(below),
                _ => path.clone(),
            };
            list.add(&path, WRITE | READ);
        }
    }
    list.grants
}

struct List {
    secrets: Vec<PathBuf>,
    abi: u32,
    granted: Vec<(PathBuf, u64)>,
    grants: Vec<Grant>,
}

impl List {
    /// Adds what lies at `path` without what holds keys; nothing when there is nothing.
    fn add(&mut self, path: &Path, rights: u64) {
        let Ok(path) = path.canonicalize() else { return };
        if self.secrets.iter().any(|secret| path.starts_with(secret)) {
            return;
        }
        // A home below a file, such as `/dev/null`, is none.
        let above = |secret: &PathBuf| secret.starts_with(&path) && path.is_dir();
        if !self.secrets.iter().any(above) {
            self.push(&path, rights);
            return;
        }
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            // A link's target has a grant of its own, or none.
            if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
                self.add(&entry.path(), rights);
            }
        }
    }

    /// Adds a folder that the environment names, which must not be everything.
    fn add_tool(&mut self, path: &Path, home: Option<&Path>) {
        let Ok(path) = path.canonicalize() else { return };
        if path.parent().is_some() && !home.is_some_and(|home| home.starts_with(&path)) {
            self.add(&path, READ);
        }
    }

    /// Adds a folder that the user named to work in. One that lies in a secret place is meant.
    fn add_root(&mut self, path: &Path, rights: u64) {
        let Ok(path) = path.canonicalize() else { return };
        if self.secrets.iter().any(|secret| secret.starts_with(&path) && *secret != path) {
            // The names below can be listed, those of the secret folders included.
            self.push(&path, READ_DIR);
            self.add(&path, rights);
        } else {
            self.push(&path, rights);
        }
    }

    fn push(&mut self, path: &Path, rights: u64) {
        // Each costs every command a little, and below a folder that has them nothing is added.
        let covers =
            |(above, has): &(PathBuf, u64)| path.starts_with(above) && has & rights == rights;
        if self.granted.iter().any(covers) {
            return;
        }
        self.granted.push((path.to_owned(), rights));
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return };
        let Ok(stat) = rustix::fs::fstat(&fd) else { return };
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        let rights = rights & handled(self.abi) & if is_dir { u64::MAX } else { OF_FILES };
        self.grants.push(Grant { path: fd, rights });
    }
}
