//! From uploaded bytes to native code. Only a child process parses and compiles them; the parent
//! reads no more than their first eight bytes.

pub(crate) mod admission;
pub(crate) mod child;
mod complexity;
pub(crate) mod contract;
pub(crate) mod lockdown;
pub(crate) mod parent;
mod protocol;
pub(crate) mod turns;
mod types;
mod unfolding;
