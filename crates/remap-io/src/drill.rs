//! Fault layers (being written).

/// A fault layer.
#[derive(Debug)]
pub struct Drill {}
