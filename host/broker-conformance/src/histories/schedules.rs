//! Steps of schedules in a history.

use proptest::prelude::*;

use super::{
    requests::{JobRequest, Profile, request},
    *,
};

/// Names of schedules of a tenant: one more than there may be. Some begin alike.
pub(super) const SCHEDULES: [&str; 4] = ["a", "ab", "b-1", "c.d"];

/// One step that somebody asks for.
#[derive(Debug, Clone)]
pub(super) struct ScheduleRequest {
    pub(super) tenant: u8,
    pub(super) schedule: u8,
    pub(super) revision: Decided,
    /// From now on; none: at any time.
    pub(super) not_before_ms: Option<i64>,
    pub(super) change: Change,
    pub(super) fires: u8,
    pub(super) start: Starting,
}

/// By which revision it was decided.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decided {
    /// The one that is there.
    Current,
    /// One before it, or behind it: of another step of the same call, say.
    Other(i8),
    Absent,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    /// The lengths of texts, and from now on when to look.
    Put {
        definition: Option<usize>,
        state: usize,
        look_ms: Option<i64>,
    },
    Delete,
}

#[derive(Debug, Clone)]
pub(super) enum Starting {
    Nothing,
    Job(Box<JobRequest>),
    /// One of those whose nodes are stored.
    Staged(usize),
    /// Any workflow that is not staged.
    Any(usize),
}

fn change() -> BoxedStrategy<Change> {
    let definition = prop_oneof![
        20 => Just(None),
        20 => (0..400_usize).prop_map(Some),
        2 => Just(Some(MAX_SCHEDULE_BYTES)),
        1 => Just(Some(MAX_SCHEDULE_BYTES + 1)),
    ];
    let state = prop_oneof![50 => 0..60_usize, 1 => Just(MAX_SCHEDULE_STATE_BYTES + 1)];
    let look = prop_oneof![1 => Just(None), 4 => (-2_000..3_000_i64).prop_map(Some)];
    prop_oneof![
        8 => (definition, state, look)
            .prop_map(|(definition, state, look_ms)| Change::Put { definition, state, look_ms }),
        1 => Just(Change::Delete),
    ]
    .boxed()
}

pub(super) fn schedule_request(profile: Profile) -> BoxedStrategy<ScheduleRequest> {
    let revision = prop_oneof![
        8 => Just(Decided::Current),
        2 => (-1..3_i8).prop_map(Decided::Other),
        1 => Just(Decided::Absent),
    ];
    let not_before = prop_oneof![3 => Just(None), 2 => (-1_000..500_i64).prop_map(Some)];
    let fires = prop_oneof![4 => Just(1), 2 => Just(0), 2 => 2..=MAX_STEP_FIRES as u8 + 1];
    let start = prop_oneof![
        3 => Just(Starting::Nothing),
        6 => request(profile).prop_map(|request| Starting::Job(Box::new(request))),
        4 => any::<usize>().prop_map(Starting::Staged),
        1 => any::<usize>().prop_map(Starting::Any),
    ];
    (prop_oneof![1 => Just(0), 1 => 0..3_u8], 0..4_u8, revision, not_before, change(), fires, start)
        .prop_map(|(tenant, schedule, revision, not_before_ms, change, fires, start)| ScheduleRequest {
            tenant,
            schedule,
            revision,
            not_before_ms,
            change,
            fires,
            start,
        })
        .boxed()
}

/// All that can be seen of the schedules of a tenant, and when the next look at any schedule is.
pub(super) async fn seen(broker: &dyn Broker, tenant: &TenantId) -> String {
    let query = ScheduleQuery { tenant: tenant.clone(), prefix: String::new(), after: None, max: 100 };
    let page = broker.schedules(&query).await.unwrap();
    let mut text = format!("{page:?}");
    for record in &page.schedules {
        text += &format!("\n{:?}", broker.fires(tenant, &record.name, None, 200).await.unwrap());
    }
    text + &format!("\n{:?}", broker.due_schedules(0).await.unwrap())
}

/// Reads of schedules: those that are due, one, some by name, and a part of a history.
pub(super) async fn looked_at(broker: &dyn Broker, tenant: &TenantId, schedule: u8, max: u32) -> String {
    let name = schedule_name(SCHEDULES[schedule as usize]);
    let prefix = if max.is_multiple_of(2) { "a" } else { "" }.to_owned();
    let after = (max > 1).then(|| name.clone());
    let query = ScheduleQuery { tenant: tenant.clone(), prefix, after, max };
    let fires = broker.fires(tenant, &name, (max > 2).then_some(u64::from(max) * 3), max).await;
    let (one, due) = (broker.schedule(tenant, &name).await, broker.due_schedules(max).await);
    format!("{due:?} {one:?} {:?} {fires:?}", broker.schedules(&query).await)
}
