//! What becomes of nominal times, by cases and by simulation.

use proptest::prelude::*;
use umbel_model::{JobId, UnixMs};

use super::*;

/// Every so many milliseconds, until an end; each fire is due later by `offset`.
#[derive(Debug, Clone)]
struct Every {
    ms: u64,
    until: UnixMs,
    offset: u64,
}

impl Times for Every {
    fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        Some((after / self.ms + 1) * self.ms).filter(|next| *next <= self.until)
    }

    fn offset_ms(&self, _: UnixMs, _: Option<UnixMs>) -> u64 {
        self.offset
    }
}

const SECOND: Every = Every { ms: 1_000, until: UnixMs::MAX, offset: 0 };

fn policy(overlap: Overlap, catch_up: CatchUp) -> FiringPolicy {
    FiringPolicy { overlap, catch_up, ..FiringPolicy::default() }
}

fn at(next: UnixMs) -> FiringState {
    FiringState { next: Some(next), ..FiringState::default() }
}

fn run(number: u64) -> Run {
    Run { id: JobId::from_parts(number, 1), is_workflow: false }
}

fn verdicts(decision: &Decision) -> Vec<(Verdict, UnixMs, u32)> {
    decision.records.iter().map(|r| (r.verdict, r.nominal_at.unwrap_or(0), r.times())).collect()
}

fn started(decision: &Decision) -> Option<UnixMs> {
    decision.start.as_ref().map(|start| start.nominal_at)
}

#[test]
fn nothing_happens_before_a_time_is_due_and_it_starts_when_it_is() {
    let policy = policy(Overlap::Skip, CatchUp::Latest);
    let early = decide(&SECOND, &policy, &at(5_000), 4_999);
    assert_eq!((started(&early), early.look_at, &early.state), (None, Some(5_000), &at(5_000)));
    let due = decide(&SECOND, &policy, &at(5_000), 5_000);
    assert_eq!((started(&due), due.look_at, due.state.started), (Some(5_000), Some(6_000), 1));
    assert!(due.records.is_empty());
    let later = Every { offset: 300, ..SECOND };
    assert_eq!(started(&decide(&later, &policy, &at(5_000), 5_299)), None);
    assert_eq!(started(&decide(&later, &policy, &at(5_000), 5_300)), Some(5_000));
}

#[test]
fn of_times_that_passed_the_latest_starts_and_the_others_are_missed() {
    let decision = decide(&SECOND, &policy(Overlap::Skip, CatchUp::Latest), &at(5_000), 9_500);
    assert_eq!((started(&decision), decision.look_at), (Some(9_000), Some(10_000)));
    assert_eq!(verdicts(&decision), [(Verdict::Missed, 5_000, 4)]);
    assert_eq!(decision.records[0].through, Some(8_000));
    // A million of them are not walked through.
    let decision = decide(&SECOND, &policy(Overlap::Skip, CatchUp::Latest), &at(5_000), 80_000_500);
    assert_eq!((started(&decision), verdicts(&decision)), (Some(80_000_000), vec![(Verdict::Missed, 5_000, 1_000)]));
}

#[test]
fn with_all_each_starts_in_its_turn_and_with_none_only_what_is_on_time() {
    let all = policy(Overlap::Allow, CatchUp::All);
    let (mut state, mut seen) = (at(5_000), Vec::new());
    for _ in 0..9 {
        let decision = decide(&SECOND, &all, &state, 9_500);
        seen.extend(started(&decision));
        state = decision.state;
    }
    assert_eq!(seen, [5_000, 6_000, 7_000, 8_000, 9_000]);
    let none = policy(Overlap::Allow, CatchUp::None);
    let day = Every { ms: 86_400_000, ..SECOND };
    let late = decide(&day, &none, &at(86_400_000), 86_400_000 + ON_TIME_MS + 1);
    assert_eq!((started(&late), verdicts(&late)), (None, vec![(Verdict::Missed, 86_400_000, 1)]));
    assert_eq!(started(&decide(&day, &none, &at(86_400_000), 86_400_000 + ON_TIME_MS)), Some(86_400_000));
}

#[test]
fn what_is_older_than_the_window_is_missed_whatever_the_policy_but_not_what_is_still_to_come() {
    let all = FiringPolicy { catch_up_window_ms: 20_000, ..policy(Overlap::Allow, CatchUp::All) };
    let decision = decide(&SECOND, &all, &at(5_000), 100_000);
    assert_eq!((started(&decision), verdicts(&decision)), (Some(80_000), vec![(Verdict::Missed, 5_000, 75)]));
    // Due an hour after its nominal time, which is older than the window.
    let slow = Every { ms: 86_400_000, until: UnixMs::MAX, offset: 3_600_000 };
    let waits = decide(&slow, &all, &at(86_400_000), 86_400_000 + 3_000_000);
    assert_eq!((started(&waits), waits.records.len(), waits.look_at), (None, 0, Some(86_400_000 + 3_600_000)));
}

