//! The sandbox against real modules, good and hostile: written in WAT, compiled by the real compiler child.

#![allow(clippy::unwrap_used)]

mod attempts;
mod blobs;
mod bombs;
mod compiling;
mod config;
mod custom_state;
mod describing;
mod fuel;
mod imports;
mod kv;
mod map;
mod schedule;
mod support;
mod workflow_calls;
mod worlds;
