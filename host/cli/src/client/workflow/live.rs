//! `umbel workflow show -w`: a tree that is drawn again until the workflow is over; lines where nothing can be redrawn.

use std::time::Duration;

use umbel_client::{Client, Workflow, WorkflowProgress, WorkflowState};

use super::{
    now_ms, path,
    screen::{self, Screen},
    tree::{self, coloured_state},
};
use crate::{
    args::{Format, ShowOptions},
    client::answer,
    failure::Failure,
    output::Terminal,
    safe_text::plain,
};

/// How often it is looked at; the end is told at once.
const EVERY: Duration = Duration::from_millis(500);

/// Shows the workflow until it is over, and returns it.
pub async fn watch(client: &Client, options: &ShowOptions, terminal: &Terminal) -> Result<Workflow, Failure> {
    let redraw = terminal.format == Format::Table && screen::can_redraw();
    let mut screen = Screen::default();
    let mut last = None;
    loop {
        let request = path(client, options.id);
        let body = if last.is_none() { request } else { request.wait(EVERY) }.text().await?;
        let workflow: Workflow = answer(&body)?;
        let seen = Some((workflow.state, workflow.progress.clone()));
        if redraw {
            draw(client, options, &workflow, &mut screen).await?;
        } else if seen != last {
            append(&body, &workflow, terminal)?;
        }
        if workflow.state.is_terminal() {
            if terminal.format == Format::Table {
                finish(client, options, &workflow, redraw, terminal).await?;
            }
            return Ok(workflow);
        }
        last = seen;
    }
}

async fn draw(client: &Client, options: &ShowOptions, workflow: &Workflow, screen: &mut Screen) -> Result<(), Failure> {
    let steps = tree::read(client, options.id).await?;
    let mut size = screen::size();
    // The head and the line that the cursor is in.
    size.rows = size.rows.saturating_sub(3).min(options.lines as usize).max(1);
    let mut lines =
        vec![tree::cut(&title(workflow), size.columns), tree::cut(&tree::bar(&workflow.progress), size.columns)];
    lines.extend(steps.lines(size, now_ms()));
    screen.draw(&lines)
}

fn title(workflow: &Workflow) -> String {
    let name = workflow.name.as_deref().map(|name| format!("{}  ", plain(name).replace(['\n', '\t'], " ")));
    format!("workflow {}  {}{}", workflow.id, name.unwrap_or_default(), coloured_state(workflow.state.as_str()))
}

/// One line for each change.
fn append(body: &str, workflow: &Workflow, terminal: &Terminal) -> Result<(), Failure> {
    match terminal.format {
        Format::Json | Format::Jsonl => terminal.line(body.trim_end()),
        Format::Id => Ok(()),
        Format::Table => terminal.line(&line(workflow.state, &workflow.progress)),
    }
}

fn line(state: WorkflowState, progress: &WorkflowProgress) -> String {
    format!("{} {}", state.as_str(), tree::summary(progress))
}

/// Prints the end: the tree, if it was not drawn, and the result.
async fn finish(
    client: &Client,
    options: &ShowOptions,
    workflow: &Workflow,
    drawn: bool,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if !drawn {
        let size = screen::Size { columns: usize::MAX, rows: options.lines as usize };
        let lines = tree::read(client, options.id).await?.lines(size, now_ms());
        terminal.line(&lines.join("\n"))?;
    }
    match &workflow.result {
        Some(result) => terminal.json(&super::shown_result(workflow.id, result.get())),
        None => Ok(()),
    }
}
