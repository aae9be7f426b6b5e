//! From uploaded bytes to native code. The bytes are parsed and compiled in a child process only; the parent looks
//! at no more than their first eight.

pub(crate) mod child;
pub(crate) mod contract;
pub(crate) mod gate;
pub(crate) mod lockdown;
pub(crate) mod parent;
mod protocol;
