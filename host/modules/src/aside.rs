//! Taking a module's bytes away so that they can be put back: a push of the same bytes may come in between.
//!
//! `aside/<64 digits>/<random>` holds bytes that were taken away. Whoever takes them looks afterwards whether the module has
//! a record again: bytes that a push stored after its record are never taken by a deletion that saw no record after taking.

use futures::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, path::Path as Location};
use umbel_model::Digest;

use crate::{
    Error, ModuleStore,
    store::{location, random_name},
};

/// Bytes of a module that were taken away.
#[derive(Debug, Clone)]
pub struct Aside(Location);

impl ModuleStore {
    /// Takes the bytes of a module away, if they are there.
    pub async fn take_aside(&self, digest: &Digest) -> Result<(), Error> {
        let to = Location::from(format!("{}/{}", folder(digest), random_name(&self.shown)?));
        self.found(self.objects.rename(&location(digest), &to).await).map(drop)
    }

    /// The bytes of a module that were taken away and neither put back nor deleted.
    pub async fn aside(&self, digest: &Digest) -> Result<Vec<Aside>, Error> {
        let found = self.objects.list(Some(&Location::from(folder(digest))));
        found.map_ok(|meta| Aside(meta.location)).try_collect().await.map_err(|e| self.failed(&e))
    }

    /// Puts bytes back that were taken away. Where a push stored the same ones meanwhile, those stay.
    pub async fn put_back(&self, digest: &Digest, aside: &[Aside]) -> Result<(), Error> {
        for Aside(from) in aside {
            match self.objects.rename_if_not_exists(from, &location(digest)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(object_store::Error::AlreadyExists { .. }) => {
                    self.found(self.objects.delete(from).await)?;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// Deletes bytes that were taken away.
    pub async fn delete_aside(&self, aside: &[Aside]) -> Result<(), Error> {
        for Aside(location) in aside {
            self.found(self.objects.delete(location).await)?;
        }
        Ok(())
    }
}

fn folder(digest: &Digest) -> String {
    format!("aside/{}", digest.hex())
}
