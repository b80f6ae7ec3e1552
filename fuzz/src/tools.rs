//! The offline metadata commands on files in memory, and what each owes its caller whatever it finds there.
//!
//! Invariant: commands are run as the program runs them, from their command lines; what they print is read back, and what they
//! must not touch is compared byte by byte.

use std::io::{Seek as _, Write as _};
use std::sync::LazyLock;

use serde_json::Value;

use crate::files::{Files, MemoryFile};

/// What the commands print goes here from the first one on; the fuzzer itself talks on standard error.
static PRINTED: LazyLock<MemoryFile> = LazyLock::new(|| {
    let file = MemoryFile::create();
    rustix::stdio::dup2_stdout(file.file()).expect("standard output");
    file
});

/// Codes of the contract that are used here.
const DONE: u8 = 0;
const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const MISMATCH: u8 = 4;
const BUSY: u8 = 5;
const METADATA: u8 = 6;
const LOST: u8 = 8;

/// How a command ended.
#[derive(Debug)]
struct Said {
    code: u8,
    out: String,
    why: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, DONE, "{}", self.why);
        serde_json::from_str(&self.out).expect("what is printed as JSON is JSON")
    }

    /// Was it carried out? Sectors that could not be read are no reason to call it off.
    fn is_done(&self) -> bool {
        matches!(self.code, DONE | LOST)
    }
}

fn run(words: &[&str], more: &[String]) -> Said {
    let printed = &*PRINTED;
    printed.blank(0);
    printed.file().rewind().expect("a file");
    let all: Vec<String> = words.iter().map(|&word| word.to_owned()).chain(more.iter().cloned()).collect();
    let (code, why) = dm_remap::fuzzing::command(&all);
    std::io::stdout().flush().expect("a file");
    let out = String::from_utf8(printed.bytes()).expect("what is printed is text");
    assert!(code == DONE || !why.is_empty() || !out.is_empty(), "{all:?} ends with {code} and says nothing");
    assert!(why.len() < 4096, "a refusal is short");
    Said { code, out, why }
}

fn option(name: &str, files: &[MemoryFile]) -> Vec<String> {
    files.iter().flat_map(|file| [name.to_owned(), file.path()]).collect()
}

/// Places that must stay as they are.
struct Untouched<'f> {
    files: &'f [MemoryFile],
    before: Vec<Vec<u8>>,
}

impl<'f> Untouched<'f> {
    fn of(files: &'f [MemoryFile]) -> Self {
        Self { files, before: files.iter().map(MemoryFile::bytes).collect() }
    }

    #[track_caller]
    fn check(&self, said: &Said) {
        let same = self.files.iter().zip(&self.before).all(|(file, before)| file.bytes() == *before);
        assert!(same, "something was written: {said:?}");
    }
}

/// Files for one input after the other.
#[derive(Default)]
pub struct Bench {
    spares: Files,
    outputs: Files,
    dumps: Files,
}

/// What to do with the spares.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Read them in every way.
    Read,
    /// Go back to one of the generations that they hold, counted from now.
    Rollback(u8),
    /// Make new ones of them.
    Repair,
    /// Dump them, and bring the dump back to blank ones.
    Restore,
    /// Bring the dump of the whole volume back to them as they are.
    RestoreOver,
    /// Bring back a dump in which somebody wrote.
    Forged,
}

impl Bench {
    /// Runs the commands of `task` on spares with these contents. `whole`: the same spares before they were damaged. `forge`
    /// changes the text of a dump.
    ///
    /// # Panics
    /// A command does not keep its word.
    pub fn judge(
        &mut self,
        task: Task,
        spares: &[Vec<u8>],
        whole: &[Vec<u8>],
        forge: impl FnOnce(String) -> String,
    ) {
        let dump = self.dumps.take(1).first().expect("one");
        let files = self.spares.take(spares.len());
        if matches!(task, Task::RestoreOver | Task::Forged) {
            let files = &files[..whole.len().min(files.len())];
            files.iter().zip(whole).for_each(|(file, bytes)| file.put(bytes));
            dump.put(run(&["metadata", "dump"], &option("--spare", files)).out.as_bytes());
        }
        files.iter().zip(spares).for_each(|(file, bytes)| file.put(bytes));
        let spares = Spares { files, args: option("--spare", files), untouched: Untouched::of(files) };
        let believed = spares.check();
        match task {
            Task::Read => spares.read(believed),
            Task::Rollback(which) if believed => spares.rollback(which, self.outputs.take(files.len()), dump),
            Task::Repair | Task::Rollback(_) => spares.repair(believed, self.outputs.take(files.len())),
            Task::Restore if believed => spares.restore_to_blank(dump),
            Task::Restore => {}
            Task::RestoreOver => spares.restore(believed, dump, true),
            Task::Forged => {
                dump.put(forge(String::from_utf8(dump.bytes()).expect("a dump is text")).as_bytes());
                spares.restore(believed, dump, false);
            }
        }
    }
}

