//! What may happen in a history.

use proptest::prelude::*;
use serde_json::Value;

use super::{
    requests::*,
    schedules::{ScheduleRequest, schedule_request},
    *,
};

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `again`: the reply is lost, and it is done again.
    Submit {
        requests: Vec<JobRequest>,
        again: bool,
    },
    /// Many jobs of one task: more than a claim looks at.
    Flood {
        request: JobRequest,
        count: u32,
    },
    /// `queues`: as many of the first ones; from 3 on, all but some. `lost`: nobody hears what was claimed.
    Claim {
        worker: u8,
        queues: u8,
        max: u32,
        /// Of the first so many tenants it takes at most so many jobs.
        limited: (u8, u32),
        lost: bool,
    },
    /// Of any delivery ever made.
    Renew {
        delivery: usize,
        logs: u8,
    },
    Settle {
        delivery: usize,
        how: How,
        /// Which blobs its attempt wrote, and to which its result refers, a bit each.
        blobs: (u8, u8),
        claim: bool,
        again: Again,
    },
    Promote {
        max: u32,
    },
    Reap {
        max: u32,
    },
    Prune {
        max: u32,
    },
    Cancel {
        tenant: u8,
        job: u8,
        terminate: bool,
    },
    /// Cancels all jobs of a queue that wait.
    Purge {
        tenant: u8,
        queue: u8,
    },
    Forget {
        tenant: u8,
        job: u8,
    },
    RunNow {
        tenant: u8,
        job: u8,
    },
    /// Something is wanted of the job of any delivery.
    OfDelivered {
        delivery: usize,
        wanted: Wanted,
    },
    Pause {
        tenant: u8,
        queue: u8,
        paused: bool,
    },
    Control {
        tenant: u8,
        scope: Scope,
        patch: ControlPatch,
    },
    /// An operator says how many bytes of jobs a tenant may store.
    LimitStorage {
        tenant: u8,
        bytes: u64,
    },
    /// Of any delivery ever made, whose guest may write for another tenant; or by people.
    KvWrite {
        delivery: Option<usize>,
        tenant: u8,
        bucket: u8,
        key: u8,
        expect: KvExpect,
        change: KvChange,
    },
    KvRead {
        tenant: u8,
        bucket: u8,
        /// Lists only behind this key.
        after: Option<u8>,
        max: u32,
    },
    KvDeleteBucket {
        tenant: u8,
        bucket: u8,
        max: u32,
    },
    PutBlob {
        tenant: u8,
        blob: u8,
    },
    DeleteBlob {
        tenant: u8,
        blob: u8,
    },
    CollectBlobs {
        retention_ms: u64,
        max: u32,
    },
    ReadBlobs {
        tenant: u8,
        after: Option<u8>,
        max: u32,
    },
    /// `again`: the reply is lost, and it is done again.
    ChangeSchedules {
        requests: Vec<ScheduleRequest>,
        again: bool,
    },
    ReadSchedules {
        tenant: u8,
        schedule: u8,
        max: u32,
    },
    Heartbeat {
        worker: u8,
        order: u64,
    },
    Order {
        worker: u8,
        order: WorkerOrder,
    },
    ForgetWorker {
        worker: u8,
    },
    Follow {
        tenant: u8,
    },
    Events {
        tenant: u8,
        back: u64,
        max: u32,
    },
    List {
        tenant: u8,
        dead: bool,
        state: Option<JobState>,
        worker: Option<u8>,
        /// Only jobs with these labels, a bit each. Not of the dead set.
        labels: u8,
        before: Option<u8>,
        max: u32,
    },
    /// Submits a workflow, up to a part of the way.
    Flow {
        request: FlowRequest,
        parts: Parts,
    },
    /// Any workflow again.
    FlowAgain {
        flow: usize,
        parts: Parts,
    },
    /// Resumes any workflow that is over.
    Resume {
        flow: usize,
    },
    CancelFlow {
        flow: usize,
    },
    ForgetFlow {
        flow: usize,
    },
    CancelNode {
        flow: usize,
        node: u32,
        terminate: bool,
    },
    ForgetNode {
        flow: usize,
        node: u32,
    },
    RunNodeNow {
        flow: usize,
        node: u32,
    },
    /// A plain job that repeats a node.
    RedriveNode {
        flow: usize,
        node: u32,
        job: u8,
    },
    ListFlows {
        tenant: u8,
        state: Option<WorkflowState>,
        before: Option<usize>,
        max: u32,
    },
    Pass {
        ms: i64,
        /// The store is asked to reap all the time, as background services do: it is no outage.
        is_served: bool,
    },
    /// Closes the broker and opens it again, where that can be done.
    Reopen,
}

