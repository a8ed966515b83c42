//! Images in prompts: `-i FILE` and `@file.png`, on every wire; what a session keeps of them, and
//! what is refused before anything is sent.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::Value;
use vtcode_testkit::{Request, ScriptedModel, say};

use crate::resume::goes_on;
use crate::user::{PROVIDERS, User};

/// A picture of so many bytes.
fn png(bytes: usize) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend((0..bytes - png.len()).map(|n| (n * 31 % 251) as u8));
    png
}

const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF";

/// The messages of a request, on whatever wire.
fn messages(request: &Request) -> Vec<Value> {
    let body = request.json();
    let list = ["messages", "input", "contents"].into_iter().find_map(|n| body[n].as_array());
    list.unwrap().clone()
}

/// What is said of the first image in a message: its media type, and the beginning of its bytes.
fn image(message: &Value) -> (String, String) {
    let pieces = message.get("content").or(message.get("parts")).unwrap().as_array().unwrap();
    let found = pieces.iter().find_map(|piece| {
        let url = piece["image_url"].as_str().or(piece["image_url"]["url"].as_str());
        if let Some(url) = url {
            let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
            return Some((kind.to_owned(), data.to_owned()));
        }
        let (source, inline) = (&piece["source"], &piece["inlineData"]);
        let kind = source["media_type"].as_str().or(inline["mimeType"].as_str())?;
        let data = source["data"].as_str().or(inline["data"].as_str())?;
        Some((kind.to_owned(), data.to_owned()))
    });
    found.unwrap_or_else(|| panic!("no image in {message}"))
}

fn is_prompt(message: &Value) -> bool {
    message["role"] == "user" && message.to_string().contains("what is this")
}