#[test]
fn a_time_that_comes_while_a_run_is_not_over_is_treated_as_the_policy_says() {
    let busy = |overlap, waiting: &[UnixMs]| {
        let state = FiringState { runs: vec![run(1)], waiting: waiting.to_vec(), ..at(5_000) };
        decide(&SECOND, &policy(overlap, CatchUp::Latest), &state, 5_000)
    };
    let skip = busy(Overlap::Skip, &[]);
    assert_eq!((started(&skip), verdicts(&skip)), (None, vec![(Verdict::Skipped, 5_000, 1)]));
    let one = busy(Overlap::BufferOne, &[]);
    assert_eq!((started(&one), &one.state.waiting[..], one.records.len()), (None, &[5_000][..], 0));
    let full = busy(Overlap::BufferOne, &[4_000]);
    assert_eq!((&full.state.waiting[..], verdicts(&full)), (&[4_000][..], vec![(Verdict::Skipped, 5_000, 1)]));
    assert_eq!(busy(Overlap::BufferAll, &[4_000]).state.waiting, [4_000, 5_000]);
    let many: Vec<UnixMs> = (0..MAX_WAITING as u64).collect();
    let bounded = busy(Overlap::BufferAll, &many);
    assert_eq!((bounded.state.waiting.len(), verdicts(&bounded)), (MAX_WAITING, vec![(Verdict::Skipped, 5_000, 1)]));
    let cancel = busy(Overlap::Cancel, &[4_000]);
    assert_eq!((&cancel.cancel[..], &cancel.state.waiting[..]), (&[run(1)][..], &[5_000][..]));
    assert_eq!(verdicts(&cancel), [(Verdict::Skipped, 4_000, 1)]);
    assert_eq!(started(&busy(Overlap::Allow, &[])), Some(5_000));
}

#[test]
fn what_waits_starts_when_the_run_before_it_has_ended() {
    let policy = policy(Overlap::BufferOne, CatchUp::Latest);
    let mut state = FiringState { runs: vec![run(1)], waiting: vec![5_000], ..at(6_000) };
    let waits = decide(&SECOND, &policy, &state, 5_100);
    assert!(started(&waits).is_none() && waits.look_at.is_some_and(|at| at > 5_100 && at < 6_000));
    state.ended(run(1).id, RunEnd::Succeeded);
    assert_eq!(started(&decide(&SECOND, &policy, &state, 5_400)), Some(5_000));
}

#[test]
fn what_cannot_be_started_is_tried_again_until_a_newer_one_is_due_or_the_window_is_over() {
    let latest = policy(Overlap::Skip, CatchUp::Latest);
    let minute = Every { ms: 60_000, ..SECOND };
    let before = at(60_000);
    let start = decide(&minute, &latest, &before, 60_000).start.unwrap();
    let failed = could_not_start(&minute, &latest, &before, &start, "the queue is full", 60_000);
    assert_eq!((failed.look_at, failed.state.started, failed.state.next), (Some(61_000), 0, Some(120_000)));
    assert_eq!(verdicts(&failed), [(Verdict::Retrying, 60_000, 0)]);
    let again = decide(&minute, &latest, &failed.state, 61_000);
    assert_eq!(started(&again), Some(60_000));
    let twice = could_not_start(&minute, &latest, &failed.state, &again.start.unwrap(), "still full", 61_000);
    assert_eq!((twice.look_at, twice.records.len()), (Some(63_000), 0));
    let newer = decide(&minute, &latest, &twice.state, 120_000);
    assert_eq!((started(&newer), verdicts(&newer)), (Some(120_000), vec![(Verdict::Failed, 60_000, 1)]));
    assert_eq!(newer.records[0].reason.as_deref(), Some("given up after 2 tries: still full"));
    // With `all` it holds up those behind it, and nothing spins.
    let all = FiringPolicy { catch_up_window_ms: 300_000, ..policy(Overlap::Allow, CatchUp::All) };
    let failed = could_not_start(&minute, &all, &before, &start, "the queue is full", 60_000);
    let held = decide(
        &minute,
        &all,
        &FiringState {
            retry: Some(Retry { at: 200_000, ..failed.state.retry.clone().unwrap() }),
            ..failed.state.clone()
        },
        130_000,
    );
    assert_eq!((started(&held), held.look_at), (None, Some(200_000)));
    let over = decide(&minute, &all, &failed.state, 400_000);
    assert_eq!(verdicts(&over)[0], (Verdict::Failed, 60_000, 1));
}

