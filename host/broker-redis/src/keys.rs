//! Every key: its prefix is made here, its rest in `library/` from the table below. One hash tag per shard, so that one
//! function never leaves a shard. Keys keep the words of the first releases; this table has the words of the code beside
//! them.
//!
//! | key after the prefix | type | what |
//! |---|---|---|
//! | `meta` | string | version of all that is stored, see `VERSION` |
//! | `seq`, `meta:seq`, `meta:counted_seq` | string | counts arrivals; the same as of the last process that knows labels, or counts bytes |
//! | `meta:label:<tenant>,<hash>`, `meta:labels:<tenant>` | sorted set, hash | ids by label, labels by id, see `labels.lua` |
//! | `meta:labels_v1` | string | whether the labels of all jobs are known, see `labels.lua` |
//! | `job:<tenant>,<id>` | string | the record, see `HEAD` and `FULL` in `core.lua` |
//! | `spec:…`, `history:…`, `log:…` (`<tenant>,<id>`) | string, list, list | a large spec, a long history, log lines |
//! | `jobs:<tenant>`, `dead:<tenant>`, `workflows:<tenant>` | sorted set | ids by name; `jobs` has no nodes |
//! | `gate:<tenant>,<id>` | string | a node that is a join; one that is a job has a record |
//! | `wf:<tenant>,<id>` | string | a workflow: what changes, see `WORKFLOW` in `workflows.lua` |
//! | `wft:<tenant>,<id>` | hash | its templates by number, its spec (`s`), bytes of all (`b`); while staged, `r` starts and `i` idempotency |
//! | `todo` | list | work items, see `ITEM` in `workflows.lua` |
//! | `deadlines` | sorted set | running workflows by deadline |
//! | `more:<tenant>,<id>` | string | broker options of a job, see `OPTIONS` in `limits.lua` |
//! | `deads:<tenant>` | hash | jobs in `dead:<tenant>` by queue |
//! | `upgrading` | string | the version from which the store is brought to this one, see `upgrade.rs` |
//! | `ready:<tenant>,<queue>` | sorted set | plain ids by priority and arrival |
//! | `lane:<tenant>,<queue>,<task>,<key>` | sorted set | the same of a key's sub-queue |
//! | `keys:<tenant>,<queue>,<task>` | sorted set | open keys of a task's sub-queue by priority and virtual finish time |
//! | `lanes:<tenant>,<queue>` | sorted set | tasks with an open sub-queue by priority and virtual finish time |
//! | `line:<tenant>,<queue>` | hash | what else is known of a tenant queue with sub-queues or a block, see `limits.lua` |
//! | `special` | hash | tenants with a control, tenant queues with a `line:…`, and `,` while anybody subscribes to events |
//! | `control:<tenant>` | hash | controls by `t`, `q:<queue>`, `k:<task>`; whether a queue is paused is in `queues:…` |
//! | `control:;<tenant>` | hash | what an operator lets it store: bytes of jobs (`j`), of documents (`d`), of key-value entries (`k`) and of blobs (`b`) |
//! | `parked` | sorted set | blocked tenant queues, tasks and keys by the time at which a rate opens them |
//! | `blocked:<tenant>[,<task>[,<key>]]` | set | queues in which something is blocked by that cap |
//! | `used`, `rates` | hash, sorted set | running jobs of sub-queues by `<tenant>,<task>[,<key>]`; until when rates are used up, microseconds |
//! | `paces` | hash | by what interval, microseconds, and burst that was reckoned |
//! | `holders` | hash | the worker of the last delivery by `<tenant>,<queue>`, while one runs |
//! | `uniq:<tenant>,<key>`, `uniq_due` | string, sorted set | unique keys; when those are over that are held for some time |
//! | `fair:<queue>` | sorted set | tenants with ready jobs in it, by virtual finish time as of the last look |
//! | `meta:turns`, `meta:rested` | sorted set | tenants with ready jobs, and others that were served lately, by virtual finish time; see `turns.lua` |
//! | `meta:open:<tenant>` | sorted set | queues in which a tenant has ready jobs, by virtual finish time among them |
//! | `meta:turn` | string | virtual time |
//! | `active_queues` | sorted set | queues by name: all that have a `fair:<queue>`, and some that had |
//! | `queues:<tenant>` | hash | `<queue>:r`, `:d`, `:p`: running, delayed, paused |
//! | `queue_used` | sorted set | queues by the time at which a job came into them last, or they were seen in use |
//! | `leases`, `look`, `retain` | sorted set | `<tenant>,<id>` by end of lease, time to look at it, time to delete it |
//! | `idem:<tenant>,<key>`, `idem_due` | string, sorted set | idempotency keys, and when they are over |
//! | `doc:<tenant>,<kind>`, `docs:…` | hash, sorted set | documents, and their names in order |
//! | `meta:held:<tenant>,<kind>` | hash | bytes that documents stand for, by name; without those that stand for none |
//! | `meta:stored:<tenant>` | hash | bytes that are stored of a tenant, see `storage.lua` |
//! | `meta:kv_v1:<tenant>,<bucket>`, `meta:kv_names_v1:…` | hash, sorted set | key-value entries by key, and the keys in order, see `kv.lua` |
//! | `meta:kv_buckets_v1:<tenant>` | sorted set | buckets that have entries, by name |
//! | `meta:kv_versions_v1` | hash | the last version of an entry by tenant |
//! | `meta:kv_expiry_v1` | sorted set | `<tenant>,<bucket>,<key>` of entries that expire, by when |
//! | `meta:usage_v1:<tenant>,<hour>` | hash | sums of usage by task, see `usage.lua` |
//! | `meta:usage_hours_v1` | sorted set | `<tenant>,<hour>` of those, by hour |
//! | `meta:blobs_v1:<tenant>`, `meta:blob_names_v1:…` | hash, sorted set | records of blobs by digest, and the digests in order, see `blobs.lua` |
//! | `meta:blob_refs_v1:<tenant>` | hash | the digests to which a job refers, by its id |
//! | `meta:blobs_unused_v1` | sorted set | `<tenant>,<digest>` of blobs to which no job refers, by the time since when |
//! | `meta:schedule_v1:<tenant>,<name>`, `meta:schedule_fires_v1:…` | hash, list | a schedule, and its newest fires, see `schedules.lua` |
//! | `meta:schedules_v1:<tenant>` | sorted set | names of schedules in order |
//! | `meta:schedules_due_v1` | sorted set | `<tenant>,<name>` of schedules by when somebody looks at them |
//! | `meta:schedule_revisions_v1` | hash | the last revision of a schedule by tenant |
//! | `meta:recounted_v1` | string | when those were last counted anew: the time at which that was begun |
//! | `meta:recounting_v1`, `meta:changed_v1` | string, hash | while they are counted anew: a token, and the bytes that came and went by `<tenant>,+<counter>` and `-`, see `recount.lua` |
//! | `meta:older_v1` | string | when a process that does not count bytes was noticed last |
//! | `meta:workers_v1` | sorted set | workers that count bytes, by the time at which they said something |
//! | `followed`, `events:<tenant>` | hash, list | event subscriptions: until when, and the last number, by tenant; their events |
//! | `last_event` | string | the highest number that an event had |
//! | `meta:services_v1` | hash | which process polls for a background service, and until when, see `service_leases.lua` |
//! | `meta:reaping_v1` | string | when leases were last taken back, and from when on they may be, see `maintenance.lua` |
//! | `idle:<queue>`, `idle:*` | sorted set | workers that claimed too few jobs of it, or of all, by the time of their claim; they are told of new ones |
//! | `workers`, `workers_seen`, `orders` | hash, sorted set, hash | what workers say, when they last did, orders to them |
//!
//! In `retain`, `w` stands behind the name of a workflow and `c` behind that of a job that was replaced; nodes are not in
//! it.
//! `work`, `done`, `cancel` and `schedules` after the prefix are channels, `work:<worker>` is one of a worker that waits in `idle:…`.

