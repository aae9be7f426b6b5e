//! A worker on a broker in memory, with one real module.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use umbel_broker::{Clock, Jobs, Maintenance, NewJob, Start, Submitted};
use umbel_model::{Digest, JobId, JobRecord, JobState, PolicyPatch, QueueName, TaskName, TenantId};
use umbel_modules::{CodeCache, HostKey, ModuleStore};
use umbel_sandbox::{CompileLimits, Compiler, CompilerCommand, Sandbox, SandboxConfig};
use umbel_worker::{Queues, Runtime, RuntimeConfig, Worker, WorkerConfig, WorkerHandle, unique_worker_id};

use crate::{broker::Flaky, guest::MODULE};

/// Patience of a wait for a condition: only a broken worker ever uses it up.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub broker: Arc<Flaky>,
    /// The broker's clock, when the test moves it.
    pub clock: Option<Arc<AtomicU64>>,
    pub runtime: Runtime,
    pub store: ModuleStore,
    pub config: WorkerConfig,
    pub digest: Digest,
    _folder: tempfile::TempDir,
    _passing: Option<PassingTime>,
}

/// Promotes and reaps until it is dropped.
struct PassingTime(tokio::task::JoinHandle<()>);

impl Drop for PassingTime {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn next_id() -> JobId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    JobId::from_parts(now.as_millis() as u64, NEXT.fetch_add(1, Ordering::SeqCst).into())
}

pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

/// Of a guest that computes until it is stopped.
pub fn spinning() -> PolicyPatch {
    PolicyPatch { fuel: Some(100_000_000_000_000), ..PolicyPatch::default() }
}

pub fn tenant() -> TenantId {
    TenantId::new("t1").unwrap()
}

impl World {
    /// On the real clock, with the background services.
    pub async fn new() -> Self {
        let mut world = Self::build(Clock::Server, None).await;
        let broker = world.broker.clone();
        world._passing = Some(PassingTime(tokio::spawn(async move {
            loop {
                broker.promote(100).await.unwrap();
                broker.reap(100).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })));
        world
    }

    /// On a clock that the test moves; nothing happens by itself.
    pub async fn frozen() -> Self {
        let (clock, handle) = Clock::manual(1_000_000);
        Self::build(clock, Some(handle)).await
    }

    async fn build(clock: Clock, handle: Option<Arc<AtomicU64>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path().join("modules")).await.unwrap();
        let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
        let key = HostKey::load_or_create(folder.path().join("key")).unwrap();
        let code = CodeCache::open(folder.path().join("code"), key, 1 << 30).unwrap();
        let command = CompilerCommand { program: env!("CARGO_BIN_EXE_umbel-worker-compile").into(), args: vec![] };
        let sandbox = Sandbox::new(SandboxConfig { slots: 16, ..SandboxConfig::default() }).unwrap();
        let compiler = Compiler::new(command, CompileLimits::default());
        let runtime = Runtime::new(RuntimeConfig::default(), store.clone(), code, compiler, sandbox);
        runtime.prepared(&tenant(), digest).await.unwrap();
        let queues = Queues::Named(vec![QueueName::default()]);
        let config = WorkerConfig { queues, concurrency: 4, guest_threads: 2, ..WorkerConfig::default() };
        Self {
            broker: Flaky::new(clock),
            clock: handle,
            runtime,
            store,
            config,
            digest,
            _folder: folder,
            _passing: None,
        }
    }

    /// As after a start with no compiled code, and with a compiler that never ends.
    pub async fn hang_compiler(&mut self) {
        let folder = self._folder.path();
        let store = ModuleStore::local(folder.join("modules")).await.unwrap();
        let key = HostKey::load_or_create(folder.join("key")).unwrap();
        let code = CodeCache::open(folder.join("empty"), key, 1 << 30).unwrap();
        let command = CompilerCommand { program: "/bin/sleep".into(), args: vec!["600".into()] };
        let sandbox = Sandbox::new(SandboxConfig { slots: 16, ..SandboxConfig::default() }).unwrap();
        let compiler = Compiler::new(command, CompileLimits::default());
        self.runtime = Runtime::new(RuntimeConfig::default(), store, code, compiler, sandbox);
    }

    pub fn start(&self) -> WorkerHandle {
        let mut config = self.config.clone();
        config.id = unique_worker_id();
        Worker::start(self.broker.clone(), self.runtime.clone(), config).unwrap()
    }

    /// Where its modules and large values are.
    pub fn modules(&self) -> std::path::PathBuf {
        self._folder.path().join("modules")
    }

    pub fn advance(&self, ms: u64) {
        self.clock.as_ref().unwrap().fetch_add(ms, Ordering::SeqCst);
    }

    /// A job that does what `letter` says in `guest.rs`.
    pub async fn submit(&self, letter: char) -> JobId {
        self.submit_with(letter, &PolicyPatch::default()).await
    }

    pub async fn submit_with(&self, letter: char, policy: &PolicyPatch) -> JobId {
        self.submit_spec(self.spec(&format!(r#"{{"d":"{letter}"}}"#), policy, "")).await
    }

    pub async fn submit_spec(&self, spec: String) -> JobId {
        self.submit_as(next_id(), QueueName::default(), spec).await
    }

    /// The arguments and the policy of a job of the module's task, as its record has them.
    pub fn spec(&self, arguments: &str, policy: &PolicyPatch, more: &str) -> String {
        let (digest, policy) = (self.digest, serde_json::to_string(policy).unwrap());
        format!(r#"{{"v":2,"task":"task","digest":"{digest}","arguments":{arguments},"policy":{policy}{more}}}"#)
    }

    pub async fn submit_as(&self, id: JobId, queue: QueueName, spec: String) -> JobId {
        let job = self.new_job(id, queue, spec);
        assert_eq!(self.broker.submit(&[job]).await.unwrap(), [Submitted::Created]);
        id
    }

    pub fn new_job(&self, id: JobId, queue: QueueName, spec: String) -> NewJob {
        NewJob {
            id,
            tenant: tenant(),
            task: TaskName::new("task").unwrap(),
            queue,
            priority: 5,
            spec,
            start: Start::Now,
            expires_ms: 0,
            max_deliveries: 5,
            result_ttl_ms: 3_600_000,
            dead_ttl_ms: 3_600_000,
            expires_at: None,
            broker_options: None,
            idempotency: None,
            redrive_of: None,
            labels: Vec::new(),
            blobs: Vec::new(),
        }
    }

    pub async fn job(&self, id: JobId) -> JobRecord {
        self.broker.job(&tenant(), id).await.unwrap().unwrap()
    }

    /// The job once `wanted` holds.
    pub async fn until(&self, id: JobId, wanted: impl Fn(&JobRecord) -> bool) -> JobRecord {
        let waiting = async {
            loop {
                let job = self.job(id).await;
                if wanted(&job) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(job) => job,
            Err(_) => panic!("{:?}", self.job(id).await),
        }
    }

    pub async fn ended(&self, id: JobId) -> JobRecord {
        self.until(id, |job| job.state.is_terminal()).await
    }

    pub async fn running(&self, id: JobId) -> JobRecord {
        self.until(id, |job| job.state == JobState::Running).await
    }
}

/// What each line of the history says.
pub fn outcomes(job: &JobRecord) -> Vec<&str> {
    job.history.iter().map(|line| line.outcome.as_str()).collect()
}
