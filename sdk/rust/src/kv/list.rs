//! Lists of entries, page by page.

use super::{Entry, Error, Result, backend};

/// Entries of one page.
const PAGE: u32 = 100;

/// The entries of a bucket, in the order of the bytes of their keys. After an error it ends.
#[derive(Debug)]
pub struct List {
    bucket: String,
    prefix: String,
    page: std::vec::IntoIter<(String, Entry)>,
    cursor: Option<String>,
    is_over: bool,
}

impl List {
    pub(super) fn new(bucket: String, prefix: String) -> Self {
        Self { bucket, prefix, page: Vec::new().into_iter(), cursor: None, is_over: false }
    }

    fn next_page(&mut self) -> Result<()> {
        let page = backend::list(&self.bucket, &self.prefix, self.cursor.as_deref(), PAGE).map_err(Error::from)?;
        let entries: Vec<(String, Entry)> = page.entries.into_iter().map(|(key, entry)| (key, entry.into())).collect();
        (self.is_over, self.cursor) = (page.next.is_none(), page.next);
        self.page = entries.into_iter();
        Ok(())
    }
}

impl Iterator for List {
    type Item = Result<(String, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.next_page() {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }
}
