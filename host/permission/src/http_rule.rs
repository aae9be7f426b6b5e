//! Rules of outgoing HTTP requests: methods, scheme, host, port and the beginning of a path.

use std::fmt;

use crate::host::Host;

/// A request, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct HttpTarget<'a> {
    /// In upper case.
    pub method: &'a str,
    pub scheme: Scheme,
    pub host: &'a Host,
    pub port: u16,
    /// The path of the URL as it is sent, without the query.
    pub path: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// Which requests may be made: `GET,POST https://*.example.com:8443/v1/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpRule {
    /// In upper case, each once, in order; empty: all.
    methods: Vec<String>,
    scheme: Scheme,
    host: HostPattern,
    /// None: all.
    port: Option<u16>,
    /// Begins with `/`.
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum HostPattern {
    All,
    /// Names below this one, at any depth, and not the name itself.
    Below(String),
    One(Host),
}

/// The longest name of a method, bytes.
const MAX_METHOD_BYTES: usize = 20;
const MAX_METHODS: usize = 16;

impl HttpRule {
    /// Reads the methods, with commas between them (none: all), and the URL. `*` is each host, `*.name` each one below a name,
    /// and the port `*` each port.
    pub(super) fn parse(methods: Option<&str>, url: &str) -> Result<Self, String> {
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            _ => return Err("begin the URL with https:// (or http://, which nobody encrypts)".into()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL with a user or a password is not matched: leave out what is before the `@`".into());
        }
        if authority.contains(['?', '#']) || path.contains(['?', '#']) {
            return Err("queries are not matched: leave out what begins with `?` or `#`".into());
        }
        let path = if path.is_empty() { "/" } else { path };
        if !is_plain(path) {
            return Err("write the path without `..`, `//`, `\\`, percent signs and asterisks".into());
        }
        let (host, port) = split_port(authority);
        let port = match port {
            None => Some(scheme.default_port()),
            Some("*") => None,
            Some(number) => {
                let number = number.parse().ok().filter(|number| *number > 0);
                Some(number.ok_or("a port is a number from 1 to 65535, or `*` for all")?)
            }
        };
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => HostPattern::All,
            None => HostPattern::One(Host::parse(host).map_err(|e| e.to_string())?),
            Some(name) => match Host::parse(name).map_err(|e| e.to_string())? {
                Host::Name(name) => HostPattern::Below(name),
                Host::Address(_) => return Err("`*.` stands before a name, and this is an address".into()),
            },
        };
        Ok(Self { methods: read_methods(methods)?, scheme, host, port, path: path.to_owned() })
    }

    /// Whether a request may be made. Where the rule has a path, a target with dots or escapes that a server could read as
    /// another path is not allowed.
    pub fn allows(&self, target: &HttpTarget<'_>) -> bool {
        self.scheme == target.scheme
            && self.port.is_none_or(|port| port == target.port)
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == target.method))
            && self.host.is_of(target.host)
            && (self.path == "/" || is_unambiguous(target.path) && begins_with(target.path, &self.path))
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        let has_methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method));
        has_methods
            && self.scheme == other.scheme
            && (self.port.is_none() || self.port == other.port)
            && self.host.covers(&other.host)
            && (self.path == "/" || begins_with(&other.path, &self.path))
    }
}

fn read_methods(text: Option<&str>) -> Result<Vec<String>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let mut methods: Vec<String> = text.split(',').map(str::to_ascii_uppercase).collect();
    let is_method = |m: &String| (1..=MAX_METHOD_BYTES).contains(&m.len()) && m.bytes().all(|b| b.is_ascii_uppercase());
    if !methods.iter().all(is_method) {
        return Err(format!("{text:?} is not a list of methods: write them with commas and no spaces, `GET,POST`"));
    }
    methods.sort();
    methods.dedup();
    if methods.len() > MAX_METHODS {
        return Err(format!("it names more than {MAX_METHODS} methods; name none for all"));
    }
    Ok(methods)
}

/// The host and the port of an authority; colons within brackets are the address's.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_address..].find(':') {
        Some(at) => (&authority[..after_address + at], Some(&authority[after_address + at + 1..])),
        None => (authority, None),
    }
}

/// Whether a path is one that every server reads in the same way.
fn is_unambiguous(path: &str) -> bool {
    let is_dots = |segment: &str| {
        // A server may take `;` and what follows for parameters, and decode dots and slashes.
        let segment = segment.split(';').next().unwrap_or_default().replace("%2e", ".").replace("%2E", ".");
        segment == "." || segment == ".."
    };
    let lower = path.to_ascii_lowercase();
    !path.contains("//")
        && !path.contains('\\')
        && !lower.contains("%2f")
        && !lower.contains("%5c")
        && !lower.contains("%25")
        && !path.split('/').any(is_dots)
}

/// Whether a path of a rule can be taken as it is.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_graphic() && b != b'%' && b != b'*') && is_unambiguous(path)
}

/// Whether `path` is `beginning`, or below it: `/v1` has `/v1/x` and not `/v10`.
fn begins_with(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || beginning.ends_with('/'))
}

impl HostPattern {
    fn is_of(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::One(one), host) => one == host,
            (Self::Below(above), Host::Name(name)) => is_below(name, above),
            (Self::Below(_), Host::Address(_)) => false,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => false,
            (Self::Below(mine), Self::Below(theirs)) => mine == theirs || is_below(theirs, mine),
            (Self::One(_), Self::Below(_)) => false,
            (_, Self::One(host)) => self.is_of(host),
        }
    }
}

