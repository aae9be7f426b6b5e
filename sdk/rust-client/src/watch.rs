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

/// What a watcher wants to know.
pub(crate) trait Watched: serde::de::DeserializeOwned {
    /// What counts as a change.
    type Seen: PartialEq;
    fn seen(&self) -> Self::Seen;
    fn is_over(&self) -> bool;
    fn state_name(&self) -> &'static str;
}

/// What is at `path` once it is over, however it ended; after `timeout` it is an `Error::WaitTimeout`.
pub(crate) async fn wait<T: Watched>(client: &Client, path: &str, id: JobId, timeout: Duration) -> Result<T, Error> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let found: T = client.get(path).wait(left.min(MAX_WAIT)).answer().await?;
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

/// What is at `path` now, and again whenever what is seen of it differs, looked at once in `every`. Its end is told at
/// once and is the last item; so is an error.
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
