//! What every command owes its caller, whatever it is given: help, exit codes, one line that says why, and files as they were.
//!
//! One table ([`tools::TOOLS`]) names the commands and what they take; each test goes through all of it. A command that is not in the table
//! fails a test.

mod damaged;
mod inputs;
mod outputs;
#[path = "../program/mod.rs"]
mod program;
mod tools;
mod world;
