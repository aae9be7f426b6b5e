//! What must be done with a store of an older release besides reading it: version 3 counts the dead jobs of each queue.
//! May be interrupted and repeated: each step counts what there is.

use std::collections::BTreeSet;

use redis::Value;
use umbel_broker::Result;

use crate::{RedisBroker, connection::Repeat};

impl RedisBroker {
    /// Does what is left to do after `Connection` found an older version.
    pub(crate) async fn finish_upgrade(&self) -> Result<()> {
        let get = redis::cmd("GET").arg(self.connection.keys.upgrading()).to_owned();
        if self.command(&get).await? == Value::Nil {
            return Ok(());
        }
        for tenant in self.tenants_with_dead_jobs().await? {
            let args = [b"1".to_vec(), b"dead".to_vec(), tenant.into_bytes()].to_vec();
            self.run("audit", args, Repeat::Safe).await?;
        }
        self.command(&redis::cmd("DEL").arg(self.connection.keys.upgrading()).to_owned()).await.map(drop)
    }

    async fn tenants_with_dead_jobs(&self) -> Result<BTreeSet<String>> {
        let prefix = self.connection.keys.dead("");
        let mut tenants = BTreeSet::new();
        self.each_key(&self.connection.keys.dead("*"), |name| {
            tenants.extend(name.strip_prefix(&prefix).map(str::to_owned))
        })
        .await?;
        Ok(tenants)
    }
}
