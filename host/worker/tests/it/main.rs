//! The worker against the broker's model and real modules, written in WAT and compiled by the real compiler child.

#![allow(clippy::unwrap_used)]

mod blobs;
mod broker;
mod canvas;
mod damage;
mod guest;
mod hints;
mod key_values;
mod large;
mod leases;
mod orders;
mod outcomes;
mod policies;
mod recycling;
mod reserve;
mod runtime;
mod shutdown;
mod support;
