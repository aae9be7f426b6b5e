//! Puts the values of secrets in for their placeholders, in a request that goes to one of their hosts. Everything else that has a
//! placeholder is refused before a byte is sent.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use umbel_model::{SecretName, permission::HttpTarget};
use umbel_secrets::{MAX_SENT_BYTES, Sealed};
use zeroize::Zeroizing;

use crate::secrets::{
    attempt::{AttemptSecrets, BODY_BYTES, SecretError, lock, opened},
    net::{json, percent},
    placeholders::{PLACEHOLDER_BYTES, found_in},
};

/// The secrets that a request wants, sealed, by their placeholders.
#[derive(Default)]
pub(crate) struct Wanted(BTreeMap<String, Arc<Sealed>>);

/// How a value is written where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    AsItIs,
    Json,
    Form,
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields with the values put in, marked as sensitive: HTTP/2 keeps no such field in its tables. None: they are too large.
    pub(crate) fn put_into(&self, fields: &HeaderMap, max_bytes: usize) -> Result<Option<HeaderMap>, SecretError> {
        let (mut with, mut left) = (HeaderMap::with_capacity(fields.len()), max_bytes);
        for (name, value) in fields {
            let value = match self.field(value.as_bytes(), left)? {
                None => value.clone(),
                Some(text) => {
                    let mut value = HeaderValue::from_bytes(&text).map_err(|_| unusable())?;
                    value.set_sensitive(true);
                    value
                }
            };
            let bytes = name.as_str().len() + value.len() + 4;
            let Some(rest) = left.checked_sub(bytes) else { return Ok(None) };
            left = rest;
            with.append(name, value);
        }
        Ok(Some(with))
    }

    fn field(&self, value: &[u8], max_bytes: usize) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        if let Some(text) = self.put(value, Written::AsItIs, max_bytes)? {
            return Ok(Some(text));
        }
        let Some((scheme, text)) = basic(value) else { return Ok(None) };
        let Some(text) = self.put(&text, Written::AsItIs, max_bytes)? else { return Ok(None) };
        let mut with = Zeroizing::new(scheme.to_vec());
        with.extend_from_slice(Zeroizing::new(STANDARD.encode(&*text)).as_bytes());
        Ok(Some(with))
    }

    /// A body with the values put in; none: no placeholder is in it.
    pub(crate) fn put_into_body(&self, body: &[u8], how: Written) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        self.put(body, how, 2 * BODY_BYTES)
    }

    /// Bytes with the values put in; none: no placeholder is in them.
    fn put(&self, bytes: &[u8], how: Written, max_bytes: usize) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        let places: Vec<(usize, &Arc<Sealed>)> =
            found_in(bytes).filter_map(|(at, text)| Some((at, self.0.get(text)?))).collect();
        if places.is_empty() {
            return Ok(None);
        }
        // As large as it gets: no copy of a value is left behind by a buffer that grows.
        let longest = if how == Written::AsItIs { MAX_SENT_BYTES } else { 3 * MAX_SENT_BYTES };
        let room =
            bytes.len().saturating_add(places.len().saturating_mul(longest)).min(max_bytes.saturating_add(longest));
        let (mut out, mut from) = (Zeroizing::new(Vec::with_capacity(room)), 0);
        for (at, sealed) in places {
            let value = opened(sealed)?;
            out.extend_from_slice(&bytes[from..at]);
            match how {
                Written::AsItIs => out.extend_from_slice(value.bytes()),
                Written::Json => out.extend_from_slice(&json(value.bytes())),
                Written::Form => out.extend_from_slice(&percent(value.bytes())),
            }
            from = at + PLACEHOLDER_BYTES;
            if out.len() > max_bytes {
                return Err(SecretError::Limit(format!(
                    "with the secrets put in, it is larger than {max_bytes} bytes"
                )));
            }
        }
        out.extend_from_slice(&bytes[from..]);
        Ok(Some(out))
    }
}

fn unusable() -> SecretError {
    SecretError::Unavailable("the value cannot be put into a header".into())
}

/// The credentials of `Basic`, decoded, and what stands before them.
fn basic(value: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let text = scheme.eq_ignore_ascii_case(b"basic ").then(|| STANDARD.decode(rest.trim_ascii()).ok()).flatten()?;
    Some((scheme, text))
}

