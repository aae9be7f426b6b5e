//! Settings of the sandbox. Every default is safe for untrusted modules.

use umbel_model::settings;

settings! {
    /// Pool sizes and per-attempt limits that do not depend on a task's policy.
    #[derive(Debug, Clone)]
    pub struct SandboxConfig {
        /// Attempts that may be inside a sandbox at once; one more waits. A slot costs about 8.5 GiB of address space
        /// (not of memory), so never set RLIMIT_AS on a worker.
        pub slots: u32 = 256,
        /// The largest single linear memory, bytes. A policy's `memory_bytes` above it cannot be used in full.
        pub max_memory_bytes: u64 = 256 << 20,
        /// Stack of the guest's own frames, bytes; a deeper recursion is the outcome `stack`.
        pub stack_bytes: usize = 512 << 10,
        /// Stack of a whole fiber, bytes: the guest's part, and the host functions that it calls.
        pub fiber_bytes: usize = 2 << 20,
        /// Milliseconds between two ticks of the epoch: how often a busy guest yields its thread and looks at its
        /// deadline.
        pub epoch_tick_ms: u64 = 5,
        /// Bytes of a slot's linear memory that stay resident after use and are reset by copying, not by the kernel.
        /// Cost: at most slots in use × this. JavaScript and Python guests like 16 MiB.
        pub memory_keep_resident_bytes: usize = 2 << 20,
        /// The same for each table, bytes.
        pub table_keep_resident_bytes: usize = 64 << 10,
        /// The same for each fiber's stack, bytes.
        pub stack_keep_resident_bytes: usize = 32 << 10,
        /// The largest result, bytes of JSON: larger is `host_limit:result`.
        pub max_result_bytes: usize = 1 << 20,
        /// The most that one host call may hand over, bytes: more is `host_limit:call`.
        pub max_call_bytes: usize = 1 << 20,
        /// Fuel of one host call, about the time it takes; wasmtime charges none.
        pub host_call_fuel: u64 = 1_000,
        /// Fuel of one byte handed to the host.
        pub host_byte_fuel: u64 = 1,
        /// Fuel of one HTTP request, about the time that the host takes for it; its bytes cost `host_byte_fuel`.
        pub http_request_fuel: u64 = 100_000,
        /// Least time between two progress reports that are passed on, milliseconds; the last one always is.
        pub progress_interval_ms: u64 = 100,
        pub log: LogLimits = LogLimits::default(),
        pub workflow_calls: WorkflowCallLimits = WorkflowCallLimits::default(),
        pub kv_calls: KvCallLimits = KvCallLimits::default(),
        pub blob_calls: BlobCallLimits = BlobCallLimits::default(),
        pub describe: DescribeLimits = DescribeLimits::default(),
    }

    /// Limits of the log of one attempt. Lines beyond them are dropped, one line says so, and the guest goes on.
    #[derive(Debug, Clone, Copy)]
    pub struct LogLimits {
        pub lines: u32 = 1_000,
        /// Sum over the lines, bytes.
        pub bytes: usize = 256 << 10,
        /// One line, bytes; the rest of it is cut off.
        pub line_bytes: usize = 8 << 10,
    }

    /// Limits of the workflow calls of one attempt. Calls beyond them are refused, and the guest goes on.
    #[derive(Debug, Clone, Copy)]
    pub struct WorkflowCallLimits {
        /// Calls, including refused ones: more is `host_limit:canvas_calls`.
        pub calls: u32 = 1_000,
        /// One text, bytes: more is `host_limit:canvas_bytes`. One of more than four times as many ends the attempt as
        /// `host_limit:call`.
        pub bytes: usize = 1 << 20,
        /// Sum over the texts that were not refused for their size, bytes: more is `host_limit:canvas_bytes`.
        pub total_bytes: usize = 4 << 20,
        /// Fuel of one byte, about the time that the host takes to read it.
        pub byte_fuel: u64 = 20,
    }

    /// Limits of the key-value calls of one attempt. Calls beyond them are refused, and the guest goes on.
    #[derive(Debug, Clone, Copy)]
    pub struct KvCallLimits {
        /// Calls, including refused ones.
        pub calls: u64 = 10_000,
        /// One value that a guest hands over, bytes. The store has its own limit, which is mostly lower.
        pub value_bytes: usize = 1 << 20,
        /// Entries of one page.
        pub page: u32 = 1_000,
    }

    /// Limits of the blobs of one attempt. What goes beyond them is refused, and the guest goes on.
    #[derive(Debug, Clone, Copy)]
    pub struct BlobCallLimits {
        /// Readers and writers that are open at once.
        pub open: usize = 16,
        /// Blobs that are written.
        pub written: usize = 64,
        /// Sum over the blobs that are written, bytes. The largest blob is a limit of the service.
        pub written_bytes: u64 = 4 << 30,
        /// Bytes that one call reads or writes.
        pub call_bytes: usize = 1 << 20,
        /// Fuel of a call that opens, reads, begins or ends a blob, about the time that the host takes for it; its bytes cost
        /// `host_byte_fuel`.
        pub call_fuel: u64 = 50_000,
    }

    /// Limits of `describe`.
    #[derive(Debug, Clone, Copy)]
    pub struct DescribeLimits {
        pub fuel: u64 = 1_000_000_000,
        pub time_ms: u64 = 2_000,
        pub memory_bytes: u64 = 64 << 20,
        /// The whole description, bytes.
        pub bytes: usize = 8 << 20,
        /// The trees of its schemas and defaults, bytes of the host's memory.
        pub tree_bytes: usize = 64 << 20,
    }
}
