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

/// What git is told beyond its files: a folder that poses as a repository, and a program that a
/// repository names for watching its files, are for strangers to choose.
const GIT: [(&str, &str); 2] = [("safe.bareRepository", "explicit"), ("core.fsmonitor", "false")];

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
    // Behind what the user tells git in the same way.
    let count = env.iter().rev().find(|(name, _)| name == "GIT_CONFIG_COUNT");
    let count = count.and_then(|(_, count)| count.to_str()?.parse::<usize>().ok()).unwrap_or(0);
    for (number, (key, value)) in (count..).zip(GIT) {
        env.push((format!("GIT_CONFIG_KEY_{number}").into(), key.into()));
        env.push((format!("GIT_CONFIG_VALUE_{number}").into(), value.into()));
    }
    env.push(("GIT_CONFIG_COUNT".into(), (count + GIT.len()).to_string().into()));
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
    fn what_git_is_told_comes_behind_what_the_user_tells_it() {
        let last = |env: &[(OsString, OsString)], name: &str| {
            let found = env.iter().rev().find(|(known, _)| known == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let told = plain(vec![("GIT_CONFIG_COUNT".into(), "1".into())]);
        assert_eq!(last(&told, "GIT_CONFIG_COUNT").as_deref(), Some("3"));
        assert_eq!(last(&told, "GIT_CONFIG_KEY_1").as_deref(), Some("safe.bareRepository"));
        assert_eq!(last(&told, "GIT_CONFIG_KEY_2").as_deref(), Some("core.fsmonitor"));
        assert_eq!(last(&plain(Vec::new()), "GIT_CONFIG_COUNT").as_deref(), Some("2"));
    }

    #[test]
    fn a_relative_path_entry_does_not_choose_the_shell() {
        let shell = find_shell(&[("PATH".into(), ".:bin".into())]);
        assert!(shell.is_absolute());
    }
}
