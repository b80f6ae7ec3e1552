//! Transcripts: what goes into the engine and what comes out, one behaviour a file, readable without the source.
//!
//! A line that begins with `>` is an input; the lines below it, indented, are all that the engine answers. The runner feeds
//! the inputs and compares; `BLESS=1 cargo test -p remap-core --test transcripts` writes what really came out: read the
//! difference before you commit it. Other lines are comments.
//!
//! Inputs: `volume policy=P blocks=N slots=N spares=N logical=BYTES budget=N max-remaps=N lost=B+N scattered=N` (from the start blocks
//! B+N are lost, and N blocks here and there: 84 entries are all that there is room for; with `bare` it is not made yet), `read S+N`, `write S+N [fua]`, `zeroes S+N`,
//! `discard S+N`, `flush`, `remap S+N`, `clear S+N`, `verify S+N [all]`, `save`, `release`, `add-spare BYTES [copies]`,
//! `retire-spare N`, `suspend`, `resume`, `ok N...|last` (complete operations by number), `ok all` (everything that is out, again and
//! again, until nothing is), `ok all but N...`, `fail N|last FAULT`, `report DEVICE FAULT` (from the fast lane), `time MS`, `due`
//! (when time is to be told next), `table`, `counters`.

use std::fmt::Write as _;
use std::path::Path;

use remap_core::engine::{Command, CommandId, Engine, EngineConfig, Event};
use remap_core::op::{Buffer, DeviceId, Fault, Op, OpId, OpKind, Request, RequestId, RequestKind};
use remap_core::recovery::{Recovered, shape_of};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{joining_spare, plan};
use remap_format::{
    Cause, CopyRole, Entry, EntryFlags, EntryState, MainIdentity, NO_SLOT, Policy, Record, RecordHeader,
    Superblock, SuperblockFlags,
};

const SPARE_SIZE: u64 = 1 << 20;

struct Run {
    engine: Option<Engine>,
    now: Now,
    /// Operations that are out: the number shown, and the engine's id.
    out: Vec<(u64, OpId)>,
    shown: u64,
    requests: u64,
    text: String,
}

fn extent(word: &str) -> Extent {
    let (start, len) = word.split_once('+').unwrap_or((word, "1"));
    Extent::new(Sector(start.parse().expect("start")), len.parse().expect("length")).expect("not empty")
}

fn fault(word: &str) -> Fault {
    match word {
        "medium" => Fault::Medium,
        "unknown" => Fault::Unknown,
        "transport" => Fault::Transport,
        "timeout" => Fault::Timeout,
        "gone" => Fault::Gone,
        "no-space" => Fault::NoSpace,
        "unsupported" => Fault::Unsupported,
        "no-memory" => Fault::NoMemory,
        "protection" => Fault::Protection,
        other => panic!("no fault {other}"),
    }
}

fn device(word: &str) -> DeviceId {
    word.strip_prefix("spare").map_or(DeviceId::Main, |n| DeviceId::Spare(n.parse().expect("a number")))
}

/// A run of blocks without contents, as a list of bad sectors brings them.
fn lost(word: &str) -> Entry {
    let blocks = extent(word);
    Entry {
        block: blocks.start().0,
        count: u32::try_from(blocks.sectors()).expect("few"),
        slot: NO_SLOT,
        lost: 0xff,
        state: EntryState::Pending,
        cause: Cause::Imported,
        flags: EntryFlags::STALE,
        errors: 0,
        time: 1_700_000_000,
    }
}

impl Run {
    fn volume(&mut self, words: &[&str]) {
        let value = |key: &str| words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let number = |key: &str, default: u64| value(key).map_or(default, |v| v.parse().expect("number"));
        let given: Vec<_> = (0..number("spares", 1)).map(|n| ([2 + n as u8; 16], SPARE_SIZE)).collect();
        let shape = plan(&vec![SPARE_SIZE; given.len()], 4096).expect("1 MiB is enough");
        let slots = number("slots", SPARE_SIZE / 4096);
        let main = MainIdentity {
            size: number("blocks", 1024) * 4096,
            logical_block: number("logical", 512) as u32,
            ..Default::default()
        };
        let mut superblock = Superblock::new([1; 16], "transcript", 4096, &shape, &given, main);
        superblock.spares.iter_mut().for_each(|spare| spare.slots = slots);
        if value("policy") == Some("remap-only") {
            superblock.policy = Policy::RemapOnly;
        }
        let scattered = (0..number("scattered", 0)).map(|n| lost(&format!("{}", 500 + 2 * n)));
        let entries: Vec<Entry> = value("lost").map(lost).into_iter().chain(scattered).collect();
        let recovered = Recovered::fresh(superblock, &entries).expect("fresh");
        let standard = EngineConfig::default();
        let config = EngineConfig {
            breaker_budget: number("budget", standard.breaker_budget.into()) as u32,
            max_remaps: value("max-remaps").map(|max| max.parse().expect("number")),
            ..standard
        };
        self.engine = Some(Engine::start(recovered, config, self.now).expect("memory"));
        let before = self.text.len();
        self.drain();
        if words.contains(&"bare") {
            return;
        }
        self.complete_all(&[]);
        // The first checkpoint is not what a transcript is about.
        self.text.truncate(before);
        self.shown = 0;
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("a transcript begins with a volume")
    }

