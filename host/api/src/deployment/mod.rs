//! What a push does to the tenant's tasks: which are new, changed, another module's, or left behind.
//!
//! A plan is made from what is stored, and is carried out only at the versions that were read: two pushes at once cannot
//! slip past each other's check, whoever is faster.

mod fields;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use fields::{FieldChange, changed_fields};

use serde::Serialize;
use umbel_broker::Expect;
use umbel_compose::TaskDocument;
use umbel_model::{Declared, Digest, ModuleInfo, TaskDescription, TaskName, TenantId};
use utoipa::ToSchema;

use crate::{
    problem::{Problem, Result},
    state::Api,
    task_store,
};

/// Tasks that are read at once.
const READS_AT_ONCE: usize = 16;
/// Tasks that an error names, and tasks of a module that it names.
const NAMED: usize = 5;
/// Tasks that a push left behind of which it tells.
const MAX_LEFT: usize = 256;

/// What a push does to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangeKind {
    /// There was no such task.
    New,
    /// It points at the module from now on.
    Updated,
    /// It points at the module already.
    Unchanged,
    /// It was a task of another module.
    TakenOver,
    /// It stays with the module that it points at, for the reason in `detail`.
    NotDeployed,
    /// The module does not describe it any more. It stays with the module that it points at.
    NotInModule,
}

/// What a push does to one task.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TaskChange {
    pub(crate) task: String,
    pub(crate) change: ChangeKind,
    /// The module that it pointed at before.
    pub(crate) from: Option<String>,
    /// What its description says otherwise than before. Empty when only the code differs.
    pub(crate) fields: Vec<FieldChange>,
    /// Why, where `change` does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// What a push would do, decided from what is stored now.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One for each task of the module, in its order.
    steps: Vec<Step>,
    /// Tasks that the module's last version described and that it does not.
    left: Vec<TaskChange>,
    /// The modules of which it is another version and that its tasks point at now, its last version first.
    earlier: Vec<Earlier>,
    /// The others that its tasks point at.
    others: Vec<Digest>,
}

/// A version of the module that tasks point at.
#[derive(Debug)]
struct Earlier {
    digest: Digest,
    permissions: Declared,
}

#[derive(Debug)]
struct Step {
    /// The task once it points at the module.
    next: TaskDocument,
    expect: Expect,
    change: TaskChange,
    /// The tasks of the other module that the task belongs to.
    others: Option<BTreeSet<TaskName>>,
}

/// A task of the module as it is stored, and as it will be. The description that is stored may be large and is not kept.
#[derive(Debug)]
struct Found {
    next: TaskDocument,
    expect: Expect,
    from: Option<Digest>,
    fields: Vec<FieldChange>,
}

impl Plan {
    /// Reads the tasks that the module describes, and the modules that they point at.
    pub(crate) async fn read(api: &Api, tenant: &TenantId, info: &ModuleInfo) -> Result<Self> {
        let mut found = Vec::with_capacity(info.tasks.len());
        for tasks in info.tasks.chunks(READS_AT_ONCE) {
            let reads = tasks.iter().map(|task| Found::read(api, tenant, task, info.digest));
            found.extend(futures::future::try_join_all(reads).await?);
        }
        let mut versions = Versions::new(info);
        for digest in found.iter().filter_map(|found| found.from) {
            versions.add(api, tenant, digest).await?;
        }
        versions.choose_last();
        let steps = found.into_iter().map(|found| Step::new(found, info.digest, &versions)).collect();
        let left = left_behind(api, tenant, &versions).await?;
        let (earlier, others) = versions.apart();
        Ok(Self { steps, left, earlier, others })
    }

    /// The modules whose approval holds for the pushed one, too, where it asks for no more: those that its tasks point at
    /// now, without those of others unless it takes their tasks.
    pub(crate) fn predecessors(&self, take_over: bool) -> impl Iterator<Item = Digest> {
        let others = self.others.iter().copied().filter(move |_| take_over);
        self.earlier.iter().map(|earlier| earlier.digest).chain(others)
    }