/// What a write expects.
#[derive(Debug, Clone, Copy)]
pub(super) enum KvExpect {
    Any,
    Absent,
    /// The version that is there.
    Current,
    /// One before it, or behind it.
    Other(i8),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Cancel {
        terminate: bool,
    },
    Forget,
    /// As this job.
    Redrive(u8),
}

/// How often a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Once,
    /// The same twice in one call.
    Within,
    /// The reply is lost, and with it what was claimed: the call is made again.
    After,
}

/// How far a submission comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    Head,
    HeadAndNodes,
    All,
}

#[derive(Debug, Clone)]
pub(super) enum How {
    Succeed,
    SucceedUnkept,
    Fail,
    Retry(u64),
    Snooze(u64),
    Revoke,
    Release,
    /// With what a guest asked for. `None` as the resolution's workflow: it is replaced by the first.
    Grow {
        replaced: bool,
        flows: Vec<Value>,
        members: Option<Vec<Value>>,
        resolution: Box<How>,
    },
}

fn parts() -> BoxedStrategy<Parts> {
    prop_oneof![8 => Just(Parts::All), 1 => Just(Parts::HeadAndNodes), 1 => Just(Parts::Head)].boxed()
}

fn how() -> BoxedStrategy<How> {
    let plain = prop_oneof![
        6 => Just(How::Succeed),
        1 => Just(How::SucceedUnkept),
        2 => Just(How::Fail),
        2 => (0..2_000_u64).prop_map(How::Retry),
        1 => (0..2_000_u64).prop_map(How::Snooze),
        1 => Just(How::Revoke),
        1 => Just(How::Release),
    ];
    let flows = prop::collection::vec(canvas(1), 0..3);
    let members = prop::option::weighted(0.4, prop::collection::vec(canvas(1), 0..3));
    let grow = (prop::bool::weighted(0.4), flows, members, plain.clone()).prop_map(
        |(replaced, flows, members, resolution)| How::Grow {
            replaced: replaced && !flows.is_empty(),
            flows,
            members,
            resolution: Box::new(resolution),
        },
    );
    prop_oneof![3 => plain, 1 => grow].boxed()
}

fn control() -> BoxedStrategy<(Scope, ControlPatch)> {
    let scope = prop_oneof![
        1 => Just(Scope::Tenant),
        2 => prop::sample::select(QUEUES.to_vec()).prop_map(|name| Scope::Queue(queue_name(name))),
        3 => prop::sample::select(TASKS.to_vec()).prop_map(task_scope),
    ];
    let rate = prop::option::of(prop_oneof![Just(per_second(1, 1)), Just(per_second(4, 2))]);
    let patch = (
        prop::option::weighted(0.4, any::<bool>()),
        prop::option::weighted(0.4, rate),
        prop::option::weighted(0.6, 0..3_u32),
        prop::option::weighted(0.2, any::<bool>()),
    );
    (scope, patch)
        .prop_map(|(scope, (paused, rate, concurrency, exclusive))| {
            // Only a queue is exclusive.
            let exclusive = exclusive.filter(|_| matches!(scope, Scope::Queue(_)));
            (scope, ControlPatch { paused, rate, concurrency, exclusive })
        })
        .boxed()
}

fn order() -> BoxedStrategy<WorkerOrder> {
    let shutdown = prop::sample::select(vec![Shutdown::Warm, Shutdown::Soft, Shutdown::Cold]);
    let slots = prop::option::weighted(0.3, Just((1, 4)));
    let queues = prop::option::weighted(0.3, Just(QUEUES.iter().map(|name| queue_name(name)).collect()));
    (prop::option::of(any::<bool>()), prop::option::weighted(0.3, shutdown), slots, queues)
        .prop_map(|(drain, shutdown, slots, queues)| WorkerOrder { number: 0, drain, shutdown, slots, queues })
        .boxed()
}

fn kv_change() -> BoxedStrategy<KvChange> {
    let ttl = || prop_oneof![2 => Just(0), 1 => 1..3_000_u64];
    let value = prop_oneof![
        2 => Just(b"7".to_vec()),
        1 => Just(i64::MAX.to_string().into_bytes()),
        2 => (0..2_100_usize).prop_map(|bytes| vec![b'x'; bytes]),
    ];
    prop_oneof![
        4 => (value, ttl()).prop_map(|(value, ttl_ms)| KvChange::Set { value, ttl_ms }),
        3 => (prop_oneof![3 => -2..3_i64, 1 => any::<i64>()], -1..2_i64, ttl())
            .prop_map(|(delta, initial, ttl_ms)| KvChange::Add { delta, initial, ttl_ms }),
        2 => Just(KvChange::Delete),
    ]
    .boxed()
}

