//! Workers, the orders to them, and documents.

use std::collections::BTreeSet;

use async_trait::async_trait;
use umbel_broker::{
    Document, DocumentKind, DocumentPage, DocumentPut, Error, Expect, Limits, Ordered, PutDocument, Registry, Result,
    WORKER_TTL_MS, WorkerInfo, WorkerOrder,
};
use umbel_model::{TenantId, WorkerId};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    bytes::{corrupt, json, some},
    connection::Repeat,
    keys::shelf,
    unknown_code,
};

/// How often an order is put together with the one that stands when others come in between.
const ORDER_ATTEMPTS: u32 = 20;

impl RedisBroker {
    /// Keeps (`info`), forgets (no `info`) or lists (no `id`).
    async fn ask_workers(&self, id: &str, info: &str) -> Result<Answer> {
        self.answer("workers", args([&WORKER_TTL_MS, &id, &info]), Repeat::Safe).await
    }
}

#[async_trait]
impl Registry for RedisBroker {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        let order = self.ask_workers(worker.id.as_str(), &json(worker)?).await?.text()?;
        some(&order).map(serde_json::from_str).transpose().map_err(corrupt)
    }

    /// Reads the order that stands and puts both together, until nobody comes in between.
    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        let (mut standing, mut next) = (String::new(), None::<WorkerOrder>);
        for _ in 0..ORDER_ATTEMPTS {
            let replacement = next.as_ref().map(json).transpose()?.unwrap_or_default();
            let args = args([&WORKER_TTL_MS, worker, &standing, &replacement]);
            let mut answer = self.answer("order", args, Repeat::OnlyUnsent).await?;
            match (answer.bytes()?.as_slice(), &next) {
                (b"U", _) => return Ok(Ordered::Unknown),
                (b"S", Some(given)) => return Ok(Ordered::Told(given.number)),
                _ => standing = answer.text()?,
            }
            let info: WorkerInfo = serde_json::from_str(&answer.text()?).map_err(corrupt)?;
            let old = some(&standing).map(serde_json::from_str).transpose().map_err(corrupt)?;
            next = Some(old.unwrap_or_else(|| WorkerOrder::after(&info)).followed_by(order));
        }
        Err(Error::Unavailable("others give orders to the same worker all the time".into()))
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        self.signals.forget(worker);
        self.ask_workers(worker.as_str(), "").await.map(drop)
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut answer = self.ask_workers("", "").await?;
        let mut workers: Vec<WorkerInfo> =
            answer.rest(|answer| serde_json::from_slice(&answer.bytes()?).map_err(corrupt))?;
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    /// A put that asks for a version and whose reply was lost would conflict with itself if it were repeated.
    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        let expected = match put.expect {
            Expect::Any => String::new(),
            Expect::Absent => "0".into(),
            Expect::Version(version) => version.to_string(),
        };
        let shelf = shelf(&put.tenant, put.kind);
        let (has_body, body) = (u8::from(put.body.is_some()), put.body.as_deref().unwrap_or_default());
        let Limits { max_documents, .. } = self.limits;
        let args = args([&shelf, &put.name, &expected, &has_body, &body, &max_documents, &put.held_bytes]);
        // A purge is how a full server is emptied, a pause how what fills it is stopped, and grants must be narrowed at any time.
        let is_urgent = matches!(put.kind, DocumentKind::Bulk | DocumentKind::ControlLayers | DocumentKind::Grants);
        let needs_room = put.body.is_some() && !is_urgent;
        let function = if needs_room { "put_document" } else { "delete_document" };
        let mut answer = self.answer(function, args, Repeat::OnlyUnsent).await?;
        let (code, version) = (answer.bytes()?, answer.number()? as u64);
        match code.as_slice() {
            b"S" => Ok(DocumentPut::Stored(version)),
            b"C" => Ok(DocumentPut::Conflict(version)),
            b"F" => Ok(DocumentPut::Full),
            b"B" => Ok(DocumentPut::StorageFull),
            _ => Err(unknown_code()),
        }
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        let hget = redis::cmd("HGET").arg(self.connection.keys.documents(tenant, kind)).arg(name).to_owned();
        match self.command(&hget).await? {
            redis::Value::BulkString(bytes) => {
                document(name.into(), &String::from_utf8(bytes).map_err(corrupt)?).map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<DocumentPage> {
        let after = after.map(|name| format!("({name}")).unwrap_or_default();
        let mut answer = self.answer("documents", args([&shelf(tenant, kind), &after, &max]), Repeat::Safe).await?;
        let documents = answer.rest(|answer| document(answer.text()?, &answer.text()?))?;
        Ok(DocumentPage::new(documents, max))
    }

    async fn document_tenants(&self, kind: DocumentKind) -> Result<Vec<TenantId>> {
        let (before, after) = self.connection.keys.documents_of_all(kind);
        let mut tenants = BTreeSet::new();
        self.each_key(&format!("{before}*{after}"), |key| {
            let tenant = key.strip_prefix(&before).and_then(|key| key.strip_suffix(&after));
            tenants.extend(tenant.and_then(|tenant| tenant.parse::<TenantId>().ok()));
        })
        .await?;
        Ok(tenants.into_iter().collect())
    }
}

fn document(name: String, stored: &str) -> Result<Document> {
    let (version, body) = stored.split_once(' ').ok_or_else(|| corrupt("a document has no version"))?;
    Ok(Document { name, version: version.parse().map_err(corrupt)?, body: body.into() })
}
