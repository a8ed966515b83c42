//! `vtcode models`, and what `config show` says of models and servers that the user named.

use serde_json::Value;

use crate::user::User;

const FILE: &str = "[models.\"gpt-5-mini\"]\nimages = false\n[models.\"my-llama\"]\n\
                    context_window = 8192\n[providers.mine]\nbase_url = \"http://127.0.0.1:9/v1\"\n\
                    headers = { X-Auth = \"sk-very-secret\" }\n";

#[tokio::test]
async fn every_model_is_listed_with_where_it_is_known_from() {
    let user = User::new();
    let ran = user.vtcode(["models"]).run().await.exits(0);
    let row = |name: &str| {
        let starts = |line: &&str| line.split_whitespace().next() == Some(name);
        let line = ran.stdout.lines().find(starts).unwrap_or_else(|| panic!("{name}: {ran}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        row("claude-opus-4-5")[1..8],
        ["anthropic", "200000", "64000", "5", "0.5", "25", "yes"]
    );
    assert_eq!(row("o3-mini")[7], "no");
    assert_eq!(row("gpt-5.5")[4..7], ["?", "?", "?"]);
    assert!(ran.stdout.contains("built in, 20"), "{ran}");
    // A pipe gets words alone.
    assert!(!ran.stdout.contains('\u{1b}') && ran.stderr.is_empty(), "{ran}");
}

#[tokio::test]
async fn what_the_user_knows_goes_before_it() {
    let user = User::new();
    user.configure(FILE);
    let ran = user.vtcode(["models", "--json"]).run().await.exits(0);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let model = |name: &str| {
        let models = told["models"].as_array().unwrap();
        models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{ran}")).clone()
    };
    let mini = model("gpt-5-mini");
    assert_eq!((&mini["images"], &mini["context_window"]), (&false.into(), &400_000.into()));
    assert_eq!(mini["source"], format!("your file, over {}", told["read"].as_str().unwrap()));
    let llama = model("my-llama");
    assert_eq!((&llama["context_window"], &llama["price"]), (&8192.into(), &Value::Null));
    assert_eq!(llama["source"], "your file");
    let some = user.vtcode(["models", "llama"]).run().await.exits(0);
    assert!(some.stdout.contains("my-llama") && !some.stdout.contains("gpt-5"), "{some}");
}

#[tokio::test]
async fn what_the_user_named_is_shown_with_the_configuration() {
    let user = User::new();
    user.configure(FILE);
    let ran = user.vtcode(["config", "show"]).run().await.exits(0);
    for line in [
        "models.\"gpt-5-mini\" = { images = false }  # your file",
        "models.\"my-llama\" = { context_window = 8192 }  # your file",
        "providers.\"mine\" = { wire = \"openai\", base_url = \"http://127.0.0.1:9/v1\", headers = { \"X-Auth\" = \"[hidden]\" } }  # your file",
    ] {
        assert!(ran.stdout.lines().any(|shown| shown == line), "{line}: {ran}");
    }
    assert!(!ran.to_string().contains("sk-very-secret"), "{ran}");
}