fn about_kv() -> BoxedStrategy<Step> {
    let expect = prop_oneof![
        4 => Just(KvExpect::Any),
        1 => Just(KvExpect::Absent),
        2 => Just(KvExpect::Current),
        1 => (-1..2_i8).prop_map(KvExpect::Other),
    ];
    let delivery = prop::option::weighted(0.6, any::<usize>());
    prop_oneof![
        8 => (delivery, 0..3_u8, 0..5_u8, 0..4_u8, expect, kv_change()).prop_map(
            |(delivery, tenant, bucket, key, expect, change)| Step::KvWrite {
                delivery, tenant, bucket, key, expect, change,
            }
        ),
        3 => (0..3_u8, 0..5_u8, prop::option::of(0..4_u8), 1..4_u32)
            .prop_map(|(tenant, bucket, after, max)| Step::KvRead { tenant, bucket, after, max }),
        1 => (0..3_u8, 0..5_u8, 0..3_u32)
            .prop_map(|(tenant, bucket, max)| Step::KvDeleteBucket { tenant, bucket, max }),
    ]
    .boxed()
}

fn about_blobs() -> BoxedStrategy<Step> {
    prop_oneof![
        12 => (0..3_u8, 0..BLOBS).prop_map(|(tenant, blob)| Step::PutBlob { tenant, blob }),
        2 => (0..3_u8, 0..BLOBS).prop_map(|(tenant, blob)| Step::DeleteBlob { tenant, blob }),
        2 => (prop_oneof![0..5_000_u64, Just(20_000)], 0..5_u32)
            .prop_map(|(retention_ms, max)| Step::CollectBlobs { retention_ms, max }),
        1 => (0..3_u8, prop::option::of(0..BLOBS), 0..4_u32)
            .prop_map(|(tenant, after, max)| Step::ReadBlobs { tenant, after, max }),
    ]
    .boxed()
}

fn about_schedules(profile: Profile) -> BoxedStrategy<Step> {
    let requests = prop::collection::vec(schedule_request(profile), 1..4);
    prop_oneof![
        12 => (requests, prop::bool::weighted(0.2))
            .prop_map(|(requests, again)| Step::ChangeSchedules { requests, again }),
        3 => (0..3_u8, 0..4_u8, 0..6_u32)
            .prop_map(|(tenant, schedule, max)| Step::ReadSchedules { tenant, schedule, max }),
        5 => flow_request().prop_map(|request| Step::Flow { request, parts: Parts::HeadAndNodes }),
    ]
    .boxed()
}

fn passing() -> BoxedStrategy<Step> {
    let ms = prop_oneof![4 => 0..1_500_i64, 1 => Just(15_000_i64), 1 => Just(70_000_i64), 1 => -500..0_i64];
    (ms, any::<bool>()).prop_map(|(ms, is_served)| Step::Pass { ms, is_served }).boxed()
}

fn about_jobs(profile: Profile) -> BoxedStrategy<Step> {
    let again = prop_oneof![2 => Just(Again::Once), 1 => Just(Again::Within), 1 => Just(Again::After)];
    let wanted = prop_oneof![
        any::<bool>().prop_map(|terminate| Wanted::Cancel { terminate }),
        Just(Wanted::Forget),
        (0..JOBS).prop_map(Wanted::Redrive),
    ];
    let submits = if profile == Profile::BrokerOptions { 70 } else { 30 };
    let submit = (prop::collection::vec(request(profile), 1..5), prop::bool::weighted(0.2))
        .prop_map(|(requests, again)| Step::Submit { requests, again });
    let limited = prop_oneof![2 => Just((0, 0)), 1 => (1..3_u8, 0..3_u32)];
    // Large ones take several jobs of a queue in a row.
    let most = prop_oneof![4 => 0..6_u32, 1 => 6..30_u32];
    let flood = (request(profile), 100..200_u32).prop_map(|(request, count)| Step::Flood { request, count });
    prop_oneof![
        submits => prop_oneof![200 => submit, 1 => flood],
        60 => (0..2_u8, prop_oneof![1 => Just(0_u8), 8 => 1..5_u8], most, limited, prop::bool::weighted(0.1))
            .prop_map(|(worker, queues, max, limited, lost)| Step::Claim { worker, queues, max, limited, lost }),
        20 => (any::<usize>(), 0..4_u8).prop_map(|(delivery, logs)| Step::Renew { delivery, logs }),
        90 => (any::<usize>(), how(), (some_blobs(), some_blobs()), any::<bool>(), again)
            .prop_map(|(delivery, how, blobs, claim, again)| Step::Settle { delivery, how, blobs, claim, again }),
        20 => (0..3_u8, 0..JOBS, any::<bool>())
            .prop_map(|(tenant, job, terminate)| Step::Cancel { tenant, job, terminate }),
        10 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::Forget { tenant, job }),
        25 => (any::<usize>(), wanted).prop_map(|(delivery, wanted)| Step::OfDelivered { delivery, wanted }),
        3 => (0..3_u8, 0..2_u8).prop_map(|(tenant, queue)| Step::Purge { tenant, queue }),
        10 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::RunNow { tenant, job }),
    ]
    .boxed()
}

