//! Fields whose values are a few names, as the OpenAPI document describes them.

use umbel_broker::WorkflowState as OfWorkflow;
use umbel_model::{Capability as OfImport, JobState as OfJob};
use umbel_schedule::firing::{CatchUp as OfCatchUp, Overlap as OfOverlap};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! names {
    ($($(#[doc = $doc:literal])* $name:ident = $values:expr;)*) => {$(
        $(#[doc = $doc])*
        pub(crate) struct $name;

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let description: Vec<&str> = [$($doc),*].into_iter().map(str::trim).collect();
                let description = Some(description.join("\n")).filter(|text| !text.is_empty());
                let names = ObjectBuilder::new().schema_type(Type::String).enum_values(Some($values));
                names.description(description).build().into()
            }
        }
    )*};
}

names! {
    /// The states of a job.
    JobState = OfJob::ALL.map(OfJob::as_str);
    /// The states of a workflow.
    WorkflowState = OfWorkflow::ALL.map(OfWorkflow::as_str);
    /// The action on each job: `cancel` those that have not ended, `redrive` those in the dead set, `forget` those that
    /// have ended, `run_now` those that are scheduled or retrying.
    BulkAction = ["cancel", "redrive", "forget", "run_now"];
    /// `name`: the task of this name; the default. `glob`: `*` stands for any text, `?` for one character. `regex`: found
    /// anywhere in the name, unless it has `^` and `$`.
    RouteKind = ["name", "glob", "regex"];
    /// `warm`: when what runs has ended; the default. `soft`: after its grace time at the latest, what runs then is handed
    /// back. `cold`: now.
    ShutdownMode = ["warm", "soft", "cold"];
    /// What a module can touch.
    Capability = OfImport::ALL.map(OfImport::as_str);
    /// `not_needed`: it asks for nothing. `waits`: its tasks cannot be deployed before somebody approves it.
    ApprovalState = ["not_needed", "approved", "waits"];
    /// `skip`: it is left out. `buffer_one`: it waits, and one more is left out. `buffer_all`: it waits behind others. `cancel`: the
    /// run is cancelled. `allow`: it starts beside the run.
    Overlap = OfOverlap::ALL.map(OfOverlap::as_str);
    /// `none` but one that is on time, the `latest`, or `all` in order.
    CatchUp = OfCatchUp::ALL.map(OfCatchUp::as_str);
    ResumeDigest = ["pinned", "current"];
}
