//! `umbel dev`, `server`, `token` and `doctor`: the flags of whatever opens a broker, and of whatever runs jobs.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use umbel_broker::Limits;
use umbel_broker_redis::{Durability, RedisFiles};
use umbel_model::{PolicyBounds, QueueName};

use super::{MasterKeyFlags, OrNone, duration, patience, size};

/// Flags of every process that opens a broker.
#[derive(Debug, Clone, Args)]
pub struct BrokerFlags {
    /// Broker: sqlite:PATH, redis://HOST:PORT/DB, or rediss://HOST:PORT/DB over TLS
    #[arg(long, env = "UMBEL_BROKER", value_name = "URL", hide_env_values = true)]
    pub broker: Option<String>,
    /// Data folder: modules, compiled code, the SQLite file
    #[arg(long, env = "UMBEL_DATA", default_value = "./.umbel", value_name = "DIR")]
    pub data: PathBuf,
    /// Accept a Redis whose settings may lose jobs. For development only
    #[arg(long, env = "UMBEL_ALLOW_UNSAFE_REDIS")]
    pub allow_unsafe_redis: bool,
    /// When a change counts as kept: server, replicated=N (so many replicas of Redis have it), fsync=1 (Redis 7.2: it is on
    /// disk)
    #[arg(long, env = "UMBEL_DURABILITY", default_value = "server", value_name = "HOW", hide_default_value = true)]
    pub durability: Durability,
    #[command(flatten)]
    pub redis: RedisFlags,
    #[command(flatten)]
    pub limits: LimitsFlags,
}

/// What a connection to Redis takes from files, each time that it is made.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files for Redis, read for each new connection")]
pub struct RedisFlags {
    /// Authorities to trust with rediss:// instead of the system's (PEM)
    #[arg(long, env = "UMBEL_REDIS_CA_FILE", value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// Certificate of this process, for a Redis that wants one (PEM)
    #[arg(long, env = "UMBEL_REDIS_CERT", requires = "redis_key", value_name = "FILE")]
    pub redis_cert: Option<PathBuf>,
    /// Key of the certificate (PEM, without a passphrase)
    #[arg(long, env = "UMBEL_REDIS_KEY", requires = "redis_cert", value_name = "FILE")]
    pub redis_key: Option<PathBuf>,
    /// Password of Redis, instead of one in its address
    #[arg(long, env = "UMBEL_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
}

impl RedisFlags {
    pub fn files(&self) -> RedisFiles {
        RedisFiles {
            authorities: self.redis_ca_file.clone(),
            identity: self.redis_cert.clone().zip(self.redis_key.clone()),
            password: self.redis_password_file.clone(),
        }
    }
}

/// Limits of a broker: the same for all of its processes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits of the broker, for each tenant; the same for all processes of one broker")]
pub struct LimitsFlags {
    /// Jobs that wait in one queue
    #[arg(long, env = "UMBEL_MAX_BACKLOG", default_value_t = Limits::default().max_backlog, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..), hide_default_value = false)]
    pub max_backlog: u64,
    /// Queues
    #[arg(long, env = "UMBEL_MAX_QUEUES", default_value_t = Limits::default().max_queues, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub max_queues: u64,
    /// Jobs in the dead set; each further job removes the oldest
    #[arg(long, env = "UMBEL_MAX_DEAD", default_value_t = Limits::default().max_dead, value_name = "N")]
    pub max_dead: u64,
    /// Workflows, running and kept
    #[arg(long, env = "UMBEL_MAX_WORKFLOWS", default_value_t = Limits::default().max_workflows, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub max_workflows: u64,
    /// Log lines kept for one job
    #[arg(long, env = "UMBEL_MAX_LOG_LINES", default_value_t = Limits::default().max_log_lines, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub max_log_lines: u64,
    /// Bytes of jobs and workflows, with results and logs; an operator may set others for a tenant. 0: any number
    #[arg(long, env = "UMBEL_MAX_JOB_BYTES", default_value = "16GiB", value_parser = size, value_name = "SIZE")]
    pub max_job_bytes: u64,
    /// The same of modules and documents
    #[arg(long, env = "UMBEL_MAX_DOCUMENT_BYTES", default_value = "4GiB", value_parser = size, value_name = "SIZE")]
    pub max_document_bytes: u64,
    /// The same of key-value entries
    #[arg(long, env = "UMBEL_MAX_KV_BYTES", default_value = "1GiB", value_parser = size, value_name = "SIZE")]
    pub max_kv_bytes: u64,
    /// The same of blobs
    #[arg(long, env = "UMBEL_MAX_BLOB_BYTES", default_value = "16GiB", value_parser = size, value_name = "SIZE")]
    pub max_blob_bytes: u64,
    /// Blobs
    #[arg(long, env = "UMBEL_MAX_BLOBS", default_value_t = Limits::default().max_blobs, value_name = "N")]
    pub max_blobs: u64,
    /// One value of a key-value entry; at most 1MiB
    #[arg(long, env = "UMBEL_MAX_VALUE_BYTES", default_value = "64KiB", value_parser = value_size, value_name = "SIZE")]
    pub max_value_bytes: u64,
    /// Key-value buckets
    #[arg(long, env = "UMBEL_MAX_BUCKETS", default_value_t = Limits::default().max_buckets, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub max_buckets: u64,
    /// Schedules
    #[arg(long, env = "UMBEL_MAX_SCHEDULES", default_value_t = Limits::default().max_schedules, value_name = "N",
        value_parser = clap::value_parser!(u64).range(..=100_000))]
    pub max_schedules: u64,
    /// Tasks that have sums of usage of their own in an hour; further ones are summed together
    #[arg(long, env = "UMBEL_MAX_USAGE_TASKS", default_value_t = Limits::default().max_usage_tasks, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub max_usage_tasks: u64,
    /// How long sums of usage are kept, in whole hours; at most 400d
    #[arg(long, env = "UMBEL_USAGE_RETENTION", default_value = "14d", value_parser = retention, value_name = "DURATION")]
    pub usage_retention: u64,
}

