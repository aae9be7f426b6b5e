//! The secrets of `umbel run`: from files, sealed with a key that nobody keeps, for the hosts that `--grant` names.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use umbel_capabilities::{SecretError, SecretStore};
use umbel_model::{Permissions, SecretName, TenantId};
use umbel_secrets::{DataKey, MasterKey, MasterKeys, Sealed, SecretHost, SecretRecord, SecretValue, Terms};

use crate::{Failure, Result, core_dumps};

/// Secrets of one run.
#[derive(Debug, Default)]
pub struct LocalSecrets(Vec<Arc<Sealed>>);

impl LocalSecrets {
    /// Reads the files. A line end at the end of one is left out where the secret is put into requests.
    pub fn read(tenant: &TenantId, given: &[(SecretName, PathBuf)], granted: &Permissions) -> Result<Self> {
        let failed = |error: umbel_secrets::Error| Failure::usage(format!("--secret: {error}"));
        if given.is_empty() {
            return Ok(Self::default());
        }
        core_dumps::forbid();
        let mut masters = MasterKeys::default();
        masters.add(&MasterKey::generate().map_err(failed)?, "a random key").map_err(failed)?;
        let master = masters.current().ok_or(umbel_secrets::Error::NoMasterKeys).map_err(failed)?;
        let key = Arc::new(DataKey::generate(tenant, master, 1, None).map_err(failed)?.0);
        let terms = Terms { hosts: hosts(granted), body: false, reveal: true };
        let terms = Terms { body: !terms.hosts.is_empty(), ..terms };
        let seal = |(name, file): &(SecretName, PathBuf)| {
            let mut bytes = std::fs::read(file).map_err(|error| Failure::file(file.display(), &error))?;
            if !terms.hosts.is_empty() && bytes.ends_with(b"\n") {
                bytes.pop();
            }
            let value = SecretValue::new(bytes);
            let record = SecretRecord::seal(tenant, name, 1, &terms, None, 1, &key, &value).map_err(failed)?;
            Sealed::new(tenant.clone(), name.clone(), record, 1, key.clone()).map(Arc::new).map_err(failed)
        };
        Ok(Self(given.iter().map(seal).collect::<Result<_>>()?))
    }
}

/// The hosts of the requests that are granted.
fn hosts(granted: &Permissions) -> Vec<SecretHost> {
    let of = |text: String| {
        let url = text.strip_prefix("http ")?.rsplit(' ').next()?.to_owned();
        let (scheme, rest) = url.split_once("://")?;
        format!("{scheme}://{}", rest.split('/').next()?).parse().ok()
    };
    let mut hosts: Vec<SecretHost> = granted.iter().filter_map(|permission| of(permission.to_string())).collect();
    hosts.truncate(umbel_secrets::MAX_HOSTS);
    hosts
}

#[async_trait]
impl SecretStore for LocalSecrets {
    async fn find(&self, name: &SecretName) -> Result<Arc<Sealed>, SecretError> {
        let found = self.0.iter().find(|sealed| sealed.name() == name).cloned();
        found.ok_or_else(|| {
            SecretError::Unavailable(format!("there is no secret `{name}` here: give --secret {name}=FILE"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_of_a_file_is_for_the_hosts_that_are_granted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "the value\n").unwrap();
        let texts = ["http GET,POST https://a.test:8443/v1/", "http http://*:*", "secret key"];
        let granted = Permissions::new(texts.map(|text| text.parse().unwrap())).unwrap();
        let (tenant, name) = (TenantId::new("t").unwrap(), SecretName::new("key").unwrap());
        let secrets = LocalSecrets::read(&tenant, &[(name.clone(), file.path().into())], &granted).unwrap();
        let found = secrets.find(&name).await.unwrap();
        assert_eq!(found.open().unwrap().bytes(), b"the value");
        assert_eq!(found.terms().hosts, ["https://a.test:8443".parse().unwrap()]);
        assert!(secrets.find(&SecretName::new("other").unwrap()).await.is_err());
    }
}
