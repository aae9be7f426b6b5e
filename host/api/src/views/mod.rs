//! The JSON that goes out, one file per resource.

mod job;
mod names;
mod policy;
mod worker;
mod workflow;

pub(crate) use job::*;
pub(crate) use names::*;
pub(crate) use policy::*;
pub(crate) use worker::*;
pub(crate) use workflow::*;
