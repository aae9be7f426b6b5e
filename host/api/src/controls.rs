//! Controls as JSON: limits and pauses of a tenant, a queue or a task, set while the service runs.

use serde::{Deserialize, Deserializer};
use umbel_broker::{Control, ControlPatch, Scope};
use umbel_model::{Rate, TenantId};
use utoipa::ToSchema;

use crate::{
    control_layers::{Layer, Layers, change},
    problem::{Code, Problem, Result},
    state::Api,
    views::views,
};

views! {
    /// A control: set at run time, it holds for all jobs, also for those that are queued already.
    #[schema(as = Control)]
    ControlView from (control: &Control, operator: Option<&Control>) {
        /// No job of it is handed to a worker; jobs that run go on.
        paused: bool = control.paused,
        /// Such as `100/m`, across all workers.
        rate_limit: Option<String> = control.rate.as_ref().map(rate_text),
        /// So many may start at once before the rate holds.
        rate_burst: Option<u32> = control.rate.map(|rate| rate.burst),
        /// Jobs at once, across all workers.
        concurrency: Option<u32> = Some(control.concurrency).filter(|concurrency| *concurrency > 0),
        /// Of a queue: its jobs run on one worker at a time.
        exclusive: bool = control.exclusive,
        /// The part of it that an operator set, and that the tenant cannot lift; null without one.
        operator: Option<OperatorControl> = operator.map(OperatorControl::new),
    }

    /// The control that an operator set.
    OperatorControl from (control: &Control) {
        paused: bool = control.paused,
        rate_limit: Option<String> = control.rate.as_ref().map(rate_text),
        rate_burst: Option<u32> = control.rate.map(|rate| rate.burst),
        concurrency: Option<u32> = Some(control.concurrency).filter(|concurrency| *concurrency > 0),
        exclusive: bool = control.exclusive,
    }
}

impl ControlView {
    /// The control that holds, and the operator's part of it.
    pub(crate) fn of(layers: &Layers) -> Self {
        let operator = Some(&layers.operator).filter(|operator| **operator != Control::default());
        Self::new(&layers.holding(), operator)
    }
}

/// A rate as people write it.
pub(crate) fn rate_text(rate: &Rate) -> String {
    let unit = match rate.period_ms {
        1_000 => "s",
        60_000 => "m",
        3_600_000 => "h",
        ms => return format!("{}/{ms}ms", rate.count),
    };
    format!("{}/{unit}", rate.count)
}

/// A change of a control. A field that is left out stays as it is; `null` removes it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ControlPatch)]
pub(crate) struct ControlBody {
    #[serde(deserialize_with = "given")]
    paused: Option<Option<bool>>,
    /// A number and `/s`, `/m` or `/h`.
    #[serde(deserialize_with = "given")]
    rate_limit: Option<Option<String>>,
    /// 1 when it was never set: starts are spread evenly.
    #[serde(deserialize_with = "given")]
    rate_burst: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    concurrency: Option<Option<u32>>,
    /// Of a queue only.
    #[serde(deserialize_with = "given")]
    exclusive: Option<Option<bool>>,
}

/// A field that is given, `null` too.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Largest burst, as of a policy.
const MAX_BURST: u32 = 1_000_000;

fn invalid(field: &str, detail: impl Into<String>) -> Problem {
    Problem::of_field(Code::InvalidControl, field, detail)
}

impl ControlBody {
    /// The change that the broker is to make to `current`.
    fn patch(&self, scope: &Scope, current: &Control) -> Result<ControlPatch> {
        if self.exclusive.is_some() && !matches!(scope, Scope::Queue(_)) {
            return Err(invalid("exclusive", "only a queue can be exclusive"));
        }
        Ok(ControlPatch {
            paused: self.paused.map(Option::unwrap_or_default),
            rate: self.rate(current)?,
            concurrency: self.concurrency.map(Option::unwrap_or_default),
            exclusive: self.exclusive.map(Option::unwrap_or_default),
        })
    }

    fn rate(&self, current: &Control) -> Result<Option<Option<Rate>>> {
        let burst = match self.rate_burst {
            None => current.rate.map_or(1, |rate| rate.burst),
            Some(burst) => burst.unwrap_or(1),
        };
        if !(1..=MAX_BURST).contains(&burst) {
            return Err(invalid("rate_burst", format!("from 1 to {MAX_BURST}")));
        }
        match (&self.rate_limit, self.rate_burst, current.rate) {
            (Some(Some(text)), ..) => Rate::parse(text, burst).map(Some).map_err(|e| invalid("rate_limit", e)),
            (Some(None), ..) => Ok(Some(None)),
            (None, None, _) | (None, Some(None), None) => Ok(None),
            (None, Some(_), Some(rate)) => Ok(Some(Some(Rate { burst, ..rate }))),
            (None, Some(Some(_)), None) => Err(invalid("rate_burst", "set rate_limit as well: there is no rate")),
        }
    }
}

/// Changes the tenant's or the operator's control of a scope; answers both.
pub(crate) async fn set(
    api: &Api,
    tenant: &TenantId,
    scope: &Scope,
    layer: Layer,
    body: &ControlBody,
) -> Result<Layers> {
    let layers = change(api, tenant, scope, layer, |current| body.patch(scope, current)).await?;
    tracing::info!(?scope, ?layer, control = ?layers.of(layer), "control set");
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(body: &str, current: Option<Rate>) -> Result<Option<Option<Rate>>> {
        let body: ControlBody = serde_json::from_str(body).unwrap();
        body.rate(&Control { rate: current, ..Control::default() })
    }

    #[test]
    fn what_is_not_named_stays_and_null_takes_it_away() {
        let old = Rate { count: 5, period_ms: 1_000, burst: 3 };
        assert_eq!(rate("{}", Some(old)).unwrap(), None);
        assert_eq!(rate(r#"{"rate_limit":null}"#, Some(old)).unwrap(), Some(None));
        let new = Rate { count: 100, period_ms: 60_000, burst: 3 };
        assert_eq!(rate(r#"{"rate_limit":"100/m"}"#, Some(old)).unwrap(), Some(Some(new)), "the burst stays");
        assert_eq!(rate(r#"{"rate_burst":9}"#, Some(old)).unwrap(), Some(Some(Rate { burst: 9, ..old })));
        assert_eq!(rate(r#"{"rate_burst":9}"#, None).unwrap_err().code(), "invalid_control");
        assert_eq!(rate(r#"{"rate_limit":"5/d"}"#, None).unwrap_err().code(), "invalid_control");
        assert_eq!(rate_text(&new), "100/m");
    }
}
