//! Reads where a request goes. What can be read in two ways is refused.

use http::{Method, Uri};
use umbel_model::permission::{Host, HttpTarget, Scheme};

use crate::http::error::HttpError;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// Begins with `/`, or is `*` for OPTIONS.
    pub(crate) path_and_query: String,
}

impl Target {
    pub(crate) fn read(method: &Method, uri: &Uri, max_bytes: usize) -> Result<Self, HttpError> {
        // These two are about connections and proxies, not about the resource.
        for refused in ["CONNECT", "TRACE", "TRACK"] {
            if method.as_str().eq_ignore_ascii_case(refused) {
                return Err(HttpError::Method(refused));
            }
        }
        let invalid = |text: &str| HttpError::InvalidUrl(text.to_owned());
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(invalid("use https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?.as_str();
        if authority.contains('@') {
            return Err(invalid("it has a user or a password before an `@`; send them in the header `authorization`"));
        }
        let (host, port) = split_port(authority);
        let host = Host::parse(host).map_err(|e| HttpError::InvalidUrl(HttpError::text(e)))?;
        let port = match port {
            None => scheme.default_port(),
            Some(digits) => digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| digits.parse().ok())
                .flatten()
                .filter(|port| *port > 0)
                .ok_or_else(|| invalid("its port is not a number from 1 to 65535"))?,
        };
        let path_and_query = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path if path.starts_with('/') => path.to_owned(),
            _ => return Err(invalid("its path does not begin with `/`")),
        };
        if path_and_query.len() > max_bytes {
            return Err(HttpError::UrlTooLong(max_bytes));
        }
        // Visible ASCII only: what else is in it must be percent-encoded.
        if !path_and_query.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(invalid("its path or query has characters that must be percent-encoded"));
        }
        Ok(Self { scheme, host, port, path_and_query })
    }

    pub(crate) fn rule_target<'a>(&'a self, method: &'a str) -> HttpTarget<'a> {
        let path = self.path_and_query.split('?').next().unwrap_or("/");
        HttpTarget { method, scheme: self.scheme, host: &self.host, port: self.port, path }
    }

    /// The value of `Host`, which names the port only where it is not the scheme's.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The host and the port; colons within brackets are the address's.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_address..].find(':') {
        Some(at) => (&authority[..after_address + at], Some(&authority[after_address + at + 1..])),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Result<Target, HttpError> {
        Target::read(&Method::GET, &uri.parse().unwrap_or_else(|e| panic!("{uri}: {e}")), 100)
    }

    #[test]
    fn a_url_has_one_target() {
        for (uri, authority, path) in [
            ("https://Example.COM./a?b", "example.com", "/a?b"),
            ("https://example.com:443", "example.com", "/"),
            ("http://example.com:443/", "example.com:443", "/"),
            ("https://[0:0::1]:8443/", "[::1]:8443", "/"),
            ("https://example.com?q", "example.com", "/?q"),
        ] {
            let target = read(uri).unwrap();
            assert_eq!((target.authority().as_str(), target.path_and_query.as_str()), (authority, path), "{uri}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for uri in [
            "ftp://example.com/",
            "/only/a/path",
            "https://user@example.com/",
            "https://example.com@127.0.0.1/",
            "https://user:password@example.com/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:/",
            "https://a..b/",
            "https://%6cocalhost/",
        ] {
            let Ok(parsed) = uri.parse::<Uri>() else { continue };
            assert!(Target::read(&Method::GET, &parsed, 100).is_err(), "{uri} {parsed:?}");
        }
        let long = format!("https://example.com/{}", "a".repeat(100));
        assert_eq!(read(&long), Err(HttpError::UrlTooLong(100)));
    }

    #[test]
    fn methods_about_connections_are_refused() {
        let uri: Uri = "https://example.com/".parse().unwrap();
        for method in ["CONNECT", "TRACE", "connect", "Trace"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert!(matches!(Target::read(&method, &uri, 100), Err(HttpError::Method(_))), "{method}");
        }
    }
}
