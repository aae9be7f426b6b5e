//! Takes an order through validation, payment and shipping: every way in which a task succeeds or fails, in one job and
//! (`pipeline`) as a workflow of jobs with an error callback and compensations.

mod gateway;
mod pipeline;

use std::time::Duration;

use umbel::prelude::*;

use gateway::{Charge, Gateway, GatewayError, TOKEN_OK};
pub use pipeline::*;

/// Items of one order.
const MAX_ITEMS: usize = 100;
/// Pieces of one item.
const MAX_QUANTITY: u32 = 1_000;
const EXPRESS_CENTS: u64 = 990;

/// One line of an order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    pub sku: String,
    #[serde(default = "one")]
    pub quantity: u32,
    pub unit_price_cents: u64,
}

fn one() -> u32 {
    1
}

/// The receipt of a processed order.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Receipt {
    /// The same for every attempt and delivery of the same order.
    pub receipt_id: String,
    pub order_id: u32,
    pub total_cents: u64,
    pub status: &'static str,
}

/// Charges an order once and returns its receipt.
///
/// Temporary trouble with the payment gateway is retried; a declined card or an order that makes no sense is not.
#[task(max_retries = 5, retry_backoff = "200ms..10s", time_limit = "30s", soft_time_limit = "25s", memory = "16MiB")]
pub fn process_order(
    ctx: &Context,
    order_id: u32,
    items: Vec<Item>,
    /// Test tokens: tok_ok, tok_busy_twice, tok_slow_down, tok_declined.
    #[default("tok_ok")]
    payment_token: String,
    #[default(false)] express: bool,
) -> TaskResult<Receipt> {
    charge_order(ctx, &mut Gateway::default(), order_id, &items, &payment_token, express)
}

fn charge_order(
    ctx: &Context,
    gateway: &mut Gateway,
    order_id: u32,
    items: &[Item],
    payment_token: &str,
    express: bool,
) -> TaskResult<Receipt> {
    ctx.progress(0, 3, "validating");
    let total_cents = total_cents(items, express)?;

    // Made from the order alone, so a second attempt or delivery asks for the same charge and not for another one.
    let receipt_id = format!("receipt-{order_id}");
    ctx.progress(1, 3, "charging");
    if ctx.should_stop() {
        return Err(Retry::new("no time left to charge safely").kind("OutOfTime").into());
    }
    take_payment(ctx, gateway, &receipt_id, payment_token, total_cents).map_err(|error| as_outcome(ctx, error))?;
    ctx.progress(3, 3, "done");
    Ok(Receipt { receipt_id, order_id, total_cents, status: "success" })
}

/// Charges once per receipt.
fn take_payment(
    ctx: &Context,
    gateway: &mut Gateway,
    receipt_id: &str,
    payment_token: &str,
    amount_cents: u64,
) -> Result<(), GatewayError> {
    let (fence, attempt) = (ctx.fence(), ctx.attempt());
    let charge = Charge { idempotency_key: receipt_id, fence, attempt, token: payment_token, amount_cents };
    if gateway.charge(charge)? {
        ctx.info(format!("charged {amount_cents} cents for {receipt_id}"));
    } else {
        log::info!("{receipt_id} was charged before; nothing to do");
    }
    Ok(())
}

/// Which failures are worth another try.
fn as_outcome(ctx: &Context, error: GatewayError) -> TaskError {
    match error {
        GatewayError::Busy => {
            ctx.warn(format!("attempt {} failed: {error}", ctx.attempt()));
            error.into()
        }
        GatewayError::SlowDown(seconds) => RetryAfter::new(Duration::from_secs(seconds), error.to_string()).into(),
        GatewayError::Declined | GatewayError::UnknownToken => {
            Fatal::new(error.to_string()).kind(format!("{error:?}")).into()
        }
        // The newer delivery writes the outcome; ours would only be noise.
        GatewayError::StaleFence => Ignore.into(),
    }
}

fn total_cents(items: &[Item], express: bool) -> TaskResult<u64> {
    let invalid = |problem: String| Fatal::new(problem).kind("InvalidOrder");
    if items.is_empty() || items.len() > MAX_ITEMS {
        return Err(invalid(format!("an order has 1 to {MAX_ITEMS} items, not {}", items.len())).into());
    }
    let mut total = if express { EXPRESS_CENTS } else { 0 };
    for (at, item) in items.iter().enumerate() {
        if item.quantity == 0 || item.quantity > MAX_QUANTITY {
            let problem = format!("item {at} has a quantity of {}, not 1 to {MAX_QUANTITY}", item.quantity);
            return Err(invalid(problem).details(Position { item: at, field: "quantity" }).into());
        }
        total = u64::from(item.quantity)
            .checked_mul(item.unit_price_cents)
            .and_then(|price| price.checked_add(total))
            .ok_or_else(|| invalid("the total is too large".to_owned()))?;
    }
    Ok(total)
}

/// Where in the order a problem is.
#[derive(Serialize)]
struct Position {
    item: usize,
    field: &'static str,
}

/// Waits, without holding a worker, until an order may be picked up.
#[task]
pub fn await_pickup(ctx: &Context, order_id: u32, ready_at_unix_ms: u64) -> TaskResult<String> {
    let ready_at = Duration::from_millis(ready_at_unix_ms);
    match ready_at.checked_sub(ctx.unix_time()) {
        // At least a millisecond, so that rounding never makes a busy loop of snoozes.
        Some(left) if !left.is_zero() => Err(Snooze::new(left.max(Duration::from_millis(1))).into()),
        _ => Ok(format!("order {order_id} is ready")),
    }
}