    fn drain(&mut self) {
        loop {
            if let Some(op) = self.engine().poll_op() {
                self.shown += 1;
                self.out.push((self.shown, op.id));
                let line = show_op(self.shown, &op);
                writeln!(self.text, "    {line}").expect("text");
            } else if let Some(event) = self.engine().poll_event() {
                let line = show_event(&event);
                writeln!(self.text, "    {line}").expect("text");
            } else {
                return;
            }
        }
    }

    fn complete(&mut self, number: u64, outcome: Result<(), Fault>) {
        let at = self
            .out
            .iter()
            .position(|(n, _)| *n == number)
            .unwrap_or_else(|| panic!("operation {number} is not out"));
        let (_, id) = self.out.remove(at);
        let now = self.now;
        self.engine().handle_completion(now, id, outcome);
        self.drain();
    }

    fn complete_all(&mut self, but: &[u64]) {
        while let Some((number, _)) = self.out.iter().find(|(n, _)| !but.contains(n)).copied() {
            self.complete(number, Ok(()));
        }
    }

    fn submit(&mut self, kind: RequestKind, extent: Extent) {
        self.requests += 1;
        let (id, now) = (RequestId(self.requests), self.now);
        if let Err(error) = self.engine().submit(now, Request { id, kind, extent }) {
            writeln!(self.text, "    refused: {error}").expect("text");
        }
        self.drain();
    }

    fn command(&mut self, command: Command) {
        self.requests += 1;
        let (id, now) = (CommandId(self.requests), self.now);
        self.engine().command(now, id, command).expect("taken");
        self.drain();
    }

    fn add_spare(&mut self, bytes: &str, copies: bool) {
        let bytes = bytes.parse().expect("bytes");
        let volume = self.engine().volume();
        let (shape, spare) = (shape_of(volume), self.engine().next_spare().expect("a number"));
        let record = joining_spare([3 + spare; 16], bytes, spare, &shape, 4096).expect("large enough");
        self.command(Command::AddSpare { spare, record, copies });
    }

    fn input(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers =
            |from: usize| words[from..].iter().map(|w| w.parse().expect("a number")).collect::<Vec<u64>>();
        match words.as_slice() {
            ["volume", rest @ ..] => self.volume(rest),
            ["read", at] => self.submit(RequestKind::Read, extent(at)),
            ["write", at, rest @ ..] => self.submit(RequestKind::Write { fua: rest == ["fua"] }, extent(at)),
            ["zeroes", at] => {
                self.submit(RequestKind::WriteZeroes { fua: false, may_unmap: false }, extent(at))
            }
            ["discard", at] => self.submit(RequestKind::Discard, extent(at)),
            ["flush"] => self.submit(RequestKind::Flush, extent("0")),
            ["remap", at] => self.command(Command::Remap(extent(at), Cause::Manual)),
            ["clear", at] => self.command(Command::Clear(extent(at))),
            ["verify", at, rest @ ..] => {
                self.command(Command::Verify { extent: extent(at), all: rest == ["all"] });
            }
            ["save"] => self.command(Command::Save),
            ["release"] => self.command(Command::Release),
            ["add-spare", bytes, rest @ ..] => self.add_spare(bytes, rest == ["copies"]),
            ["retire-spare", n] => self.command(Command::RetireSpare { spare: n.parse().expect("a number") }),
            ["suspend"] => self.command(Command::Suspend),
            ["resume"] => self.command(Command::Resume),
            ["ok", "all", "but", ..] => self.complete_all(&numbers(3)),
            ["ok", "all"] => self.complete_all(&[]),
            ["ok", "last"] => {
                let (number, _) = *self.out.last().expect("an operation is out");
                self.complete(number, Ok(()));
            }
            ["ok", ..] => numbers(1).into_iter().for_each(|n| self.complete(n, Ok(()))),
            ["fail", "last", word] => {
                let (number, _) = *self.out.last().expect("an operation is out");
                self.complete(number, Err(fault(word)));
            }
            ["fail", number, word] => self.complete(number.parse().expect("a number"), Err(fault(word))),
            ["report", at, word] => {
                let now = self.now;
                self.engine().report(now, device(at), fault(word));
                self.drain();
            }
            ["due"] => {
                let due = self.engine().poll_timeout().map(|ns| format!("{} ms", ns / 1_000_000));
                writeln!(self.text, "    {}", due.unwrap_or("never".into())).expect("text");
            }
            ["counters"] => {
                let counters = self.engine().counters();
                writeln!(self.text, "    {counters:?}").expect("text");
            }
            ["time", ms] => {
                self.now.mono_ns += ms.parse::<u64>().expect("milliseconds") * 1_000_000;
                let now = self.now;
                self.engine().handle_timeout(now);
                self.drain();
            }
            ["table"] => {
                let engine = self.engine();
                let mut lines: Vec<String> = engine.table().iter().map(|entry| show_entry(&entry)).collect();
                lines.push(show_state(engine));
                lines.iter().for_each(|line| writeln!(self.text, "    {line}").expect("text"));
            }
            other => panic!("not an input: {other:?}"),
        }
    }
}

