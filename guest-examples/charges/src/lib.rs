//! How a policy is tested in docs/guides/writing-tasks.md, word for word.

use std::time::Duration;
use umbel::prelude::*;

/// The bank of this example is down in the first five seconds of 2026, which is when a test begins.
fn bank(ctx: &Context, card: &str) -> TaskResult<()> {
    match card {
        "declined" => Err(Retry::new("the card was declined").kind("Declined").into()),
        _ if ctx.unix_time() < Duration::from_secs(1_767_225_605) => {
            Err(Retry::new("no answer").kind("Timeout").into())
        }
        _ => Ok(()),
    }
}

/// Charges an order.
#[task(max_retries = 3, retry_backoff = "1s..1m", dont_retry_on = ["Declined"])]
pub fn charge(ctx: &Context, order_id: u32, card: String) -> TaskResult<u32> {
    bank(ctx, &card)?;
    Ok(order_id)
}

umbel::module![charge];

#[cfg(test)] // the module for the sandbox is built without `umbel::testing`
mod tests {
    use super::*;
    use umbel::testing::{App, JobState};

    #[test]
    fn a_charge_outlives_a_bank_that_is_down_for_five_seconds() {
        let mut app = App::new(umbel_module::Module).without_jitter();
        let job = app.submit(charge::s(7_u32, "visa")).unwrap();
        app.run_until_idle();
        assert_eq!(job.state(), JobState::Succeeded);
        assert_eq!(job.delays(), [1, 2, 4].map(Duration::from_secs));
    }

    #[test]
    fn a_declined_card_is_not_tried_again() {
        let mut app = App::new(umbel_module::Module);
        let job = app.submit(charge::s(7_u32, "declined")).unwrap();
        app.run_until_idle();
        assert_eq!((job.state(), job.kind().as_str(), job.attempts().len()), (JobState::Failed, "Declined", 1));
    }
}
