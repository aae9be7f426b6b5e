//! The part of the contract with which a module declares permissions, as generated from `wit/`: a world of its own, because a
//! module may go without it. `module![…]` exports it always.
//!
//! A module of your own implements [`Guest`] for a type and exports it:
//!
//! ```ignore
//! umbel::raw::declaring::export!(MyModule with_types_in umbel::raw::declaring);
//! ```

wit_bindgen::generate!({
    world: "declaring",
    path: "../../wit",
    pub_export_macro: true,
    default_bindings_module: "umbel::raw::declaring",
    additional_derives: [PartialEq],
});

pub use self::exports::umbel::task::permissions::{Declared, Guest};
