//! What the policies of these tasks do to jobs, without a server and without waiting.

use std::time::Duration;

use policies::{flaky, hungry, sleep_ms, stateful, umbel_module};
use serde_json::json;
use umbel::{
    canvas::Options,
    testing::{App, JobState},
};

fn app() -> App {
    App::new(umbel_module::Module).without_jitter()
}

#[test]
fn a_flaky_job_succeeds_after_delays_that_double() {
    let mut app = app();
    let job = app.submit(flaky::s(3_u32)).expect("the call is right");
    app.run_until_idle();
    assert_eq!((job.state(), job.result()), (JobState::Succeeded, Some(json!(4))));
    assert_eq!(job.delays(), [50, 100, 200].map(Duration::from_millis));
}

#[test]
fn a_caller_allows_fewer_retries() {
    let mut app = app();
    let job = app.submit(flaky::s(3_u32).set(Options::new().max_retries(1))).expect("the call is right");
    app.run_until_idle();
    assert_eq!((job.state(), job.kind().as_str(), job.attempts().len()), (JobState::Failed, "Flaky", 2));
    assert!(job.is_dead());
}

#[test]
fn a_hungry_job_gets_four_times_the_fuel_each_time() {
    let mut app = app();
    let job = app.submit(hungry::s(1_u64)).expect("the call is right");
    app.trap(&job, 1, "out_of_fuel");
    app.trap(&job, 2, "out_of_fuel");
    app.run_until_idle();
    assert_eq!(job.state(), JobState::Succeeded);
    assert_eq!(
        job.attempts().iter().map(|attempt| attempt.fuel).collect::<Vec<_>>(),
        [2_000_000, 8_000_000, 32_000_000]
    );
}

#[test]
fn a_sleeper_ends_when_its_soft_limit_asks_it_to() {
    let mut app = app();
    let options = Options::new().soft_time_limit(Duration::from_millis(300));
    let job = app.submit(sleep_ms::s(5_000_u64).set(options)).expect("the call is right");
    app.run_until_idle();
    assert_eq!(job.result(), Some(json!(300)));
}

#[test]
fn states_are_seen_in_their_order() {
    let mut app = app();
    let job = app.submit(stateful::s(10_u64)).expect("the call is right");
    app.run_until_idle();
    let attempt = &job.attempts()[0];
    let names: Vec<&str> = attempt.states.iter().map(|state| state.name.as_str()).collect();
    assert_eq!(names, ["reserving", "charging", "thanking"]);
    assert_eq!(attempt.states[1].meta, json!({"card": "visa", "step": 2}));
}
