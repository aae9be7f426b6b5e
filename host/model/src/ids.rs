//! Names and ids: what may be in them is decided here, once, so that every key, path and log line that is built
//! from them is safe by construction.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Digest as _;

use crate::{UnixMs, permission};

/// A name or id that breaks its rule. Says which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown:?} is not valid: {rule}")]
pub struct InvalidName {
    pub what: &'static str,
    /// The first 64 characters of what was given.
    pub shown: String,
    pub rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        Self { what, shown: given.chars().take(64).collect(), rule }
    }
}

/// Serde and `String` by the text of a type: its `Display` and its `FromStr`.
macro_rules! as_text {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        as_text!($type);

        impl $type {
            /// Checks the rule and keeps the name.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                let name = name.as_ref();
                let ok: fn(&str) -> bool = $ok;
                if ok(name) { Ok(Self(name.into())) } else { Err(InvalidName::new($what, name, $rule)) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
    };
}

/// Whether a text has 1 to `max` bytes: the first one passes `first`, each other passes `rest` or is one of `marks`.
fn fits(text: &str, max: usize, first: fn(&u8) -> bool, rest: fn(&u8) -> bool, marks: &[u8]) -> bool {
    let Some((begin, end)) = text.as_bytes().split_first() else { return false };
    text.len() <= max && first(begin) && end.iter().all(|b| rest(b) || marks.contains(b))
}

const ALPHANUMERIC: fn(&u8) -> bool = u8::is_ascii_alphanumeric;
const LOWERCASE: fn(&u8) -> bool = |b| b.is_ascii_lowercase() || b.is_ascii_digit();

name!(
    /// An account: its modules, tasks and jobs are invisible to others.
    TenantId, "tenant", "use 1-63 of a-z 0-9 _ -, starting with a letter or digit",
    |s| fits(s, 63, LOWERCASE, LOWERCASE, b"_-")
);
name!(
    /// A queue of a tenant.
    QueueName, "queue", "use 1-64 of A-Z a-z 0-9 _ . -, starting with a letter or digit",
    |s| fits(s, 64, ALPHANUMERIC, ALPHANUMERIC, b"_.-")
);
name!(
    /// A task of a tenant.
    TaskName, "task", "use 1-128 of A-Z a-z 0-9 _ . -, starting with a letter or _",
    |s| fits(s, 128, |b| b.is_ascii_alphabetic() || *b == b'_', ALPHANUMERIC, b"_.-")
);
name!(
    /// A schedule of a tenant.
    ScheduleName, "schedule", "use 1-100 of A-Z a-z 0-9 _ . -, starting with a letter or _",
    |s| fits(s, 100, |b| b.is_ascii_alphabetic() || *b == b'_', ALPHANUMERIC, b"_.-")
);
name!(
    /// One worker process, unique for its life: host name, process id and a random part.
    WorkerId, "worker", "use 1-128 of A-Z a-z 0-9 _ . -",
    |s| fits(s, 128, ALPHANUMERIC, ALPHANUMERIC, b"_.-")
);
name!(
    /// The right to settle one delivery. Random, compared on every write.
    Token, "token", "use 1-64 of A-Z a-z 0-9 _ -",
    |s| fits(s, 64, ALPHANUMERIC, ALPHANUMERIC, b"_-")
);

name!(
    /// A key-value bucket of a tenant, as permissions name it.
    BucketName, "bucket", "use 1-64 of A-Z a-z 0-9 _ . -, starting with a letter or digit",
    permission::is_name
);
name!(
    /// A secret of a tenant, as permissions name it.
    SecretName, "secret", "use 1-64 of A-Z a-z 0-9 _ . -, starting with a letter or digit",
    permission::is_name
);
name!(
    /// A key in a bucket: almost any text that users choose.
    KvKey, "key", "use 1-512 bytes of UTF-8 without control characters",
    |s| (1..=KvKey::MAX_BYTES).contains(&s.len()) && !s.chars().any(char::is_control)
);

name!(
    /// A configuration value of a tenant or a task.
    ConfigName, "configuration value", "use 1-64 of A-Z a-z 0-9 _ . -, starting with a letter or digit",
    permission::is_name
);

impl KvKey {
    pub const MAX_BYTES: usize = 512;
}

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}

