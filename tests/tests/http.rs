//! Outgoing HTTP through the real binary: `umbel run --grant`, with the policy of a worker, against servers of this test.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Output},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::umbel_binary;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell";

/// A server on a free port of 127.0.0.1 that serves each connection on a thread with `serve`.
fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// One that answers each request with the same text.
fn answering(answer: &'static str) -> Result<String> {
    server(move |mut stream| {
        while read_head(&mut stream).is_some() {
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn run(guest: &str, arguments: &[&str], grants: &[&str]) -> Result<Output> {
    let module = format!("{}/../target/guests/{guest}.wasm", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(umbel_binary()?);
    command.arg("run").arg(module).args(arguments).args(["-o", "json"]);
    for grant in grants {
        command.args(["--grant", grant]);
    }
    command.output().context("umbel run")
}

/// All of HTTP to this machine.
const LOCAL: &[&str] = &["http http://127.0.0.1:*/", "network 127.0.0.0/8"];

/// The result of a task of the hostile guest.
fn hostile(task: &str, arguments: &[&str]) -> Result<Value> {
    let output = run("hostile-http", &[&[task], arguments].concat(), LOCAL)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_task_asks_a_server_that_it_may_reach() -> Result<()> {
    let url = format!("http://{}/", answering(OK)?);
    let output = run("uptime", &["check", &url, "--kwarg", "contains=well"], LOCAL)?;
    ensure!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report, json!({"url": url, "up": true, "status": 200, "problem": ""}));
    Ok(())
}

#[test]
fn a_task_sends_json_and_waits_as_long_as_the_server_asks() -> Result<()> {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    let hook = format!("http://{}/", answering(busy)?);
    let down = r#"[{"url":"http://a/","up":false,"status":null,"problem":"x"}]"#;
    let output = run("uptime", &["alert", down, &hook], LOCAL)?;
    ensure!(!output.status.success() && said(&output).contains("503"), "{}", said(&output));
    ensure!(said(&output).contains("would be retried"), "{}", said(&output));
    Ok(())
}

#[test]
fn what_is_not_granted_is_denied_with_the_permission_to_paste() -> Result<()> {
    let (address, connections) = counting()?;
    let url = format!("http://{address}/");
    let output = run("uptime", &["check", &url], &[])?;
    let text = said(&output);
    ensure!(text.contains(&format!("`http GET http://{address}/`")) && text.contains("http_denied"), "{text}");
    let output = run("uptime", &["check", &url], &["http http://127.0.0.1:*/"])?;
    ensure!(said(&output).contains("`network 127.0.0.0/8`"), "{}", said(&output));
    ensure!(connections.try_recv().is_err(), "nobody connects");
    Ok(())
}

/// A server that tells of each connection.
fn counting() -> Result<(String, Receiver<()>)> {
    let (told, connections) = mpsc::channel();
    let address = server(move |mut stream| {
        let _ = told.send(());
        while read_head(&mut stream).is_some() {
            let _ = stream.write_all(OK.as_bytes());
        }
    })?;
    Ok((address, connections))
}

#[test]
fn ten_thousand_requests_that_are_dropped_are_bounded() -> Result<()> {
    let counts = hostile("flood", &[&answering(OK)?])?;
    // All begin: most are over the limit of one attempt, which only their answers would tell.
    assert_eq!(counts["answered"], 10_000);
    Ok(())
}

#[test]
fn requests_that_are_held_to_the_end_are_bounded_by_the_memory_of_the_attempt() -> Result<()> {
    let silent = server(|stream| {
        let _open = stream;
        thread::sleep(Duration::from_secs(60));
    })?;
    let counts = hostile("hold", &[&silent, "900"])?;
    let (begun, limited) = (counts["answered"].as_u64().unwrap_or(0), counts["limited"].as_u64().unwrap_or(0));
    ensure!((1..900).contains(&begun) && begun + limited == 900, "{counts}");
    Ok(())
}

#[test]
fn handles_that_are_held_are_bounded() -> Result<()> {
    let silent = answering(OK)?;
    let output = run("hostile-http", &["hold", &silent, "5000", "--memory", "256MiB"], LOCAL)?;
    ensure!(said(&output).contains("host_limit:handles"), "{}", said(&output));
    Ok(())
}

#[test]
fn bodies_that_are_dropped_unread_cost_nothing_further() -> Result<()> {
    let endless = server(|mut stream| {
        if read_head(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n");
            while stream.write_all(&[b'x'; 65_536]).is_ok() {}
        }
    })?;
    let counts = hostile("drop_bodies", &[&endless, "100"])?;
    assert_eq!(counts["answered"], 100);
    Ok(())
}

#[test]
fn an_upload_without_end_is_stopped_and_told_why() -> Result<()> {
    let swallowing = server(|mut stream| {
        let mut buffer = [0; 65_536];
        while stream.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
    })?;
    let ended = hostile("upload", &[&swallowing])?;
    assert_eq!(ended, "ErrorCode::HttpRequestBodySize");
    Ok(())
}

#[test]
fn a_denied_upload_sees_the_denial() -> Result<()> {
    let output = run("hostile-http", &["upload", "127.0.0.1:9"], &[])?;
    ensure!(output.status.success(), "{}", said(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?, "ErrorCode::HttpRequestDenied");
    Ok(())
}

#[test]
fn a_body_without_end_stops_at_the_limit_with_a_typed_error() -> Result<()> {
    let endless = server(|mut stream| {
        if read_head(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 65_536]).is_ok() {}
        }
    })?;
    let ended = hostile("read", &[&endless])?;
    ensure!(ended[0] == "ErrorCode::HttpResponseBodySize", "{ended}");
    ensure!(ended[1].as_u64().is_some_and(|bytes| bytes <= 256 << 20), "{ended}");
    Ok(())
}

#[test]
fn a_body_that_a_guest_leaves_half_written_never_looks_complete() -> Result<()> {
    let (told, received) = mpsc::channel();
    let recording = server(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = told.send(all);
    })?;
    hostile("unfinished", &[&recording])?;
    let all = String::from_utf8_lossy(&received.recv_timeout(Duration::from_secs(10))?).into_owned();
    ensure!(all.contains("half") && !all.ends_with("0\r\n\r\n"), "{all:?}");
    Ok(())
}

#[test]
fn header_fields_are_bounded() -> Result<()> {
    for task in ["hoard_fields", "grow_fields"] {
        let output = run("hostile-http", &[task], &[])?;
        ensure!(said(&output).contains("host_limit:http_fields"), "{task}: {}", said(&output));
    }
    Ok(())
}

#[test]
fn a_request_that_waits_ends_with_its_attempt() -> Result<()> {
    let (told, ended) = mpsc::channel();
    let silent = server(move |mut stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = stream.shutdown(Shutdown::Both);
        let _ = told.send(());
    })?;
    let began = Instant::now();
    let url = format!("http://{silent}/");
    let output = run("uptime", &["check", &url, "--kwarg", "timeout_ms=60000", "--time-limit", "500ms"], LOCAL)?;
    ensure!(said(&output).contains("deadline"), "{}", said(&output));
    ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    ended.recv_timeout(Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn a_local_run_has_the_configuration_and_a_store_of_its_own() -> Result<()> {
    let page =
        "HTTP/1.1 200 OK\r\ncontent-length: 49\r\n\r\n{\"items\": [{\"id\": \"a\"}, {\"id\": \"b\"}], \"next\": \"\"}";
    let url = format!("api_url=http://{}", answering(page)?);
    let module = format!("{}/../target/guests/api-import.wasm", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(umbel_binary()?);
    command.args(["run", &module, "import", "shop", "3", "-o", "json", "--config", &url]);
    let grants = LOCAL.iter().chain(&["kv cursors", "kv imported"]);
    command.args(grants.flat_map(|grant| ["--grant", grant]));
    let output = command.output()?;
    ensure!(output.status.success(), "{}", said(&output));
    let imported: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(imported, json!({"pages": 3, "items": 6, "complete": false}));
    let unset = run("api-import", &["import", "shop"], &["kv cursors"])?;
    ensure!(said(&unset).contains("umbel config set api_url="), "{}", said(&unset));
    Ok(())
}
