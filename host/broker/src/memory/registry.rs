//! Workers, documents and leases of services of the in-memory model.

use umbel_model::{TenantId, UnixMs, WorkerId};

use super::state::State;
use crate::*;

impl State {
    pub(super) fn heartbeat(&mut self, now: UnixMs, worker: &WorkerInfo) -> Option<WorkerOrder> {
        self.forget_silent(now);
        let order = self.workers.get(&worker.id).and_then(|(_, _, order)| order.clone());
        self.workers.insert(worker.id.clone(), (now, worker.clone(), order.clone()));
        order
    }

    pub(super) fn order_worker(&mut self, now: UnixMs, worker: &WorkerId, order: &WorkerOrder) -> Ordered {
        self.forget_silent(now);
        let Some((_, info, given)) = self.workers.get_mut(worker) else { return Ordered::Unknown };
        let merged = given.take().unwrap_or_else(|| WorkerOrder::after(info)).followed_by(order);
        let number = merged.number;
        *given = Some(merged);
        Ordered::Told(number)
    }

    fn forget_silent(&mut self, now: UnixMs) {
        self.workers.retain(|_, (seen, ..)| *seen + WORKER_TTL_MS > now);
    }

    pub(super) fn forget_worker(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
    }

    pub(super) fn workers(&mut self, now: UnixMs) -> Vec<WorkerInfo> {
        self.forget_silent(now);
        self.workers.values().map(|(_, info, _)| info.clone()).collect()
    }

    pub(super) fn hold_service(&mut self, now: UnixMs, service: &str, process: &str, ttl_ms: u64) -> Option<u64> {
        if let Some((holder, until)) = self.services.get(service)
            && holder != process
            && *until > now
        {
            return Some(*until - now);
        }
        self.services.insert(service.to_owned(), (process.to_owned(), now + ttl_ms));
        None
    }

    pub(super) fn put_document(&mut self, put: &PutDocument) -> DocumentPut {
        let count = self.documents.keys().filter(|(t, k, _)| *t == put.tenant && *k == put.kind).count() as u64;
        let key = (put.tenant.clone(), put.kind, put.name.clone());
        let found = self.documents.get(&key).map_or(0, |d| d.version);
        let expected = match put.expect {
            Expect::Any => true,
            Expect::Absent => found == 0,
            Expect::Version(version) => found == version,
        };
        if !expected {
            return DocumentPut::Conflict(found);
        }
        let Some(body) = &put.body else {
            self.documents.remove(&key);
            return DocumentPut::Stored(0);
        };
        if found == 0 && count >= self.limits.max_documents {
            return DocumentPut::Full;
        }
        let version = found + 1;
        self.documents.insert(key, Document { name: put.name.clone(), version, body: body.clone() });
        DocumentPut::Stored(version)
    }

    pub(super) fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Option<Document> {
        self.documents.get(&(tenant.clone(), kind, name.to_owned())).cloned()
    }

    pub(super) fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Vec<Document> {
        let mine = self.documents.iter().filter(|((t, k, _), _)| t == tenant && *k == kind);
        let rest = mine.filter(|((_, _, name), _)| after.is_none_or(|after| name.as_str() > after));
        rest.take(max as usize).map(|(_, document)| document.clone()).collect()
    }
}
