//! The Rust of docs/guides that is no whole module, word for word; tests/tests/documents.rs compares it. Whole modules are
//! members of guest-examples.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use umbel::prelude::*;

#[rustfmt::skip]
mod calling {
use umbel::{http, prelude::*, secret};

#[derive(Deserialize)]
struct Order {
    total: i64,
}

/// The sum of all open orders.
#[task(permissions = ["http GET https://api.example.com/v1/", "secret api_key"])]
fn open_orders() -> TaskResult<i64> {
    let key = secret::placeholder("api_key")?;
    let answer = http::get("https://api.example.com/v1/orders").bearer(&key).send()?;
    let orders: Vec<Order> = answer.success()?.json()?;
    Ok(orders.iter().map(|order| order.total).sum())
}

umbel::module![open_orders];

#[test]
fn the_totals_of_open_orders_are_summed() {
    secret::fake().set("api_key", "correct horse");
    let http = http::Fake::start();
    let orders = r#"[{"total": 7}, {"total": 35}]"#;
    http.answer("GET", "https://api.example.com/v1/orders", http::Answer::text(200, orders));
    assert_eq!(open_orders().unwrap(), 42);
    assert_eq!(http.requests()[0].header("authorization"), Some("Bearer correct horse"));
}
}

#[task]
pub fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
pub fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task]
pub fn fib(ctx: &Context, n: u32) -> TaskResult<i64> {
    match n {
        0 | 1 => Ok(n.into()),
        _ => ctx.replace(chord![group![fib::s(n - 1), fib::s(n - 2)], total::s()]),
    }
}

#[derive(Serialize, JsonSchema)]
struct Page {
    words: u32,
}

fn links_of(url: &str) -> impl Iterator<Item = String> {
    ["/a", "/b"].map(|path| format!("{url}{path}")).into_iter()
}

#[task]
fn index(url: String) -> usize {
    url.len()
}

#[task]
fn fetch(url: String) -> String {
    url
}

#[task]
fn parse(text: String) -> usize {
    text.len()
}

#[rustfmt::skip]
mod crawling {
    use super::*;

#[task]
pub fn crawl(ctx: &Context, url: String) -> TaskResult<Page> {
    ctx.add_to_group(links_of(&url).map(crawl::s))?;   // more members for the group that it is in
    ctx.submit(index::s(url.clone()))?;                // a workflow of its own
    ctx.replace(chain![fetch::s(url), parse::s()])     // its result becomes this job's result
}
}

/// The form, which the host's own types must read.
fn form(canvas: impl Into<Canvas>) -> Value {
    let text = canvas.into().json().unwrap();
    drop(serde_json::from_str::<umbel_model::Canvas>(&text).unwrap());
    serde_json::from_str(&text).unwrap()
}

#[test]
#[rustfmt::skip]
fn the_canvases_of_the_guides_have_the_form_that_they_describe() {
    let twelve =
        chain![group![add::s(2, 2), add::s(4, 4)], total::s()]
    ;
    let four = json!([{"task": "add", "args": [2, 2]}, {"task": "add", "args": [4, 4]}]);
    assert_eq!(form(twelve), json!({"chain": [{"group": four}, {"task": "total"}]}));

let eight = chain![add::s(2, 2), add::s(4)];                      // add(add(2, 2), 4)
let sum = chord![group((0..100).map(|n| add::s(n, n))), total::s()];
let tens = add::starmap([(1, 9), (2, 8)]);                        // one job that calls it twice
    assert_eq!(form(eight)["chain"][1], json!({"task": "add", "args": [4]}));
    assert_eq!(form(sum)["chord"].as_array().unwrap().len(), 100);
    assert_eq!(form(tens), json!({"task": "add", "starmap": [[1, 9], [2, 8]]}));
}

#[test]
fn the_tasks_of_the_guides_ask_for_the_workflows_that_they_describe() {
    let ctx = Context::fake().with_place("workflow", 1, true);
    assert!(crawling::crawl(&ctx, "https://umbel.test".into()).is_err(), "it is replaced");
    assert_eq!((ctx.added_to_group().len(), ctx.submitted().len()), (2, 1));
    assert!(fib(&Context::fake(), 7).is_err() && fib(&Context::fake(), 1).is_ok());
}

#[rustfmt::skip]
mod importing {
use umbel::prelude::*;

/// Imports one page.
#[task(permissions = ["http GET https://api.example.com/v1/", "secret api_key"])]
fn import(page: u32) -> u32 {
    page
}

umbel::module![import, permissions: ["kv cursors"]];
}

#[test]
fn permissions_are_declared_as_the_guide_says() {
    let declared = importing::umbel_module::permissions();
    let of = |task: Option<&str>| declared.iter().filter(|one| one.task.as_deref() == task).count();
    assert_eq!((of(None), of(Some("import"))), (1, 2));
}
