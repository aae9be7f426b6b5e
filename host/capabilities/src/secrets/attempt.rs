//! The secrets of one attempt, as far as its grants allow them when it asks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use umbel_model::{Permission, SecretName};
use umbel_secrets::{Sealed, SecretValue};

use crate::{
    grants::{Grants, Refusal},
    secrets::placeholders::Placeholders,
};

/// The longest body that is searched for placeholders, bytes.
pub(crate) const BODY_BYTES: usize = 256 << 10;
/// Calls about secrets that one attempt may make.
const MAX_CALLS: u32 = 1_000;
/// Secrets, each value for itself, that one attempt may use.
const MAX_USED: usize = 16;
/// Bytes of their sealed texts: what is searched for their values is searched for all of them.
const MAX_USED_BYTES: usize = 128 << 10;

/// Where the secrets of a tenant are.
#[async_trait]
pub trait SecretStore: Send + Sync + fmt::Debug {
    /// A secret as it is now, or was a second ago at most.
    async fn find(&self, name: &SecretName) -> Result<Arc<Sealed>, SecretError>;
}

/// Why an attempt does not get a secret. The texts are for guests and for the people who read the job's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no secret `{0}`: set it with `umbel secret set {0} --host HOST`")]
    NotFound(String),
    /// It was set without the right to it.
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Unavailable(String),
}

/// There are no secrets where this attempt runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

#[async_trait]
impl SecretStore for NoSecrets {
    async fn find(&self, _: &SecretName) -> Result<Arc<Sealed>, SecretError> {
        Err(SecretError::Unavailable("there are no secrets where this task runs".into()))
    }
}

/// The secrets of one attempt.
pub struct AttemptSecrets {
    store: Arc<dyn SecretStore>,
    grants: Arc<dyn Grants>,
    calls: AtomicU32,
    pub(crate) placeholders: Mutex<Placeholders>,
    /// Whose values may be in what leaves the attempt.
    used: Mutex<Vec<Arc<Sealed>>>,
    /// Whether there is a placeholder, and whether something is in `used`: most attempts have neither, and pay for neither.
    has_placeholders: AtomicBool,
    has_used: AtomicBool,
    has_body: AtomicBool,
}

impl AttemptSecrets {
    pub fn new(store: Arc<dyn SecretStore>, grants: Arc<dyn Grants>) -> Arc<Self> {
        Arc::new(Self {
            store,
            grants,
            calls: AtomicU32::new(0),
            placeholders: Mutex::default(),
            used: Mutex::default(),
            has_placeholders: AtomicBool::new(false),
            has_used: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
        })
    }

    /// The placeholder of a secret, the same for the whole attempt. It opens nothing.
    pub async fn placeholder(&self, name: &SecretName) -> Result<String, SecretError> {
        self.count()?;
        let sealed = self.find(name, false).await?;
        if sealed.terms().hosts.is_empty() {
            let text = format!("the secret `{name}` is put into no request: it was set without hosts");
            return Err(SecretError::NotAllowed(text));
        }
        let placeholder = lock(&self.placeholders).of(name).map_err(SecretError::Unavailable)?;
        self.has_placeholders.store(true, Ordering::Release);
        if sealed.terms().body {
            self.has_body.store(true, Ordering::Release);
        }
        Ok(placeholder)
    }

    /// The value of a secret, for code that must have it.
    pub async fn reveal(&self, name: &SecretName) -> Result<SecretValue, SecretError> {
        self.count()?;
        let sealed = self.find(name, true).await?;
        if !sealed.terms().reveal {
            let text = format!("the secret `{name}` is not for code to have: it was set without `--reveal`");
            return Err(SecretError::NotAllowed(text));
        }
        self.note_used(&sealed)?;
        opened(&sealed)
    }

    /// A secret, if the attempt may use it now.
    pub(crate) async fn find(&self, name: &SecretName, reveal: bool) -> Result<Arc<Sealed>, SecretError> {
        let asked = Permission::Secret { name: name.to_string(), reveal };
        let effective = self.grants.now().await.map_err(Refusal::from)?;
        effective.allow(&asked).map_err(Refusal::from)?;
        self.store.find(name).await
    }

    fn count(&self) -> Result<(), SecretError> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        let is_over = before >= MAX_CALLS;
        is_over
            .then(|| SecretError::Limit(format!("an attempt may ask for secrets {MAX_CALLS} times")))
            .map_or(Ok(()), Err)
    }

    /// From now on its value is searched for in what leaves the attempt.
    pub(crate) fn note_used(&self, sealed: &Arc<Sealed>) -> Result<(), SecretError> {
        let mut used = lock(&self.used);
        if used.iter().any(|known| known.name() == sealed.name() && known.version() == sealed.version()) {
            return Ok(());
        }
        // Sealed anew, or set to what it was: its value is searched for already.
        let same = used.iter_mut().find(|known| known.name() == sealed.name() && known.has_value_of(sealed));
        if let Some(known) = same {
            if known.version() < sealed.version() {
                *known = sealed.clone();
            }
            return Ok(());
        }
        let bytes = used.iter().map(|known| known.sealed_bytes()).sum::<usize>() + sealed.sealed_bytes();
        if used.len() >= MAX_USED || bytes > MAX_USED_BYTES {
            let text = format!("an attempt may use {MAX_USED} secrets, with {} KiB together", MAX_USED_BYTES >> 10);
            return Err(SecretError::Limit(text));
        }
        used.push(sealed.clone());
        self.has_used.store(true, Ordering::Release);
        Ok(())
    }

    /// Those whose values may be in what leaves the attempt.
    pub(crate) fn used(&self) -> Vec<Arc<Sealed>> {
        if self.has_used.load(Ordering::Acquire) { lock(&self.used).clone() } else { Vec::new() }
    }

    /// Whether a request is to be searched for placeholders.
    pub(crate) fn has_placeholders(&self) -> bool {
        self.has_placeholders.load(Ordering::Acquire)
    }

    /// Bytes that the host keeps of the body of a request, in order to search it.
    pub fn body_bytes(&self) -> usize {
        // As it came, and with the values put in.
        if self.has_body.load(Ordering::Acquire) { 2 * BODY_BYTES } else { 0 }
    }
}

