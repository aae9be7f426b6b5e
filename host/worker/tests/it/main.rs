//! The worker against the broker's model and real modules, written in WAT and compiled by the real compiler child.

#![allow(clippy::unwrap_used)]

mod broker;
mod canvas;
mod guest;
mod leases;
mod outcomes;
mod runtime;
mod shutdown;
mod support;