    /// What the version that is deployed now declares; none when there is none.
    pub(crate) fn deployed(&self) -> Option<&Declared> {
        self.earlier.first().map(|earlier| &earlier.permissions)
    }

    /// Keeps all tasks where they are, for this reason; tells what is done.
    pub(crate) fn withheld(mut self, why: &str) -> Vec<TaskChange> {
        for step in &mut self.steps {
            if step.change.change != ChangeKind::Unchanged {
                step.change.stays(why);
            }
        }
        self.changes()
    }

    /// Refuses a push that takes tasks of other modules. `done` are those that were deployed before others came in between.
    fn must_take_nothing(&self, done: &BTreeMap<usize, TaskChange>) -> Result<()> {
        let taken: Vec<&Step> = self.steps.iter().filter(|step| step.others.is_some()).collect();
        if taken.is_empty() {
            return Ok(());
        }
        let of = |step: &&Step| {
            let others = step.others.iter().flatten().map(TaskName::as_str);
            let from = step.change.from.as_deref().unwrap_or_default();
            format!("`{}` is a task of module {from} (its tasks: {})", step.change.task, listed(others))
        };
        let each: Vec<String> = taken.iter().take(NAMED).map(of).collect();
        let more = match taken.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let done: Vec<&str> = done.values().filter(|c| c.change != ChangeKind::Unchanged).map(|c| &*c.task).collect();
        let deployed = match done.is_empty() {
            true => "nothing was deployed".to_owned(),
            false => format!("others changed it meanwhile; deployed before that: {}", listed(done.into_iter())),
        };
        Err(Problem::task_of_another_module(format!(
            "{}{more}; {deployed}. Rename the task, or push with `--take-over` (`?take_over=true`) to move it to this module",
            each.join("; ")
        )))
    }

    /// What it will do, in words for people and programs.
    pub(crate) fn changes(&self) -> Vec<TaskChange> {
        let of_steps = self.steps.iter().map(|step| step.change.clone());
        of_steps.chain(self.left.iter().cloned()).collect()
    }

    /// Refuses a push that takes tasks of other modules, unless it may.
    pub(crate) fn check(&self, take_over: bool) -> Result<()> {
        if take_over { Ok(()) } else { self.must_take_nothing(&BTreeMap::new()) }
    }

    /// Marks the tasks that the server's policy does not fit: they stay where they are.
    pub(crate) fn check_policies(&mut self, api: &Api) {
        for step in &mut self.steps {
            if step.change.change != ChangeKind::Unchanged
                && let Err(problem) = task_store::check_policy(api, &step.next)
            {
                step.change.stays(problem.detail());
            }
        }
    }

    /// Points the tasks at the module, each at the version that was read, and tells what was done. Where others came in
    /// between, the plan is made again; then a task may have become another module's.
    pub(crate) async fn carry_out(
        mut self,
        api: &Api,
        tenant: &TenantId,
        info: &ModuleInfo,
        take_over: bool,
    ) -> Result<Vec<TaskChange>> {
        let mut done = BTreeMap::new();
        let left = std::mem::take(&mut self.left);
        for _ in 0..task_store::MAX_TRIES {
            let Some(at) = self.deploy(api, tenant, info, &mut done).await? else {
                return Ok(done.into_values().chain(left).collect());
            };
            tracing::debug!(task = %info.tasks[at].name, "others deployed it meanwhile; looking again");
            self = Self::read(api, tenant, info).await?;
            if !take_over {
                self.must_take_nothing(&done)?;
            }
            self.check_policies(api);
        }
        let next = info.tasks.iter().enumerate().find(|(at, _)| !done.contains_key(at));
        Err(next.map_or_else(Problem::see_log, |(_, task)| task_store::busy(&task.name)))
    }

