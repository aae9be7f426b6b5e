//! `umbel job submit`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_client::{Job, Step, typed};

use super::{ended, result};
use crate::Result;
use crate::args::{Expiry, SubmitOptions};
use crate::client::{Context, TASK, arguments, arguments::raw, blob, workflow::steps};

#[derive(Debug, Serialize)]
struct Submission<'a> {
    task: &'a str,
    args: Vec<Box<RawValue>>,
    kwargs: Options,
    options: Options,
}

/// As they were typed: numbers keep all their digits.
type Options = BTreeMap<String, Box<RawValue>>;

pub(super) async fn submit(ctx: &Context, options: &SubmitOptions) -> Result {
    let Context { client, terminal } = ctx;
    let submission = Submission {
        task: options.task.as_str(),
        args: given(ctx, &options.args).await?,
        kwargs: named(ctx, &options.kwarg).await?,
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
    let spinner = wait.map(|wait| (begun + wait, terminal.spinner(format!("waiting for {}", options.task))));
    let sent = request.text_and_header("umbel-unique").await;
    let unique = sent.as_ref().is_ok_and(|(_, unique)| unique.is_some());
    let body = ctx.about(TASK, submission.task, sent.map(|(body, _)| body)).await?;
    let job: Job = typed(&body)?;
    if unique {
        terminal.note("a job like it was there before: this is that one");
    }
    let Some((until, spinner)) = spinner else {
        terminal.note(&format!("{}: umbel job show {}", job.state.as_str(), job.id));
        return terminal.brief(&job.id.to_string(), &body);
    };
    let (body, job) = match job.state.is_terminal() {
        true => (body, job),
        false => ended(client, job.id, until, &spinner).await?,
    };
    drop(spinner);
    result(ctx, &body, &job, begun.elapsed()).await
}

/// Arguments by position.
pub(in crate::client) async fn given(ctx: &Context, texts: &[String]) -> Result<Vec<Box<RawValue>>> {
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        all.push(blob::argument(ctx, text).await?);
    }
    Ok(all)
}

/// Arguments by name.
pub(in crate::client) async fn named(ctx: &Context, pairs: &[String]) -> Result<Options> {
    let mut named = Options::new();
    for (name, text) in arguments::pairs(pairs)? {
        named.insert(name, blob::argument(ctx, &text).await?);
    }
    Ok(named)
}

/// Options of the job from its flags: a flag of its own has precedence over `--option`.
fn fields(options: &SubmitOptions) -> Result<Options> {
    let fields = arguments::policy(&options.option)?;
    let mut fields = fields.iter().map(|(name, value)| Ok((name.clone(), raw(value)?))).collect::<Result<Options>>()?;
    let (expires_ms, expires_at) = match &options.expires {
        None => (None, None),
        Some(Expiry::After(ms)) => (Some(ms), None),
        Some(Expiry::At(time)) => (None, Some(time)),
    };
    let given = |texts: &[String]| Some(texts.to_vec()).filter(|texts| !texts.is_empty());
    let flags = [
        ("queue", options.queue.as_ref().map(raw)),
        ("priority", options.priority.as_ref().map(raw)),
        ("max_retries", options.max_retries.as_ref().map(raw)),
        ("time_limit_ms", options.time_limit.as_ref().map(raw)),
        ("countdown_ms", options.countdown.as_ref().map(raw)),
        ("eta", options.eta.as_ref().map(raw)),
        ("expires_ms", expires_ms.map(raw)),
        ("expires_at", expires_at.map(raw)),
        ("tags", given(&options.tag).map(|tags| raw(&tags))),
        ("headers", given(&options.header).map(|pairs| raw(&arguments::stamps(&pairs)?))),
        ("on_success", given(&options.on_success).map(|steps| raw(&followers(&steps)?))),
        ("on_failure", given(&options.on_failure).map(|steps| raw(&followers(&steps)?))),
    ];
    for (name, value) in flags {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value?);
        }
    }
    Ok(fields)
}

fn followers(texts: &[String]) -> Result<Vec<Box<RawValue>>> {
    texts.iter().map(|text| steps::canvas(Step::from(steps::signature(text)?))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::Value;

    use super::*;
    use crate::args::{Cli, Command, JobVerb};

    fn of(args: &[&str]) -> Result<Value> {
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
