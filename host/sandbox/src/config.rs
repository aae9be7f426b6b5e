//! Settings of the sandbox. Every default is safe for untrusted modules.

/// Pool sizes and per-attempt limits that do not depend on a task's policy.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Attempts that may be inside a sandbox at once; one more waits. A slot costs about 8.5 GiB of address space
    /// (not of memory), so never set RLIMIT_AS on a worker.
    pub slots: u32,
    /// The largest single linear memory, bytes. A policy's `memory_bytes` above it cannot be used in full.
    pub max_memory_bytes: u64,
    /// Stack of the guest's own frames, bytes; a deeper recursion is the outcome `stack`.
    pub stack_bytes: usize,
    /// Stack of a whole fiber, bytes: the guest's part, and the host functions that it calls.
    pub fiber_bytes: usize,
    /// Milliseconds between two ticks of the epoch: how often a busy guest yields its thread and looks at its
    /// deadline.
    pub epoch_tick_ms: u64,
    /// Bytes of a slot's linear memory that stay resident after use and are reset by copying, not by the kernel.
    /// Cost: at most slots in use × this. JavaScript and Python guests like 16 MiB.
    pub memory_keep_resident_bytes: usize,
    /// The same for each table, bytes.
    pub table_keep_resident_bytes: usize,
    /// The same for each fiber's stack, bytes.
    pub stack_keep_resident_bytes: usize,
    /// The largest result, bytes of JSON: larger is `host_limit:result`.
    pub max_result_bytes: usize,
    /// The most that one host call may hand over, bytes: more is `host_limit:call`.
    pub max_call_bytes: usize,
    /// Fuel of one host call, about the time it takes; wasmtime charges none.
    pub host_call_fuel: u64,
    /// Fuel of one byte handed to the host.
    pub host_byte_fuel: u64,
    /// Least time between two progress reports that are passed on, milliseconds; the last one always is.
    pub progress_interval_ms: u64,
    pub log: LogLimits,
    pub workflow_calls: WorkflowCallLimits,
    pub describe: DescribeLimits,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            slots: 256,
            max_memory_bytes: 256 << 20,
            stack_bytes: 512 << 10,
            fiber_bytes: 2 << 20,
            epoch_tick_ms: 5,
            memory_keep_resident_bytes: 2 << 20,
            table_keep_resident_bytes: 64 << 10,
            stack_keep_resident_bytes: 32 << 10,
            max_result_bytes: 1 << 20,
            max_call_bytes: 1 << 20,
            host_call_fuel: 1_000,
            host_byte_fuel: 1,
            progress_interval_ms: 100,
            log: LogLimits::default(),
            workflow_calls: WorkflowCallLimits::default(),
            describe: DescribeLimits::default(),
        }
    }
}

/// Limits of the log of one attempt. Lines beyond them are dropped, one line says so, and the guest goes on.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    pub lines: u32,
    /// Sum over the lines, bytes.
    pub bytes: usize,
    /// One line, bytes; the rest of it is cut off.
    pub line_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { lines: 1_000, bytes: 256 << 10, line_bytes: 8 << 10 }
    }
}

/// Limits of the workflow calls of one attempt. Calls beyond them are refused, and the guest goes on.
#[derive(Debug, Clone, Copy)]
pub struct WorkflowCallLimits {
    /// Calls, including refused ones: more is `host_limit:canvas_calls`.
    pub calls: u32,
    /// One text, bytes: more is `host_limit:canvas_bytes`. One of more than four times as many ends the attempt as
    /// `host_limit:call`.
    pub bytes: usize,
    /// Sum over the texts that were not refused for their size, bytes: more is `host_limit:canvas_bytes`.
    pub total_bytes: usize,
    /// Fuel of one byte, about the time that the host takes to read it.
    pub byte_fuel: u64,
}

impl Default for WorkflowCallLimits {
    fn default() -> Self {
        Self { calls: 1_000, bytes: 1 << 20, total_bytes: 4 << 20, byte_fuel: 20 }
    }
}

/// Limits of `describe`.
#[derive(Debug, Clone, Copy)]
pub struct DescribeLimits {
    pub fuel: u64,
    pub time_ms: u64,
    pub memory_bytes: u64,
    /// The whole description, bytes.
    pub bytes: usize,
}

impl Default for DescribeLimits {
    fn default() -> Self {
        Self { fuel: 1_000_000_000, time_ms: 2_000, memory_bytes: 64 << 20, bytes: 8 << 20 }
    }
}
