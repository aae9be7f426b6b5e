//! Composing tasks: signatures, chains, groups and chords, as the JSON form that hosts read.
//!
//! ```
//! use umbel::prelude::*;
//!
//! #[task]
//! fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[task]
//! fn total(numbers: Vec<i64>) -> i64 {
//!     numbers.iter().sum()
//! }
//!
//! # fn main() {
//! let eight = chain![add::s(2, 2), add::s(4)];
//! let sum = chord![group((0..10).map(|n| add::s(n, n))), total::s()];
//! assert_eq!(Canvas::from(chain![eight, add::s(1)]).json().unwrap().matches("\"task\":\"add\"").count(), 3);
//! # let _ = sum;
//! # }
//! ```
//!
//! `add::s(2, 3)` is a call with all of its arguments, `add::p(4)` one that takes the result of what came before as its
//! first, and `add::si(2, 3)` one that takes nothing. Inside of the macros [`chain!`], [`group!`], [`chord!`] and
//! [`canvas!`], `s` also takes fewer arguments. Types are checked where they can be known.
//!
//! Invariants: nothing here calls the host; a value that cannot be written as JSON is remembered and refuses the whole
//! canvas when it is handed over, so that builders need no `?`.

mod argument;
mod follow;
mod options;
mod outcome;
mod signature;
mod steps;
mod text;

pub use argument::{Argument, Arguments, Json, TakesArguments};
pub use follow::OnFailure;
pub use options::Options;
pub use outcome::{FailedJob, Settled, StepError};
pub use signature::{Each, Signature};
pub(crate) use steps::members_json;
pub use steps::{Canvas, Chain, Chord, Group, chain, chord, group};

/// Steps one after the other, each with the result of the one before in front of its arguments:
/// `chain![add::s(2, 2), add::s(4)]`.
pub use umbel_macros::chain;

/// Steps side by side, whose result is the list of their results: `group![add::s(2, 2), add::s(4, 4)]`.
pub use umbel_macros::group;

/// A group and the step that takes the list of its results: `chord![group![add::s(2, 2), add::s(4, 4)], total::s()]`.
pub use umbel_macros::chord;

/// One step in which `s` takes fewer arguments too: `canvas!(add::s(4).link(mul::s(2)))`.
pub use umbel_macros::canvas;

pub use crate::raw::umbel::task::canvas::WorkflowPlace as Place;

/// Turns an argument of the macros into a step.
#[doc(hidden)]
pub fn step(step: impl Into<Canvas>) -> Canvas {
    step.into()
}

/// A call of `T` with some of its arguments, behind what the step before gives. What `s` is in the macros.
#[doc(hidden)]
pub fn partial<T: TakesArguments<A>, A>(arguments: A) -> Signature {
    Signature::with(T::NAME, T::json(arguments))
}
