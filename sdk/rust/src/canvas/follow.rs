//! Fields of any step: callbacks, the effect of its failure, a label.

use super::{Canvas, Json, text::Fields};

/// Effect of a failed step on the steps that wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails too: the default.
    Fail,
    /// It goes on, and gets `{"error": {…}}` in the place of the result.
    Continue,
    /// It goes on, and gets `null` in the place of the result.
    Ignore,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Follow {
    pub(super) link: Vec<Canvas>,
    pub(super) link_error: Vec<Canvas>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) label: Option<String>,
}

impl Follow {
    pub(super) fn write(&self, fields: &mut Fields<'_>) {
        fields.list("link", &self.link, |text, step| step.write(text));
        fields.list("link_error", &self.link_error, |text, step| step.write(text));
        if let Some(on_failure) = self.on_failure {
            let name = match on_failure {
                OnFailure::Fail => "fail",
                OnFailure::Continue => "continue",
                OnFailure::Ignore => "ignore",
            };
            fields.value("on_failure", &Json::of(name));
        }
        if let Some(label) = &self.label {
            fields.value("label", &Json::of(label));
        }
    }
}

/// The methods that every step has. A step has a field `follow`.
macro_rules! follows {
    ($($step:ty),*) => {$(
        impl $step {
            /// Start `callback` when this step succeeded, with its result.
            #[must_use]
            pub fn link(mut self, callback: impl Into<$crate::canvas::Canvas>) -> Self {
                self.follow.link.push(callback.into());
                self
            }

            /// Start `callback` when this step failed, with the error.
            #[must_use]
            pub fn link_error(mut self, callback: impl Into<$crate::canvas::Canvas>) -> Self {
                self.follow.link_error.push(callback.into());
                self
            }

            /// Effect of its failure on the steps that wait for it. On a group or a chord it is the default of the members.
            #[must_use]
            pub fn on_failure(mut self, on_failure: $crate::canvas::OnFailure) -> Self {
                self.follow.on_failure = Some(on_failure);
                self
            }

            /// A name for people, 1 to 128 bytes.
            #[must_use]
            pub fn label(mut self, label: impl Into<String>) -> Self {
                self.follow.label = Some(label.into());
                self
            }
        }
    )*};
}
pub(super) use follows;
