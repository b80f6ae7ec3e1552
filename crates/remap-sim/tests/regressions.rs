//! Runs that found a bug once, each named for it. A file says all that its run depends on, so it keeps its meaning when a seed comes to mean
//! another scenario; where the world itself throws its dice in another order, the scripted tests of the core keep the behaviour.

use std::fs;
use std::path::Path;

use remap_sim::{Rule, seed_file, shrink};

/// Each file in `seeds` is a run that broke a rule once; its name says what the bug was. `remap-sim soak` writes such files.
#[test]
fn what_failed_once_does_not_fail_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "seed")).collect();
    files.sort();
    let outcome = |file: &Path| {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let (scenario, rule) = seed_file::parse(&text)?;
        shrink::verdict(&scenario, rule == Rule::C7).map_err(|failure| failure.violation.to_string())
    };
    let failed = |file: &std::path::PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        outcome(file).err().map(|error| format!("{name}: {error}"))
    };
    let failures: Vec<String> = files.iter().filter_map(failed).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
