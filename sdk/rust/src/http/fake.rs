//! HTTP on native tests: answers that a test gave, and a record of what was sent. No network.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use serde::Serialize;

use super::{Error, Request, Response, shown};
use crate::secret::put_in;

thread_local! {
    static CURRENT: RefCell<Option<Rc<RefCell<State>>>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<(String, String), Answers>,
    requests: Vec<Request>,
}

/// Those of one method and URL.
#[derive(Debug, Default)]
struct Answers {
    waiting: VecDeque<Given>,
    last: Option<Given>,
}

impl Answers {
    fn next(&mut self) -> Option<Given> {
        if let Some(given) = self.waiting.pop_front() {
            self.last = Some(given);
        }
        self.last.clone()
    }
}

#[derive(Debug, Clone)]
enum Given {
    Answer(Answer),
    Failure(&'static str),
}

/// The network of a native test, for its thread and as long as it is kept. A request without an answer is denied, as one
/// without a permission is.
#[derive(Debug)]
pub struct Fake {
    state: Rc<RefCell<State>>,
}

/// An answer of a [`Fake`].
#[derive(Debug, Clone, Default)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Answer {
    /// One without a body.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// One with a text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status).body(body.into())
    }

    /// One with JSON.
    ///
    /// # Panics
    /// If the value cannot be written as JSON.
    pub fn json(status: u16, body: &(impl Serialize + ?Sized)) -> Self {
        let json = serde_json::to_vec(body).unwrap_or_else(|error| panic!("the answer is no JSON: {error}"));
        Self::new(status).header("content-type", "application/json").body(json)
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.as_ref().to_ascii_lowercase(), value.into()));
        self
    }

    /// The body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A request that was sent to a [`Fake`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded(Request);

impl Recorded {
    /// In upper case, as it was given.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// With its query.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// A header's first value. The name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.0.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Empty if there was none.
    pub fn body(&self) -> &[u8] {
        self.0.body.as_deref().unwrap_or_default()
    }
}

impl Fake {
    /// Replaces the network of this thread until it is dropped.
    pub fn start() -> Self {
        let state: Rc<RefCell<State>> = Rc::default();
        CURRENT.with_borrow_mut(|current| *current = Some(state.clone()));
        Self { state }
    }

    /// What a request is answered with. Several answers for one URL come in their order, and the last one stays.
    pub fn answer(&self, method: &str, url: &str, answer: Answer) -> &Self {
        self.give(method, url, Given::Answer(answer))
    }

    /// A request fails with an error of this kind: see [`Error::kind`].
    pub fn fail(&self, method: &str, url: &str, kind: &'static str) -> &Self {
        self.give(method, url, Given::Failure(kind))
    }

    fn give(&self, method: &str, url: &str, given: Given) -> &Self {
        let key = (method.to_owned(), url.to_owned());
        self.state.borrow_mut().answers.entry(key).or_default().waiting.push_back(given);
        self
    }

    /// What was sent so far, also what was denied.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.borrow().requests.iter().cloned().map(Recorded).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| {
            if current.as_ref().is_some_and(|state| Rc::ptr_eq(state, &self.state)) {
                *current = None;
            }
        });
    }
}

pub(super) fn send(request: Request) -> Result<Response, Error> {
    let of = shown(&request.method, &request.url);
    let Some(state) = CURRENT.with_borrow(Clone::clone) else {
        let help = "there is no network in a native test; start a fake with `umbel::http::Fake::start()`";
        return Err(Error::new("http_denied", false, format!("{of}: {help}")));
    };
    let mut state = state.borrow_mut();
    let max = request.max_body_bytes;
    let key = (request.method.clone(), request.url.clone());
    // As a server would get it.
    let headers = request.headers.into_iter().map(|(name, value)| (name, put_in(&value))).collect();
    state.requests.push(Request { headers, ..request });
    match state.answers.get_mut(&key).and_then(Answers::next) {
        None => Err(Error::new("http_denied", false, format!("{of}: the fake has no answer for it"))),
        Some(Given::Failure(kind)) => {
            let is_final = ["http_denied", "http_invalid_request", "http_limit"].contains(&kind);
            Err(Error::new(kind, !is_final, format!("{of}: failed, as the test wants")))
        }
        Some(Given::Answer(answer)) if answer.body.len() > max => Err(too_large(&of, max)),
        Some(Given::Answer(Answer { status, headers, body })) => Ok(Response { status, headers, body, of }),
    }
}

fn too_large(of: &str, max: usize) -> Error {
    Error::new("http_limit", false, format!("{of}: the body of the answer is larger than {max} bytes"))
}
