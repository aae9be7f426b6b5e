//! Bearer tokens: `umbel_<32 random base62><crc32 in base62>`.
//!
//! Only a token's SHA-256 is stored, as the name of a document, so what is compared by the store is a hash of a secret
//! and never the secret. The checksum refuses typos and noise without asking the broker.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use umbel_broker::{Broker, DocumentKind, DocumentPut, Expect};
use umbel_bulk::system_tenant;
use umbel_model::TenantId;

use crate::{
    Error,
    problem::{Problem, Result},
    records,
    time::Timestamp,
};

const PREFIX: &str = "umbel_";
/// 32 base62 digits are 190 bits.
const RANDOM_CHARS: usize = 32;
/// 62^6 is more than 2^32.
const CHECK_CHARS: usize = 6;
/// A revoked token works at most this long.
const CACHE_TTL: Duration = Duration::from_secs(5);
const CACHED_TOKENS: u64 = 10_000;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The tenant that a request acts for.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// May look at and order workers, which all tenants share.
    pub(crate) operator: bool,
}

impl Caller {
    /// Refuses callers who are no operators.
    pub(crate) fn must_operate(&self) -> Result<()> {
        let detail = "workers serve all tenants; `umbel token create --operator` makes a token that may order them";
        if self.operator { Ok(()) } else { Err(Problem::operator_needed(detail)) }
    }
}

/// The stored record of a token, under its hash.
#[derive(Debug, Serialize, Deserialize)]
struct TokenDocument {
    tenant: TenantId,
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
    /// For people: by the clock of whoever made it.
    created_at: String,
}

/// Checks tokens, and remembers the good ones for a moment.
#[derive(Debug)]
pub(crate) struct Tokens {
    known: Cache<[u8; 32], Caller>,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { known: Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(CACHE_TTL).build() }
    }

    /// The caller of a request, from its token.
    pub(crate) async fn caller(&self, broker: &dyn Broker, headers: &HeaderMap) -> Result<Caller> {
        let token = bearer(headers)?;
        if !is_well_formed(token) {
            return Err(invalid());
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(caller) = self.known.get(&hash).await {
            return Ok(caller);
        }
        // A token is looked up before its tenant is known.
        let document = broker.document(&system_tenant(), DocumentKind::ApiToken, &hex::encode(hash)).await?;
        let document = document.ok_or_else(invalid)?;
        let damaged = "the token's record is damaged; make another token";
        let stored: TokenDocument =
            serde_json::from_str(&document.body).map_err(|error| Problem::unreadable_record(damaged, &error))?;
        let caller = Caller { tenant: stored.tenant, operator: stored.operator };
        self.known.insert(hash, caller.clone()).await;
        Ok(caller)
    }
}

/// Makes a token for `tenant` and stores its hash. The answer is the only copy of the token. That of an `operator` may
/// order workers, too.
pub async fn create_token(broker: &dyn Broker, tenant: &TenantId, name: &str, operator: bool) -> Result<String, Error> {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Error::TokenName);
    }
    let token = random_token()?;
    let created_at = serde_json::to_value(Timestamp(crate::time::now_ms())).ok();
    let created_at = created_at.as_ref().and_then(|at| at.as_str()).unwrap_or_default().to_owned();
    let record = TokenDocument { tenant: tenant.clone(), name: name.into(), operator, created_at };
    let hash = hex::encode(Sha256::digest(&token));
    let put = records::write_of(&system_tenant(), DocumentKind::ApiToken, hash, Expect::Absent, &record);
    match broker.put_document(&put).await? {
        DocumentPut::Stored(_) => Ok(token),
        DocumentPut::Full => Err(Error::TooManyTokens),
        DocumentPut::Conflict(_) => Err(Error::Random("they repeat".into())),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let detail = "send the header `Authorization: Bearer umbel_…`; `umbel token create` makes a token";
        return Err(challenge(Problem::missing_token(detail)));
    };
    let text = value.to_str().map_err(|_| invalid())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_matches(' ')),
        _ => Err(invalid()),
    }
}

fn invalid() -> Problem {
    challenge(Problem::invalid_token("check that the token was copied whole and was not revoked"))
}

fn challenge(problem: Problem) -> Problem {
    let value = match problem.code() {
        "missing_token" => r#"Bearer realm="umbel""#,
        _ => r#"Bearer realm="umbel", error="invalid_token""#,
    };
    problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value))
}

fn is_well_formed(token: &str) -> bool {
    let Some(rest) = token.strip_prefix(PREFIX) else { return false };
    if rest.len() != RANDOM_CHARS + CHECK_CHARS || !rest.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return false;
    }
    let (random, check) = rest.split_at(RANDOM_CHARS);
    checksum(random).as_bytes().ct_eq(check.as_bytes()).into()
}

fn random_token() -> Result<String, Error> {
    let mut random = String::with_capacity(RANDOM_CHARS);
    while random.len() < RANDOM_CHARS {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|e| Error::Random(e.to_string()))?;
        // 248 = 4 · 62: bytes above it would make some digits likelier.
        let digits = bytes.iter().filter(|b| **b < 248).map(|b| BASE62[usize::from(*b % 62)] as char);
        random.extend(digits.take(RANDOM_CHARS - random.len()));
    }
    Ok(format!("{PREFIX}{random}{}", checksum(&random)))
}

/// CRC-32 of the random part in six base62 digits, the most significant first.
fn checksum(random: &str) -> String {
    let mut rest = crc32fast::hash(random.as_bytes());
    let mut digits = [b'0'; CHECK_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|b| *b as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_typo_is_refused_without_asking() {
        let token = random_token().unwrap();
        assert!(is_well_formed(&token));
        let mut typo = token.clone().into_bytes();
        typo[10] = if typo[10] == b'a' { b'b' } else { b'a' };
        assert!(!is_well_formed(std::str::from_utf8(&typo).unwrap()));
        for bad in ["", "umbel_", "umbel_é", &token[1..], &format!("{token}0")] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn only_the_hash_of_a_token_is_stored() {
        let broker = umbel_broker_conformance::memory::shared();
        let token = create_token(&*broker, &TenantId::new("t1").unwrap(), "laptop", false).await.unwrap();
        let stored = broker.documents(&system_tenant(), DocumentKind::ApiToken, None, 10).await.unwrap().documents;
        assert_eq!(stored.len(), 1);
        assert!(!stored[0].body.contains(&token) && !stored[0].name.contains(&token[6..]));
    }
}
