//! The environment of commands: the inherited one comes in, the one that commands get goes out.
//! Drops secrets, and sets what keeps programs from paging, prompting and colouring.
//! Never reads our own environment.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Variables for plain output. `GIT_OPTIONAL_LOCKS=0` keeps `git status` and `git diff` from
/// rewriting the index, so that they only read and may run beside other calls.
const PLAIN: [(&str, &str); 7] = [
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("GH_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("TERM", "dumb"),
    ("NO_COLOR", "1"),
];

/// The first three overrule `NO_COLOR`, and some programs complain when they see both. The last
/// makes `cd` print, and go where its argument does not say.
const UNWANTED: [&str; 4] = ["FORCE_COLOR", "CLICOLOR_FORCE", "COLORTERM", "CDPATH"];

/// The names of secrets, alone or after an underscore.
const SECRETS: [&str; 9] = [
    "API_KEY",
    "ACCESS_KEY",
    "SECRET_KEY",
    "PRIVATE_KEY",
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSPHRASE",
    "PASSWD",
];

/// Those that some programs spell their own way.
const SPELLED: [&str; 3] = ["PGPASSWORD", "MYSQL_PWD", "SSHPASS"];

/// The model providers' own variables: keys, but also headers and URLs that may carry one.
const PROVIDER_PREFIXES: [&str; 3] = ["ANTHROPIC_", "OPENAI_", "GEMINI_"];

/// Returns `env` without what looks like a secret by its name, whatever its case.
pub fn without_secrets(
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    env.into_iter().filter(|(name, _)| !is_secret(name)).collect()
}

fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    let ends_in = |secret: &str| {
        name.strip_suffix(secret).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    };
    SECRETS.iter().any(|secret| ends_in(secret))
        || SPELLED.contains(&name.as_str())
        || PROVIDER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns `env` with what keeps output plain.
pub(super) fn plain(mut env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    env.retain(|(name, _)| !UNWANTED.iter().any(|unwanted| name == unwanted));
    // A later entry wins over an earlier one of the same name.
    env.extend(PLAIN.map(|(name, value)| (name.into(), value.into())));
    env
}

/// Returns bash, by its usual places before the `PATH` in `env`; `/bin/sh` when there is none.
pub(super) fn find_shell(env: &[(OsString, OsString)]) -> PathBuf {
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    ["/bin", "/usr/bin"]
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(path.unwrap_or_default()))
        // A relative entry would let the workspace choose the shell.
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("bash"))
        .find(|bash| bash.is_file())
        .unwrap_or_else(|| Path::new("/bin/sh").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(names: &[&str]) -> Vec<(OsString, OsString)> {
        names.iter().map(|name| (name.into(), "x".into())).collect()
    }

    fn names(env: &[(OsString, OsString)]) -> Vec<&str> {
        env.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn secrets_go_by_their_names_and_the_rest_stays_in_order() {
        let kept = without_secrets(env(&[
            "PATH",
            "OPENAI_API_KEY",
            "ANTHROPIC_BASE_URL",
            "GITHUB_TOKEN",
            "db_password",
            "AWS_SECRET_ACCESS_KEY",
            "OAUTH_CLIENT_SECRET",
            "API_KEY",
            "password",
            "DEPLOY_PRIVATE_KEY",
            "PGPASSWORD",
            "MYSQL_PWD",
            "HOME",
            "TOKENIZERS_PARALLELISM",
            "PASSWORD_STORE_DIR",
        ]));
        assert_eq!(names(&kept), ["PATH", "HOME", "TOKENIZERS_PARALLELISM", "PASSWORD_STORE_DIR"]);
    }

    #[test]
    fn a_name_that_is_not_unicode_is_judged_too() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(b"\xff_TOKEN".to_vec());
        assert!(without_secrets([(name, "x".into())]).is_empty());
    }

    #[test]
    fn a_relative_path_entry_does_not_choose_the_shell() {
        let shell = find_shell(&[("PATH".into(), ".:bin".into())]);
        assert!(shell.is_absolute());
    }
}
