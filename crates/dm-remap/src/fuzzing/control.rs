//! The control socket: its lines both ways, a peer that sends anything, messages to a volume; and dumps, the other JSON that is read.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use remap_core::recovery::Recovered;
use remap_core::units::Extent;
use remap_format::{Entry, EntryState};
use remap_runtime::{OpenOptions, Volume, examine};
use remap_words::sectors::parse_sectors;

use crate::control::{Answer, converse};
use crate::message;
use crate::metadata::dump::Dump;
use crate::open::{Access, Opener, SpareArg};
use crate::serve::Service;
use crate::wire::{self, Ask, Reply, WireEntry};

/// A line, read by the server and by the client: what is understood is said again in the same words.
pub fn line(line: &[u8]) {
    let one_line = |said: &[u8]| said.iter().position(|byte| *byte == b'\n') == Some(said.len() - 1);
    match wire::decode::<Ask>(line) {
        Ok(ask) => {
            let again = wire::encode(&ask).expect("an ask has a JSON form");
            assert!(one_line(&again));
            assert_eq!(wire::decode::<Ask>(&again).expect("our own words"), ask);
        }
        Err(error) => assert!(format!("{error:#}").len() < 1000 + 8 * line.len(), "a refusal is short"),
    }
    let Ok(reply) = wire::decode::<Reply>(line) else { return };
    let again = wire::encode(&reply).expect("a reply has a JSON form");
    assert!(one_line(&again));
    let same: Reply = wire::decode(&again).expect("our own words");
    assert_eq!(wire::encode(&same).expect("as before"), again);
    let Reply::Entries { entries, .. } = &reply else { return };
    for entry in entries.iter().filter_map(|wire| Entry::try_from(wire).ok()) {
        assert_eq!(Entry::try_from(&WireEntry::from(&entry)).expect("our own words"), entry);
    }
}

struct Peer<'a> {
    says: &'a [u8],
    hears: Vec<u8>,
}

impl Read for Peer<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.says.read(into)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hears.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Answers a message with its words, and has no answer to anything else.
struct Echo;

impl Answer for Echo {
    fn answer(&self, ask: Ask, send: &mut dyn FnMut(Reply) -> anyhow::Result<()>) -> anyhow::Result<()> {
        match ask {
            Ask::Message { words } => send(Reply::Message { text: words.join(" "), ok: true }),
            _ => Err(anyhow::anyhow!("not here")),
        }
    }
}

/// A peer that says anything and leaves: each whole line gets one answer, in order, and it is the right one; a line without
/// its end, or one that is too long, gets an error and ends the conversation.
pub fn conversation(says: &[u8]) {
    let mut peer = Peer { says, hears: Vec::new() };
    let outcome = converse(&mut peer, &Echo);
    let mut answers = peer.hears.split_inclusive(|byte| *byte == b'\n').map(|answer| {
        assert!(answer.ends_with(b"\n") && answer.len() <= wire::REPLY_MAX);
        wire::decode::<Reply>(answer).expect("an answer is a reply")
    });
    let mut ended = true;
    for line in says.split_inclusive(|byte| *byte == b'\n') {
        let answer = answers.next().expect("an answer for each line");
        ended = line.ends_with(b"\n") && line.len() <= wire::REQUEST_MAX;
        match (ended.then(|| wire::decode::<Ask>(line)), answer) {
            (Some(Ok(Ask::Message { words })), Reply::Message { text, ok: true }) => {
                assert_eq!(text, words.join(" "))
            }
            (Some(Ok(Ask::Message { .. })), other) => panic!("a message was answered with {other:?}"),
            (_, Reply::Error { text }) => assert!(!text.is_empty()),
            (_, other) => panic!("nonsense was answered with {other:?}"),
        }
        if !ended {
            break;
        }
    }
    assert!(answers.next().is_none(), "no answer without a line");
    assert_eq!(outcome.is_ok(), ended, "{outcome:?}");
}

