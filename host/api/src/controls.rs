//! Controls as JSON: limits and pauses of a tenant, a queue or a task, set while the service runs.

use serde::{Deserialize, Deserializer};
use umbel_broker::{Control, ControlPatch, ControlSet, Scope};
use umbel_model::{Rate, TenantId};
use utoipa::ToSchema;

use crate::{
    problem::{Code, Problem, Result},
    state::Api,
    views::views,
};

views! {
    /// A control: set at run time, it holds for all jobs, also for those that are queued already.
    #[schema(as = Control)]
    ControlView from (control: &Control) {
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
    }
}

/// A rate as people write it.
fn rate_text(rate: &Rate) -> String {
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

/// The control of a scope as it is now.
pub(crate) async fn control_of(api: &Api, tenant: &TenantId, scope: &Scope) -> Result<Control> {
    let controls = api.broker.controls(tenant).await?;
    Ok(controls.into_iter().find(|(other, _)| other == scope).map(|(_, control)| control).unwrap_or_default())
}

/// Changes the control of a scope; answers the new one.
pub(crate) async fn set(api: &Api, tenant: &TenantId, scope: &Scope, body: &ControlBody) -> Result<Control> {
    let patch = body.patch(scope, &control_of(api, tenant, scope).await?)?;
    let control = change(api, tenant, scope, &patch).await?;
    tracing::info!(?scope, ?control, "control set");
    Ok(control)
}

/// As `set`, with a patch that was checked.
pub(crate) async fn change(api: &Api, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<Control> {
    match api.broker.set_control(tenant, scope, patch).await? {
        ControlSet::Set(control) => Ok(control),
        ControlSet::Unknown => {
            let name = match scope {
                Scope::Queue(name) => name.as_str(),
                _ => "",
            };
            Err(Problem::no_queue(name))
        }
        ControlSet::Full => Err(Problem::too_many_documents("so many tasks have a control as may; clear some")),
    }
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
