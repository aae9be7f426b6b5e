//! Submits a canvas: of a file, of steps that were typed, or of many files.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use umbel_client::{
    OnFailure, Step, Workflow,
    canvas::{chain, chord, group},
    fresh_key,
};

use super::{files, files::Content, steps, told};
use crate::args::{MapOptions, Stamps, WorkflowSubmitOptions};
use crate::client::{Context, arguments, arguments::raw, blob, fetch, input};
use crate::{Failure, Result};

/// Bytes of a submission, the server's limit.
pub(in crate::client) const MAX_BODY_BYTES: u64 = 32 << 20;
/// Bytes of a label.
const MAX_LABEL_BYTES: usize = 128;

/// The fields of a submission, as they were written.
pub(in crate::client) type Body = BTreeMap<String, Box<RawValue>>;

pub async fn submit(ctx: &Context, options: &WorkflowSubmitOptions) -> Result {
    let composition = &options.composition;
    let body = match &composition.file {
        Some(_) if options.then.is_some() => {
            return Err(Failure::usage("--then belongs to --chain or --group; a file has its own body"));
        }
        Some(file) => body_of(&input::text(file, MAX_BODY_BYTES)?)?,
        None => of_canvas(composed(&composition.chain, &composition.group, options.then.as_deref())?)?,
    };
    send(ctx, body, &options.stamps).await
}

pub async fn map(ctx: &Context, options: &MapOptions) -> Result {
    let paths = files::find(&options.each_file)?;
    let contents = match options.blob {
        true => uploaded(ctx, &paths).await?,
        false => files::read(&paths, options.base64)?.into_iter().map(value).collect::<Result<_>>()?,
    };
    ctx.terminal.note(&format!("{} files", contents.len()));
    send(ctx, of_canvas(mapped(options, contents)?)?, &options.stamps).await
}

/// A file as the argument that it is.
struct FileValue {
    path: String,
    value: Box<RawValue>,
}

fn value(Content { path, text }: Content) -> Result<FileValue> {
    Ok(FileValue { path, value: raw(&text)? })
}

/// The files as blobs, one after the other: only one is on its way at a time, and none is in memory.
async fn uploaded(ctx: &Context, paths: &[PathBuf]) -> Result<Vec<FileValue>> {
    let mut all = Vec::with_capacity(paths.len());
    for path in paths {
        let blob = blob::put(ctx, path, None).await?;
        all.push(FileValue { path: path.to_string_lossy().into_owned(), value: raw(&blob.reference())? });
    }
    Ok(all)
}

fn composed(steps: &[String], members: &[String], then: Option<&str>) -> Result<Step> {
    let read = |texts: &[String]| texts.iter().map(|text| steps::step(text)).collect::<Result<Vec<_>>>();
    let then = then.map(steps::step).transpose()?;
    Ok(match (members.is_empty(), then) {
        (true, then) => chain(read(steps)?.into_iter().chain(then)),
        (false, Some(body)) => chord(read(members)?, body),
        (false, None) => group(read(members)?),
    })
}

/// One call for each file, and the body.
fn mapped(options: &MapOptions, contents: Vec<FileValue>) -> Result<Step> {
    let call = steps::signature(&options.task)?;
    let members = contents.into_iter().map(|FileValue { path, value }| {
        let mut call = match &options.content_as {
            Some(name) => call.clone().kwarg(name, value),
            None => call.clone().args_first([value]),
        };
        if let Some(name) = &options.path_as {
            call = call.kwarg(name, &path);
        }
        Step::from(call).label(&label(&path))
    });
    let together = match &options.then {
        Some(body) => chord(members, steps::step(body)?),
        None => group(members),
    };
    let together = if options.cancel_rest { together.cancel_rest() } else { together };
    Ok(match options.on_failure {
        OnFailure::Fail => together,
        policy => together.on_failure(policy),
    })
}

/// The end of a path, as far as a label goes.
fn label(path: &str) -> String {
    let clean = path.replace(char::is_control, "\u{fffd}");
    clean[clean.ceil_char_boundary(clean.len().saturating_sub(MAX_LABEL_BYTES))..].to_owned()
}

fn of_canvas(step: Step) -> Result<Body> {
    Ok([("canvas".to_owned(), steps::canvas(step)?)].into())
}

