//! What is proven to only read, and what is not.

use std::path::Path;

use proptest::prelude::*;

use super::super::*;

fn effect(command: &str) -> Effect {
    command_effect(command, Path::new("/work/repo"))
}

const READS: &[&str] = &[
    "ls",
    "ls -la src",
    "  ls\t-1  ",
    "cat Cargo.toml README.md",
    "cat -n src/main.rs | head -50",
    "head -n 5 x; tail -n 3 x",
    "ls && pwd || echo no",
    "grep -rn 'fn main' --include='*.rs' .",
    "grep -rn \"fn main\" --include=\"*.rs\" .",
    "grep -E \"^(a|b)$\" x",
    "grep \"\\bfoo\\b\" x",
    "grep -R \"Cargo.toml\" -n || true",
    "rg -n 'TODO|FIXME' src",
    "rg --files -g '*.rs'",
    "find . -name '*.rs' -type f",
    "find . -name '*.rs' | wc -l",
    "find src tests -maxdepth 2 -not -path './target/*'",
    "ls *.rs",
    "wc -l src/*.rs",
    "cat *",
    "sort -u names | uniq -c | sort -rn",
    "sed -n '1,80p' src/lib.rs",
    "sed -n 1,80p src/lib.rs",
    "sed -n -e '/fn a/,/^}/p' -e '$=' x",
    "sed -nE '/a|b/p;10q' x",
    "echo hello",
    "echo 'rm -rf /'",
    "echo \"a > b; rm x\"",
    "echo \"costs 5\\$\"",
    "printf '%s 100%%\\n' a b",
    "cd src && ls",
    "cd /work/repo && git log --oneline -5",
    "cd /work/repo/src && ls",
    "git status",
    "git --no-pager diff HEAD --stat",
    "git log --oneline -20 -- src",
    "git show HEAD:src/lib.rs | head",
    "git blame -L 1,20 x",
    "git ls-files | grep rs",
    "git rev-parse --abbrev-ref HEAD",
    "git branch",
    "git branch -a -v",
    "git diff main..HEAD",
    "ls missing 2>/dev/null",
    "ls missing 2>&1 | head",
    "ls missing >/dev/null 2>&1",
    "ls missing &>/dev/null",
    "wc -l < Cargo.toml",
    "test -f x && echo yes",
    "[ -f x ] && cat x",
    "[ \"a\" = b ] || echo no",
    "date +%s",
    "date -d tomorrow",
    "jq -r '.a[] | .b' x.json",
    "stat -c %s x",
    "diff -u a b",
    "xxd x | head",
    "uniq names",
    "du -sh . ; df -h",
    "which cargo; type ls",
    "sleep 0.2",
    "cat 'na me' \"gr\u{fc}n\" a'b'\"c\"",
    "ls # what is here",
    "# first\nls\n\n  # then\npwd\n",
    "ls \\\n  -la",
    "cat a |\n  wc -l",
    "tree -L 2",
    "hostname",
    "base64 x | fold -w 20",
    "printf 'a\\n'",
    "comm a b",
    "seq 1 10 | tac",
    // Nothing at all.
    "",
    "   ",
    "# only words",
];

