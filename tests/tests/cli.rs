//! The command line as a person or a script meets it: data on stdout, words on stderr, documented exit codes.

use std::{fs, process::Output, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Dev, guest};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ends_with(output: &Output, code: i32) -> Result<()> {
    ensure!(
        output.status.code() == Some(code),
        "{} and not {code}\n{}\n{}",
        output.status,
        stdout(output),
        stderr(output)
    );
    Ok(())
}

/// A running service, and the path of a guest as a file.
async fn dev_with_numbers() -> Result<(Dev, String)> {
    let dev = Dev::start().await?;
    let path = guest_file(&dev, "numbers")?;
    Ok((dev, path))
}

#[tokio::test]
async fn push_submit_and_wait_print_the_result_and_end_with_0() -> Result<()> {
    let (dev, numbers) = dev_with_numbers().await?;
    let pushed = dev.umbel(&["module", "push", &numbers])?;
    ends_with(&pushed, 0)?;
    ensure!(stdout(&pushed).contains("sha256:") && stdout(&pushed).contains("add"), "{}", stdout(&pushed));
    let done = dev.umbel(&["job", "submit", "add", "2", "3", "--wait"])?;
    ends_with(&done, 0)?;
    ensure!(stdout(&done).contains('5'), "{}", stdout(&done));
    let done = dev.umbel(&["job", "submit", "add", "2", "--kwarg", "y=3", "--wait", "-o", "json"])?;
    ends_with(&done, 0)?;
    let job: Value = serde_json::from_str(&stdout(&done)).context("-o json is JSON")?;
    assert_eq!((&job["state"], &job["result"]), (&json!("succeeded"), &json!(5)));
    let id = dev.umbel(&["job", "submit", "add", "1", "1", "-o", "id"])?;
    ends_with(&id, 0)?;
    let shown = dev.umbel(&["job", "show", &stdout(&id), "-o", "json"])?;
    ends_with(&shown, 0)?;
    for verb in [
        &["job", "list"][..],
        &["task", "list"],
        &["task", "show", "add"],
        &["module", "list"],
        &["queue", "list"],
        &["dead", "list"],
        &["worker", "list"],
    ] {
        ends_with(&dev.umbel(verb)?, 0).with_context(|| verb.join(" "))?;
        let json = dev.umbel(&[verb, &["-o", "json"]].concat())?;
        ends_with(&json, 0)?;
        let _: Value = serde_json::from_str(&stdout(&json)).with_context(|| format!("{} -o json", verb.join(" ")))?;
    }
    Ok(())
}

/// Writes a guest into the folder of the server, and answers the file's path.
fn guest_file(dev: &Dev, name: &str) -> Result<String> {
    let path = dev.data.join(format!("{name}-upload.wasm"));
    fs::write(&path, guest(name)?)?;
    Ok(path.to_string_lossy().into_owned())
}

#[tokio::test]
async fn a_push_asks_before_it_takes_a_task_of_another_module_and_tells_what_it_changes() -> Result<()> {
    let (dev, numbers) = dev_with_numbers().await?;
    let policies = guest_file(&dev, "policies")?;
    let told = dev.umbel(&["module", "push", &numbers, "--dry-run"])?;
    ends_with(&told, 0)?;
    ensure!(stdout(&told).contains("add") && stderr(&told).contains("nothing is stored"), "{told:?}");
    ensure!(!stdout(&dev.umbel(&["task", "list"])?).contains("add"), "a dry run deploys nothing");
    let pushed = dev.umbel(&["module", "push", &numbers])?;
    ensure!(stdout(&pushed).contains("CHANGE") && stdout(&pushed).contains("new"), "{}", stdout(&pushed));
    // Both have a task `flaky`.
    let refused = dev.umbel(&["module", "push", &policies])?;
    ends_with(&refused, 6)?;
    let said = stderr(&refused);
    ensure!(said.contains("task_of_another_module") && said.contains("`flaky`"), "{said}");
    ensure!(said.contains("--take-over"), "{said}");
    ensure!(!stdout(&dev.umbel(&["module", "list"])?).contains("lonely"), "a refused push stores nothing");
    let taken = dev.umbel(&["module", "push", &policies, "--take-over"])?;
    ends_with(&taken, 0)?;
    let line = stdout(&taken).lines().find(|line| line.starts_with("flaky")).map(str::to_owned).unwrap_or_default();
    ensure!(line.contains("taken over") && line.contains("sha256:"), "{}", stdout(&taken));
    Ok(())
}

