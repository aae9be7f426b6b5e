//! What people order: to make or change a schedule, to pause it, to leave a time out, to backfill. `resume` is with the decisions.

use umbel_model::UnixMs;

use super::{
    Backfill, Decision, FireRecord, FiringPolicy, FiringState, MAX_BACKFILLS, Pause, Times, Verdict, decision::Decider,
};

/// A new schedule. `key` is random; a schedule may be made paused.
pub fn created(times: &impl Times, policy: &FiringPolicy, key: String, paused: Option<Pause>, now: UnixMs) -> Decision {
    let state = FiringState { key, next: times.next_after(now), paused, ..FiringState::default() };
    let mut decider = Decider::new(times, policy, &state, now);
    if let Some(pause) = &state.paused {
        decider.records.push(paused_because(pause, now));
    }
    decider.done(None)
}

/// A schedule whose definition was changed to this one. If its times are as they were, what is pending stays: the next time, those
/// that wait, one that is tried again, and backfills. Otherwise `replaced` are the times that it had: what is pending of them is
/// dropped, and recorded.
pub fn changed<T: Times>(
    times: &T,
    policy: &FiringPolicy,
    state: &FiringState,
    replaced: Option<&T>,
    now: UnixMs,
) -> Decision {
    let mut decider = Decider::new(times, policy, state, now);
    if let Some(replaced) = replaced {
        const WHY: &str = "the schedule's times were changed";
        let dropped = std::mem::take(&mut decider.state.waiting);
        let dropped = dropped.into_iter().chain(decider.state.retry.take().map(|retry| retry.nominal_at));
        decider.records.extend(left_out_together(dropped.collect(), now, WHY));
        // Times that have passed, and about which nothing was decided.
        let mut before = Decider::new(replaced, policy, state, now);
        before.drop_until_now(WHY);
        decider.records.append(&mut before.records);
        // A backfill would go on over the new times, of which nobody has seen how many there are.
        let backfills = std::mem::take(&mut decider.state.backfills);
        decider.records.extend(backfills.iter().map(|backfill| ended(backfill, now, WHY)));
        decider.state.next = None;
    }
    decider.find_next();
    decider.done(None)
}

/// Pauses a schedule; one that is paused gets the new reason.
pub fn pause(
    times: &impl Times,
    policy: &FiringPolicy,
    state: &FiringState,
    reason: Option<String>,
    now: UnixMs,
) -> Decision {
    let mut decider = Decider::new(times, policy, state, now);
    let since = state.paused.as_ref().map_or(now, |pause| pause.since);
    let pause = Pause { since, reason };
    decider.records.push(paused_because(&pause, now));
    decider.state.paused = Some(pause);
    decider.done(None)
}

/// Leaves the next time out; none when there is none.
pub fn skip_next(times: &impl Times, policy: &FiringPolicy, state: &FiringState, now: UnixMs) -> Option<Decision> {
    let mut decider = Decider::new(times, policy, state, now);
    let next = state.next?;
    decider.records.push(FireRecord::of(Verdict::Skipped, now, next).because("somebody left it out"));
    decider.state.next = times.next_after(next);
    Some(decider.done(None))
}

/// Starts a backfill; none when there are as many as may be.
pub fn add_backfill(
    times: &impl Times,
    policy: &FiringPolicy,
    state: &FiringState,
    backfill: Backfill,
    now: UnixMs,
) -> Option<Decision> {
    let mut decider = Decider::new(times, policy, state, now);
    if state.backfills.len() >= MAX_BACKFILLS {
        return None;
    }
    decider.state.backfills.push(backfill);
    Some(decider.done(None))
}

/// Ends a backfill: what it has started goes on. None when there is no such backfill.
pub fn abort_backfill(
    times: &impl Times,
    policy: &FiringPolicy,
    state: &FiringState,
    id: &str,
    now: UnixMs,
) -> Option<Decision> {
    let mut decider = Decider::new(times, policy, state, now);
    let backfill = state.backfills.iter().find(|backfill| backfill.id == id)?;
    decider.records.push(ended(backfill, now, "the backfill was aborted"));
    decider.state.backfills.retain(|backfill| backfill.id != id);
    Some(decider.done(None))
}

/// The entry of a backfill that does not go on.
fn ended(backfill: &Backfill, now: UnixMs, why: &str) -> FireRecord {
    let why = format!("{why}; it had started {}", backfill.started);
    FireRecord { backfill: Some(backfill.id.clone()), ..FireRecord::new(Verdict::Skipped, now).because(why) }
}

fn paused_because(pause: &Pause, now: UnixMs) -> FireRecord {
    FireRecord { reason: pause.reason.clone(), ..FireRecord::new(Verdict::Paused, now) }
}