const MAY_DO_ANYTHING: &[&str] = &[
    // Not in the table.
    "rm x",
    "cargo test",
    "python3 -c 1",
    "touch x",
    "make",
    "tee x",
    "nonsense",
    // One that is, with one that is not.
    "ls; rm x",
    "ls\nrm x",
    "ls && rm x",
    "ls || rm x",
    "ls | tee x",
    "ls |& rm x",
    "ls & rm x",
    "ls &",
    "(ls; rm x)",
    "{ rm x; }",
    "! rm x",
    // Substitutions and expansions.
    "cat $(rm x)",
    "cat `rm x`",
    "echo \"$(rm x)\"",
    "echo \"`rm x`\"",
    "cat <(rm x)",
    "echo > >(rm x)",
    "echo ${x:=`rm x`}",
    "echo $x",
    "echo \"$x\"",
    "echo \"a${x@P}\"",
    "echo $((x=1))",
    "echo \"$[x]\"",
    "echo $'a'",
    "echo $\"a\"",
    "$x",
    "echo a{b,c}",
    "\"$(rm x)\"",
    // Output that goes somewhere.
    "ls > f",
    "ls >> f",
    "ls >| f",
    "ls &> f",
    "ls 2> f",
    "ls >& f",
    "> f",
    "ls <> f",
    "[ a > b ]",
    "ls > /dev/null/../x",
    "ls > \"f\"",
    "ls 3>/dev/null",
    "ls > /dev/tcp/h/80",
    "cat < /dev/tcp/h/80",
    "cat < //dev/tcp/h/80",
    "ls > ~",
    "ls > *",
    // Names that are not plain.
    "\\rm x",
    "r''m x",
    "'ls'",
    "\"ls\"",
    "/bin/ls",
    "./ls",
    "l\\s",
    "ls\\\nx",
    "l\u{455}",
    "\u{2028}ls",
    "ls\u{a0}-la",
    "ls\u{3000}x",
    "ls\rrm x",
    "ls\u{b}x",
    "cat a\\ b",
    "c?t x",
    "~/ls",
    // What runs others, or changes the shell.
    "xargs rm",
    "ls | xargs rm",
    "env ls",
    "env rm x",
    "eval ls",
    "command ls",
    "builtin echo",
    "exec ls",
    "time ls",
    "time rm x",
    "nice ls",
    "nohup ls",
    "sudo ls",
    "timeout 5 rm x",
    "bash -c ls",
    "sh x",
    ". x",
    "source x",
    "coproc ls",
    "alias ls=rm",
    "export A=b",
    "A=b ls",
    "A=b",
    "PATH=. ls",
    "GIT_PAGER=rm git log",
    "set -x",
    "trap 'rm x' EXIT",
    "read x",
    "ls() { rm x; }",
    "function ls { rm x; }",
    "ls() { rm x; }; ls",
    // Compound commands.
    "if true; then rm x; fi",
    "if true; then ls; fi",
    "for a in b; do ls; done",
    "while true; do rm x; done",
    "case a in a) rm x;; esac",
    "[[ -f x ]]",
    "((x=1))",
    // Here-documents and -strings.
    "cat <<EOF\n$(rm x)\nEOF",
    "cat <<'EOF'\nx\nEOF",
    "cat <<< x",
    "cat <<-EOF\n\tx\n\tEOF",
    // Options that act.
    "sort -o f x",
    "sort x -uo f",
    "sort --output=f x",
    "sort --outp=f x",
    "sort --o f x",
    "sort --compress-program=sh x",
    "sort -T /x y",
    "sort *",
    "find . -delete",
    "find . -exec rm {} ';'",
    "find . -execdir rm {} +",
    "find . -ok rm x",
    "find . -fprint f",
    "find . -fprintf f %p",
    "find . -fls f",
    "find *",
    "find . '-delete'",
    "find . -name x -'de'lete",
    "find . -name x\\ -delete",
    "sed -n 'w f' x",
    "sed -n '1e rm x' x",
    "sed -i 's/a/b/' x",
    "sed -n -i 1p x",
    "sed 1p x",
    "sed -n 's/a/b/w f' x",
    "sed -n '1,5w f' x",
    "sed -n '/a/e' x",
    "sed -n 1p x -i",
    "sed -n '/a;w f' x",
    "sed -n '/a/p;w f' x",
    "sed -n \"1p\nw f\" x",
    "sed -n -f s x",
    "sed -n 1p *",
    "sed -ni 1p x",
    "sed -n --in-place 1p x",
    "sed -n",
    "rg --pre=sh x",
    "rg --pre sh x",
    "rg --pr=sh x",
    "rg -z x",
    "rg --hostname-bin=sh x",
    "rg x *",
    "tail -f x",
    "tail -n5f x",
    "tail --follow x",
    "tail -F x",
    "uniq a b",
    "uniq *",
    "uniq -- a",
    "xxd -r a",
    "xxd a b",
    "xxd -revert a",
    "tree -o f",
    "tree -R",
    "file -C",
    "base64 -o f",
    "base64 --outp=f",
    "date -s now",
    "date --set=now",
    "date --se now",
    "date 01010000",
    "hostname x",
    "hostname -F x",
    "diff -l a b",
    "diff --pag a b",
    "printf -v x y",
    "printf '%n' PATH",
    "printf 'a%5n' PATH",
    "printf '%%%n' PATH",
    "test -v 'a[$(rm x)]'",
    "[ -v 'a[$(rm x)]' ]",
    "test ! -R x",
    "jq -i . x",
    "cd ..",
    "cd",
    "cd -",
    "cd ~",
    "cd /etc && ls",
    "cd src/../.. && ls",
    "cd a b",
    "cd $x",
    "git -c alias.x=!rm log",
    "git -c core.fsmonitor=x status",
    "git -C /x log",
    "git --git-dir=x log",
    "git --exec-path=x log",
    "git push",
    "git commit -m x",
    "git checkout x",
    "git branch -D x",
    "git branch new",
    "git branch --edit-description",
    "git diff --output=f",
    "git diff --outp=f",
    "git diff --ext-diff",
    "git log --textconv",
    "git -p log",
    "git",
    "git stash",
    "git gc",
    "git log *",
    "git log --show-signature",
    // A repository below brings a configuration of its own.
    "cd src && git log",
    "cd /work/repo/src && git status",
    // Secrets.
    "cat /proc/1/environ",
    "cat /proc/self/environ",
    "cat /pro?/1/environ",
    "cat ~/.ssh/id_rsa",
    "cat /etc/shadow",
    "ps e",
    "ps auxe",
    "ps axeww",
    // Not a command line at all.
    "ls |",
    "ls &&",
    "| ls",
    "ls (",
    "ls )",
    "echo 'a",
    "echo \"a",
    "ls ;; ls",
    "ls\0rm",
    ")",
    "<",
    "&",
    ";",
];

