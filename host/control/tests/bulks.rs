//! Actions on many jobs are carried out by the services, in turn, and large values go with their jobs.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use umbel_broker::{Broker, NewJob, Start};
use umbel_broker_conformance::MemoryBroker;
use umbel_bulk::{Action, Bulk, Filter, State};
use umbel_control::{Control, ControlConfig, Dependencies};
use umbel_model::{JobId, JobState, QueueName, TaskName, TenantId};
use umbel_modules::ModuleStore;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn job(tenant: &TenantId, n: u128) -> NewJob {
    NewJob {
        id: JobId::from_parts(1, n),
        tenant: tenant.clone(),
        task: TaskName::new("add").unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: "{}".into(),
        start: Start::Now,
        expires_ms: 0,
        expires_at: None,
        max_deliveries: 2,
        result_ttl_ms: 86_400_000,
        dead_ttl_ms: 86_400_000,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

/// Waits, in the tests' own time, until it is so.
async fn until<F: Future<Output = bool>>(ask: impl Fn() -> F) {
    for _ in 0..1_000 {
        if ask().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came");
}

async fn cancel_all(broker: &dyn Broker, tenant: &TenantId, n: u128) -> JobId {
    let bulk = Bulk::new(JobId::from_parts(2, n), Action::Cancel, Filter::default(), 1);
    let id = bulk.id;
    umbel_bulk::start(broker, tenant, bulk).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn actions_of_two_tenants_are_carried_out_by_two_replicas_and_counted_once() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
    let (large, small) = (tenant("large"), tenant("small"));
    let jobs: Vec<NewJob> = (0..1_500).map(|n| job(&large, n)).chain((0..3).map(|n| job(&small, 10_000 + n))).collect();
    broker.submit(&jobs).await.unwrap();
    let all = cancel_all(&*broker, &large, 1).await;
    let few = cancel_all(&*broker, &small, 2).await;
    let replicas = [(); 2].map(|()| Control::start(broker.clone(), &ControlConfig::default()));
    for (tenant, id, count) in [(&small, few, 3), (&large, all, 1_500)] {
        let (broker, id) = (&broker, &id);
        until(|| async move { umbel_bulk::load(&**broker, tenant, *id).await.unwrap().unwrap().state == State::Done })
            .await;
        let bulk = umbel_bulk::load(&**broker, tenant, *id).await.unwrap().unwrap();
        assert_eq!((bulk.matched, bulk.done, bulk.failed), (count, count, 0));
    }
    let one = broker.job(&large, JobId::from_parts(1, 700)).await.unwrap().unwrap();
    assert_eq!(one.state, JobState::Revoked);
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_large_value_is_deleted_when_its_job_is_gone_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
    let (a, b) = (tenant("a"), tenant("b"));
    let there = job(&a, 1);
    broker.submit(std::slice::from_ref(&there)).await.unwrap();
    let kept = store.put_value(&a, there.id, "1").await.unwrap();
    // The same job id in another tenant's folder is nobody's.
    let others = store.put_value(&b, there.id, "22").await.unwrap();
    let gone = store.put_value(&a, JobId::from_parts(1, 2), "333").await.unwrap();
    let dependencies = Dependencies { store: Some(store.clone()), ..Dependencies::from(broker.clone()) };
    let young = ControlConfig { sweep_every: Duration::from_millis(10), ..ControlConfig::default() };
    let config = ControlConfig { sweep_grace: Duration::ZERO, ..young.clone() };

    let control = Control::start(dependencies.clone(), &young);
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.stop().await;
    assert_eq!(store.value(&a, &gone).await.unwrap(), "333", "its submission may be under way");

    let control = Control::start(dependencies, &config);
    let (store, gone, others) = (&store, &gone, &others);
    let (a, b) = (&a, &b);
    until(|| async move { store.value(a, gone).await.is_err() && store.value(b, others).await.is_err() }).await;
    control.stop().await;
    assert_eq!(store.value(a, &kept).await.unwrap(), "1");
}