    /// Deploys what is not `done`; answers the first task that others changed since the plan was made.
    async fn deploy(
        &mut self,
        api: &Api,
        tenant: &TenantId,
        info: &ModuleInfo,
        done: &mut BTreeMap<usize, TaskChange>,
    ) -> Result<Option<usize>> {
        for (at, step) in self.steps.iter_mut().enumerate() {
            if done.contains_key(&at) {
                continue;
            }
            if !matches!(step.change.change, ChangeKind::Unchanged | ChangeKind::NotDeployed) {
                match task_store::store(api, tenant, &step.next, step.expect).await {
                    Ok(Some(version)) => {
                        tracing::info!(task = %step.change.task, digest = %info.digest, version, "task deployed");
                    }
                    Ok(None) => return Ok(Some(at)),
                    Err(problem) if problem.is_retryable() || problem.status().is_server_error() => {
                        return Err(problem);
                    }
                    Err(problem) => step.change.stays(problem.detail()),
                }
            }
            done.insert(at, step.change.clone());
        }
        Ok(None)
    }
}

impl TaskChange {
    /// The task is not deployed, because of that.
    fn stays(&mut self, why: &str) {
        self.change = ChangeKind::NotDeployed;
        self.detail = Some(why.to_owned());
    }
}

impl Found {
    async fn read(api: &Api, tenant: &TenantId, task: &TaskDescription, digest: Digest) -> Result<Self> {
        let at = crate::time::now_ms();
        Ok(match TaskDocument::read(&*api.broker, tenant, &task.name).await? {
            None => {
                let next = TaskDocument::first(task.clone(), digest, at);
                Self { next, expect: Expect::Absent, from: None, fields: Vec::new() }
            }
            Some((mut next, version)) => {
                let (from, fields) = (next.digest(), changed_fields(&next.task, task));
                next.deploy(task.clone(), digest, at);
                Self { next, expect: Expect::Version(version), from, fields }
            }
        })
    }
}

impl Step {
    fn new(found: Found, digest: Digest, versions: &Versions) -> Self {
        let Found { next, expect, from, fields } = found;
        let others = from.and_then(|from| versions.of_another(from)).cloned();
        let change = match &others {
            _ if expect == Expect::Absent => ChangeKind::New,
            _ if from == Some(digest) => ChangeKind::Unchanged,
            Some(_) => ChangeKind::TakenOver,
            None => ChangeKind::Updated,
        };
        let (task, from) = (next.task.name.to_string(), from.map(|from| from.to_string()));
        Self { next, expect, change: TaskChange { task, change, from, fields, detail: None }, others }
    }
}

/// The modules that the tasks of a pushed one point at, and which of them it is a newer version of.
///
/// Nothing in a module says what it is a version of, so their tasks decide: two modules are versions of one when they share
/// more than half of the tasks of the smaller one. Example: `{a, b, c}` and `{b, c, d, e}` are, `{a, b}` and `{b, c}` are
/// not. When a push would join modules that are no versions of each other, it is one of that with which it shares most.
#[derive(Debug)]
struct Versions {
    digest: Digest,
    tasks: BTreeSet<TaskName>,
    /// By digest.
    modules: BTreeMap<Digest, Version>,
    /// The one that the pushed module is the next version of.
    last: Option<Digest>,
}

#[derive(Debug)]
struct Version {
    tasks: BTreeSet<TaskName>,
    /// How many of the pushed module's tasks point at it.
    pointing: usize,
    permissions: Declared,
}

impl Versions {
    fn new(info: &ModuleInfo) -> Self {
        let tasks = info.tasks.iter().map(|task| task.name.clone()).collect();
        Self { digest: info.digest, tasks, modules: BTreeMap::new(), last: None }
    }

    /// Adds the module that one of the tasks points at. Of one without a record nothing is known, and it is nobody's.
    async fn add(&mut self, api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
        if digest == self.digest {
            return Ok(());
        }
        if let Some(version) = self.modules.get_mut(&digest) {
            version.pointing += 1;
        } else if let Some(info) = task_store::module(api, tenant, digest).await? {
            let tasks = info.tasks.into_iter().map(|task| task.name).collect();
            let permissions = info.permissions.unwrap_or_default();
            self.modules.insert(digest, Version { tasks, pointing: 1, permissions });
        }
        Ok(())
    }

