//! Workers, documents and leases of services of the in-memory model.

use umbel_model::{TenantId, WorkerId};

use super::state::State;
use umbel_broker::{rules::storage, *};

impl State {
    pub(super) fn heartbeat(&mut self, worker: &WorkerInfo) -> Option<WorkerOrder> {
        self.forget_silent();
        let order = self.workers.get(&worker.id).and_then(|(_, _, order)| order.clone());
        self.workers.insert(worker.id.clone(), (self.now, worker.clone(), order.clone()));
        order
    }

    pub(super) fn order_worker(&mut self, worker: &WorkerId, order: &WorkerOrder) -> Ordered {
        self.forget_silent();
        let Some((_, info, given)) = self.workers.get_mut(worker) else { return Ordered::Unknown };
        let merged = given.take().unwrap_or_else(|| WorkerOrder::after(info)).followed_by(order);
        let number = merged.number;
        *given = Some(merged);
        Ordered::Told(number)
    }

    fn forget_silent(&mut self) {
        self.workers.retain(|_, (seen, ..)| *seen + WORKER_TTL_MS > self.now);
    }

    pub(super) fn forget_worker(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
    }

    pub(super) fn workers(&mut self) -> Vec<WorkerInfo> {
        self.forget_silent();
        self.workers.values().map(|(_, info, _)| info.clone()).collect()
    }

    pub(super) fn hold_service(&mut self, service: &str, process: &str, ttl_ms: u64) -> Option<u64> {
        if let Some((holder, until)) = self.services.get(service)
            && holder != process
            && *until > self.now
        {
            return Some(*until - self.now);
        }
        self.services.insert(service.to_owned(), (process.to_owned(), self.now + ttl_ms));
        None
    }

    pub(super) fn put_document(&mut self, put: &PutDocument) -> DocumentPut {
        let mine = self.documents.keys().filter(|(tenant, kind, _)| *tenant == put.tenant && *kind == put.kind);
        let count = mine.count() as u64;
        let key = (put.tenant.clone(), put.kind, put.name.clone());
        let found = self.documents.get(&key).map_or(0, |d| d.version);
        let mut answer = put.decide(found, count >= self.limits.max_documents);
        if let (DocumentPut::Stored(version), Some(body)) = (answer, &put.body) {
            let of = |document: &Document| storage::document(&document.name, document.version, &document.body);
            let old = self.documents.get(&key).map_or(0, |document| of(document) + self.held_bytes[&key]);
            let new = storage::document(&put.name, version, body) + put.held_bytes;
            let used = || self.stored_bytes(&put.tenant).documents;
            if storage::refuses_document(self.limits_of(&put.tenant).documents, used, put, old, new) {
                answer = DocumentPut::StorageFull;
            }
        }
        match (answer, &put.body) {
            (DocumentPut::Stored(version), Some(body)) => {
                let (name, body) = (put.name.clone(), body.clone());
                self.held_bytes.insert(key.clone(), put.held_bytes);
                self.documents.insert(key, Document { name, version, body });
            }
            (DocumentPut::Stored(_), None) => {
                self.documents.remove(&key);
                self.held_bytes.remove(&key);
            }
            _ => {}
        }
        answer
    }

    pub(super) fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Option<Document> {
        self.documents.get(&(tenant.clone(), kind, name.to_owned())).cloned()
    }

    pub(super) fn document_tenants(&self, kind: DocumentKind) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> =
            self.documents.keys().filter(|(_, of, _)| *of == kind).map(|(tenant, ..)| tenant.clone()).collect();
        tenants.dedup();
        tenants
    }

    pub(super) fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> DocumentPage {
        let mine = self.documents.iter().filter(|((t, k, _), _)| t == tenant && *k == kind);
        let rest = mine.filter(|((_, _, name), _)| after.is_none_or(|after| name.as_str() > after));
        let mut bytes = 0;
        let page = rest.take(max as usize).take_while(|(_, document)| {
            let has_room = bytes < PAGE_BYTES;
            bytes += document.body.len();
            has_room
        });
        DocumentPage::new(page.map(|(_, document)| document.clone()).collect(), max)
    }
}
