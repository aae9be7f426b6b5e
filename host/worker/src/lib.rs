//! Claims jobs, runs them in the sandbox, renews, settles, drains
