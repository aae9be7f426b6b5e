//! Bearer tokens: `umbel_<32 random base62><crc32 in base62>`.
//!
//! Only a token's SHA-256 is stored, as the name of a document, so what is compared by the store is a hash of a secret
//! and never the secret. The checksum refuses typos and noise without asking the broker.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderValue, header};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_bulk::system_tenant;
use umbel_model::{TenantId, UnixMs};
use utoipa::ToSchema;

use crate::{
    Error,
    problem::{Code, Problem, Result},
    records,
    time::{Timestamp, now_ms},
};

const PREFIX: &str = "umbel_";
/// 32 base62 digits are 190 bits.
const RANDOM_CHARS: usize = 32;
/// 62^6 is more than 2^32.
const CHECK_CHARS: usize = 6;
/// How long a good token is remembered: a revoked one works at most this long on a server that has just seen it.
const KNOWN_TTL: Duration = Duration::from_secs(4);
/// How long an unknown token is remembered: one that was just made works at most this much later.
const UNKNOWN_TTL: Duration = Duration::from_secs(1);
const CACHED_TOKENS: u64 = 10_000;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The tenant that a request acts for.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// May look at and order workers, which all tenants share.
    pub(crate) operator: bool,
    /// May approve modules and change the tenant's grants.
    grant: bool,
    /// The name of the token.
    pub(crate) name: Arc<str>,
    token: TokenHash,
    /// By this machine's clock.
    expires_at: Option<UnixMs>,
}

/// The SHA-256 of a token.
type TokenHash = [u8; 32];

impl Caller {
    /// Refuses callers who are no operators.
    pub(crate) fn must_operate(&self) -> Result<()> {
        let detail = "workers serve all tenants; `umbel token create --operator` makes a token that may order them";
        if self.operator { Ok(()) } else { Err(Problem::operator_needed(detail)) }
    }

    /// Refuses callers who may not decide what modules reach.
    pub(crate) fn must_grant(&self) -> Result<()> {
        let detail = "this token may not decide what modules reach; `umbel token create --grant` makes one that may";
        if self.grant { Ok(()) } else { Err(Problem::grant_needed(detail)) }
    }
}

/// The stored record of a token, under its hash.
#[derive(Debug, Serialize, Deserialize)]
struct TokenDocument {
    tenant: TenantId,
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
    /// Those of older releases do not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    grant: bool,
    /// For people: by the clock of whoever made it.
    created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<UnixMs>,
}

/// Checks tokens, and remembers for a moment which are good and which are not.
#[derive(Debug)]
pub(crate) struct Tokens {
    known: Cache<TokenHash, Caller>,
    unknown: Cache<TokenHash, ()>,
    /// Limits how many are looked up at once: anybody can make up tokens.
    lookups: Semaphore,
}

impl Tokens {
    pub(crate) fn new(max_lookups: usize) -> Self {
        Self {
            known: Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(KNOWN_TTL).build(),
            unknown: Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(UNKNOWN_TTL).build(),
            lookups: Semaphore::new(max_lookups),
        }
    }

    /// The caller of a request, from its token.
    pub(crate) async fn caller(&self, broker: &dyn Broker, headers: &HeaderMap) -> Result<Caller> {
        let token = bearer(headers)?;
        if !is_well_formed(token) {
            return Err(invalid());
        }
        self.of_hash(broker, Sha256::digest(token).into()).await
    }

