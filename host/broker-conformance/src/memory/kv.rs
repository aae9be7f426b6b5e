//! Key-value entries of the in-memory model.

use umbel_model::{BucketName, KvKey, TenantId};

use super::state::State;
use umbel_broker::{
    rules::kv::{self, Filling, Next},
    *,
};

impl State {
    pub(super) fn kv_get(&self, tenant: &TenantId, bucket: &BucketName, keys: &[KvKey]) -> Vec<Option<KvEntry>> {
        let found = |key: &KvKey| self.kv.get(&(tenant.clone(), bucket.clone(), key.clone()));
        let there = |entry: &&KvEntry| !kv::is_over(entry.expires_at, self.now);
        keys.iter().map(|key| found(key).filter(there).cloned()).collect()
    }

    pub(super) fn kv_write(&mut self, write: &KvWrite) -> KvWritten {
        let KvWrite { tenant, bucket, key, .. } = write;
        if let Some(KvDelivery { job, token }) = &write.delivery
            && !self.jobs.get(&(tenant.clone(), *job)).is_some_and(|job| job.held_by(token))
        {
            return KvWritten::Stale;
        }
        let name = (tenant.clone(), bucket.clone(), key.clone());
        let old = self.kv.get(&name);
        match kv::decide(write, old, self.now, self.limits.max_value_bytes) {
            Next::Answer(answer) => answer,
            Next::Remove => {
                self.kv.remove(&name);
                KvWritten::Deleted(true)
            }
            Next::Put { value, expires_at, number } => {
                let old_bytes = old.map_or(0, |entry| kv::bytes(key, entry.value.len()));
                let new_bytes = kv::bytes(key, value.len());
                let buckets = self.kv_buckets(tenant);
                let others = buckets.iter().all(|known| known.name != *bucket).then_some(buckets.len() as u64);
                let (most, limit) = (self.limits.max_buckets, self.limits_of(tenant).kv);
                let refused = kv::refuses(old_bytes, new_bytes, others, most, limit, || self.kv_bytes(tenant));
                if let Some(answer) = refused {
                    return answer;
                }
                let version = self.kv_versions.entry(tenant.clone()).or_default();
                *version += 1;
                self.kv.insert(name, KvEntry { version: *version, expires_at, value: value.into_owned() });
                kv::stored(*version, number)
            }
        }
    }

    pub(super) fn kv_list(&self, query: &KvQuery) -> KvPage {
        let mut filling = Filling::new(query.max, self.now);
        for ((tenant, bucket, key), entry) in &self.kv {
            let is_asked =
                *tenant == query.tenant && *bucket == query.bucket && key.as_str().starts_with(&query.prefix);
            if is_asked
                && query.after.as_ref().is_none_or(|after| key > after)
                && !filling.add(key.clone(), entry.clone())
            {
                break;
            }
        }
        filling.finish()
    }

    pub(super) fn kv_buckets(&self, tenant: &TenantId) -> Vec<KvBucket> {
        let mut buckets: Vec<KvBucket> = Vec::new();
        for (_, name, _) in self.kv.keys().filter(|(of, ..)| of == tenant) {
            match buckets.last_mut().filter(|last| last.name == *name) {
                Some(last) => last.entries += 1,
                None => buckets.push(KvBucket { name: name.clone(), entries: 1 }),
            }
        }
        buckets
    }

    pub(super) fn kv_delete_bucket(&mut self, tenant: &TenantId, bucket: &BucketName, max: u32) -> KvBucketDeleted {
        let mine = |(of, name, _): &(TenantId, BucketName, KvKey)| of == tenant && name == bucket;
        let keys: Vec<_> = self.kv.keys().filter(|key| mine(key)).take(max.min(KV_STEP) as usize).cloned().collect();
        self.kv.retain(|key, _| !keys.contains(key));
        KvBucketDeleted { deleted: keys.len() as u32, has_more: self.kv.keys().any(mine) }
    }

    pub(super) fn kv_bytes(&self, tenant: &TenantId) -> u64 {
        let mine = self.kv.iter().filter(|((of, ..), _)| of == tenant);
        mine.map(|((_, _, key), entry)| kv::bytes(key, entry.value.len())).sum()
    }
}
