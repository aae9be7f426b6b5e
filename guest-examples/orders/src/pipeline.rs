//! An order as a workflow: reserve, charge, ship. What was done is undone when a later step fails, and somebody is told.
//!
//! A step that did not run because one before it failed has an error too, so its compensation runs as well, and finds from
//! the error's kind that there is nothing to undo. Compensations may run twice, as any job may: they are idempotent.

use umbel::prelude::*;

use crate::{Gateway, Item, TOKEN_OK, as_outcome, take_payment, total_cents};

/// Goods that are kept for an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    pub order_id: u32,
    /// The same for every attempt of the same order.
    pub reservation_id: String,
    pub total_cents: u64,
}

/// A reservation that was paid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Payment {
    pub order_id: u32,
    pub reservation_id: String,
    pub receipt_id: String,
    pub total_cents: u64,
}

/// An order that is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Shipment {
    pub order_id: u32,
    pub receipt_id: String,
    pub tracking_id: String,
    pub status: String,
}

/// The result of a compensation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Compensation {
    pub order_id: u32,
    /// Such as `refund`.
    pub what: String,
    /// False when there was nothing to undo.
    pub done: bool,
    pub because: String,
}

/// Fulfils an order: replaced by the workflow of its steps.
#[task]
pub fn fulfil(
    ctx: &Context,
    order_id: u32,
    items: Vec<Item>,
    address: String,
    /// Test tokens: tok_ok, tok_busy_twice, tok_slow_down, tok_declined.
    #[default(TOKEN_OK.to_owned())]
    payment_token: String,
) -> TaskResult<Shipment> {
    ctx.replace(steps(order_id, items, address, payment_token))
}

/// The steps of an order. Each says what undoes the ones before it.
pub fn steps(order_id: u32, items: Vec<Item>, address: String, payment_token: String) -> Canvas {
    let order = chain![
        reserve::s(order_id, items),
        charge::s(payment_token).link_error(release::s(order_id)),
        ship::s(address).link_error(refund::s(order_id)).link_error(release::s(order_id)),
    ];
    order.link_error(notify_failure::p(order_id)).label(format!("order {order_id}")).into()
}

/// Keeps the goods of an order.
#[task]
pub fn reserve(ctx: &Context, order_id: u32, items: Vec<Item>) -> TaskResult<Reservation> {
    let total_cents = total_cents(&items, false)?;
    ctx.info(format!("reserved {} items for order {order_id}", items.len()));
    Ok(Reservation { order_id, reservation_id: format!("reservation-{order_id}"), total_cents })
}

/// Charges a reservation once.
#[task(max_retries = 5, retry_backoff = "200ms..10s", time_limit = "30s")]
pub fn charge(ctx: &Context, reservation: Reservation, payment_token: String) -> TaskResult<Payment> {
    let Reservation { order_id, reservation_id, total_cents } = reservation;
    let receipt_id = format!("receipt-{order_id}");
    let mut gateway = Gateway::default();
    take_payment(ctx, &mut gateway, &receipt_id, &payment_token, total_cents)
        .map_err(|error| as_outcome(ctx, error))?;
    Ok(Payment { order_id, reservation_id, receipt_id, total_cents })
}

/// Sends the goods of a paid order. An address without a street and a town cannot be reached.
#[task(max_retries = 2)]
pub fn ship(ctx: &Context, payment: Payment, address: String) -> TaskResult<Shipment> {
    let Payment { order_id, receipt_id, .. } = payment;
    if address.split(',').filter(|part| !part.trim().is_empty()).count() < 2 {
        let problem = format!("no carrier delivers to {address:?}: give a street and a town");
        return Err(Fatal::new(problem).kind("Undeliverable").into());
    }
    ctx.info(format!("order {order_id} was handed to the carrier"));
    Ok(Shipment { order_id, receipt_id, tracking_id: format!("track-{order_id}"), status: "shipped".to_owned() })
}

/// Gives the goods of an order back to the stock, unless they were never taken.
#[task(max_retries = 10)]
pub fn release(ctx: &Context, error: StepError, order_id: u32) -> Compensation {
    compensate(ctx, "release", &error, order_id)
}

