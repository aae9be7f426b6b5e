//! `umbel schedule apply`: makes schedules what a file says. The difference is shown first, and everything is checked before
//! anything is changed.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use umbel_client::{Request, typed};
use umbel_model::ScheduleName;

use super::{
    diff::{Changed, Conflict, Created, Diff, View, fields},
    file::{self, Schedules},
    path,
};
use crate::args::{ApplyOptions, Format, PageFlags};
use crate::client::{Context, arguments::raw, confirm};
use crate::{Exit, Failure, Result, output::text_at};

/// Schedules of a tenant that are looked at.
const MOST: u32 = 10_000;

/// How a set of schedules is applied.
pub struct How {
    /// What marks the schedules of this set.
    pub source: String,
    pub prune: bool,
    /// Whether schedules of another source are changed, too.
    pub take_over: bool,
    pub yes: bool,
    pub dry_run: bool,
}

pub async fn run(ctx: &Context, options: &ApplyOptions) -> Result {
    let schedules = file::schedules(&options.file)?;
    let source = options.source.clone().map_or_else(|| source_of(&options.file), Ok)?;
    let ApplyOptions { prune, take_over, yes, dry_run, .. } = *options;
    let how = How { source, prune, take_over, yes, dry_run };
    set(ctx, schedules, &how).await
}

/// The mark of the schedules of a file: its name without the end.
pub fn source_of(file: &Path) -> Result<String> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).filter(|stem| stem != "-");
    let stem = stem.filter(|stem| !stem.is_empty() && stem.len() <= 190 && !stem.contains(char::is_control));
    let unnamed =
        || Failure::usage("the file has no name that could mark its schedules").help("give --source file:NAME");
    stem.map(|stem| format!("file:{stem}")).ok_or_else(unnamed)
}

/// A schedule as it will be, and the version that was read; none: there is none.
struct Planned {
    request: Request,
    name: ScheduleName,
}

pub async fn set(ctx: &Context, mut schedules: Schedules, how: &How) -> Result {
    let stored = stored(ctx).await?;
    let mut diff = Diff::default();
    let (mut planned, mut refused) = (Vec::new(), Vec::new());
    for (name, body) in &mut schedules {
        let source = raw(&how.source)?;
        let own = body.insert("source".into(), source.clone());
        if own.is_some_and(|own| own.get() != source.get()) {
            let failure = Failure::usage(format!("the schedule {name} has another `source` than its file"));
            return Err(failure.help("take it out, or give --source"));
        }
        let request = ctx.client.put(path(name)).json(&*body).query("dry_run", "true");
        let wanted: View = match request.text().await {
            Ok(text) => typed(&text)?,
            Err(error) => {
                let failure = Failure::from(error);
                if failure.exit == Exit::Auth || failure.exit == Exit::Unavailable {
                    return Err(failure);
                }
                refused.push(format!("{name}: {}", failure.message));
                refused.extend(failure.details.into_iter().map(|detail| format!("  {detail}")));
                continue;
            }
        };
        let before = stored.get(name.as_str());
        let changed = before.map_or_else(Vec::new, |before| fields(before, &wanted));
        if let Some(source) = before.and_then(|before| foreign(before, how)) {
            diff.conflicts.push(Conflict { name: name.to_string(), source });
            continue;
        }
        match before {
            Some(_) if changed.is_empty() => {
                diff.unchanged.push(name.to_string());
                continue;
            }
            Some(_) => diff.changed.push(Changed { name: name.to_string(), fields: changed }),
            None => diff.created.push(Created { name: name.to_string(), describe: field(&wanted, "describe") }),
        }
        let request = ctx.client.put(path(name)).json(&*body);
        planned.push(Planned { request: at_version(request, before), name: name.clone() });
    }
    if !refused.is_empty() {
        let message = "some schedules of the file are refused, and nothing was changed";
        return Err(Failure::new("schedules_refused", message).details(refused));
    }
    let of_source = stored.iter().filter(|(_, view)| field(view, "source") == how.source);
    let gone: Vec<ScheduleName> = of_source.filter_map(|(name, _)| ScheduleName::new(name).ok()).collect();
    let gone: Vec<ScheduleName> = gone.into_iter().filter(|name| !schedules.contains_key(name)).collect();
    let names = gone.iter().map(ToString::to_string).collect();
    *(if how.prune { &mut diff.deleted } else { &mut diff.left_over }) = names;
    show(ctx, &diff)?;
    if !diff.conflicts.is_empty() {
        let message = "schedules of these names were made by something else, and nothing was changed";
        let failure = Failure::new("schedule_conflict", message).exit(Exit::Conflict);
        let told = diff.conflicts.iter().map(Conflict::told).collect();
        return Err(failure.details(told).help("--take-over changes them, and they are of this file from then on"));
    }
    match (diff.is_empty(), how.dry_run) {
        (true, _) => return Ok(()),
        // There is a difference, as the exit code says.
        (false, true) => return Err(Failure::quiet(Exit::Conflict)),
        (false, false) => {}
    }
    if !diff.deleted.is_empty() {
        confirm(how.yes, &format!("delete {} schedules with their history?", diff.deleted.len()))?;
    }
    carry_out(ctx, planned, if how.prune { gone } else { Vec::new() }, &stored).await
}