/// The placeholders in a field, also within basic credentials.
fn in_field(value: &[u8]) -> Vec<String> {
    let all_in = |bytes: &[u8]| -> Vec<String> { found_in(bytes).map(|(_, text)| text.to_owned()).collect() };
    match all_in(value) {
        none if none.is_empty() => basic(value).map(|(_, text)| all_in(&text)).unwrap_or_default(),
        some => some,
    }
}

/// Whether the body of a request with these fields is searched, and how values are written there: text, as it is.
pub(crate) fn is_searched(fields: &HeaderMap) -> Option<Written> {
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !fields.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return None;
    }
    let text = fields.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/x-www-form-urlencoded" => Some(Written::Form),
        "application/json" => Some(Written::Json),
        kind if kind.starts_with("application/") && kind.ends_with("+json") => Some(Written::Json),
        kind if kind.starts_with("text/") => Some(Written::AsItIs),
        _ => None,
    }
}

impl AttemptSecrets {
    /// The secrets whose placeholders are in the head of a request. An error: one must not go there. Opens nothing.
    pub(crate) async fn wanted_by_head(
        &self,
        url: &str,
        fields: &HeaderMap,
        target: &HttpTarget<'_>,
    ) -> Result<Wanted, SecretError> {
        if let Some((_, text)) = found_in(url.as_bytes()).next() {
            let name = self.named(text)?;
            let text = format!("the secret `{name}` is in the URL, where logs keep it: put it into a header");
            return Err(SecretError::NotAllowed(text));
        }
        let mut wanted = Wanted::default();
        for value in fields.values() {
            for text in in_field(value.as_bytes()) {
                self.want(&mut wanted, &text, target, false).await?;
            }
        }
        Ok(wanted)
    }

    /// The same of a body. A secret that is not for bodies is refused, too: what was meant would not arrive.
    pub(crate) async fn wanted_by_body(&self, body: &[u8], target: &HttpTarget<'_>) -> Result<Wanted, SecretError> {
        let mut wanted = Wanted::default();
        for (_, text) in found_in(body) {
            self.want(&mut wanted, text, target, true).await?;
        }
        Ok(wanted)
    }

    /// Asks again for secrets that were put into a body a while ago. An error, too, when a value is another one by now.
    pub(crate) async fn check_again(&self, put: &Wanted, target: &HttpTarget<'_>) -> Result<(), SecretError> {
        let mut now = Wanted::default();
        for (placeholder, before) in &put.0 {
            self.want(&mut now, placeholder, target, true).await?;
            if !now.0.get(placeholder).is_some_and(|sealed| sealed.has_value_of(before)) {
                let text =
                    format!("the secret `{}` was set anew while the request waited: send it again", before.name());
                return Err(SecretError::Unavailable(text));
            }
        }
        Ok(())
    }

    async fn want(
        &self,
        wanted: &mut Wanted,
        placeholder: &str,
        target: &HttpTarget<'_>,
        body: bool,
    ) -> Result<(), SecretError> {
        if wanted.0.contains_key(placeholder) {
            return Ok(());
        }
        let name = self.named(placeholder)?;
        let sealed = self.find(&name, false).await?;
        if !sealed.is_for(target) {
            let (scheme, host, port) = (target.scheme.as_str(), target.host, target.port);
            let text = format!(
                "the secret `{name}` may not be sent to {scheme}://{host}:{port}: it was set for {}",
                hosts(&sealed)
            );
            return Err(SecretError::NotAllowed(text));
        }
        if body && !sealed.terms().body {
            let text = format!("the secret `{name}` may not be put into a body: set it with `--body`");
            return Err(SecretError::NotAllowed(text));
        }
        self.note_used(&sealed)?;
        wanted.0.insert(placeholder.to_owned(), sealed);
        Ok(())
    }

    /// The secret of a placeholder of this attempt.
    fn named(&self, placeholder: &str) -> Result<SecretName, SecretError> {
        lock(&self.placeholders).name(placeholder).cloned().ok_or_else(|| {
            let text = "a placeholder in the request is not of this attempt: ask for a new one in each";
            SecretError::NotAllowed(text.to_owned())
        })
    }

    /// Whether some secret may be put into a body.
    pub(crate) fn searches_bodies(&self) -> bool {
        self.body_bytes() > 0
    }
}

