//! `umbel workflow show -w`: a tree that is drawn again until the workflow is over; lines where nothing can be redrawn.

use std::time::Duration;

use umbel_client::Workflow;

use super::{path, print_end, screen, screen::Screen, tree};
use crate::args::{Format, ShowOptions};
use crate::client::{Context, fetch};
use crate::{Result, output::coloured, safe_text::one_line};

/// How often it is looked at; the end is told at once.
const EVERY: Duration = Duration::from_millis(500);

/// Shows the workflow until it is over, and returns it.
pub async fn watch(ctx: &Context, options: &ShowOptions) -> Result<Workflow> {
    let Context { client, terminal } = ctx;
    let redraw = terminal.format == Format::Table && screen::can_redraw();
    let mut screen = Screen::default();
    let mut last = None;
    loop {
        let request = path(client, options.id);
        let request = if last.is_none() { request } else { request.wait(EVERY) };
        let (body, workflow): (_, Workflow) = fetch(request).await?;
        let seen = Some((workflow.state, workflow.progress.clone()));
        if redraw {
            draw(ctx, options, &workflow, &mut screen).await?;
        } else if seen != last {
            let stands = format!("{} {}", workflow.state.as_str(), tree::summary(&workflow.progress));
            match terminal.format {
                Format::Json | Format::Jsonl => terminal.line(body.trim_end())?,
                Format::Id => {}
                Format::Table => terminal.line(&stands)?,
            }
        }
        if workflow.state.is_terminal() {
            if terminal.format == Format::Table {
                print_end(ctx, options, &workflow, !redraw).await?;
            }
            return Ok(workflow);
        }
        last = seen;
    }
}

async fn draw(ctx: &Context, options: &ShowOptions, workflow: &Workflow, screen: &mut Screen) -> Result {
    let mut size = screen::size();
    // The head and the line that the cursor is in.
    size.rows = size.rows.saturating_sub(3).min(options.lines as usize).max(1);
    let steps = tree::lines(&ctx.client, options.id, size).await?;
    let name = workflow.name.as_deref().map(|name| format!("{}  ", one_line(name))).unwrap_or_default();
    let title = format!("workflow {}  {name}{}", workflow.id, coloured(workflow.state.as_str()));
    let mut lines = vec![tree::cut(&title, size.columns), tree::cut(&tree::bar(&workflow.progress), size.columns)];
    lines.extend(steps);
    screen.draw(&lines)
}
