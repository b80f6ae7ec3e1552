//! A place with a volume and all the files that commands take, that knows whether it was changed.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest as _, Sha256};

use crate::program::{Bench, Said};

/// A name that nothing has yet.
pub(crate) const NEW: &str = "new";
/// Time that a command may take, in seconds: more is a hang.
const PATIENCE: &str = "120";

/// What is in the place: kind, and the sum of a regular file.
type Contents = BTreeMap<String, (String, Option<[u8; 32]>)>;

pub(crate) struct World {
    pub(crate) bench: Bench,
    before: Contents,
}

impl World {
    /// `main`, `spare` and `dump` of a volume `vol` that nobody serves, `list` (of lost sectors) and `ddrescue` (a map).
    pub(crate) fn create() -> Self {
        let bench = Bench::create();
        bench.adopted();
        let write = |name: &str, text: &str| std::fs::write(bench.path(name), text).expect("a file");
        write("list", "100\n108-131\n");
        write("ddrescue", "0x0 + 1\n0x0 0x1000 +\n0x1000 0x400 -\n0x1400 0x3ec00 +\n");
        bench.run(&["map", "import", "--main", "main", "--spare", "spare", "list"]).done();
        bench.run(&["metadata", "dump", "--spare", "spare", "--output", "dump"]).done();
        std::fs::create_dir(bench.path("directory")).expect("a directory");
        mknodat(CWD, bench.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let mut world = Self { bench, before: Contents::new() };
        world.before = world.contents();
        world
    }

    /// The file that an argument stands for.
    pub(crate) fn input(arg: &str) -> &str {
        match arg {
            "MAIN" => "main",
            "SPARE" => "spare",
            "DUMP" => "dump",
            "LIST" => "list",
            "DDRESCUE" => "ddrescue",
            "NEW" => NEW,
            other => other,
        }
    }

    /// The program with these arguments, under a time limit that no command comes near.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let program = self.bench.command(&[]);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE]).arg(program.get_program()).args(args);
        self.inside(command)
    }

    /// The command in this place.
    pub(crate) fn inside(&self, mut command: Command) -> Command {
        let place = self.bench.path("");
        command.current_dir(&place).env("XDG_RUNTIME_DIR", &place).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        Self::finish(self.command(args))
    }

    /// Runs it to its end, which is neither a signal, nor a panic, nor the time limit.
    #[track_caller]
    pub(crate) fn finish(mut command: Command) -> Said {
        let said = Said::of(command.output().expect("it starts"));
        assert!(matches!(said.code, Some(0..=9)), "{command:?}: {said:?}");
        assert!(!said.err.contains("panicked"), "{command:?}: {said:?}");
        said
    }

    fn contents(&self) -> Contents {
        let mut found = Contents::new();
        let mut places = vec![PathBuf::new()];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(self.bench.path("").join(&place)).expect("a directory") {
                let entry = entry.expect("an entry");
                let name = place.join(entry.file_name());
                let kind = entry.file_type().expect("a kind");
                // Sockets and their directory come and go with servers.
                if kind.is_socket() || name.as_os_str() == "dm-remap" {
                    continue;
                }
                if kind.is_dir() {
                    places.push(name.clone());
                }
                let sum = kind.is_file().then(|| {
                    let bytes = std::fs::read(self.bench.path("").join(&name)).expect("a file");
                    Sha256::digest(bytes).into()
                });
                found.insert(name.display().to_string(), (format!("{kind:?}"), sum));
            }
        }
        found
    }

    /// What is there now is what has to stay.
    pub(crate) fn note(&mut self) {
        self.before = self.contents();
    }

    /// Nothing was added, removed or changed.
    #[track_caller]
    pub(crate) fn unchanged(&self) {
        let (before, now) = (&self.before, self.contents());
        let differ = |name: &&String| before.get(*name) != now.get(*name);
        let changed: Vec<&String> = before.keys().chain(now.keys()).filter(differ).collect();
        assert!(changed.is_empty(), "changed: {changed:?}");
    }
}
