//! What one attempt can reach.

use std::sync::Arc;

use umbel_model::{BucketName, Permission, permission::Access};

use crate::{
    blob::{BlobAccess, NoBlobs},
    config::{Config, FixedConfig},
    grants::{Grants, NoGrants, Refusal},
    http::AttemptHttp,
    kv::{KeyValue, NoKeyValue},
    meter::Meter,
    secrets::{AttemptSecrets, NoSecrets},
};

/// Everything outside of a sandbox that the guest of one attempt can reach, if its grants allow it.
#[derive(Debug, Clone)]
pub struct Reach {
    pub grants: Arc<dyn Grants>,
    pub meter: Arc<Meter>,
    /// None: no request can be made.
    pub http: Option<Arc<AttemptHttp>>,
    pub kv: Arc<dyn KeyValue>,
    pub config: Arc<dyn Config>,
    pub blobs: Arc<dyn BlobAccess>,
    pub secrets: Arc<AttemptSecrets>,
}

impl Default for Reach {
    /// Reaches nothing.
    fn default() -> Self {
        Self {
            grants: Arc::new(NoGrants),
            meter: Arc::default(),
            http: None,
            kv: Arc::new(NoKeyValue),
            config: Arc::new(FixedConfig::default()),
            blobs: Arc::new(NoBlobs),
            secrets: AttemptSecrets::new(Arc::new(NoSecrets), Arc::new(NoGrants)),
        }
    }
}

impl Reach {
    /// The entries, if the attempt may use this bucket now.
    pub async fn key_values(&self, bucket: &BucketName, access: Access) -> Result<Arc<dyn KeyValue>, Refusal> {
        let asked = Permission::Kv { bucket: bucket.as_str().to_owned(), access };
        self.grants.now().await?.allow(&asked)?;
        Ok(self.kv.clone())
    }

    /// The blobs, if the attempt may use them now.
    pub async fn blobs(&self, access: Access) -> Result<Arc<dyn BlobAccess>, Refusal> {
        self.grants.now().await?.allow(&Permission::Blob { access })?;
        Ok(self.blobs.clone())
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use umbel_model::Permissions;

    use super::*;
    use crate::grants::{Effective, Unavailable};

    #[derive(Debug)]
    struct Fixed(Arc<Effective>);

    #[async_trait]
    impl Grants for Fixed {
        async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
            Ok(self.0.clone())
        }
    }

    #[tokio::test]
    async fn a_bucket_is_reached_as_far_as_it_is_granted() {
        let list = |text: &str| Permissions::new([text.parse().unwrap()]).unwrap();
        let effective = Effective { operator: list("kv *"), tenant: None, approved: list("kv a read") };
        let reach = Reach { grants: Arc::new(Fixed(Arc::new(effective))), ..Reach::default() };
        let may = async |name: &str, access| reach.key_values(&BucketName::new(name).unwrap(), access).await;
        assert!(may("a", Access::Read).await.is_ok());
        for (name, access, missing) in
            [("a", Access::Write, "kv a"), ("b", Access::Read, "kv b read"), ("b", Access::Write, "kv b")]
        {
            let Err(Refusal::Denied(denied)) = may(name, access).await else { panic!("{missing} was allowed") };
            assert_eq!(denied.missing, missing);
        }
    }
}
