//! Looking at all keys, page by page.

use std::collections::{HashSet, VecDeque};

use umbel_broker::Result;

use crate::{RedisBroker, answers::Answer};

/// Keys that one page passes: a millisecond.
const PAGE: usize = 1_000;
/// Where the server begins and ends.
const START: &str = "0";
/// A server comes back to keys of one bucket of its table of keys when that shrinks: to the last ones that it told of. There are a few
/// keys in a bucket; so many names are remembered.
const REMEMBERED: usize = 1_000;

/// A look at the keys that fit a pattern: each that is there from the first page to the last is on one of them, once.
///
/// It belongs to a connection: to another server, where it is means nothing.
#[derive(Debug)]
pub(crate) struct Scan {
    pattern: String,
    cursor: String,
    /// The last names, and their order.
    names: HashSet<String>,
    order: VecDeque<String>,
    is_over: bool,
}

impl Scan {
    pub(crate) fn new(pattern: impl Into<String>) -> Self {
        let (names, order) = (HashSet::new(), VecDeque::new());
        Self { pattern: pattern.into(), cursor: START.into(), names, order, is_over: false }
    }

    /// Whether there are no more pages.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether a name is not among the last ones, to which it is added.
    fn is_new(&mut self, name: &str) -> bool {
        if !self.names.insert(name.to_owned()) {
            return false;
        }
        self.order.push_back(name.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(first) = self.order.pop_front()
        {
            self.names.remove(&first);
        }
        true
    }
}

impl RedisBroker {
    /// The keys on the next page, maybe none.
    pub(crate) async fn next_page(&self, scan: &mut Scan) -> Result<Vec<String>> {
        let Scan { cursor, pattern, .. } = &*scan;
        let command = redis::cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE).to_owned();
        let mut answer = Answer::new(self.command(&command).await?)?;
        scan.cursor = answer.text()?;
        scan.is_over = scan.cursor == START;
        let mut names = Answer::new(answer.next()?)?.rest(Answer::text)?;
        names.retain(|name| scan.is_new(name));
        Ok(names)
    }

    /// Every key that fits a pattern.
    pub(crate) async fn each_key(&self, pattern: &str, mut each: impl FnMut(String) + Send) -> Result<()> {
        let mut scan = Scan::new(pattern);
        while !scan.is_over() {
            self.next_page(&mut scan).await?.into_iter().for_each(&mut each);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_scan_comes_back_to_is_known() {
        let mut scan = Scan::new("*");
        assert!(scan.is_new("first") && !scan.is_new("first"));
        assert!((0..REMEMBERED).all(|n| scan.is_new(&n.to_string())));
        assert!(!scan.is_new("0") && scan.is_new("first"));
        assert_eq!((scan.order.len(), scan.names.len()), (REMEMBERED, REMEMBERED));
    }
}
