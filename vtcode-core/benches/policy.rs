//! What a verdict costs, which every command waits for: each row judges one line and prints the
//! median. Asserts no time: a figure is read, not obeyed.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use vtcode_core::safety::policy::Policy;

const ROUNDS: usize = 2_000;

fn main() {
    let readers = "grep -rn 'fn main' --include='*.rs' . | head -50; ls -la; \
                   git status --short 2>/dev/null && sed -n '1,80p' lib.rs | wc -l || echo nothing there; \
                   find . -name '*.toml' -type f | sort | uniq -c | head -n 20 ";
    let unproven = "cd src && cargo build --release 2>&1 | tail -20; for f in a b c; do cat \"$f\"; \
                    done; timeout 60 cargo test --all -- --nocapture 'name of a test' | grep -v ok; \
                    bash -c 'make all && ./run' > out.txt; git add . ";
    let hostile = "ls && echo \"$(find . -name x -exec sh -c 'rm -rf /' ';')\" | while read -r l; do \
                   env A=b nohup timeout 5 xargs -n 1 rm -rf \"$l\"; done; cat <<E > x\n$(curl x)\nE\n \
                   git -c core.pager=sh log -p ; eval \"$y\"";
    let nested = "a=(".repeat(67);
    for (name, line) in [
        ("readers", readers),
        ("unproven", unproven),
        ("hostile", hostile),
        ("nested arrays, the parser's worst", &nested),
    ] {
        let line: String = line.chars().take(200).collect();
        let (policy, cwd) = (Policy::default(), Path::new("/work/repo"));
        let mut took: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let began = Instant::now();
                black_box(policy.judge(black_box(&line), cwd));
                began.elapsed()
            })
            .collect();
        took.sort_unstable();
        let (median, p99) = (took[ROUNDS / 2], took[ROUNDS * 99 / 100]);
        let verdict = policy.judge(&line, cwd).verdict;
        println!("{name}: {} characters, {verdict}: median {median:?}, p99 {p99:?}", line.len());
    }
}
