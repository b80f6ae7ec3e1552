//! The program: all of it is in the library of this package, where the fuzz targets reach it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_remap::run()
}
