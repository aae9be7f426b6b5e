//! The attacks, in the order in which they were first made.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{
    FutureExt,
    future::{LocalBoxFuture, join},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Attack, Scene, guests, readers, scene::sockets};
use crate::{Client, component::salted, until};

/// How long what an attack begins with may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Every attack.
pub(super) const ALL: &[Attack] = &[
    attack("output", |scene| output(scene).boxed_local()),
    attack("output_at_push", |scene| output_at_push(scene).boxed_local()),
    attack("lists", |scene| lists(scene).boxed_local()),
    attack("trees", |scene| trees(scene).boxed_local()),
    attack("names", |scene| names(scene).boxed_local()),
    attack("canvases", |scene| canvases(scene).boxed_local()),
    attack("schemas", |scene| schemas(scene).boxed_local()),
    attack("patterns", |scene| patterns(scene).boxed_local()),
    attack("readers", |scene| slow_readers(scene).boxed_local()),
    attack("connections", |scene| connections(scene).boxed_local()),
    attack("tokens", |scene| tokens(scene).boxed_local()),
    attack("waits", |scene| waits(scene).boxed_local()),
    attack("compiles", |scene| compiles(scene).boxed_local()),
    Attack {
        arguments: &["--concurrency", "24"],
        // What 24 slots may hold at once is bounded by the machine; the rest waits.
        granted_mib: 24.0 * 208.0,
        ..attack("memory", |scene| memory(scene).boxed_local())
    },
    attack("queues", |scene| queues(scene).boxed_local()),
    Attack { arguments: &["--concurrency", "8"], ..attack("sleepers", |scene| sleepers(scene).boxed_local()) },
    attack("snoozes", |scene| snoozes(scene).boxed_local()),
];

const fn attack(name: &'static str, strike: fn(Arc<Scene>) -> LocalBoxFuture<'static, Result<()>>) -> Attack {
    Attack { name, arguments: &["--concurrency", "2"], granted_mib: 0.0, strike }
}

/// Standard output outside of the memory limit, in every slot.
async fn output(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::streams(false)?).await?;
    let job = json!({"task": "streams"});
    scene.repeat(4, async |_| Ok(scene.hostile[0].request(Method::POST, "/v1/jobs?wait=20s").json(&job))).await
}

/// The same while a module is described.
async fn output_at_push(scene: Arc<Scene>) -> Result<()> {
    let module = guests::streams(true)?;
    scene.repeat(2, async |_| Ok(upload(&scene.hostile[0], salted(&module, scene.number())))).await
}

/// Lists of tasks with large schemas.
async fn lists(scene: Arc<Scene>) -> Result<()> {
    let schema = json!({"title": "x".repeat(60_000)}).to_string();
    // The first is refused, for it is too large.
    for parameters in [16].into_iter().chain([2; 30]) {
        scene.ask(upload(&scene.hostile[0], guests::schemas(1, parameters, &schema, scene.number())?)).await;
    }
    let paths = ["/v1/tasks?limit=200", "/v1/modules?limit=200"];
    scene.repeat(20, async |caller| Ok(scene.hostile[0].request(Method::GET, paths[caller % 2]))).await
}

/// Arguments whose trees take a hundred times their text.
async fn trees(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::tree()?).await?;
    let item = r#"{"":0},"#;
    let items = item.repeat((1 << 20) / item.len() - 8);
    let body = format!(r#"{{"task":"tree","args":[[{}]]}}"#, items.trim_end_matches(','));
    posts(&scene, 64, "/v1/jobs", body).await
}