/// One call of a task: a ULID, so ids sort by the time of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(ulid::Ulid);

as_text!(JobId);

impl JobId {
    /// From a time and 80 random bits.
    pub fn from_parts(at_ms: UnixMs, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(at_ms, random))
    }

    /// The 16 bytes of the id; they sort as the id does.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The id of those bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ulid::Ulid::from_bytes(bytes))
    }

    /// When the id was made, by the submitter's clock.
    pub fn timestamp_ms(&self) -> UnixMs {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        // Only the canonical spelling: one id has one name.
        match ulid::Ulid::from_str(s) {
            Ok(id) if id.to_string() == s => Ok(Self(id)),
            _ => {
                Err(InvalidName::new("job id", s, "use the 26 capital letters and digits that the submission answered"))
            }
        }
    }
}

/// The SHA-256 of a module's bytes as the user sent them, written `sha256:<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

as_text!(Digest);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hex digits, without the algorithm's name.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("digest", s, "write sha256: and 64 lower-case hex digits");
        let text = s.strip_prefix("sha256:").ok_or_else(invalid)?;
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }
}

/// A digest, or the beginning of one: at least `MIN_DIGITS` of its hex digits, with or without `sha256:` in front.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestPrefix(Box<str>);

as_text!(DigestPrefix);

impl DigestPrefix {
    /// Fewer digits name nothing: somebody mistyped.
    pub const MIN_DIGITS: usize = 8;

    /// The digest if all of its digits are there.
    pub fn whole(&self) -> Option<Digest> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DigestPrefix {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let digits = s.strip_prefix("sha256:").unwrap_or(s);
        let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && (Self::MIN_DIGITS..=64).contains(&digits.len()) {
            return Ok(Self(digits.into()));
        }
        Err(InvalidName::new(
            "digest",
            s,
            "write sha256: and its 64 lower-case hex digits, or the first 8 or more of them",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_eight_digits_of_a_digest_name_it() {
        let digest = Digest::of(b"x");
        let read = |text: &str| text.parse::<DigestPrefix>();
        for text in [digest.to_string(), digest.hex()] {
            assert_eq!(read(&text).unwrap().whole(), Some(digest));
        }
        let short = read(&digest.hex()[..8]).unwrap();
        assert_eq!((short.whole(), short.to_string()), (None, digest.to_string()[..15].to_owned()));
        for bad in ["", "sha256:", &digest.hex()[..7], "sha256:xxxxxxxx", &format!("{}0", digest.hex()), "ABCDEF01"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_could_leave_their_key_or_path_are_refused() {
        for bad in ["", "a/b", "a:b", "a b", "../x", "a\n", "é", "{x}", "a*"] {
            assert!(TenantId::new(bad).is_err(), "{bad:?}");
            assert!(QueueName::new(bad).is_err(), "{bad:?}");
            assert!(TaskName::new(bad).is_err(), "{bad:?}");
            assert!(ScheduleName::new(bad).is_err(), "{bad:?}");
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
        assert!(TaskName::new("a".repeat(129)).is_err());
        assert!(ScheduleName::new("a".repeat(101)).is_err());
    }

    #[test]
    fn a_key_is_any_short_text_without_control_characters() {
        for key in ["a", "orders/7", " ", "é,:{}*", &"x".repeat(KvKey::MAX_BYTES)] {
            assert_eq!(KvKey::new(key).unwrap().as_str(), key);
        }
        for key in ["", "a\nb", "\0", "a\u{85}", &"é".repeat(300)] {
            assert!(KvKey::new(key).is_err(), "{key:?}");
        }
        for bucket in ["", "*", "a b", "_a", "a,b", "a/b", &"x".repeat(65)] {
            assert!(BucketName::new(bucket).is_err(), "{bucket:?}");
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!(digest.hex().parse::<Digest>().is_err());
    }

    #[test]
    fn a_job_id_has_one_spelling_and_sorts_by_time() {
        let early = JobId::from_parts(1, u128::MAX);
        let late = JobId::from_parts(2, 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<JobId>(), Ok(early));
        assert!(early.to_string().to_lowercase().parse::<JobId>().is_err());
    }
}