fn hosts(sealed: &Sealed) -> String {
    let hosts: Vec<String> = sealed.terms().hosts.iter().map(ToString::to_string).collect();
    if hosts.is_empty() { "no host".to_owned() } else { hosts.join(", ") }
}

#[cfg(test)]
mod tests {
    use umbel_model::permission::{Host, Scheme};

    use super::*;
    use crate::secrets::tests::{name, secrets};

    const GIVEN: (&str, &str, &[&str], bool, bool) = ("key", "the \"value\"", &["a.test"], true, false);

    async fn wanted(attempt: &AttemptSecrets, url: &str, fields: &HeaderMap, host: &str) -> Result<Wanted, String> {
        let host = Host::parse(host).unwrap();
        let target = HttpTarget { method: "GET", scheme: Scheme::Https, host: &host, port: 443, path: "/" };
        attempt.wanted_by_head(url, fields, &target).await.map_err(|error| error.to_string())
    }

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn a_value_is_put_into_headers_also_within_basic_credentials() {
        let attempt = secrets(&[GIVEN], &["secret key"]);
        let text = attempt.placeholder(&name("key")).await.unwrap();
        let credentials = format!("Basic {}", STANDARD.encode(format!("user:{text}")));
        let given = fields(&[("x-key", &format!("a {text} b")), ("authorization", &credentials), ("accept", "*/*")]);
        let wanted = wanted(&attempt, "/", &given, "a.test").await.unwrap();
        let with = wanted.put_into(&given, 1_000).unwrap().unwrap();
        assert_eq!(with["x-key"], "a the \"value\" b");
        assert_eq!(with["authorization"], format!("Basic {}", STANDARD.encode("user:the \"value\"")));
        assert!(with["x-key"].is_sensitive() && with["authorization"].is_sensitive() && !with["accept"].is_sensitive());
        assert!(wanted.put_into(&given, 50).unwrap().is_none());
        assert_eq!(attempt.caught("the \"value\""), "[secret key]");
    }

    #[tokio::test]
    async fn a_secret_for_another_host_or_in_a_url_or_of_another_attempt_is_refused() {
        let attempt = secrets(&[GIVEN], &["secret key"]);
        let text = attempt.placeholder(&name("key")).await.unwrap();
        let given = fields(&[("x-key", &text)]);
        let says = async |url: &str, given: &HeaderMap, host: &str| {
            wanted(&attempt, url, given, host).await.map(drop).unwrap_err()
        };
        assert!(says("/", &given, "evil.test").await.contains("`key` may not be sent to https://evil.test:443"));
        assert!(says(&format!("/?q={text}"), &HeaderMap::new(), "a.test").await.contains("in the URL"));
        let other = text.replace(&text[20..], &"x".repeat(text.len() - 20));
        assert!(says("/", &fields(&[("x-key", &other)]), "a.test").await.contains("not of this attempt"));
        // Nothing was used, so nothing is searched for.
        assert_eq!(attempt.search_bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_has_the_value_as_its_type_writes_it() {
        let attempt = secrets(&[GIVEN], &["secret key"]);
        let text = attempt.placeholder(&name("key")).await.unwrap();
        let host = Host::parse("a.test").unwrap();
        let target = HttpTarget { method: "POST", scheme: Scheme::Https, host: &host, port: 443, path: "/" };
        let body = format!("[{text}]");
        let wanted = attempt.wanted_by_body(body.as_bytes(), &target).await.unwrap();
        for (kind, with) in [
            ("text/plain; charset=utf-8", Some("[the \"value\"]")),
            ("application/json", Some("[the \\\"value\\\"]")),
            ("application/problem+json", Some("[the \\\"value\\\"]")),
            ("application/x-www-form-urlencoded", Some("[the%20%22value%22]")),
            ("application/octet-stream", None),
        ] {
            let how = is_searched(&fields(&[("content-type", kind)]));
            let put = how.map(|how| wanted.put_into_body(body.as_bytes(), how).unwrap().unwrap().to_vec());
            assert_eq!(put.as_deref(), with.map(str::as_bytes), "{kind}");
        }
        assert!(is_searched(&fields(&[("content-type", "text/plain"), ("content-encoding", "gzip")])).is_none());
    }
}
