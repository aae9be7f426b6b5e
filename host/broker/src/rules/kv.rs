//! Key-value entries: what a write does to the entry that it finds, what an entry takes, and when a page of a list ends.
//!
//! A broker first compares the token of the delivery (`KvWritten::Stale`), then asks `decide`, then looks whether there may be one
//! more bucket and whether the bytes fit (`refuses`). The Redis broker keeps this order in `library/kv.lua`.

use std::borrow::Cow;

use umbel_model::{KvKey, UnixMs};

use crate::{
    Expect, KvChange, KvEntry, KvPage, KvWrite, KvWritten, MAX_KV_TTL_MS, PAGE_BYTES, PAGE_SCAN, rules::storage,
};

/// What an entry takes beside its key and its value, bytes: about what a store needs for it.
pub const ENTRY_BYTES: u64 = 64;

/// The bytes of an entry.
pub fn bytes(key: &KvKey, value_bytes: usize) -> u64 {
    key.as_str().len() as u64 + value_bytes as u64 + ENTRY_BYTES
}

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<'w> {
    /// Nothing: this is the answer.
    Answer(KvWritten),
    /// It stores this under the next version.
    Put { value: Cow<'w, [u8]>, expires_at: Option<UnixMs>, number: Option<i64> },
    /// It deletes the entry that is there.
    Remove,
}

/// The answer to a write that stored something.
pub fn stored(version: u64, number: Option<i64>) -> KvWritten {
    number.map_or(KvWritten::Stored(version), |number| KvWritten::Counted(version, number))
}

/// Whether an entry has expired.
pub fn is_over(expires_at: Option<UnixMs>, now: UnixMs) -> bool {
    expires_at.is_some_and(|at| at <= now)
}

/// Decides what a write does to the entry that is stored, which may have expired.
pub fn decide<'w>(write: &'w KvWrite, stored: Option<&KvEntry>, now: UnixMs, max_value_bytes: u64) -> Next<'w> {
    let found = stored.filter(|entry| !is_over(entry.expires_at, now));
    let version = found.map_or(0, |entry| entry.version);
    let is_expected = match write.expect {
        Expect::Any => true,
        Expect::Absent => version == 0,
        Expect::Version(expected) => version == expected,
    };
    if !is_expected {
        return Next::Answer(KvWritten::Conflict(version));
    }
    match &write.change {
        KvChange::Set { value, .. } if value.len() as u64 > max_value_bytes => {
            Next::Answer(KvWritten::TooLarge(max_value_bytes))
        }
        KvChange::Set { value, ttl_ms } => {
            Next::Put { value: value.into(), expires_at: expiry(*ttl_ms, now), number: None }
        }
        KvChange::Add { delta, initial, ttl_ms } => {
            let (sum, expires_at) = match found {
                None => (initial.checked_add(*delta), expiry(*ttl_ms, now)),
                Some(entry) => match number(&entry.value) {
                    None => return Next::Answer(KvWritten::NotANumber),
                    Some(number) => (number.checked_add(*delta), entry.expires_at),
                },
            };
            let Some(sum) = sum else { return Next::Answer(KvWritten::Overflow) };
            Next::Put { value: sum.to_string().into_bytes().into(), expires_at, number: Some(sum) }
        }
        KvChange::Delete if found.is_none() => Next::Answer(KvWritten::Deleted(false)),
        KvChange::Delete => Next::Remove,
    }
}

/// When something ends that lives for so long from now; 0: never.
fn expiry(ttl_ms: u64, now: UnixMs) -> Option<UnixMs> {
    (ttl_ms > 0).then(|| now.saturating_add(ttl_ms.min(MAX_KV_TTL_MS)))
}

/// A value as a number, in its one spelling.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// Why an entry of `new` bytes cannot be stored where one of `old` bytes is (0: none). `buckets` are those of the tenant, without
/// this one; none when this one has entries.
pub fn refuses(
    old: u64,
    new: u64,
    buckets: Option<u64>,
    max_buckets: u64,
    limit: u64,
    used: impl FnOnce() -> u64,
) -> Option<KvWritten> {
    if buckets.is_some_and(|count| count >= max_buckets) {
        return Some(KvWritten::TooManyBuckets(max_buckets));
    }
    let is_full = new > old && limit > 0 && !storage::fits(limit, used(), new - old);
    is_full.then_some(KvWritten::StorageFull)
}