struct Spares<'f> {
    files: &'f [MemoryFile],
    args: Vec<String>,
    untouched: Untouched<'f>,
}

/// The table that a dump tells of; `retired`: with the slots that went bad.
fn table_of(dump: &Value, retired: bool) -> Vec<Value> {
    let parts = ["volume", "main", "entries", "retired"];
    parts
        .iter()
        .filter(|part| retired || **part != "retired")
        .map(|part| {
            let mut part = dump[part].clone();
            if let Some(volume) = part.as_object_mut() {
                // Where it is written, and as which generation, is another matter.
                for field in ["generation", "area", "written"] {
                    volume.remove(field);
                }
            }
            part
        })
        .collect()
}

impl Spares<'_> {
    fn run(&self, words: &[&str], more: &[String]) -> Said {
        run(words, &[&self.args[..], more].concat())
    }

    /// As [`Self::run`], of a command that only reads.
    fn look(&self, words: &[&str], more: &[String]) -> Said {
        let said = self.run(words, more);
        self.untouched.check(&said);
        said
    }

    fn dump(&self) -> Value {
        self.look(&["metadata", "dump"], &[]).json()
    }

    /// Checks them: does recovery believe them?
    fn check(&self) -> bool {
        let said = self.look(&["metadata", "check", "--json"], &[]);
        let report: Value = serde_json::from_str(&said.out).expect("a report is JSON");
        let verdict = match said.code {
            DONE => "good",
            FAILURE => "repairable",
            METADATA => "refused",
            other => panic!("a check ends with {other}: {said:?}"),
        };
        assert_eq!(report["verdict"], verdict);
        said.code != METADATA
    }

    /// All of it is as it should be: nothing could be more so after it was written.
    #[track_caller]
    fn assert_whole(&self) {
        let said = self.look(&["metadata", "check"], &[]);
        assert_eq!(said.code, DONE, "what was written is not whole: {said:?}");
    }

    /// Every other command that only reads goes by the verdict too.
    fn read(&self, believed: bool) {
        for words in [
            &["metadata", "dump"][..],
            &["metadata", "dump", "--format", "text"],
            &["metadata", "analyze"],
            &["metadata", "analyze", "--json"],
            &["metadata", "generations"],
            &["map", "list"],
            &["map", "list", "--json"],
            &["map", "export", "--format", "ddrescue"],
            &["map", "export", "--format", "list"],
            &["map", "export", "--format", "json"],
        ] {
            let said = self.look(words, &[]);
            assert_eq!(said.code == DONE, believed, "{words:?}: {said:?}");
            if believed && (words.contains(&"--json") || words.contains(&"json")) {
                said.json();
            }
        }
        let text = self.look(&["metadata", "check"], &[]);
        assert!((text.code == METADATA) != believed && text.out.contains("verdict: "), "{text:?}");
        let same = self.look(&["metadata", "compare", "--from", "now", "--json"], &[]);
        assert!(same.code == DONE || !believed, "{same:?}");
        if believed {
            assert_eq!(same.json()["changes"], Value::Array(Vec::new()), "now differs from now");
        }
    }

    /// A generation that is listed can be had, and going back to it is done in full or not at all.
    fn rollback(&self, which: u8, outputs: &[MemoryFile], dump: &MemoryFile) {
        let list = self.look(&["metadata", "generations", "--json"], &[]).json();
        let generations = list["generations"].as_array().expect("a list");
        assert_eq!(generations.iter().filter(|g| g["current"] == true).count(), 1, "{list}");
        let generation = generations[usize::from(which) % generations.len()]["generation"].to_string();
        self.look(&["metadata", "compare", "--from", &generation, "--json"], &[]).json();
        let plan = self.look(&["metadata", "rollback", "--dry-run", "--to", &generation], &[]);
        outputs.iter().zip(&self.untouched.before).for_each(|(o, spare)| o.blank(spare.len() as u64));
        let blank = Untouched::of(outputs);
        let said = self.look(&["metadata", "rollback", "--to", &generation], &option("--output", outputs));
        if !said.is_done() {
            blank.check(&said);
            assert_eq!(plan.code, said.code, "the rehearsal said something else: {plan:?} {said:?}");
            return;
        }
        assert_eq!((plan.code, said.code), (DONE, DONE), "all of it could be read: {said:?}");
        let made = made_of(outputs);
        made.assert_whole();
        dump.put(made.look(&["metadata", "dump"], &[]).out.as_bytes());
        let to = ["--to".to_owned(), dump.path()];
        let left = self.look(&["metadata", "compare", "--json", "--from", &generation], &to).json();
        assert_eq!(left["changes"], Value::Array(Vec::new()), "back at {generation} something differs");
    }

    /// A repair makes spares that are whole, with all that was believed, or touches nothing.
    fn repair(&self, believed: bool, outputs: &[MemoryFile]) {
        outputs.iter().zip(&self.untouched.before).for_each(|(o, spare)| o.blank(spare.len() as u64));
        let blank = Untouched::of(outputs);
        let said = self.look(&["metadata", "repair"], &option("--output", outputs));
        if !said.is_done() {
            blank.check(&said);
            assert!(!believed, "what is believed can be written again: {said:?}");
            return;
        }
        let made = made_of(outputs);
        made.assert_whole();
        if believed {
            assert_eq!(said.code, DONE, "all of it could be read: {said:?}");
            assert_eq!(table_of(&self.dump(), false)[..], table_of(&made.dump(), true)[..3]);
        }
        // They hold something now.
        let full = Untouched::of(outputs);
        let again = self.look(&["metadata", "repair"], &option("--output", outputs));
        assert_eq!(again.code, BUSY, "{again:?}");
        full.check(&again);
    }

    /// The dump of what is believed makes blank spares the same volume.
    fn restore_to_blank(&self, dump: &MemoryFile) {
        let before = self.dump();
        dump.put(before.to_string().as_bytes());
        let refused = self.look(&["metadata", "restore", &dump.path()], &[]);
        assert_eq!(refused.code, FAILURE, "there is nothing to restore: {refused:?}");
        self.files.iter().zip(&self.untouched.before).for_each(|(file, b)| file.blank(b.len() as u64));
        let blank = Untouched::of(self.files);
        let said = self.run(&["metadata", "restore", &dump.path()], &[]);
        if said.code == DONE {
            let made = made_of(self.files);
            made.assert_whole();
            assert_eq!(table_of(&made.dump(), true), table_of(&before, true));
        } else {
            // Blank spares do not say which one they are: one in the place of a larger one is refused.
            assert!(said.code == MISMATCH && self.files.len() > 1, "{said:?}");
            blank.check(&said);
        }
    }

    /// A dump brought back to spares in any state: done in full, or refused and nothing touched. `ours`: it is of this volume.
    fn restore(&self, believed: bool, dump: &MemoryFile, ours: bool) {
        let asked = self.run(&["metadata", "restore", &dump.path()], &[]);
        if asked.code != DONE {
            self.untouched.check(&asked);
        }
        assert!(asked.code != DONE || !believed, "whole metadata were overwritten unasked");
        assert_ne!(asked.code, USAGE);
        self.files.iter().zip(&self.untouched.before).for_each(|(file, bytes)| file.put(bytes));
        let said = self.run(&["metadata", "restore", "--force", &dump.path()], &[]);
        if said.code != DONE {
            self.untouched.check(&said);
            // A spare that shrank has no room, and a spare that is missing none at all.
            assert!(!ours || said.code == MISMATCH, "{said:?}");
            return;
        }
        let made = made_of(self.files);
        made.assert_whole();
        let was: Value = serde_json::from_slice(&dump.bytes()).expect("a dump that was taken");
        if ours {
            assert_eq!(table_of(&made.dump(), true), table_of(&was, true));
        }
    }
}

fn made_of(files: &[MemoryFile]) -> Spares<'_> {
    Spares { files, args: option("--spare", files), untouched: Untouched::of(files) }
}
