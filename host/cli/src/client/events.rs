//! `umbel events`: what happens to all jobs, until it is interrupted.

use umbel_client::{Event, EventFilter, TenantEvent};

use super::{Context, job};
use crate::args::{EventsOptions, Format};
use crate::{Result, output::coloured, safe_text::plain};

pub async fn run(ctx: &Context, options: EventsOptions) -> Result {
    let filter = EventFilter::default().states(&options.state);
    let filter = options.task.iter().fold(filter, |filter, task| filter.task(task.as_str()));
    job::follow(ctx, ctx.client.tenant_feed(&filter), shown).await.map(drop)
}

/// An event as a line; none for what is not wanted, or is of a later version.
fn shown(event: &Event, format: Format) -> Result<Option<String>> {
    if matches!(format, Format::Json | Format::Jsonl) {
        return Ok(Some(job::as_sent(event)));
    }
    Ok(match event.of_tenant()? {
        Some(TenantEvent::Job(job)) if format == Format::Id => Some(job.job_id.to_string()),
        Some(TenantEvent::Job(job)) => {
            let state = coloured(job.state.as_str());
            Some(format!("{}  {}  {state}  {}", plain(&job.at), job.job_id, plain(&job.task)))
        }
        Some(TenantEvent::Missed) if format == Format::Table => {
            Some("missed  changes before this were not kept: look again at what you show".into())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines_for_people_ids_for_shells_and_objects_for_programs() {
        let id = "01J00000000000000000000000";
        let data = format!(r#"{{"job_id":"{id}","task":"add","state":"failed","at":"T"}}"#);
        let event = |name: &str, data: &str| Event { id: Some("7".into()), name: name.into(), data: data.into() };
        let (job, missed) = (event("job", &data), event("missed", "{}"));
        let line = |event: &Event, format| {
            let line = shown(event, format).unwrap();
            line.map(|line| anstream::adapter::strip_str(&line).to_string())
        };
        assert_eq!(line(&job, Format::Table).unwrap(), format!("T  {id}  failed  add"));
        assert_eq!(line(&job, Format::Id).unwrap(), id);
        assert_eq!(line(&job, Format::Jsonl).unwrap(), format!(r#"{{"event":"job","id":"7","data":{data}}}"#));
        assert!(line(&missed, Format::Table).unwrap().starts_with("missed"));
        assert_eq!((line(&missed, Format::Id), line(&event("later", "1"), Format::Table)), (None, None));
    }
}