    /// Whether the token of a caller is good still. For answers that go on for long.
    pub(crate) async fn is_good(&self, broker: &dyn Broker, caller: &Caller) -> Result<bool> {
        match self.of_hash(broker, caller.token).await {
            Ok(_) => Ok(true),
            Err(problem) if problem.code() == Code::InvalidToken.as_str() => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    async fn of_hash(&self, broker: &dyn Broker, hash: TokenHash) -> Result<Caller> {
        let caller = match self.known.get(&hash).await {
            Some(caller) => caller,
            None => self.looked_up(broker, hash).await?,
        };
        match caller.expires_at {
            Some(at) if at <= now_ms() => Err(invalid()),
            _ => Ok(caller),
        }
    }

    async fn looked_up(&self, broker: &dyn Broker, hash: TokenHash) -> Result<Caller> {
        if self.unknown.contains_key(&hash) {
            return Err(invalid());
        }
        // Closed never.
        let _permit = self.lookups.acquire().await.map_err(|_| Problem::see_log())?;
        // A token is looked up before its tenant is known.
        let document = broker.document(&system_tenant(), DocumentKind::ApiToken, &hex::encode(hash)).await?;
        let Some(document) = document else {
            self.unknown.insert(hash, ()).await;
            return Err(invalid());
        };
        let damaged = "the token's record is damaged; make another token";
        let stored: TokenDocument =
            serde_json::from_str(&document.body).map_err(|error| Problem::unreadable_record(damaged, &error))?;
        let TokenDocument { tenant, operator, grant, name, expires_at, .. } = stored;
        let grant = grant || operator;
        let caller = Caller { tenant, operator, grant, name: name.into(), token: hash, expires_at };
        self.known.insert(hash, caller.clone()).await;
        Ok(caller)
    }
}

/// A token to make.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    pub tenant: &'a TenantId,
    /// For people: 1 to 64 bytes.
    pub name: &'a str,
    /// It may order workers, and decide what modules reach.
    pub operator: bool,
    /// It may decide what the tenant's modules reach.
    pub grant: bool,
    /// It is good for so long, milliseconds; for ever when not given.
    pub lives_ms: Option<u64>,
}

/// Makes a token and stores its hash. The answer is the only copy of the token.
///
/// # Errors
/// Its name cannot be used, the broker cannot be reached or is full, or there are no random bytes.
pub async fn create_token(broker: &dyn Broker, new: NewToken<'_>) -> Result<String, Error> {
    let NewToken { tenant, name, operator, grant, lives_ms } = new;
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Error::TokenName);
    }
    let token = random_token()?;
    let expires_at = lives_ms.map(|ms| now_ms().saturating_add(ms));
    let created_at = in_words(now_ms());
    let record = TokenDocument { tenant: tenant.clone(), name: name.into(), operator, grant, created_at, expires_at };
    let hash = hex::encode(Sha256::digest(&token));
    let put = records::write_of(&system_tenant(), DocumentKind::ApiToken, hash, Expect::Absent, &record);
    match broker.put_document(&put).await? {
        DocumentPut::Stored(_) => Ok(token),
        DocumentPut::Full | DocumentPut::StorageFull => Err(Error::TooManyTokens),
        DocumentPut::Conflict(_) => Err(Error::Random("they repeat".into())),
    }
}

fn in_words(at: UnixMs) -> String {
    let at = serde_json::to_value(Timestamp(at)).ok();
    at.as_ref().and_then(|at| at.as_str()).unwrap_or_default().to_owned()
}

