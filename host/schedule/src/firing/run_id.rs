//! The id of a run: the same for whoever starts it.

use sha2::{Digest as _, Sha256};
use umbel_model::{JobId, TenantId};

use super::Start;

/// The id of a job that a schedule starts. `key` is that of its state. Two servers that fire the same time name the same job,
/// and a schedule that was deleted and made again names others.
pub fn job_id(tenant: &TenantId, schedule: &str, key: &str, start: &Start) -> JobId {
    JobId::from_parts(start.nominal_at, hash(tenant, schedule, key, start))
}

/// The same of a workflow: its low 32 bits are zero.
pub fn workflow_id(tenant: &TenantId, schedule: &str, key: &str, start: &Start) -> JobId {
    JobId::from_parts(start.nominal_at, hash(tenant, schedule, key, start) & !0xffff_ffff)
}

fn hash(tenant: &TenantId, schedule: &str, key: &str, start: &Start) -> u128 {
    let mut hasher = Sha256::new();
    let nominal = start.nominal_at.to_string();
    let backfill = start.backfill.as_deref().unwrap_or("-");
    for part in [tenant.as_str(), schedule, key, &nominal, backfill] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let first = digest.first_chunk::<16>().copied().unwrap_or_default();
    // The random part of an id has 80 bits.
    u128::from_be_bytes(first) >> 48
}
