//! `umbel::testing`: what a policy does to jobs, seen with a clock that stands still.

use std::time::Duration;

use serde_json::{Value, json};
use umbel::{
    canvas::{Json, Options},
    prelude::*,
    testing::{App, JobState},
};

/// Ends as it is told, in turn; the last way is that of all further attempts.
#[task(max_retries = 3, retry_backoff = "1s..1m", retry_multiplier = 3)]
fn ends(ctx: &Context, ways: Vec<String>) -> TaskResult<u32> {
    let number = ctx.fence() as usize;
    let way = ways.get(number - 1).or(ways.last()).map_or("ok", String::as_str);
    match way {
        "ok" => Ok(ctx.attempt()),
        "fatal" => Err(Fatal::new("for good").kind("Void").into()),
        "reject" => Err(Reject::new("not for me").into()),
        "snooze" => Err(Snooze::new(Duration::from_secs(30)).into()),
        "ignore" => Err(Ignore.into()),
        "after" => Err(RetryAfter::new(Duration::from_secs(7), "slow down").into()),
        "panic" => panic!("as the test wants"),
        kind => Err(Retry::new("for now").kind(kind).into()),
    }
}

#[task(max_retries = 5, retry_on = ["Timeout", "deadline"], dont_retry_on = ["Time*"])]
fn picky(ctx: &Context, seconds: u64, kind: Option<String>) -> TaskResult<()> {
    ctx.sleep(Duration::from_secs(seconds));
    kind.map_or(Ok(()), |kind| Err(Retry::new("no").kind(kind).into()))
}

#[task(time_limit = "10s", soft_time_limit = "8s", retry_on = ["deadline"], max_retries = 1, retry_backoff = "5s")]
fn patient(ctx: &Context, steps: u32) -> TaskResult<String> {
    for step in 0..steps {
        ctx.progress(step.into(), steps.into(), "stepping");
        ctx.set_state("stepping", json!({"step": step}));
        ctx.sleep(Duration::from_secs(3));
        if ctx.should_stop() {
            ctx.warn("cleaning up");
            return Ok(format!("stopped after {step}, {} s left", ctx.remaining().as_secs()));
        }
    }
    Ok("done".to_owned())
}

#[task(retry_on = ["out_of_fuel"], retry_fuel_factor = 4, fuel = 1000, max_retries = 2)]
fn hungry() -> u32 {
    1
}

#[task(ignore_result = true)]
fn shy() -> u32 {
    1
}

#[task]
fn add(x: i64, #[default(1)] y: i64) -> i64 {
    x + y
}

#[task]
fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task]
fn told(error: StepError, of: String) -> String {
    format!("{of}: {} in {}", error.kind, error.task.unwrap_or_default())
}

#[task]
fn fib(ctx: &Context, n: u32) -> TaskResult<i64> {
    match n {
        0 | 1 => Ok(n.into()),
        _ => ctx.replace(chord![group![fib::s(n - 1), fib::s(n - 2)], total::s()]),
    }
}

#[task]
fn more(ctx: &Context, first: i64) -> TaskResult<i64> {
    if ctx.attempt() == 1 {
        ctx.add_to_group([add::s(100, 0)])?;
        return Err(Retry::new("then not").into());
    }
    ctx.add_to_group([add::s(first + 1, 1), add::s(first + 2, 1)])?;
    ctx.submit(add::s(40, 2))?;
    Ok(first)
}

#[task]
fn becomes(ctx: &Context, canvas: String) -> TaskResult<i64> {
    let canvas: Value = serde_json::from_str(&canvas)?;
    ctx.replace(Canvas::Json(Json::of(&canvas)))
}

umbel::module![ends, picky, patient, hungry, shy, add, total, told, fib, more, becomes];

fn app() -> App {
    App::new(umbel_module::Module).without_jitter()
}