#[test]
fn a_schedule_ends_after_its_runs_and_pauses_after_failures() {
    let twice = FiringPolicy { max_runs: 2, ..policy(Overlap::Allow, CatchUp::All) };
    let first = decide(&SECOND, &twice, &at(5_000), 9_000);
    let second = decide(&SECOND, &twice, &first.state, 9_000);
    assert_eq!((started(&second), second.look_at, second.state.next), (Some(6_000), None, None));
    let careful = FiringPolicy { pause_after_failures: 2, ..policy(Overlap::Skip, CatchUp::Latest) };
    let mut state = FiringState { failures: 1, runs: vec![run(1)], ..at(5_000) };
    state.ended(run(1).id, RunEnd::Failed);
    let paused = decide(&SECOND, &careful, &state, 5_000);
    assert_eq!((started(&paused), paused.look_at, verdicts(&paused)), (None, None, vec![(Verdict::Paused, 0, 0)]));
    // Dropped: the next one starts after the pause. Kept: they are due.
    let resumed = resume(&SECOND, &careful, &paused.state, 9_500);
    assert_eq!((resumed.look_at, resumed.state.failures), (Some(10_000), 0));
    assert_eq!(verdicts(&resumed), [(Verdict::Missed, 5_000, 5), (Verdict::Resumed, 0, 0)]);
    let kept = resume(&SECOND, &FiringPolicy { keep_missed: true, ..careful }, &paused.state, 9_500);
    assert_eq!(kept.look_at, Some(5_000));
}

#[test]
fn a_backfill_starts_each_of_its_times_by_its_pace_beside_those_that_come() {
    let backfill = Backfill { id: "b1".into(), next: 1_000, to: 3_000, pace_ms: 500, at: 50_000, started: 0, tries: 0 };
    let mut state = FiringState { backfills: vec![backfill], ..at(51_000) };
    let (mut seen, mut now) = (Vec::new(), 50_000);
    for _ in 0..20 {
        let decision = decide(&SECOND, &policy(Overlap::Allow, CatchUp::All), &state, now);
        seen.extend(decision.start.clone().map(|start| (now, start.nominal_at, start.backfill.is_some())));
        state = decision.state;
        if state.backfills.is_empty() {
            break;
        }
        now = decision.look_at.unwrap().max(now);
    }
    assert_eq!(seen, [(50_000, 1_000, true), (50_500, 2_000, true), (51_000, 51_000, false), (51_000, 3_000, true)]);
}

#[test]
fn the_same_fire_has_the_same_id_and_another_has_another() {
    let tenant = umbel_model::TenantId::new("acme").unwrap();
    let start = Start { nominal_at: 60_000, backfill: None };
    let id = job_id(&tenant, "nightly", "k1", &start);
    assert_eq!(id, job_id(&tenant, "nightly", "k1", &start));
    let others = [
        job_id(&tenant, "nightly", "k2", &start),
        job_id(&tenant, "nightl", "yk1", &start),
        job_id(&tenant, "nightly", "k1", &Start { nominal_at: 60_001, backfill: None }),
        job_id(&tenant, "nightly", "k1", &Start { nominal_at: 60_000, backfill: Some("b".into()) }),
        workflow_id(&tenant, "nightly", "k1", &start),
    ];
    assert!(others.iter().all(|other| *other != id), "{id} {others:?}");
    assert_eq!(u128::from_be_bytes(others[4].to_bytes()) as u32, 0);
}

/// One step of a simulated life.
#[derive(Debug, Clone)]
enum Event {
    /// Nobody looks for so long.
    Pass(u64),
    /// The oldest run ends.
    End(bool),
    /// The next start is refused.
    Refuse,
    Pause,
    Resume,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0_u64..40_000).prop_map(Event::Pass),
        3 => any::<bool>().prop_map(Event::End),
        2 => Just(Event::Refuse),
        1 => Just(Event::Pause),
        1 => Just(Event::Resume),
    ];
    prop::collection::vec(event, 1..60)
}

