//! The process that watches over the one that serves.
//!
//! Invariant: when that one dies, a fresh one is made from memory, without reading a file (which could be on the very device that stands
//! still), and finds its way from the metadata. Where that does not help within a minute, clients get errors: nobody waits for ever (C6).

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use remap_io::mapper::{Control, DeviceMapper as _, Segment, Target};
use remap_io::process::{self, Child, Ended, Forked};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a fresh process may fail to start before clients get errors, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
/// What a panic ends a Rust program with.
const PANICKED: u8 = 101;

/// How the serving process tells the one that watches over it.
pub(super) struct Word(UnixStream);

impl Word {
    /// The device that clients may come to wait for.
    pub(super) fn names(&mut self, name: &str, sectors: u64) {
        // Who is not watched over any more serves all the same.
        let _ = writeln!(self.0, "name {name} {sectors}");
    }

    /// The device carries.
    pub(super) fn serves(&mut self) {
        let _ = writeln!(self.0, "serves");
    }
}

/// What it told, in the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    name: Option<(String, u64)>,
    serves: bool,
}

fn understand(text: &str) -> Told {
    let mut told = Told::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["name", name, sectors] => told.name = sectors.parse().ok().map(|n| ((*name).to_owned(), n)),
            ["serves"] => told.serves = true,
            _ => {}
        }
    }
    told
}

/// What is to be done after the serving process has ended.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// End, with this code.
    End(u8),
    /// A fresh one, after a pause.
    Again(Duration),
    /// Spare the clients an endless wait, and end.
    GiveUp(u8),
}

/// The rules. `recovering`: an earlier one died; `failing`: for so long none has come to serve.
fn judge(ended: Ended, serves: bool, recovering: bool, failing: Duration) -> Then {
    let (code, crashed) = match ended {
        Ended::Exit(code) => (code, code == PANICKED),
        Ended::Signal(signal) => (1, ![SIGTERM, SIGINT, SIGHUP].contains(&signal)),
    };
    match (crashed, serves) {
        (true, true) => Then::Again(Duration::ZERO),
        // A start that is refused is for whoever gave the command, and so is the end that was asked for.
        (false, _) if code == 0 || serves || !recovering => Then::End(code),
        _ if failing > PATIENCE => Then::GiveUp(code),
        _ => Then::Again(PAUSE),
    }
}

/// Serves in a child, and in a fresh one whenever it dies. `serve` is told how the one before ended, if there was one.
///
/// # Errors
/// The system refused.
pub(super) fn watch_over(serve: impl Fn(Option<Ended>, Word) -> ExitCode) -> anyhow::Result<ExitCode> {
    process::outlive_others();
    let mut before = None;
    let mut name = None;
    let mut failing_since = Instant::now();
    loop {
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD]).context("cannot wait for signals")?;
        let (mut ours, theirs) = UnixStream::pair().context("no pair of sockets")?;
        let child = match process::fork_alone().context("cannot make the process that serves")? {
            Forked::Parent(child) => child,
            Forked::Child => {
                drop((signals, ours));
                return Ok(serve(before, Word(theirs)));
            }
        };
        drop(theirs);
        let ended = wait_for(&child, &mut signals)?;
        let mut text = String::new();
        ours.set_nonblocking(true)?;
        // What it forked might hold the other end; then there is less to read.
        let _ = ours.read_to_string(&mut text);
        let told = understand(&text);
        name = told.name.or(name);
        if told.serves {
            failing_since = Instant::now();
        }
        match judge(ended, told.serves, before.is_some(), failing_since.elapsed()) {
            Then::End(code) => return Ok(code.into()),
            Then::Again(pause) => std::thread::sleep(pause),
            Then::GiveUp(code) => {
                if let Some((name, sectors)) = &name {
                    fail_all(name, *sectors);
                }
                return Ok(code.into());
            }
        }
        before = before.or(Some(ended));
        if matches!(ended, Ended::Signal(_)) {
            before = Some(ended);
        }
    }
}

/// Waits for the child's end; passes on the signals that ask for it.
fn wait_for(child: &Child, signals: &mut Signals) -> anyhow::Result<Ended> {
    loop {
        if let Some(ended) = child.ended()? {
            return Ok(ended);
        }
        for signal in signals.wait() {
            if signal != SIGCHLD {
                // It may have ended meanwhile.
                let _ = child.signal(signal);
            }
        }
    }
}

/// Clients of a mapped device that stands still get errors from now on.
fn fail_all(name: &str, sectors: u64) {
    let outcome = Control::open().and_then(|mut control| {
        if control.find(name)?.is_some_and(|mapped| mapped.suspended) {
            control.load(name, &[Segment { start: 0, sectors, target: Target::Error }], false)?;
            control.resume(name)?;
        }
        Ok(())
    });
    let text = match outcome {
        Ok(()) => format!("{name}: cannot be served again; its clients get errors from now on"),
        Err(error) => format!("{name}: cannot be served again, and its clients wait: {error}"),
    };
    eprintln!("dm-remap: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_served_and_died_is_replaced_at_once() {
        for ended in [Ended::Signal(9), Ended::Signal(6), Ended::Exit(PANICKED)] {
            assert_eq!(judge(ended, true, false, Duration::ZERO), Then::Again(Duration::ZERO));
            assert_eq!(judge(ended, true, true, PATIENCE * 2), Then::Again(Duration::ZERO));
            assert_eq!(judge(ended, false, false, Duration::ZERO), Then::Again(PAUSE));
            assert_eq!(
                judge(ended, false, true, PATIENCE * 2),
                Then::GiveUp(if ended == Ended::Exit(PANICKED) { PANICKED } else { 1 })
            );
        }
    }

    #[test]
    fn an_end_that_was_asked_for_and_a_first_start_that_is_refused_are_the_end() {
        assert_eq!(judge(Ended::Exit(0), true, true, PATIENCE * 2), Then::End(0));
        assert_eq!(judge(Ended::Exit(4), false, false, Duration::ZERO), Then::End(4));
        assert_eq!(judge(Ended::Signal(SIGTERM), false, true, Duration::ZERO), Then::Again(PAUSE));
        assert_eq!(judge(Ended::Signal(SIGTERM), true, true, Duration::ZERO), Then::End(1));
    }

    #[test]
    fn a_start_that_is_refused_after_a_crash_is_tried_again_for_a_while() {
        assert_eq!(judge(Ended::Exit(7), false, true, Duration::ZERO), Then::Again(PAUSE));
        assert_eq!(judge(Ended::Exit(7), false, true, PATIENCE), Then::Again(PAUSE));
        assert_eq!(judge(Ended::Exit(7), false, true, PATIENCE * 2), Then::GiveUp(7));
    }

    #[test]
    fn what_it_told_is_understood() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut word = Word(theirs);
        word.names("disk", 4096);
        word.serves();
        drop(word);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(understand(&text), Told { name: Some(("disk".into(), 4096)), serves: true });
        let told = understand("name disk 4096\nserves\n");
        assert_eq!(told, Told { name: Some(("disk".into(), 4096)), serves: true });
        assert_eq!(understand("name disk\nnonsense\n"), Told::default());
    }
}
