//! Permissions: what a module asks for, what people grant, and what a call of a guest needs, all in one line of text each.
//!
//! ```text
//! http GET,POST https://api.example.com/v1/
//! secret api_key
//! secret signing_key reveal
//! kv cursors read
//! blob
//! network 10.0.0.0/8
//! ```
//!
//! A list of permissions is a union: what one of them allows is allowed, and an empty list allows nothing.

mod host;
mod http_rule;
#[cfg(feature = "serde")]
mod json;
mod network;

use std::{fmt, str::FromStr};

pub use host::{Host, InvalidHost};
pub use http_rule::{HttpRule, HttpTarget, Scheme};
pub use network::Network;

/// Permissions of one list.
pub const MAX_PERMISSIONS: usize = 128;
/// One permission, bytes of its text.
pub const MAX_PERMISSION_BYTES: usize = 1_024;
/// The longest name of a secret, a bucket or a configuration value, bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// One thing that a guest may reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Outgoing HTTP requests that a rule matches.
    Http(HttpRule),
    /// A secret of the tenant. The guest gets a placeholder, for which the host puts the value in; `reveal`: the value.
    Secret { name: String, reveal: bool },
    /// A key-value bucket of the tenant. `*`: each of them.
    Kv { bucket: String, access: Access },
    /// The blobs of the tenant.
    Blob { access: Access },
    /// Addresses that outgoing requests never reach otherwise, such as private ones. Only operators can grant it.
    Network(Network),
}

/// What may be done with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    Read,
    /// Reading and writing.
    Write,
}

/// Why a text is no permission: what is wrong and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("permission {shown:?}: {problem}")]
pub struct InvalidPermission {
    /// The first 128 characters of what was given.
    pub shown: String,
    pub problem: String,
}

impl Permission {
    /// Whether everything that `other` allows is allowed by this one.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(mine), Self::Http(theirs)) => mine.covers(theirs),
            (Self::Secret { name, reveal }, Self::Secret { name: theirs, reveal: revealed }) => {
                (name == theirs || name == "*") && (*reveal || !revealed)
            }
            (Self::Kv { bucket, access }, Self::Kv { bucket: theirs, access: asked }) => {
                (bucket == theirs || bucket == "*") && access >= asked
            }
            (Self::Blob { access }, Self::Blob { access: asked }) => access >= asked,
            (Self::Network(mine), Self::Network(theirs)) => mine.covers(theirs),
            _ => false,
        }
    }

    /// Whether only an operator can grant it.
    pub fn is_operators(&self) -> bool {
        matches!(self, Self::Network(_))
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(rule) => write!(f, "http {rule}"),
            Self::Secret { name, reveal } => write!(f, "secret {name}{}", if *reveal { " reveal" } else { "" }),
            Self::Kv { bucket, access } => write!(f, "kv {bucket}{}", access.suffix()),
            Self::Blob { access } => write!(f, "blob{}", access.suffix()),
            Self::Network(network) => write!(f, "network {network}"),
        }
    }
}

impl Access {
    fn suffix(self) -> &'static str {
        match self {
            Self::Read => " read",
            Self::Write => "",
        }
    }

    fn parse(word: Option<&str>) -> Result<Self, String> {
        match word {
            None => Ok(Self::Write),
            Some("read") => Ok(Self::Read),
            Some(other) => Err(format!("write `read`, or nothing for reading and writing; this is {other:?}")),
        }
    }
}

impl FromStr for Permission {
    type Err = InvalidPermission;

    fn from_str(text: &str) -> Result<Self, InvalidPermission> {
        parse(text).map_err(|problem| InvalidPermission { shown: text.chars().take(128).collect(), problem })
    }
}

fn parse(text: &str) -> Result<Permission, String> {
    if text.len() > MAX_PERMISSION_BYTES {
        return Err(format!("it is longer than {MAX_PERMISSION_BYTES} bytes"));
    }
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let permission = match (kind, words.as_slice()) {
        ("http", [url]) => Permission::Http(HttpRule::parse(None, url)?),
        ("http", [methods, url]) => Permission::Http(HttpRule::parse(Some(methods), url)?),
        ("http", _) => {
            return Err("write `http https://host/path`, with methods before the URL if not all: `GET,POST`".into());
        }
        ("secret", [secret]) => Permission::Secret { name: name(secret, true)?, reveal: false },
        ("secret", [secret, "reveal"]) => Permission::Secret { name: name(secret, true)?, reveal: true },
        ("secret", _) => return Err("write `secret NAME` or `secret NAME reveal`".into()),
        ("kv", [bucket, rest @ ..]) if rest.len() < 2 => {
            Permission::Kv { bucket: name(bucket, true)?, access: Access::parse(rest.first().copied())? }
        }
        ("kv", _) => return Err("write `kv BUCKET` or `kv BUCKET read`".into()),
        ("blob", rest) if rest.len() < 2 => Permission::Blob { access: Access::parse(rest.first().copied())? },
        ("blob", _) => return Err("write `blob` or `blob read`".into()),
        ("network", [network]) => Permission::Network(network.parse()?),
        ("network", _) => return Err("write `network ADDRESS/BITS`, such as `network 10.0.0.0/8`".into()),
        _ => return Err("begin it with `http`, `secret`, `kv`, `blob` or `network`".into()),
    };
    Ok(permission)
}

