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
                        include_str!("scripts/prelude.lua"),
                        $("\n", include_str!(concat!("scripts/", $part, ".lua")),)+
                    )),)+
                }
            }
        }
    };
}

scripts! {
    submit: "submit";
    settle: "claiming" "settle";
    renew: "renew";
    promote: "promote";
    reap: "reap";
    prune: "prune";
    cancel: "cancel";
    run_now: "run_now";
    read: "read";
    list: "list";
    queues: "queues";
    ready_queues: "ready_queues";
    pause: "pause";
    workers: "workers";
    put_document: "put_document";
    documents: "documents";
}