/// Hex digits of a token's hash that name it: nobody finds the token from them.
const ID_DIGITS: usize = 16;
/// Tokens that one call reads at once.
const TOKENS_PAGE: u32 = 1_000;
/// The same for the question whether there are several tenants, which the first few tokens mostly answer.
const TENANTS_PAGE: u32 = 100;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenInfo {
    /// Names the token; made from its hash.
    pub id: String,
    #[schema(value_type = String)]
    pub tenant: TenantId,
    pub name: String,
    pub operator: bool,
    /// It may approve modules and change the tenant's grants.
    pub grant: bool,
    /// By the clock of whoever made it.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// None: it is good until it is revoked.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}

/// All tokens of a tenant, or of all, in the order of their ids. Those that have expired, too, until they are revoked.
///
/// # Errors
/// The broker cannot be reached.
pub async fn list_tokens(broker: &dyn Broker, tenant: Option<&TenantId>) -> Result<Vec<TokenInfo>, Error> {
    let (mut tokens, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = broker.documents(&system_tenant(), DocumentKind::ApiToken, after.as_deref(), TOKENS_PAGE).await?;
        // A damaged record is no token that works.
        let found = page.documents.iter().filter_map(token_info);
        tokens.extend(found.filter(|token| tenant.is_none_or(|tenant| token.tenant == *tenant)));
        after = page.next;
        if after.is_none() {
            return Ok(tokens);
        }
    }
}

/// Whether there are good tokens of more than one tenant. Reads pages of tokens until it knows.
///
/// # Errors
/// The broker cannot be reached.
pub async fn has_several_tenants(broker: &dyn Broker) -> Result<bool, Error> {
    let (mut first, mut after, now) = (None::<TenantId>, None::<String>, now_ms());
    loop {
        let page = broker.documents(&system_tenant(), DocumentKind::ApiToken, after.as_deref(), TENANTS_PAGE).await?;
        for document in &page.documents {
            let Ok(token) = serde_json::from_str::<TokenDocument>(&document.body) else { continue };
            if token.expires_at.is_some_and(|at| at <= now) {
                continue;
            }
            if first.as_ref().is_some_and(|first| *first != token.tenant) {
                return Ok(true);
            }
            first = Some(token.tenant);
        }
        after = page.next;
        if after.is_none() {
            return Ok(false);
        }
    }
}

fn token_info(document: &Document) -> Option<TokenInfo> {
    let TokenDocument { tenant, name, operator, grant, created_at, expires_at } =
        serde_json::from_str(&document.body).ok()?;
    let grant = grant || operator;
    let id = document.name.get(..ID_DIGITS)?.to_owned();
    Some(TokenInfo { id, tenant, name, operator, grant, created_at, expires_at: expires_at.map(in_words) })
}

/// Revokes the token with this id, if there is one, of that tenant or of any: answers what it was. Every server refuses it within
/// 5 s.
///
/// # Errors
/// The broker cannot be reached.
pub async fn revoke_token(
    broker: &dyn Broker,
    tenant: Option<&TenantId>,
    id: &str,
) -> Result<Option<TokenInfo>, Error> {
    if id.len() != ID_DIGITS || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    // Names sort by their digits: the first behind its id is the token's.
    let page = broker.documents(&system_tenant(), DocumentKind::ApiToken, Some(id), 1).await?;
    let found = page.documents.first().filter(|document| document.name.starts_with(id));
    let Some((document, token)) = found.and_then(|document| Some((document, token_info(document)?))) else {
        return Ok(None);
    };
    if tenant.is_some_and(|tenant| token.tenant != *tenant) {
        return Ok(None);
    }
    let put = PutDocument {
        tenant: system_tenant(),
        kind: DocumentKind::ApiToken,
        name: document.name.clone(),
        expect: Expect::Any,
        body: None,
        held_bytes: 0,
    };
    broker.put_document(&put).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, "token revoked");
    Ok(Some(token))
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
    challenge(Problem::invalid_token("check that the token was copied whole, was not revoked and has not expired"))
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

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn new<'a>(tenant: &'a TenantId, name: &'a str) -> NewToken<'a> {
        NewToken { tenant, name, operator: false, grant: false, lives_ms: None }
    }

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
    }

    #[tokio::test]
    async fn only_the_hash_of_a_token_is_stored() {
        let broker = umbel_broker_conformance::memory::shared();
        let token = create_token(&*broker, new(&tenant("t1"), "laptop")).await.unwrap();
        let stored = broker.documents(&system_tenant(), DocumentKind::ApiToken, None, 10).await.unwrap().documents;
        assert_eq!(stored.len(), 1);
        assert!(!stored[0].body.contains(&token) && !stored[0].name.contains(&token[6..]));
    }

    #[tokio::test]
    async fn a_tenants_tokens_are_listed_and_one_is_revoked_by_its_id() {
        let broker = umbel_broker_conformance::memory::shared();
        let (t1, t2) = (tenant("t1"), tenant("t2"));
        let token = create_token(&*broker, new(&t1, "laptop")).await.unwrap();
        create_token(&*broker, new(&t2, "other")).await.unwrap();
        let listed = list_tokens(&*broker, Some(&t1)).await.unwrap();
        assert_eq!(listed.iter().map(|token| &*token.name).collect::<Vec<_>>(), ["laptop"]);
        assert_eq!(list_tokens(&*broker, None).await.unwrap().len(), 2);
        let id = &listed[0].id;
        assert_eq!(revoke_token(&*broker, Some(&t2), id).await.unwrap(), None, "it is another tenant's");
        assert_eq!(revoke_token(&*broker, None, "0").await.unwrap(), None);
        let tokens = Tokens::new(1);
        let caller = tokens.caller(&*broker, &headers(&token)).await.unwrap();
        assert!(tokens.is_good(&*broker, &caller).await.unwrap());
        assert_eq!(revoke_token(&*broker, Some(&t1), id).await.unwrap().as_ref(), listed.first());
        assert_eq!(revoke_token(&*broker, Some(&t1), id).await.unwrap(), None);
        // Until then it is remembered, for some seconds.
        tokens.known.invalidate_all();
        assert_eq!(tokens.caller(&*broker, &headers(&token)).await.unwrap_err().code(), "invalid_token");
        assert!(!tokens.is_good(&*broker, &caller).await.unwrap(), "its streams end");
    }

    #[tokio::test]
    async fn good_tokens_say_whether_there_are_several_tenants() {
        let broker = umbel_broker_conformance::memory::shared();
        let (t1, t2) = (tenant("t1"), tenant("t2"));
        for _ in 0..=TENANTS_PAGE {
            create_token(&*broker, new(&t1, "laptop")).await.unwrap();
        }
        create_token(&*broker, NewToken { lives_ms: Some(0), ..new(&t2, "short") }).await.unwrap();
        assert!(!has_several_tenants(&*broker).await.unwrap());
        create_token(&*broker, new(&t2, "other")).await.unwrap();
        assert!(has_several_tenants(&*broker).await.unwrap());
    }

    #[tokio::test]
    async fn a_token_that_has_expired_is_refused_though_it_is_remembered() {
        let broker = umbel_broker_conformance::memory::shared();
        let t1 = tenant("t1");
        let token = create_token(&*broker, NewToken { lives_ms: Some(0), ..new(&t1, "short") }).await.unwrap();
        let tokens = Tokens::new(1);
        for _ in 0..2 {
            assert_eq!(tokens.caller(&*broker, &headers(&token)).await.unwrap_err().code(), "invalid_token");
        }
        assert!(tokens.unknown.iter().next().is_none(), "it is known");
    }

    #[tokio::test]
    async fn an_unknown_token_is_looked_up_once_in_a_while() {
        let broker = umbel_broker_conformance::memory::shared();
        let (tokens, token) = (Tokens::new(1), random_token().unwrap());
        assert!(tokens.caller(&*broker, &headers(&token)).await.is_err());
        let hash: TokenHash = Sha256::digest(&token).into();
        assert!(tokens.unknown.contains_key(&hash));
        // Stored meanwhile: it would be found if it were looked up again.
        let record = TokenDocument {
            tenant: tenant("t1"),
            name: "n".into(),
            operator: false,
            grant: false,
            created_at: String::new(),
            expires_at: None,
        };
        let put =
            records::write_of(&system_tenant(), DocumentKind::ApiToken, hex::encode(hash), Expect::Absent, &record);
        broker.put_document(&put).await.unwrap();
        assert!(tokens.caller(&*broker, &headers(&token)).await.is_err());
        tokens.unknown.invalidate(&hash).await;
        assert!(tokens.caller(&*broker, &headers(&token)).await.is_ok());
    }
}