#[tokio::test]
async fn a_push_is_undone_as_a_whole_and_a_task_alone_and_a_task_is_deleted() -> Result<()> {
    let (dev, numbers) = dev_with_numbers().await?;
    let policies = guest_file(&dev, "policies")?;
    ends_with(&dev.umbel(&["module", "push", &numbers])?, 0)?;
    let pushed = dev.umbel(&["module", "push", &policies, "--take-over", "-o", "json"])?;
    let pushed: Value = serde_json::from_str(&stdout(&pushed))?;
    let digest = pushed["digest"].as_str().context("a digest")?.to_owned();
    let short = digest.strip_prefix("sha256:").context("its name")?.get(..8).context("its digits")?;
    ensure!(stdout(&dev.umbel(&["module", "show", short])?).contains(&digest));
    ends_with(&dev.umbel(&["module", "show", &short[..7]])?, 2)?;

    let back = dev.umbel(&["module", "rollback", short])?;
    ends_with(&back, 0)?;
    ensure!(stdout(&back).contains("rolled back") && stdout(&back).contains("no earlier deploy"), "{back:?}");
    ends_with(&dev.umbel(&["module", "rollback", short])?, 6)?;
    ends_with(&dev.umbel(&["task", "deploy", "flaky", short])?, 0)?;
    let back = dev.umbel(&["task", "rollback", "flaky"])?;
    ends_with(&back, 0)?;
    ensure!(stderr(&back).contains("only `flaky` was moved"), "{}", stderr(&back));
    ensure!(stderr(&back).contains(&format!("umbel module rollback sha256:{short}")), "{}", stderr(&back));
    ensure!(stdout(&dev.umbel(&["task", "rollback", "--help"])?).contains("umbel module rollback"));

    ends_with(&dev.umbel(&["task", "rm", "flaky"])?, 0)?;
    let gone = dev.umbel(&["job", "submit", "flaky", "1"])?;
    ends_with(&gone, 4)?;
    ensure!(stderr(&gone).contains("task_not_found"), "{}", stderr(&gone));
    ends_with(&dev.umbel(&["task", "rm", "flaky"])?, 4)
}

#[tokio::test]
async fn a_module_that_no_task_points_at_is_deleted_and_a_workflow_that_is_over_is_forgotten() -> Result<()> {
    let (dev, numbers) = dev_with_numbers().await?;
    let pushed = dev.umbel(&["module", "push", &numbers, "-o", "id"])?;
    ends_with(&pushed, 0)?;
    let digest = stdout(&pushed);
    let refused = dev.umbel(&["module", "rm", &digest])?;
    ends_with(&refused, 6)?;
    ensure!(stderr(&refused).contains("module_in_use") && stderr(&refused).contains("`add`"), "{}", stderr(&refused));
    let flow = dev.umbel(&["workflow", "submit", "--chain", "add 1 2", "--wait", "-o", "json"])?;
    ends_with(&flow, 0)?;
    let flow: Value = serde_json::from_str(&stdout(&flow))?;
    let id = flow["id"].as_str().context("an id")?;
    ends_with(&dev.umbel(&["workflow", "forget", id])?, 0)?;
    ends_with(&dev.umbel(&["workflow", "show", id])?, 4)?;
    ends_with(&dev.umbel(&["workflow", "forget", id])?, 4)?;

    let tasks = dev.umbel(&["task", "list", "-o", "id"])?;
    for task in stdout(&tasks).lines() {
        ends_with(&dev.umbel(&["task", "delete", task])?, 0)?;
    }
    ends_with(&dev.umbel(&["module", "delete", &digest])?, 0)?;
    ensure!(stdout(&dev.umbel(&["module", "show", &digest])?).contains("deleted"));
    let deploy = dev.umbel(&["task", "deploy", "add", &digest])?;
    ensure!(stderr(&deploy).contains("module_deleted"), "{}", stderr(&deploy));
    ends_with(&dev.umbel(&["module", "push", &numbers])?, 0)?;
    ends_with(&dev.umbel(&["job", "submit", "add", "1", "2", "--wait"])?, 0)
}