/// A canvas by itself, or a whole body.
pub(in crate::client) fn body_of(text: &str) -> Result<Body> {
    let fields: Body = serde_json::from_str(text).map_err(|error| {
        Failure::new("not_json", format!("the canvas is not a JSON object: {error}"))
            .help(r#"write {"chain": [{"task": "add", "args": [2, 3]}, …]}"#)
    })?;
    if fields.contains_key("canvas") {
        return Ok(fields);
    }
    Ok([("canvas".to_owned(), raw(&fields)?)].into())
}

/// Lays what flags say over what the body says: tags and headers are added, the rest is replaced.
fn stamped(mut body: Body, stamps: &Stamps) -> Result<Body> {
    if !stamps.tag.is_empty() {
        let mut tags: Vec<String> = taken(&mut body, "tags", "what it should be")?.unwrap_or_default();
        tags.extend(stamps.tag.iter().cloned());
        body.insert("tags".into(), raw(&tags)?);
    }
    if !stamps.header.is_empty() {
        let mut headers: BTreeMap<String, String> =
            taken(&mut body, "headers", "what it should be")?.unwrap_or_default();
        headers.extend(arguments::stamps(&stamps.header)?);
        body.insert("headers".into(), raw(&headers)?);
    }
    let name = stamps.name.as_ref().map(raw);
    let [deadline, keep] = [stamps.deadline, stamps.keep].map(|ms| ms.map(|ms| raw(&ms)));
    for (field, value) in [("name", name), ("deadline_ms", deadline), ("keep_ms", keep)] {
        if let Some(value) = value {
            body.insert(field.into(), value?);
        }
    }
    Ok(body)
}

/// Takes a field out of a body that somebody else wrote; `kind` is what it should be.
fn taken<T: DeserializeOwned>(body: &mut Body, field: &str, kind: &str) -> Result<Option<T>> {
    let read = body.remove(field).map(|raw| serde_json::from_str(raw.get())).transpose();
    read.map_err(|_| Failure::usage(format!("`{field}` of the body is not {kind}")))
}

async fn send(ctx: &Context, body: Body, stamps: &Stamps) -> Result {
    let mut body = stamped(body, stamps)?;
    let of_body = taken(&mut body, "idempotency_key", "a text")?;
    // One of its own when there is none: a connection that breaks must not start it twice.
    let key = stamps.idempotency_key.clone().or(of_body).map_or_else(fresh_key, Ok)?;
    let begun = Instant::now();
    let request = ctx.client.post("/v1/workflows").json(&body).idempotency_key(key);
    let (answered, workflow): (_, Workflow) = fetch(request).await?;
    told(ctx, &answered, &workflow, stamps.wait, begun).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, WorkflowVerb};

    fn text(body: &Body) -> String {
        serde_json::to_string(body).unwrap()
    }

    #[test]
    fn a_file_is_a_canvas_or_a_whole_body_and_keeps_its_digits() {
        let canvas = r#"{"task": "a", "args": [123456789012345678901234567890]}"#;
        assert_eq!(body_of(canvas).unwrap()["canvas"].get(), r#"{"args":[123456789012345678901234567890],"task":"a"}"#);
        let whole = body_of(&format!(r#"{{"canvas": {canvas}, "name": "n", "tags": ["x"]}}"#)).unwrap();
        assert_eq!(whole["canvas"].get(), canvas);
        let stamps = Stamps {
            name: Some("m".into()),
            tag: vec!["y".into()],
            header: vec!["k=v=w".into()],
            deadline: Some(5),
            ..Default::default()
        };
        let stamped = stamped(whole, &stamps).unwrap();
        let rest = r#""deadline_ms":5,"headers":{"k":"v=w"},"name":"m","tags":["x","y"]"#;
        assert_eq!(text(&stamped), format!(r#"{{"canvas":{canvas},{rest}}}"#));
        for bad in ["", "[]", "not json"] {
            assert_eq!(body_of(bad).unwrap_err().code, "not_json");
        }
    }

    #[test]
    fn stamps_that_make_no_sense_are_refused() {
        let header = Stamps { header: vec!["x".into()], ..Default::default() };
        assert!(stamped(Body::new(), &header).is_err());
        let tags = Stamps { tag: vec!["x".into()], ..Default::default() };
        assert!(stamped(body_of(r#"{"canvas": {}, "tags": 1}"#).unwrap(), &tags).is_err());
    }

    #[test]
    fn steps_become_a_chain_a_group_or_a_chord() {
        let of = |chain: &[&str], group: &[&str], then: Option<&str>| {
            let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            let step = composed(&owned(chain), &owned(group), then).unwrap();
            serde_json::to_string(&step.build().unwrap()).unwrap()
        };
        assert_eq!(of(&["a 1", "b"], &[], None), r#"{"chain":[{"task":"a","args":[1]},{"task":"b"}]}"#);
        assert_eq!(of(&["a"], &[], Some("c")), r#"{"chain":[{"task":"a"},{"task":"c"}]}"#);
        assert_eq!(of(&[], &["a", "b"], None), r#"{"group":[{"task":"a"},{"task":"b"}]}"#);
        assert_eq!(of(&[], &["a"], Some("c")), r#"{"chord":[{"task":"a"}],"body":{"task":"c"}}"#);
    }

    #[test]
    fn each_file_is_a_member_with_its_name() {
        let options = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["umbel", "workflow", "map", "--each-file", "x", "--task"], args].concat());
            let Command::Workflow(WorkflowVerb::Map(options)) = cli.unwrap().command else { panic!("a map") };
            options
        };
        let files = || vec![value(Content { path: "d/a\u{7}.md".into(), text: "x \"y\"".into() }).unwrap()];
        let form = |args: &[&str]| {
            let step = mapped(&options(args), files()).unwrap();
            serde_json::to_value(step.build().unwrap()).unwrap()
        };
        let expected = serde_json::json!({
            "chord": [{"task": "count", "args": ["x \"y\"", 9], "kwargs": {"name": "d/a\u{7}.md", "top": 2},
                "label": "d/a\u{fffd}.md"}],
            "body": {"task": "merge"}, "cancel_rest": true, "on_failure": "continue",
        });
        let all = ["--then", "merge", "--path-as", "name", "--on-failure", "continue", "--cancel-rest"];
        assert_eq!(form(&[&["count 9 top=2"], &all[..]].concat()), expected);
        assert_eq!(form(&["count", "--content-as", "text"])["group"][0]["kwargs"]["text"], "x \"y\"");
        assert_eq!(label(&"ä".repeat(100)).len(), 128);
    }
}