    fn choose_last(&mut self) {
        let earlier = self.modules.iter().filter(|(_, version)| are_versions(&version.tasks, &self.tasks));
        let shared = |tasks: &BTreeSet<TaskName>| tasks.intersection(&self.tasks).count();
        let best = earlier
            .max_by_key(|(_, Version { tasks, pointing, .. })| (shared(tasks), *pointing, Reverse(tasks.first())));
        self.last = best.map(|(digest, _)| *digest);
    }

    /// The tasks of that module if it is another one than the pushed one.
    fn of_another(&self, digest: Digest) -> Option<&BTreeSet<TaskName>> {
        let tasks = &self.modules.get(&digest)?.tasks;
        let last = self.last.and_then(|last| self.modules.get(&last));
        let same = are_versions(tasks, &self.tasks) && last.is_none_or(|last| are_versions(tasks, &last.tasks));
        (!same).then_some(tasks)
    }

    /// The versions of the pushed module, the last one first, and the modules that are none.
    fn apart(self) -> (Vec<Earlier>, Vec<Digest>) {
        let others: Vec<Digest> =
            self.modules.keys().copied().filter(|digest| self.of_another(*digest).is_some()).collect();
        let mut earlier: Vec<Earlier> = self
            .modules
            .into_iter()
            .filter(|(digest, _)| !others.contains(digest))
            .map(|(digest, version)| Earlier { digest, permissions: version.permissions })
            .collect();
        earlier.sort_by_key(|earlier| Some(earlier.digest) != self.last);
        (earlier, others)
    }
}

fn are_versions(a: &BTreeSet<TaskName>, b: &BTreeSet<TaskName>) -> bool {
    2 * a.intersection(b).count() > a.len().min(b.len())
}

/// Tasks that still point at an earlier version of the module, which does not describe them any more.
async fn left_behind(api: &Api, tenant: &TenantId, versions: &Versions) -> Result<Vec<TaskChange>> {
    let earlier = versions.modules.iter().filter(|(digest, _)| versions.of_another(**digest).is_none());
    let gone = earlier.flat_map(|(_, version)| version.tasks.difference(&versions.tasks));
    let gone: BTreeSet<&TaskName> = gone.take(MAX_LEFT).collect();
    let names: Vec<&TaskName> = gone.into_iter().collect();
    let mut digests = Vec::with_capacity(names.len());
    for names in names.chunks(READS_AT_ONCE) {
        let reads = names.iter().map(|name| TaskDocument::read(&*api.broker, tenant, name));
        let stored = futures::future::try_join_all(reads).await?;
        digests.extend(stored.into_iter().map(|stored| stored?.0.digest()));
    }
    let left = names.iter().zip(digests).filter_map(|(name, digest)| {
        let digest = digest?;
        let stays = versions.modules.contains_key(&digest) && versions.of_another(digest).is_none();
        stays.then(|| TaskChange {
            task: name.to_string(),
            change: ChangeKind::NotInModule,
            from: Some(digest.to_string()),
            fields: Vec::new(),
            detail: Some("it stays deployed on the earlier module".into()),
        })
    });
    Ok(left.collect())
}

/// A few of some names, and how many more there are.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{}, and {more} more", names[..NAMED].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_share_most_of_their_tasks_are_versions_of_one() {
        let set = |names: &str| names.split(' ').map(|name| TaskName::new(name).unwrap()).collect::<BTreeSet<_>>();
        for (a, b, same) in [
            ("a", "a", true),
            ("a", "a b", true),
            ("a b c", "b", true),
            ("a b c", "b c d e", true),
            ("a b", "b c", false),
            ("a b c", "c d e", false),
            ("a", "b", false),
        ] {
            assert_eq!((are_versions(&set(a), &set(b)), are_versions(&set(b), &set(a))), (same, same), "{a} | {b}");
        }
    }
}