/// All schedules of the tenant by name.
async fn stored(ctx: &Context) -> Result<BTreeMap<String, View>> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let page = ctx.pages("/v1/schedules", &[], &PageFlags { limit: MOST, cursor: None }).await?;
    if page.next_cursor.is_some() {
        return Err(Failure::new("too_many", format!("there are more than {MOST} schedules")));
    }
    let read = |item: &serde_json::value::RawValue| -> Result<(String, View)> {
        Ok((typed::<Named>(item.get())?.name, typed(item.get())?))
    };
    page.items.iter().map(|item| read(item)).collect()
}

/// A field of a view as text.
fn field(view: &View, name: &str) -> String {
    let value = view.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default();
    text_at(&value, "")
}

/// The source of a schedule that something else has made, unless it is to be taken over. Empty: it has none.
fn foreign(before: &View, how: &How) -> Option<String> {
    let source = field(before, "source");
    (!how.take_over && source != how.source).then_some(source)
}

/// Somebody else's change since it was read is a conflict.
fn at_version(request: Request, before: Option<&View>) -> Request {
    match before.and_then(|view| view.get("version")) {
        Some(version) => request.header("if-match", format!("\"{}\"", version.get())),
        None => request.header("if-none-match", "*"),
    }
}

fn show(ctx: &Context, diff: &Diff) -> Result {
    match ctx.terminal.format {
        Format::Table => diff.print(&ctx.terminal),
        Format::Json | Format::Jsonl => ctx.terminal.line(raw(diff)?.get()),
        Format::Id => {
            let changed = diff.changed.iter().map(|changed| &changed.name);
            let all = diff.created.iter().map(|created| &created.name).chain(changed).chain(&diff.deleted);
            all.into_iter().try_for_each(|name| ctx.terminal.line(name))
        }
    }
}

async fn carry_out(
    ctx: &Context,
    planned: Vec<Planned>,
    gone: Vec<ScheduleName>,
    stored: &BTreeMap<String, View>,
) -> Result {
    let all = planned.len() + gone.len();
    let mut done = 0;
    // What was done before a failure is told, too: applying again goes on from there.
    let failed = |failure: umbel_client::Error, name: &ScheduleName, done: usize| {
        let failure = Failure::from(failure);
        let message = format!("{name}: {}; {done} of {all} changes were made", failure.message);
        Failure { message, ..failure }.help("apply it again: it shows what is still different")
    };
    for Planned { request, name } in planned {
        request.text().await.map_err(|error| failed(error, &name, done))?;
        done += 1;
    }
    for name in gone {
        let request = at_version(ctx.client.delete(path(&name)), stored.get(name.as_str()));
        request.text().await.map_err(|error| failed(error, &name, done))?;
        done += 1;
    }
    ctx.terminal.note(&format!("{done} changes were made"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_marks_its_schedules_by_its_name() {
        assert_eq!(source_of(Path::new("/x/crm.prod.toml")).unwrap(), "file:crm.prod");
        for none in ["-", "..", "/", "a\u{1b}.toml"] {
            assert_eq!(source_of(Path::new(none)).unwrap_err().code, "usage", "{none:?}");
        }
    }

    #[test]
    fn a_schedule_of_another_source_is_in_conflict_unless_it_is_taken_over() {
        let how = |take_over| How { source: "file:a".into(), prune: false, take_over, yes: false, dry_run: false };
        for (stored, conflict) in [
            (r#"{"source": "file:a"}"#, None),
            (r#"{"source": "file:b"}"#, Some("file:b")),
            (r#"{"source": null}"#, Some("")),
            ("{}", Some("")),
        ] {
            let view: View = serde_json::from_str(stored).unwrap();
            assert_eq!(foreign(&view, &how(false)).as_deref(), conflict, "{stored}");
            assert_eq!(foreign(&view, &how(true)), None, "{stored}");
        }
    }

    #[test]
    fn a_text_field_is_read_as_text_and_one_that_is_not_there_as_nothing() {
        let view: View = serde_json::from_str(r#"{"source": "file:a", "version": 3, "zone": null}"#).unwrap();
        assert_eq!([field(&view, "source"), field(&view, "zone"), field(&view, "x")], ["file:a", "", ""]);
    }
}