fn is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            write!(f, "{} ", self.methods.join(","))?;
        }
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.host {
            HostPattern::All => f.write_str("*")?,
            HostPattern::Below(name) => write!(f, "*.{name}")?,
            HostPattern::One(host) => host.fmt(f)?,
        }
        match self.port {
            None => f.write_str(":*")?,
            Some(port) if port == self.scheme.default_port() => {}
            Some(port) => write!(f, ":{port}")?,
        }
        f.write_str(&self.path)
    }
}

impl fmt::Display for HttpTarget<'_> {
    /// The narrowest rule that allows it: the text to paste.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http {} {}://{}", self.method, self.scheme.as_str(), self.host)?;
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Permission;

    fn allows(rule: &str, request: &str) -> bool {
        let Permission::Http(rule) = format!("http {rule}").parse().unwrap_or_else(|e| panic!("{e}")) else { panic!() };
        let (method, url) = request.split_once(' ').unwrap();
        let (scheme, rest) = url.split_once("://").unwrap();
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let (authority, path) = rest.split_at(rest.find('/').unwrap());
        let (host, port) = split_port(authority);
        let host = Host::parse(host).unwrap();
        let port = port.map_or(scheme.default_port(), |port| port.parse().unwrap());
        rule.allows(&HttpTarget { method, scheme, host: &host, port, path })
    }

    #[test]
    fn a_rule_matches_the_host_as_a_whole() {
        assert!(allows("https://api.example.com", "GET https://API.example.com./x"));
        for other in ["example.com", "api.example.com.evil.org", "xapi.example.com", "api.example.co", "127.0.0.1"] {
            assert!(!allows("https://api.example.com", &format!("GET https://{other}/")), "{other}");
        }
        assert!(allows("https://*.example.com", "GET https://a.b.example.com/"));
        for other in ["example.com", "notexample.com", "example.com.evil.org"] {
            assert!(!allows("https://*.example.com", &format!("GET https://{other}/")), "{other}");
        }
        assert!(allows("https://*", "GET https://[::1]/"));
        assert!(allows("https://[0:0::1]", "GET https://[::1]/"));
        assert!(!allows("https://[::1]", "GET https://[::2]/"));
    }

    #[test]
    fn a_rule_matches_scheme_port_and_method() {
        assert!(!allows("https://a", "GET http://a/"));
        assert!(!allows("https://a", "GET https://a:8443/"));
        assert!(allows("https://a:*", "GET https://a:8443/"));
        assert!(allows("http://a", "GET http://a:80/"));
        assert!(allows("get,post https://a", "POST https://a/"));
        assert!(!allows("GET https://a", "DELETE https://a/"));
    }

    #[test]
    fn a_rule_with_a_path_matches_whole_segments_and_nothing_that_leads_out_of_it() {
        for path in ["/v1", "/v1/", "/v1/x/y"] {
            assert!(allows("https://a/v1", &format!("GET https://a{path}")), "{path}");
        }
        for path in [
            "/",
            "/v10",
            "/V1",
            "/v1/../admin",
            "/v1/%2e%2E/admin",
            "/v1/.%2e/admin",
            "/v1/..;x/admin",
            "/v1/..%2fadmin",
            "/v1/x%5c..%5cadmin",
            "/v1/\\..\\admin",
            "/v1//admin",
            "/v1/%252e%252e/admin",
            "//v1/",
            "/./v1",
        ] {
            assert!(!allows("https://a/v1", &format!("GET https://a{path}")), "{path}");
        }
        assert!(allows("https://a/v1/", "GET https://a/v1/x"));
        assert!(!allows("https://a/v1/", "GET https://a/v1"));
        assert!(allows("https://a", "GET https://a/x/../y"));
    }

    #[test]
    fn a_rule_that_means_less_than_it_says_is_refused() {
        for url in [
            "a.example.com",
            "ws://a",
            "https://",
            "https://u@a",
            "https://u:p@a/",
            "https://a?x",
            "https://a/x?y=1",
            "https://a/#f",
            "https://a:0",
            "https://a:65536",
            "https://a:",
            "https://a*",
            "https://*a",
            "https://a.*",
            "https://*.1.2.3.4",
            "https://a/../b",
            "https://a/%61",
            "https://a/*",
            "https://[::1",
            "https://127.1",
            "https://a:b:1",
        ] {
            assert!(HttpRule::parse(None, url).is_err(), "{url} {:?}", HttpRule::parse(None, url));
        }
        for methods in ["", "GET,", "GET POST", "G\u{cb}T", "*"] {
            assert!(HttpRule::parse(Some(methods), "https://a").is_err(), "{methods:?}");
        }
    }

    #[test]
    fn the_text_of_a_target_is_a_rule_that_allows_it() {
        let host = Host::parse("[::1]").unwrap();
        let target = HttpTarget { method: "PUT", scheme: Scheme::Http, host: &host, port: 8080, path: "/a/../b" };
        let Permission::Http(rule) = target.to_string().parse().unwrap() else { panic!() };
        assert_eq!(target.to_string(), "http PUT http://[::1]:8080/");
        assert!(rule.allows(&target));
    }
}