/// Gives the money of an order back, unless it was never taken.
#[task(max_retries = 10)]
pub fn refund(ctx: &Context, error: StepError, order_id: u32) -> Compensation {
    compensate(ctx, "refund", &error, order_id)
}

fn compensate(ctx: &Context, what: &str, error: &StepError, order_id: u32) -> Compensation {
    // The step that this undoes something for did not run: what it is about was undone by the step that failed.
    let done = !error.is_upstream();
    let because = format!("{}: {}", error.kind, error.message);
    if done {
        ctx.warn(format!("{what} of order {order_id}, because {because}"));
    }
    Compensation { order_id, what: what.to_owned(), done, because }
}

/// Tells a person that an order failed, and at which step: the error callback of the whole.
#[task(max_retries = 10)]
pub fn notify_failure(ctx: &Context, error: StepError, order_id: u32) -> String {
    let (task, kind, message) = match error.failed.first() {
        Some(job) => (job.task.as_str(), &job.kind, &job.message),
        None => (error.task.as_deref().unwrap_or("a step"), &error.kind, &error.message),
    };
    let notice = format!("order {order_id} failed at {task}: {message} ({kind})");
    ctx.error(&notice);
    notice
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel::serde_json::{Value, from_value, json};

    fn items() -> Vec<Item> {
        vec![Item { sku: "tea".into(), quantity: 2, unit_price_cents: 450 }]
    }

    fn pay(token: &str) -> TaskResult<Payment> {
        let ctx = Context::fake();
        charge(&ctx, reserve(&ctx, 7, items())?, token.to_owned())
    }

    fn error(json: Value) -> StepError {
        from_value(json).unwrap()
    }

    #[test]
    fn an_order_goes_through_all_steps() {
        let shipment = ship(&Context::fake(), pay("tok_ok").unwrap(), "1 Main Street, Springfield".into()).unwrap();
        assert_eq!((shipment.receipt_id.as_str(), shipment.tracking_id.as_str()), ("receipt-7", "track-7"));
    }

    #[test]
    fn each_step_can_fail() {
        assert_eq!(reserve(&Context::fake(), 7, vec![]).unwrap_err().kind(), Some("InvalidOrder"));
        assert_eq!(pay("tok_declined").unwrap_err().kind(), Some("Declined"));
        assert!(pay("tok_busy_twice").unwrap_err().is_retryable());
        let error = ship(&Context::fake(), pay("tok_ok").unwrap(), "the moon".into()).unwrap_err();
        assert_eq!(error.kind(), Some("Undeliverable"));
    }

    #[test]
    fn fulfilling_is_a_chain_with_compensations_and_a_callback() {
        let ctx = Context::fake();
        fulfil(&ctx, 7, items(), "a, b".into(), "tok_ok".into()).unwrap_err();
        let undo = |task: &str| json!({"task": task, "args": [7]});
        let expected = json!({
            "chain": [
                {"task": "reserve", "args": [7, [{"sku": "tea", "quantity": 2, "unit_price_cents": 450}]]},
                {"task": "charge", "args": ["tok_ok"], "link_error": [undo("release")]},
                {"task": "ship", "args": ["a, b"], "link_error": [undo("refund"), undo("release")]},
            ],
            "link_error": [undo("notify_failure")],
            "label": "order 7",
        });
        assert_eq!(ctx.replacement(), Some(expected));
    }

    #[test]
    fn only_what_was_done_is_undone() {
        let ctx = Context::fake();
        let own = error(json!({"task": "ship", "node": 2, "kind": "Undeliverable", "message": "no carrier"}));
        assert!(refund(&ctx, own.clone(), 7).done && release(&ctx, own, 7).done);
        let failed = json!([{"job_id": "j", "node": 1, "task": "charge", "kind": "Declined", "message": "no"}]);
        let before = error(json!({"node": 2, "kind": "upstream_failed", "message": "1 failed", "failed": failed}));
        assert!(!refund(&ctx, before.clone(), 7).done);
        assert_eq!(notify_failure(&ctx, before, 7), "order 7 failed at charge: no (Declined)");
        assert_eq!(ctx.logs().len(), 3);
    }
}
