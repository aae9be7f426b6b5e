//! Routes: rules over the task's name that say which queue its jobs go to. They win over the code's policy, and the
//! server's policy of the task wins over them.

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind};
use umbel_model::{PolicyPatch, QueueName, TaskName, TenantId};

use crate::{Error, Result};

/// Routes of one tenant.
pub const MAX_ROUTES: usize = 256;
/// Longest pattern, bytes.
const MAX_PATTERN_BYTES: usize = 256;
/// Memory of one compiled expression, bytes: 256 of them are a bounded cost, and a hostile one is refused.
const MAX_COMPILED_BYTES: usize = 64 << 10;
/// The one document of a tenant's routes.
pub const ROUTES_NAME: &str = "routes";

/// How a route names tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// The task of this name.
    #[default]
    Name,
    /// `*` stands for any text, `?` for one character.
    Glob,
    /// Found anywhere in the name, unless it has `^` and `$`.
    Regex,
}

/// Jobs of these tasks go to this queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(rename = "match")]
    pub pattern: String,
    #[serde(default)]
    pub kind: RouteKind,
    pub queue: QueueName,
}

/// A tenant's routes, the body of their document. The first that matches wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub routes: Vec<Route>,
}

/// Compiled routes.
#[derive(Debug, Default)]
pub struct RouteTable(Vec<(Pattern, QueueName)>);

#[derive(Debug)]
enum Pattern {
    Name(TaskName),
    Glob(String),
    Regex(Regex),
}

impl Routes {
    /// Makes them ready; or the number of the first that cannot be used, and why.
    pub fn compile(&self) -> Result<RouteTable, (usize, String)> {
        if self.routes.len() > MAX_ROUTES {
            return Err((MAX_ROUTES, format!("at most {MAX_ROUTES} routes")));
        }
        let ready = self.routes.iter().enumerate().map(|(at, route)| {
            let pattern = route.compile().map_err(|detail| (at, detail))?;
            Ok((pattern, route.queue.clone()))
        });
        ready.collect::<Result<Vec<_>, _>>().map(RouteTable)
    }

    /// The tenant's routes as they are stored, and their version; 0 when there are none.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId) -> Result<(Self, u64)> {
        match broker.document(tenant, DocumentKind::Routes, ROUTES_NAME).await? {
            None => Ok((Self::default(), 0)),
            Some(document) => {
                let routes =
                    serde_json::from_str(&document.body).map_err(|error| Error::Corrupt(format!("routes: {error}")))?;
                Ok((routes, document.version))
            }
        }
    }
}

impl Route {
    fn compile(&self) -> Result<Pattern, String> {
        if !(1..=MAX_PATTERN_BYTES).contains(&self.pattern.len()) {
            return Err(format!("a pattern has 1 to {MAX_PATTERN_BYTES} bytes"));
        }
        Ok(match self.kind {
            RouteKind::Name => Pattern::Name(TaskName::new(&self.pattern).map_err(|e| e.to_string())?),
            RouteKind::Glob => Pattern::Glob(self.pattern.clone()),
            // Names are ASCII: classes of Unicode would only be large.
            RouteKind::Regex => {
                let compiled = RegexBuilder::new(&self.pattern)
                    .unicode(false)
                    .size_limit(MAX_COMPILED_BYTES)
                    .dfa_size_limit(MAX_COMPILED_BYTES)
                    .build();
                Pattern::Regex(compiled.map_err(|e| umbel_model::outcome::truncated(e.to_string(), 512))?)
            }
        })
    }
}

impl RouteTable {
    /// Where the task's jobs go; none when no route says.
    pub fn queue_of(&self, task: &TaskName) -> Option<&QueueName> {
        let matches = |pattern: &Pattern| match pattern {
            Pattern::Name(name) => name == task,
            Pattern::Glob(glob) => glob_matches(glob.as_bytes(), task.as_str().as_bytes()),
            Pattern::Regex(regex) => regex.is_match(task.as_str().as_bytes()),
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, queue)| queue)
    }

    /// The queue of a task as a layer of its policy.
    pub fn patch(&self, task: &TaskName) -> PolicyPatch {
        PolicyPatch { queue: self.queue_of(task).cloned(), ..PolicyPatch::default() }
    }
}

/// Whether a text fits a pattern with `*` and `?`, in at most the product of their lengths steps.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (g, t) = (g + 1, t + 1),
            _ => {
                // The last star takes one more.
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (g, t) = (at + 1, taken + 1);
            }
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(pattern: &str, kind: RouteKind, queue: &str) -> Route {
        Route { pattern: pattern.into(), kind, queue: QueueName::new(queue).unwrap() }
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let routes = Routes {
            routes: vec![
                route("orders.special", RouteKind::Name, "special"),
                route("orders.*", RouteKind::Glob, "orders"),
                route("^(mail|sms)\\.", RouteKind::Regex, "messages"),
            ],
        };
        let table = routes.compile().unwrap();
        let queue = |task: &str| table.queue_of(&TaskName::new(task).unwrap()).map(QueueName::as_str);
        assert_eq!(queue("orders.special"), Some("special"));
        assert_eq!(queue("orders.new.eu"), Some("orders"));
        assert_eq!(queue("sms.send"), Some("messages"));
        assert_eq!(queue("my.sms.send"), None);
        assert_eq!(queue("orders"), None);
    }

    #[test]
    fn a_pattern_that_is_none_or_costs_too_much_is_named() {
        let compile = |pattern: &str, kind| {
            let routes = vec![route("a", RouteKind::Name, "q"), route(pattern, kind, "q")];
            Routes { routes }.compile().map_err(|(at, _)| at).err()
        };
        assert_eq!(compile("(", RouteKind::Regex), Some(1));
        assert_eq!(compile("(a{1000}){1000}", RouteKind::Regex), Some(1));
        assert_eq!(compile("a b", RouteKind::Name), Some(1));
        assert_eq!(compile("", RouteKind::Glob), Some(1));
        assert_eq!(compile("x*y?", RouteKind::Glob), None);
    }

    #[test]
    fn a_glob_with_many_stars_is_answered_quickly() {
        let text = "a".repeat(128);
        assert!(!glob_matches(b"*a*a*a*a*a*a*a*a*a*a*b", text.as_bytes()));
        assert!(glob_matches(b"*a*", text.as_bytes()) && glob_matches(b"**", b"") && !glob_matches(b"?", b""));
    }
}
