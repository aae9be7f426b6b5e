//! `wasi:config` in all its drafts: values of the task, the same for the whole attempt, charged by their bytes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use umbel_capabilities::{Config, Reach, Unavailable};
use umbel_model::ConfigName;
use umbel_sandbox::Call;

use crate::support::{Guest, call, run, value};

/// As much as the drafts have in common.
const DRAFT: &str = "{
    variant error { upstream(string), io(string) }
    get: func(key: string) -> result<option<string>, error>;
    get-all: func() -> result<list<tuple<string, string>>, error>;
}";

/// Counts how often it is read; another value each time, or none at all.
#[derive(Debug)]
struct Counting {
    reads: AtomicU32,
    is_away: bool,
}

#[async_trait]
impl Config for Counting {
    async fn now(&self) -> Result<Arc<BTreeMap<ConfigName, String>>, Unavailable> {
        let reads = self.reads.fetch_add(1, Ordering::SeqCst);
        if self.is_away {
            return Err(Unavailable);
        }
        Ok(Arc::new(BTreeMap::from([(ConfigName::new("k").unwrap(), format!("{}{}", reads, "x".repeat(1_000)))])))
    }
}

/// A guest that reads `k` twice and then all, and answers with the first byte of the value; `n` where there is none, `e` after an error.
fn guest(interface: &str, version: &str, key: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let deps = folder.path().join("deps");
    std::fs::create_dir(&deps).unwrap();
    let package = format!("package wasi:config@{version};\ninterface {interface} {DRAFT}");
    std::fs::write(deps.join("config.wit"), package).unwrap();
    let task = crate::worlds::WASI.split("world module").next().unwrap().to_owned();
    let world = format!("{task} world module {{ import wasi:config/{interface}@{version}; export guest; }}");
    std::fs::write(folder.path().join("task.wit"), world).unwrap();
    let imports = format!(
        r#"(import "wasi:config/{interface}@{version}" "get" (func $get (param i32 i32 i32)))
           (import "wasi:config/{interface}@{version}" "get-all" (func $all (param i32)))"#
    );
    let answer = |letter: &str| {
        format!("(i32.store8 (i32.const 1301) {letter}) (return (call $ok (i32.const 1300) (i32.const 3)))")
    };
    let get = "(call $get (i32.const 1200) (i32.const 1) (i32.const 3000))";
    let run = [
        get.to_owned(),
        format!("(if (i32.load8_u (i32.const 3000)) (then {}))", answer("(i32.const 101)")),
        format!("(if (i32.eqz (i32.load8_u (i32.const 3004))) (then {}))", answer("(i32.const 110)")),
        "(call $all (i32.const 3100))".to_owned(),
        get.to_owned(),
        answer("(i32.load8_u (i32.load (i32.const 3008)))"),
    ];
    let items = format!(r#"(data (i32.const 1200) "{key}") (data (i32.const 1300) "\"?\"")"#);
    let text = Guest { items, ..Guest::running(run.concat()) }.wat();
    let mut module = wat::parse_str(text.replacen("(module", &format!("(module {imports}"), 1)).unwrap();
    crate::support::embed_from(&mut module, folder.path().into());
    module
}

fn reading(config: Arc<Counting>) -> Call {
    Call { reach: Reach { config, ..Reach::default() }, ..call("{}") }
}

fn counting(is_away: bool) -> Arc<Counting> {
    Arc::new(Counting { reads: AtomicU32::new(0), is_away })
}

#[tokio::test]
async fn a_guest_of_any_draft_reads_the_values_of_its_task_once_an_attempt() {
    let drafts = [
        ("store", "0.2.0-rc.1"),
        ("store", "0.2.0-draft-2024-09-27"),
        ("store", "0.2.0-draft"),
        ("runtime", "0.2.0-draft"),
    ];
    for (interface, version) in drafts {
        let prepared = crate::support::prepare(&guest(interface, version, "k")).await;
        let config = counting(false);
        assert_eq!(value(&run(&prepared, reading(config.clone())).await), "\"0\"", "{interface}@{version}");
        assert_eq!(value(&run(&prepared, reading(config.clone())).await), "\"1\"", "another attempt reads anew");
        assert_eq!(config.reads.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn what_is_not_set_has_no_value_and_a_store_that_is_away_is_an_error() {
    for (key, is_away, answer) in [("z", false, "\"n\""), ("!", false, "\"n\""), ("k", true, "\"e\"")] {
        let prepared = crate::support::prepare(&guest("store", "0.2.0-rc.1", key)).await;
        assert_eq!(value(&run(&prepared, reading(counting(is_away))).await), answer);
    }
}

#[tokio::test]
async fn reading_values_costs_fuel_by_their_bytes() {
    let prepared = crate::support::prepare(&guest("store", "0.2.0-rc.1", "k")).await;
    let found = run(&prepared, reading(counting(false))).await.usage.fuel;
    let other = crate::support::prepare(&guest("store", "0.2.0-rc.1", "z")).await;
    let missing = run(&other, reading(counting(false))).await.usage.fuel;
    assert!(found >= missing + 3_000, "three times a thousand bytes: {found} after {missing}");
}
