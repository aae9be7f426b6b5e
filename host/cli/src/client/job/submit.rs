//! `umbel job submit`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use umbel_client::{Client, Job, Step};

use super::{brief, ended, result};
use crate::{
    args::{Expiry, SubmitOptions},
    client::{
        answer,
        arguments::{self, raw},
        suggested::{TASKS, suggested},
        workflow::steps,
    },
    failure::Failure,
    output::Terminal,
};

#[derive(Debug, Serialize)]
struct Submission<'a> {
    task: &'a str,
    args: Vec<Box<RawValue>>,
    kwargs: BTreeMap<String, Box<RawValue>>,
    options: Options,
}

/// As they were typed: numbers keep all their digits.
type Options = BTreeMap<String, Box<RawValue>>;

pub(super) async fn submit(client: &Client, options: &SubmitOptions, terminal: &Terminal) -> Result<(), Failure> {
    let submission = Submission {
        task: options.task.as_str(),
        args: options.args.iter().map(|text| arguments::value(text)).collect(),
        kwargs: arguments::named(&options.kwarg)?,
        options: fields(options)?,
    };
    let mut request = client.post("/v1/jobs").json(&submission);
    if let Some(key) = &options.idempotency_key {
        request = request.idempotency_key(key);
    }
    let wait = options.wait.map(Duration::from_millis);
    if let Some(wait) = wait {
        request = request.wait(wait);
    }
    let begun = Instant::now();
    let spinner = wait.map(|_| terminal.spinner(format!("waiting for {}", options.task)));
    let (sent, unique) = match request.text_and_header("umbel-unique").await {
        Ok((text, unique)) => (Ok(text), unique),
        Err(error) => (Err(error), None),
    };
    let body = suggested(client, TASKS, options.task.as_str(), sent).await?;
    let job: Job = answer(&body)?;
    if unique.is_some() {
        terminal.note("a job like it was there before: this is that one");
    }
    let Some(wait) = wait else {
        terminal.note(&format!("{}: umbel job show {}", job.state.as_str(), job.id));
        return brief(&body, &job, terminal);
    };
    let left = wait.saturating_sub(begun.elapsed());
    let body = if job.state.is_terminal() { body } else { ended(client, job.id, left, Some(begun), terminal).await? };
    drop(spinner);
    result(client, &body, begun.elapsed(), terminal).await
}

/// Options of the job from its flags: a flag of its own has precedence over `--option`.
fn fields(options: &SubmitOptions) -> Result<Options, Failure> {
    let mut fields = Options::new();
    for (name, value) in arguments::policy(&options.option)? {
        fields.insert(name, raw(&value)?);
    }
    if let Ok(Value::Object(policy)) = serde_json::to_value(options.policy()) {
        for (name, value) in policy {
            fields.insert(name, raw(&value)?);
        }
    }
    let mut set = |name: &str, value: Box<RawValue>| fields.insert(name.to_owned(), value);
    if let Some(ms) = options.countdown {
        set("countdown_ms", raw(&ms)?);
    }
    if let Some(eta) = &options.eta {
        set("eta", raw(eta)?);
    }
    if let Some(Expiry::At(time)) = &options.expires {
        set("expires_at", raw(time)?);
    }
    if !options.tag.is_empty() {
        set("tags", raw(&options.tag)?);
    }
    if !options.header.is_empty() {
        set("headers", raw(&arguments::stamps(&options.header)?)?);
    }
    for (name, texts) in [("on_success", &options.on_success), ("on_failure", &options.on_failure)] {
        if !texts.is_empty() {
            set(name, raw(&followers(texts)?)?);
        }
    }
    Ok(fields)
}

fn followers(texts: &[String]) -> Result<Vec<Box<RawValue>>, Failure> {
    let follower = |text: &String| {
        let canvas = Step::from(steps::signature(text)?).build().map_err(umbel_client::Error::from)?;
        raw(&canvas)
    };
    texts.iter().map(follower).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, JobVerb};

    fn of(args: &[&str]) -> Result<Value, Failure> {
        let cli = Cli::try_parse_from([&["umbel", "job", "submit", "add"], args].concat()).unwrap();
        let Command::Job(JobVerb::Submit(options)) = cli.command else { panic!() };
        Ok(serde_json::to_value(fields(&options)?).unwrap())
    }

    #[test]
    fn flags_become_options_of_the_submission() {
        let args = ["--tag", "a", "--tag", "b", "--header", "k=v", "--expires", "2026-01-31T12:00:00Z", "--queue", "q"];
        let more = ["--option", "unique=first", "--option", "queue=other", "--option", "debounce_ms=5s"];
        let expected = serde_json::json!({
            "tags": ["a", "b"], "headers": {"k": "v"}, "expires_at": "2026-01-31T12:00:00Z", "queue": "q",
            "unique": "first", "debounce_ms": 5_000,
        });
        assert_eq!(of(&[&args[..], &more].concat()).unwrap(), expected);
        assert_eq!(of(&["--expires", "10m"]).unwrap(), serde_json::json!({"expires_ms": 600_000}));
        assert!(of(&["--header", "x"]).is_err() && of(&["--option", "x"]).is_err());
    }

    #[test]
    fn followers_are_calls_with_their_arguments() {
        let found = of(&["--on-success", "notify 7 channel=ops", "--on-failure", "a", "--on-failure", "b"]).unwrap();
        let notify = serde_json::json!({"task": "notify", "args": [7], "kwargs": {"channel": "ops"}});
        assert_eq!(found["on_success"], serde_json::json!([notify]));
        assert_eq!(found["on_failure"][1]["task"], "b");
        assert!(of(&["--on-success", ""]).is_err());
    }
}
