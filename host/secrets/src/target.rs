//! Where a secret may be sent: a scheme, a host and a port.

use std::{fmt, str::FromStr};

use umbel_model::{Permission, permission::HttpTarget};

use crate::{Error, Result};

/// The longest one, bytes.
const MAX_BYTES: usize = 300;

/// A host that gets a secret: `api.example.com`, `*.example.com`, `https://api.example.com:8443` or `http://127.0.0.1:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHost(Permission);

impl FromStr for SecretHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            let shown: String = text.chars().take(128).collect();
            Error::Invalid(format!("the host {shown:?}: {problem}"))
        };
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let authority = url.split_once("://").map_or("", |(_, rest)| rest.strip_suffix('/').unwrap_or(rest));
        if text.len() > MAX_BYTES || authority.contains('/') || text.contains(char::is_whitespace) {
            return Err(invalid("write a host such as `api.example.com`, without a path"));
        }
        if authority.split(':').next() == Some("*") {
            return Err(invalid("name the host, or one that it is below: `*.example.com`"));
        }
        let rule = format!("http {url}").parse::<Permission>().map_err(|e| invalid(&e.problem))?;
        Ok(Self(rule))
    }
}

impl SecretHost {
    /// Whether a request goes there.
    pub fn is_of(&self, target: &HttpTarget<'_>) -> bool {
        matches!(&self.0, Permission::Http(rule) if rule.allows(target))
    }
}

/// With its scheme, without a path.
impl fmt::Display for SecretHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let url = text.strip_prefix("http ").unwrap_or(&text);
        f.write_str(url.strip_suffix('/').unwrap_or(url))
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::permission::{Host, Scheme};

    use super::*;

    fn host(text: &str) -> SecretHost {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_host_is_https_unless_it_says_otherwise_and_has_one_spelling() {
        for (given, shown) in [
            ("api.Example.com", "https://api.example.com"),
            ("*.example.com:8443", "https://*.example.com:8443"),
            ("https://api.example.com:443/", "https://api.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(host(given).to_string(), shown);
            assert_eq!(host(shown), host(given));
        }
        for wrong in
            ["", "*", "*:443", "https://*", "a/b", "https://a/b", "ftp://a", "a b", "u@a", "a?x", "GET https://a"]
        {
            assert!(wrong.parse::<SecretHost>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn scheme_host_and_port_must_be_those() {
        let is_of = |rule: &str, scheme, name: &str, port| {
            let name = Host::parse(name).unwrap();
            host(rule).is_of(&HttpTarget { method: "GET", scheme, host: &name, port, path: "/any//../path" })
        };
        assert!(is_of("a.test", Scheme::Https, "a.test", 443));
        assert!(!is_of("a.test", Scheme::Http, "a.test", 443) && !is_of("a.test", Scheme::Https, "a.test", 444));
        assert!(!is_of("a.test", Scheme::Https, "b.a.test", 443) && is_of("*.a.test", Scheme::Https, "b.a.test", 443));
    }
}