/// How long sums of usage may be kept: a request may read all of them.
fn retention(text: &str) -> Result<u64, String> {
    match duration(text)? {
        ms @ 3_600_000..=34_560_000_000 => Ok(ms),
        _ => Err("from 1h to 400d".into()),
    }
}

/// How long an attempt may run: what it wrote into the module store and did not finish is taken for forgotten after 25 h.
fn time_limit(text: &str) -> Result<u64, String> {
    match duration(text)? {
        ms @ ..=82_800_000 => Ok(ms),
        _ => Err("at most 23h: files that an attempt writes are cleared away when they are older than a day".into()),
    }
}

/// The size of a value, as far as requests and sandboxes take it.
fn value_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes @ 1..=1_048_576 => Ok(bytes),
        _ => Err("from 1B to 1MiB".into()),
    }
}

impl LimitsFlags {
    pub fn limits(&self) -> Limits {
        Limits {
            max_backlog: self.max_backlog,
            max_queues: self.max_queues,
            max_dead: self.max_dead,
            max_workflows: self.max_workflows,
            max_log_lines: self.max_log_lines,
            max_job_bytes: self.max_job_bytes,
            max_document_bytes: self.max_document_bytes,
            max_kv_bytes: self.max_kv_bytes,
            max_blob_bytes: self.max_blob_bytes,
            max_blobs: self.max_blobs,
            max_value_bytes: self.max_value_bytes,
            max_buckets: self.max_buckets,
            max_schedules: self.max_schedules,
            max_usage_tasks: self.max_usage_tasks,
            usage_retention_ms: self.usage_retention,
            ..Limits::default()
        }
    }
}

/// What the background services do.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Background services; the same for all processes of one broker")]
pub struct BackgroundFlags {
    /// How long after its last push a module is deleted that no task points at or may be rolled back to, and that no unfinished job
    /// uses; 0s: never
    #[arg(long, env = "UMBEL_KEEP_UNUSED_MODULES", default_value = "30d", value_parser = duration, value_name = "DURATION")]
    pub keep_unused_modules: u64,
    /// How long a blob is kept to which no job refers; 0s: until the next look
    #[arg(long, env = "UMBEL_KEEP_UNUSED_BLOBS", default_value = "7d", value_parser = duration, value_name = "DURATION")]
    pub keep_unused_blobs: u64,
    /// Between two times of a schedule, at least; checked on the next 1,000 when it is set
    #[arg(long, env = "UMBEL_MIN_SCHEDULE_INTERVAL", default_value = "1s", value_parser = duration, value_name = "DURATION")]
    pub min_schedule_interval: u64,
}

