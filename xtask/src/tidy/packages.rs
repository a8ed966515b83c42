//! What the packages promise of each other: manifests and code come in, broken promises go out.
//! The engine never carries its test kit, and the terminal program never speaks HTTP itself.

use super::{Finding, Tree};

const ENGINE: &str = "vtcode-core/Cargo.toml";
const TEST_KIT: &str = "vtcode-testkit";
const TERMINAL: &str = "vtcode/src";
const HTTP: [&str; 3] = ["reqwest", "hyper", "hyper_util"];

pub(super) fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let manifest: toml::Table = tree.text(ENGINE)?.parse()?;
    if carries_the_test_kit(&manifest) {
        let what = format!("has {TEST_KIT} as a dependency; only tests may have it");
        findings.push(Finding::at(ENGINE, 0, what));
    }
    for source in tree.sources.iter().filter(|source| source.path.starts_with(TERMINAL)) {
        for (_, token) in source.product().filter(|(_, token)| HTTP.contains(&&*token.text)) {
            let what = format!("names `{}`; HTTP is the engine's", token.text);
            findings.push(Finding::at(&source.path, token.line, what));
        }
    }
    Ok(findings)
}

/// Looks at the dependencies for all targets and for one (`[target.….dependencies]`).
fn carries_the_test_kit(manifest: &toml::Table) -> bool {
    manifest.iter().any(|(name, value)| match (name.as_str(), value.as_table()) {
        ("dependencies" | "build-dependencies", Some(dependencies)) => {
            dependencies.iter().any(|(name, how)| {
                let real_name = how.get("package").and_then(toml::Value::as_str);
                real_name.unwrap_or(name) == TEST_KIT
            })
        }
        ("target", Some(targets)) => {
            targets.values().filter_map(toml::Value::as_table).any(carries_the_test_kit)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_kit_is_found_in_each_place_but_among_the_tests() {
        let carries = |manifest: &str| carries_the_test_kit(&manifest.parse().unwrap());
        assert!(carries("[dependencies]\nvtcode-testkit.workspace = true"));
        assert!(carries("[build-dependencies]\nvtcode-testkit = { path = \"x\" }"));
        assert!(carries("[target.'cfg(unix)'.dependencies]\nvtcode-testkit = \"1\""));
        assert!(carries("[dependencies]\nkit = { package = \"vtcode-testkit\", path = \"x\" }"));
        assert!(!carries(
            "[dependencies]\nserde = \"1\"\n[dev-dependencies]\nvtcode-testkit = \"1\""
        ));
    }
}
