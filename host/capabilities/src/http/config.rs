//! Settings of outgoing HTTP. Every default is safe for untrusted modules.

use std::{net::SocketAddr, path::PathBuf};

use umbel_model::settings;

settings! {
    /// What holds for all requests of a process.
    #[derive(Debug, Clone)]
    pub struct HttpConfig {
        /// Certificates of authorities in PEM, which are trusted instead of the system's.
        pub ca_file: Option<PathBuf> = None,
        /// Servers that are asked for names instead of the system's.
        pub dns_servers: Vec<SocketAddr> = Vec::new(),
        /// Logs what the rules would deny, and lets it pass. Addresses are checked nevertheless. Only for a process that
        /// serves one tenant, who is trusted.
        pub report_only: bool = false,
        pub attempt: AttemptLimits = AttemptLimits::default(),
        pub tenant: TenantLimits = TenantLimits::default(),
        pub time: TimeLimits = TimeLimits::default(),
        pub pool: PoolLimits = PoolLimits::default(),
    }

    /// Limits of one attempt.
    #[derive(Debug, Clone, Copy)]
    pub struct AttemptLimits {
        /// Requests, denied ones included.
        pub requests: u64 = 1_000,
        /// Requests at once; one more waits.
        pub concurrent: usize = 16,
        /// Heads and bodies of all requests, bytes.
        pub bytes_out: u64 = 256 << 20,
        /// Heads and bodies of all answers, bytes.
        pub bytes_in: u64 = 256 << 20,
        /// The head of one request, and the head of one answer, bytes.
        pub head_bytes: usize = 32 << 10,
        /// Fields of one head.
        pub fields: usize = 100,
        /// The path and the query of one URL, bytes.
        pub url_bytes: usize = 8 << 10,
        /// Lines about requests that failed in the job's log.
        pub log_lines: u32 = 20,
    }

    /// Limits of all attempts of a tenant in this process.
    #[derive(Debug, Clone, Copy)]
    pub struct TenantLimits {
        /// Requests at once; one more waits.
        pub concurrent: usize = 256,
        /// Requests that begin within a minute.
        pub requests_per_minute: u64 = 30_000,
        /// Bytes both ways within a minute.
        pub bytes_per_minute: u64 = 8 << 30,
    }

    /// Limits of the time that one request takes; the deadline of its attempt ends it in any case.
    #[derive(Debug, Clone, Copy)]
    pub struct TimeLimits {
        /// Looking up the name, milliseconds.
        pub resolve_ms: u64 = 5_000,
        /// Looking up the name, connecting and the handshake of TLS, milliseconds.
        pub connect_ms: u64 = 10_000,
        /// Until the head of the answer is there, counted from the last byte that the server took, milliseconds.
        pub first_byte_ms: u64 = 120_000,
        /// Between two parts of the answer's body while the guest waits for them, milliseconds.
        pub between_bytes_ms: u64 = 30_000,
        /// The least rate of the answer's body while the guest waits for it, bytes per second over `rate_window_ms`.
        pub least_rate: u64 = 64,
        pub rate_window_ms: u64 = 30_000,
    }

    /// Connections that wait for the next request of the same module.
    #[derive(Debug, Clone, Copy)]
    pub struct PoolLimits {
        /// Of one tenant, module, scheme, host and port.
        pub per_key: usize = 8,
        pub total: usize = 256,
        /// How long one waits, milliseconds.
        pub idle_ms: u64 = 15_000,
        /// How old one gets, milliseconds: changes of names are noticed no later.
        pub age_ms: u64 = 120_000,
    }
}
