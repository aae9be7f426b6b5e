//! Typed builders of canvases, a thin layer over `umbel_model::Canvas`.
//!
//! ```
//! use umbel_client::canvas::{chain, chord, group, task};
//!
//! let count = chord(["a b", "b c"].map(|text| task("count_words").args((text,))), task("merge_counts"));
//! let order = chain![
//!     task("reserve").args((7,)).link_error(task("release").args((7,)).immutable()),
//!     group([task("charge"), task("pack")]).cancel_rest(),
//!     task("ship").queue("slow").max_retries(9),
//! ];
//! assert!(count.build().is_ok() && order.build().is_ok());
//! ```
//!
//! A builder that is given something that cannot be sent keeps its first error until it is built or submitted.

mod options;
mod signature;

use umbel_model::canvas::{Canvas, OnFailure, Shape};

pub(crate) use self::signature::{Single, single};
pub use self::{
    options::Unique,
    signature::{Signature, task},
};

/// A canvas or a call that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CanvasError(pub(crate) String);

/// Any step of a canvas.
#[derive(Debug, Clone)]
pub struct Step(Result<Canvas, CanvasError>);

/// One after the other: each step takes the result of the one before it as its first argument.
pub fn chain<S: Into<Step>>(steps: impl IntoIterator<Item = S>) -> Step {
    Step(built(steps).map(Canvas::chain))
}

/// All at once. The result is the list of the members' results, in their order.
pub fn group<S: Into<Step>>(members: impl IntoIterator<Item = S>) -> Step {
    Step(built(members).map(Canvas::group))
}

/// A group, and a body that takes the list of its members' results.
pub fn chord<S: Into<Step>>(header: impl IntoIterator<Item = S>, body: impl Into<Step>) -> Step {
    Step(built(header).and_then(|header| Ok(Canvas::chord(header, body.into().0?))))
}

/// A chain of steps of different types.
#[macro_export]
#[doc(hidden)]
macro_rules! __chain {
    ($($step:expr),+ $(,)?) => { $crate::canvas::chain([$($crate::canvas::Step::from($step)),+]) };
}

/// A group of steps of different types.
#[macro_export]
#[doc(hidden)]
macro_rules! __group {
    ($($step:expr),+ $(,)?) => { $crate::canvas::group([$($crate::canvas::Step::from($step)),+]) };
}

#[doc(inline)]
pub use crate::{__chain as chain, __group as group};

fn built<S: Into<Step>>(steps: impl IntoIterator<Item = S>) -> Result<Vec<Canvas>, CanvasError> {
    steps.into_iter().map(|step| step.into().0).collect()
}

impl From<Canvas> for Step {
    fn from(canvas: Canvas) -> Self {
        Self(Ok(canvas))
    }
}

impl Step {
    /// This step and then the next one, which takes its result. A group followed by a step is a chord.
    #[must_use]
    pub fn then(self, next: impl Into<Self>) -> Self {
        Self(self.0.and_then(|canvas| {
            let next = next.into().0?;
            let plain = canvas.link.is_empty() && canvas.link_error.is_empty();
            let plain = plain && canvas.on_failure.is_none() && canvas.label.is_none();
            Ok(match canvas {
                // A chain with something of its own stays a step by itself.
                Canvas { shape: Shape::Chain(mut steps), .. } if plain => {
                    steps.push(next);
                    Canvas::chain(steps)
                }
                canvas => Canvas::chain(vec![canvas, next]),
            })
        }))
    }

    /// Starts when this step succeeded, with its result.
    #[must_use]
    pub fn link(self, next: impl Into<Self>) -> Self {
        self.with_step(next, |canvas, next| canvas.link.push(next))
    }

    /// Starts when this step failed, with the error.
    #[must_use]
    pub fn link_error(self, next: impl Into<Self>) -> Self {
        self.with_step(next, |canvas, next| canvas.link_error.push(next))
    }

    /// Effect of its failure on the steps that wait for it; on a group, the default of its members.
    #[must_use]
    pub fn on_failure(self, policy: OnFailure) -> Self {
        self.with(|canvas| canvas.on_failure = Some(policy))
    }

    /// A name for people: 1 to 128 bytes without control characters.
    #[must_use]
    pub fn label(self, label: &str) -> Self {
        self.with(|canvas| canvas.label = Some(label.to_owned()))
    }

    /// Of a group or a chord: the first failed member cancels the others. Of a chain whose last step is one: of that one.
    #[must_use]
    pub fn cancel_rest(self) -> Self {
        Self(self.0.and_then(|mut canvas| match &mut canvas.shape {
            Shape::Group { cancel_rest, .. } | Shape::Chord { cancel_rest, .. } => {
                *cancel_rest = true;
                Ok(canvas)
            }
            _ => Err(CanvasError("cancel_rest belongs to a group or a chord".into())),
        }))
    }

    /// The canvas, or the first thing that was wrong.
    pub fn build(self) -> Result<Canvas, CanvasError> {
        self.0
    }

    fn with(self, change: impl FnOnce(&mut Canvas)) -> Self {
        Self(self.0.map(|mut canvas| {
            change(&mut canvas);
            canvas
        }))
    }

    fn with_step(self, next: impl Into<Self>, change: impl FnOnce(&mut Canvas, Canvas)) -> Self {
        Self(self.0.and_then(|mut canvas| {
            change(&mut canvas, next.into().0?);
            Ok(canvas)
        }))
    }
}

#[cfg(test)]
mod tests;