#[tokio::test]
async fn an_image_goes_to_the_model_and_a_later_run_sends_the_same_bytes() {
    for provider in PROVIDERS {
        let user = User::with([("shot.txt", png(3000)), ("docs/photo.png", JPEG.to_vec())]);
        let model =
            ScriptedModel::start(vec![say("A shot."), say("Still one."), say("Yes.")]).await;
        let exec = user.exec_on(provider, &model, "what is this, and @docs/photo.png?");
        exec.args(["--image", "shot.txt"]).run().await.exits(0).prints("A shot.\n");
        let requests = model.requests();
        let sent = messages(&requests[0]);
        let prompt = sent.iter().find(|message| is_prompt(message)).unwrap();
        // Its bytes decide, and not its name.
        let (kind, data) = image(prompt);
        assert_eq!(kind, "image/png", "{provider}");
        assert!(data.starts_with("iVBORw0KGgo") && data.len() == 4000, "{provider}");
        let text = prompt.to_string();
        assert!(text.contains("image/jpeg") && text.contains("/9j/4AAQSkZJRg"), "{provider}");

        // The journal names them, and the bytes lie beside it, once and for the user alone.
        let journal = std::fs::read_to_string(user.session().join("journal.jsonl")).unwrap();
        assert!(!journal.contains("iVBOR"), "{provider}");
        let kept: Vec<_> = std::fs::read_dir(user.session().join("images")).unwrap().collect();
        assert_eq!(kept.len(), 2, "{provider}");
        for file in kept {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        }

        // Whatever became of the file.
        std::fs::remove_file(user.folder.path().join("shot.txt")).unwrap();
        user.vtcode(["resume", "--last", "and now?"]).run().await.exits(0);
        goes_on(&requests[0], &model.requests()[1]);
        let more = user.vtcode(["resume", "--last", "and this?", "-i", "docs/photo.png"]);
        more.run().await.exits(0);
        goes_on(&model.requests()[1], &model.requests()[2]);
        let kept = std::fs::read_dir(user.session().join("images")).unwrap().count();
        assert_eq!(kept, 2, "the same image lies there once");

        let shown = user.vtcode(["context", "--json"]).run().await.exits(0);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let rows = shown["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["what"] == "images").unwrap();
        assert_eq!((&row["count"], &row["tokens"]), (&3.into(), &4800.into()));
    }
}

#[tokio::test]
async fn a_large_image_costs_tokens_and_not_bytes() {
    let user = User::with([("shot.png", png(3 << 20))]);
    let model = ScriptedModel::start(vec![say("A shot."), say("Yes.")]).await;
    // As text it would be a million tokens, and pass both.
    let exec = user.exec(&model, "what is this?").args(["-i", "shot.png", "--max-tokens", "50000"]);
    exec.env("VTCODE_CONTEXT_WINDOW_TOKENS", "50000").run().await.exits(0);
    let more = user.vtcode(["resume", "--last", "sure?", "--max-tokens", "50000"]);
    more.env("VTCODE_CONTEXT_WINDOW_TOKENS", "50000").run().await.exits(0);
    goes_on(&model.requests()[0], &model.requests()[1]);
}

#[tokio::test]
async fn a_model_that_reads_no_images_is_not_asked() {
    let user = User::with([("shot.png", png(300))]);
    let model = ScriptedModel::start(vec![say("Words."), say("Words again.")]).await;
    user.configure("[models.\"scripted\"]\nimages = false\n");
    let exec = user.exec(&model, "what is this?").args(["-i", "shot.png"]);
    exec.run().await.exits(2).says("scripted: the model reads no images");
    // A model of the table; and a word of the user's goes before it.
    let url = model.openai_url();
    let exec = user.vtcode(["exec", "what is this?", "-i", "shot.png", "-m", "o3-mini"]);
    let exec = exec.args(["--base-url", &url]);
    exec.run().await.exits(2).says("o3-mini: the model reads no images");
    assert!(model.requests().is_empty());
    // A mention is a word, too: it goes out, and what did not is told.
    let exec = user.exec(&model, "what is this, @shot.png?");
    exec.run().await.exits(0).says("`@shot.png` cannot be attached: the model reads no images");
    assert!(!String::from_utf8_lossy(&model.requests()[0].body).contains("iVBOR"));
}

#[tokio::test]
async fn a_session_goes_on_with_a_model_that_reads_no_images() {
    let user = User::with([("shot.png", png(300))]);
    let model = ScriptedModel::start(vec![say("A shot."), say("I cannot see it.")]).await;
    user.exec(&model, "what is this?").args(["-i", "shot.png"]).run().await.exits(0);
    let more = user.vtcode(["resume", "--last", "and now?", "-m", "o3-mini"]);
    more.run().await.exits(0);
    let sent = String::from_utf8_lossy(&model.requests()[1].body).into_owned();
    assert!(sent.contains("[an image stands here, which this model cannot read]"), "{sent}");
    assert!(!sent.contains("iVBOR"));
}

#[tokio::test]
async fn an_image_that_is_gone_leaves_words_and_is_told() {
    let user = User::with([("shot.png", png(300))]);
    let model = ScriptedModel::start(vec![say("A shot."), say("Gone.")]).await;
    user.exec(&model, "what is this?").args(["-i", "shot.png"]).run().await.exits(0);
    let folder = user.session().join("images");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    // Other bytes are not the image's.
    std::fs::write(file, png(299)).unwrap();
    let more = user.vtcode(["resume", "--last", "and now?"]).run().await.exits(0);
    more.says("an image of this session is gone from its folder");
    let sent = String::from_utf8_lossy(&model.requests()[1].body).into_owned();
    assert!(sent.contains("[an image stood here; its file is gone]"), "{sent}");
    let changes = user.journal().into_iter().filter(|e| e["type"] == "prefix_changed");
    assert_eq!(changes.map(|e| e["change"].clone()).collect::<Vec<_>>(), ["image_lost"]);
}

#[tokio::test]
async fn what_is_no_image_is_refused_before_anything_begins() {
    let user = User::with([("words.png", b"just words".to_vec()), ("empty.png", Vec::new())]);
    let folder = user.folder.path();
    std::fs::create_dir(folder.join("folder.png")).unwrap();
    let fifo = CString::new(folder.join("fifo.png").as_os_str().as_bytes()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.as_c_str(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let sparse = std::fs::File::create(folder.join("sparse.png")).unwrap();
    sparse.set_len(5 << 30).unwrap();
    let model = ScriptedModel::start(Vec::new()).await;
    for (file, told) in [
        ("none.png", "No such file"),
        ("folder.png", "it is no file"),
        ("fifo.png", "it is no file"),
        ("/dev/zero", "it is no file"),
        ("sparse.png", "it has 5120.00 MiB and an image may have 14.00 MiB: scale it down"),
        ("words.png", "it is text, and models read png, jpeg, gif and webp images"),
        ("empty.png", "it is empty"),
    ] {
        let ran = user.exec(&model, "what is this?").args(["-i", file]).run().await.exits(2);
        ran.says(&format!("cannot send `{file}` as an image: ")).says(told);
        // A mention is not the user's own will alone: it is told, and the words go out.
        assert!(user.session_ids().is_empty(), "{file}");
    }
    // Anthropic takes less of one.
    std::fs::write(folder.join("large.png"), png(4 << 20)).unwrap();
    let exec = user.exec_on("anthropic", &model, "what is this?").args(["-i", "large.png"]);
    exec.run().await.exits(2).says("an image may have 3.75 MiB");
    let twenty_one = vec!["-i=small.png"; 21];
    std::fs::write(folder.join("small.png"), png(20)).unwrap();
    let exec = user.exec(&model, "what is this?").args(twenty_one);
    exec.run().await.exits(2).says("a prompt may have 20 images");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn an_image_may_lie_anywhere_when_the_user_names_it_and_nowhere_else_when_a_prompt_does() {
    let user = User::new();
    let outside = user.home.path().join("shot.png");
    std::fs::write(&outside, png(300)).unwrap();
    let link = user.folder.path().join("link.png");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let model = ScriptedModel::start(vec![say("A shot."), say("None.")]).await;
    let exec = user.exec(&model, "what is this?").args([Path::new("-i"), &outside]);
    exec.run().await.exits(0);
    assert_eq!(image(&messages(&model.requests()[0])[1]).0, "image/png");
    let prompt = format!("what is this, @{} or @link.png?", outside.display());
    user.exec(&model, &prompt).run().await.exits(0).says("link.png");
    let sent = String::from_utf8_lossy(&model.requests()[1].body).into_owned();
    assert!(!sent.contains("iVBOR"), "{sent}");
}
