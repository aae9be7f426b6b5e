//! The JSON that goes out, one file per resource.

/// Declares views: each is the JSON of something, and says of each field its type and where the value comes from. `new` makes
/// one.
macro_rules! views {
    ($(
        $(#[$meta:meta])*
        $name:ident from ($($source:ident: $of:ty),+) {
            $($(#[$about:meta])* $field:ident: $type:ty = $value:expr,)+
        }
    )+) => {$(
        #[derive(Debug, serde::Serialize, utoipa::ToSchema)]
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$about])* pub(crate) $field: $type,)+
        }

        impl $name {
            pub(crate) fn new($($source: $of),+) -> Self {
                Self { $($field: $value,)+ }
            }
        }
    )+};
}

pub(crate) use views;

mod job;
mod manifest;
mod names;
mod policy;
mod schedule;
mod worker;
mod workflow;

pub(crate) use job::*;
pub(crate) use manifest::*;
pub(crate) use names::*;
pub(crate) use policy::*;
pub(crate) use schedule::*;
pub(crate) use worker::*;
pub(crate) use workflow::*;
