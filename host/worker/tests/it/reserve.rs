//! The reserve: a short job of another tenant starts while long attempts hold all other slots.

use umbel_broker::{Jobs, NewJob};
use umbel_model::{JobId, JobState, PolicyPatch, QueueName, TenantId};

use crate::support::{PATIENCE, World, next_id, spinning};

async fn submit_other(world: &World, other: &TenantId) -> JobId {
    let spec = world.spec(r#"{"d":"e"}"#, &PolicyPatch::default(), "");
    let job = NewJob { tenant: other.clone(), ..world.new_job(next_id(), QueueName::default(), spec) };
    let id = job.id;
    world.broker.submit(&[job]).await.unwrap();
    id
}

async fn other_ended(world: &World, other: &TenantId, id: JobId) {
    let ending = async {
        while world.broker.job(other, id).await.unwrap().unwrap().state != JobState::Succeeded {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, ending).await.expect("the other tenant's job does not wait for long attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_job_starts_while_long_attempts_of_another_tenant_hold_the_other_slots() {
    let world = World::new().await;
    let _worker = world.start();
    let other = TenantId::new("t2").unwrap();
    let first = submit_other(&world, &other).await;
    other_ended(&world, &other, first).await;
    let mut long = Vec::new();
    for _ in 0..10 {
        long.push(world.submit_with('l', &spinning()).await);
    }
    // They log when they run: three of four slots are theirs.
    for id in &long[..3] {
        world.until(*id, |job| job.progress.is_some()).await;
    }
    for _ in 0..3 {
        let job = submit_other(&world, &other).await;
        other_ended(&world, &other, job).await;
    }
    for id in &long[3..] {
        assert!(world.job(*id).await.progress.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_alone_has_every_slot_whatever_its_attempts_take() {
    let world = World::new().await;
    let _worker = world.start();
    for _ in 0..4 {
        let job = world.submit_with('l', &spinning()).await;
        world.until(job, |job| job.progress.is_some()).await;
    }
}