#[tokio::test]
async fn each_kind_of_failure_has_its_exit_code_and_says_what_to_do() -> Result<()> {
    let (dev, numbers) = dev_with_numbers().await?;
    ends_with(&dev.umbel(&["module", "push", &numbers])?, 0)?;
    // 1: refused
    let text = dev.data.join("not-a-module.wasm");
    fs::write(&text, "hello")?;
    let refused = dev.umbel(&["module", "push", &text.to_string_lossy()])?;
    ends_with(&refused, 1)?;
    ensure!(stderr(&refused).contains("error[not_wasm]"), "{}", stderr(&refused));
    // 2: usage
    ends_with(&dev.umbel(&["job", "submit"])?, 2)?;
    ends_with(&dev.umbel(&["nonsense"])?, 2)?;
    // 3: the job failed
    let failed = dev.umbel(&["job", "submit", "fib", "94", "--wait"])?;
    ends_with(&failed, 3)?;
    ensure!(stderr(&failed).contains("Overflow"), "{}", stderr(&failed));
    // 4: not found, with a near name
    let unknown = dev.umbel(&["job", "submit", "ad", "1", "2"])?;
    ends_with(&unknown, 4)?;
    ensure!(stderr(&unknown).contains("add"), "{}", stderr(&unknown));
    ends_with(&dev.umbel(&["job", "show", "01J00000000000000000000000"])?, 4)?;
    // 5: auth
    let mut command = dev.command(&["job", "list"])?;
    let unauthorized = command.env("UMBEL_TOKEN", "umbel_wrong").output()?;
    ends_with(&unauthorized, 5)?;
    // 6: conflict
    let done = dev.umbel(&["job", "submit", "add", "1", "1", "--wait", "-o", "json"])?;
    let job: Value = serde_json::from_str(&stdout(&done))?;
    ends_with(&dev.umbel(&["job", "cancel", job["id"].as_str().context("an id")?])?, 6)?;
    // 7: unavailable
    let mut command = dev.command(&["job", "list"])?;
    let away = command.env("UMBEL_URL", format!("http://127.0.0.1:{}", umbel_tests::free_port()?)).output()?;
    ends_with(&away, 7)?;
    for output in [&refused, &unknown, &unauthorized, &away] {
        ensure!(stderr(output).contains("error"), "{}", stderr(output));
        ensure!(output.stdout.is_empty(), "errors go to stderr: {}", stdout(output));
    }
    Ok(())
}

#[tokio::test]
async fn run_executes_a_module_in_the_sandbox_without_a_server() -> Result<()> {
    let (mut dev, numbers) = dev_with_numbers().await?;
    dev.process.terminate(Duration::from_secs(30)).await?;
    let done = dev.umbel(&["run", &numbers, "add", "2", "3"])?;
    ends_with(&done, 0)?;
    assert_eq!(stdout(&done), "5");
    let failed = dev.umbel(&["run", &numbers, "fib", "94"])?;
    ends_with(&failed, 3)?;
    Ok(())
}

#[tokio::test]
async fn the_profile_that_dev_writes_is_private_and_is_found_from_folders_below() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dev = Dev::start().await?;
    let mode = fs::metadata(dev.data.join("profile.json"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}
