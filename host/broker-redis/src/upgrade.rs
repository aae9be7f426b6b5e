//! What must be done with a store of an older release besides reading it: version 3 counts the dead jobs of each queue.
//! May be interrupted and repeated: each step counts what there is.

use std::collections::BTreeSet;

use redis::Value;
use umbel_broker::Result;

use crate::{RedisBroker, answers::Answer, connection::Repeat};

/// Keys that one step of a scan looks at: some milliseconds.
const SCANNED: usize = 10_000;

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
        let (mut tenants, mut cursor) = (BTreeSet::new(), "0".to_owned());
        let prefix = self.connection.keys.dead("");
        loop {
            let pattern = self.connection.keys.dead("*");
            let scan = redis::cmd("SCAN").arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCANNED).to_owned();
            let mut answer = Answer::new(self.command(&scan).await?)?;
            cursor = answer.text()?;
            let mut names = Answer::new(answer.next()?)?;
            while !names.done() {
                tenants.extend(names.text()?.strip_prefix(&prefix).map(str::to_owned));
            }
            if cursor == "0" {
                return Ok(tenants);
            }
        }
    }
}