/// A metadata dump, as `metadata restore` reads it: what is accepted is written again in the same words, and is a volume.
pub fn dump(text: &str) {
    let Ok(dump) = Dump::parse(text) else { return };
    let json = dump.to_json().expect("a dump has a JSON form");
    assert_eq!(Dump::parse(&json).expect("our own words"), dump);
    let Ok((superblock, entries)) = dump.volume() else { return };
    // Restoring holds the sizes against the devices before it goes on.
    let real = superblock.spares.iter().fold(0_u64, |sum, spare| sum.saturating_add(spare.size)) <= 1 << 30;
    let Some(fresh) = real.then(|| Recovered::fresh(superblock, &entries).ok()).flatten() else { return };
    let (again, _) = Dump::of(&fresh).volume().expect("what was believed");
    assert_eq!((again.main, again.spares), (fresh.superblock.main, fresh.superblock.spares));
}

/// A volume in service on real files, that messages are sent to.
pub struct Served {
    service: Service,
}

impl Served {
    /// Opens the volume of these spares.
    ///
    /// # Panics
    /// It cannot be served.
    #[must_use]
    pub fn open(main: &Path, spares: &[String]) -> Self {
        let mut opener = Opener::auto();
        let main = opener.whole(main, Access::Write).expect("a file");
        let spares: Vec<SpareArg> = spares.iter().map(SpareArg::whole).collect();
        let spares = opener.spares(&spares, Access::Write).expect("files");
        let options = OpenOptions { force_identity: true, ..OpenOptions::default() };
        let (volume, _) = Volume::open(main, spares, options).expect("a whole volume");
        Self { service: Service::of(volume, opener, Duration::from_secs(30)) }
    }

    /// A message: it is answered with one line that says whether it was done; what was done can be seen, and what only asks
    /// changes nothing. Messages that open files are left out: no input may choose paths.
    pub fn message(&self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let command = words.first().unwrap_or(&"").to_ascii_lowercase();
        if matches!(command.as_str(), "add-spare" | "migrate") {
            return;
        }
        let before = self.entries();
        let (reply, ok) = message::answer(&self.service, &[text.to_owned()]);
        assert!(!reply.is_empty() && reply.len() < 4096 + 2 * text.len());
        let failed = ["error:", "Usage:", "restore failed", "sync failed", "metadata save failed"];
        assert_eq!(ok, !failed.iter().any(|word| reply.starts_with(word)), "{text:?}: {reply:?}");
        let after = self.entries();
        let remapped: Option<Extent> = match words.as_slice() {
            [_, sectors] if command == "remap" && ok => parse_sectors(sectors).ok(),
            _ => None,
        };
        if let Some(extent) = remapped {
            let per_block = u64::from(self.service.volume.superblock().block_sectors());
            for block in extent.start().0 / per_block..=(extent.end().0 - 1) / per_block {
                let is = |e: &Entry| e.state == EntryState::Remapped && e.block <= block && block < e.end();
                assert!(after.iter().any(is), "{text:?}: {reply:?}, and block {block} is not remapped");
            }
        } else if command == "clear" && ok && words.len() == 1 {
            assert_eq!(after, [], "{reply:?}");
        } else if !matches!(command.as_str(), "remap" | "test_remap" | "verify" | "clear" | "retire-spare") {
            assert_eq!(after, before, "{text:?} changed the table: {reply:?}");
        }
        self.ask();
    }

    fn entries(&self) -> Vec<Entry> {
        self.service.volume.entries().expect("in service")
    }

    /// What clients ask for otherwise: status and table are lines that a client understands.
    fn ask(&self) {
        for ask in [Ask::Status, Ask::Entries] {
            let mut send = |reply: Reply| {
                line(&wire::encode(&reply)?);
                Ok(())
            };
            self.service.answer(ask, &mut send).expect("in service");
        }
    }

    /// Stops it; what was done is what is on the spares.
    pub fn stop(self) {
        let entries = self.entries();
        let spares: Vec<_> = self.service.volume.spares().into_iter().map(|(_, device)| device).collect();
        self.service.volume.stop();
        self.service.volume.settle().expect("files are flushed");
        let found = examine(&spares, true).expect("a volume that was in service");
        assert!(found.table.iter().eq(entries), "the spares say something else than the replies did");
    }
}
