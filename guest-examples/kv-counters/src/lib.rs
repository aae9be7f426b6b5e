//! Counters and cursors that outlive a job, in key-value buckets; and what fills a bucket, for the tests.

use std::time::Duration;

use umbel::{kv, prelude::*};

/// How far an import has come.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub page: u32,
    pub items: u64,
}

/// Counts a visit: in all, and within the minute that begins with the first one.
#[task]
pub fn visit(page: String, #[default(1)] times: i64) -> TaskResult<(i64, i64)> {
    let total = kv::bucket("counters").increment(&page, times)?;
    let within_a_minute = kv::bucket("recent").ttl(Duration::from_secs(60)).increment(&page, times)?;
    Ok((total, within_a_minute))
}

/// Imports so many pages of a source, each with ten items, and goes on where the last import ended.
#[task(max_retries = 3)]
pub fn import(ctx: &Context, source: String, #[default(1)] pages: u32) -> TaskResult<u64> {
    let cursors = kv::bucket("cursors");
    let mut cursor = Cursor::default();
    for _ in 0..pages {
        let next = cursors.update(&source, |old: Option<Cursor>| {
            let old = old.unwrap_or_default();
            Some(Cursor { page: old.page + 1, items: old.items + 10 })
        })?;
        cursor = next.unwrap_or_default();
        ctx.info(format!("page {} of {source}", cursor.page));
    }
    Ok(cursor.items)
}

/// Reads a text; null where there is none.
#[task(permissions = ["kv * read"])]
pub fn read(bucket: String, key: String) -> TaskResult<Option<String>> {
    Ok(kv::bucket(bucket).get_text(&key)?)
}

/// Writes a text, and returns its version.
#[task(max_retries = 0, permissions = ["kv *"])]
pub fn write(bucket: String, key: String, value: String) -> TaskResult<u64> {
    Ok(kv::bucket(bucket).set_text(&key, &value)?)
}

/// The keys that begin with a text.
#[task(permissions = ["kv * read"])]
pub fn keys(bucket: String, #[default(String::new())] prefix: String) -> TaskResult<Vec<String>> {
    kv::bucket(bucket).list(prefix).map(|entry| Ok(entry?.0)).collect()
}

/// Writes many entries of so many bytes, until all are written or one is refused: how many there are, and why it ended.
#[task(max_retries = 0, permissions = ["kv *"])]
pub fn fill(bucket: String, entries: u32, #[default(0)] bytes: usize) -> (u32, Option<String>) {
    let (bucket, value) = (kv::bucket(bucket), vec![b'x'; bytes]);
    for n in 0..entries {
        if let Err(error) = bucket.set_bytes(&format!("entry{n:06}"), &value) {
            return (n, Some(error.kind().to_owned()));
        }
    }
    (entries, None)
}

umbel::module![visit, import, read, write, keys, fill, permissions: ["kv counters", "kv recent", "kv cursors"]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_goes_on_where_the_last_one_ended() {
        let ctx = Context::fake();
        assert_eq!(import(&ctx, "shop".into(), 2).unwrap(), 20);
        assert_eq!(import(&ctx, "shop".into(), 1).unwrap(), 30);
        let stored = kv::fake().entry("cursors", "shop").unwrap();
        assert_eq!(stored.json::<Cursor>().unwrap(), Cursor { page: 3, items: 30 });
    }

    #[test]
    fn visits_within_a_minute_are_forgotten_after_it() {
        assert_eq!(visit("home".into(), 2).unwrap(), (2, 2));
        kv::fake().advance(Duration::from_secs(60));
        assert_eq!(visit("home".into(), 1).unwrap(), (3, 1));
    }

    #[test]
    fn an_import_is_retried_when_the_store_is_away() {
        kv::fake().fail_next(kv::Error::Unavailable("down".into()));
        let error = import(&Context::fake(), "shop".into(), 1).unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(error.kind(), Some("kv:unavailable"));
    }
}