fn show_buffer(buffer: &Buffer) -> String {
    match buffer {
        Buffer::Request { id, offset } => format!("request {} +{offset}", id.0),
        Buffer::Bounce { index, offset } => format!("bounce {index} +{offset}"),
        Buffer::Owned(bytes) => format!("{} bytes: {}", bytes.len(), show_metadata(bytes)),
    }
}

fn show_metadata(bytes: &[u8]) -> String {
    if let Some(RecordHeader { checkpoint, generation, position, .. }) = Record::claimed(bytes) {
        return format!("record {generation} at page {position} behind checkpoint {checkpoint}");
    }
    let Ok(superblock) = Superblock::decode(&bytes[..4096]) else {
        return if bytes.starts_with(b"CKPT") { "table" } else { "zeroes" }.to_string();
    };
    let Superblock { generation, area, entries, spare_index, flags, .. } = superblock;
    let flag = |flag, word| if flags.has(flag) { word } else { "" };
    let marks =
        [flag(SuperblockFlags::FENCED, ", fenced"), flag(SuperblockFlags::RELEASED, ", released")].concat();
    match superblock.role {
        CopyRole::Label => format!("label of spare {spare_index}{marks}"),
        CopyRole::Copy(copy) => {
            format!(
                "superblock of copy {copy}, checkpoint {generation} in area {area}, {entries} entries{marks}"
            )
        }
    }
}

fn show_op(number: u64, op: &Op) -> String {
    let device = match op.device {
        DeviceId::Main => "main".to_string(),
        DeviceId::Spare(n) => format!("spare{n}"),
    };
    let at = op.extent;
    let fua = |fua: bool| if fua { " fua" } else { "" };
    match &op.kind {
        OpKind::Grace => format!("{number}: grace {at}"),
        OpKind::Flush => format!("{number}: {device} flush"),
        OpKind::Read(into) => format!("{number}: {device} read {at} into {}", show_buffer(into)),
        OpKind::Write { from, fua: f } => {
            format!("{number}: {device} write{} {at} from {}", fua(*f), show_buffer(from))
        }
        OpKind::WriteZeroes { fua: f, .. } => format!("{number}: {device} write zeroes{} {at}", fua(*f)),
        OpKind::Discard => format!("{number}: {device} discard {at}"),
    }
}

fn show_event(event: &Event) -> String {
    match event {
        Event::RequestDone { id, result: Ok(()), .. } => format!("request {}: done", id.0),
        Event::RequestDone { id, result: Err(error), bad } => {
            format!("request {}: {error:?}, bad {bad:?}", id.0)
        }
        Event::CommandDone { id, outcome } => {
            format!(
                "command {}: {} blocks, {} done, {} already, {} failed, {} sectors lost",
                id.0, outcome.blocks, outcome.done, outcome.already, outcome.failed, outcome.lost_sectors
            )
        }
        Event::Notice(notice) => format!("{notice:?}"),
    }
}

fn show_state(engine: &Engine) -> String {
    let retired: u32 = engine.retired().iter().map(|entry| entry.count).sum();
    let copies = engine.copies_in_step().map(|in_step| if in_step { "+" } else { "-" }).concat();
    format!(
        "state {}{}{}, {} slots free, {retired} retired, generation {}, copies {copies}",
        engine.state().word(),
        if engine.is_live() { "" } else { ", not live" },
        if engine.is_idle() { "" } else { ", busy" },
        engine.slots(None).free,
        engine.generation(),
    )
}

fn show_entry(entry: &Entry) -> String {
    let place = match entry.state {
        EntryState::Remapped => format!("at slot {}", entry.slot),
        _ => "pending".to_string(),
    };
    let (Entry { block, count, lost, errors, .. }, cause) = (entry, entry.cause.word());
    format!("block {block}+{count} {place}, lost {lost:#b}, {cause}, {errors} errors")
}

fn replay(input: &str) -> String {
    let mut run = Run {
        engine: None,
        now: Now { mono_ns: 0, unix_s: 1_700_000_000 },
        out: Vec::new(),
        shown: 0,
        requests: 0,
        text: String::new(),
    };
    for line in input.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(run.text, "{line}").expect("text");
            run.input(command);
        } else if !line.starts_with("    ") {
            writeln!(run.text, "{line}").expect("text");
        }
    }
    run.text
}

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "the transcripts are there");
    let mut failed = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).expect("text");
        let happened = replay(&expected);
        if happened == expected {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, happened).expect("write");
        } else {
            let different = expected.lines().zip(happened.lines()).position(|(a, b)| a != b);
            failed.push(format!("{}, line {}:\n{happened}", path.display(), different.unwrap_or(0) + 1));
        }
    }
    assert!(failed.is_empty(), "what happened is not what the transcript says:\n{}", failed.join("\n"));
}
