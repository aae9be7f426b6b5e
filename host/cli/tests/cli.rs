//! The binary by itself: what needs no guest, no Redis and no second machine. Whole flows are in `tests/`.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

fn umbel(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
    command.args(args).current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = umbel(folder, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// `umbel dev` on a free port, in a folder of its own.
struct Dev {
    folder: tempfile::TempDir,
    child: Child,
}

impl Dev {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = umbel(folder.path(), &[&["dev", "--port", "0", "--concurrency", "2"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The banner is written when everything is up.
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("is up"), "{line}");
        Self { folder, child }
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        run(self.folder.path(), args)
    }

    /// The worker's id, once it has said that it is alive.
    fn worker(&self) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (code, out, err) = self.run(&["worker", "list", "-o", "id"]);
            assert_eq!(code, 0, "{err}");
            if !out.is_empty() {
                return out.trim().to_owned();
            }
            assert!(Instant::now() < until, "no worker");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child of ours that was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("umbel dev did not end");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dev_serves_client_verbs_from_folders_below_and_ends_in_order() {
    let mut dev = Dev::start();
    let below = dev.folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let (code, out, err) = run(&below, &["job", "list", "-o", "json"]);
    assert_eq!((code, out.trim()), (0, r#"{"items":[],"next_cursor":null}"#), "{err}");
    assert_eq!(dev.worker().lines().count(), 1);
    let (code, _, err) = dev.run(&["dev", "--port", "0"]);
    assert_eq!(code, 1);
    assert!(err.contains("error[data_in_use]") && err.contains("help:"), "{err}");
    assert_eq!(dev.terminate(), Some(0));
    let mut log = String::new();
    dev.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("worker ended") && !log.contains("umbel_"), "{log}");
}

#[test]
fn the_token_lives_as_long_as_the_data_folder() {
    let mut dev = Dev::start();
    let profile = || std::fs::read_to_string(dev.folder.path().join(".umbel/profile.json")).unwrap();
    let token = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["token"].clone();
    let first = token(&profile());
    assert_eq!(dev.terminate(), Some(0));
    let mut again = umbel(dev.folder.path(), &["dev", "--port", "0"]);
    dev.child = again.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(dev.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let second = std::fs::read_to_string(dev.folder.path().join(".umbel/profile.json")).unwrap();
    assert_eq!(first, token(&second));
}

#[test]
fn failures_have_a_code_an_exit_code_and_the_next_step() {
    let dev = Dev::start();
    let file = dev.folder.path().join("text.wasm");
    std::fs::write(&file, "not a module").unwrap();
    let file = file.to_str().unwrap();
    let id = "01J00000000000000000000000";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["module", "push", file], 1, "error[not_wasm]"),
        (&["module", "push", "missing.wasm"], 4, "error[file]"),
        (&["run", file], 1, "error[not_wasm]"),
        (&["job", "submit", "nothing"], 4, "error[task_not_found]"),
        (&["job", "show", id], 4, "error[job_not_found]"),
        (&["job", "show", "no-id"], 2, "26 capital letters"),
        (&["job", "submit", "t", "--kwarg", "x"], 2, "NAME=VALUE"),
        (&["workflow", "submit", "missing.json"], 4, "error[file]"),
        (&["workflow", "submit", file], 1, "error[not_json]"),
        (&["workflow", "submit", "--chain", "nothing 1"], 4, "/canvas/chain/0/task"),
        (&["workflow", "submit", "--chain", "add [1"], 2, "not closed"),
        (&["workflow", "submit"], 2, "--chain"),
        (&["workflow", "map", "--task", "count", "--each-file", "*.md"], 4, "error[no_files]"),
        (&["workflow", "show", id], 4, "error[workflow_not_found]"),
        (&["workflow", "result", id, "--wait"], 4, "error[workflow_not_found]"),
        (&["workflow", "cancel", id], 4, "error[workflow_not_found]"),
        (&["workflow", "resume", id], 4, "error[workflow_not_found]"),
        (&["workflow", "graph", id], 4, "error[workflow_not_found]"),
        (&["job", "list", "--workflow", id], 4, "error[workflow_not_found]"),
        (&["queue", "delete", "nothing"], 4, "error[queue_not_found]"),
        (&["queue", "set", "q"], 2, "nothing is to be changed"),
        (&["queue", "purge", "q"], 2, "--yes"),
        (&["task", "pause", "nothing"], 4, "error[task_not_found]"),
        (&["task", "limit", "t", "--rate", "5/d"], 2, "/s, /m or /h"),
        (&["job", "forget", id], 4, "error[job_not_found]"),
        (&["job", "events", id], 4, "error[job_not_found]"),
        (&["job", "result", id], 4, "error[job_not_found]"),
        (&["job", "submit", "t", "--expires", "soon"], 2, "neither a duration"),
        (&["bulk", "cancel", "--dry-run"], 2, "--task"),
        (&["bulk", "cancel", "--all"], 2, "--yes"),
        (&["bulk", "show", id], 4, "error[bulk_not_found]"),
        (&["bulk", "redrive", "--task", "t", "--policy", "{\"max_retry\":1}"], 2, "did you mean max_retries?"),
        (&["routes", "set", "missing.json"], 4, "error[file]"),
        (&["routes", "remove", "x"], 4, "error[route_not_found]"),
        (&["worker", "drain", "nobody"], 4, "error[worker_not_found]"),
        (&["worker", "show", "../jobs"], 2, "is not the id of a worker"),
        (&["worker", "autoscale", "w", "3", "2"], 2, "more than the most"),
        (&["doctor", "--broker", "sqlite:missing.db"], 4, "error[no_broker]"),
        (&["doctor", "--broker", "redis://127.0.0.1:1"], 7, "error[broker_unavailable]"),
        (&["dead", "redrive", "--all"], 2, "--yes"),
        (&["--token", "wrong", "job", "list"], 2, "error[no_server]"),
        (&["--url", "http://127.0.0.1:1", "--token", "t", "job", "list"], 7, "error[unreachable]"),
        (&["worker"], 1, "error[sqlite_one_process]"),
        (&["server"], 1, "error[sqlite_one_process]"),
        (&["worker", "--broker", "ftp://x"], 2, "redis://"),
        (&["--log-level", "=,=", "worker"], 2, "--log-level"),
        (&["nonsense"], 2, "nonsense"),
    ];
    for (args, code, words) in cases {
        let (found, out, err) = dev.run(args);
        assert_eq!((found, out.as_str()), (*code, ""), "{args:?}\n{err}");
        assert!(err.contains(words), "{args:?}\n{err}");
    }
}

/// An empty group needs no guest: it is over at once, and its result is the empty list.
#[test]
fn a_workflow_is_submitted_listed_shown_watched_and_drawn() {
    let dev = Dev::start();
    std::fs::write(dev.folder.path().join("canvas.json"), r#"{"group": []}"#).unwrap();
    let stamps = ["--name", "none", "--tag", "a", "--tag", "b", "--header", "k=v", "--deadline", "10m"];
    let (code, out, err) = dev.run(&[&["workflow", "submit", "canvas.json", "--wait"], &stamps[..]].concat());
    assert_eq!((code, out.trim()), (0, "[]"), "{err}");
    let (_, id, _) = dev.run(&["workflow", "list", "--state", "succeeded", "-o", "id"]);
    let id = id.trim();
    assert_eq!(id.len(), 26, "{id}");
    let (code, out, err) = dev.run(&["workflow", "show", id]);
    let all = ["name      none", "a, b", r#"{"k":"v"}"#, "0 of 0 jobs done", "group of 0", "succeeded", "result\n[]"];
    for words in all {
        assert!(out.contains(words), "{words}\n{out}{err}");
    }
    assert_eq!(code, 0);
    // Not a terminal: lines, and no movement of a cursor.
    let (code, out, _) = dev.run(&["workflow", "show", id, "-w"]);
    assert!(code == 0 && out.starts_with("succeeded 0 of 0") && !out.contains('\u{1b}'), "{out}");
    let (code, out, _) = dev.run(&["workflow", "result", id]);
    assert_eq!((code, out.trim()), (0, "[]"));
    let (code, out, _) = dev.run(&["workflow", "graph", id]);
    assert!(code == 0 && out.starts_with("<svg"), "{out}");
    let (code, out, _) = dev.run(&["job", "list", "--workflow", id, "-o", "json"]);
    assert_eq!((code, out.trim()), (0, r#"{"items":[],"next_cursor":null}"#));
    let (code, _, err) = dev.run(&["workflow", "cancel", id]);
    assert!(code == 6 && err.contains("error[workflow_ended]"), "{err}");
    let (code, _, err) = dev.run(&["workflow", "resume", id, "--digest", "current"]);
    assert!(code == 6 && err.contains("error[not_resumable]"), "{err}");
}

#[test]
fn limits_routes_and_actions_are_set_shown_and_taken_back() {
    let dev = Dev::start();
    let ok = |args: &[&str]| {
        let (code, out, err) = dev.run(args);
        assert_eq!(code, 0, "{args:?}\n{out}{err}");
        out
    };
    let tenant = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&ok(&[&["tenant"], args, &["--json"]].concat())).unwrap()
    };
    let set = tenant(&["limit", "--rate", "100/m", "--burst", "5", "--concurrency", "9"]);
    assert_eq!((&set["rate_limit"], &set["concurrency"]), (&"100/m".into(), &9.into()), "{set}");
    assert_eq!(tenant(&["pause"])["paused"], true);
    assert_eq!(tenant(&["resume"])["paused"], false);
    assert!(tenant(&["limit", "--none"])["rate_limit"].is_null());
    ok(&["routes", "add", "orders.*", "orders"]);
    ok(&["routes", "add", "^mail", "mail", "--first"]);
    let routes = ok(&["routes", "list"]);
    let lines: Vec<&str> = routes.lines().collect();
    assert!(lines[1].starts_with("^mail") && lines[2].contains("glob"), "{routes}");
    ok(&["routes", "remove", "^mail"]);
    assert_eq!(ok(&["routes", "list", "-o", "id"]).trim(), "orders.*");
    let counted = ok(&["bulk", "cancel", "--task", "nothing", "--dry-run", "--json"]);
    assert!(counted.contains(r#""done":0"#) || counted.contains(r#""matched":0"#), "{counted}");
    assert_eq!(ok(&["bulk", "list", "-o", "id"]).lines().count(), 1);
}

#[test]
fn a_worker_takes_orders_from_the_token_of_dev() {
    let mut dev = Dev::start();
    let id = dev.worker();
    let order = |args: &[&str]| {
        let (code, out, err) = dev.run(&[&["worker"], args].concat());
        assert_eq!((code, out.trim()), (0, id.as_str()), "{args:?}\n{err}");
    };
    let shown = |until: &dyn Fn(&serde_json::Value) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (code, out, err) = dev.run(&["worker", "show", &id, "--json"]);
            assert_eq!(code, 0, "{err}");
            let worker: serde_json::Value = serde_json::from_str(&out).unwrap();
            if until(&worker) {
                return;
            }
            assert!(Instant::now() < deadline, "{worker}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    order(&["drain", &id]);
    shown(&|worker| worker["state"] == "draining");
    order(&["resume", &id]);
    shown(&|worker| worker["state"] == "running");
    order(&["slots", &id, "1"]);
    shown(&|worker| worker["slots"] == 1);
    order(&["queues", &id, "a", "b"]);
    shown(&|worker| worker["queues"] == serde_json::json!(["a", "b"]));
    order(&["queues", &id, "+c", "-a"]);
    shown(&|worker| worker["queues"] == serde_json::json!(["b", "c"]));
    let (code, _, err) = dev.run(&["worker", "drain", &format!("{id}x")]);
    assert!(code == 4 && err.contains(&format!("similar name exists: {id}")), "{err}");
    // Nobody is left to run jobs: the process ends, too, in order.
    order(&["shutdown", &id]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = dev.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_token_that_is_no_operators_orders_no_worker_about() {
    let mut dev = Dev::start();
    let id = dev.worker();
    let url = std::fs::read_to_string(dev.folder.path().join(".umbel/profile.json")).unwrap();
    let url = serde_json::from_str::<serde_json::Value>(&url).unwrap()["url"].as_str().unwrap().to_owned();
    assert_eq!(dev.terminate(), Some(0));
    let (code, token, err) = dev.run(&["token", "create"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(dev.run(&["token", "create", "--name", "granter", "--grant"]).0, 0);
    let (_, tokens, _) = dev.run(&["token", "list"]);
    let row = |name: &str| {
        let line = tokens.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{tokens}"));
        line.split_whitespace().skip(1).take(4).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (row(" cli "), row(" granter ")),
        ("default cli false false".into(), "default granter false true".into())
    );
    let port = url.rsplit_once(':').unwrap().1;
    let mut again = umbel(dev.folder.path(), &["dev", "--port", port]);
    dev.child = again.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(dev.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let order = ["--url", &url, "--token", token.trim(), "worker", "drain", &id];
    let (code, _, err) = dev.run(&order);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("umbel token create --operator"), "{err}");
    let grants = ["--url", &url, "--token", token.trim(), "tenant", "grants", "set", "kv x"];
    let (code, _, err) = dev.run(&grants);
    assert!(code == 5 && err.contains("umbel token create --grant"), "{code} {err}");
}

#[test]
fn doctor_finds_a_new_broker_well_and_says_so_to_programs() {
    let mut dev = Dev::start();
    // A SQLite file belongs to one process.
    let (code, _, err) = dev.run(&["doctor"]);
    assert_ne!(code, 0, "{err}");
    assert_eq!(dev.terminate(), Some(0));
    let (code, out, err) = dev.run(&["doctor"]);
    assert!(code == 0 && out.is_empty() && err.contains("is well"), "{out}{err}");
    let (code, out, _) = dev.run(&["doctor", "--fix", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["healthy"], &report["findings"]), (0, &true.into(), &serde_json::json!([])));
}

#[test]
fn the_same_key_is_the_same_workflow() {
    let dev = Dev::start();
    std::fs::write(dev.folder.path().join("body.json"), r#"{"canvas": {"group": []}, "idempotency_key": "k"}"#)
        .unwrap();
    let submit = |more: &[&str]| {
        let (code, out, err) = dev.run(&[&["workflow", "submit", "body.json", "-o", "id"], more].concat());
        assert_eq!(code, 0, "{err}");
        out
    };
    let first = submit(&[]);
    assert_eq!(first, submit(&[]));
    assert_ne!(first, submit(&["--idempotency-key", "other"]));
}

#[test]
fn without_a_server_the_next_step_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) = run(folder.path(), &["job", "list"]);
    assert_eq!(code, 2);
    assert!(err.contains("error[no_server]") && err.contains("umbel dev"), "{err}");
}

#[test]
fn a_profiles_token_is_not_sent_to_another_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".umbel")).unwrap();
    let profile = r#"{"url": "http://127.0.0.1:1", "token": "umbel_secret"}"#;
    std::fs::write(folder.path().join(".umbel/profile.json"), profile).unwrap();
    let (code, _, err) = run(folder.path(), &["--url", "http://127.0.0.1:2", "job", "list"]);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("error[no_token]"), "{err}");
}

#[test]
fn a_reader_that_has_enough_ends_the_verb_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = umbel(folder.path(), &["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let (code, _, err) = run(folder.path(), &["dev", "--port", "0", "--data", "file/data"]);
    assert_eq!(code, 1);
    assert!(err.contains("error[data_folder]") && err.contains("file/data"), "{err}");
}

#[test]
fn help_and_version_say_what_is_documented() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, _) = run(folder.path(), &["--help"]);
    assert!(code == 0 && out.contains("Exit codes") && !out.contains("__"), "{out}");
    let (code, out, _) = run(folder.path(), &["--version"]);
    assert_eq!((code, out.trim()), (0, concat!("umbel ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn dev_speaks_https_and_the_next_command_just_works() {
    let dev = Dev::with(&["--tls"]);
    dev.worker();
    let profile = std::fs::read_to_string(dev.folder.path().join(".umbel/profile.json")).unwrap();
    assert!(profile.contains("https://127.0.0.1:") && profile.contains(".umbel/tls/ca.pem"), "{profile}");
    let text = |name: &str| {
        let (_, rest) = profile.split_once(&format!("\"{name}\": \"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let (url, token) = (text("url"), text("token"));
    // By its other name, where no profile tells whom to trust; and as the system would trust it.
    let other = url.replace("127.0.0.1", "localhost");
    let named = ["queue", "list", "--url", &other, "--token", &token];
    let (code, _, err) = dev.run(&named);
    assert!(code == 1 && err.contains("error[tls]"), "{err}");
    let (code, _, err) = dev.run(&[&named[..], &["--ca-file", ".umbel/tls/ca.pem"]].concat());
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = dev.run(&["queue", "list", "--url", &url, "--token", &token]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = dev.run(&["queue", "list", "--ca-file", "none.pem"]);
    assert!(code == 1 && err.contains("none.pem cannot be read"), "{err}");
}
