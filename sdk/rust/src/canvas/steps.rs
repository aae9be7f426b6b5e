//! Steps of steps: chains, groups and chords.

use super::{
    Each, Json, Signature,
    follow::{Follow, follows},
    text::Text,
};
use crate::Refused;

/// Any step: what a workflow is made of. Every builder of this module converts into it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Canvas {
    Call(Box<Signature>),
    Each(Box<Each>),
    Chain(Chain),
    Group(Group),
    Chord(Box<Chord>),
    /// In the JSON form already: the host checks it.
    Json(Json),
}

impl Canvas {
    /// The JSON form, as `POST /v1/workflows` takes it. Fails if an argument cannot be written as JSON.
    pub fn json(&self) -> Result<String, Refused> {
        finish(|text| self.write(text))
    }

    pub(super) fn write(&self, text: &mut Text) {
        match self {
            Self::Call(step) => step.write(text),
            Self::Each(step) => step.write(text),
            Self::Chain(step) => step.write(text),
            Self::Group(step) => step.write(text),
            Self::Chord(step) => step.write(text),
            Self::Json(step) => text.json(step),
        }
    }
}

/// Members as a JSON list.
pub(crate) fn members_json(members: &[Canvas]) -> Result<String, Refused> {
    finish(|text| text.list(members, |text, step| step.write(text)))
}

fn finish(write: impl FnOnce(&mut Text)) -> Result<String, Refused> {
    let mut text = Text::default();
    write(&mut text);
    text.finish().map_err(|problem| Refused::new("invalid_canvas", problem))
}

/// Steps one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    steps: Vec<Canvas>,
    follow: Follow,
}

/// Steps one after the other: [`chain!`](macro@super::chain) of a list that is known only when it runs.
pub fn chain<S: Into<Canvas>>(steps: impl IntoIterator<Item = S>) -> Chain {
    Chain { steps: steps.into_iter().map(Into::into).collect(), follow: Follow::default() }
}

impl Chain {
    /// One more step at the end.
    #[must_use]
    pub fn then(mut self, step: impl Into<Canvas>) -> Self {
        self.steps.push(step.into());
        self
    }

    fn write(&self, text: &mut Text) {
        text.object(|fields| {
            fields.field("chain", |text| text.list(&self.steps, |text, step| step.write(text)));
            self.follow.write(fields);
        });
    }
}

/// Steps side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    members: Vec<Canvas>,
    cancel_rest: bool,
    follow: Follow,
}

/// Steps side by side: [`group!`](macro@super::group) of a list that is known only when it runs.
pub fn group<S: Into<Canvas>>(members: impl IntoIterator<Item = S>) -> Group {
    Group { members: members.into_iter().map(Into::into).collect(), cancel_rest: false, follow: Follow::default() }
}

impl Group {
    /// One more member at the end.
    #[must_use]
    pub fn and(mut self, member: impl Into<Canvas>) -> Self {
        self.members.push(member.into());
        self
    }

    /// The first failure cancels what is left of it.
    #[must_use]
    pub fn cancel_rest(mut self) -> Self {
        self.cancel_rest = true;
        self
    }

    /// A chord of this group and `body`.
    #[must_use]
    pub fn chord(self, body: impl Into<Canvas>) -> Chord {
        chord(self, body)
    }

    fn write(&self, text: &mut Text) {
        text.object(|fields| {
            fields.field("group", |text| text.list(&self.members, |text, step| step.write(text)));
            if self.cancel_rest {
                fields.value("cancel_rest", &Json::of(&true));
            }
            self.follow.write(fields);
        });
    }
}

/// The members: for adding them to another group.
impl IntoIterator for Group {
    type Item = Canvas;
    type IntoIter = std::vec::IntoIter<Canvas>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

/// A group and the step that takes the list of its results.
#[derive(Debug, Clone, PartialEq)]
pub struct Chord {
    header: Group,
    body: Canvas,
    follow: Follow,
}

/// A group and the step that takes the list of its results. Inside of [`chord!`](macro@super::chord) the body's `s` may
/// leave its first argument out; here write `total::p()`.
pub fn chord(header: Group, body: impl Into<Canvas>) -> Chord {
    Chord { header, body: body.into(), follow: Follow::default() }
}

impl Chord {
    /// The first failure cancels what is left of the group.
    #[must_use]
    pub fn cancel_rest(mut self) -> Self {
        self.header.cancel_rest = true;
        self
    }

    fn write(&self, text: &mut Text) {
        let Self { header: Group { members, cancel_rest, follow: of_header }, body, follow } = self;
        // Both say it of the members and of the end of the group.
        let on_failure = of_header.on_failure.or(follow.on_failure);
        let label = of_header.label.clone().or_else(|| follow.label.clone());
        if of_header.link.is_empty() && of_header.link_error.is_empty() {
            return text.object(|fields| {
                fields.field("chord", |text| text.list(members, |text, step| step.write(text)));
                fields.field("body", |text| body.write(text));
                if *cancel_rest {
                    fields.value("cancel_rest", &Json::of(&true));
                }
                Follow { on_failure, label, ..follow.clone() }.write(fields);
            });
        }
        // A chord has no place for callbacks of its group; a chain of the group and the body is the same.
        let group = Group { follow: Follow { on_failure, label, ..of_header.clone() }, ..self.header.clone() };
        text.object(|fields| {
            fields
                .field("chain", |text| text.list(&[Canvas::from(group), body.clone()], |text, step| step.write(text)));
            Follow { on_failure: None, label: None, ..follow.clone() }.write(fields);
        });
    }
}

follows!(Chain, Group, Chord);

impl From<Json> for Canvas {
    fn from(json: Json) -> Self {
        Self::Json(json)
    }
}

impl From<Chain> for Canvas {
    fn from(chain: Chain) -> Self {
        Self::Chain(chain)
    }
}

impl From<Group> for Canvas {
    fn from(group: Group) -> Self {
        Self::Group(group)
    }
}

impl From<Chord> for Canvas {
    fn from(chord: Chord) -> Self {
        Self::Chord(Box::new(chord))
    }
}
