//! Random canvases on a broker and on a simple sequential model, with all that can be seen compared: results, order,
//! how often each task was called, how each job ended, the dead set, and what is left in the store: nothing.
//!
//! A canvas is drawn as a tree, becomes JSON, and each side reads that: the broker's by planning it, the model by walking
//! over it.

mod comparison;
mod draw;
mod sequential;
mod worker;

use std::{collections::BTreeMap, future::Future};

use serde_json::Value;

use super::{flows::*, random, *};

/// How many canvases.
#[derive(Debug, Clone)]
pub struct Canvases {
    pub count: u32,
    pub seed: u64,
}

impl Canvases {
    /// 300 canvases; `UMBEL_CANVASES` and `UMBEL_SEED` choose others.
    pub fn from_env() -> Self {
        Self { count: random::number("UMBEL_CANVASES").unwrap_or(300) as u32, seed: random::seed() }
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, got: &T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

/// What the fake task of that name gives: its name and its arguments. A long one is told by its hash, so that results
/// of results stay small.
fn called(task: &str, arguments: &[Value]) -> Value {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let text = Value::from(arguments).to_string();
    if text.len() <= 1_000 {
        return serde_json::json!([task, arguments]);
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    serde_json::json!([task, format!("#{:x}", hasher.finish())])
}

/// Makes a result that is too large to come with a delivery.
fn enlarged(mut result: Value) -> Value {
    if let Value::Array(list) = &mut result {
        list.push("x".repeat(INLINE_INPUT_BYTES).into());
    }
    result
}

pub use comparison::random_canvases;
