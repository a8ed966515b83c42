//! A provider that fails, and another one that answers instead.

use serde_json::json;
use tokio::net::TcpListener;
use vtcode_testkit::{Fault, ScriptedModel, call, fail, say};

use crate::user::User;

const FIRST: &str = "sk-of-the-first-0123456789";
const SECOND: &str = "sk-of-the-second-0123456789";

/// A user with a provider over Anthropic's wire and another one over OpenAI's.
fn user(first: &str, second: &ScriptedModel, more: &str) -> User {
    let user = User::with([("a.txt", "one\n")]);
    user.configure(&format!(
        "{more}\n[providers.first]\nwire = \"anthropic\"\nbase_url = \"{first}\"\n\
         key_env = \"FIRST_KEY\"\nmodel = \"one\"\n\
         [providers.second]\nbase_url = \"{}\"\nkey_env = \"SECOND_KEY\"\nmodel = \"two\"\n",
        second.openai_url()
    ));
    user
}

fn exec(user: &User, args: &[&str]) -> crate::user::Program {
    let args = ["exec", "--provider=first"].iter().chain(args).chain(&["what does a.txt say?"]);
    user.vtcode(args).env("FIRST_KEY", FIRST).env("SECOND_KEY", SECOND)
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_replaced_in_one_visible_line() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let second = ScriptedModel::start(vec![
        call("read_file", json!({"path": "a.txt"})).usage(100, 0, 10),
        say("It says one.").usage(120, 100, 5),
    ])
    .await;
    let user = user(&format!("http://{nobody}"), &second, "");
    let ran = exec(&user, &["--fallback=second", "--profile"]).run().await;
    let ran = ran.exits(0).prints("It says one.\n");
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("goes to two at")).collect();
    assert!(told.len() == 1 && told[0].contains("cannot reach"), "{ran}");
    let ran = ran.says("1 failed over");
    assert!(!ran.to_string().contains("sk-of"), "{ran}");
    let requests = second.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {SECOND}")));
        assert!(request.headers.iter().all(|(_, value)| !value.contains(FIRST)));
    }
    let kinds: Vec<_> =
        user.journal().iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect();
    for (kind, count) in [("endpoint_changed", 1), ("request_sent", 2), ("retry", 1)] {
        assert_eq!(kinds.iter().filter(|k| *k == kind).count(), count, "{kind}: {kinds:?}");
    }
    let attempts: Vec<_> =
        user.journal().into_iter().filter(|e| e["type"] == "attempt_ended").collect();
    let models: Vec<_> = attempts.iter().map(|e| e["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["one", "one", "two", "two"]);
}

#[tokio::test]
async fn readers_of_json_see_the_move_as_a_retry_with_its_endpoint() {
    let refuses = ScriptedModel::start(vec![fail(Fault::status(401))]).await;
    let second = ScriptedModel::start(vec![say("Fine.")]).await;
    let user = user(&refuses.anthropic_url(), &second, "client.fallback = [\"second/other\"]");
    let ran = exec(&user, &["--json"]).run().await.exits(0);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let retry: Vec<_> = lines.iter().filter(|line| line["type"] == "retry").collect();
    assert_eq!(retry.len(), 1, "{ran}");
    assert_eq!((&retry[0]["attempt"], &retry[0]["wait_ms"]), (&json!(2), &json!(0)));
    assert_eq!(retry[0]["endpoint"]["model"], "other");
    assert!(retry[0]["cause"].as_str().unwrap().contains("refused the key"), "{ran}");
    assert_eq!(second.requests()[0].json()["model"], "other");
}

#[tokio::test]
async fn another_model_of_the_same_provider_has_its_key_and_its_address() {
    let model = ScriptedModel::start(vec![fail(Fault::status(404)), say("Fine.")]).await;
    let second = ScriptedModel::start(vec![]).await;
    let user = user(&model.anthropic_url(), &second, "");
    exec(&user, &["--fallback=/older"]).run().await.exits(0).prints("Fine.\n");
    let asked: Vec<_> = model.requests().iter().map(|r| r.json()["model"].clone()).collect();
    assert_eq!(asked, ["one", "older"]);
}

#[tokio::test]
async fn a_fallback_that_cannot_be_used_is_told_before_anything_is_asked() {
    let model = ScriptedModel::start(vec![say("Fine.")]).await;
    let user = user(&model.anthropic_url(), &model, "");
    let ran = exec(&user, &["--fallback=gemini/x"]).run().await.exits(0).prints("Fine.\n");
    ran.says("the fallback `gemini/x` is left out: no key for `gemini`: set GEMINI_API_KEY");
    exec(&user, &["--fallback=acme/x"]).run().await.exits(2).says("unknown provider `acme`");
    let priced = ["--max-cost=1", "--fallback=second"];
    let price = |exec: crate::user::Program| {
        exec.env("VTCODE_PRICE_INPUT", "1").env("VTCODE_PRICE_OUTPUT", "1")
    };
    let ran = price(exec(&user, &priced)).run().await.exits(2);
    ran.says("nobody knows what the fallback `two` costs");
    // A folder cannot send the user's code elsewhere.
    user.folder.write("vtcode.toml", "client.fallback = [\"second\"]");
    exec(&user, &[]).run().await.exits(2).says("can only be set by you");
    assert_eq!(model.requests().len(), 1);
}