/// One entry for several nominal times; none for none.
fn left_out_together(mut nominal: Vec<UnixMs>, now: UnixMs, why: &str) -> Option<FireRecord> {
    nominal.sort_unstable();
    let (first, last) = (*nominal.first()?, *nominal.last()?);
    let mut record = FireRecord::of(Verdict::Skipped, now, first).because(why);
    record.count = Some(nominal.len() as u32);
    record.through = (last > first).then_some(last);
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firing::{Overlap, Retry, decide};

    /// Each second.
    struct Seconds;

    impl Times for Seconds {
        fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
            Some((after / 1_000 + 1) * 1_000)
        }

        fn offset_ms(&self, _: UnixMs, _: Option<UnixMs>) -> u64 {
            0
        }
    }

    fn busy() -> FiringState {
        let retry = Retry { nominal_at: 4_000, at: 9_000, tries: 2, error: "no".into() };
        FiringState {
            next: Some(6_000),
            waiting: vec![2_000, 3_000],
            retry: Some(retry),
            started: 7,
            ..Default::default()
        }
    }

    fn verdicts(decision: &Decision) -> Vec<(Verdict, Option<UnixMs>, u32)> {
        decision.records.iter().map(|record| (record.verdict, record.nominal_at, record.times())).collect()
    }

    #[test]
    fn a_new_schedule_waits_for_its_first_time_unless_it_is_made_paused() {
        let policy = FiringPolicy::default();
        let made = created(&Seconds, &policy, "k".into(), None, 5_000);
        assert_eq!((made.state.next, made.look_at, made.records.len()), (Some(6_000), Some(6_000), 0));
        let pause = Pause { since: 5_000, reason: None };
        let paused = created(&Seconds, &policy, "k".into(), Some(pause), 5_000);
        assert_eq!((paused.look_at, verdicts(&paused)), (None, vec![(Verdict::Paused, None, 0)]));
    }

    #[test]
    fn a_change_keeps_what_is_pending_if_the_times_are_the_same_and_records_what_it_drops_otherwise() {
        let policy = FiringPolicy::default();
        let same = changed(&Seconds, &policy, &busy(), None, 5_500);
        assert_eq!((&same.state, same.records.len()), (&busy(), 0));
        let other = changed(&Seconds, &policy, &busy(), Some(&Seconds), 8_500);
        assert_eq!((other.state.next, other.look_at, other.state.started), (Some(9_000), Some(9_000), 7));
        let dropped = [(Verdict::Skipped, Some(2_000), 3), (Verdict::Missed, Some(6_000), 3)];
        assert_eq!(verdicts(&other), dropped);
        let through: Vec<_> = other.records.iter().map(|record| record.through).collect();
        assert_eq!(through, [Some(4_000), Some(8_000)]);
        // One that is still to come is none that passed.
        assert_eq!(verdicts(&changed(&Seconds, &policy, &busy(), Some(&Seconds), 5_500)).len(), 1);
        // One that had had all its runs goes on when it may have more.
        let spent = FiringState { next: None, started: 7, ..FiringState::default() };
        let more = FiringPolicy { max_runs: 8, ..policy.clone() };
        assert_eq!(changed(&Seconds, &more, &spent, None, 5_500).look_at, Some(6_000));
        let fewer = FiringPolicy { max_runs: 7, ..policy };
        assert_eq!(changed(&Seconds, &fewer, &spent, None, 5_500).look_at, None);
    }

    #[test]
    fn backfills_go_on_after_a_change_only_if_the_times_are_the_same() {
        let policy = FiringPolicy::default();
        let backfill =
            Backfill { id: "b1".into(), next: 1_000, to: 2_000, pace_ms: 500, at: 5_000, started: 3, tries: 0 };
        let state = FiringState { next: Some(6_000), backfills: vec![backfill], ..FiringState::default() };
        assert_eq!(changed(&Seconds, &policy, &state, None, 5_500).state, state);
        let other = changed(&Seconds, &policy, &state, Some(&Seconds), 5_500);
        assert_eq!((other.state.backfills.len(), verdicts(&other)), (0, vec![(Verdict::Skipped, None, 0)]));
        let record = &other.records[0];
        let why = Some("the schedule's times were changed; it had started 3");
        assert_eq!((record.backfill.as_deref(), record.reason.as_deref()), (Some("b1"), why));
    }

    #[test]
    fn a_pause_keeps_its_beginning_and_a_time_is_left_out_once() {
        let policy = FiringPolicy::default();
        let first = pause(&Seconds, &policy, &busy(), Some("a".into()), 5_000);
        let second = pause(&Seconds, &policy, &first.state, Some("b".into()), 6_000);
        let expected = Pause { since: 5_000, reason: Some("b".into()) };
        assert_eq!((second.state.paused, second.look_at), (Some(expected), None));
        let skipped = skip_next(&Seconds, &policy, &busy(), 5_000).unwrap();
        assert_eq!((skipped.state.next, verdicts(&skipped)), (Some(7_000), vec![(Verdict::Skipped, Some(6_000), 1)]));
        assert!(skip_next(&Seconds, &policy, &FiringState::default(), 5_000).is_none());
    }

    #[test]
    fn four_backfills_are_under_way_at_most_and_one_is_aborted() {
        let policy = FiringPolicy::default();
        let new =
            |id: &str| Backfill { id: id.into(), next: 1_000, to: 2_000, pace_ms: 1, at: 5_000, started: 3, tries: 0 };
        let mut state = FiringState::default();
        for id in ["a", "b", "c", "d"] {
            state = add_backfill(&Seconds, &policy, &state, new(id), 5_000).unwrap().state;
        }
        assert!(add_backfill(&Seconds, &policy, &state, new("e"), 5_000).is_none());
        let aborted = abort_backfill(&Seconds, &policy, &state, "b", 5_000).unwrap();
        assert_eq!((aborted.state.backfills.len(), aborted.look_at), (3, Some(5_000)));
        assert!(abort_backfill(&Seconds, &policy, &aborted.state, "b", 5_000).is_none());
    }

    #[test]
    fn a_decision_records_no_more_than_a_step_takes() {
        let waiting: Vec<UnixMs> = (1..=100).collect();
        for overlap in Overlap::ALL {
            let policy = FiringPolicy { overlap, max_runs: 5, ..FiringPolicy::default() };
            for started in [0, 5] {
                let state = FiringState { next: Some(6_000), waiting: waiting.clone(), started, ..Default::default() };
                assert!(decide(&Seconds, &policy, &state, 60_000).records.len() <= 15, "{overlap:?}");
            }
        }
    }
}
