//! `umbel doctor`: looks through a broker, as it is stored, for what should not be there, and mends it.
//!
//! Invariant: it exits with 0 only when it looked at everything and nothing is left that is wrong.

use serde::Serialize;
use umbel_broker::{Broker, Finding};
use umbel_compose::Secrets;

use super::{broker, broker::BrokerUrl, data::Data, exposure, master_keys};
use crate::args::{DoctorOptions, Format, MasterKeyFlags};
use crate::output::{Page, Terminal, unwritten};
use crate::{Failure, Result};

const COLUMNS: &str = "FOUND = check, TIMES = count, MENDED = fixed, SUCH AS = example";
/// Passes that mend, at most.
const MAX_PASSES: usize = 5;

/// The report, as programs read it.
#[derive(Debug, Serialize)]
struct Report {
    /// Without a password.
    broker: String,
    /// Why the broker's settings are unsafe; none when they are safe.
    settings: Option<String>,
    findings: Vec<Finding>,
    /// Servers of this data folder that others reach without TLS. No finding: whether a proxy is before them is not known.
    without_tls: Vec<String>,
    fixed: u64,
    /// Nothing is wrong, or nothing is any more.
    healthy: bool,
    /// Things that are wrong and were not mended.
    #[serde(skip)]
    left: u64,
}

impl Report {
    fn new(broker: String, settings: Option<String>, findings: Vec<Finding>, without_tls: Vec<String>) -> Self {
        let fixed = findings.iter().map(|finding| finding.fixed).sum();
        let left = findings.iter().map(|finding| finding.count.saturating_sub(finding.fixed)).sum::<u64>();
        let left = left + u64::from(settings.is_some());
        Self { broker, settings, findings, without_tls, fixed, healthy: left == 0, left }
    }
}

pub async fn run(options: DoctorOptions, terminal: &Terminal) -> Result {
    let (data, url) = broker::locate(&options.broker)?;
    if let BrokerUrl::Sqlite(path) = &url
        && !path.exists()
    {
        // Opening it would make it, and an empty one is always healthy.
        return Err(broker::missing(&url));
    }
    let broker = broker::open(&url, &options.broker, false).await?;
    let settings = match broker.check().await {
        Ok(()) => None,
        Err(umbel_broker::Error::Refused(problem)) => Some(problem),
        Err(error) => return Err(error.into()),
    };
    let looking = terminal.spinner("looking through the broker");
    let findings = looked_through(options.fix, async |fix| broker.audit(fix).await).await?;
    drop(looking);
    let report = Report::new(url.shown(), settings, findings, exposure::noted(data.folder()));
    print(&report, terminal)?;
    for server in &report.without_tls {
        terminal.note(&format!("warning: a server listens on {server} without TLS; {}", exposure::HELP));
    }
    say_unopened(&*broker, &options.master_keys, terminal).await?;
    say_whose_values(&*broker, &data, terminal).await?;
    verdict(&report, options.fix, terminal)
}

/// Finds damage and repairs it. One repair may uncover other damage, so the search is repeated until nothing is found or
/// nothing of it can be repaired. Returns the findings, and how often each was repaired.
async fn looked_through<E>(
    fix: bool,
    mut audit: impl AsyncFnMut(bool) -> Result<Vec<Finding>, E>,
) -> Result<Vec<Finding>, E> {
    let mut all = Vec::new();
    for pass in 0..=MAX_PASSES {
        // The last time it is only looked at what is left.
        let found = audit(fix && pass < MAX_PASSES).await?;
        let is_over = found.iter().all(|finding| finding.fixed == 0);
        all = together(all, found);
        if is_over {
            break;
        }
    }
    Ok(all)
}

/// The findings of one more pass over those of the passes before: what these did not mend was found again, or is gone.
fn together(before: Vec<Finding>, now: Vec<Finding>) -> Vec<Finding> {
    let kept = before.into_iter().filter(|finding| finding.fixed > 0);
    let mut all: Vec<Finding> = kept.map(|finding| Finding { count: finding.fixed, ..finding }).collect();
    for finding in now {
        match all.iter_mut().find(|known| known.check == finding.check) {
            Some(known) => {
                known.count += finding.count;
                known.fixed += finding.fixed;
                // What is left is the better example.
                if finding.fixed < finding.count {
                    known.example = finding.example;
                }
            }
            None => all.push(finding),
        }
    }
    all
}

/// Secrets that none of the given master keys opens. No finding: those of the servers and workers are not known here.
async fn say_unopened(broker: &dyn Broker, flags: &MasterKeyFlags, terminal: &Terminal) -> Result {
    let masters = master_keys::load(flags).await?;
    let unopened = Secrets { broker, masters: &masters }.unreadable().await;
    let unopened = unopened.map_err(|error| Failure::new(error.kind(), error.to_string()))?;
    let Some((tenant, name)) = unopened.first() else { return Ok(()) };
    let (count, given) = (unopened.len(), if masters.is_empty() { "none was given" } else { "of those given here" });
    terminal.note(&format!(
        "warning: no master key ({given}) opens {count} secrets, such as {name} of tenant {tenant}; give doctor the keys of the \
         servers with --master-key-file"
    ));
    Ok(())
}