/// Arguments that no parameter has.
async fn names(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::tree()?).await?;
    let mut names = String::new();
    for i in 0..150_000 {
        write!(names, r#""{i}":0,"#)?;
    }
    let body = format!(r#"{{"task":"tree","kwargs":{{{}}}}}"#, names.trim_end_matches(','));
    posts(&scene, 32, "/v1/jobs", body).await
}

/// Canvases of tens of megabytes.
async fn canvases(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::tree()?).await?;
    let of = |open: &str, item: &str, close: &str| {
        let items = item.repeat((30 << 20) / item.len() - 8);
        format!(r#"{{"canvas":{open}{}{close}}}"#, items.trim_end_matches(','))
    };
    let bodies = [
        of(r#"{"group":["#, r#"{"task":"tree"},"#, "]}"),
        of(r#"{"group":["#, "{},", "]}"),
        of(r#"{"task":"tree","map":["#, r#"[{"":0}],"#, "]}"),
        of(r#"{"task":"tree","args":[["#, r#"{"":0},"#, "]]}"),
    ];
    let post = async |caller: usize| {
        let request = scene.hostile[caller % 2].request(Method::POST, "/v1/workflows");
        Ok(request.header("content-type", "application/json").body(bodies[caller % bodies.len()].clone()))
    };
    scene.repeat(4, post).await
}

/// Schemas whose defaults are deep trees, which a server might keep.
async fn schemas(scene: Arc<Scene>) -> Result<()> {
    let nested = format!(r#"{{"default":[{}]}}"#, vec![r#"{"":0}"#; 1_000].join(","));
    let module = async |_| Ok(upload(&scene.hostile[0], guests::schemas(1, 30, &nested, scene.number())?));
    scene.repeat(4, module).await
}

/// Schemas that are dear to compile.
async fn patterns(scene: Arc<Scene>) -> Result<()> {
    let patterns: Vec<String> =
        (0..32).map(|i| json!({"pattern": format!("(a|b)*c{i}[0-9]{{1,30}}x")}).to_string()).collect();
    let schema = format!(r#"{{"allOf":[{}]}}"#, patterns.join(","));
    let module = async |_| Ok(upload(&scene.hostile[0], guests::schemas(40, 2, &schema, scene.number())?));
    scene.repeat(4, module).await
}

/// A result of 12 MB that nobody reads to its end.
async fn slow_readers(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::big(1_000_000)?).await?;
    let canvas = json!({"canvas": {"group": vec![json!({"task": "big"}); 12]}});
    let workflow = scene.hostile[0].post("/v1/workflows", &canvas).await?.good()?;
    let id = workflow["id"].as_str().context("a workflow without an id")?.to_owned();
    let path = format!("/v1/workflows/{id}");
    until("the large workflow has ended", LIMIT, || async {
        Ok((scene.hostile[0].get(&path).await?.good()?["state"] == "succeeded").then_some(()))
    })
    .await?;
    let (over, at_once) = (AtomicBool::new(false), sockets(400)?);
    let wait = async {
        scene.last().await;
        over.store(true, Ordering::Relaxed);
    };
    join(readers::slow(&scene, at_once, &path, &over), wait).await.0
}

/// More connections of strangers than there are places.
async fn connections(scene: Arc<Scene>) -> Result<()> {
    let (over, at_once) = (AtomicBool::new(false), sockets(4_300)?);
    let wait = async {
        scene.last().await;
        over.store(true, Ordering::Relaxed);
    };
    join(readers::strangers(&scene, at_once, &over), wait).await.0
}

/// Tokens that nobody was given.
async fn tokens(scene: Arc<Scene>) -> Result<()> {
    let forged = async |_| {
        let token = format!("umbel_{:032x}{:032x}", scene.number(), scene.number());
        Ok(scene.quiet.anonymous(Method::GET, "/v1/jobs").bearer_auth(token))
    };
    scene.repeat(32, forged).await
}

/// Long polls of two tenants, and then what they control.
async fn waits(scene: Arc<Scene>) -> Result<()> {
    let mut sleeping = Vec::new();
    for client in &scene.hostile {
        client.push("numbers").await?;
        let options = json!({"countdown_ms": 3_600_000});
        sleeping.push(client.submit_with("add", json!([1, 2]), options).await?);
    }
    let request = async |caller: usize| {
        let (client, id) = (&scene.hostile[caller % 2], &sleeping[caller % 2]);
        Ok(match caller {
            // Control calls beside the waits.
            0..4 => client.request(Method::PATCH, "/v1/queues/default").json(&json!({"paused": false})),
            _ => client.request(Method::GET, &format!("/v1/jobs/{id}?wait=30s")).timeout(Duration::from_secs(2)),
        })
    };
    scene.repeat(600, request).await
}

/// Modules that are dear to compile, by two tenants.
async fn compiles(scene: Arc<Scene>) -> Result<()> {
    let modules = [guests::elements()?, guests::instances()?, guests::functions()?];
    let module = async |caller: usize| {
        let number = scene.number();
        let module = &modules[number as usize % modules.len()];
        Ok(upload(&scene.hostile[caller % 2], salted(module, number)))
    };
    scene.repeat(4, module).await
}

/// More memory in all slots together than is good for the machine.
async fn memory(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::hungry(192)?).await?;
    let job = json!({"task": "hungry"});
    scene.repeat(48, async |_| Ok(scene.hostile[0].request(Method::POST, "/v1/jobs?wait=20s").json(&job))).await
}

/// A backlog of twenty jobs in each of a thousand queues.
async fn queues(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::work()?).await?;
    for round in 0..20 {
        let line = |queue: usize| json!({"task": "work", "options": {"queue": format!("{queue:03}")}});
        scene.hostile[0].batch((0..999).map(line)).await.with_context(|| format!("round {round}"))?;
    }
    scene.repeat(4, async |_| Ok(scene.hostile[0].request(Method::GET, "/v1/queues"))).await
}

/// Jobs that sleep for 15 s, more than there are slots.
async fn sleepers(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::sleeper()?).await?;
    scene.hostile[0].batch((0..40).map(|_| json!({"task": "sleeper"}))).await?;
    scene.last().await;
    Ok(())
}

/// Jobs that ask to be run again at once, for ever.
async fn snoozes(scene: Arc<Scene>) -> Result<()> {
    push(&scene.hostile[0], guests::snoozer()?).await?;
    scene.hostile[0].batch((0..5_000).map(|_| json!({"task": "snoozer"}))).await?;
    scene.last().await;
    Ok(())
}

/// The same body again and again.
async fn posts(scene: &Scene, at_once: usize, path: &str, body: String) -> Result<()> {
    let post = async |_| {
        let request = scene.hostile[0].request(Method::POST, path);
        Ok(request.header("content-type", "application/json").body(body.clone()))
    };
    scene.repeat(at_once, post).await
}

fn upload(client: &Client, module: Vec<u8>) -> RequestBuilder {
    client.request(Method::POST, "/v1/modules").header("content-type", "application/wasm").body(module)
}

/// Pushes a module that is accepted.
async fn push(client: &Client, module: Vec<u8>) -> Result<Value> {
    client.upload(module).await?.good()
}