use umbel_broker::{DocumentKind, Topic};
use umbel_model::{JobId, TenantId, WorkerId};

/// Version of the keys and of what is in them. A store of a newer one is refused, an older one becomes one of this: 2
/// added workflows, 3 broker options and limits; each reads all that the ones before wrote.
pub(crate) const VERSION: u32 = 3;

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

    /// A pattern of all keys. A prefix is letters and digits, and the tag has none that a pattern reads.
    pub(crate) fn all(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// The keys of every function: one that routes it to the shard and says what is stored there, and one that never
    /// exists. While a Cluster moves the slot, a call with a key that exists would run half and die; with both it is
    /// answered TRYAGAIN before it runs.
    pub(crate) fn routing(&self) -> [String; 2] {
        [self.meta(), format!("{}never", self.prefix)]
    }

    /// The version of what is stored.
    pub(crate) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    /// The version from which the store is being brought to this one, while that is not done.
    pub(crate) fn upgrading(&self) -> String {
        format!("{}upgrading", self.prefix)
    }

    pub(crate) fn channel(&self, topic: Topic) -> String {
        let name = match topic {
            Topic::Work => "work",
            Topic::Done => "done",
            Topic::Cancel => "cancel",
            Topic::Schedules => "schedules",
        };
        format!("{}{name}", self.prefix)
    }

    /// What is published for one worker.
    pub(crate) fn work_channel(&self, worker: &WorkerId) -> String {
        format!("{}work:{worker}", self.prefix)
    }

    pub(crate) fn job(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}job:{}", self.prefix, member(tenant, id))
    }

    /// What the names of all jobs' records begin with.
    pub(crate) fn jobs_prefix(&self) -> String {
        format!("{}job:", self.prefix)
    }

    pub(crate) fn join(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}gate:{}", self.prefix, member(tenant, id))
    }

    /// Also with a pattern for the tenant.
    pub(crate) fn dead(&self, tenant: &str) -> String {
        format!("{}dead:{tenant}", self.prefix)
    }

    pub(crate) fn logs(&self, tenant: &TenantId, id: JobId) -> String {
        format!("{}log:{}", self.prefix, member(tenant, id))
    }

    /// No tenant has such a name: see `storage.lua`.
    pub(crate) fn storage_limit(&self, tenant: &TenantId) -> String {
        format!("{}control:;{tenant}", self.prefix)
    }

    pub(crate) fn stored(&self, tenant: &TenantId) -> String {
        format!("{}meta:stored:{tenant}", self.prefix)
    }

    /// What came and went while all is counted anew.
    pub(crate) fn changed_bytes(&self) -> String {
        format!("{}meta:changed_v1", self.prefix)
    }

    pub(crate) fn documents(&self, tenant: &TenantId, kind: DocumentKind) -> String {
        format!("{}doc:{}", self.prefix, shelf(tenant, kind))
    }

    /// What stands before and behind the tenant in the key of its documents of a kind.
    pub(crate) fn documents_of_all(&self, kind: DocumentKind) -> (String, String) {
        (format!("{}doc:", self.prefix), format!(",{}", kind.as_str()))
    }
}

/// How functions name a job.
pub(crate) fn member(tenant: &TenantId, id: JobId) -> String {
    format!("{tenant},{id}")
}

/// How functions name the documents of one kind.
pub(crate) fn shelf(tenant: &TenantId, kind: DocumentKind) -> String {
    format!("{tenant},{}", kind.as_str())
}