fn about_flows() -> BoxedStrategy<Step> {
    let node = || (any::<usize>(), 0..12_u32);
    let state = prop::option::of(prop::sample::select(WorkflowState::ALL.to_vec()));
    prop_oneof![
        6 => (flow_request(), parts()).prop_map(|(request, parts)| Step::Flow { request, parts }),
        1 => (any::<usize>(), parts()).prop_map(|(flow, parts)| Step::FlowAgain { flow, parts }),
        2 => any::<usize>().prop_map(|flow| Step::Resume { flow }),
        1 => any::<usize>().prop_map(|flow| Step::CancelFlow { flow }),
        1 => any::<usize>().prop_map(|flow| Step::ForgetFlow { flow }),
        1 => (node(), any::<bool>())
            .prop_map(|((flow, node), terminate)| Step::CancelNode { flow, node, terminate }),
        1 => node().prop_map(|(flow, node)| Step::ForgetNode { flow, node }),
        1 => node().prop_map(|(flow, node)| Step::RunNodeNow { flow, node }),
        1 => (node(), 0..JOBS).prop_map(|((flow, node), job)| Step::RedriveNode { flow, node, job }),
        1 => (0..3_u8, state, prop::option::of(any::<usize>()), 1..4_u32)
            .prop_map(|(tenant, state, before, max)| Step::ListFlows { tenant, state, before, max }),
    ]
    .boxed()
}

/// What operators and time do.
fn about_the_rest(profile: Profile) -> BoxedStrategy<Step> {
    let state = prop::option::of(prop::sample::select(JobState::ALL.to_vec()));
    prop_oneof![
        3 => (0..8_u32).prop_map(|max| Step::Promote { max }),
        3 => (0..8_u32).prop_map(|max| Step::Reap { max }),
        1 => (0..8_u32).prop_map(|max| Step::Prune { max }),
        1 => (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(tenant, queue, paused)| Step::Pause { tenant, queue, paused }),
        if profile == Profile::BrokerOptions { 4 } else { 1 } => (0..2_u8, control())
            .prop_map(|(tenant, (scope, patch))| Step::Control { tenant, scope, patch }),
        1 => (
            0..3_u8,
            any::<bool>(),
            state,
            prop::option::of(0..2_u8),
            prop_oneof![1 => Just(0), 1 => 1..4_u8],
            prop::option::of(0..JOBS),
            1..6_u32,
        )
            .prop_map(|(tenant, dead, state, worker, labels, before, max)| {
                let labels = if dead { 0 } else { labels };
                Step::List { tenant, dead, state, worker, labels, before, max }
            }),
        1 => (0..3_u8, prop_oneof![1 => Just(0), 3 => 1..8_000_u64])
            .prop_map(|(tenant, bytes)| Step::LimitStorage { tenant, bytes }),
        5 => passing(),
        1 => prop_oneof![
            2 => (0..2_u8, 0..3_u64).prop_map(|(worker, order)| Step::Heartbeat { worker, order }),
            2 => (0..2_u8, order()).prop_map(|(worker, order)| Step::Order { worker, order }),
            1 => (0..2_u8).prop_map(|worker| Step::ForgetWorker { worker }),
            1 => (0..3_u8).prop_map(|tenant| Step::Follow { tenant }),
            1 => (0..3_u8, 0..20_u64, 0..30_u32).prop_map(|(tenant, back, max)| Step::Events { tenant, back, max }),
            1 => Just(Step::Reopen),
        ],
    ]
    .boxed()
}

pub(super) fn steps(max: usize) -> BoxedStrategy<Vec<Step>> {
    let of = move |profile: Profile, flows: u32, length: std::ops::Range<usize>| {
        let step = prop_oneof![
            25 => about_jobs(profile),
            flows => about_flows(),
            16 => about_the_rest(profile),
            4 => about_kv(),
            8 => about_blobs(),
            16 => about_schedules(profile),
        ];
        prop::collection::vec(step, length)
    };
    prop_oneof![of(Profile::Mixed, 14, 1..max), of(Profile::BrokerOptions, 1, max / 4..max * 3 / 2)].boxed()
}