#[test]
fn what_only_reads_is_proven() {
    let unproven: Vec<_> = READS.iter().filter(|command| !effect(command).is_read_only()).collect();
    assert!(unproven.is_empty(), "{unproven:#?}");
}

#[test]
fn what_may_do_anything_is_not() {
    let proven: Vec<_> =
        MAY_DO_ANYTHING.iter().filter(|command| effect(command) != Effect::opaque()).collect();
    assert!(proven.is_empty(), "{proven:#?}");
}

#[test]
fn a_proven_line_with_an_unproven_one_joined_to_it_is_unproven() {
    for command in READS {
        for joined in
            [format!("{command}\nrm x"), format!("rm x; {command}"), format!("{command} > f")]
        {
            // A comment hides what follows it on its line.
            let hidden = command.contains('#') && joined.ends_with("> f");
            assert!(hidden || effect(&joined).opaque, "{joined}");
        }
    }
}

#[test]
fn what_is_read_is_the_folder_and_what_lies_outside() {
    let reads = |command: &str| -> Vec<String> {
        let effect = effect(command);
        assert!(effect.is_read_only(), "{command}");
        effect.reads.iter().map(|path| path.display().to_string()).collect()
    };
    assert_eq!(reads("cat src/lib.rs"), ["/work/repo"]);
    assert_eq!(
        reads("cat /etc/hosts < /etc/passwd 2>/dev/null"),
        ["/work/repo", "/etc/hosts", "/etc/passwd"]
    );
    assert_eq!(reads("ls /etc/ssl/*.pem /*"), ["/work/repo", "/etc/ssl/", "/"]);
    for everything in ["cat ../x", "cat ~/x", "cat /a/../b", "grep -f/etc/x y", "grep --file=/x y"]
    {
        assert_eq!(reads(everything), ["/work/repo", "/"], "{everything}");
    }
}

#[test]
fn a_very_long_or_deep_line_is_given_up_without_harm() {
    for part in [
        "ls && ", "ls | ", "ls;", "ls\n", "(", "$(", "\"$(", "{ ", "[ ", "<(", "((", "a=(", "if ",
        "case ",
    ] {
        for bytes in [1000, 2000, 1_000_000] {
            let line = part.repeat(bytes / part.len());
            let _ = effect(&line);
            let _ = effect(&(line + "ls"));
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = effect(&text);
    }

    #[test]
    fn no_mixture_of_shell_makes_it_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "ls", " ", "\n", "'", "\"", "$", "(", ")", "`", "\\", "|", "&", ";", "<", ">", "{", "}",
                "[", "]", "*", "#", "=", "2", "\u{fc}", "\0", "<<E", "if", "git", "sed", "-n", "/dev/null",
            ]),
            0..24,
        ),
    ) {
        let _ = effect(&parts.concat());
    }
}
