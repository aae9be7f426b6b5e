//! Large arguments and results, which are in the module store.

use futures::TryStreamExt as _;
use umbel_broker::LargeValues as _;
use umbel_model::{Acks, Digest, JobRecord, JobState, LargeValue, PolicyPatch, QueueName};
use umbel_modules::ValueEntry;

use crate::{
    guest::FORGED,
    support::{World, next_id, tenant},
};

async fn values(world: &World) -> Vec<ValueEntry> {
    world.store.values().try_collect().await.unwrap()
}

fn stored(job: &JobRecord) -> LargeValue {
    LargeValue::from_reference(job.result.as_ref().unwrap().get()).unwrap()
}

#[tokio::test]
async fn a_large_result_lies_beside_the_modules_and_a_reference_in_its_place() {
    let world = World::new().await;
    let _worker = world.start();
    let id = world.submit('b').await;
    let job = world.ended(id).await;
    let stored = stored(&job);
    assert_eq!((job.state, stored.of, stored.bytes), (JobState::Succeeded, id, 70_002));
    let text = world.runtime.read(&tenant(), &stored).await.unwrap();
    assert_eq!(text, format!("\"{}\"", "e".repeat(70_000)));
    let small = world.submit('e').await;
    assert_eq!(world.ended(small).await.result.unwrap().get(), r#"{"d":"e"}"#);
}

#[tokio::test]
async fn a_guest_cannot_forge_a_reference() {
    let world = World::new().await;
    let _worker = world.start();
    let id = world.submit('g').await;
    let stored = stored(&world.ended(id).await);
    assert_eq!(stored.of, id);
    assert_eq!(world.runtime.read(&tenant(), &stored).await.unwrap(), *FORGED);
}

#[tokio::test]
async fn large_arguments_are_fetched_before_the_run_and_lost_ones_fail_the_job() {
    let world = World::new().await;
    let _worker = world.start();
    let arguments = format!(r#"{{"d":"e{}"}}"#, "x".repeat(100_000));
    let spec = |stored: &LargeValue| {
        let more = format!(r#","stored_arguments":{}"#, serde_json::to_string(stored).unwrap());
        world.spec("{}", &PolicyPatch::default(), &more)
    };
    let id = next_id();
    let put = world.store.put_value(&tenant(), id, &arguments).await.unwrap();
    world.submit_as(id, QueueName::default(), spec(&put)).await;
    let result = stored(&world.ended(id).await);
    assert_eq!(world.runtime.read(&tenant(), &result).await.unwrap(), arguments);
    let lost = LargeValue { sha256: Digest::of(b"nothing"), ..put };
    let job = world.submit_spec(spec(&lost)).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, job.failure.unwrap().kind.as_str()), (JobState::Failed, "value_lost"));
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_puts_its_job_aside_unless_it_may_run_only_once() {
    let world = World::new().await;
    std::fs::write(world.modules().join("values"), "in the way").unwrap();
    let _worker = world.start();
    let job = world.submit('b').await;
    let job = world.until(job, |job| job.state == JobState::Scheduled).await;
    assert_eq!((job.retries, job.history[0].outcome.as_str()), (0, "snoozed"));
    let early = PolicyPatch { acks: Some(Acks::Early), ..PolicyPatch::default() };
    let job = world.submit_with('b', &early).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, job.failure.unwrap().kind.as_str()), (JobState::Failed, "value_unavailable"));
}

#[tokio::test]
async fn a_large_result_that_nobody_wants_is_stored_nowhere() {
    let world = World::new().await;
    let _worker = world.start();
    let quiet = PolicyPatch { ignore_result: Some(true), ..PolicyPatch::default() };
    let job = world.submit_with('b', &quiet).await;
    assert!(world.ended(job).await.result.is_none());
    assert!(values(&world).await.is_empty());
}