/// Two brokers on one data folder: neither can tell which of the large values there are still wanted. No finding: the folder
/// of this machine need not be that of the broker's servers.
async fn say_whose_values(broker: &dyn umbel_broker::Broker, data: &Data, terminal: &Terminal) -> Result {
    let store = data.modules().await?;
    let found = umbel_control::other_owner(broker, &store).await;
    let found = found.map_err(|e| Failure::new("data_folder", format!("the large values cannot be looked at: {e}")))?;
    if found.is_some() {
        terminal.note(&format!(
            "the large values in {} belong to another broker: a server of this one with this folder would not sweep them",
            data.folder().display()
        ));
    }
    Ok(())
}

fn print(report: &Report, terminal: &Terminal) -> Result {
    match terminal.format {
        Format::Json => terminal.line(&serde_json::to_string(report).map_err(unwritten)?),
        Format::Table if report.findings.is_empty() => Ok(()),
        _ => terminal.list(&Page::of(&report.findings)?, COLUMNS),
    }
}

fn verdict(report: &Report, fix: bool, terminal: &Terminal) -> Result {
    if report.healthy {
        terminal.note(&match report.fixed {
            0 => format!("{} is well", report.broker),
            n => format!("{} is well again: {n} mended", report.broker),
        });
        return Ok(());
    }
    let message = format!("{}: {} wrong", report.broker, report.left);
    let details = report.settings.iter().map(|problem| format!("settings: {problem}")).collect();
    let failure = Failure::new("unhealthy", message).details(details);
    Err(match (fix, report.findings.is_empty()) {
        (false, false) => failure.help("umbel doctor --fix mends what can be mended"),
        (true, false) => failure.help("what is left cannot be mended by itself; please report it with the table above"),
        (_, true) => failure.help("correct the settings of the store"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    fn finding(count: u64, fixed: u64) -> Finding {
        Finding { check: "lease of a job that does not run".into(), count, example: "\u{1b}x".into(), fixed }
    }

    /// The findings of a broker that gives these answers pass by pass, and which passes did not repair.
    async fn passes(fix: bool, answers: &[(u64, u64)]) -> (Vec<(u64, u64)>, Vec<bool>) {
        let mut asked = Vec::new();
        let mut left = answers.iter();
        let found = looked_through(fix, async |fix| {
            asked.push(fix);
            let (count, fixed) = left.next().copied().unwrap_or((0, 0));
            let found = if count == 0 { Vec::new() } else { vec![finding(count, if fix { fixed } else { 0 })] };
            Ok::<_, ()>(found)
        });
        let found = found.await.unwrap();
        (found.iter().map(|finding| (finding.count, finding.fixed)).collect(), asked)
    }

    #[tokio::test]
    async fn mending_goes_on_until_a_pass_finds_nothing_or_can_mend_nothing() {
        assert_eq!(passes(true, &[]).await, (vec![], vec![true]));
        assert_eq!(passes(true, &[(3, 3), (1, 1)]).await, (vec![(4, 4)], vec![true; 3]));
        assert_eq!(passes(true, &[(3, 1), (2, 0), (9, 9)]).await, (vec![(3, 1)], vec![true; 2]));
        assert_eq!(passes(true, &[(2, 0)]).await, (vec![(2, 0)], vec![true]));
        // What comes back for ever is not well.
        let asked = vec![true, true, true, true, true, false];
        assert_eq!(passes(true, &[(1, 1); 9]).await, (vec![(6, 5)], asked));
        assert_eq!(passes(false, &[(3, 3)]).await, (vec![(3, 0)], vec![false]));
    }

    #[test]
    fn a_broker_is_well_only_when_nothing_is_left() {
        let report = |settings: Option<&str>, findings| {
            Report::new("b".into(), settings.map(str::to_owned), findings, vec!["0.0.0.0:1 on h".into()])
        };
        let json = Terminal { format: Format::Json };
        assert!(verdict(&report(None, vec![]), false, &json).is_ok());
        assert!(verdict(&report(None, vec![finding(3, 3)]), true, &json).is_ok());
        let left = verdict(&report(None, vec![finding(3, 1), finding(2, 2)]), true, &json).unwrap_err();
        assert_eq!((left.exit, left.message.as_str()), (Exit::Failure, "b: 2 wrong"));
        let settings = verdict(&report(Some("evicts"), vec![]), false, &json).unwrap_err();
        assert_eq!(settings.details, ["settings: evicts"]);
        let found = serde_json::to_value(finding(1, 0)).unwrap();
        assert!(!crate::output::table(COLUMNS, [found].into_iter()).contains("\u{1b}x"));
    }
}
