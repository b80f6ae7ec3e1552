//! Block devices, rings, faults (being written).

mod buf;
pub use buf::Buf;