/// Bounds of policies: the same for all processes of one service.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Bounds of policies; the same for all processes of one service")]
pub struct BoundFlags {
    /// Longest hard time limit of an attempt; at most 23h
    #[arg(long, env = "UMBEL_MAX_TIME_LIMIT", default_value = "1h", value_parser = time_limit, value_name = "DURATION")]
    pub max_time_limit: u64,
    /// Most fuel of an attempt, including retries with more fuel
    #[arg(long, env = "UMBEL_MAX_FUEL", default_value_t = PolicyBounds::default().max_fuel, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub max_fuel: u64,
    /// Longest retention of a job, a result or a dead job
    #[arg(long, env = "UMBEL_MAX_RETENTION", default_value = "365d", value_parser = duration, value_name = "DURATION")]
    pub max_retention: u64,
    /// Most retries that a policy may ask for, beside unlimited ones
    #[arg(long, env = "UMBEL_MAX_RETRIES", default_value_t = PolicyBounds::default().max_retries, value_name = "N")]
    pub max_retries: u32,
    /// How long after its submission a job may still run again, by retries or snoozes; later it fails
    #[arg(long, env = "UMBEL_MAX_LIFETIME", default_value = "395d", value_parser = duration, value_name = "DURATION")]
    pub max_lifetime: u64,
}

impl BoundFlags {
    pub fn bounds(&self) -> PolicyBounds {
        PolicyBounds {
            max_time_limit_ms: self.max_time_limit,
            max_fuel: self.max_fuel,
            max_retention_ms: self.max_retention,
            max_retries: self.max_retries,
            max_lifetime_ms: self.max_lifetime,
            ..PolicyBounds::default()
        }
    }
}

/// Which queues a process serves, and how it chooses among them.
#[derive(Debug, Clone, Default, Args)]
pub struct QueueFlags {
    /// Queues to serve, the first one first; without it all queues in turn
    #[arg(short = 'Q', long = "queues", env = "UMBEL_QUEUES", value_delimiter = ',', value_name = "NAMES")]
    pub queues: Vec<QueueName>,
    /// Weights: how often each queue comes first; 1 for a queue that is not named
    #[arg(long, env = "UMBEL_QUEUE_WEIGHTS", value_delimiter = ',', value_parser = weight, value_name = "NAME=N",
        conflicts_with = "strict")]
    pub queue_weights: Vec<QueueWeight>,
    /// Serve a queue only while those before it are empty; the same as -Q alone
    #[arg(long, env = "UMBEL_STRICT", requires = "queues")]
    pub strict: bool,
    /// Queues never to serve
    #[arg(long, env = "UMBEL_EXCLUDE", value_delimiter = ',', value_name = "NAMES")]
    pub exclude: Vec<QueueName>,
}

/// How often a queue comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueWeight {
    pub queue: QueueName,
    pub weight: u32,
}

fn weight(text: &str) -> Result<QueueWeight, String> {
    let hint = || format!("{text:?} is not NAME=N: write a queue and a number from 1 to 1000, such as critical=3");
    let (queue, weight) = text.split_once('=').ok_or_else(hint)?;
    let weight = weight.trim().parse().ok().filter(|weight| (1..=1_000).contains(weight)).ok_or_else(hint)?;
    let queue = QueueName::new(queue.trim()).map_err(|error| error.to_string())?;
    Ok(QueueWeight { queue, weight })
}

/// How a process runs jobs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Running jobs")]
pub struct RunFlags {
    #[command(flatten)]
    pub queues: QueueFlags,
    /// Time that running jobs have after the first SIGTERM before they are handed back; `none`: no limit
    #[arg(long, visible_alias = "grace", env = "UMBEL_GRACE", default_value = "30s", value_parser = patience, value_name = "DURATION")]
    pub shutdown_timeout: OrNone<u64>,
    /// Threads for guests; by default the number of cores. There are as many more for tenants whose guests hold threads
    #[arg(long, env = "UMBEL_GUEST_THREADS", value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub guest_threads: Option<u32>,
    /// Memory that all running jobs may be granted together; others wait. By default three quarters of the machine's or cgroup's
    #[arg(long, env = "UMBEL_GUEST_MEMORY", value_parser = size, value_name = "SIZE")]
    pub guest_memory: Option<u64>,
    /// Length of a lease; it is renewed well before it ends
    #[arg(long, env = "UMBEL_LEASE", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub lease: u64,
    #[command(flatten)]
    pub http: HttpFlags,
    #[command(flatten)]
    pub master_keys: MasterKeyFlags,
}

