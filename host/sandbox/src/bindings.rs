//! The contract of `wit/` as Rust types. Imports are linked by hand in `attempt::linker`, where each call is charged.

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package umbel:host;
        world host {
            import umbel:task/context@0.1.0;
            import umbel:task/custom-state@0.1.0;
            import umbel:task/schedule@0.1.0;
            import umbel:task/canvas@0.1.0;
            import umbel:kv/store@0.1.0;
            import wasi:config/store@0.2.0-rc.1;
            import umbel:blob/store@0.1.0;
            import umbel:secret/store@0.1.0;
            import wasi:logging/logging@0.1.0-draft;
            export umbel:task/guest@0.1.0;
            export umbel:task/permissions@0.1.0;
        }
    ",
    world: "umbel:host/host",
    with: {
        "umbel:blob/store.reader": crate::attempt::open_blobs::OpenReader,
        "umbel:blob/store.writer": crate::attempt::open_blobs::OpenWriter,
    },
});

pub(crate) use self::exports::umbel::task::{guest::Outcome as GuestOutcome, permissions::Declared as GuestDeclared};
pub(crate) use self::umbel::secret::store as secret;
/// The node of a workflow that a job is.
pub use self::umbel::task::canvas::WorkflowPlace as WorkflowNode;
/// The time of a schedule for which a job was started.
pub use self::umbel::task::schedule::Fire;
pub(crate) use self::umbel::task::{context::Attempt as GuestAttempt, types};
pub(crate) use self::umbel::{blob::store as blob, kv::store as kv};
/// The answer of a guest that returned.
pub(crate) type GuestAnswer = Result<String, GuestOutcome>;
pub(crate) use self::wasi::config::store as config;
pub(crate) use self::wasi::logging::logging::Level as GuestLevel;

/// The instances and functions of the contract, by their names in a component.
pub(crate) mod names {
    pub(crate) const GUEST: &str = "umbel:task/guest@0.1.0";
    /// The start of the name of the guest interface in any version 0.1.x.
    pub(crate) const GUEST_PREFIX: &str = "umbel:task/guest@0.1.";
    pub(crate) const PERMISSIONS: &str = "umbel:task/permissions@0.1.0";
    pub(crate) const CONTEXT: &str = "umbel:task/context@0.1.0";
    pub(crate) const CUSTOM_STATE: &str = "umbel:task/custom-state@0.1.0";
    pub(crate) const SCHEDULE: &str = "umbel:task/schedule@0.1.0";
    pub(crate) const CANVAS: &str = "umbel:task/canvas@0.1.0";
    pub(crate) const KV: &str = "umbel:kv/store@0.1.0";
    pub(crate) const BLOB: &str = "umbel:blob/store@0.1.0";
    pub(crate) const SECRET: &str = "umbel:secret/store@0.1.0";
    /// With numbers as cursors of lists, and with texts.
    pub(crate) const KEYVALUE: [&str; 2] = ["wasi:keyvalue/store@0.2.0-draft", "wasi:keyvalue/store@0.2.0-draft2"];
    /// Drafts that differ in their names only: of wasmtime 48, of Spin, and those before them.
    pub(crate) const CONFIG: [&str; 4] = [
        "wasi:config/store@0.2.0-rc.1",
        "wasi:config/store@0.2.0-draft-2024-09-27",
        "wasi:config/store@0.2.0-draft",
        "wasi:config/runtime@0.2.0-draft",
    ];
    pub(crate) const LOGGING: &str = "wasi:logging/logging@0.1.0-draft";
}
