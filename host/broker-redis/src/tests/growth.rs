//! What guests add, and what becomes of a job that was replaced.

use umbel_broker::submit_workflow;
use umbel_model::{
    Failure, JobState, Resolution,
    canvas::{Range, node_job},
};

use super::{
    chords::{chord, claim, job, settle, template, tenant},
    full::{growing, single, workflow},
    *,
};

#[tokio::test]
async fn a_workflow_that_is_given_twice_is_refused() {
    let subject = subject().await;
    let broker = &*subject.broker;
    broker.submit(&[single(1)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    let twice = growing(&held[0], vec![workflow(3, None), workflow(3, None)]);
    assert_eq!(broker.settle(&[twice], None).await.unwrap().0, [Settled::NoCapacity]);
    let once = growing(&held[0], vec![workflow(3, None)]);
    assert_eq!(broker.settle(&[once], None).await.unwrap().0, [Settled::Recorded]);
}

#[tokio::test]
async fn a_node_of_a_staged_workflow_is_not_cancelled() {
    let subject = subject().await;
    let broker = &*subject.broker;
    let NewWorkflow { head, nodes } = workflow(3, None);
    assert_eq!(broker.stage_workflow(&head).await.unwrap(), WorkflowSubmitted::Created);
    assert_eq!(broker.stage_nodes(&head.tenant, head.id, 0, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    let node = node_job(head.id, 0);
    assert_eq!(broker.cancel(&head.tenant, node, true).await.unwrap(), Cancelled::NotFound);
    assert_eq!(broker.start_workflow(&head.tenant, head.id).await.unwrap(), WorkflowSubmitted::Created);
    assert_eq!(broker.cancel(&head.tenant, node, true).await.unwrap(), Cancelled::Revoked);
}

#[tokio::test]
async fn a_replaced_job_that_ends_well_has_no_failure() {
    let subject = subject().await;
    let broker = &*subject.broker;
    broker.submit(&[single(1)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    let resolution = Resolution::Retry { delay_ms: 0, failure: Failure::new("E", "m") };
    broker.settle(&[Settle { resolution, ..settle(&held[0]) }], None).await.unwrap();
    assert_eq!(broker.promote(1).await.unwrap().moved, 1);
    let held = broker.claim(&claim(1)).await.unwrap();
    let child = workflow(2, Some(held[0].id));
    let resolution = Resolution::Replace { workflow: child.head.id };
    let replaced = Settle { resolution, ..growing(&held[0], vec![child]) };
    assert_eq!(broker.settle(&[replaced], None).await.unwrap().0, [Settled::Recorded]);
    let node = broker.claim(&claim(1)).await.unwrap();
    broker.settle(&[settle(&node[0])], None).await.unwrap();
    let record = broker.job(&tenant(), held[0].id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failure), (JobState::Succeeded, None));
}

#[tokio::test]
async fn a_group_whose_rest_was_cancelled_gets_no_more_members() {
    let subject = subject().await;
    let broker = &*subject.broker;
    let (head, mut nodes) = chord(1, 2);
    let NewWork::Join { cancel_rest, .. } = &mut nodes[0].work else { panic!("node 0 is the gate") };
    *cancel_rest = true;
    assert_eq!(submit_workflow(broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    let held = broker.claim(&claim(2)).await.unwrap();
    let resolution = Resolution::Fail { failure: Failure::new("E", "m") };
    broker.settle(&[Settle { resolution, ..settle(&held[0]) }], None).await.unwrap();
    let members = NewMembers {
        templates: vec![template(1, "echo")],
        nodes: vec![job(0, None, None, Vec::new(), "{}".into())],
        ends: vec![Range::one(0)],
        starts: vec![Range::one(0)],
    };
    let growth = Some(Box::new(Growth { workflows: Vec::new(), members: Some(members) }));
    let settled = broker.settle(&[Settle { growth, ..settle(&held[1]) }], None).await.unwrap().0;
    assert_eq!(settled, [Settled::NoCapacity]);
}