pub(crate) fn opened(sealed: &Sealed) -> Result<SecretValue, SecretError> {
    sealed.open().map_err(|error| SecretError::Unavailable(format!("the secret `{}`: {error}", sealed.name())))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for AttemptSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptSecrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use umbel_model::{Permissions, TenantId};
    use umbel_secrets::{DataKey, MasterKeys, SecretRecord, Terms};

    use super::*;
    use crate::{
        grants::{Denied, Effective, FixedGrants},
        secrets::{PLACEHOLDER_BYTES, PLACEHOLDER_PREFIX},
    };

    /// Secrets by name: `NAME`, value, hosts, body, reveal.
    type Given = (&'static str, &'static str, &'static [&'static str], bool, bool);

    #[derive(Debug)]
    struct Known(Vec<Arc<Sealed>>);

    #[async_trait]
    impl SecretStore for Known {
        async fn find(&self, name: &SecretName) -> Result<Arc<Sealed>, SecretError> {
            let found = self.0.iter().find(|sealed| sealed.name() == name).cloned();
            found.ok_or_else(|| SecretError::NotFound(name.to_string()))
        }
    }

    pub(crate) fn secrets(given: &[Given], granted: &[&str]) -> Arc<AttemptSecrets> {
        let mut masters = MasterKeys::default();
        masters.add(&"0123456789abcdef".repeat(4), "test").unwrap();
        let tenant = TenantId::new("t").unwrap();
        let key = Arc::new(DataKey::generate(&tenant, masters.current().unwrap(), 1, None).unwrap().0);
        let known = given.iter().map(|(name, value, hosts, body, reveal)| {
            let name = SecretName::new(*name).unwrap();
            let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
            let terms = Terms { hosts, body: *body, reveal: *reveal };
            let value = SecretValue::new((*value).into());
            let record = SecretRecord::seal(&tenant, &name, 1, &terms, None, 1, &key, &value).unwrap();
            Arc::new(Sealed::new(tenant.clone(), name, record, 1, key.clone()).unwrap())
        });
        let list = Permissions::new(granted.iter().map(|text| text.parse().unwrap())).unwrap();
        let effective = Effective { operator: list.clone(), tenant: None, approved: list };
        let grants = Arc::new(FixedGrants(Arc::new(effective)));
        AttemptSecrets::new(Arc::new(Known(known.collect())), grants)
    }

    pub(crate) fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    const HOST: &[&str] = &["a.test"];

    #[tokio::test]
    async fn a_placeholder_is_random_in_each_attempt_and_has_one_length() {
        let of = || secrets(&[("a", "the value", HOST, false, false)], &["secret a"]);
        let (one, two) = (of(), of());
        let first = one.placeholder(&name("a")).await.unwrap();
        assert_eq!(first, one.placeholder(&name("a")).await.unwrap());
        assert_ne!(first, two.placeholder(&name("a")).await.unwrap());
        assert!(first.len() == PLACEHOLDER_BYTES && first.starts_with(PLACEHOLDER_PREFIX), "{first}");
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    }

    #[tokio::test]
    async fn a_secret_is_had_as_far_as_it_is_granted_and_was_set_for() {
        let given = [("sent", "the value", HOST, false, false), ("signs", "the key..", &[][..], false, true)];
        let attempt = secrets(&given, &["secret sent reveal", "secret signs reveal", "secret gone"]);
        assert_eq!(attempt.reveal(&name("signs")).await.unwrap().bytes(), b"the key..");
        assert!(matches!(attempt.reveal(&name("sent")).await, Err(SecretError::NotAllowed(_))));
        assert!(matches!(attempt.placeholder(&name("signs")).await, Err(SecretError::NotAllowed(_))));
        assert!(matches!(attempt.placeholder(&name("gone")).await, Err(SecretError::NotFound(_))));
        let denied = attempt.placeholder(&name("other")).await.unwrap_err();
        let SecretError::Refused(Refusal::Denied(Denied { missing, .. })) = denied else { panic!("{denied:?}") };
        assert_eq!(missing, "secret other");
        let narrow = secrets(&given, &["secret signs"]);
        assert!(matches!(narrow.reveal(&name("signs")).await, Err(SecretError::Refused(_))));
    }

    #[tokio::test]
    async fn calls_and_secrets_of_an_attempt_are_bounded() {
        let attempt = secrets(&[("a", "the value", HOST, false, true)], &["secret a reveal"]);
        for _ in 0..MAX_CALLS {
            attempt.reveal(&name("a")).await.unwrap();
        }
        assert!(matches!(attempt.reveal(&name("a")).await, Err(SecretError::Limit(_))));
        let names: Vec<String> = (0..=MAX_USED).map(|n| format!("s{n}")).collect();
        let given: Vec<Given> =
            names.iter().map(|name| (&*name.clone().leak(), "the value", &[][..], false, true)).collect();
        let many = secrets(&given, &["secret * reveal"]);
        for known in &names[..MAX_USED] {
            many.reveal(&name(known)).await.unwrap();
        }
        assert!(matches!(many.reveal(&name(&names[MAX_USED])).await, Err(SecretError::Limit(_))));
    }
}