/// Refuses to handle returns: they belong to people, who find them in the dead set.
#[task]
pub fn return_order(order_id: u32, reason: Option<String>) -> TaskResult<()> {
    let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
    Err(Reject::new(format!("order {order_id} needs a person: {reason}")).into())
}

umbel::module![
    process_order,
    await_pickup,
    return_order,
    pipeline::fulfil,
    pipeline::reserve,
    pipeline::charge,
    pipeline::ship,
    pipeline::release,
    pipeline::refund,
    pipeline::notify_failure,
];

#[cfg(test)]
mod tests {
    use umbel::raw::Outcome;

    use super::*;

    fn items() -> Vec<Item> {
        vec![
            Item { sku: "tea".into(), quantity: 2, unit_price_cents: 450 },
            Item { sku: "cup".into(), quantity: 1, unit_price_cents: 1_200 },
        ]
    }

    fn charge_once(ctx: &Context, gateway: &mut Gateway, token: &str) -> TaskResult<Receipt> {
        charge_order(ctx, gateway, 7, &items(), token, false)
    }

    #[test]
    fn an_order_is_charged_and_its_receipt_returned() {
        let ctx = Context::fake();
        let receipt = process_order(&ctx, 7, items(), "tok_ok".into(), true).unwrap();
        assert_eq!(receipt.total_cents, 2 * 450 + 1_200 + 990);
        assert_eq!((receipt.receipt_id.as_str(), receipt.status), ("receipt-7", "success"));
        let steps: Vec<_> = ctx.progress_reports().into_iter().map(|p| (p.done, p.message)).collect();
        assert_eq!(steps, [(0, "validating".into()), (1, "charging".into()), (3, "done".into())]);
    }

    #[test]
    fn a_second_delivery_does_not_charge_again() {
        let mut gateway = Gateway::default();
        let first = charge_once(&Context::fake().with(|a| a.fence = 1), &mut gateway, "tok_ok").unwrap();
        let second =
            charge_once(&Context::fake().with(|a| (a.fence, a.delivery) = (2, 2)), &mut gateway, "tok_ok").unwrap();
        assert_eq!(first, second);
        assert_eq!(gateway.charged("receipt-7"), Some(2_100));
    }

    #[test]
    fn a_stale_delivery_leaves_the_charge_to_the_newer_one() {
        let mut gateway = Gateway::default();
        let busy = charge_once(&Context::fake().with(|a| a.fence = 5), &mut gateway, "tok_busy_twice").unwrap_err();
        assert!(busy.is_retryable());
        let stale = charge_once(&Context::fake().with(|a| a.fence = 4), &mut gateway, "tok_ok").unwrap_err();
        assert_eq!(stale.into_outcome(), Outcome::Ignore);
        assert_eq!(gateway.charged("receipt-7"), None);
    }

    #[test]
    fn temporary_trouble_is_retried_until_it_is_over() {
        let run =
            |attempt| charge_once(&Context::fake().with_attempt(attempt), &mut Gateway::default(), "tok_busy_twice");
        assert!(run(1).unwrap_err().is_retryable());
        assert_eq!(run(2).unwrap_err().kind(), Some("GatewayError::Busy"));
        assert!(run(3).is_ok());
        let slow = charge_once(&Context::fake(), &mut Gateway::default(), "tok_slow_down").unwrap_err();
        assert!(matches!(slow.outcome(), Outcome::Error(error) if error.retry_after_ms == Some(1_000)));
    }

    #[test]
    fn a_declined_card_is_final() {
        let error = charge_once(&Context::fake(), &mut Gateway::default(), "tok_declined").unwrap_err();
        assert!(error.is_fatal());
        assert_eq!((error.kind(), error.message()), (Some("Declined"), "the card was declined"));
        let error = charge_once(&Context::fake(), &mut Gateway::default(), "tok_stolen").unwrap_err();
        assert_eq!(error.kind(), Some("UnknownToken"));
    }

    #[test]
    fn an_order_that_makes_no_sense_is_final_and_says_where() {
        let arguments = r#"{"order_id":1,"items":[{"sku":"tea","quantity":0,"unit_price_cents":1}]}"#;
        match umbel_module::run("process_order", arguments).unwrap_err() {
            Outcome::Fatal(failure) => {
                assert_eq!(failure.kind, "InvalidOrder");
                assert_eq!(failure.details.as_deref(), Some(r#"{"item":0,"field":"quantity"}"#));
            }
            other => panic!("{other:?}"),
        }
        let much = vec![Item { sku: "tea".into(), quantity: 1_000, unit_price_cents: u64::MAX }];
        assert!(process_order(&Context::fake(), 1, much, "tok_ok".into(), false).unwrap_err().is_fatal());
        assert!(process_order(&Context::fake(), 1, vec![], "tok_ok".into(), false).unwrap_err().is_fatal());
    }

    #[test]
    fn no_charge_is_started_after_the_soft_limit() {
        let mut gateway = Gateway::default();
        let error = charge_once(&Context::fake().with_stop(), &mut gateway, "tok_ok").unwrap_err();
        assert_eq!((error.kind(), gateway.charged("receipt-7")), (Some("OutOfTime"), None));
    }

    #[test]
    fn waiting_for_a_pickup_snoozes_until_its_time() {
        let ctx = Context::fake();
        let now_ms = ctx.unix_time().as_millis() as u64;
        let error = await_pickup(&ctx, 7, now_ms + 1_500).unwrap_err();
        assert_eq!(error.into_outcome(), Outcome::Snooze(1_500));
        assert_eq!(await_pickup(&ctx, 7, now_ms).unwrap(), "order 7 is ready");
    }

    #[test]
    fn a_return_is_rejected_for_a_person_to_see() {
        let error = return_order(7, None).unwrap_err();
        assert_eq!(error.message(), "order 7 needs a person: no reason given");
    }
}