fn policies() -> impl Strategy<Value = FiringPolicy> {
    let names = (prop::sample::select(Overlap::ALL.to_vec()), prop::sample::select(CatchUp::ALL.to_vec()));
    let numbers =
        (prop::sample::select(vec![10_000_u64, 30_000, 86_400_000]), prop::sample::select(vec![0_u64, 7]), 0_u32..3);
    (names, numbers, any::<bool>()).prop_map(
        |((overlap, catch_up), (catch_up_window_ms, max_runs, failures), keep_missed)| FiringPolicy {
            overlap,
            catch_up,
            catch_up_window_ms,
            max_runs,
            pause_after_failures: failures,
            keep_missed,
            ..FiringPolicy::default()
        },
    )
}

/// What a server does: decide, start, store; until nothing more is due.
struct Server {
    times: Every,
    policy: FiringPolicy,
    state: FiringState,
    records: Vec<FireRecord>,
    starts: Vec<UnixMs>,
    refuse: bool,
}

impl Server {
    fn step(&mut self, now: UnixMs) {
        for turn in 0.. {
            assert!(turn < 10_000, "it spins: {:?}", self.state);
            let decision = decide(&self.times, &self.policy, &self.state, now);
            let mut kept = decision.clone();
            if let Some(start) = &decision.start {
                if std::mem::take(&mut self.refuse) {
                    kept = could_not_start(&self.times, &self.policy, &self.state, start, "refused", now);
                    assert!(kept.start.is_none());
                } else {
                    self.starts.push(start.nominal_at);
                    if self.policy.follows_runs() {
                        kept.state.follow(run(start.nominal_at));
                    }
                }
            }
            self.records.extend(kept.records);
            let is_same = kept.state == self.state;
            self.state = kept.state;
            assert!(self.state.is_sound(), "{:?}", self.state);
            match kept.look_at {
                Some(at) if at <= now => {
                    assert!(!is_same, "nothing changed, and it is to look again: {:?}", self.state)
                }
                _ => break,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_nominal_time_is_started_or_recorded_exactly_once_whatever_happens(
        policy in policies(), events in events(), ms in prop::sample::select(vec![1_000_u64, 7_000, 60_000]), offset in 0_u64..900,
    ) {
        let times = Every { ms, until: UnixMs::MAX, offset };
        let start = 1_000_000_000;
        let first = times.next_after(start).unwrap();
        let mut now = start;
        let mut server =
            Server { times, policy, state: at(first), records: Vec::new(), starts: Vec::new(), refuse: false };
        for event in events {
            match event {
                Event::Pass(ms) => now += ms,
                Event::End(well) => {
                    if let Some(run) = server.state.runs.first().cloned() {
                        server.state.ended(run.id, if well { RunEnd::Succeeded } else { RunEnd::Failed });
                    }
                }
                Event::Refuse => server.refuse = true,
                Event::Pause => server.state.paused = Some(Pause { since: now, reason: None }),
                Event::Resume if server.state.paused.is_some() => {
                    let resumed = resume(&server.times, &server.policy, &server.state, now);
                    server.records.extend(resumed.records);
                    server.state = resumed.state;
                }
                Event::Resume => {}
            }
            server.step(now);
        }
        // Each time before the next one is in one place: started, recorded, waiting, or tried again.
        let spent = server.state.next.is_none();
        let mut counts = std::collections::BTreeMap::<UnixMs, u32>::new();
        let mut count = |nominal: UnixMs| *counts.entry(nominal).or_default() += 1;
        server.starts.iter().copied().for_each(&mut count);
        server.state.waiting.iter().copied().for_each(&mut count);
        server.state.retry.iter().map(|retry| retry.nominal_at).for_each(&mut count);
        for record in server.records.iter().filter(|record| record.times() > 0) {
            (0..record.times()).for_each(|n| count(record.nominal_at.unwrap() + u64::from(n) * ms));
        }
        prop_assert!(counts.values().all(|n| *n == 1), "{counts:?}");
        let end = server.state.next.unwrap_or_else(|| counts.keys().last().map_or(first, |last| last + ms));
        let expected: Vec<UnixMs> = (first..end).step_by(ms as usize).collect();
        prop_assert_eq!(counts.keys().copied().collect::<Vec<_>>(), expected);
        prop_assert!(!spent || server.policy.max_runs > 0);
        // In order, unless one waited or was tried again.
        let most = server.policy.max_runs;
        prop_assert!(most == 0 || server.starts.len() as u64 <= most);
        let in_order = server.policy.catch_up == CatchUp::All || !matches!(server.policy.overlap, Overlap::Allow);
        prop_assert!(!in_order || server.starts.is_sorted(), "{:?}", server.starts);
    }
}