/// A page of a list that is filled, entry by entry in their order.
#[derive(Debug)]
pub struct Filling {
    page: KvPage,
    max: usize,
    now: UnixMs,
    looked_at: u32,
    bytes: usize,
}

impl Filling {
    pub fn new(max: u32, now: UnixMs) -> Self {
        Self { page: KvPage::default(), max: max.max(1) as usize, now, looked_at: 0, bytes: 0 }
    }

    /// Adds an entry if it has not expired; whether the page goes on.
    pub fn add(&mut self, key: KvKey, entry: KvEntry) -> bool {
        self.looked_at += 1;
        self.bytes += key.as_str().len() + entry.value.len();
        let last = key.clone();
        if !is_over(entry.expires_at, self.now) {
            self.page.entries.push((key, entry));
        }
        let is_full = self.page.entries.len() == self.max || self.bytes >= PAGE_BYTES || self.looked_at == PAGE_SCAN;
        self.page.next = is_full.then_some(last);
        !is_full
    }

    pub fn finish(self) -> KvPage {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::{BucketName, TenantId};

    use super::*;

    fn write(expect: Expect, change: KvChange) -> KvWrite {
        KvWrite {
            tenant: TenantId::new("t").unwrap(),
            bucket: BucketName::new("b").unwrap(),
            key: KvKey::new("k").unwrap(),
            expect,
            change,
            delivery: None,
        }
    }

    fn entry(version: u64, value: &str) -> KvEntry {
        KvEntry { version, expires_at: None, value: value.into() }
    }

    fn add(delta: i64) -> KvChange {
        KvChange::Add { delta, initial: 10, ttl_ms: 0 }
    }

    #[test]
    fn a_number_is_added_to_where_there_is_one_in_its_one_spelling() {
        let answer = |value: &str, delta: i64| {
            let write = write(Expect::Any, add(delta));
            let found = entry(1, value);
            match decide(&write, Some(&found), 0, 10) {
                Next::Put { number, .. } => Ok(number.unwrap()),
                Next::Answer(answer) => Err(answer),
                Next::Remove => unreachable!(),
            }
        };
        assert_eq!(answer("5", -7), Ok(-2));
        assert_eq!(answer("9223372036854775807", -1), Ok(i64::MAX - 1));
        assert_eq!(answer("9223372036854775807", 1), Err(KvWritten::Overflow));
        assert_eq!(answer("-9223372036854775808", -1), Err(KvWritten::Overflow));
        for text in ["", "+5", "05", "-0", " 5", "5 ", "5.0", "9223372036854775808", "é"] {
            assert_eq!(answer(text, 1), Err(KvWritten::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn what_has_expired_is_not_there_for_a_write() {
        let old = KvEntry { expires_at: Some(100), ..entry(7, "5") };
        let at = |now, expect, change| {
            let write = write(expect, change);
            decide(&write, Some(&old), now, 10) == Next::Remove
        };
        assert!(at(99, Expect::Version(7), KvChange::Delete));
        assert!(!at(100, Expect::Any, KvChange::Delete));
        let new = write(Expect::Absent, add(1));
        let Next::Put { number, expires_at, .. } = decide(&new, Some(&old), 100, 10) else { panic!() };
        assert_eq!((number, expires_at), (Some(11), None), "it begins anew");
        let more = write(Expect::Any, add(1));
        let Next::Put { number, expires_at, .. } = decide(&more, Some(&old), 99, 10) else { panic!() };
        assert_eq!((number, expires_at), (Some(6), Some(100)), "it keeps its time");
    }

    #[test]
    fn what_makes_nothing_larger_is_stored_also_when_there_is_no_room() {
        let refused = |old, new| refuses(old, new, None, 1, 100, || 100);
        assert_eq!(refused(70, 70), None);
        assert_eq!(refused(70, 71), Some(KvWritten::StorageFull));
        assert_eq!(refuses(0, 70, Some(1), 1, 0, || 0), Some(KvWritten::TooManyBuckets(1)));
        assert_eq!(refuses(0, 70, Some(0), 1, 0, || 0), None);
    }
}
