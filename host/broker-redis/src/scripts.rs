//! The scripts, put together from `scripts/*.lua` once.

/// A script and the hash by which the server knows it.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) code: &'static str,
    pub(crate) hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

macro_rules! scripts {
    ($($name:ident: $($part:literal)+;)+) => {
        /// Every script.
        #[derive(Debug)]
        pub(crate) struct Scripts {
            $(pub(crate) $name: Script,)+
        }

        impl Scripts {
            pub(crate) fn new() -> Self {
                Self {
                    $($name: Script::new(concat!(
                        include_str!("scripts/names.lua"),
                        "\n",
                        include_str!("scripts/prelude.lua"),
                        $("\n", include_str!(concat!("scripts/", $part, ".lua")),)+
                    )),)+
                }
            }
        }
    };
}

scripts! {
    submit: "rules_open" "names" "lanes" "keeping" "rules_close" "idempotency" "submit";
    submit_working: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close"
        "idempotency" "submit";
    settle: "limits" "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "growing" "joining"
        "canvas_close" "main_open" "sources" "serving" "claiming" "settle" "main_close";
    renew: "renew";
    promote: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "promote";
    reap: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "reap";
    prune: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "deleting" "prune";
    forget: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "deleting" "forget";
    cancel: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "cancel";
    run_now: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "run_now";
    read: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "read";
    list: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "list";
    stage_workflow: "limits" "idempotency" "canvas_open" "names" "canvas" "arrivals" "growing" "canvas_close"
        "stage_workflow";
    stage_nodes: "limits" "canvas_open" "names" "canvas" "arrivals" "growing" "canvas_close" "stage_nodes";
    start_workflow: "limits" "idempotency" "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open"
        "names" "canvas" "arrivals" "growing"
        "canvas_close" "start_workflow";
    cancel_workflow: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "cancel_workflow";
    workflow: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "workflow";
    workflows: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "workflows";
    nodes: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "nodes";
    audit: "rules_open" "names" "lanes" "keeping" "rules_close" "canvas_open" "names" "canvas" "arrivals"
        "canvas_close" "deleting" "audit_keys" "audit_sets" "audit_counts" "audit";
    queues: "queues";
    ready_queues: "ready_queues";
    control: "rules_open" "names" "lanes" "keeping" "rules_close" "control";
    controls: "controls";
    follow: "follow";
    events: "events";
    workers: "workers";
    order: "order";
    put_document: "put_document";
    documents: "documents";
}
