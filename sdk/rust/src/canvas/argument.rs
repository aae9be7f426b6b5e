//! Arguments of a call in a canvas.

use serde::Serialize;

use crate::run::Task;

/// A value as JSON text, or why it has none. Fits every parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(Result<String, String>);

impl Json {
    /// `value` as JSON. What cannot be written refuses the canvas that it is in.
    pub fn of(value: &(impl Serialize + ?Sized)) -> Self {
        let problem = |e| format!("an argument cannot be written as JSON: {e}");
        Self(serde_json::to_string(value).map_err(problem))
    }

    pub(super) fn text(&self) -> Result<&str, &str> {
        self.0.as_deref().map_err(String::as_str)
    }
}

/// A value for a parameter of type `P`: a `P`; a `&str` for a `String`; a `T` for an `Option<T>`; any [`Json`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument for a parameter of type `{P}`",
    label = "expected `{P}`, which implements `Serialize`",
    note = "`Json::of(&value)` fits every parameter, and is checked when the workflow is submitted"
)]
pub trait Argument<P> {
    fn into_json(self) -> Json;
}

impl<P: Serialize> Argument<P> for P {
    fn into_json(self) -> Json {
        Json::of(&self)
    }
}

impl<T: Serialize> Argument<Option<T>> for T {
    fn into_json(self) -> Json {
        Json::of(&self)
    }
}

impl Argument<String> for &str {
    fn into_json(self) -> Json {
        Json::of(self)
    }
}

impl<P> Argument<P> for Json {
    fn into_json(self) -> Json {
        self
    }
}

/// Positional arguments of any types: a tuple of up to eight values.
pub trait Arguments {
    fn into_json(self) -> Vec<Json>;
}

macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<$($name: Serialize),*> Arguments for ($($name,)*) {
            #[allow(non_snake_case)]
            fn into_json(self) -> Vec<Json> {
                let ($($name,)*) = self;
                vec![$(Json::of(&$name)),*]
            }
        }
    )*};
}

tuples! {
    ;
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

/// A task that can be called with the tuple `A`: all of its arguments, or those behind the first. Made by `#[task]`.
#[diagnostic::on_unimplemented(
    message = "the task `{Self}` cannot be called with `{A}`",
    label = "neither all of its arguments, nor those behind the first",
    note = "in a chain or a chord the result of what came before is the first argument"
)]
pub trait TakesArguments<A>: Task {
    #[doc(hidden)]
    fn json(arguments: A) -> Vec<Json>;
}
