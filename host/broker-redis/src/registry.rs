//! Workers, the orders to them, and documents.

use umbel_broker::{
    Document, DocumentKind, DocumentPut, Error, Expect, Ordered, PutDocument, Result, WORKER_TTL_MS, WorkerInfo,
    WorkerOrder,
};
use umbel_model::{TenantId, WorkerId};

use crate::{
    RedisBroker,
    answers::Answer,
    bytes::{corrupt, json, some},
    connection::Repeat,
    keys::shelf,
};

/// How often an order is put together with the one that stands when others come in between.
const ORDER_ATTEMPTS: u32 = 20;

impl RedisBroker {
    /// Keeps (`info`), forgets (no `info`) or lists (no `id`).
    async fn ask_workers(&self, id: &str, info: Vec<u8>) -> Result<Answer> {
        let args = vec![WORKER_TTL_MS.to_string().into_bytes(), id.into(), info];
        Answer::new(self.run("workers", args, Repeat::Safe).await?)
    }

    pub(crate) async fn keep_worker(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        let info = serde_json::to_vec(worker).map_err(corrupt)?;
        let order = self.ask_workers(worker.id.as_str(), info).await?.text()?;
        some(&order).map(serde_json::from_str).transpose().map_err(corrupt)
    }

    /// Reads the order that stands and puts both together, until nobody comes in between.
    pub(crate) async fn give_order(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        let (mut standing, mut next) = (String::new(), None::<WorkerOrder>);
        for _ in 0..ORDER_ATTEMPTS {
            let replacement = next.as_ref().map(json).transpose()?.unwrap_or_default();
            let args = [WORKER_TTL_MS.to_string(), worker.to_string(), standing, replacement];
            let args = args.map(String::into_bytes).to_vec();
            let mut answer = Answer::new(self.run("order", args, Repeat::OnlyUnsent).await?)?;
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

    pub(crate) async fn drop_worker(&self, worker: &WorkerId) -> Result<()> {
        self.signals.forget(worker);
        self.ask_workers(worker.as_str(), Vec::new()).await.map(drop)
    }

    pub(crate) async fn list_workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut answer = self.ask_workers("", Vec::new()).await?;
        let mut workers: Vec<WorkerInfo> = Vec::new();
        while !answer.done() {
            workers.push(serde_json::from_slice(&answer.bytes()?).map_err(corrupt)?);
        }
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    /// A put that asks for a version and whose reply was lost would conflict with itself if it were repeated.
    pub(crate) async fn write_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        let expected = match put.expect {
            Expect::Any => String::new(),
            Expect::Absent => "0".into(),
            Expect::Version(version) => version.to_string(),
        };
        let args = [
            shelf(&put.tenant, put.kind),
            put.name.clone(),
            expected,
            if put.body.is_some() { "1" } else { "0" }.into(),
            put.body.clone().unwrap_or_default(),
            self.limits.max_documents.to_string(),
        ];
        let args = args.map(String::into_bytes).to_vec();
        let function = if put.body.is_some() { "put_document" } else { "delete_document" };
        let mut answer = Answer::new(self.run(function, args, Repeat::OnlyUnsent).await?)?;
        let (code, version) = (answer.bytes()?, answer.number()? as u64);
        match code.as_slice() {
            b"S" => Ok(DocumentPut::Stored(version)),
            b"C" => Ok(DocumentPut::Conflict(version)),
            b"F" => Ok(DocumentPut::Full),
            _ => Err(Error::Failed("a function answered with a code that is not known".into())),
        }
    }

    pub(crate) async fn read_document(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        name: &str,
    ) -> Result<Option<Document>> {
        let hget = redis::cmd("HGET").arg(self.connection.keys.documents(tenant, kind)).arg(name).to_owned();
        match self.command(&hget).await? {
            redis::Value::BulkString(bytes) => {
                document(name.into(), String::from_utf8(bytes).map_err(corrupt)?).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(crate) async fn list_documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Document>> {
        let after = after.map(|name| format!("({name}")).unwrap_or_default();
        let args = [shelf(tenant, kind), after, max.to_string()].map(String::into_bytes).to_vec();
        let mut answer = Answer::new(self.run("documents", args, Repeat::Safe).await?)?;
        let mut documents = Vec::new();
        while !answer.done() {
            documents.push(document(answer.text()?, answer.text()?)?);
        }
        Ok(documents)
    }
}

fn document(name: String, stored: String) -> Result<Document> {
    let (version, body) = stored.split_once(' ').ok_or_else(|| corrupt("a document has no version"))?;
    Ok(Document { name, version: version.parse().map_err(corrupt)?, body: body.into() })
}
