//! The limits of submissions and of the stamps that jobs inherit.

use umbel_model::{PolicyBounds, Stamps, binding::escape, canvas::CanvasLimits, settings};

use crate::error::{FaultKind, Faults, Result};

/// Longest name and tag, bytes.
const MAX_NAME_BYTES: usize = 128;
const MAX_TAGS: usize = 32;
const MAX_HEADERS: usize = 32;
/// Longest value of a header stamp, bytes.
const MAX_HEADER_BYTES: usize = 1_024;
/// Bytes of all header stamps together, names and values.
const MAX_HEADERS_BYTES: usize = 8 << 10;

settings! {
    /// How large a workflow may be.
    #[derive(Debug, Clone)]
    pub struct Limits {
        /// Nodes and depth.
        pub canvas: CanvasLimits = CanvasLimits::default(),
        /// Different pairs of a task and options.
        pub max_templates: usize = umbel_broker::MAX_TEMPLATES,
        /// Bytes of one node's arguments as JSON.
        pub max_arguments_bytes: usize = 1 << 20,
        /// Bytes of all arguments together; as many of all templates' specs, and of a resumed workflow's kept results.
        pub max_bytes: usize = 64 << 20,
    }
}

/// The limits that an operator sets.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub bounds: PolicyBounds,
    pub limits: Limits,
}

/// Checks the name, tags and headers of a workflow. Pointers are those of a request's body.
pub(crate) fn check_labels(name: Option<&str>, stamps: &Stamps) -> Result<()> {
    let mut faults = Faults::default();
    let fine = |text: &str, max| (1..=max).contains(&text.len()) && !text.chars().any(char::is_control);
    let rule = |max| format!("write 1 to {max} bytes without control characters");
    if name.is_some_and(|name| !fine(name, MAX_NAME_BYTES)) {
        faults.add(FaultKind::Option, "/name", rule(MAX_NAME_BYTES));
    }
    if stamps.tags.len() > MAX_TAGS {
        faults.add(FaultKind::Option, "/tags", format!("a workflow has at most {MAX_TAGS} tags"));
    }
    for (at, _) in stamps.tags.iter().enumerate().filter(|(_, tag)| !fine(tag, MAX_NAME_BYTES)) {
        faults.add(FaultKind::Option, format!("/tags/{at}"), rule(MAX_NAME_BYTES));
    }
    if stamps.headers.len() > MAX_HEADERS {
        faults.add(FaultKind::Option, "/headers", format!("a workflow has at most {MAX_HEADERS} headers"));
    }
    if stamps.headers.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_HEADERS_BYTES {
        let detail = format!("its headers have at most {MAX_HEADERS_BYTES} bytes together");
        faults.add(FaultKind::Option, "/headers", detail);
    }
    for (key, value) in &stamps.headers {
        if !fine(key, MAX_NAME_BYTES) {
            faults.add(FaultKind::Option, "/headers", format!("a header's name: {}", rule(MAX_NAME_BYTES)));
        } else if value.len() > MAX_HEADER_BYTES || value.chars().any(char::is_control) {
            let detail = format!("write at most {MAX_HEADER_BYTES} bytes without control characters");
            faults.add(FaultKind::Option, format!("/headers/{}", escape(key)), detail);
        }
    }
    faults.done()
}
