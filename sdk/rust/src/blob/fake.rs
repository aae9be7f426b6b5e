//! The blobs of native tests: in memory, one store for each thread, with the rules of the real one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use super::Blob;
use crate::raw::umbel::blob::store::Error;

mod sha256;

/// What the real host allows one attempt.
const MAX_OPEN: usize = 16;
const CALL_BYTES: usize = 1 << 20;
const MAX_CONTENT_TYPE_BYTES: usize = 128;

type Answer<T> = Result<T, Error>;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Stored>,
    open: usize,
    calls: usize,
    /// What may be done, if not everything.
    allowed: Option<Allowed>,
    failures: VecDeque<Error>,
}

#[derive(Clone, Default)]
struct Stored {
    bytes: Vec<u8>,
    content_type: Option<String>,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Allowed {
    Nothing,
    Reading,
    Writing,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

/// The store of this thread: of this test, and of the tasks that it calls.
pub fn fake() -> FakeBlobs {
    FakeBlobs(())
}

/// Says what the store has, and what it answers.
#[derive(Debug)]
pub struct FakeBlobs(());

impl FakeBlobs {
    /// Puts a blob in.
    pub fn put(&self, bytes: impl AsRef<[u8]>) -> Blob {
        let bytes = bytes.as_ref().to_vec();
        with(|state| state.store(Stored { bytes, content_type: None }))
    }

    /// The bytes of a blob; none when it is not there.
    pub fn bytes(&self, blob: &Blob) -> Option<Vec<u8>> {
        with(|state| state.blobs.get(blob.digest()).map(|stored| stored.bytes.clone()))
    }

    /// The bytes of a blob as text; none when it is not there, or no text.
    pub fn text(&self, blob: &Blob) -> Option<String> {
        self.bytes(blob).and_then(|bytes| String::from_utf8(bytes).ok())
    }

    /// The media type that a blob was written with.
    pub fn content_type(&self, blob: &Blob) -> Option<String> {
        with(|state| state.blobs.get(blob.digest())?.content_type.clone())
    }

    /// All blobs, by digest.
    pub fn blobs(&self) -> Vec<Blob> {
        with(|state| state.blobs.keys().filter_map(|digest| digest.parse().ok()).collect())
    }

    /// Deletes a blob, also one that is read.
    pub fn delete(&self, blob: &Blob) {
        with(|state| state.blobs.remove(blob.digest()));
    }

    /// The next call of a task fails. Failures wait in their order.
    pub fn fail_next(&self, error: super::Error) {
        with(|state| state.failures.push_back(raw(error)));
    }

    /// From now on only what these permissions allow may be done: `blob`, `blob read`, or none.
    ///
    /// # Panics
    /// When one of them is no permission for blobs.
    pub fn allow_only(&self, permissions: &[&str]) {
        let allowed = permissions.iter().map(|permission| match *permission {
            "blob" => Allowed::Writing,
            "blob read" => Allowed::Reading,
            other => panic!("{other:?} is no permission for blobs: write `blob` or `blob read`"),
        });
        let most = allowed.fold(Allowed::Nothing, |most, one| if one > most { one } else { most });
        with(|state| state.allowed = Some(most));
    }

    /// Calls that tasks made, those included that failed.
    pub fn calls(&self) -> usize {
        with(|state| state.calls)
    }
}

fn raw(error: super::Error) -> Error {
    use super::Error as E;
    match error {
        E::Denied(text) => Error::Denied(text),
        E::Invalid(text) => Error::Invalid(text),
        E::NotFound => Error::NotFound,
        E::Deleted => Error::Deleted,
        E::TooLarge(max) => Error::TooLarge(max),
        E::Quota(text) => Error::Quota(text),
        E::Limit(text) => Error::Limit(text),
        E::Unavailable(text) | E::Unreadable(text) => Error::Unavailable(text),
    }
}

impl State {
    /// Counts a call, and answers as the test said.
    fn begin(&mut self, asked: Allowed) -> Answer<()> {
        self.calls += 1;
        if let Some(error) = self.failures.pop_front() {
            return Err(error);
        }
        if self.allowed.is_some_and(|allowed| allowed < asked) {
            let missing = if asked == Allowed::Writing { "blob" } else { "blob read" };
            return Err(Error::Denied(format!(
                "the module is not allowed `{missing}`: declare it in the module's permissions, push the module and approve it"
            )));
        }
        Ok(())
    }

    fn open(&mut self) -> Answer<()> {
        if self.open == MAX_OPEN {
            return Err(Error::Limit(format!("an attempt has at most {MAX_OPEN} blobs open: close one first")));
        }
        self.open += 1;
        Ok(())
    }

    fn store(&mut self, stored: Stored) -> Blob {
        let digest = format!("sha256:{}", sha256::hex(&stored.bytes));
        // As in the real store the first content type stays.
        self.blobs.entry(digest.clone()).or_insert(stored);
        Blob { digest }
    }
}

// ---- the resources of the contract

#[derive(Debug)]
pub(super) struct Reader {
    digest: String,
    size: u64,
}

impl Reader {
    pub(super) fn open(digest: &str) -> Answer<Self> {
        with(|state| {
            state.begin(Allowed::Reading)?;
            let size = state.blobs.get(digest).ok_or(Error::NotFound)?.bytes.len() as u64;
            state.open()?;
            Ok(Self { digest: digest.to_owned(), size })
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read(&self, offset: u64, length: u32) -> Answer<Vec<u8>> {
        with(|state| {
            state.begin(Allowed::Reading)?;
            let bytes = &state.blobs.get(&self.digest).ok_or(Error::Deleted)?.bytes;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let to = bytes.len().min(from + (length as usize).min(CALL_BYTES));
            Ok(bytes[from..to].to_vec())
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        with(|state| state.open -= 1);
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    written: RefCell<Vec<u8>>,
    content_type: Option<String>,
}

impl Writer {
    pub(super) fn create(content_type: Option<&str>) -> Answer<Self> {
        let is_bad = |text: &str| {
            text.is_empty()
                || text.len() > MAX_CONTENT_TYPE_BYTES
                || !text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        with(|state| {
            state.begin(Allowed::Writing)?;
            if content_type.is_some_and(is_bad) {
                let text = format!("a content type has 1 to {MAX_CONTENT_TYPE_BYTES} visible ASCII characters");
                return Err(Error::Invalid(text));
            }
            state.open()?;
            Ok(Self { written: RefCell::default(), content_type: content_type.map(str::to_owned) })
        })
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Answer<()> {
        with(|state| state.begin(Allowed::Writing))?;
        if bytes.len() > CALL_BYTES {
            return Err(Error::Invalid(format!("one call writes at most {CALL_BYTES} bytes")));
        }
        self.written.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(this: Self) -> Answer<String> {
        let stored = Stored { bytes: this.written.take(), content_type: this.content_type.clone() };
        with(|state| {
            state.begin(Allowed::Writing)?;
            Ok(state.store(stored).digest)
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        with(|state| state.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{self, create};

    #[test]
    fn a_test_says_what_fails_and_what_is_allowed() {
        let some = fake().put("some");
        fake().fail_next(blob::Error::Unavailable("down".into()));
        assert_eq!(some.read_text(9), Err(blob::Error::Unavailable("down".into())));
        fake().allow_only(&["blob read"]);
        assert_eq!(some.read_text(9).as_deref(), Ok("some"));
        let Err(blob::Error::Denied(text)) = blob::write("more") else { panic!("written") };
        assert!(text.contains("`blob`"), "{text}");
        fake().allow_only(&[]);
        let Err(blob::Error::Denied(text)) = some.open() else { panic!("opened") };
        assert!(text.contains("`blob read`"), "{text}");
    }

    #[test]
    fn a_blob_that_is_deleted_while_it_is_read_is_named_and_one_that_is_not_there() {
        let some = fake().put("some");
        let mut reader = some.open().unwrap();
        fake().delete(&some);
        assert_eq!(reader.read_all(9), Err(blob::Error::Deleted));
        assert!(matches!(some.open(), Err(blob::Error::NotFound)));
    }

    #[test]
    fn few_are_open_at_once_and_what_is_closed_makes_room() {
        let some = fake().put("some");
        let open: Vec<_> = (0..MAX_OPEN).map(|_| some.open().unwrap()).collect();
        assert!(matches!(create(), Err(blob::Error::Limit(_))));
        drop(open);
        create().unwrap();
    }
}
