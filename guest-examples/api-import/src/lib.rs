//! Imports the pages of a web API into a key-value bucket, and goes on where the last import ended.
//!
//! ```sh
//! umbel module push api-import.wasm
//! umbel config set api_url=https://api.example.com --task import
//! umbel job submit import products --wait
//! ```
//!
//! The API answers `GET /v1/SOURCE?after=CURSOR&limit=N` with `{"items": [{"id": …, …}, …], "next": CURSOR}`, where a `next` of null is
//! the end for now.

use umbel::{config, http, kv, prelude::*};

/// One page of the API.
#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Item>,
    next: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    id: String,
    #[serde(flatten)]
    rest: umbel::serde_json::Map<String, umbel::serde_json::Value>,
}

/// What an import did.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    pub pages: u32,
    pub items: u32,
    /// Whether there is nothing more for now.
    pub complete: bool,
}

/// Imports at most so many pages of a source. Each page is stored before the cursor moves on, so that a run that is cut off repeats one
/// page at most, and writes the same again.
#[task(time_limit = "5m", soft_time_limit = "4m", max_retries = 10, retry_backoff = "1s..10m", unique = "first", unique_by = ["kwargs.source"])]
pub fn import(ctx: &Context, source: String, #[default(1_000)] max_pages: u32) -> TaskResult<Imported> {
    let base: String = config::require("api_url")?;
    let page_size: u32 = config::get("page_size")?.unwrap_or(100);
    let (cursors, items) = (kv::bucket("cursors"), kv::bucket("imported"));
    let mut done = Imported::default();
    let mut cursor = cursors.get_text(&source)?;
    while done.pages < max_pages && !ctx.should_stop() {
        let after = cursor.as_deref().unwrap_or_default();
        let page: Page =
            http::get(format!("{base}/v1/{source}?after={after}&limit={page_size}")).send()?.success()?.json()?;
        for item in &page.items {
            items.set(&format!("{source}/{}", item.id), item)?;
        }
        done.pages += 1;
        done.items += page.items.len() as u32;
        ctx.progress(done.pages.into(), 0, &source);
        let Some(next) = page.next else {
            done.complete = true;
            break;
        };
        cursors.set_text(&source, &next)?;
        cursor = Some(next);
    }
    Ok(done)
}

umbel::module![import, permissions: [
    "http GET https://api.example.com/v1/",
    // A server on the machine of whoever develops this: without an operator's grants for it, it is out of reach.
    "http GET http://127.0.0.1:*/v1/",
    "kv cursors",
    "kv imported",
]];

#[cfg(test)]
mod tests {
    use umbel::{
        http::{Answer, Fake},
        serde_json::json,
    };

    use super::*;

    fn page(http: &Fake, after: &str, ids: &[&str], next: Option<&str>) {
        let items: Vec<_> = ids.iter().map(|id| json!({"id": id, "price": 7})).collect();
        let url = format!("https://api.example.com/v1/shop?after={after}&limit=100");
        http.answer("GET", &url, Answer::json(200, &json!({"items": items, "next": next})));
    }

    #[test]
    fn an_import_reads_page_after_page_and_goes_on_where_it_ended() {
        config::fake().set("api_url", "https://api.example.com");
        let http = Fake::start();
        page(&http, "", &["a", "b"], Some("p2"));
        page(&http, "p2", &["c"], Some("p3"));
        page(&http, "p3", &[], None);
        let ctx = Context::fake();
        let first = import(&ctx, "shop".into(), 1).unwrap();
        assert_eq!(first, Imported { pages: 1, items: 2, complete: false });
        let second = import(&ctx, "shop".into(), 9).unwrap();
        assert_eq!(second, Imported { pages: 2, items: 1, complete: true });
        assert_eq!(kv::fake().keys("imported"), ["shop/a", "shop/b", "shop/c"]);
        assert_eq!(kv::fake().json("imported", "shop/a"), Some(json!({"id": "a", "price": 7})));
        assert_eq!(kv::fake().text("cursors", "shop").as_deref(), Some("p3"));
    }

    #[test]
    fn a_busy_api_is_asked_again_when_it_wants_to_be_and_a_missing_address_is_final() {
        let ctx = Context::fake();
        assert_eq!(import(&ctx, "shop".into(), 1).unwrap_err().kind(), Some("config:missing"));
        config::fake().set("api_url", "https://api.example.com");
        let http = Fake::start();
        let url = "https://api.example.com/v1/shop?after=&limit=100";
        http.answer("GET", url, Answer::new(429).header("retry-after", "30"));
        assert!(import(&ctx, "shop".into(), 1).unwrap_err().is_retryable());
        assert_eq!(kv::fake().text("cursors", "shop"), None);
    }
}