fn ways(ways: &[&str]) -> umbel::canvas::Signature {
    ends::s(ways.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn seconds(seconds: &[u64]) -> Vec<Duration> {
    seconds.iter().copied().map(Duration::from_secs).collect()
}

#[test]
fn a_job_is_retried_with_its_backoff_until_its_retries_are_used_up() {
    let mut app = app();
    let job = app.submit(ways(&["Down"])).unwrap();
    assert_eq!(job.state(), JobState::Queued);
    assert_eq!(app.run_due(), 1);
    assert_eq!((job.state(), job.kind().as_str()), (JobState::Retrying, "Down"));
    app.run_until_idle();
    assert_eq!(job.state(), JobState::Failed);
    assert!(job.is_dead());
    assert_eq!(job.delays(), seconds(&[1, 3, 9]));
    assert_eq!(job.attempts()[3].started, Duration::from_secs(13));
    assert_eq!(job.attempts().iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn each_way_to_end_means_what_it_means_to_a_host() {
    let mut app = app();
    let end = |app: &mut App, list: &[&str]| {
        let job = app.submit(ways(list)).unwrap();
        app.run_until_idle();
        (job.state(), job.kind(), job.attempts().len(), job.result())
    };
    assert_eq!(end(&mut app, &["X", "ok"]), (JobState::Succeeded, String::new(), 2, Some(json!(2))));
    assert_eq!(end(&mut app, &["fatal"]), (JobState::Failed, "Void".into(), 1, None));
    assert_eq!(end(&mut app, &["reject"]), (JobState::Failed, "rejected".into(), 1, None));
    assert_eq!(end(&mut app, &["ignore"]), (JobState::Succeeded, String::new(), 1, None));
    assert_eq!(end(&mut app, &["panic"]), (JobState::Failed, "panic".into(), 1, None));
    let job = app.submit(ways(&["snooze", "snooze", "after", "ok"])).unwrap();
    app.run_until_idle();
    assert_eq!(job.delays(), seconds(&[30, 30, 7]));
    let told: Vec<_> = job.attempts().iter().map(|a| (a.number, a.outcome)).collect();
    assert_eq!(told, [(1, "snoozed"), (1, "snoozed"), (1, "error"), (2, "succeeded")]);
}

#[test]
fn kinds_decide_what_is_retried_and_a_deadline_is_a_trap() {
    let mut app = app();
    let call = |app: &mut App, seconds: u64, kind: Option<&str>| {
        let job = app.submit(picky::s(seconds, kind.map(str::to_owned))).unwrap();
        app.run_until_idle();
        (job.attempts().len(), job.kind())
    };
    assert_eq!(call(&mut app, 1, Some("Timeout")), (1, "Timeout".into()));
    assert_eq!(call(&mut app, 1, Some("Other")), (1, "Other".into()));
    assert_eq!(call(&mut app, 300, None), (6, "deadline".into()));
    app.set_policy("picky", Options::new().with("dont_retry_on", json!([]))).unwrap();
    assert_eq!(call(&mut app, 1, Some("Timeout")), (6, "Timeout".into()));
}

#[test]
fn a_soft_limit_asks_and_a_hard_limit_stops() {
    let mut app = app();
    let job = app.submit(patient::s(9)).unwrap();
    app.run_until_idle();
    assert_eq!(job.result(), Some(json!("stopped after 2, 1 s left")));
    let attempt = &job.attempts()[0];
    assert_eq!((attempt.duration, attempt.logs.len(), attempt.progress.len()), (Duration::from_secs(9), 1, 3));
    assert_eq!((attempt.states[2].name.as_str(), &attempt.states[2].meta), ("stepping", &json!({"step": 2})));
    let options = Options::new().time_limit(Duration::from_secs(3)).soft_time_limit(Duration::ZERO);
    let job = app.submit(patient::s(9).set(options)).unwrap();
    app.run_until_idle();
    assert_eq!((job.attempts().len(), job.kind().as_str()), (2, "deadline"));
    assert_eq!(job.attempts()[0].duration, Duration::from_secs(3));
}

#[test]
fn a_trap_is_pretended_and_more_fuel_is_given() {
    let mut app = app();
    let job = app.submit(hungry::s()).unwrap();
    app.trap(&job, 1, "out_of_fuel");
    app.trap(&job, 2, "memory");
    app.run_until_idle();
    assert_eq!((job.state(), job.kind().as_str()), (JobState::Failed, "memory"));
    assert_eq!(job.attempts().iter().map(|a| a.fuel).collect::<Vec<_>>(), [1_000, 4_000]);
}

#[test]
fn a_call_wins_over_the_server_and_the_server_over_the_code() {
    let mut app = app();
    app.set_policy("ends", Options::new().max_retries(1).priority(8)).unwrap();
    let by_server = app.submit(ways(&["Down"])).unwrap();
    let by_call = app.submit(ways(&["Down"]).set(Options::new().max_retries(0))).unwrap();
    app.run_until_idle();
    assert_eq!((by_server.attempts().len(), by_call.attempts().len()), (2, 1));
    assert_eq!((by_call.policy().priority, by_call.policy().retry_backoff.multiplier), (8, 3));
    assert!(app.set_policy("ends", Options::new().countdown(Duration::ZERO)).is_err());
    assert_eq!(app.set_policy("ends", Options::new().priority(10)).unwrap_err().kind, "invalid_option");
}

#[test]
fn a_job_waits_for_its_time_and_expires_while_it_waits() {
    let mut app = app();
    let minute = Duration::from_secs(60);
    let later = app.submit(add::s(1, 2).set(Options::new().countdown(minute))).unwrap();
    let at = app.submit(add::s(1, 2).set(Options::new().eta("2026-01-01T00:02:00Z"))).unwrap();
    let late = app.submit(ways(&["Down"]).set(Options::new().expires(Duration::from_secs(2)))).unwrap();
    assert_eq!((later.state(), app.run_due()), (JobState::Scheduled, 1));
    assert_eq!(app.advance(Duration::from_secs(59)), 1);
    assert_eq!((late.state(), late.attempts().len()), (JobState::Expired, 2));
    assert_eq!(later.state(), JobState::Scheduled);
    assert_eq!(app.advance(Duration::from_secs(1)), 1);
    assert_eq!(later.result(), Some(json!(3)));
    assert_eq!(later.attempts()[0].delay, minute);
    app.run_until_idle();
    assert_eq!(at.attempts()[0].started, 2 * minute);
    let cancelled = app.submit(add::s(1, 2).set(Options::new().countdown(minute))).unwrap();
    assert!(app.cancel(&cancelled) && !app.cancel(&cancelled) && !app.cancel(&at));
    assert_eq!((app.run_until_idle(), cancelled.state()), (0, JobState::Revoked));
}

#[test]
fn jitter_is_the_same_for_the_same_seed_and_stays_below_the_full_delay() {
    let delays = |seed| {
        let mut app = App::new(umbel_module::Module).with_seed(seed);
        let job = app.submit(ways(&["Down"])).unwrap();
        app.run_until_idle();
        job.delays()
    };
    assert_eq!(delays(7), delays(7));
    assert_ne!(delays(7), delays(8));
    assert!(delays(7).iter().zip(seconds(&[1, 3, 9])).all(|(delay, full)| *delay <= full));
}

#[test]
fn a_task_that_is_retried_for_ever_ends_its_test() {
    let mut app = app();
    let job = app.submit(ways(&["Down"]).set(Options::new().with("retries_unlimited", true))).unwrap();
    assert_eq!(app.run_until_idle(), umbel::testing::MAX_ATTEMPTS);
    assert_eq!(job.state(), JobState::Retrying);
}

#[test]
fn what_a_server_would_refuse_is_refused() {
    let mut app = app();
    let kind = |app: &mut App, signature| app.submit(signature).unwrap_err().kind;
    assert_eq!(kind(&mut app, Signature::new("nope")), "unknown_task");
    assert_eq!(kind(&mut app, Signature::new("add")), "invalid_arguments");
    assert_eq!(kind(&mut app, add::s(1, 2).kwarg("z", 1)), "invalid_arguments");
    assert_eq!(kind(&mut app, add::s(1, 2).set(Options::new().with("max_retry", 1))), "invalid_option");
    assert_eq!(kind(&mut app, add::s(1, 2).set(Options::new().eta("soon"))), "invalid_option");
    assert_eq!(kind(&mut app, add::s(1, 2).link(add::s(1, 2))), "invalid_canvas");
    let error = app.start(chain![add::s(1, 2), Signature::new("nope")]).unwrap_err();
    assert!(error.message.starts_with("/chain/1: "), "{error}");
}

#[test]
fn a_result_that_nobody_wants_is_not_kept() {
    let mut app = app();
    let job = app.submit(shy::s()).unwrap();
    app.run_until_idle();
    assert_eq!((job.state(), job.result()), (JobState::Succeeded, None));
    let nothing = Options::new().with("ignore_result", true).with("store_errors_even_if_ignored", false);
    let job = app.submit(ways(&["fatal"]).set(nothing)).unwrap();
    app.run_until_idle();
    assert_eq!((job.state(), job.is_dead()), (JobState::Failed, false));
    assert_eq!(job.failure().map(|failure| (failure.kind, failure.message)), Some(("Void".into(), String::new())));
}

#[test]
fn chains_groups_and_chords_run() {
    let mut app = app();
    let chain = app.start(chain![add::s(2, 2), add::s(4), add::s(8)]).unwrap();
    let chord = app.start(chord![group((0..10).map(|n| add::s(n, n))), total::s()]).unwrap();
    let group = app.start(group![add::map([1, 2]), chain![add::s(1, 1), add::s()]]).unwrap();
    assert_eq!((chain.state(), chain.jobs()[1].state()), (JobState::Running, JobState::Waiting));
    app.run_until_idle();
    assert_eq!(chain.result(), Some(json!(16)));
    assert_eq!(chord.result(), Some(json!(90)));
    assert_eq!(group.result(), Some(json!([[2, 3], 3])));
}

#[test]
fn a_step_that_fails_stops_what_is_behind_it_and_calls_its_callback() {
    let mut app = app();
    let fails = || ways(&["fatal"]);
    let chain = app.start(chain![fails().link_error(told::s("undo")), add::s(1)]).unwrap();
    let fine = app.start(add::s(1, 2).link(add::p(5)).link_error(told::p("undo"))).unwrap();
    app.run_until_idle();
    let ends: Vec<_> = chain.jobs().iter().map(|job| (job.task(), job.state(), job.kind())).collect();
    assert_eq!(ends[0], ("ends".to_owned(), JobState::Failed, "Void".to_owned()));
    assert_eq!(ends[1], ("add".to_owned(), JobState::Failed, "upstream_failed".to_owned()));
    assert_eq!(chain.jobs()[2].result(), Some(json!("undo: Void in ends")));
    assert_eq!((chain.state(), fine.state(), fine.result()), (JobState::Failed, JobState::Succeeded, Some(json!(3))));
    let mut states: Vec<_> = fine.jobs()[1..].iter().map(|job| (job.task(), job.state())).collect();
    states.sort();
    assert_eq!(states, [("add".to_owned(), JobState::Succeeded), ("told".to_owned(), JobState::Skipped)]);
}

#[test]
fn a_group_goes_on_over_failures_if_it_is_told_to() {
    let mut app = app();
    let ignored = chord![group![ways(&["fatal"]), add::s(1, 1)].on_failure(OnFailure::Ignore), Signature::new("list")];
    let failed = app.start(chord![group![ways(&["fatal"]), add::s(1, 1)], total::s()]);
    let mut app_with =
        App::new(umbel_module::Module).with_stand_in("list", &["items"], |_, args| Ok(args["items"].clone()));
    let ignored = app_with.start(ignored).unwrap();
    app_with.run_until_idle();
    assert_eq!(ignored.result(), Some(json!([null, 2])));
    app.run_until_idle();
    let failed = failed.unwrap();
    assert_eq!((failed.state(), failed.jobs().last().unwrap().state()), (JobState::Failed, JobState::Failed));
}

#[test]
fn a_first_failure_cancels_the_rest_of_a_group_that_says_so() {
    let mut app = app();
    let slow = add::s(1, 1).set(Options::new().countdown(Duration::from_secs(60)));
    let group = app.start(group![ways(&["fatal"]), slow].cancel_rest()).unwrap();
    app.run_until_idle();
    assert_eq!(group.jobs().iter().map(|job| job.state()).collect::<Vec<_>>(), [JobState::Failed, JobState::Revoked]);
    assert_eq!(group.state(), JobState::Failed);
}

#[test]
fn a_task_is_replaced_by_a_workflow_whose_result_is_its_own() {
    let mut app = app();
    let job = app.submit(fib::s(9)).unwrap();
    app.run_until_idle();
    assert_eq!((job.state(), job.result()), (JobState::Succeeded, Some(json!(34))));
    assert!(job.attempts()[0].replacement.as_ref().is_some_and(|canvas| canvas["chord"].is_array()));
}

#[test]
fn a_job_that_was_replaced_is_cancelled_with_what_it_waits_for() {
    let mut app = app();
    let slow = add::s(1, 1).set(Options::new().countdown(Duration::from_secs(60)));
    let job = app.submit(becomes::s(Canvas::from(slow).json().unwrap())).unwrap();
    app.run_due();
    assert_eq!(job.state(), JobState::Waiting);
    assert!(app.cancel(&job));
    assert_eq!((app.run_until_idle(), job.state()), (0, JobState::Revoked));
    assert_eq!(app.jobs().last().map(|job| job.state()), Some(JobState::Revoked));
}

#[test]
fn members_and_workflows_that_a_task_asks_for_come_true_when_it_ends_well() {
    let mut app = app();
    let group = app.start(chord![group![more::s(1), add::s(5, 5)], total::s()]).unwrap();
    app.run_until_idle();
    // 1 and 10, then 2 + 1 and 3 + 1; nothing of the attempt that failed.
    assert_eq!(group.result(), Some(json!(18)));
    assert!(app.jobs().iter().any(|job| job.result() == Some(Value::from(42))));
}

#[test]
fn a_wrong_option_is_refused_in_words_for_people() {
    let mut app = App::default().with_task::<add>();
    let mut said = |options: Options| app.submit(add::s(1, 2).set(options)).unwrap_err().message;
    assert_eq!(
        said(Options::new().with("priority", "high")),
        "/priority: write a whole number from 0 to 255; this is the text \"high\""
    );
    assert!(said(Options::new().with("max_retry", 1)).starts_with("/max_retry: there is no `max_retry`, did you mean"));
    assert_eq!(said(Options::new().with("retry_backoff", 5)), "/retry_backoff: write an object; this is 5");
}
