//! Runs that are killed, resumed, starved of disk and fed damaged files.
//!
//! A wrong program would lose or repeat a step, forget an optimiser's average, trust a file it should not, or leave a
//! folder from which nothing can be resumed.

mod disk;
mod kill;
mod memory;
mod mutated;
mod refused;
mod resume;
#[path = "../support/mod.rs"]
mod support;
mod tiny;
