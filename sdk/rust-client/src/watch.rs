//! Changes of a job or a workflow as a stream, by long polls: each ends at once when it is over.

use std::time::{Duration, Instant};

use futures::{Stream, stream};
use umbel_model::JobId;

use crate::{
    client::{Client, MAX_WAIT},
    error::Error,
};

/// Least time between two looks.
const LEAST: Duration = Duration::from_millis(50);

/// A record that can be watched.
pub(crate) trait Watched: serde::de::DeserializeOwned {
    /// The part whose change is told.
    type Seen: PartialEq;
    fn seen(&self) -> Self::Seen;
    fn is_over(&self) -> bool;
    fn state_name(&self) -> &'static str;
}

/// Waits until the record at `path` is over, and returns it. `Error::WaitTimeout` after `timeout`.
pub(crate) async fn wait<T: Watched>(client: &Client, path: &str, id: JobId, timeout: Duration) -> Result<T, Error> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let found: T = match client.get(path).wait(left.min(MAX_WAIT)).answer().await {
            Err(error) if error.is_busy() && !left.is_zero() => continue,
            found => found?,
        };
        if found.is_over() {
            return Ok(found);
        }
        if left.is_zero() {
            return Err(Error::WaitTimeout { id, state: found.state_name() });
        }
    }
}

/// The last thing that was seen, or nothing when the stream has ended.
type Last<T> = Option<Option<<T as Watched>::Seen>>;

/// The record at `path` now, and again when its watched part has changed, read once in `every`. Its end is told at once and
/// is the last item; so is an error.
pub(crate) fn watch<T>(
    client: Client,
    path: String,
    every: Duration,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static
where
    T: Watched + Send + 'static,
    T::Seen: Send,
{
    let every = every.max(LEAST);
    let first: Last<T> = Some(None);
    stream::unfold((client, path, first), move |(client, path, last)| async move {
        let mut last = last?;
        loop {
            let request = client.get(path.clone());
            // The first look answers at once.
            let request = if last.is_some() { request.wait(every) } else { request };
            let found: T = match request.answer().await {
                Ok(found) => found,
                Err(error) => return Some((Err(error), (client, path, None))),
            };
            if found.is_over() {
                return Some((Ok(found), (client, path, None)));
            }
            let seen = Some(found.seen());
            if seen != last {
                return Some((Ok(found), (client, path, Some(seen))));
            }
            last = seen;
        }
    })
}