/// Outgoing HTTP requests of guests.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP requests of tasks")]
pub struct HttpFlags {
    /// Certificates of authorities in PEM that are trusted instead of the system's
    #[arg(long, env = "UMBEL_HTTP_CA_FILE", value_name = "FILE")]
    pub http_ca_file: Option<PathBuf>,
    /// Addresses of this service that tasks never reach, whatever they are granted, besides the broker's and the one listened on
    #[arg(long, env = "UMBEL_HTTP_REFUSE", value_delimiter = ',', value_name = "HOST:PORT")]
    pub http_refuse: Vec<String>,
    /// What happens with a request that no permission allows
    #[arg(long, env = "UMBEL_EGRESS", default_value = "enforce", value_name = "HOW")]
    pub egress: Egress,
}

/// What happens with a request that no permission allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Egress {
    /// It is denied
    Enforce,
    /// It is logged in the job's log and sent; only where there is one tenant, who is trusted. Private addresses stay refused
    Report,
}

#[derive(Debug, Args)]
pub struct DevOptions {
    /// Port on 127.0.0.1; 0 picks a free one
    #[arg(long, env = "UMBEL_PORT", default_value_t = 7717)]
    pub port: u16,
    /// Jobs at once
    #[arg(short, long, env = "UMBEL_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub concurrency: Option<u32>,
    /// Speak https, with a certificate for localhost that an authority in the data folder issued; client verbs find it there
    #[arg(long, env = "UMBEL_TLS")]
    pub tls: bool,
    /// Let modules that ask for permissions wait for `umbel module approve`, as on a server, instead of approving them when they
    /// are pushed
    #[arg(long, env = "UMBEL_STRICT_PERMISSIONS")]
    pub strict_permissions: bool,
    #[command(flatten)]
    pub broker: BrokerFlags,
    #[command(flatten)]
    pub run: RunFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub background: BackgroundFlags,
}

#[derive(Debug, Args)]
pub struct ServerOptions {
    /// Address and port of the API
    #[arg(long, env = "UMBEL_LISTEN", default_value = "127.0.0.1:7717", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Certificate of the API, with the chain behind it (PEM): speak https, and nothing else. A changed file is used within seconds
    #[arg(long, env = "UMBEL_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM, without a passphrase)
    #[arg(long, env = "UMBEL_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Clients reach this server through a proxy that speaks https to them: do not warn that it has no certificate of its own
    #[arg(long, env = "UMBEL_BEHIND_PROXY")]
    pub behind_proxy: bool,
    /// Jobs that this process runs at once as a worker; 0: none
    #[arg(short, long, env = "UMBEL_CONCURRENCY", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000), value_name = "N")]
    pub concurrency: u32,
    #[command(flatten)]
    pub broker: BrokerFlags,
    #[command(flatten)]
    pub run: RunFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub background: BackgroundFlags,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it. It cannot be shown again
    Create(TokenOptions),
    /// List tokens: names and ids, not the tokens themselves
    List(TokensOptions),
    /// Revoke a token. Every server refuses it within 5 seconds
    Revoke(RevokeOptions),
}

#[derive(Debug, Args)]
pub struct TokensOptions {
    /// Only those of this tenant
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<umbel_model::TenantId>,
    #[command(flatten)]
    pub broker: BrokerFlags,
}

#[derive(Debug, Args)]
pub struct RevokeOptions {
    /// Id of the token, as the list shows it
    pub id: String,
    #[command(flatten)]
    pub broker: BrokerFlags,
}

#[derive(Debug, Args)]
pub struct TokenOptions {
    /// Purpose of the token
    #[arg(long, default_value = "cli", value_name = "NAME")]
    pub name: String,
    /// Tenant that the token belongs to
    #[arg(long, default_value = crate::serve::DEFAULT_TENANT, value_name = "TENANT")]
    pub tenant: umbel_model::TenantId,
    /// How long the token is good; until it is revoked when not given
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub expires: Option<u64>,
    /// Make an operator's token, which may also show and control all workers, and grant
    #[arg(long)]
    pub operator: bool,
    /// Let the token approve what modules ask to reach, and change the tenant's grants
    #[arg(long)]
    pub grant: bool,
    #[command(flatten)]
    pub broker: BrokerFlags,
}

#[derive(Debug, Args)]
pub struct BackupOptions {
    /// The new file
    pub file: PathBuf,
    #[command(flatten)]
    pub broker: BrokerFlags,
}

#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// Repair what can be repaired
    #[arg(long)]
    pub fix: bool,
    #[command(flatten)]
    pub broker: BrokerFlags,
    #[command(flatten)]
    pub master_keys: MasterKeyFlags,
}