/// A name of a secret or bucket, or `*` where `all` may be named.
fn name(text: &str, all: bool) -> Result<String, String> {
    let is_name = all && text == "*" || is_name(text);
    let rule =
        format!("{text:?} is not a name: use 1-{MAX_NAME_BYTES} of A-Z a-z 0-9 _ . -, starting with a letter or digit");
    is_name.then(|| text.to_owned()).ok_or(rule)
}

/// Whether a text names a secret, a bucket or a configuration value.
pub fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= MAX_NAME_BYTES
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(is_inner)
}

/// A union of permissions, without those that others of it cover. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Vec<Permission>"))]
pub struct Permissions(Vec<Permission>);

impl Permissions {
    /// At most `MAX_PERMISSIONS`, without those that others cover; in the order given.
    pub fn new(given: impl IntoIterator<Item = Permission>) -> Result<Self, String> {
        let mut kept: Vec<Permission> = Vec::new();
        for permission in given {
            if kept.iter().any(|other| other.covers(&permission)) {
                continue;
            }
            kept.retain(|other| !permission.covers(other));
            kept.push(permission);
            if kept.len() > MAX_PERMISSIONS {
                return Err(format!("there are more than {MAX_PERMISSIONS} permissions"));
            }
        }
        Ok(Self(kept))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Permission> {
        self.0.iter()
    }

    /// Whether one of them covers `permission`. What only several of them together allow is not covered.
    pub fn covers(&self, permission: &Permission) -> bool {
        self.0.iter().any(|mine| mine.covers(permission))
    }

    /// Those of `asked` that are not covered.
    pub fn missing<'a>(&'a self, asked: &'a Self) -> impl Iterator<Item = &'a Permission> {
        asked.iter().filter(|permission| !self.covers(permission))
    }

    /// Whether a request may be made. Which addresses it may be sent to is asked of the networks.
    pub fn allow_http(&self, target: &HttpTarget<'_>) -> bool {
        self.0.iter().any(|permission| matches!(permission, Permission::Http(rule) if rule.allows(target)))
    }

    /// Networks that requests may reach although they are not public.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.0.iter().filter_map(|permission| match permission {
            Permission::Network(network) => Some(network),
            _ => None,
        })
    }
}

impl TryFrom<Vec<Permission>> for Permissions {
    type Error = String;

    fn try_from(given: Vec<Permission>) -> Result<Self, String> {
        Self::new(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(text: &str) -> Permission {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_permission_is_the_text_that_it_was_read_from() {
        for text in [
            "http https://api.example.com/",
            "http GET,POST https://*.example.com:8443/v1/",
            "http http://127.0.0.1:*/",
            "http https://*/",
            "secret api_key",
            "secret api_key reveal",
            "kv *",
            "kv cursors read",
            "blob",
            "blob read",
            "network 10.0.0.0/8",
            "network fd00::/8",
        ] {
            assert_eq!(permission(text).to_string(), text);
        }
        assert_eq!(
            permission("  http   get   HTTPS://API.Example.com.:443 ").to_string(),
            "http GET https://api.example.com/"
        );
    }

    #[test]
    fn a_text_that_is_no_permission_is_told_what_to_write() {
        for (text, says) in [
            ("", "begin it with"),
            ("https://api.example.com", "begin it with"),
            ("http", "write `http https://host/path`"),
            ("http GET POST https://a", "write `http https://host/path`"),
            ("http ftp://a", "https://"),
            ("secret", "write `secret NAME`"),
            ("secret api key", "write `secret NAME`"),
            ("secret ../x", "is not a name"),
            ("kv a write", "write `read`"),
            ("blob a b", "write `blob`"),
            ("network 10.0.0.0", "10.0.0.0/8"),
            ("network 10.0.0.1/8", "10.0.0.0/8"),
        ] {
            let said = text.parse::<Permission>().unwrap_err().to_string();
            assert!(said.contains(says), "{text:?}: {said}");
        }
    }

    #[test]
    fn a_wider_permission_covers_a_narrower_one_and_not_the_other_way() {
        for (wide, narrow) in [
            ("http https://*.example.com", "http GET https://api.example.com/v1/"),
            ("http https://a:*", "http https://a:8443/"),
            ("secret a reveal", "secret a"),
            ("secret * reveal", "secret b"),
            ("kv a", "kv a read"),
            ("kv *", "kv a"),
            ("blob", "blob read"),
            ("network 10.0.0.0/8", "network 10.1.0.0/16"),
        ] {
            assert!(permission(wide).covers(&permission(narrow)), "{wide} covers {narrow}");
            assert!(!permission(narrow).covers(&permission(wide)), "{narrow} does not cover {wide}");
        }
        assert!(!permission("kv a").covers(&permission("secret a")));
    }

    #[test]
    fn a_list_keeps_no_permission_that_another_covers_and_says_what_is_missing() {
        let of = |texts: &[&str]| Permissions::new(texts.iter().map(|text| permission(text))).unwrap();
        let granted = of(&["kv a read", "http GET https://a/x", "kv a", "http https://a"]);
        assert_eq!(granted, of(&["kv a", "http https://a"]));
        let asked = of(&["kv a", "kv b", "http POST https://a/y", "secret s"]);
        let missing: Vec<String> = granted.missing(&asked).map(ToString::to_string).collect();
        assert_eq!(missing, ["kv b", "secret s"]);
        let many = (0..=MAX_PERMISSIONS).map(|n| permission(&format!("kv b{n}")));
        assert!(Permissions::new(many).is_err());
        assert_eq!(serde_json::to_string(&granted).unwrap(), r#"["kv a","http https://a/"]"#);
        assert!(serde_json::from_str::<Permissions>(r#"["kv"]"#).is_err());
    }
}
