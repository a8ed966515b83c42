//! How requests reach the model: by which way, how often, and what is done again.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use vtcode_testkit::{ScriptedModel, TlsServer, call, say};

use crate::user::{PROVIDERS, User, soon};

#[tokio::test]
async fn with_cache_the_same_task_is_asked_once() {
    for provider in PROVIDERS {
        let user = User::with([("a.txt", "one\n")]);
        let model = ScriptedModel::start(vec![
            call("read_file", json!({"path": "a.txt"})),
            say("It says one."),
            say("Something else."),
        ])
        .await;
        for _ in 0..2 {
            let exec = user.exec_on(provider, &model, "what does a.txt say?").args(["--cache"]);
            exec.run().await.exits(0).prints("It says one.\n");
        }
        assert_eq!(model.requests().len(), 2, "{provider}");
        // Without it, each run is a question of its own.
        let exec = user.exec_on(provider, &model, "what does a.txt say?");
        exec.run().await.exits(0).prints("Something else.\n");
        assert_eq!(model.requests().len(), 3, "{provider}");
    }
}

#[tokio::test]
async fn plain_http_to_another_machine_needs_the_users_word() {
    let user = User::new();
    let exec = || user.vtcode(["exec", "--base-url", "http://model.invalid/v1", "hi"]);
    exec().run().await.exits(2).says("client.allow_http");
    // The folder's file does not count.
    user.folder.write("vtcode.toml", "client.allow_http = true");
    exec().run().await.exits(2).says("can only be set by you");
    user.folder.write("vtcode.toml", "");
    user.configure("client.allow_http = true\nclient.attempts = 1");
    exec().run().await.exits(3).says("cannot reach http://model.invalid");
}

#[tokio::test]
async fn a_proxy_is_used_but_not_for_whom_it_is_not_meant() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let user = User::new();
    user.configure("client.attempts = 1");
    let exec = || {
        let exec = user.vtcode(["exec", "--base-url", "https://model.invalid/v1", "hi"]);
        exec.env("HTTPS_PROXY", &address)
    };
    // The connection is made ahead, and once more for the request, as the proxy refuses it.
    let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        while let Ok((mut socket, _)) = proxy.accept().await {
            let mut head = vec![0; 1000];
            let read = socket.read(&mut head).await.unwrap_or(0);
            let _ = told.send(String::from_utf8_lossy(&head[..read]).into_owned());
            let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            let _ = socket.write_all(refusal).await;
        }
    });
    exec().run().await.exits(3);
    let asked_for = soon("the proxy is asked", asked.recv()).await.unwrap();
    assert!(asked_for.starts_with("CONNECT model.invalid:443 HTTP/1.1\r\n"), "{asked_for}");
    while asked.try_recv().is_ok() {}
    exec().env("NO_PROXY", "model.invalid").run().await.exits(3);
    assert!(asked.try_recv().is_err(), "it is not for this one");
    server.abort();
}

#[tokio::test]
async fn a_server_of_a_private_authority_is_trusted_by_either_of_two_ways_and_not_without() {
    let model = ScriptedModel::start_with(|_, _| say("Fine.")).await;
    let server = TlsServer::start(model.address()).await;
    let user = User::new();
    let trusted = user.home.path().join("authority.pem");
    std::fs::write(&trusted, &server.pem).unwrap();
    let url = format!("https://localhost:{}/v1", server.address.port());
    let exec = || user.vtcode(["exec", "--base-url", &url, "-m", "m", "hi"]);

    exec().run().await.exits(3).says("client.ca_file or SSL_CERT_FILE");
    assert!(model.requests().is_empty(), "nothing was said to a stranger");

    exec().env("SSL_CERT_FILE", &trusted).run().await.exits(0).prints("Fine.\n");
    user.configure(&format!("client.ca_file = {:?}", trusted.display().to_string()));
    exec().run().await.exits(0).prints("Fine.\n");
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn a_wait_that_lasts_is_told() {
    let user = User::new();
    user.configure("client.silence_notice_s = 1");
    let late = say("At last.").delay(Duration::from_millis(2500));
    let model = ScriptedModel::start(vec![late]).await;
    let ran = user.exec(&model, "hi").run().await.exits(0).prints("At last.\n");
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("still waiting")).collect();
    assert!(told.len() <= 2 && told[0].contains("no first byte of the answer"), "{ran}");
}

#[tokio::test]
async fn the_first_connection_is_made_ahead_and_the_profile_says_so() {
    let user = User::with([("a.txt", "one\n")]);
    let model = ScriptedModel::start(vec![
        call("read_file", json!({"path": "a.txt"})).usage(100, 40, 10),
        say("Done.").usage(130, 100, 5),
    ])
    .await;
    let ran = user.exec(&model, "hi").args(["--profile"]).run().await.exits(0);
    assert_eq!(model.connections(), 1);
    let ran = ran.says("model requests: 2 done; 0 kept, 0 shared");
    let ran = ran.says("connections: 1 opened, 1 of them ahead, 1 used again");
    ran.says("230 tokens in (140 cached), 15 out");
}
