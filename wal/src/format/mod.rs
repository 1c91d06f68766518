//! Everything that lies on disk or crosses a wire, byte by byte. Formats at version 1; docs/src/formats.md explains
//! each field.

pub(crate) mod batch;
pub(crate) mod block;
pub(crate) mod footer;
pub(crate) mod group;
pub(crate) mod ids;
pub(crate) mod layout;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod segment;

#[cfg(test)]
pub(crate) mod golden_test;
