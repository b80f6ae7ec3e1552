//! Threads, buffers, clock and queues around the engine.

pub mod front;
