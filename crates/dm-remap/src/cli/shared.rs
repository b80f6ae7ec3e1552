//! Arguments that several commands take, each defined once.
//!
//! Invariant: where a command says more about one of them, it changes the words (`mut_arg`), not what is accepted.

use std::path::PathBuf;

use clap::Args;

use crate::open::SpareArg;

/// The spares of a volume that nobody serves.
#[derive(Clone, Debug, Args)]
pub(crate) struct SparesArg {
    /// A spare of the volume; repeat for more
    #[arg(long = "spare", value_name = "PATH[@START[+LEN]]", required = true)]
    pub(crate) spares: Vec<SpareArg>,
}

/// In which form a report is printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct JsonArg {
    /// JSON, with a schema_version
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a text goes.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArg {
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an output that exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// Spares that a command makes.
#[derive(Clone, Debug, Args)]
pub(crate) struct NewSparesArg {
    /// A new spare, one for each: made as a file if it does not exist; repeat for more
    #[arg(long = "output", value_name = "PATH[@START[+LEN]]", required = true)]
    pub(crate) outputs: Vec<SpareArg>,
    /// Overwrite outputs that hold something
    #[arg(long)]
    pub(crate) force: bool,
}
