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
    submit: "idempotency" "submit";
    settle: "limits" "canvas_open" "names" "canvas" "arrivals" "growing" "joining" "canvas_close"
        "main_open" "claiming" "settle" "main_close";
    renew: "renew";
    promote: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "promote";
    reap: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "reap";
    prune: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "prune";
    cancel: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "cancel";
    run_now: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "run_now";
    read: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "read";
    list: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "list";
    stage_workflow: "limits" "idempotency" "canvas_open" "names" "canvas" "arrivals" "growing" "canvas_close"
        "stage_workflow";
    stage_nodes: "limits" "canvas_open" "names" "canvas" "arrivals" "growing" "canvas_close" "stage_nodes";
    start_workflow: "limits" "idempotency" "canvas_open" "names" "canvas" "arrivals" "growing" "canvas_close"
        "start_workflow";
    cancel_workflow: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "cancel_workflow";
    workflow: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "workflow";
    workflows: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "workflows";
    nodes: "canvas_open" "names" "canvas" "arrivals" "canvas_close" "parts" "nodes";
    queues: "queues";
    ready_queues: "ready_queues";
    pause: "pause";
    workers: "workers";
    put_document: "put_document";
    documents: "documents";
}
