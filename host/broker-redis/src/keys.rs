//! Every key: its prefix is made here, its rest in `scripts/` from the table below. One hash tag per shard, so that one
//! script never leaves a shard.
//!
//! | key after the prefix | type | what |
//! |---|---|---|
//! | `meta` | string | version of all that is stored, see `VERSION` |
//! | `seq` | string | counts arrivals |
//! | `job:<tenant>,<id>` | string | the record, see `records` |
//! | `spec:…`, `history:…`, `log:…` (`<tenant>,<id>`) | string, list, list | a large spec, a long history, log lines |
//! | `jobs:<tenant>`, `dead:<tenant>`, `workflows:<tenant>` | sorted set | ids by name; `jobs` has no nodes |
//! | `gate:<tenant>,<id>` | string | a node that is a gate; one that is a job has a record |
//! | `wf:<tenant>,<id>` | string | a workflow: what changes, see `WORKFLOW` in `canvas.lua` |
//! | `wft:<tenant>,<id>` | hash | its templates by number, its spec (`s`); while staged, `r` starts and `i` idempotency |
//! | `todo` | list | work items, see `ITEM` in `canvas.lua` |
//! | `deadlines` | sorted set | running workflows by deadline |
//! | `ready:<tenant>,<queue>` | sorted set | ids by priority and arrival |
//! | `fair:<queue>` | sorted set | tenants with ready jobs in it, by turns taken |
//! | `active_queues` | sorted set | queues by name: all that have a `fair:<queue>`, and some that had |
//! | `queues:<tenant>` | hash | `<queue>:r`, `:d`, `:p`: running, delayed, paused |
//! | `leases`, `look`, `retain` | sorted set | `<tenant>,<id>` by end of lease, time to look at it, time to delete it |
//! | `idem:<tenant>,<key>`, `idem_due` | string, sorted set | idempotency keys, and when they are over |
//! | `doc:<tenant>,<kind>`, `docs:…` | hash, sorted set | documents, and their names in order |
//! | `workers`, `workers_seen` | hash, sorted set | what workers say, and when they last did |
//!
//! In `retain`, `w` stands behind the name of a workflow and `c` behind that of a job that was replaced; nodes are not in
//! it.
//! `work`, `done` and `cancel` after the prefix are channels.

use umbel_broker::{DocumentKind, Topic};
use umbel_model::{JobId, TenantId};

/// Version of the keys and of what is in them. A store of a newer one is refused, an older one becomes one of this: 2
/// added workflows, and reads all that 1 wrote.
pub(crate) const VERSION: u32 = 2;

/// The keys of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(base: &str, shard: u32) -> Self {
        Self { prefix: format!("{base}:{{s{shard}}}:") }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Routes a script to the shard, and says what is stored there.
    pub(crate) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    pub(crate) fn channel(&self, topic: Topic) -> String {
        let name = match topic {
            Topic::Work => "work",
            Topic::Done => "done",
            Topic::Cancel => "cancel",
        };
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn job(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}job:{}", self.prefix, member(tenant, id))
    }

    pub(crate) fn gate(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}gate:{}", self.prefix, member(tenant, id))
    }

    pub(crate) fn logs(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}log:{}", self.prefix, member(tenant, id))
    }

    pub(crate) fn documents(&self, tenant: &TenantId, kind: DocumentKind) -> String {
        format!("{}doc:{}", self.prefix, shelf(tenant, kind))
    }
}

/// How scripts name a job.
pub(crate) fn member(tenant: &TenantId, id: JobId) -> String {
    format!("{tenant},{id}")
}

/// How scripts name the documents of one kind.
pub(crate) fn shelf(tenant: &TenantId, kind: DocumentKind) -> String {
    format!("{tenant},{}", kind.as_str())
}
