//! The first module of docs/guides/writing-tasks.md, word for word.

use umbel::prelude::*;

#[derive(Serialize, JsonSchema)]
pub struct Receipt {
    order_id: u32,
    status: &'static str,
}

/// Charges an order once.
#[task(max_retries = 3, retry_backoff = "1s..10m", time_limit = "30s")]
pub fn process_order(ctx: &Context, order_id: u32, #[default(false)] express: bool) -> TaskResult<Receipt> {
    if order_id == 0 {
        return Err(Fatal::new("there is no order 0").kind("InvalidOrder").into());
    }
    ctx.progress(1, 2, if express { "charging, express" } else { "charging" });
    Ok(Receipt { order_id, status: "success" })
}

umbel::module![process_order];

#[test]
fn an_order_is_charged() {
    let ctx = Context::fake();
    assert_eq!(process_order(&ctx, 7, true).unwrap().status, "success");
    assert_eq!(ctx.progress_reports()[0].message, "charging, express");
    assert!(umbel_module::run("process_order", r#"{"order_id": 0}"#).is_err());
}
